//! Takes white space from the end; refuses text that is nothing else.

use super::Candidate;
use crate::completion::withheld::Withheld;

pub(super) fn run(_: &Candidate<'_>, text: &str) -> Result<usize, Withheld> {
    match text.trim_end().len() {
        0 => Err(Withheld::Empty),
        kept => Ok(kept),
    }
}
