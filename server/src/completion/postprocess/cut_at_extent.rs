//! Cuts the text where the line, the statement or the block ends, or where it would close a bracket that is
//! closed after the cursor already.

use surmise_grammars::completion_end;

use super::Candidate;
use crate::completion::withheld::Withheld;

pub(super) fn run(candidate: &Candidate<'_>, text: &str) -> Result<usize, Withheld> {
    Ok(end(candidate, text))
}

/// Whether `text`, of which more may come, is all that the extent wants already.
pub(crate) fn is_complete(candidate: &Candidate<'_>, text: &str) -> bool {
    // Only a finished line says whether the line before it was the end.
    let finished = text.rfind('\n').map_or("", |end| &text[..end]);
    !finished.trim().is_empty() && end(candidate, finished) < finished.trim_end().len()
}

fn end(candidate: &Candidate<'_>, text: &str) -> usize {
    let Candidate {
        document, at, extent, ..
    } = *candidate;
    completion_end(&document.syntax, &document.text, at, text, extent)
}
