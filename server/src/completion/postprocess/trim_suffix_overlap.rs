//! Takes away from the end what follows the cursor already: punctuation, words, and whole lines.

use super::{Candidate, suffix_lines};
use crate::completion::{trigger::is_word, withheld::Withheld};

pub(super) fn run(candidate: &Candidate<'_>, text: &str) -> Result<usize, Withheld> {
    if text.trim().is_empty() {
        return Ok(text.len());
    }
    let (rest_of_line, lines_below) = suffix_lines(candidate);
    let kept = without_tail(text, rest_of_line.trim_start());
    let kept = without_lines(&text[..kept], &rest_of_line, &lines_below);
    if text[..kept].trim().is_empty() {
        Err(Withheld::RepeatsSuffix)
    } else {
        Ok(kept)
    }
}

/// Cuts before a tail that `rest_of_line` begins with, and never through a word of either: that `true` ends
/// with the letter that `expires` begins with means nothing.
fn without_tail(text: &str, rest_of_line: &str) -> usize {
    let rest_of_line = rest_of_line.trim_end();
    let overlap = (1..=rest_of_line.len().min(text.len()))
        .rev()
        .filter(|n| rest_of_line.is_char_boundary(*n))
        .find(|n| {
            text.ends_with(&rest_of_line[..*n])
                && !is_inside_word(text, text.len() - n)
                && !is_inside_word(rest_of_line, *n)
        });
    // A closer that the text opens itself belongs to it: `[b]` before `]` is not an overlap.
    match overlap {
        Some(n) if !closes_own_bracket(text, text.len() - n) => text.len() - n,
        _ => text.len(),
    }
}

/// Whether a word goes on across `at`.
fn is_inside_word(text: &str, at: usize) -> bool {
    text[..at].ends_with(is_word) && text[at..].starts_with(is_word)
}

/// Whether a bracket that `text[..at]` opens is closed in `text[at..]`.
fn closes_own_bracket(text: &str, at: usize) -> bool {
    let balance = |text: &str| {
        text.chars().fold(0i64, |balance, c| match c {
            '(' | '[' | '{' => balance + 1,
            ')' | ']' | '}' => balance - 1,
            _ => balance,
        })
    };
    balance(&text[..at]) > 0 && balance(&text[at..]) < 0
}

/// Cuts before the last lines of `text` if they are the next lines below, unless they close what the text
/// opened. Indentation counts: a `}` further in is another `}`.
fn without_lines(text: &str, rest_of_line: &str, lines_below: &[String]) -> usize {
    if !rest_of_line.trim().is_empty() {
        return text.len();
    }
    let below: Vec<&str> = lines_below
        .iter()
        .map(|line| line.trim_end())
        .filter(|line| !line.is_empty())
        .collect();
    // Line starts; the first line of the text continues the cursor's line, so it is compared without indent.
    let starts: Vec<usize> = std::iter::once(0)
        .chain(text.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    for (line_idx, start) in starts.iter().copied().enumerate() {
        let tail: Vec<&str> = text[start..]
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.is_empty())
            .collect();
        let is_same = |(tail_idx, (ours, theirs)): (usize, (&&str, &&str))| {
            if line_idx == 0 && tail_idx == 0 {
                ours.trim() == theirs.trim()
            } else {
                ours == theirs
            }
        };
        let repeats =
            !tail.is_empty() && tail.len() <= below.len() && tail.iter().zip(&below).enumerate().all(is_same);
        if repeats && !closes_own_bracket(text, start) {
            return start.saturating_sub(1);
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_whole() {
        let kept = |text, rest_of_line| &text[..without_tail(text, rest_of_line)];
        for (text, rest_of_line) in [
            ("true", "expires: 0"),
            ("r.IsNet", "time.Now()"),
            ("amount: Amount", "to: &str"),
            ("field", "dataclasses"),
            ("0 % 100", "0 / 100"),
            ("a + b", "bar()"),
        ] {
            assert_eq!(kept(text, rest_of_line), text, "before {rest_of_line:?}");
        }
        assert_eq!(kept("a, b)", "b)"), "a, ");
        assert_eq!(kept("a.field", "field = 1"), "a.");
        assert_eq!(kept("width);", ");"), "width");
    }
}
