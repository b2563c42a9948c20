//! Whether a suggestion would break the code it is put into.

use std::ops::Range;

use ropey::Rope;

use crate::{Language, Syntax, text};

/// Whether the tree has more errors with `text` in the place of `replace` than it has now.
///
/// Code around a cursor is usually broken already, so errors are compared, not forbidden: worse means more
/// ERROR and MISSING nodes, or as many of them over more text than was inserted. More but clearly smaller
/// errors (half the bytes) are no worse. The beginning of a block in Python (`if x:`) is no error, because
/// its body comes next. Plain text never gets worse, nor does a file too slow to parse.
///
/// Parses an edited copy; neither the rope nor the tree changes.
pub fn worsens(syntax: &Syntax, rope: &Rope, replace: Range<usize>, text: &str) -> bool {
    if is_worse(syntax, rope, replace.clone(), text) {
        // A header is judged by whether it would be right with a body.
        let header = syntax.language() == Language::Python && text.trim_end().ends_with(':');
        return !header || is_worse(syntax, rope, replace, &format!("{} pass", text.trim_end()));
    }
    false
}

fn is_worse(syntax: &Syntax, rope: &Rope, replace: Range<usize>, text: &str) -> bool {
    let replace = text::snap_range(rope, replace);
    let before = syntax.damage();
    let (syntax, ..) = syntax.preview(rope, replace, text);
    if syntax.is_stale() {
        return false;
    }
    let after = syntax.damage();
    if after.nodes > before.nodes {
        after.bytes * 2 > before.bytes
    } else {
        after.nodes == before.nodes && after.nodes > 0 && after.bytes > before.bytes + text.len()
    }
}
