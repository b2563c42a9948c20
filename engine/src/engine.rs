//! The handle to the engine thread: hand in a [`Request`], read a [`Generation`].

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle},
};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::{
    answer::{AnswerFormat, AnswerParser},
    chat_template::{ChatTemplate, Value},
    copy::{CopyPredictor, CopySource, Origin},
    engine_loop::{Command, EngineLoop},
    error::EngineError,
    fim::{FimConversation, FimTemplate},
    grammar::GrammarCompiler,
    healing::Healing,
    kv_cache::{CacheType, KvCache},
    memory::KvRoom,
    model::Model,
    request::{CopyMixing, Event, Finish, GeneratedToken, Prompt, Request},
    rewrite::RewriteTemplate,
    scheduler::StepLimits,
    sequence::{Output, Sequence},
    speculative::{
        eagle3::TreeShape,
        edit::EditDraft,
        network::NetworkDrafter,
        prompt_lookup::PromptLookup,
        references::{ReferenceLookup, References},
    },
    tokenizer::{LineCounts, Tokenizer},
    weights::{GgmlType, WeightSource},
};

mod load;

pub use load::LoadProgress;
pub(crate) use load::{ModelFiles, n_threads};

/// How an engine runs, whatever its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Name of the model for people and APIs; empty for its architecture.
    pub model_name: String,
    /// Threads that run the model; `None` for one on each physical core, or all but one of more than four. Only for [`Engine::load`].
    pub threads: Option<usize>,
    /// Most positions of one sequence, prompt and answer together; `None` for what the model was trained for. Rotary embeddings
    /// with factors for short and for long contexts (Phi 3) take those that go with it.
    pub context_length: Option<usize>,
    /// Memory for keys and values, in bytes; `None` for [`DEFAULT_CONTEXTS`](crate::memory::DEFAULT_CONTEXTS) full contexts,
    /// but at most [`DEFAULT_KV_CACHE_BYTES`](crate::memory::DEFAULT_KV_CACHE_BYTES) and what memory has room for. It is taken
    /// from the system as it is used.
    pub kv_cache_bytes: Option<usize>,
    /// Number format of keys and values.
    pub kv_cache_type: CacheType,
    /// Most sequences that run at once; the others wait, holes at a cursor in front, and each kind in order of arrival.
    pub max_running: usize,
    /// How wide a step may be.
    pub step: StepLimits,
    /// A smaller model that drafts for this one, or an EAGLE-3 head made for it. Only for [`Engine::load`].
    pub draft_model: Option<WeightSource>,
    /// How the trees of an EAGLE-3 head grow. Only for [`Engine::load`].
    pub tree: TreeShape,
    /// Type to quantise large matrices of plain numbers to, one of [`quant::WRITABLE_TYPES`](crate::quant::WRITABLE_TYPES);
    /// `None` leaves them as they are. Only for [`Engine::load`].
    pub quantize: Option<GgmlType>,
    /// Memory that the model may take, in bytes; `None` for what the system has left. Only for [`Engine::load`].
    pub available_bytes: Option<usize>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            model_name: String::new(),
            threads: None,
            context_length: None,
            kv_cache_bytes: None,
            kv_cache_type: CacheType::F16,
            max_running: 32,
            step: StepLimits::default(),
            draft_model: None,
            tree: TreeShape::default(),
            quantize: None,
            available_bytes: None,
        }
    }
}

/// What a caller may want to know about the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Name of the model.
    pub model_name: String,
    /// Architecture as the model's file names it.
    pub architecture: String,
    /// Number of tokens in the vocabulary.
    pub vocab: usize,
    /// Most positions of one sequence, prompt and answer together: what the model was trained for, what the options
    /// allow or what the KV cache holds, whichever is least.
    pub context_length: usize,
    /// How [`Prompt::Fim`] works.
    pub fim: FimSupport,
    /// How [`Prompt::Rewrite`] works.
    pub rewrite: RewriteSupport,
    /// Whether [`CopyMixing::Auto`] mixes copying in.
    pub copies: bool,
    /// Bytes of one block of the KV cache.
    pub block_bytes: usize,
}

/// How a model fills in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FimSupport {
    /// By the tokens that it was trained with.
    Trained,
    /// As an answer to a request in words: slower, and worse than a model that was trained for it.
    Conversation,
    /// Not at all.
    None,
}

/// How a model rewrites code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RewriteSupport {
    /// By the tokens that it was trained with; it knows the instructions that it was trained on.
    Trained,
    /// As an answer in a conversation, whatever the instruction.
    Conversation,
    /// Not at all.
    None,
}

/// What the engine is doing, as of its last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStatus {
    /// Sequences that are being run.
    pub n_running: usize,
    /// Sequences that wait for their turn.
    pub n_waiting: usize,
    /// Forward passes for sequences since the engine started.
    pub n_steps: u64,
    /// Blocks of the KV cache.
    pub n_blocks: usize,
    /// Blocks that running sequences hold.
    pub n_held_blocks: usize,
    /// Blocks that hold anything: those of running sequences, and prefixes kept for later requests.
    pub n_used_blocks: usize,
    /// Tokens of prompts that the model reads in a second on this machine; `None` before that is measured.
    pub read_speed: Option<usize>,
}

/// A model that generates. Dropping it cancels what runs and waits for the end of the current step.
pub struct Engine {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
    tokenizer: Arc<Tokenizer>,
    line_counts: LineCounts,
    fim: Option<FimTemplate>,
    /// Where there is no such template.
    fim_conversation: Option<FimConversation>,
    rewrite: Result<RewriteTemplate, EngineError>,
    answers: AnswerFormat,
    /// Made for the first request that has a grammar.
    grammars: OnceLock<Result<GrammarCompiler, EngineError>>,
    info: EngineInfo,
    references: Arc<References>,
    status: Arc<Mutex<EngineStatus>>,
    stopped: Arc<OnceLock<String>>,
}

impl Engine {
    /// The engine as if the model's files had this chat template; for models that were not loaded from files.
    #[must_use]
    pub fn with_chat_template(mut self, chat: ChatTemplate) -> Self {
        self.follow(Ok(Some(Arc::new(chat))));
        self
    }

    /// Converses, fills in the middle and rewrites as the tokens of the model and this chat template allow.
    fn follow(&mut self, chat: Result<Option<Arc<ChatTemplate>>, EngineError>) {
        let template = chat.as_ref().ok().and_then(Option::as_ref);
        self.answers = AnswerFormat::new(template.map(Arc::as_ref), &self.tokenizer);
        if let (None, Some(template)) = (&self.fim, template) {
            self.fim_conversation = Some(FimConversation::new(Arc::clone(template), self.answers.clone()));
            self.info.fim = FimSupport::Conversation;
        }
        self.rewrite = RewriteTemplate::new(&self.tokenizer, chat, self.answers.clone());
        self.info.rewrite = match self.rewrite {
            Ok(RewriteTemplate::Tokens(_)) => RewriteSupport::Trained,
            Ok(RewriteTemplate::Conversation { .. }) => RewriteSupport::Conversation,
            Err(_) => RewriteSupport::None,
        };
    }

    /// Starts a thread that runs `model`. The thread sleeps while there is nothing to do.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the system gives no thread, [`EngineError::BadRequest`] if it does not give the memory
    /// that the KV cache may take.
    pub fn start(
        model: Box<dyn Model>,
        tokenizer: Arc<Tokenizer>,
        fim: Option<FimTemplate>,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        Self::start_with_drafter(model, None, tokenizer, fim, options)
    }

    /// As [`start`](Self::start), with a network that drafts for all requests.
    ///
    /// # Errors
    /// As [`start`](Self::start), and those of [`Model::capture`] for what the drafter wants to read.
    pub fn start_with_drafter(
        mut model: Box<dyn Model>,
        drafter: Option<Box<dyn NetworkDrafter>>,
        tokenizer: Arc<Tokenizer>,
        fim: Option<FimTemplate>,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        if let Some(drafter) = &drafter {
            model.capture(drafter.captured_layers())?;
        }
        let config = model.config();
        let KvRoom {
            block_bytes,
            n_blocks,
            context_length,
            ..
        } = KvRoom::new(config, &options);
        // The engine thread takes this memory; here is where a refusal can still be reported.
        let n_bytes = n_blocks.saturating_mul(block_bytes);
        if Vec::<u8>::new().try_reserve_exact(n_bytes).is_err() {
            return Err(EngineError::BadRequest(format!(
                "the system does not give {n_bytes} bytes for keys and values; lower `engine.kv_cache_bytes` or \
                 `engine.context_length`"
            )));
        }
        let info = EngineInfo {
            model_name: Some(options.model_name)
                .filter(|it| !it.is_empty())
                .unwrap_or_else(|| config.architecture.clone()),
            architecture: config.architecture.clone(),
            vocab: config.vocab,
            context_length,
            fim: if fim.is_some() {
                FimSupport::Trained
            } else {
                FimSupport::None
            },
            rewrite: RewriteSupport::None,
            copies: false,
            block_bytes,
        };
        let (commands, receiver) = channel();
        let status = Arc::new(Mutex::new(EngineStatus::default()));
        let stopped = Arc::new(OnceLock::new());
        let thread = thread::Builder::new().name("engine".into()).spawn({
            let (status, stopped) = (Arc::clone(&status), Arc::clone(&stopped));
            move || {
                model.settle_threads();
                if let Some(drafter) = &drafter {
                    drafter.settle_threads();
                }
                let cache = KvCache::with_type(model.config(), n_blocks, options.kv_cache_type);
                let max_running = options.max_running.max(1);
                let mut engine_loop =
                    EngineLoop::new(model, drafter, cache, options.step, max_running, status);
                let outcome = catch_unwind(AssertUnwindSafe(|| engine_loop.run(&receiver)));
                let reason = match &outcome {
                    Ok(()) => Cow::Borrowed("it was shut down"),
                    Err(panic) => Cow::Owned(format!("it panicked: {}", panic_message(&**panic))),
                };
                // Said before the senders go: a reader whose channel closes early looks here for the reason.
                let _ = stopped.set(reason.into_owned());
            }
        });
        let thread = thread.map_err(|error| EngineError::Stopped(format!("no thread for it: {error}")))?;
        Ok(Self {
            commands,
            thread: Some(thread),
            answers: AnswerFormat::new(None, &tokenizer),
            grammars: OnceLock::new(),
            tokenizer,
            line_counts: LineCounts::default(),
            fim,
            fim_conversation: None,
            rewrite: Err(EngineError::BadRequest(
                "this model was not loaded from a file".to_owned(),
            )),
            info,
            references: Arc::default(),
            status,
            stopped,
        })
    }

    /// About the model.
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// What the engine is doing. Does not wait for the step in progress.
    pub fn status(&self) -> EngineStatus {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Text to tokens and back, as the model has it.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// How many tokens a text takes, or a few more: lines are measured one by one and remembered.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn count_tokens(&self, text: &str) -> Result<usize, EngineError> {
        self.line_counts.count(&self.tokenizer, text)
    }

    /// Makes `text` one that drafts of all requests may be drawn from, such as an open file, in place of the one that
    /// had this name. It changes how fast answers come, never what they say.
    ///
    /// # Errors
    /// As the tokenizer's.
    pub fn set_reference(&self, name: &str, text: &str) -> Result<(), EngineError> {
        self.references.set(name, &self.draft_tokens(text)?);
        Ok(())
    }

    /// Forgets the reference with this name.
    pub fn remove_reference(&self, name: &str) {
        self.references.remove(name);
    }

    /// The new region in an answer to a [`Prompt::Rewrite`], whose [tokens](Self::prompt_tokens) are `prompt`; `None` if the
    /// model only reasoned.
    pub fn rewritten(&self, prompt: &[u32], answer: &Answer) -> Option<String> {
        match &self.rewrite {
            Ok(template) => template.region(&self.tokenizer, prompt, answer),
            Err(_) => Some(answer.text.clone()),
        }
    }

    /// A parser that tells reasoning, text and calls apart in the answer to a conversation, whose tokens are `prompt`. Calls are
    /// looked for if there are `tools`, as OpenAI's API has them.
    pub fn answer_parser(&self, prompt: &[u32], tools: &[Value]) -> AnswerParser {
        self.answers.parser(&self.tokenizer, prompt, tools)
    }

    /// A text that copying may draw from beside the prompt; `None` if this model does not mix copying in. Worth keeping while
    /// the text stays as it is.
    pub fn copy_source(&self, text: String, origin: Origin) -> Option<Arc<CopySource>> {
        self.info.copies.then(|| {
            Arc::new(CopySource::new(
                Arc::clone(&self.tokenizer),
                self.info.vocab,
                text,
                origin,
            ))
        })
    }

    /// Tokens of a text that drafts may be made from: those that the model can read.
    fn draft_tokens(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let mut tokens = self.tokenizer.encode(text, false)?;
        tokens.retain(|&token| (token as usize) < self.info.vocab);
        Ok(tokens)
    }

    /// Tokens of a prompt, as the model will read them.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] for a prompt that is empty, holds a token outside the vocabulary, or asks for something
    /// that the model was not made for; [`EngineError::PromptTooLong`] if no room is left for an answer.
    pub fn prompt_tokens<'a>(&self, prompt: &'a Prompt) -> Result<Cow<'a, [u32]>, EngineError> {
        let tokens = match prompt {
            Prompt::Tokens(tokens) => Cow::Borrowed(tokens.as_slice()),
            Prompt::Text { text, parse_special } => {
                let mut tokens = self.tokenizer.encode(text, *parse_special)?;
                // A chat template may have written it.
                if let Some(bos) = self.tokenizer.bos().filter(|it| tokens.first() != Some(it)) {
                    tokens.insert(0, bos);
                }
                Cow::Owned(tokens)
            }
            Prompt::Fim(hole) => match (&self.fim, &self.fim_conversation) {
                (Some(template), _) => Cow::Owned(template.layout(&self.tokenizer, hole)?),
                (None, Some(conversation)) => Cow::Owned(conversation.layout(&self.tokenizer, hole)?),
                (None, None) => {
                    return Err(EngineError::BadRequest(format!(
                        "`{}` has neither tokens for filling in the middle nor a chat template; choose a code model",
                        self.info.model_name
                    )));
                }
            },
            Prompt::Rewrite(prompt) => {
                let template = self.rewrite.as_ref().map_err(Clone::clone)?;
                Cow::Owned(template.layout(&self.tokenizer, prompt)?)
            }
        };
        if tokens.is_empty() {
            return Err(EngineError::BadRequest("the prompt is empty".into()));
        }
        if let Some(token) = tokens.iter().find(|&&it| it as usize >= self.info.vocab) {
            return Err(EngineError::BadRequest(format!(
                "token {token} in the prompt, but the vocabulary has {}",
                self.info.vocab
            )));
        }
        if tokens.len() >= self.info.context_length {
            return Err(EngineError::PromptTooLong {
                prompt_tokens: tokens.len(),
                context_length: self.info.context_length,
            });
        }
        Ok(tokens)
    }

    /// Queues a request. Tokenises the prompt on the caller's thread, and does not wait for the engine.
    ///
    /// What is wrong with the request arrives as the generation's only event, [`Event::Failed`].
    pub fn generate(&self, request: Request) -> Generation {
        let (events, receiver) = unbounded_channel();
        let is_cancelled = Arc::new(AtomicBool::new(false));
        let output = Output {
            events: events.clone(),
            is_cancelled: Arc::clone(&is_cancelled),
        };
        match self.lay_out(&request, output) {
            // A thread that has ended drops the sequence; the generation sees the channel close.
            Ok(sequence) => drop(self.commands.send(Command::Generate(Box::new(sequence)))),
            // The receiver is in our hands, so this arrives.
            Err(error) => drop(events.send(Event::Failed(error))),
        }
        Generation {
            receiver,
            is_cancelled,
            stopped: Arc::clone(&self.stopped),
            is_over: false,
        }
    }

    fn grammars(&self) -> Result<&GrammarCompiler, EngineError> {
        let grammars = self
            .grammars
            .get_or_init(|| GrammarCompiler::new(&self.tokenizer));
        grammars.as_ref().map_err(Clone::clone)
    }

    fn lay_out(&self, request: &Request, output: Output) -> Result<Sequence, EngineError> {
        let mut prompt = self.prompt_tokens(&request.prompt)?.into_owned();
        let healing = match (&request.prompt, &self.fim, &self.fim_conversation) {
            (Prompt::Fim(_), Some(template), _) => {
                Healing::take(&self.tokenizer, &mut prompt, template.stop_tokens())
            }
            (Prompt::Fim(_), None, Some(conversation)) => {
                let borders: Vec<u32> = conversation.stop_tokens().collect();
                Healing::take(&self.tokenizer, &mut prompt, &borders)
            }
            _ => None,
        };
        let text = match (&request.prompt, &self.fim) {
            (Prompt::Fim(_), Some(template)) => template.in_reading_order(&prompt),
            _ => prompt.clone(),
        };
        let mut stop_tokens = request.stop.tokens.clone();
        if !request.stop.ignore_end_tokens {
            stop_tokens.extend(self.tokenizer.end_tokens());
            match (&request.prompt, &self.fim, &self.fim_conversation) {
                (Prompt::Fim(_), Some(template), _) => stop_tokens.extend(template.stop_tokens()),
                (Prompt::Fim(_), None, Some(conversation)) => stop_tokens.extend(conversation.stop_tokens()),
                _ => {}
            }
        }
        let mut stop_strings = request.stop.strings.clone();
        if let Prompt::Fim(hole) = &request.prompt {
            match &self.fim {
                Some(template) => stop_strings.extend(template.stop_strings(hole)),
                None => stop_strings.push(FimConversation::end(hole)),
            }
        }
        let copies = match request.sampling.copy {
            CopyMixing::Auto => self.info.copies && !matches!(request.prompt, Prompt::Rewrite(_)),
            CopyMixing::Off => false,
            CopyMixing::On => true,
        };
        let predictor = copies.then(|| {
            CopyPredictor::new(Arc::clone(&self.tokenizer), &prompt, self.fim.as_ref())
                .with_sources(request.copy_sources.clone())
        });
        let region = match &request.prompt {
            Prompt::Rewrite(prompt) => Some(&prompt.region),
            _ => None,
        };
        let original = request.original.as_ref().or(region).cloned();
        let prompt_len = prompt.len();
        let matcher = match &request.grammar {
            Some(_) if matches!(request.prompt, Prompt::Fim(_)) => {
                return Err(EngineError::BadRequest("a hole takes no grammar".into()));
            }
            Some(grammar) => Some(self.grammars()?.begin(grammar, stop_tokens.clone())?),
            None => None,
        };
        let mut sequence = Sequence::new(
            request,
            prompt,
            stop_tokens,
            &stop_strings,
            self.info.context_length,
            Arc::clone(&self.tokenizer),
            output,
        )?;
        if let Some(healing) = healing {
            sequence.heal(healing);
        }
        if let Some(matcher) = matcher {
            sequence.sampler.follow(matcher);
        }
        let speculator = &mut sequence.speculator;
        speculator.read(text);
        if let Some(original) = original {
            let tokenizer = Arc::clone(&self.tokenizer);
            speculator.add(EditDraft::new(tokenizer, self.info.vocab, &original, prompt_len));
        }
        match predictor {
            Some(predictor) => {
                sequence.sampler.mix_copy(predictor.clone());
                speculator.add(predictor);
            }
            None => speculator.add(PromptLookup::default()),
        }
        speculator.add(ReferenceLookup::new(Arc::clone(&self.references)));
        Ok(sequence)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Fails only if the thread has ended already.
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // Its panics are caught inside.
            let _ = thread.join();
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// The events of one request. Dropping it stops the generation at the next step and frees its blocks.
#[derive(Debug)]
pub struct Generation {
    receiver: UnboundedReceiver<Event>,
    is_cancelled: Arc<AtomicBool>,
    stopped: Arc<OnceLock<String>>,
    is_over: bool,
}

impl Generation {
    /// Waits for the next event; `None` after [`Event::Finished`] or [`Event::Failed`]. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        if self.is_over {
            return None;
        }
        let event = self.receiver.recv().await;
        Some(self.settle(event))
    }

    /// [`next`](Self::next) for threads that may block.
    ///
    /// # Panics
    /// Within an asynchronous runtime, as it would block it.
    pub fn blocking_next(&mut self) -> Option<Event> {
        if self.is_over {
            return None;
        }
        let event = self.receiver.blocking_recv();
        Some(self.settle(event))
    }

    /// Asks the generation to stop at the next step. Its last event is [`Event::Finished`], with the reason
    /// [`Cancelled`](crate::request::FinishReason::Cancelled) unless it was over before.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// The error of [`Event::Failed`].
    pub async fn collect(mut self) -> Result<Answer, EngineError> {
        let mut text = String::new();
        let mut tokens = Vec::new();
        while let Some(event) = self.next().await {
            if let Some(outcome) = gather(event, &mut text, &mut tokens) {
                return outcome.map(|finish| Answer { text, tokens, finish });
            }
        }
        Err(self.stop_error())
    }

    /// [`collect`](Self::collect) for threads that may block.
    ///
    /// # Errors
    /// The error of [`Event::Failed`].
    ///
    /// # Panics
    /// Within an asynchronous runtime, as it would block it.
    pub fn blocking_collect(mut self) -> Result<Answer, EngineError> {
        let mut text = String::new();
        let mut tokens = Vec::new();
        while let Some(event) = self.blocking_next() {
            if let Some(outcome) = gather(event, &mut text, &mut tokens) {
                return outcome.map(|finish| Answer { text, tokens, finish });
            }
        }
        Err(self.stop_error())
    }

    /// An engine that ended without a last event still gives one.
    fn settle(&mut self, event: Option<Event>) -> Event {
        let event = event.unwrap_or_else(|| Event::Failed(self.stop_error()));
        self.is_over = matches!(event, Event::Finished(_) | Event::Failed(_));
        event
    }

    fn stop_error(&self) -> EngineError {
        let reason = self.stopped.get().map_or("its thread has ended", String::as_str);
        EngineError::Stopped(reason.to_owned())
    }
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Its tokens, those of a stop string included.
    pub tokens: Vec<GeneratedToken>,
    /// How it ended, and what it cost.
    pub finish: Finish,
}

/// Adds an event to an answer; returns the outcome with the last one.
fn gather(
    event: Event,
    text: &mut String,
    tokens: &mut Vec<GeneratedToken>,
) -> Option<Result<Finish, EngineError>> {
    match event {
        Event::Started { .. } => None,
        Event::Text {
            text: new_text,
            tokens: new_tokens,
        } => {
            text.push_str(&new_text);
            tokens.extend(new_tokens);
            None
        }
        Event::Finished(finish) => Some(Ok(*finish)),
        Event::Failed(error) => Some(Err(error)),
    }
}
