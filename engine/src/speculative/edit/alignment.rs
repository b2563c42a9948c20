//! Where in the original an answer goes on that has parted from it, by edit distance.
//!
//! Needleman and Wunsch 1970, with what it takes to go elsewhere first as the start.

use std::ops::Range;

/// Places this far before and after the one where the two parted are weighed.
const REACH: usize = 4096;
/// A byte for another costs as much as leaving one out and putting one in.
const SUBSTITUTION: u32 = 2;
/// Most that it costs to go on elsewhere.
const JUMP: u32 = 24;
/// How many of the last bytes that agree count, and for how much each.
const MOST_AGREEING: u32 = 8;
const AGREEMENT: u32 = 3;

/// All places near the one where the two parted, weighed against the answer since.
#[derive(Debug)]
pub(super) struct Alignment {
    /// Byte of the original at which they parted.
    pub(super) from: usize,
    /// Length of the answer at that time.
    pub(super) since: usize,
    /// Byte of the original at the first place.
    start: usize,
    /// For each place, how badly the answer fits if it has got there.
    costs: Vec<u32>,
    /// For each place, how many bytes before it the answer ends with.
    n_agreed: Vec<u32>,
}

impl Alignment {
    /// They part at byte `from` of an original of `len` bytes, after `since` bytes of the answer.
    pub(super) fn new(from: usize, since: usize, len: usize) -> Self {
        let places = from.saturating_sub(REACH)..len.min(from + REACH) + 1;
        Self {
            from,
            since,
            start: places.start,
            n_agreed: vec![0; places.len()],
            costs: places.map(|at| (at.abs_diff(from) as u32).min(JUMP)).collect(),
        }
    }

    /// Takes in the answer's next byte.
    pub(super) fn read(&mut self, original: &[u8], byte: u8) {
        let original = &original[self.start..][..self.costs.len() - 1];
        let mut diagonal = self.costs[0];
        self.costs[0] += 1;
        let mut agreed_before = std::mem::take(&mut self.n_agreed[0]);
        let places = self.costs.iter_mut().zip(&mut self.n_agreed).skip(1);
        let mut cost_before = diagonal + 1;
        for ((cost, n_agreed), &other) in places.zip(original) {
            let agrees = other == byte;
            let replaced = diagonal + if agrees { 0 } else { SUBSTITUTION };
            diagonal = *cost;
            *cost = replaced.min(diagonal + 1).min(cost_before + 1);
            cost_before = *cost;
            let n_now = if agrees { agreed_before + 1 } else { 0 };
            agreed_before = std::mem::replace(n_agreed, n_now);
        }
    }

    /// The place that fits best, as a byte of the original, and how many bytes before it the answer ends with; among equals the
    /// nearest one. It is the one where they parted, or the last byte agrees.
    pub(super) fn best_place(&self) -> (usize, usize) {
        let places = (self.start..).zip(self.costs.iter().zip(&self.n_agreed));
        let candidates = places.filter(|(at, (_, n_agreed))| **n_agreed > 0 || *at == self.from);
        let best = candidates.min_by_key(|(at, (cost, n_agreed))| {
            let agreement = AGREEMENT * (**n_agreed).min(MOST_AGREEING);
            (i64::from(**cost) - i64::from(agreement), at.abs_diff(self.from))
        });
        best.map_or((self.from, 0), |(at, (_, n_agreed))| (at, *n_agreed as usize))
    }
}

/// The runs of units in which two texts differ, in order, by a longest common subsequence. None in texts too long for that.
pub(super) fn differences<T: PartialEq>(old: &[T], new: &[T]) -> Vec<(Range<usize>, Range<usize>)> {
    if old.len() > usize::from(u8::MAX) || new.len() > usize::from(u8::MAX) {
        return Vec::new();
    }
    // Units in common between the rests of both texts.
    let width = new.len() + 1;
    let mut common = vec![0u8; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = if old[i] == new[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut runs = Vec::new();
    while i < old.len() || j < new.len() {
        let (from_old, from_new) = (i, j);
        while i < old.len() || j < new.len() {
            if i < old.len() && j < new.len() && old[i] == new[j] {
                break;
            }
            let without_old = (i < old.len()).then(|| common[(i + 1) * width + j]);
            let without_new = (j < new.len()).then(|| common[i * width + j + 1]);
            if without_old >= without_new {
                i += 1;
            } else {
                j += 1;
            }
        }
        let n_agreed = old[i..].iter().zip(&new[j..]).take_while(|(a, b)| a == b).count();
        if (from_old, from_new) != (i, j) {
            runs.push((from_old..i, from_new..j));
        }
        (i, j) = (i + n_agreed, j + n_agreed);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_after<'a>(original: &'a str, from: usize, answer: &str) -> &'a str {
        let mut alignment = Alignment::new(from, 0, original.len());
        for byte in answer.bytes() {
            alignment.read(original.as_bytes(), byte);
        }
        &original[alignment.best_place().0..]
    }

    #[test]
    fn what_fits_best_is_found() {
        let original = "let count = first + second;\nprint(count);\n";
        assert_eq!(
            place_after(original, 4, "total ="),
            " first + second;\nprint(count);\n"
        );
        assert_eq!(
            place_after(original, 12, "zeroth, "),
            "first + second;\nprint(count);\n"
        );
        assert_eq!(place_after(original, 12, "sec"), "ond;\nprint(count);\n");
        assert_eq!(place_after(original, 0, "// a new line\n"), original);
        assert_eq!(place_after(original, 0, "print(count)"), ";\n");
    }

    #[test]
    fn runs_that_differ() {
        let runs = |old: &str, new: &str| {
            let (old, new): (Vec<char>, Vec<char>) = (old.chars().collect(), new.chars().collect());
            let text = |chars: &[char]| chars.iter().collect::<String>();
            let runs = differences(&old, &new).into_iter();
            runs.map(|(a, b)| (text(&old[a]), text(&new[b])))
                .collect::<Vec<_>>()
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(runs("2}3}", "4}5}"), [pair("2", "4"), pair("3", "5")]);
        assert_eq!(runs("ab", "ab"), []);
        assert_eq!(runs("xab", "ab"), [pair("x", "")]);
        assert_eq!(runs("ab", "aby"), [pair("", "y")]);
        assert_eq!(runs("", "y"), [pair("", "y")]);
    }
}
