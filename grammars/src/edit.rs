//! One change of a text, in the terms a parser needs to follow it.

use std::ops::Range;

use ropey::Rope;
use tree_sitter::{InputEdit, Point};

use crate::text;

/// A replaced range, described by where it was and where it ended up.
///
/// Bytes count from 0 at the start of the rope. A [`Point`] is a row (number of `\n` before it, from 0) and
/// a column in bytes (from 0). `start_*` and `old_end_*` belong to the text before the edit, `new_end_*` to
/// the text after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextEdit {
    /// First changed byte.
    pub start_byte: usize,
    /// End of the replaced text, exclusive, before the edit.
    pub old_end_byte: usize,
    /// End of the inserted text, exclusive, after the edit.
    pub new_end_byte: usize,
    /// Row and byte column of `start_byte`.
    pub start_point: Point,
    /// Row and byte column of `old_end_byte` before the edit.
    pub old_end_point: Point,
    /// Row and byte column of `new_end_byte` after the edit.
    pub new_end_point: Point,
}

impl TextEdit {
    /// Replaces `range` of the rope with `text` and says what changed.
    ///
    /// Ends of `range` beyond the rope or inside a character are moved down to the nearest character border,
    /// and a reversed range counts as empty at its start.
    pub fn apply(rope: &mut Rope, range: Range<usize>, text: &str) -> TextEdit {
        let range = text::snap_range(rope, range);
        let start_point = text::point_at(rope, range.start);
        let old_end_point = text::advance(start_point, &text::text(rope, range.clone()));
        let start_char = rope.byte_to_char(range.start);
        if !range.is_empty() {
            rope.remove(start_char..rope.byte_to_char(range.end));
        }
        rope.insert(start_char, text);
        TextEdit {
            start_byte: range.start,
            old_end_byte: range.end,
            new_end_byte: range.start + text.len(),
            start_point,
            old_end_point,
            new_end_point: text::advance(start_point, text),
        }
    }

    /// Where a range of the text before the edit is after it; none if something was removed at its start, at its end or across
    /// them. What is inserted before or after it is not in it.
    pub(crate) fn moved(&self, range: &Range<usize>) -> Option<Range<usize>> {
        let shift = |byte: usize| byte - self.old_end_byte + self.new_end_byte;
        if self.old_end_byte <= range.start {
            Some(shift(range.start)..shift(range.end))
        } else if self.start_byte >= range.end {
            Some(range.clone())
        } else {
            let is_inside = range.start < self.start_byte && self.old_end_byte < range.end;
            is_inside.then(|| range.start..shift(range.end))
        }
    }

    /// Whether the edit neither removed a line break nor brought one.
    pub(crate) fn is_in_one_line(&self) -> bool {
        self.start_point.row == self.old_end_point.row && self.start_point.row == self.new_end_point.row
    }

    pub(crate) fn as_input_edit(&self) -> InputEdit {
        InputEdit {
            start_byte: self.start_byte,
            old_end_byte: self.old_end_byte,
            new_end_byte: self.new_end_byte,
            start_position: self.start_point,
            old_end_position: self.old_end_point,
            new_end_position: self.new_end_point,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_changes_the_rope_and_says_where() {
        let mut rope = Rope::from_str("one\ntwo\nthree");
        let edit = TextEdit::apply(&mut rope, 5..9, "😀\n");
        assert_eq!(rope.to_string(), "one\nt😀\nhree");
        assert_eq!(
            (edit.start_byte, edit.old_end_byte, edit.new_end_byte),
            (5, 9, 10)
        );
        assert_eq!(edit.start_point, Point::new(1, 1));
        assert_eq!(edit.old_end_point, Point::new(2, 1));
        assert_eq!(edit.new_end_point, Point::new(2, 0));
    }

    #[test]
    fn ranges_move_with_edits() {
        let edit = TextEdit::apply(&mut Rope::from_str("0123456789"), 4..6, "abc");
        for (range, moved) in [
            (0..4, Some(0..4)),
            (6..8, Some(7..9)),
            (3..7, Some(3..8)),
            (4..6, None),
            (4..8, None),
            (3..6, None),
            (3..5, None),
            (5..8, None),
        ] {
            assert_eq!(edit.moved(&range), moved, "{range:?}");
        }
    }

    #[test]
    fn ranges_out_of_place_are_snapped() {
        let mut rope = Rope::from_str("é");
        let edit = TextEdit::apply(&mut rope, 1..99, "x");
        assert_eq!((edit.start_byte, edit.old_end_byte), (0, 2));
        assert_eq!(rope.to_string(), "x");
    }
}
