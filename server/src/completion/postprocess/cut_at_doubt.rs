//! Keeps as much as is probably right, all of it together; refuses text whose beginning is not. What the user asked for
//! is left whole.
//!
//! Half a suggestion is worth accepting if it ends where a reader would pause: at the end of a line, or of a word after
//! some characters, with no bracket left open.

use super::{Candidate, pauses};
use crate::completion::withheld::Withheld;

pub(super) fn run(candidate: &Candidate<'_>, text: &str) -> Result<usize, Withheld> {
    let least = candidate.config.min_confidence;
    let is_sure = |len: usize| confidence(candidate.logprobs, len).is_none_or(|it| it >= least);
    if candidate.invoked || is_sure(text.len()) {
        return Ok(text.len());
    }
    pauses::latest_first(text, pauses::LEAST_CHARS)
        .find(|end| is_sure(*end))
        .ok_or_else(|| Withheld::LowConfidence {
            confidence: confidence(candidate.logprobs, text.len()).unwrap_or(0.0),
            least,
        })
}

/// Probability that all tokens are right that begin before byte `len`: the product of theirs, without those that only
/// spell what was typed. None without tokens.
pub(crate) fn confidence(logprobs: &[(usize, f32)], len: usize) -> Option<f64> {
    let begins = std::iter::once(0).chain(logprobs.iter().map(|(end, _)| *end));
    let kept = begins
        .zip(logprobs)
        .filter(|(begin, (end, _))| begin < end && *begin < len);
    let logprobs: Vec<f64> = kept.map(|(_, (_, logprob))| f64::from(*logprob)).collect();
    (!logprobs.is_empty()).then(|| logprobs.iter().sum::<f64>().exp())
}

#[cfg(test)]
mod tests {
    use surmise_grammars::Extent;

    use super::*;
    use crate::{config::CompletionConfig, document::Document};

    /// What is left of pieces with their probabilities, at a threshold of one half.
    fn check(pieces: &[(&str, f32)], expected: Option<&str>) {
        let text: String = pieces.iter().map(|(piece, _)| *piece).collect();
        let mut end = 0;
        let logprobs: Vec<(usize, f32)> = pieces
            .iter()
            .map(|(piece, probability)| {
                end += piece.len();
                (end, probability.ln())
            })
            .collect();
        let document = Document::new(None, Some("python"), None, "");
        let config = CompletionConfig {
            min_confidence: 0.5,
            ..CompletionConfig::default()
        };
        let candidate = Candidate {
            document: &document,
            at: 0,
            extent: Extent::Block,
            config: &config,
            logprobs: &logprobs,
            invoked: false,
        };
        assert_eq!(run(&candidate, &text).ok().map(|kept| &text[..kept]), expected);
        let invoked = Candidate {
            invoked: true,
            ..candidate
        };
        assert_eq!(run(&invoked, &text).ok(), Some(text.len()));
    }

    #[test]
    fn probabilities_multiply() {
        check(&[("one", 0.8), ("_two", 0.8)], Some("one_two"));
        check(&[("one", 0.7), ("_two", 0.7)], None);
        assert_eq!(confidence(&[(2, -1.0)], 0), None);
        assert_eq!(confidence(&[(0, -9.0), (2, 0.0)], 2), Some(1.0));
        let half = 0.5f32.ln();
        let both = confidence(&[(2, half), (4, half), (9, -100.0)], 4);
        assert!((both.unwrap() - 0.25).abs() < 1e-6);
    }

    #[test]
    fn sure_lines_stay() {
        let lines = [
            ("first()\n", 0.9),
            ("second()", 0.8),
            ("\n", 1.0),
            ("third()", 0.2),
        ];
        check(&lines, Some("first()\nsecond()"));
        check(&lines[..3], Some("first()\nsecond()\n"));
    }

    #[test]
    fn sure_words_stay_where_no_bracket_is_open() {
        check(
            &[("self.total_of(item)", 0.9), (" + rest", 0.1)],
            Some("self.total_of(item)"),
        );
        check(&[("self.total_of", 0.9), ("(item)", 0.1)], Some("self.total_of"));
        check(
            &[("self.total_of(item, ", 0.9), ("rest)", 0.1)],
            Some("self.total_of"),
        );
        check(&[("'a quoted text ", 0.9), ("goes on'", 0.1)], None);
        check(&[("short", 0.9), ("(item)", 0.1)], None);
    }
}
