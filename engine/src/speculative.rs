//! Speculative decoding: draft, verify in one forward pass of the target, commit what was right.
//!
//! Lossless: the text is the one that plain decoding gives, token for token, for every drafter, draft length and
//! batch size; see `verify`. Not here: what drafts are made from (`drafter` and its implementations).

use std::time::Instant;

use crate::request::{Speculation, SpeculationStats};

pub mod drafter;
pub(crate) mod policy;
pub mod prompt_lookup;
mod verify;

use drafter::{Draft, Drafter};
use policy::{Acceptance, MAX_DRAFT, StepCosts, StepLoad, draft_length};

/// Longest draft that [`Speculation::Fixed`] can ask for: it bounds the rows and logits of one step.
pub const MAX_FIXED_DRAFT: usize = 128;

/// The drafts of one sequence: the drafter, how well it did, and what is proposed in the current step.
pub(crate) struct Speculator {
    mode: Speculation,
    drafter: Box<dyn Drafter>,
    draft: Draft,
    /// How many of the draft's tokens are verified in this step; the policy may think the rest too dear.
    n_proposed: usize,
    acceptance: Acceptance,
    pub(crate) stats: SpeculationStats,
}

impl Speculator {
    pub(crate) fn new(mode: Speculation, drafter: Box<dyn Drafter>) -> Self {
        Self {
            mode,
            drafter,
            draft: Draft::default(),
            n_proposed: 0,
            acceptance: Acceptance::default(),
            stats: SpeculationStats::default(),
        }
    }

    /// Drafts at most `room` tokens to follow `tokens`, and returns the step's load with them.
    pub(crate) fn propose(
        &mut self,
        tokens: &[u32],
        room: usize,
        load: StepLoad,
        costs: &StepCosts,
    ) -> StepLoad {
        self.skip();
        let longest = match self.mode {
            Speculation::Off => 0,
            Speculation::Auto => room.min(MAX_DRAFT),
            Speculation::Fixed(len) => room.min(len).min(MAX_FIXED_DRAFT),
        };
        if longest == 0 {
            return load;
        }
        let start = Instant::now();
        self.drafter.draft(tokens, longest, &mut self.draft);
        let longest = self.draft.tokens.len();
        let rate = self.acceptance.rate(self.draft.match_len);
        self.n_proposed = match self.mode {
            Speculation::Auto => draft_length(load, rate, longest, costs),
            _ => longest,
        };
        self.stats.draft_nanos += start.elapsed().as_nanos() as u64;
        load.with_draft(self.n_proposed, rate)
    }

    /// Forgets the last draft, for a step without one.
    pub(crate) fn skip(&mut self) {
        self.draft.clear();
        self.n_proposed = 0;
    }

    /// The draft tokens to verify in this step.
    pub(crate) fn proposed(&self) -> &[u32] {
        &self.draft.tokens[..self.n_proposed]
    }

    /// Learns from the tokens that the step really gave. Draft tokens that were not worth proposing count too, so
    /// drafting resumes by itself when it would have paid.
    pub(crate) fn learn(&mut self, emitted: &[u32]) {
        if self.draft.tokens.is_empty() || emitted.is_empty() {
            return;
        }
        let pairs = self.draft.tokens.iter().zip(emitted);
        let n_right = pairs.take_while(|(drafted, emitted)| drafted == emitted).count();
        let was_rejected = n_right < emitted.len().min(self.draft.tokens.len());
        self.acceptance
            .observe(self.draft.match_len, n_right, was_rejected);
    }
}
