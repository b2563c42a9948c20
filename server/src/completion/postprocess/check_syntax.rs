//! Refuses text that would make the file parse worse.

use surmise_grammars::worsens;

use super::Candidate;
use crate::completion::withheld::Withheld;

pub(super) fn run(candidate: &Candidate<'_>, text: &str) -> Result<usize, Withheld> {
    let Candidate { document, at, .. } = *candidate;
    if worsens(&document.syntax, &document.text, at..at, text) {
        return Err(Withheld::BreaksSyntax);
    }
    Ok(text.len())
}
