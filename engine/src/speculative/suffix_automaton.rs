//! The suffix automaton of a growing sequence: the smallest automaton that accepts all of its suffixes.
//!
//! Blumer et al. 1985, "The Smallest Automaton Recognizing the Subwords of a Text". Adding a token takes amortised
//! constant time, and the longest suffix that occurred before is then known without a search.

use std::collections::HashMap;

/// States whose latest end is brought up to date with each token, longest suffix first. On a run of one token the path
/// of suffixes grows with the run; without a bound its cost would be quadratic.
const MAX_REFRESHED: usize = 32;

/// The state of the empty string.
const ROOT: u32 = 0;
const NONE: u32 = u32::MAX;

/// Finds the longest suffix of a sequence that occurred before.
#[derive(Debug)]
pub(crate) struct SuffixAutomaton {
    states: Vec<State>,
    edges: Vec<Edge>,
    /// Index of an edge by its source and token.
    edge_of: HashMap<(u32, u32), u32>,
    /// The state of the whole sequence.
    whole: u32,
    n_tokens: usize,
    earlier: Option<Occurrence>,
}

/// The strings with the same ends: suffixes of one another.
#[derive(Debug, Clone, Copy)]
struct State {
    /// Length of the longest of the strings.
    len: u32,
    /// State of the longest suffix with more ends; none for the root.
    link: u32,
    /// The latest end that is known: the index after it.
    end: u32,
    /// First of the edges that leave the state.
    first_edge: u32,
}

#[derive(Debug, Clone, Copy)]
struct Edge {
    token: u32,
    target: u32,
    /// Next edge that leaves the same state.
    next: u32,
}

/// An earlier occurrence of the end of the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Occurrence {
    /// Index after the occurrence.
    pub(crate) end: usize,
    /// Its length in tokens.
    pub(crate) len: usize,
}

impl Default for SuffixAutomaton {
    fn default() -> Self {
        let root = State {
            len: 0,
            link: NONE,
            end: 0,
            first_edge: NONE,
        };
        Self {
            states: vec![root],
            edges: Vec::new(),
            edge_of: HashMap::new(),
            whole: ROOT,
            n_tokens: 0,
            earlier: None,
        }
    }
}

impl SuffixAutomaton {
    /// Tokens in the sequence.
    pub(crate) fn len(&self) -> usize {
        self.n_tokens
    }

    /// The longest suffix of the sequence that occurred before, and its most recent earlier occurrence (beyond
    /// [`MAX_REFRESHED`] nested suffixes an earlier one yet).
    pub(crate) fn earlier(&self) -> Option<Occurrence> {
        self.earlier
    }

    /// Appends a token.
    pub(crate) fn push(&mut self, token: u32) {
        self.n_tokens += 1;
        let end = self.n_tokens as u32;
        let added = self.add_state(State {
            len: end,
            link: ROOT,
            end,
            first_edge: NONE,
        });
        let mut from = std::mem::replace(&mut self.whole, added);
        while from != NONE && !self.edge_of.contains_key(&(from, token)) {
            self.add_edge(from, token, added);
            from = self.states[from as usize].link;
        }
        if from != NONE {
            self.states[added as usize].link = self.suffix_state(from, token);
        }
        self.find_earlier(end);
    }

    /// The state of the longest string of `from` followed by `token`, split off its state if that has longer ones.
    fn suffix_state(&mut self, from: u32, token: u32) -> u32 {
        let target = self.edges[self.edge_of[&(from, token)] as usize].target;
        let len = self.states[from as usize].len + 1;
        if self.states[target as usize].len == len {
            return target;
        }
        let split = self.add_state(State {
            len,
            first_edge: NONE,
            ..self.states[target as usize]
        });
        let mut edge = self.states[target as usize].first_edge;
        while let Some(&Edge { token, target, next }) = self.edges.get(edge as usize) {
            self.add_edge(split, token, target);
            edge = next;
        }
        self.states[target as usize].link = split;
        let mut from = from;
        while from != NONE {
            let edge = &mut self.edges[self.edge_of[&(from, token)] as usize];
            if edge.target != target {
                break;
            }
            edge.target = split;
            from = self.states[from as usize].link;
        }
        split
    }

    fn find_earlier(&mut self, end: u32) {
        let link = self.states[self.whole as usize].link;
        let state = self.states[link as usize];
        self.earlier = (link != ROOT).then_some(Occurrence {
            end: state.end as usize,
            len: state.len as usize,
        });
        let mut suffix = link;
        for _ in 0..MAX_REFRESHED {
            if suffix == ROOT {
                return;
            }
            self.states[suffix as usize].end = end;
            suffix = self.states[suffix as usize].link;
        }
    }

    fn add_state(&mut self, state: State) -> u32 {
        self.states.push(state);
        (self.states.len() - 1) as u32
    }

    fn add_edge(&mut self, from: u32, token: u32, target: u32) {
        let edge = self.edges.len() as u32;
        let next = std::mem::replace(&mut self.states[from as usize].first_edge, edge);
        self.edges.push(Edge { token, target, next });
        self.edge_of.insert((from, token), edge);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sampler::split_mix, suffix_index::common_suffix};

    #[test]
    fn equals_the_exhaustive_search() {
        for n_symbols in [1, 2, 5, 40] {
            let tokens: Vec<u32> = (0..500)
                .map(|i| (split_mix(i / 3 * 7) % n_symbols) as u32)
                .collect();
            let mut automaton = SuffixAutomaton::default();
            for end in 1..=tokens.len() {
                automaton.push(tokens[end - 1]);
                let tokens = &tokens[..end];
                let expected = (1..end)
                    .map(|at| (common_suffix(&tokens[..at], tokens, end), at))
                    .filter(|it| it.0 > 0)
                    .max();
                let found = automaton.earlier().map(|it| (it.len, it.end));
                assert_eq!(found, expected, "{n_symbols} symbols at {end}");
            }
            assert!(automaton.states.len() <= 2 * tokens.len());
            assert!(automaton.edges.len() <= 3 * tokens.len());
        }
    }
}
