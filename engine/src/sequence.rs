//! One generation: its tokens, what of them is in the KV cache, and how it becomes text and ends.
//!
//! There is no prefill state and no decode state. A sequence has pending tokens, which are not in the KV cache yet:
//! many of them is prefill, one is decoding, and a preempted sequence simply has many again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc::UnboundedSender;

use crate::{
    error::EngineError,
    healing::Healing,
    kv_cache::CachedSequence,
    model::Row,
    request::{Event, Finish, FinishReason, GeneratedToken, Prompt, Request, Timings, Usage},
    sampler::{PickedToken, Sampler},
    speculative::{
        Speculator,
        drafter::DrafterKind,
        network::DraftTask,
        policy::{StepCosts, StepLoad},
    },
    stop::StopStrings,
    tokenizer::{Tokenizer, Utf8Stream},
};

/// Bytes of text in a token, no fewer than most have.
const TEXT_BYTES: usize = 4;

/// Where a sequence's events go, and how its reader calls it off.
pub(crate) struct Output {
    pub(crate) events: UnboundedSender<Event>,
    pub(crate) is_cancelled: Arc<AtomicBool>,
}

pub(crate) struct Sequence {
    /// The prompt and what was generated.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_len: usize,
    /// What tells it from the others of its engine.
    pub(crate) number: u64,
    /// Whether somebody waits for it at each key: it fills a hole at the cursor.
    pub(crate) is_urgent: bool,
    /// Length of `tokens` at which the generation ends.
    max_len: usize,
    context_length: usize,
    /// Blocks and committed tokens; empty while waiting.
    pub(crate) cached: CachedSequence,
    /// Pending tokens to run in this step.
    pub(crate) n_step_tokens: usize,
    pub(crate) sampler: Sampler,
    pub(crate) speculator: Speculator,
    stop_tokens: Vec<u32>,
    stop_strings: StopStrings,
    tokenizer: Arc<Tokenizer>,
    utf8: Utf8Stream,
    /// Bytes of the answer that repeat what healing took from the prompt, and are not told.
    n_untold: usize,
    /// Whole characters of the token at hand, kept for its memory.
    piece: String,
    /// Bytes of the answer so far, with those held back for a stop string.
    text_len: usize,
    step_text: String,
    step_tokens: Vec<GeneratedToken>,
    output: Output,
    /// Set when the generation is over.
    outcome: Option<Result<FinishReason, EngineError>>,
    reused_tokens: usize,
    /// What a network has taken to draft for it, and to take in what it runs.
    pub(crate) network_seconds: f64,
    arrived: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
}

impl Sequence {
    /// Lays out a generation of `request` over `prompt`, which must not be empty and be shorter than
    /// `context_length`.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] for sampling parameters out of range.
    pub(crate) fn new(
        request: &Request,
        prompt: Vec<u32>,
        stop_tokens: Vec<u32>,
        stop_strings: &[String],
        context_length: usize,
        tokenizer: Arc<Tokenizer>,
        output: Output,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            prompt_len: prompt.len(),
            number: 0,
            is_urgent: matches!(request.prompt, Prompt::Fim(_)),
            max_len: context_length.min(prompt.len().saturating_add(request.stop.max_tokens)),
            context_length,
            tokens: prompt,
            cached: CachedSequence::default(),
            n_step_tokens: 0,
            sampler: Sampler::new(&request.sampling)?,
            speculator: Speculator::new(request.speculation),
            stop_tokens,
            stop_strings: StopStrings::new(stop_strings),
            tokenizer,
            utf8: Utf8Stream::default(),
            n_untold: 0,
            piece: String::new(),
            text_len: 0,
            step_text: String::new(),
            step_tokens: Vec::new(),
            output,
            outcome: None,
            reused_tokens: 0,
            network_seconds: 0.0,
            arrived: Instant::now(),
            started: None,
            first_token: None,
        })
    }

    /// Begins the answer with what was taken from the end of the prompt, untold.
    pub(crate) fn heal(&mut self, healing: Healing) {
        self.n_untold = healing.len();
        self.sampler.heal(healing, Arc::clone(&self.tokenizer));
    }

    /// Tells the reader that the generation begins, if it has not begun before.
    pub(crate) fn start(&mut self) {
        if self.started.is_some() {
            return;
        }
        self.started = Some(Instant::now());
        self.reused_tokens = self.cached.len();
        self.send(Event::Started {
            prompt_tokens: self.prompt_len,
            reused_tokens: self.reused_tokens,
        });
    }

    /// Tokens that are not in the KV cache yet.
    pub(crate) fn n_pending(&self) -> usize {
        self.tokens.len() - self.cached.len()
    }

    /// Whether the step reaches the end of the sequence, so that it gives new tokens.
    pub(crate) fn reaches_end(&self) -> bool {
        self.n_step_tokens == self.n_pending()
    }

    /// Rows of the sequence in this step.
    pub(crate) fn n_step_rows(&self) -> usize {
        self.n_step_tokens + self.speculator.proposed().len()
    }

    /// Rows of the sequence in this step whose logits are wanted.
    pub(crate) fn n_wanted_rows(&self) -> usize {
        if self.reaches_end() {
            1 + self.speculator.proposed().len()
        } else {
            0
        }
    }

    /// Tokens that a draft may have in this step: none unless the sequence is decoding.
    fn draft_room(&self) -> usize {
        if self.n_pending() > 1 || self.tokens.len() == self.prompt_len {
            return 0;
        }
        // A draft of n tokens can give n + 1.
        (self.max_len - self.tokens.len()).saturating_sub(1)
    }

    /// Looks up a draft for this step, and returns the step's load with it.
    pub(crate) fn look_up_draft(&mut self, load: StepLoad, costs: &StepCosts) -> StepLoad {
        let room = self.draft_room();
        self.speculator.look_up(&self.tokens, room, load, costs)
    }

    /// Whether a network should draft for this step, which would take it `draft_seconds`.
    pub(crate) fn wants_network(&mut self, load: StepLoad, costs: &StepCosts, draft_seconds: f64) -> bool {
        let room = self.draft_room();
        self.speculator.wants_network(room, load, costs, draft_seconds)
    }

    /// What the network is to draft.
    pub(crate) fn network_task(&mut self) -> Option<DraftTask<'_>> {
        let room = self.draft_room();
        self.speculator.network_task(self.number, &self.tokens, room)
    }

    /// Appends the step's rows.
    pub(crate) fn push_rows(&self, sequence_idx: usize, rows: &mut Vec<Row>) {
        let start = self.cached.len();
        let pending = &self.tokens[start..start + self.n_step_tokens];
        let first_wanted = self.n_step_rows() - self.n_wanted_rows();
        rows.extend(pending.iter().enumerate().map(|(idx, &token)| {
            let wants_logits = first_wanted <= idx;
            Row::chain(token, start + idx, sequence_idx, wants_logits)
        }));
        let draft = self.speculator.proposed();
        draft.push_rows(start + self.n_step_tokens, sequence_idx, rows);
    }

    /// Takes the logits of the step's wanted rows, `(n_wanted_rows, vocab)`, and leaves in `kept` the nodes of the draft that were
    /// kept: a path from the root down. `forward` is how long the pass took.
    pub(crate) fn advance(&mut self, logits: &[f32], forward: Duration, kept: &mut Vec<usize>) {
        kept.clear();
        if !self.reaches_end() {
            return;
        }
        if self.tokens.len() == self.max_len {
            // Nothing was to be generated: the prompt is in the cache, which is all that was asked for.
            self.outcome = Some(Ok(FinishReason::Length));
            return;
        }
        let is_first = self.first_token.is_none();
        if is_first {
            self.first_token = Some(Instant::now());
        }
        let stats = &mut self.speculator.stats;
        if !is_first {
            stats.steps += 1;
            stats.verify_nanos += forward.as_nanos() as u64;
        }
        if let Err(error) = self.verify(logits, kept) {
            self.fail(error);
            kept.clear();
        }
        if is_first {
            self.speculator.stats.emitted = 0;
        }
        self.flush();
    }

    /// Takes memory for an event of at most `n_tokens` tokens at once.
    pub(crate) fn make_room_for(&mut self, n_tokens: usize) {
        self.step_tokens.reserve(n_tokens);
        self.step_text.reserve(n_tokens * TEXT_BYTES);
    }

    /// Takes in one token of the answer; returns whether the generation goes on.
    pub(crate) fn emit(&mut self, picked: PickedToken, drafter: Option<DrafterKind>) -> bool {
        if self.stop_tokens.contains(&picked.id) {
            self.outcome = Some(Ok(FinishReason::StopToken(picked.id)));
            return false;
        }
        self.tokens.push(picked.id);
        self.piece.clear();
        let bytes = self.tokenizer.token_bytes(picked.id);
        let (untold, told) = bytes.split_at(self.n_untold.min(bytes.len()));
        self.n_untold -= untold.len();
        if told.is_empty() && !untold.is_empty() {
            // A token that tells nothing is none of those that were asked for.
            self.max_len = self.context_length.min(self.max_len + 1);
        }
        self.utf8.push(told, &mut self.piece);
        self.text_len += self.piece.len();
        self.step_tokens.push(GeneratedToken {
            id: picked.id,
            logprob: picked.logprob,
            text_end: self.text_len,
            drafter,
        });
        if let Some(string) = self.stop_strings.push(&self.piece, &mut self.step_text) {
            self.outcome = Some(Ok(FinishReason::StopString(string.to_owned())));
            return false;
        }
        if self.tokens.len() == self.max_len {
            self.outcome = Some(Ok(FinishReason::Length));
        }
        self.outcome.is_none()
    }

    /// Ends the generation if its reader called it off or went away.
    pub(crate) fn notice_cancellation(&mut self) {
        let is_cancelled = self.output.is_cancelled.load(Ordering::Relaxed) || self.output.events.is_closed();
        if is_cancelled && self.outcome.is_none() {
            self.cancel();
        }
    }

    pub(crate) fn cancel(&mut self) {
        self.outcome = Some(Ok(FinishReason::Cancelled));
    }

    pub(crate) fn fail(&mut self, error: EngineError) {
        self.outcome = Some(Err(error));
    }

    /// Where the scores were no numbers, fails with what `require_numbers` says of the weights instead, if it says anything.
    pub(crate) fn explain_failure(&mut self, require_numbers: impl FnOnce() -> Result<(), EngineError>) {
        if let Some(Err(error @ EngineError::BadLogits { .. })) = &mut self.outcome
            && let Err(cause) = require_numbers()
        {
            *error = cause;
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.outcome.is_some()
    }

    /// Sends the last events of a generation that is over.
    pub(crate) fn report(mut self) {
        let reason = match self.outcome.take() {
            None => return,
            Some(Err(error)) => return self.send(Event::Failed(error)),
            Some(Ok(reason)) => reason,
        };
        self.release_rest(&reason);
        self.flush();
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let first_token = self.first_token.unwrap_or(now);
        let finish = Finish {
            reason,
            usage: Usage {
                prompt_tokens: self.prompt_len,
                reused_tokens: self.reused_tokens,
                generated_tokens: self.tokens.len() - self.prompt_len,
            },
            timings: Timings {
                queued: started - self.arrived,
                time_to_first_token: first_token - self.arrived,
                prefill: first_token - started,
                decode: now - first_token,
            },
            speculation: self.speculator.stats,
        };
        self.send(Event::Finished(Box::new(finish)));
    }

    /// Releases the text that was held back for a stop string that did not come.
    fn release_rest(&mut self, reason: &FinishReason) {
        self.stop_strings.finish(&mut self.step_text);
        if let FinishReason::StopToken(_) = reason {
            // The model is done, so it did write an incomplete character. Cut short, it might have completed it.
            self.utf8.finish(&mut self.step_text);
        }
    }

    fn flush(&mut self) {
        if self.step_text.is_empty() && self.step_tokens.is_empty() {
            return;
        }
        let text = std::mem::take(&mut self.step_text);
        let tokens = std::mem::take(&mut self.step_tokens);
        self.send(Event::Text { text, tokens });
    }

    fn send(&self, event: Event) {
        // A reader that went away is noticed before the next step.
        let _ = self.output.events.send(event);
    }
}
