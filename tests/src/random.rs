//! Random numbers and random edits, from a seed: a failing run can be run again.

use std::ops::Range;

/// A small generator of random numbers (xorshift64*, Vigna 2016).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator; the same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`, which is above 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// A range to replace in `text` and what to put there, made of `pieces`; at character borders, never
    /// between the two halves of a `\r\n`, and often at the end.
    pub fn edit(&mut self, text: &str, pieces: &[&str]) -> (Range<usize>, String) {
        let places: Vec<usize> = (0..=text.len()).filter(|at| is_place(text, *at)).collect();
        let start_idx = if self.below(4) == 0 {
            places.len() - 1
        } else {
            self.below(places.len())
        };
        let most = (places.len() - start_idx).min(12);
        let end_idx = start_idx + if self.below(2) == 0 { 0 } else { self.below(most) };
        let inserted = (0..self.below(4)).map(|_| *self.pick(pieces)).collect();
        (places[start_idx]..places[end_idx], inserted)
    }
}

/// Whether an editor can have its cursor at byte `at`.
fn is_place(text: &str, at: usize) -> bool {
    text.is_char_boundary(at) && !(text[..at].ends_with('\r') && text[at..].starts_with('\n'))
}

/// Line and column of byte `at`, from 0, worked out the slow and obvious way; columns in UTF-16 or UTF-8.
pub fn position(text: &str, at: usize, utf16: bool) -> (usize, usize) {
    let mut line_start = 0;
    let mut line = 0;
    let bytes = text.as_bytes();
    for idx in 0..at {
        let ends_line = bytes[idx] == b'\n' || bytes[idx] == b'\r' && bytes.get(idx + 1) != Some(&b'\n');
        if ends_line {
            line += 1;
            line_start = idx + 1;
        }
    }
    let before = &text[line_start..at];
    (
        line,
        if utf16 {
            before.encode_utf16().count()
        } else {
            before.len()
        },
    )
}
