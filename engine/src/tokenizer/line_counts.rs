//! How many tokens a text takes, line by line and remembered, for callers that measure much the same lines over and over.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
};

use super::{TextStart, Tokenizer};
use crate::error::EngineError;

/// Lines that are remembered at most: half a megabyte. Then it begins anew.
const MAX_LINES: usize = 32 * 1024;

/// Tokens in lines that were measured before. For one tokenizer.
#[derive(Debug, Default)]
pub(crate) struct LineCounts {
    hasher: RandomState,
    /// By the hash of a line.
    counts: Mutex<HashMap<u64, usize>>,
}

impl LineCounts {
    /// Tokens in `text` if each of its lines is made into tokens by itself, with the blank ones below it: as many as in the whole
    /// text with vocabularies that have no tokens across lines, a few more with others.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub(crate) fn count(&self, tokenizer: &Tokenizer, text: &str) -> Result<usize, EngineError> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut n_tokens = 0;
        for line in lines_with_blank_ones(text) {
            let hash = self.hasher.hash_one(line);
            n_tokens += match counts.get(&hash) {
                Some(n_tokens) => *n_tokens,
                None => {
                    let n_tokens = tokenizer.encode_from(line, false, TextStart::Continued)?.len();
                    if counts.len() >= MAX_LINES {
                        counts.clear();
                    }
                    counts.insert(hash, n_tokens);
                    n_tokens
                }
            };
        }
        Ok(n_tokens)
    }
}

/// The text in parts that end where a line begins that is not empty.
fn lines_with_blank_ones(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.find('\n').map_or(rest.len(), |idx| {
            let breaks = rest[idx..]
                .bytes()
                .take_while(|byte| matches!(byte, b'\n' | b'\r'))
                .count();
            idx + breaks
        });
        let (line, after) = rest.split_at(end);
        rest = after;
        (!line.is_empty()).then_some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_add_up_to_the_text() {
        for text in ["", "\n", "a", "a\n", "\n\na\r\n\r\nb\n c"] {
            assert_eq!(lines_with_blank_ones(text).collect::<String>(), text);
        }
        let lines: Vec<&str> = lines_with_blank_ones("a\n\n\n  b\nc").collect();
        assert_eq!(lines, ["a\n\n\n", "  b\n", "c"]);
    }

    #[test]
    #[cfg(feature = "embedded-model")]
    fn as_many_tokens_as_in_the_whole_text() {
        let gguf = crate::weights::Gguf::open(crate::embedded_model().unwrap()).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let counts = LineCounts::default();
        let text = include_str!("line_counts.rs");
        let expected = tokenizer.encode(text, false).unwrap().len();
        for _ in 0..2 {
            assert_eq!(counts.count(&tokenizer, text).unwrap(), expected);
        }
    }
}
