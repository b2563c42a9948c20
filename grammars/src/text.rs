//! Byte arithmetic on ropes: snapping offsets to characters, finding line borders, measuring indentation.
//!
//! A line ends with `\n` and nothing else, because that is what tree-sitter counts as a row. Ropey's own
//! lines depend on its features (`\r`, U+2028, ...), so they are not used anywhere in this crate.

use std::borrow::Cow;
use std::ops::Range;

use ropey::Rope;
use tree_sitter::Point;

/// The last character border at or before `byte`; the end of the rope for anything beyond it.
pub(crate) fn snap(rope: &Rope, byte: usize) -> usize {
    let byte = byte.min(rope.len_bytes());
    rope.char_to_byte(rope.byte_to_char(byte))
}

/// The first character border at or after `byte`; the end of the rope for anything beyond it.
pub(crate) fn snap_up(rope: &Rope, byte: usize) -> usize {
    let down = snap(rope, byte);
    if down >= byte.min(rope.len_bytes()) {
        down
    } else {
        rope.char_to_byte(rope.byte_to_char(down) + 1)
    }
}

/// Both ends snapped down to character borders; a reversed range becomes empty at its start.
pub(crate) fn snap_range(rope: &Rope, range: Range<usize>) -> Range<usize> {
    let start = snap(rope, range.start);
    start..snap(rope, range.end).max(start)
}

/// The text of a range, snapped; borrowed when it lies in one chunk of the rope.
pub(crate) fn text(rope: &Rope, range: Range<usize>) -> Cow<'_, str> {
    rope.byte_slice(snap_range(rope, range)).into()
}

/// What a parser reads at `byte`: the rest of the chunk it lies in, empty at the end of the rope.
pub(crate) fn chunk_from(rope: &Rope, byte: usize) -> &[u8] {
    if byte >= rope.len_bytes() {
        return &[];
    }
    let (chunk, chunk_start, _, _) = rope.chunk_at_byte(byte);
    &chunk.as_bytes()[byte - chunk_start..]
}

/// Offset just after the last `\n` before `byte`, or 0.
pub(crate) fn line_start(rope: &Rope, byte: usize) -> usize {
    let mut end = byte.min(rope.len_bytes());
    while end > 0 {
        let (chunk, chunk_start, _, _) = rope.chunk_at_byte(end - 1);
        if let Some(found) = chunk.as_bytes()[..end - chunk_start]
            .iter()
            .rposition(|&b| b == b'\n')
        {
            return chunk_start + found + 1;
        }
        end = chunk_start;
    }
    0
}

/// Offset of the first `\n` at or after `byte`, or the end of the rope.
pub(crate) fn line_end(rope: &Rope, byte: usize) -> usize {
    let mut start = byte.min(rope.len_bytes());
    loop {
        let rest = chunk_from(rope, start);
        if rest.is_empty() {
            return rope.len_bytes();
        }
        if let Some(found) = rest.iter().position(|&b| b == b'\n') {
            return start + found;
        }
        start += rest.len();
    }
}

/// Offset just after the first `\n` at or after `byte`, or the end of the rope.
pub(crate) fn next_line(rope: &Rope, byte: usize) -> usize {
    (line_end(rope, byte) + 1).min(rope.len_bytes())
}

/// Row (number of `\n` before `byte`) and column (bytes since the last one).
///
/// Counts line breaks from the start of the rope: linear, but at memory speed (about 20 µs in 400 kB).
pub(crate) fn point_at(rope: &Rope, byte: usize) -> Point {
    let byte = byte.min(rope.len_bytes());
    let mut row = 0;
    let mut seen = 0;
    for chunk in rope.chunks() {
        if seen >= byte {
            break;
        }
        let bytes = &chunk.as_bytes()[..chunk.len().min(byte - seen)];
        row += count_newlines(bytes);
        seen += chunk.len();
    }
    Point::new(row, byte - line_start(rope, byte))
}

/// The point reached from `start` after passing over `text`.
pub(crate) fn advance(start: Point, text: &str) -> Point {
    match text.rfind('\n') {
        Some(last) => Point::new(start.row + count_newlines(text.as_bytes()), text.len() - last - 1),
        None => Point::new(start.row, start.column + text.len()),
    }
}

fn count_newlines(bytes: &[u8]) -> usize {
    // Sums of at most 255 fit in a byte, which lets the compiler count many bytes at once.
    bytes
        .chunks(255)
        .map(|part| usize::from(part.iter().map(|&b| u8::from(b == b'\n')).sum::<u8>()))
        .sum()
}

/// Width of the white space that begins a line, in columns; a tab reaches the next multiple of four.
pub(crate) fn indent_width(line: &str) -> usize {
    let mut width = 0;
    for byte in line.bytes() {
        match byte {
            b' ' => width += 1,
            b'\t' => width = width / 4 * 4 + 4,
            _ => break,
        }
    }
    width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_snap_to_characters_and_to_the_rope() {
        let rope = Rope::from_str("aé😀");
        let down: Vec<_> = (0..10).map(|byte| snap(&rope, byte)).collect();
        assert_eq!(down, [0, 1, 1, 3, 3, 3, 3, 7, 7, 7]);
        let up: Vec<_> = (0..10).map(|byte| snap_up(&rope, byte)).collect();
        assert_eq!(up, [0, 1, 3, 3, 7, 7, 7, 7, 7, 7]);
        #[expect(clippy::reversed_empty_ranges)]
        let reversed = snap_range(&rope, 5..2);
        assert_eq!(reversed, 3..3);
    }

    #[test]
    fn lines_end_with_newline_only() {
        let rope = Rope::from_str("a\r\nb\u{2028}c\rd\n");
        assert_eq!(line_start(&rope, 8), 3);
        assert_eq!(line_end(&rope, 3), rope.len_bytes() - 1);
        assert_eq!(point_at(&rope, rope.len_bytes()), Point::new(2, 0));
        assert_eq!(point_at(&rope, 4), Point::new(1, 1));
        assert_eq!(next_line(&rope, 0), 3);
    }

    #[test]
    fn points_advance_over_text() {
        assert_eq!(advance(Point::new(3, 4), "ab"), Point::new(3, 6));
        assert_eq!(advance(Point::new(3, 4), "ab\nc\r\nxyz"), Point::new(5, 3));
    }

    #[test]
    fn lines_are_found_across_chunks() {
        let long = "x".repeat(50_000);
        let rope = Rope::from_str(&format!("{long}\n{long}"));
        assert_eq!(line_end(&rope, 10), 50_000);
        assert_eq!(line_start(&rope, rope.len_bytes()), 50_001);
        assert_eq!(point_at(&rope, 100_001), Point::new(1, 50_000));
    }
}
