//! Where the end of a growing sequence of symbols occurred before: what copying and repository lookup are made from.
//!
//! Every position is linked to the one before it whose last few symbols hash alike, as in LZ77 compressors
//! (RFC 1951, §4).

const NONE: u32 = u32::MAX;

/// Fewest slots of the hash table.
const MIN_HEADS: usize = 64;

/// Finds earlier places with the same last `N` symbols.
///
/// Adding a symbol takes amortised constant time. The index holds no symbols: the caller keeps them, and passes the
/// same growing slice each time. What it gives depends on the symbols alone, not on how many came at a time.
#[derive(Debug, Clone, Default)]
pub(crate) struct SuffixIndex<const N: usize> {
    /// Latest position of each hash; a power of two of them.
    heads: Vec<u32>,
    /// For each position, the one before it with the same hash.
    previous: Vec<u32>,
}

impl<const N: usize> SuffixIndex<N> {
    /// Adds the symbols that came since the last call.
    pub(crate) fn extend<T: Copy + Into<u64>>(&mut self, symbols: &[T]) {
        let n_heads = (symbols.len() * 2).next_power_of_two().max(MIN_HEADS);
        if n_heads > self.heads.len() {
            self.heads.clear();
            self.heads.resize(n_heads, NONE);
            self.previous.clear();
        }
        let n_known = self.previous.len();
        self.previous.reserve(symbols.len() - n_known);
        let mut hash = RollingHash::<N>::of(&symbols[n_known.saturating_sub(N)..n_known]);
        for (position, &symbol) in symbols.iter().enumerate().skip(n_known) {
            hash.push(symbol, position.checked_sub(N).map(|gone| symbols[gone]));
            let previous = if position + 1 < N {
                NONE
            } else {
                let head = hash.slot(self.heads.len());
                std::mem::replace(&mut self.heads[head], position as u32)
            };
            self.previous.push(previous);
        }
    }

    /// Ends of earlier places that may have the same last `N` symbols, most recent first: the index after each place.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = usize> {
        self.chain(self.previous.last().copied().unwrap_or(NONE))
    }

    /// Ends of places that may have the same last `N` symbols as `symbols`, which need not be those that were added.
    pub(crate) fn ends_like<T: Copy + Into<u64>>(&self, symbols: &[T]) -> impl Iterator<Item = usize> {
        let head = match symbols.len().checked_sub(N) {
            Some(start) if !self.heads.is_empty() => {
                self.heads[RollingHash::<N>::of(&symbols[start..]).slot(self.heads.len())]
            }
            _ => NONE,
        };
        self.chain(head)
    }

    fn chain(&self, first: u32) -> impl Iterator<Item = usize> {
        let link = |position: u32| (position != NONE).then_some(position);
        std::iter::successors(link(first), move |&it| link(self.previous[it as usize]))
            .map(|it| it as usize + 1)
    }
}

/// Symbols in which the ends of `a` and `b` agree, `longest` at most.
pub(crate) fn common_suffix<T: PartialEq>(a: &[T], b: &[T], longest: usize) -> usize {
    let pairs = a.iter().rev().zip(b.iter().rev());
    pairs.take(longest).take_while(|(a, b)| a == b).count()
}

/// Hash of the last `N` symbols, in constant time for each (Karp and Rabin 1987, "Efficient randomized pattern-matching
/// algorithms"), modulo 2^64.
struct RollingHash<const N: usize>(u64);

impl<const N: usize> RollingHash<N> {
    const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
    /// What a symbol has been multiplied with when it leaves.
    const LEAVING: u64 = Self::BASE.wrapping_pow(N as u32);

    /// Of at most `N` symbols.
    fn of<T: Copy + Into<u64>>(symbols: &[T]) -> Self {
        let mut hash = Self(0);
        symbols.iter().for_each(|&symbol| hash.push(symbol, None));
        hash
    }

    /// Adds a symbol; the one that was added `N` before it leaves.
    fn push<T: Into<u64>>(&mut self, symbol: T, leaving: Option<T>) {
        // Plus one, so that zeros count.
        let term = |symbol: T| symbol.into() + 1;
        let gone = leaving.map_or(0, |symbol| term(symbol).wrapping_mul(Self::LEAVING));
        self.0 = self
            .0
            .wrapping_mul(Self::BASE)
            .wrapping_add(term(symbol))
            .wrapping_sub(gone);
    }

    /// One of `n_slots`, a power of two: the high bits depend on all symbols.
    fn slot(&self, n_slots: usize) -> usize {
        let mixed = (self.0 ^ self.0 >> 32).wrapping_mul(Self::BASE);
        (mixed >> 32) as usize & (n_slots - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::split_mix;

    /// Symbol by symbol and all at once give the same candidates, among them all places that do agree.
    #[test]
    fn finds_every_place_however_it_was_filled() {
        let symbols: Vec<u32> = (0..500).map(|i| (split_mix(i) % 4) as u32).collect();
        let mut grown = SuffixIndex::<3>::default();
        for end in 1..=symbols.len() {
            let symbols = &symbols[..end];
            grown.extend(symbols);
            let mut whole = SuffixIndex::<3>::default();
            whole.extend(symbols);
            let found: Vec<usize> = grown.candidates().collect();
            assert_eq!(found, whole.candidates().collect::<Vec<_>>());
            let agrees = |&source: &usize| common_suffix(&symbols[..source], symbols, 3) == 3;
            let expected: Vec<usize> = (1..end).rev().filter(agrees).collect();
            let agreeing: Vec<usize> = found.into_iter().filter(agrees).collect();
            assert_eq!(agreeing, expected, "at {end}");
            if end >= 3 {
                let like: Vec<usize> = grown.ends_like(symbols).filter(agrees).collect();
                assert_eq!(like[0], end);
                assert_eq!(like[1..], expected);
            }
        }
    }
}
