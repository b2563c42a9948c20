//! Speculative decoding: draft, verify in one forward pass of the target, commit what was right.
//!
//! Lossless: the text is the one that plain decoding gives, token for token, for every drafter, draft length and
//! batch size; see `verify`. Not here: what drafts are made from (`drafter` and its implementations).

use std::time::Instant;

use crate::{
    model::MAX_TREE_NODES,
    request::{Speculation, SpeculationStats},
};

pub mod drafter;
pub mod edit;
pub(crate) mod policy;
pub mod prompt_lookup;
pub mod references;
mod suffix_automaton;
mod verify;

use drafter::{Draft, Drafter, DrafterKind};
use policy::{Acceptance, MAX_DRAFT, RankedNode, StepCosts, StepLoad, draft_length};

/// Longest draft that [`Speculation::Fixed`] can ask for: it bounds the rows and logits of one step.
pub const MAX_FIXED_DRAFT: usize = 128;

/// The drafts of one sequence: its drafters, how well each did, and what is proposed in the current step.
pub(crate) struct Speculator {
    mode: Speculation,
    sources: Vec<Source>,
    proposed: Draft,
    /// Whose tokens are proposed.
    proposed_by: Option<DrafterKind>,
    pub(crate) stats: SpeculationStats,
    // Kept between steps for their memory.
    ranking: Vec<RankedNode>,
    picked: Vec<usize>,
}

/// A drafter, its last draft, and how often it was right.
struct Source {
    drafter: Box<dyn Drafter>,
    draft: Draft,
    acceptance: Acceptance,
}

impl Speculator {
    pub(crate) fn new(mode: Speculation) -> Self {
        Self {
            mode,
            sources: Vec::new(),
            proposed: Draft::default(),
            proposed_by: None,
            stats: SpeculationStats::default(),
            ranking: Vec::new(),
            picked: Vec::new(),
        }
    }

    /// Adds a drafter, if the policy has any use for it. Among equally promising drafts that of the first one added is
    /// taken.
    pub(crate) fn add(&mut self, drafter: impl Drafter + 'static) {
        let is_wanted = match self.mode {
            Speculation::Off => false,
            Speculation::Auto | Speculation::Fixed(_) => true,
            Speculation::Only { drafter: kind, .. } => kind == drafter.kind(),
        };
        if is_wanted {
            self.sources.push(Source {
                drafter: Box::new(drafter),
                draft: Draft::default(),
                acceptance: Acceptance::default(),
            });
        }
    }

    /// Drafts at most `room` tokens to follow `tokens`, and returns the step's load with them.
    ///
    /// All drafters draft, as that takes microseconds; the draft that promises the most tokens per second is proposed.
    pub(crate) fn propose(
        &mut self,
        tokens: &[u32],
        room: usize,
        load: StepLoad,
        costs: &StepCosts,
    ) -> StepLoad {
        self.skip();
        let fixed_len = self.mode.fixed_len();
        let longest = room.min(fixed_len.unwrap_or(MAX_DRAFT)).min(MAX_FIXED_DRAFT);
        if longest == 0 || self.sources.is_empty() {
            return load;
        }
        let start = Instant::now();
        let mut best: Option<(f64, StepLoad, usize)> = None;
        for (idx, source) in self.sources.iter_mut().enumerate() {
            source.drafter.draft(tokens, longest, &mut source.draft);
            source.acceptance.rank(&source.draft, &mut self.ranking);
            if !source.draft.is_chain() {
                self.ranking.truncate(MAX_TREE_NODES);
            }
            let len = match fixed_len {
                Some(_) => self.ranking.len(),
                None => draft_length(load, &self.ranking, costs),
            };
            let drafted = load.with_draft(&self.ranking[..len]);
            // What was asked for counts, not what it costs.
            let promise = match fixed_len {
                Some(_) => drafted.n_tokens,
                None => drafted.speed(costs),
            };
            if len > 0 && best.is_none_or(|(most, ..)| promise > most) {
                best = Some((promise, drafted, idx));
                self.picked.clear();
                self.picked.extend(self.ranking[..len].iter().map(|it| it.idx));
            }
        }
        let load = best.map_or(load, |(_, drafted, idx)| {
            let source = &self.sources[idx];
            self.picked.sort_unstable();
            self.proposed.select(&source.draft, &self.picked);
            self.proposed_by = Some(source.drafter.kind());
            drafted
        });
        self.stats.draft_nanos += start.elapsed().as_nanos() as u64;
        load
    }

    /// Forgets the last drafts, for a step without one.
    pub(crate) fn skip(&mut self) {
        for source in &mut self.sources {
            source.draft.clear();
        }
        self.withdraw();
    }

    /// Proposes nothing in this step, whatever was drafted.
    pub(crate) fn withdraw(&mut self) {
        self.proposed.clear();
        self.proposed_by = None;
    }

    /// The draft to verify in this step.
    pub(crate) fn proposed(&self) -> &Draft {
        &self.proposed
    }

    /// Whose draft it is.
    pub(crate) fn proposed_by(&self) -> Option<DrafterKind> {
        self.proposed_by
    }

    /// Learns from the tokens that the step really gave. Draft tokens that were not worth proposing count too, so
    /// drafting resumes by itself when it would have paid.
    pub(crate) fn learn(&mut self, emitted: &[u32]) {
        for source in &mut self.sources {
            source.acceptance.learn(&source.draft, emitted);
        }
    }
}
