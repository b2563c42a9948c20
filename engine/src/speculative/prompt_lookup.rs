//! Prompt lookup: the draft is what followed the last time the sequence looked like this.
//!
//! Saxena 2023, "Prompt Lookup Decoding", with the longest matching suffix in place of a fixed n-gram.

use super::{
    drafter::{Draft, Drafter, DrafterKind, Evidence},
    suffix_automaton::{Occurrence, SuffixAutomaton},
};

/// Fewest tokens that have to agree.
const MIN_MATCH: usize = 2;

/// Finds the longest suffix of a sequence that occurred before; on ties the most recent occurrence. Adding a token
/// takes amortised constant time, and a draft no more than its length.
#[derive(Debug, Default)]
pub struct PromptLookup {
    automaton: SuffixAutomaton,
}

impl Drafter for PromptLookup {
    fn kind(&self) -> DrafterKind {
        DrafterKind::PromptLookup
    }

    fn draft(&mut self, tokens: &[u32], max_len: usize, draft: &mut Draft) {
        draft.clear();
        for &token in &tokens[self.automaton.len()..] {
            self.automaton.push(token);
        }
        let Some(Occurrence { end, len }) = self.automaton.earlier().filter(|it| it.len >= MIN_MATCH) else {
            return;
        };
        // A match that reaches the end is periodic: the draft then goes on reading itself.
        let period = tokens.len() - end;
        for i in 0..max_len {
            draft.push(tokens[end + i % period], Evidence::of_match(len));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(tokens: &[u32], max_len: usize) -> Vec<u32> {
        let mut draft = Draft::default();
        PromptLookup::default().draft(tokens, max_len, &mut draft);
        assert!(draft.is_chain());
        draft.tokens().collect()
    }

    #[test]
    fn drafts_what_followed() {
        assert_eq!(draft(&[1, 2, 3, 4, 9, 1, 2], 2), [3, 4]);
    }

    #[test]
    fn the_longer_match_wins_over_the_more_recent() {
        assert_eq!(draft(&[7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], 1), [3]);
        assert_eq!(draft(&[1, 2, 3, 8, 1, 2, 4, 7, 1, 2], 1), [4]);
    }

    #[test]
    fn periodic_text_drafts_on_and_on() {
        assert_eq!(draft(&[5, 6, 5, 6, 5, 6], 5), [5, 6, 5, 6, 5]);
        assert_eq!(draft(&[5, 5, 5], 4), [5, 5, 5, 5]);
    }

    #[test]
    fn nothing_to_say() {
        for tokens in [&[][..], &[1], &[1, 1], &[1, 2, 3, 4]] {
            assert!(draft(tokens, 4).is_empty(), "{tokens:?}");
        }
    }

    #[test]
    fn token_by_token_gives_the_same_as_all_at_once() {
        let tokens: Vec<u32> = (0..300).map(|i| i * i % 7).collect();
        let mut incremental = PromptLookup::default();
        let mut proposed = Draft::default();
        for end in 1..tokens.len() {
            incremental.draft(&tokens[..end], 5, &mut proposed);
            assert!(proposed.tokens().eq(draft(&tokens[..end], 5)), "at {end}");
        }
    }
}
