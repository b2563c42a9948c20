//! Refuses text that would make the file parse worse, unless a part of it does not.

use std::time::{Duration, Instant};

use surmise_grammars::worsens;

use super::{Candidate, pauses};
use crate::completion::withheld::Withheld;

/// How many shorter texts are tried, and how long: each costs a parse.
const MAX_TRIED: usize = 8;
const TIME_TO_TRY: Duration = Duration::from_millis(30);

pub(super) fn run(candidate: &Candidate<'_>, text: &str) -> Result<usize, Withheld> {
    let Candidate { document, at, .. } = *candidate;
    let is_whole = |end: usize| !worsens(&document.syntax, &document.text, at..at, &text[..end]);
    if is_whole(text.len()) {
        return Ok(text.len());
    }
    let started = Instant::now();
    // One word is worth having where somebody asked, and too little to turn up by itself.
    let least_chars = if candidate.invoked { 1 } else { pauses::LEAST_CHARS };
    pauses::latest_first(text, least_chars)
        .take(MAX_TRIED)
        .take_while(|_| started.elapsed() < TIME_TO_TRY)
        .find(|end| is_whole(*end))
        .ok_or(Withheld::BreaksSyntax)
}
