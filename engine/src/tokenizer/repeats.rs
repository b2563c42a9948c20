//! Pieces of a text that came before in it: code says the same words again and again, and to copy what one became is
//! quicker than to look it up, let alone to merge it once more.

use std::ops::Range;

/// Bytes of text for each piece that is remembered; a piece of code has three or four.
const BYTES_PER_SLOT: usize = 8;
/// Most pieces that are remembered: 48 KiB of memory.
const MAX_SLOTS: usize = 2048;

/// The pieces seen lately, and where their tokens stand.
pub(super) struct Repeats<'t> {
    /// By hash; a power of two of them. The latest piece has the slot.
    slots: Vec<(&'t [u8], Range<u32>)>,
}

impl<'t> Repeats<'t> {
    /// For a text of `n_bytes`.
    pub(super) fn new(n_bytes: usize) -> Self {
        let n_slots = (n_bytes / BYTES_PER_SLOT).next_power_of_two().min(MAX_SLOTS);
        Self {
            slots: vec![(&[], 0..0); n_slots],
        }
    }

    /// Appends the tokens that `piece` became before; false if it is not known. `tokens` are those of the text so far.
    pub(super) fn copy(&self, hash: u64, piece: &[u8], tokens: &mut Vec<u32>) -> bool {
        let (known, place) = &self.slots[self.slot(hash)];
        if *known != piece {
            return false;
        }
        let (start, end) = (place.start as usize, place.end as usize);
        if end == start + 1 {
            tokens.push(tokens[start]);
        } else {
            tokens.extend_from_within(start..end);
        }
        true
    }

    /// Remembers that `piece` became the tokens of `place`.
    pub(super) fn insert(&mut self, hash: u64, piece: &'t [u8], place: Range<usize>) {
        let slot = self.slot(hash);
        self.slots[slot] = (piece, place.start as u32..place.end as u32);
    }

    fn slot(&self, hash: u64) -> usize {
        hash as usize & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_piece_became_is_copied() {
        let mut repeats = Repeats::new(100);
        let mut tokens = vec![7, 8, 9];
        assert!(!repeats.copy(5, b"ab", &mut tokens));
        repeats.insert(5, b"ab", 1..3);
        assert!(repeats.copy(5, b"ab", &mut tokens));
        assert!(!repeats.copy(5, b"ac", &mut tokens), "another with its hash");
        assert_eq!(tokens, [7, 8, 9, 8, 9]);
        repeats.insert(5, b"ac", 0..1);
        assert!(!repeats.copy(5, b"ab", &mut tokens), "the latest has the slot");
        assert!(repeats.copy(5, b"ac", &mut tokens));
        assert_eq!(tokens, [7, 8, 9, 8, 9, 7]);
    }
}
