//! Merging neighbours into longer tokens, best first: the heart of byte-pair encoding.
//!
//! Byte-level BPE and SentencePiece BPE differ only in what may be merged and how good it is; the loop is one.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    hash::{BuildHasher, RandomState},
};

use super::vocabulary::{Vocabulary, fold};

/// Id of a symbol that is no token.
pub(super) const NO_TOKEN: u32 = u32::MAX;
const END: u32 = u32::MAX;

/// A stretch of the text on its way to become a token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    /// Token that it is, or `NO_TOKEN`.
    pub(super) id: u32,
    /// Bytes in the text, half-open; empty once it has been merged into its left neighbour.
    pub(super) start: u32,
    pub(super) end: u32,
    previous: u32,
    next: u32,
}

/// Decides which neighbours may be merged.
pub(super) trait MergeRule {
    /// Rank of merging the two (lower is sooner) and the token that results.
    fn merge(&self, text: &[u8], left: &Symbol, right: &Symbol) -> Option<(u32, u32)>;
}

/// Memory of the merge loop, kept from piece to piece.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    /// Rank in the upper half, index of the left symbol in the lower: equal ranks go from left to right.
    queue: BinaryHeap<Reverse<u64>>,
}

impl Merger {
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Adds the symbol that follows the last one.
    pub(super) fn push(&mut self, id: u32, start: usize, end: usize) {
        let idx = self.symbols.len() as u32;
        if let Some(last) = self.symbols.last_mut() {
            last.next = idx;
        }
        let previous = if idx == 0 { END } else { idx - 1 };
        self.symbols.push(Symbol {
            id,
            start: start as u32,
            end: end as u32,
            previous,
            next: END,
        });
    }

    /// Merges until nothing can be merged; takes O(n log n) for n symbols. Gives what remains, from left to right.
    pub(super) fn run(&mut self, text: &[u8], rule: &impl MergeRule) -> impl Iterator<Item = &Symbol> {
        for left in 1..self.symbols.len() as u32 {
            self.propose(text, rule, left - 1);
        }
        while let Some(Reverse(entry)) = self.queue.pop() {
            let (rank, left_idx) = ((entry >> 32) as u32, entry as u32);
            let left = self.symbols[left_idx as usize];
            if left.start == left.end || left.next == END {
                continue;
            }
            let right = self.symbols[left.next as usize];
            // Either neighbour may have changed since the entry was made.
            let Some((current_rank, id)) = rule.merge(text, &left, &right) else {
                continue;
            };
            if current_rank != rank {
                continue;
            }
            self.symbols[left.next as usize].start = right.end;
            let merged = Symbol {
                id,
                end: right.end,
                next: right.next,
                ..left
            };
            self.symbols[left_idx as usize] = merged;
            if right.next != END {
                self.symbols[right.next as usize].previous = left_idx;
                self.propose(text, rule, left_idx);
            }
            if left.previous != END {
                self.propose(text, rule, left.previous);
            }
        }
        self.symbols.iter().filter(|symbol| symbol.start < symbol.end)
    }

    fn propose(&mut self, text: &[u8], rule: &impl MergeRule, left_idx: u32) {
        let left = &self.symbols[left_idx as usize];
        let right = &self.symbols[left.next as usize];
        if let Some((rank, _)) = rule.merge(text, left, right) {
            self.queue
                .push(Reverse(u64::from(rank) << 32 | u64::from(left_idx)));
        }
    }
}

/// The merges of a BPE vocabulary: a pair of tokens gives a rank and a token.
pub(super) struct MergeTable {
    /// Open addressing; an empty slot has the key `u64::MAX`, two times `NO_TOKEN`.
    slots: Vec<MergeSlot>,
    seed: u64,
}

#[derive(Clone, Copy)]
struct MergeSlot {
    key: u64,
    rank: u32,
    id: u32,
}

impl MergeTable {
    pub(super) fn with_capacity(n_merges: usize) -> Self {
        let n_slots = (n_merges + n_merges / 2 + 1).next_power_of_two();
        let empty = MergeSlot {
            key: u64::MAX,
            rank: 0,
            id: 0,
        };
        Self {
            slots: vec![empty; n_slots],
            seed: RandomState::new().hash_one(0),
        }
    }

    /// Adds a merge; the first of several for one pair counts. At most as many as the capacity may be added.
    pub(super) fn insert(&mut self, left: u32, right: u32, rank: u32, id: u32) {
        let key = pair_key(left, right);
        let slot_idx = self.find_slot(key);
        let slot = &mut self.slots[slot_idx];
        if slot.key != key {
            *slot = MergeSlot { key, rank, id };
        }
    }

    /// The slot of `key`, or the empty one where it would go.
    fn find_slot(&self, key: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot_idx = fold(key, self.seed) as usize & mask;
        while self.slots[slot_idx].key != key && self.slots[slot_idx].key != u64::MAX {
            slot_idx = (slot_idx + 1) & mask;
        }
        slot_idx
    }
}

impl MergeRule for MergeTable {
    fn merge(&self, _text: &[u8], left: &Symbol, right: &Symbol) -> Option<(u32, u32)> {
        if left.id == NO_TOKEN || right.id == NO_TOKEN {
            return None;
        }
        let key = pair_key(left.id, right.id);
        let slot = &self.slots[self.find_slot(key)];
        (slot.key == key).then_some((slot.rank, slot.id))
    }
}

fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// SentencePiece BPE: any two neighbours whose text is a token may be merged, the best score first.
pub(super) struct ScoreRule<'a> {
    pub(super) vocabulary: &'a Vocabulary,
    /// Rank of each token: 0 for the best score, equal for equal scores.
    pub(super) ranks: &'a [u32],
}

impl MergeRule for ScoreRule<'_> {
    fn merge(&self, text: &[u8], left: &Symbol, right: &Symbol) -> Option<(u32, u32)> {
        let id = self
            .vocabulary
            .id(&text[left.start as usize..right.end as usize])?;
        Some((self.ranks[id as usize], id))
    }
}
