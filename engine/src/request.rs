//! What goes into the engine and what comes out: plain data, no behaviour beyond defaults.

use std::{sync::Arc, time::Duration};

use crate::{copy::CopySource, error::EngineError, grammar::Grammar, speculative::drafter::DrafterKind};

/// One generation to run.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// What the model reads.
    pub prompt: Prompt,
    /// How the next token is picked.
    pub sampling: SamplingParams,
    /// When to end.
    pub stop: StopCondition,
    /// The form that the answer must have: no token is picked that breaks it, and the answer ends when it is whole, at the latest.
    /// `stop` may end it before that. Not for holes, which have the form of what is around them.
    pub grammar: Option<Grammar>,
    /// How drafts are made.
    pub speculation: Speculation,
    /// Text that the answer mostly repeats, such as the span that an edit rewrites: drafts follow it. The model does not
    /// read it, so the prompt should hold it too. For [`Prompt::Rewrite`] it is the region unless said otherwise.
    pub original: Option<String>,
    /// Texts beside the prompt that copying may draw from, the nearest first; made by
    /// [`Engine::copy_source`](crate::Engine::copy_source). They count only where copying is mixed in.
    pub copy_sources: Vec<Arc<CopySource>>,
}

/// What the model reads.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// Text, tokenised by the engine.
    Text {
        /// The text.
        text: String,
        /// Whether `<|...|>` in the text may become special tokens. Never true for a user's text.
        parse_special: bool,
    },
    /// Token ids, used as they are.
    Tokens(Vec<u32>),
    /// A hole to fill, laid out by the model's own FIM template.
    Fim(FimPrompt),
    /// Lines to rewrite, laid out by the model's own [`RewriteTemplate`](crate::rewrite::RewriteTemplate).
    Rewrite(RewritePrompt),
}

impl Default for Prompt {
    fn default() -> Self {
        Self::Tokens(Vec::new())
    }
}

/// A hole between `prefix` and `suffix`, and the files that help to fill it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FimPrompt {
    /// Text before the cursor.
    pub prefix: String,
    /// Text after the cursor.
    pub suffix: String,
    /// Path of the current file as the model should see it, relative to its repository.
    pub path: Option<String>,
    /// Name of the repository.
    pub repository: Option<String>,
    /// Context: excerpts of other files, the most useful last.
    pub files: Vec<ContextFile>,
}

/// Lines of code and what is to become of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RewritePrompt {
    /// What to do.
    pub task: RewriteTask,
    /// Whole lines, without the last line break.
    pub region: String,
    /// Path of the file as the model should see it, relative to its repository.
    pub path: Option<String>,
}

/// What is to be done with lines of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RewriteTask {
    /// What these words say.
    Instruction(String),
    /// What follows from changes that were just made elsewhere, oldest first; nothing, if nothing does.
    GoOn(Vec<LineChange>),
}

impl Default for RewriteTask {
    fn default() -> Self {
        Self::Instruction(String::new())
    }
}

/// Whole lines before and after a change, without the last line break.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LineChange {
    /// The lines as they were; empty if they are new.
    pub before: String,
    /// The lines as they are; empty if they are gone.
    pub after: String,
}

/// An excerpt of a file other than the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextFile {
    /// Path as the model should see it.
    pub path: String,
    /// The excerpt.
    pub text: String,
}

/// How the next token is picked from the logits.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy; otherwise the logits are divided by it.
    pub temperature: f32,
    /// Keep the `top_k` most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probability reaches `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less probable than `min_p` times the most probable one; 0 keeps all.
    pub min_p: f32,
    /// Logits of tokens already seen are divided (if positive) or multiplied (if negative) by it; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of every token already generated; 0 is off.
    pub presence_penalty: f32,
    /// Seed of the random numbers; the same seed gives the same text.
    pub seed: u64,
    /// Whether copying from the sequence is mixed with what the network says, before all of the above.
    pub copy: CopyMixing,
}

/// Whether the target is the network alone, or its mixture with what can be copied: [`copy`](crate::copy).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CopyMixing {
    /// The mixture if the model's file asks for it, as that of our small embedded model does: its metadata key
    /// `surmise.copy` is true. Never for [`Prompt::Rewrite`], where copying would undo what was asked for.
    #[default]
    Auto,
    /// The network alone.
    Off,
    /// The mixture.
    On,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            seed: 0,
            copy: CopyMixing::Auto,
        }
    }
}

/// When a generation ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopCondition {
    /// Most tokens to generate. With 0 the prompt is run and stays in the prefix cache, and nothing is generated.
    pub max_tokens: usize,
    /// Texts that end the generation; they are not part of the output, wherever the token borders fall. The first
    /// to be complete counts, and among several the longest. Empty ones are ignored.
    pub strings: Vec<String>,
    /// Token ids that end the generation, beside the model's own end tokens.
    pub tokens: Vec<u32>,
    /// Whether the model's own end tokens are ignored (benchmarks only).
    pub ignore_end_tokens: bool,
}

impl Default for StopCondition {
    fn default() -> Self {
        Self {
            max_tokens: 128,
            strings: Vec::new(),
            tokens: Vec::new(),
            ignore_end_tokens: false,
        }
    }
}

/// How drafts are made for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Speculation {
    /// Drafts where they pay; the draft length follows measured acceptance.
    #[default]
    Auto,
    /// One token per step.
    Off,
    /// Always ask for this many draft tokens, [`MAX_FIXED_DRAFT`](crate::speculative::MAX_FIXED_DRAFT) at most
    /// (experiments and tests).
    Fixed(usize),
    /// One drafter alone (experiments and tests).
    Only {
        /// The drafter.
        drafter: DrafterKind,
        /// As for [`Fixed`](Self::Fixed); follows measured acceptance if there is none.
        len: Option<usize>,
    },
}

impl Speculation {
    /// Whether this drafter may be used.
    pub(crate) fn allows(self, kind: DrafterKind) -> bool {
        match self {
            Self::Off => false,
            Self::Auto | Self::Fixed(_) => true,
            Self::Only { drafter, .. } => drafter == kind,
        }
    }

    /// Draft tokens to ask for, where that is not left to the policy.
    pub(crate) fn fixed_len(self) -> Option<usize> {
        match self {
            Self::Off => Some(0),
            Self::Auto => None,
            Self::Fixed(len) => Some(len),
            Self::Only { len, .. } => len,
        }
    }
}

/// What the engine reports while a request runs. After [`Event::Finished`] or [`Event::Failed`] none follow.
#[derive(Debug, Clone)]
pub enum Event {
    /// The prompt is laid out and admitted.
    Started {
        /// Tokens in the prompt.
        prompt_tokens: usize,
        /// Tokens of it whose keys and values were already in the cache.
        reused_tokens: usize,
    },
    /// Text that is final: whole characters, with no part of a stop string in it. Bytes that are no UTF-8 become
    /// U+FFFD; a character that `max_tokens` cut short is dropped.
    Text {
        /// The text; may be empty while a character or a possible stop string is incomplete.
        text: String,
        /// The tokens committed since the last event.
        tokens: Vec<GeneratedToken>,
    },
    /// The generation ended as it should.
    Finished(Box<Finish>),
    /// The generation could not go on.
    Failed(EngineError),
}

/// One token of the answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GeneratedToken {
    /// Token id.
    pub id: u32,
    /// Natural logarithm of the probability the target gave it, copying mixed in, before temperature and filters.
    pub logprob: f32,
    /// Byte of the answer at which its text ends. Text may come later than its token, or never: a stop string is held
    /// back until it is complete.
    pub text_end: usize,
    /// Who proposed it, if it was proposed and accepted.
    pub drafter: Option<DrafterKind>,
}

/// How a generation ended, and what it cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens in and out.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
    /// What the drafters did.
    pub speculation: SpeculationStats,
}

/// Why a generation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token: the model said it was done.
    StopToken(u32),
    /// One of the request's stop strings appeared.
    StopString(String),
    /// `max_tokens` were generated, or the context is full.
    Length,
    /// The caller cancelled it or dropped the stream.
    Cancelled,
}

/// Tokens in and out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that the prefix cache already held.
    pub reused_tokens: usize,
    /// Tokens generated, a stop token not counted.
    pub generated_tokens: usize,
}

/// Where the time of a request went.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timings {
    /// From arrival to the first step.
    pub queued: Duration,
    /// From arrival to the first generated token.
    pub time_to_first_token: Duration,
    /// Running the prompt through the model.
    pub prefill: Duration,
    /// Producing tokens, drafting and verifying included.
    pub decode: Duration,
}

/// What the drafters did for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpeculationStats {
    /// Forward passes of the target that gave tokens, the first one not counted.
    pub steps: usize,
    /// Tokens that those passes emitted.
    pub emitted: usize,
    /// By drafter, in the order of [`DrafterKind::ALL`].
    pub drafters: [DrafterStats; DrafterKind::ALL.len()],
    /// Nanoseconds spent in drafting.
    pub draft_nanos: u64,
    /// Nanoseconds that those passes took, with all the sequences they ran.
    pub verify_nanos: u64,
    /// Nanoseconds spent in picking tokens and in keeping their keys and values.
    pub commit_nanos: u64,
}

/// What one drafter did for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrafterStats {
    /// Forward passes that verified its drafts.
    pub steps: usize,
    /// Draft tokens proposed.
    pub proposed: usize,
    /// Draft tokens kept.
    pub accepted: usize,
    /// Tokens picked by the target at a first rejection.
    pub recovered: usize,
    /// Extra tokens gained when a draft was kept to its end.
    pub bonus: usize,
}

impl SpeculationStats {
    /// Emitted tokens over forward passes; 1 without speculation.
    pub fn tokens_per_step(&self) -> f64 {
        if self.steps == 0 {
            1.0
        } else {
            self.emitted as f64 / self.steps as f64
        }
    }

    /// What one drafter did.
    pub fn of(&self, drafter: DrafterKind) -> &DrafterStats {
        &self.drafters[drafter as usize]
    }

    pub(crate) fn of_mut(&mut self, drafter: DrafterKind) -> &mut DrafterStats {
        &mut self.drafters[drafter as usize]
    }

    /// What all drafters did.
    pub fn total(&self) -> DrafterStats {
        let mut total = DrafterStats::default();
        for stats in &self.drafters {
            total.steps += stats.steps;
            total.proposed += stats.proposed;
            total.accepted += stats.accepted;
            total.recovered += stats.recovered;
            total.bonus += stats.bonus;
        }
        total
    }
}

impl DrafterStats {
    /// Accepted over proposed draft tokens; 0 if none was proposed.
    pub fn acceptance_rate(&self) -> f64 {
        if self.proposed == 0 {
            0.0
        } else {
            self.accepted as f64 / self.proposed as f64
        }
    }

    /// Tokens emitted by each pass that verified its drafts; 1 if there was none.
    pub fn tokens_per_step(&self) -> f64 {
        if self.steps == 0 {
            1.0
        } else {
            (self.accepted + self.recovered + self.bonus) as f64 / self.steps as f64
        }
    }
}
