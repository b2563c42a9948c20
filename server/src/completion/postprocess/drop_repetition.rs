//! Ends a loop after one turn, and refuses text that stands right above the cursor already.

use super::Candidate;
use crate::{completion::withheld::Withheld, position::line_at};

/// Longest loop that is looked for, in lines.
const MAX_PERIOD: usize = 6;

pub(super) fn run(candidate: &Candidate<'_>, text: &str) -> Result<usize, Withheld> {
    let kept = &text[..first_turn(text)];
    if repeats_lines_above(candidate, kept) {
        Err(Withheld::RepeatsPrefix)
    } else {
        Ok(kept.len())
    }
}

/// Bytes up to where lines begin to repeat the lines just before them.
fn first_turn(text: &str) -> usize {
    let starts: Vec<usize> = std::iter::once(0)
        .chain(text.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    let lines: Vec<&str> = text.split('\n').map(str::trim).collect();
    for period in 1..=MAX_PERIOD {
        for (first, pair) in lines.windows(2 * period).enumerate() {
            let (turn, next) = pair.split_at(period);
            if turn == next && turn.iter().any(|line| says_something(line)) {
                return starts[first + period] - 1;
            }
        }
    }
    text.len()
}

/// Whether the text, from the start of its line on, is what stands directly above.
fn repeats_lines_above(candidate: &Candidate<'_>, text: &str) -> bool {
    let line = line_at(&candidate.document.text, candidate.at);
    let whole = format!("{}{text}", candidate.document.excerpt(line.start..candidate.at));
    let ours: Vec<&str> = whole
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let from = line.start.saturating_sub(4096);
    let from = candidate
        .document
        .text
        .char_to_byte(candidate.document.text.byte_to_char(from));
    let above = candidate.document.excerpt(from..line.start);
    let above: Vec<&str> = above
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    ours.iter().any(|line| says_something(line)) && above.ends_with(&ours)
}

/// Whether a line has a letter or a digit; brackets alone repeat for good reasons.
fn says_something(line: &str) -> bool {
    line.contains(char::is_alphanumeric)
}
