//! Repository lookup: the draft is what follows in other texts, such as open files, wherever they read like this.
//!
//! The texts are given to the engine as plain streams of tokens and are shared by all requests. Where several places
//! agree with the end of a sequence equally well, the most frequent continuation wins, token by token (as the counts
//! in the suffix trees of "SuffixDecoding", Oliaro et al. 2024). Places are found by their last eight tokens, and only where
//! none agrees in so many by the last three: what follows something common hides nothing that agrees for longer.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, PoisonError, RwLock},
};

use super::drafter::{Draft, Drafter, DrafterKind, Evidence};
use crate::suffix_index::{SuffixIndex, common_suffix};

/// Tokens kept if nothing else is asked for: the code of some hundred files, and 28 MB with the indices.
pub const DEFAULT_CAPACITY: usize = 1 << 20;

/// Fewest tokens that have to agree.
const MIN_MATCH: usize = 3;
/// Tokens by which places are looked up first.
const LONG_MATCH: usize = 8;
/// Matches are compared up to this many tokens; longer ones count as equal.
const MAX_MATCH: usize = 16;
/// Places of one index that a draft looks at, most recent first: some microseconds.
const MAX_PROBES: usize = 256;
/// What ends a stream. It is no token, so it matches nothing.
const BORDER: u32 = u32::MAX;

/// Texts that drafts may be drawn from. Its memory is bounded: the texts that were set longest ago go first.
#[derive(Debug)]
pub struct References {
    streams: RwLock<Streams>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Streams {
    /// All streams one after the other, with borders between them and in place of those that are gone.
    tokens: Vec<u32>,
    spans: HashMap<String, Range<usize>>,
    /// Tokens of the spans, and the border after each.
    n_live: usize,
    by_long_match: SuffixIndex<LONG_MATCH>,
    by_short_match: SuffixIndex<MIN_MATCH>,
}

impl Default for References {
    fn default() -> Self {
        Self::with_capacity(DEFAULT_CAPACITY)
    }
}

impl References {
    /// Room for `capacity` tokens.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            streams: RwLock::default(),
            capacity,
        }
    }

    /// Makes `tokens` the text called `name`, in place of the one that had this name. Of a text that would take more
    /// than half of the room, the beginning is kept.
    pub fn set(&self, name: &str, tokens: &[u32]) {
        let tokens = &tokens[..tokens.len().min(self.capacity / 2)];
        let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        if streams.get(name) == Some(tokens) {
            return;
        }
        streams.remove(name);
        if streams.tokens.len() + tokens.len() >= self.capacity {
            streams.compact(self.capacity / 2);
        }
        streams.append(name.to_owned(), tokens);
        // Places in old versions of a text that is being edited are looked at in vain.
        if streams.tokens.len() > 2 * streams.n_live {
            streams.compact(self.capacity);
        }
    }

    /// Forgets the text called `name`.
    pub fn remove(&self, name: &str) {
        let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        streams.remove(name);
    }
}

impl Streams {
    fn get(&self, name: &str) -> Option<&[u32]> {
        self.spans.get(name).map(|span| &self.tokens[span.clone()])
    }

    fn append(&mut self, name: String, tokens: &[u32]) {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.spans.insert(name, start..self.tokens.len());
        self.tokens.push(BORDER);
        self.n_live += tokens.len() + 1;
        self.by_long_match.extend(&self.tokens);
        self.by_short_match.extend(&self.tokens);
    }

    fn remove(&mut self, name: &str) {
        if let Some(span) = self.spans.remove(name) {
            self.n_live -= span.len() + 1;
            self.tokens[span].fill(BORDER);
        }
    }

    /// Keeps what is still there, the latest first, as far as `room` tokens reach.
    fn compact(&mut self, room: usize) {
        let old = std::mem::take(self);
        let mut spans: Vec<_> = old.spans.into_iter().collect();
        spans.sort_unstable_by_key(|(_, span)| std::cmp::Reverse(span.start));
        let mut left = room;
        let n_kept = spans.iter().take_while(|(_, span)| {
            let fits = span.len() < left;
            left -= if fits { span.len() + 1 } else { 0 };
            fits
        });
        let n_kept = n_kept.count();
        for (name, span) in spans.drain(..n_kept).rev() {
            self.append(name, &old.tokens[span]);
        }
    }

    /// The places that agree longest with the end of `tokens`, as the indices after them, and how far they agree.
    fn longest_matches(&self, tokens: &[u32], places: &mut Vec<usize>) -> usize {
        places.clear();
        let long = self.by_long_match.ends_like(tokens);
        let match_len = self.longest_among(long, LONG_MATCH, tokens, places);
        if !places.is_empty() {
            return match_len;
        }
        let short = self.by_short_match.ends_like(tokens);
        self.longest_among(short, MIN_MATCH, tokens, places)
    }

    /// The same among the first of `ends`, if they agree in `least` tokens.
    fn longest_among(
        &self,
        ends: impl Iterator<Item = usize>,
        least: usize,
        tokens: &[u32],
        places: &mut Vec<usize>,
    ) -> usize {
        let mut best_len = least;
        for end in ends.take(MAX_PROBES) {
            let len = common_suffix(&self.tokens[..end], tokens, MAX_MATCH);
            if len > best_len {
                best_len = len;
                places.clear();
            }
            if len == best_len {
                places.push(end);
            }
        }
        best_len
    }
}

/// Drafts for one sequence from texts that are shared by all.
#[derive(Debug)]
pub struct ReferenceLookup {
    references: Arc<References>,
    // Kept between calls for their memory.
    places: Vec<usize>,
    counts: Vec<(u32, usize)>,
}

impl ReferenceLookup {
    /// A drafter that draws from `references`.
    pub fn new(references: Arc<References>) -> Self {
        Self {
            references,
            places: Vec::new(),
            counts: Vec::new(),
        }
    }

    /// The token that goes on at most of the places, among equals the most recent, and its share of them.
    fn most_frequent(&mut self, streams: &Streams) -> Option<(u32, f64)> {
        self.counts.clear();
        for &place in &self.places {
            let token = streams.tokens[place];
            match self.counts.iter_mut().find(|it| it.0 == token) {
                Some((_, count)) => *count += 1,
                None => self.counts.push((token, 1)),
            }
        }
        let most = self.counts.iter().map(|it| it.1).max()?;
        let &(token, count) = self.counts.iter().find(|it| it.1 == most)?;
        (token != BORDER).then_some((token, count as f64 / self.places.len() as f64))
    }
}

impl Drafter for ReferenceLookup {
    fn kind(&self) -> DrafterKind {
        DrafterKind::References
    }

    fn draft(&mut self, tokens: &[u32], max_len: usize, draft: &mut Draft) {
        draft.clear();
        let references = Arc::clone(&self.references);
        // While a text is being replaced there is no draft: the step does not wait for it.
        let Ok(streams) = references.streams.try_read() else {
            return;
        };
        let match_len = streams.longest_matches(tokens, &mut self.places);
        let prior = Evidence::of_match(match_len).prior_rate();
        while draft.len() < max_len {
            let Some((token, share)) = self.most_frequent(&streams) else {
                return;
            };
            draft.push(token, Evidence::of_probability((prior * share) as f32));
            self.places.retain_mut(|place| {
                let agrees = streams.tokens[*place] == token;
                *place += 1;
                agrees
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(references: &Arc<References>, tokens: &[u32]) -> Vec<u32> {
        let mut draft = Draft::default();
        ReferenceLookup::new(Arc::clone(references)).draft(tokens, 8, &mut draft);
        draft.tokens().collect()
    }

    #[test]
    fn the_most_frequent_continuation_wins() {
        let references = Arc::default();
        References::set(&references, "a", &[1, 2, 3, 7, 8]);
        References::set(&references, "b", &[1, 2, 3, 4, 5, 1, 2, 3, 4, 6]);
        assert_eq!(draft(&references, &[1, 2, 3]), [4, 6]);
        references.remove("b");
        assert_eq!(draft(&references, &[1, 2, 3]), [7, 8]);
        assert!(draft(&references, &[2, 3]).is_empty());
    }

    #[test]
    fn a_longer_match_beats_a_frequent_one() {
        let references = Arc::default();
        References::set(&references, "a", &[1, 2, 3, 4, 1, 2, 3, 4, 9, 1, 2, 3, 5]);
        assert_eq!(draft(&references, &[9, 1, 2, 3]), [5]);
    }

    #[test]
    fn what_is_common_hides_nothing_that_agrees_for_longer() {
        let references = Arc::default();
        let context: Vec<u32> = (10..20).collect();
        References::set(&references, "old", &[&context[..], &[7]].concat());
        let end = &context[7..];
        for other in 0..400 {
            references.set(&other.to_string(), &[&[100 + other], end, &[8]].concat());
        }
        assert_eq!(draft(&references, &context), [7]);
        assert_eq!(draft(&references, end), [8]);
    }

    #[test]
    fn frequency_counts_for_more_than_recency() {
        let references = Arc::default();
        let context: Vec<u32> = (10..30).collect();
        for (idx, next) in [7; 130].into_iter().chain([8; 120]).enumerate() {
            References::set(&references, &idx.to_string(), &[&context[..], &[next]].concat());
        }
        assert_eq!(draft(&references, &context), [7]);
        // Another ten of the rarer one.
        for idx in 250..261 {
            references.set(&idx.to_string(), &[&context[..], &[8]].concat());
        }
        assert_eq!(draft(&references, &context), [8]);
    }

    #[test]
    fn versions_that_are_gone_hide_nothing() {
        let references = Arc::default();
        References::set(&references, "other", &[1, 2, 3, 7]);
        for version in 0..1000 {
            references.set("edited", &[100 + version, 1, 2, 3]);
        }
        references.set("edited", &[9, 9]);
        assert_eq!(draft(&references, &[1, 2, 3]), [7]);
        assert!(references.streams.read().unwrap().tokens.len() < 50);
    }

    #[test]
    fn a_text_takes_the_place_of_the_one_before() {
        let references = Arc::default();
        References::set(&references, "a", &[1, 2, 3, 4]);
        References::set(&references, "a", &[1, 2, 3, 5]);
        assert_eq!(draft(&references, &[1, 2, 3]), [5]);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_texts_go_first() {
        let references = Arc::new(References::with_capacity(1000));
        for name in 0..500u32 {
            let tokens: Vec<u32> = (0..50).map(|i| name * 100 + i).collect();
            references.set(&name.to_string(), &tokens);
            assert!(references.streams.read().unwrap().tokens.len() <= 1000);
            assert_eq!(draft(&references, &tokens[..40])[..3], tokens[40..43]);
        }
        assert!(draft(&references, &[0, 1, 2]).is_empty());
        references.set("long", &(0..5000).map(|it| it + 100_000).collect::<Vec<_>>());
        assert!(references.streams.read().unwrap().tokens.len() <= 1000);
    }
}
