//! Prompt lookup: the draft is what followed the last time the sequence looked like this.
//!
//! Saxena 2023, "Prompt Lookup Decoding", with the longest matching suffix in place of a fixed n-gram.

use super::drafter::{Draft, Drafter};
use crate::suffix_index::{SuffixIndex, common_suffix};

/// Matches are compared up to this length; longer ones count as equal, and the most recent wins.
const MAX_MATCH: usize = 64;
/// Earlier occurrences of the last two tokens that one call looks at, most recent first.
const MAX_PROBES: usize = 256;

/// Finds the longest suffix of a sequence that occurred before, of two tokens at least; on ties the most
/// recent occurrence.
///
/// Adding a token takes amortised constant time, a draft at most `MAX_PROBES` comparisons; beyond those only the
/// occurrence that the sequence has followed so far is known.
#[derive(Debug, Default)]
pub struct PromptLookup {
    index: SuffixIndex<2>,
    /// Where the sequence would go on if it kept following the last match.
    following: Option<usize>,
}

impl Drafter for PromptLookup {
    fn draft(&mut self, tokens: &[u32], max_len: usize, draft: &mut Draft) {
        draft.clear();
        self.index(tokens);
        let Some((source, match_len)) = self.longest_match(tokens) else {
            return;
        };
        self.following = Some(source);
        draft.match_len = match_len;
        // A match that reaches the end is periodic: the draft then goes on reading itself.
        let period = tokens.len() - source;
        draft
            .tokens
            .extend((0..max_len).map(|i| tokens[source + i % period]));
    }
}

impl PromptLookup {
    /// Adds the tokens that came since the last call.
    fn index(&mut self, tokens: &[u32]) {
        for &token in &tokens[self.index.len()..] {
            self.following = self.following.filter(|&it| tokens[it] == token).map(|it| it + 1);
        }
        self.index.extend(tokens);
    }

    /// The position after the best earlier occurrence, and how many tokens before it agree.
    fn longest_match(&self, tokens: &[u32]) -> Option<(usize, usize)> {
        let mut best = None;
        let mut best_len = 1;
        for source in self.index.candidates().take(MAX_PROBES).chain(self.following) {
            let match_len = common_suffix(&tokens[..source], tokens, MAX_MATCH);
            if match_len > best_len {
                best_len = match_len;
                best = Some((source, match_len));
            }
            if match_len == MAX_MATCH {
                break;
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::split_mix;

    fn draft(tokens: &[u32], max_len: usize) -> Draft {
        let mut draft = Draft::default();
        PromptLookup::default().draft(tokens, max_len, &mut draft);
        draft
    }

    #[test]
    fn drafts_what_followed() {
        assert_eq!(
            draft(&[1, 2, 3, 4, 9, 1, 2], 2),
            Draft {
                tokens: vec![3, 4],
                match_len: 2
            }
        );
    }

    #[test]
    fn the_longer_match_wins_over_the_more_recent() {
        assert_eq!(
            draft(&[7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], 1),
            Draft {
                tokens: vec![3],
                match_len: 3
            }
        );
        assert_eq!(
            draft(&[1, 2, 3, 8, 1, 2, 4, 7, 1, 2], 1),
            Draft {
                tokens: vec![4],
                match_len: 2
            }
        );
    }

    #[test]
    fn periodic_text_drafts_on_and_on() {
        assert_eq!(draft(&[5, 6, 5, 6, 5, 6], 5).tokens, [5, 6, 5, 6, 5]);
        assert_eq!(draft(&[5, 5, 5], 4).tokens, [5, 5, 5, 5]);
    }

    #[test]
    fn nothing_to_say() {
        for tokens in [&[][..], &[1], &[1, 1], &[1, 2, 3, 4]] {
            assert_eq!(draft(tokens, 4), Draft::default(), "{tokens:?}");
        }
    }

    /// Token by token gives the same as all at once, and both the same as trying every place.
    #[test]
    fn equals_the_exhaustive_search() {
        let tokens: Vec<u32> = (0..600).map(|i| (split_mix(i / 3 * 7) % 5) as u32).collect();
        let mut incremental = PromptLookup::default();
        let mut proposed = Draft::default();
        for end in 1..tokens.len() {
            let tokens = &tokens[..end];
            incremental.draft(tokens, 3, &mut proposed);
            let expected = (1..end)
                .map(|source| (common_suffix(&tokens[..source], tokens, MAX_MATCH), source))
                .filter(|&(match_len, _)| match_len >= 2)
                .max();
            assert_eq!(proposed.match_len, expected.map_or(0, |it| it.0), "at {end}");
            assert_eq!(
                proposed.tokens.first().copied(),
                expected.map(|it| tokens[it.1]),
                "at {end}"
            );
            assert_eq!(proposed, draft(tokens, 3), "at {end}");
        }
    }
}
