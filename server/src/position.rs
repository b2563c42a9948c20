//! Positions: which byte a line and a column mean, in the unit an editor counts columns in.
//!
//! Inside Surmise a place in a text is a byte offset, and a range of text a half-open range of byte
//! offsets. Lines and columns exist only at the rim, as [`Position`]s in an [`Encoding`]:
//!
//! ```text
//!   text       a  é  😀 \r \n b
//!   bytes      0  1  3  7  8  9   10 = end        lines end at "\n", "\r\n" and "\r" only
//!   utf-8      0  1  3  |      0   1
//!   utf-16     0  1  2  4      0   1              😀 takes two UTF-16 units
//!   utf-32     0  1  2  3      0   1
//! ```

use std::ops::Range;

use ropey::Rope;

/// The unit in which columns are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// Bytes.
    Utf8,
    /// UTF-16 code units: what LSP means if nothing else was agreed.
    #[default]
    Utf16,
    /// Characters (Unicode scalar values), as people count them on the command line.
    Utf32,
}

/// A place between two characters: line and column, both from 0, the column in some [`Encoding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 0.
    pub line: usize,
    /// Column, from 0.
    pub column: usize,
}

/// Byte offset of `position` in `text`.
///
/// Never fails: a line past the end means the end of the text, a column past the end of its line means
/// that end (before the line break), and a column inside a character means the start of the character.
pub fn offset_at(text: &Rope, position: Position, encoding: Encoding) -> usize {
    if position.line >= text.len_lines() {
        return text.len_bytes();
    }
    let line = line_chars(text, position.line);
    let column_after = |start: usize, end: usize| start.saturating_add(position.column).min(end);
    let at = match encoding {
        Encoding::Utf8 => text.byte_to_char(column_after(
            text.char_to_byte(line.start),
            text.char_to_byte(line.end),
        )),
        Encoding::Utf16 => text.utf16_cu_to_char(column_after(
            text.char_to_utf16_cu(line.start),
            text.char_to_utf16_cu(line.end),
        )),
        Encoding::Utf32 => column_after(line.start, line.end),
    };
    text.char_to_byte(at)
}

/// Position of the byte `offset` in `text`; an offset past the end means the end.
pub fn position_at(text: &Rope, offset: usize, encoding: Encoding) -> Position {
    let at = text.byte_to_char(offset.min(text.len_bytes()));
    let line = text.char_to_line(at);
    let start = text.line_to_char(line);
    let column = match encoding {
        Encoding::Utf8 => text.char_to_byte(at) - text.char_to_byte(start),
        Encoding::Utf16 => text.char_to_utf16_cu(at) - text.char_to_utf16_cu(start),
        Encoding::Utf32 => at - start,
    };
    Position { line, column }
}

/// Bytes of the line that `offset` stands on, without its line break.
pub fn line_at(text: &Rope, offset: usize) -> Range<usize> {
    let line = line_chars(text, text.byte_to_line(offset.min(text.len_bytes())));
    text.char_to_byte(line.start)..text.char_to_byte(line.end)
}

/// Characters of line `line_idx`, without its line break.
fn line_chars(text: &Rope, line_idx: usize) -> Range<usize> {
    let start = text.line_to_char(line_idx);
    let line = text.line(line_idx);
    let mut len = line.len_chars();
    if len > 0 && line.char(len - 1) == '\n' {
        len -= 1;
    }
    if len > 0 && line.char(len - 1) == '\r' {
        len -= 1;
    }
    start..start + len
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "aé😀\r\nb";

    fn offset(line: usize, column: usize, encoding: Encoding) -> usize {
        offset_at(&Rope::from_str(TEXT), Position { line, column }, encoding)
    }

    #[test]
    fn columns_count_in_the_agreed_unit() {
        assert_eq!(offset(0, 3, Encoding::Utf8), 3);
        assert_eq!(offset(0, 2, Encoding::Utf16), 3);
        assert_eq!(offset(0, 4, Encoding::Utf16), 7);
        assert_eq!(offset(0, 3, Encoding::Utf32), 7);
        assert_eq!(offset(1, 1, Encoding::Utf16), 10);
    }

    #[test]
    fn places_that_do_not_exist_are_moved_to_the_nearest_one_before() {
        assert_eq!(offset(0, 3, Encoding::Utf16), 3, "inside a surrogate pair");
        assert_eq!(offset(0, 5, Encoding::Utf8), 3, "inside a character");
        assert_eq!(
            offset(0, 4_294_967_295, Encoding::Utf16),
            7,
            "before the line break"
        );
        assert_eq!(offset(1, 9, Encoding::Utf16), 10);
        assert_eq!(offset(7, 0, Encoding::Utf16), 10, "past the last line");
        assert_eq!(offset(0, usize::MAX, Encoding::Utf8), 7);
    }

    #[test]
    fn offsets_and_positions_are_inverse() {
        let text = Rope::from_str("x\r\ny\nz\rü😀\n\n");
        for encoding in [Encoding::Utf8, Encoding::Utf16, Encoding::Utf32] {
            for (offset, _) in text.to_string().char_indices() {
                if offset == 2 {
                    continue; // Between "\r" and "\n" is no place.
                }
                let position = position_at(&text, offset, encoding);
                assert_eq!(
                    offset_at(&text, position, encoding),
                    offset,
                    "{position:?} {encoding:?}"
                );
            }
        }
    }

    #[test]
    fn only_lf_crlf_and_cr_end_a_line() {
        let text = Rope::from_str("a\u{b}b\u{85}c\u{2028}d\ne");
        assert_eq!(
            position_at(&text, text.len_bytes(), Encoding::Utf32),
            Position { line: 1, column: 1 }
        );
        assert_eq!(line_at(&text, 0), 0..text.len_bytes() - 2);
    }
}
