//! Speculative decoding: draft, verify in one forward pass of the target, commit what was right.
//!
//! Lossless: the text is the one that plain decoding gives, token for token, for every drafter, draft length and
//! batch size; see `verify`. Not here: what drafts are made from (`drafter` and its implementations).

use std::time::{Duration, Instant};

use crate::{
    model::MAX_TREE_NODES,
    request::{Speculation, SpeculationStats},
};

pub mod draft_model;
pub mod drafter;
pub mod eagle3;
pub mod edit;
pub mod network;
pub(crate) mod policy;
pub mod prompt_lookup;
pub mod references;
mod suffix_automaton;
mod verify;

use drafter::{Draft, Drafter, DrafterKind};
use network::DraftTask;
use policy::{Acceptance, Experience, MAX_DRAFT, RankedNode, StepCosts, StepLoad, draft_length};

/// Longest draft that [`Speculation::Fixed`] can ask for: it bounds the rows and logits of one step.
pub const MAX_FIXED_DRAFT: usize = 128;

/// Longest path that a network is asked for where the policy decides.
const MAX_NETWORK_DRAFT: usize = 12;
/// A network's draft ends where it is less probable than this, where the policy decides.
const MIN_REACH: f32 = 0.2;

/// The drafts of one sequence: its drafters, how well each did, and what is proposed in the current step.
pub(crate) struct Speculator {
    mode: Speculation,
    /// What lookups look at: the sequence's tokens, the prompt's in the order in which they are read.
    text: Vec<u32>,
    /// Drafters that look things up.
    lookups: Vec<Source>,
    /// The drafter with a network, which all sequences share.
    network: Option<NetworkSource>,
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

/// The same for a network, whose drafts take long enough to ask first whether they are worth it.
struct NetworkSource {
    kind: DrafterKind,
    draft: Draft,
    experience: Experience,
}

impl Speculator {
    pub(crate) fn new(mode: Speculation) -> Self {
        Self {
            mode,
            text: Vec::new(),
            lookups: Vec::new(),
            network: None,
            proposed: Draft::default(),
            proposed_by: None,
            stats: SpeculationStats::default(),
            ranking: Vec::new(),
            picked: Vec::new(),
        }
    }

    /// Has the prompt looked at in this order of its tokens, not in that of the sequence.
    pub(crate) fn read(&mut self, prompt: Vec<u32>) {
        self.text = prompt;
    }

    /// Adds a drafter, if the policy has any use for it. Among equally promising drafts that of the first one added is
    /// taken.
    pub(crate) fn add(&mut self, drafter: impl Drafter + 'static) {
        if self.mode.allows(drafter.kind()) {
            self.lookups.push(Source {
                drafter: Box::new(drafter),
                draft: Draft::default(),
                acceptance: Acceptance::default(),
            });
        }
    }

    /// Lets the engine's network draft too, if the policy has any use for it.
    pub(crate) fn add_network(&mut self, kind: DrafterKind, experience: Experience) {
        if self.mode.allows(kind) {
            self.network = Some(NetworkSource {
                kind,
                draft: Draft::default(),
                experience,
            });
        }
    }

    /// Whether the policy decides what drafts, and how much.
    pub(crate) fn is_automatic(&self) -> bool {
        self.mode == Speculation::Auto
    }

    /// How well the network has done, if it drafts for this sequence.
    pub(crate) fn network_experience(&self) -> Option<&Experience> {
        self.network.as_ref().map(|it| &it.experience)
    }

    /// Longest draft wanted, if at most `room` tokens may follow.
    fn longest(&self, room: usize) -> usize {
        room.min(self.mode.fixed_len().unwrap_or(MAX_DRAFT))
            .min(MAX_FIXED_DRAFT)
    }

    /// Looks up drafts of at most `room` tokens to follow `tokens`, and returns the step's load with the one proposed.
    ///
    /// All lookups draft, as that takes microseconds; the draft that promises the most tokens per second is proposed.
    pub(crate) fn look_up(
        &mut self,
        tokens: &[u32],
        room: usize,
        load: StepLoad,
        costs: &StepCosts,
    ) -> StepLoad {
        self.skip();
        let longest = self.longest(room);
        if longest == 0 || self.lookups.is_empty() {
            return load;
        }
        let start = Instant::now();
        self.text.extend_from_slice(&tokens[self.text.len()..]);
        let is_fixed = self.mode.fixed_len().is_some();
        let mut best: Option<(f64, StepLoad, usize)> = None;
        for (idx, source) in self.lookups.iter_mut().enumerate() {
            source.drafter.draft(&self.text, longest, &mut source.draft);
            rank(&source.draft, &source.acceptance, &mut self.ranking);
            if !is_fixed {
                self.ranking.truncate(draft_length(load, &self.ranking, costs));
            }
            let drafted = load.with_draft(&self.ranking);
            // If a length was asked for, it does not count what it costs.
            let promise = if is_fixed {
                drafted.n_tokens
            } else {
                drafted.speed(costs)
            };
            if !self.ranking.is_empty() && best.is_none_or(|(most, ..)| promise > most) {
                best = Some((promise, drafted, idx));
                pick(&self.ranking, &mut self.picked);
            }
        }
        let load = best.map_or(load, |(_, drafted, idx)| {
            let source = &self.lookups[idx];
            self.proposed.select(&source.draft, &self.picked);
            self.proposed_by = Some(source.drafter.kind());
            drafted
        });
        self.stats.draft_nanos += start.elapsed().as_nanos() as u64;
        load
    }

    /// Whether the network should draft, as the lookups have proposed nothing: if a draft of its takes `draft_seconds`
    /// and pays, going by the last ones.
    pub(crate) fn wants_network(
        &mut self,
        room: usize,
        load: StepLoad,
        costs: &StepCosts,
        draft_seconds: f64,
    ) -> bool {
        let is_wanted = self.proposed.is_empty() && self.longest(room) > 0;
        let is_fixed = self.mode.fixed_len().is_some();
        let network = self.network.as_mut().filter(|_| is_wanted);
        network.is_some_and(|it| is_fixed || it.experience.gain.is_worth_asking(load, costs, draft_seconds))
    }

    /// The network's task, if this sequence has one.
    pub(crate) fn network_task<'a>(
        &'a mut self,
        sequence: u64,
        tokens: &'a [u32],
        room: usize,
    ) -> Option<DraftTask<'a>> {
        let longest = self.longest(room);
        let is_fixed = self.mode.fixed_len().is_some();
        let network = self.network.as_mut()?;
        Some(DraftTask {
            sequence,
            tokens,
            max_len: if is_fixed {
                longest
            } else {
                longest.min(MAX_NETWORK_DRAFT)
            },
            min_reach: if is_fixed { 0.0 } else { MIN_REACH },
            draft: &mut network.draft,
        })
    }

    /// Proposes what the network has drafted, as far as it pays, and returns the step's load with it. `drafting` is how
    /// long the network took, for all sequences.
    pub(crate) fn propose_network(
        &mut self,
        load: StepLoad,
        costs: &StepCosts,
        drafting: Duration,
    ) -> StepLoad {
        let is_fixed = self.mode.fixed_len().is_some();
        let Some(network) = &mut self.network else {
            return load;
        };
        self.stats.draft_nanos += drafting.as_nanos() as u64;
        if network.draft.is_empty() {
            return load;
        }
        rank(&network.draft, &network.experience.acceptance, &mut self.ranking);
        if !is_fixed {
            self.ranking.truncate(draft_length(load, &self.ranking, costs));
        }
        network.experience.gain.note_proposal(self.ranking.len());
        if self.ranking.is_empty() {
            return load;
        }
        pick(&self.ranking, &mut self.picked);
        self.proposed.select(&network.draft, &self.picked);
        self.proposed_by = Some(network.kind);
        load.with_draft(&self.ranking)
    }

    /// Forgets the last drafts, for a step without one.
    pub(crate) fn skip(&mut self) {
        for source in &mut self.lookups {
            source.draft.clear();
        }
        if let Some(network) = &mut self.network {
            network.draft.clear();
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
        for source in &mut self.lookups {
            source.acceptance.learn(&source.draft, emitted);
        }
        if let Some(network) = self.network.as_mut().filter(|it| !it.draft.is_empty()) {
            let Experience { acceptance, gain } = &mut network.experience;
            gain.note_outcome(acceptance.learn(&network.draft, emitted));
        }
    }
}

/// Ranks as many nodes of a draft as one step can verify.
fn rank(draft: &Draft, acceptance: &Acceptance, ranking: &mut Vec<RankedNode>) {
    acceptance.rank(draft, ranking);
    if !draft.is_chain() {
        ranking.truncate(MAX_TREE_NODES);
    }
}

/// The nodes of a ranking in the draft's own order.
fn pick(ranking: &[RankedNode], picked: &mut Vec<usize>) {
    picked.clear();
    picked.extend(ranking.iter().map(|it| it.idx));
    picked.sort_unstable();
}

#[cfg(test)]
mod tests {
    use super::{drafter::Evidence, *};

    /// Always proposes the same.
    struct Stubborn {
        kind: DrafterKind,
        tokens: &'static [u32],
        match_len: usize,
    }

    impl Drafter for Stubborn {
        fn kind(&self) -> DrafterKind {
            self.kind
        }

        fn draft(&mut self, _tokens: &[u32], max_len: usize, draft: &mut Draft) {
            draft.clear();
            let tokens = self.tokens.iter().take(max_len);
            tokens.for_each(|&token| draft.push(token, Evidence::of_match(self.match_len)));
        }
    }

    const LOAD: StepLoad = StepLoad {
        n_rows: 1,
        n_tokens: 1.0,
    };

    fn speculator(mode: Speculation, drafters: [Stubborn; 2]) -> Speculator {
        let mut speculator = Speculator::new(mode);
        drafters.into_iter().for_each(|drafter| speculator.add(drafter));
        speculator
    }

    #[test]
    fn the_lookup_that_promises_most_is_proposed() {
        for mode in [Speculation::Auto, Speculation::Fixed(8)] {
            let weak = |kind| Stubborn {
                kind,
                tokens: &[1, 2],
                match_len: 2,
            };
            let strong = |kind| Stubborn {
                kind,
                tokens: &[3, 4],
                match_len: 20,
            };
            for drafters in [
                [weak(DrafterKind::PromptLookup), strong(DrafterKind::References)],
                [strong(DrafterKind::References), weak(DrafterKind::PromptLookup)],
            ] {
                let mut speculator = speculator(mode, drafters);
                speculator.look_up(&[9], 100, LOAD, &StepCosts::default());
                assert_eq!(
                    speculator.proposed_by(),
                    Some(DrafterKind::References),
                    "{mode:?}"
                );
                assert_eq!(speculator.proposed().tokens().collect::<Vec<_>>(), [3, 4]);
            }
        }
    }

    #[test]
    fn a_lookup_that_was_wrong_makes_way_for_one_that_was_right() {
        let liar = Stubborn {
            kind: DrafterKind::PromptLookup,
            tokens: &[1, 2],
            match_len: 20,
        };
        let honest = Stubborn {
            kind: DrafterKind::Edit,
            tokens: &[3, 4],
            match_len: 2,
        };
        let mut speculator = speculator(Speculation::Auto, [liar, honest]);
        let costs = StepCosts::default();
        speculator.look_up(&[9], 100, LOAD, &costs);
        assert_eq!(speculator.proposed_by(), Some(DrafterKind::PromptLookup));
        for _ in 0..20 {
            speculator.look_up(&[9], 100, LOAD, &costs);
            speculator.learn(&[3, 4, 5]);
        }
        speculator.look_up(&[9], 100, LOAD, &costs);
        assert_eq!(speculator.proposed_by(), Some(DrafterKind::Edit));
    }

    #[test]
    fn the_network_is_asked_only_where_lookups_have_nothing() {
        for mode in [Speculation::Auto, Speculation::Fixed(8)] {
            let costs = StepCosts::default();
            for (match_len, tokens) in [(20, &[1, 2][..]), (2, &[])] {
                let lookup = |kind| Stubborn {
                    kind,
                    tokens,
                    match_len,
                };
                let drafters = [lookup(DrafterKind::PromptLookup), lookup(DrafterKind::References)];
                let mut speculator = speculator(mode, drafters);
                speculator.add_network(DrafterKind::DraftModel, Experience::default());
                speculator.look_up(&[9], 100, LOAD, &costs);
                let is_asked = speculator.wants_network(100, LOAD, &costs, 0.0);
                assert_eq!(is_asked, tokens.is_empty(), "{mode:?}");
            }
        }
    }
}
