//! The largest excerpt around a cursor that fits a budget, beginning and ending where the code does.

use std::ops::Range;

use ropey::Rope;

use crate::{Syntax, text};

/// First guess of the bytes in one unit of cost, for a token of code.
const BYTES_PER_UNIT: usize = 4;
/// How often `cost` may be asked about one side before the best size so far is taken.
const MAX_GUESSES: usize = 4;
/// The part of a side that may be given up to begin or end it at a border of the syntax: one quarter.
const SNAP_SHARE: usize = 4;

/// How much text may stand on each side of the cursor, in the unit the caller measures (tokens).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// For the text before the cursor.
    pub prefix: usize,
    /// For the text after the cursor.
    pub suffix: usize,
}

/// Two adjacent ranges of bytes that meet at the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Ends at the cursor.
    pub prefix: Range<usize>,
    /// Begins at the cursor.
    pub suffix: Range<usize>,
}

/// The text around the byte offset `at` that fits `budget`.
///
/// Each side is as long as `cost` allows, less up to a quarter for a better border: the prefix begins at the
/// start of a line, if possible of a definition or statement, the outermost one in reach; the suffix ends
/// after a line, if possible after a definition or statement. Only a line that is too long by itself is cut
/// inside. `at` is snapped to a character.
///
/// `cost` should be roughly proportional to length and say 0 for an empty text. It is called up to six times
/// for each side, never with much more text than fits; what it said about the prefix is the first guess
/// for the suffix.
pub fn excerpt(
    syntax: &Syntax,
    rope: &Rope,
    at: usize,
    budget: Budget,
    cost: &dyn Fn(&str) -> usize,
) -> Excerpt {
    let at = text::snap(rope, at);
    let mut guess = BYTES_PER_UNIT as f64;

    let before = |bytes: usize| text::snap_up(rope, at - bytes)..at;
    let raw = at - fit(rope, budget.prefix, at, before, cost, &mut guess);
    let mut start = begin_at_border(syntax, rope, raw, at);
    while start < at && cost(&text::text(rope, start..at)) > budget.prefix {
        start = next_border(rope, start, at);
    }

    let after = |bytes: usize| at..text::snap(rope, at + bytes);
    let raw = at
        + fit(
            rope,
            budget.suffix,
            rope.len_bytes() - at,
            after,
            cost,
            &mut guess,
        );
    let mut end = end_at_border(syntax, rope, at, raw);
    while end > at && cost(&text::text(rope, at..end)) > budget.suffix {
        end = previous_border(rope, at, end);
    }

    Excerpt {
        prefix: start..at,
        suffix: at..end,
    }
}

/// The most bytes, up to `available`, whose text costs no more than `budget`, found in a few guesses.
fn fit(
    rope: &Rope,
    budget: usize,
    available: usize,
    range_of: impl Fn(usize) -> Range<usize>,
    cost: &dyn Fn(&str) -> usize,
    bytes_per_unit: &mut f64,
) -> usize {
    let (mut fits, mut too_much) = (0, available + 1);
    let mut bytes = ((budget as f64 * *bytes_per_unit) as usize).min(available);
    for _ in 0..MAX_GUESSES {
        if bytes == 0 {
            break;
        }
        let range = range_of(bytes);
        let n_bytes = range.len();
        let used = cost(&text::text(rope, range));
        if used > 0 && n_bytes > 0 {
            *bytes_per_unit = n_bytes as f64 / used as f64;
        }
        if used <= budget {
            fits = fits.max(n_bytes);
            if bytes == available || used * 20 >= budget * 19 {
                break;
            }
        } else {
            too_much = bytes;
        }
        // Aim a little low, so that the next guess is likely to fit.
        let aim = (budget as f64 * *bytes_per_unit * 0.98) as usize;
        bytes = aim.clamp(fits, too_much - 1);
        if bytes <= fits {
            break;
        }
    }
    fits
}

/// Start of the first line at or after `raw` that is a good place to begin, up to the line of `at`.
fn begin_at_border(syntax: &Syntax, rope: &Rope, raw: usize, at: usize) -> usize {
    if raw == 0 {
        return 0;
    }
    let first_line = if text::line_start(rope, raw) == raw {
        raw
    } else {
        text::next_line(rope, raw)
    };
    let last_line = text::line_start(rope, at);
    if first_line > last_line {
        // Not even the cursor's own line fits.
        return text::snap_up(rope, raw);
    }
    let reach = (first_line + (at - raw) / SNAP_SHARE).min(last_line);
    starts_after(syntax, raw)
        .into_iter()
        .map(|start| (start, text::line_start(rope, start.min(rope.len_bytes()))))
        .filter(|&(start, line)| {
            first_line <= line && line <= reach && is_blank(&text::text(rope, line..start))
        })
        .map(|(_, line)| line)
        .next()
        .unwrap_or(first_line)
}

/// End of the last line at or before `raw` that is a good place to end, not before the line of `at`.
fn end_at_border(syntax: &Syntax, rope: &Rope, at: usize, raw: usize) -> usize {
    if raw == rope.len_bytes() {
        return raw;
    }
    let last_line = text::line_start(rope, raw);
    if last_line <= at {
        // Not even the cursor's own line fits.
        return text::snap(rope, raw);
    }
    let reach = last_line.saturating_sub((raw - at) / SNAP_SHARE);
    ends_before(syntax, raw)
        .into_iter()
        .map(|end| (end, text::next_line(rope, end.saturating_sub(1))))
        .filter(|&(end, line)| {
            at < line && reach <= line && line <= last_line && is_blank(&text::text(rope, end..line))
        })
        .map(|(_, line)| line)
        .next()
        .unwrap_or(last_line)
}

/// Where the next node starts at or after `at`, for each node around `at`, outermost first.
fn starts_after(syntax: &Syntax, at: usize) -> Vec<usize> {
    let Some(tree) = syntax.tree() else {
        return Vec::new();
    };
    let mut starts = Vec::new();
    let mut cursor = tree.walk();
    while cursor.goto_first_child_for_byte(at).is_some() {
        if cursor.node().start_byte() >= at {
            starts.push(cursor.node().start_byte());
            break;
        }
        let mut next = cursor.clone();
        if next.goto_next_sibling() {
            starts.push(next.node().start_byte());
        }
    }
    starts
}

/// Where the previous node ends at or before `at`, for each node around `at`, outermost first.
fn ends_before(syntax: &Syntax, at: usize) -> Vec<usize> {
    let Some(tree) = syntax.tree() else {
        return Vec::new();
    };
    let mut ends = Vec::new();
    let mut cursor = tree.walk();
    while cursor.goto_first_child_for_byte(at).is_some() {
        let mut previous = cursor.clone();
        if previous.goto_previous_sibling() {
            ends.push(previous.node().end_byte());
        }
        if cursor.node().start_byte() >= at {
            break;
        }
    }
    ends
}

/// The next line after `start`, or half the rest of the last one.
fn next_border(rope: &Rope, start: usize, at: usize) -> usize {
    let line = text::next_line(rope, start);
    if line < at {
        line
    } else {
        text::snap_up(rope, start + (at - start).div_ceil(2)).min(at)
    }
}

/// The line before `end`, or half of what is left of the first one.
fn previous_border(rope: &Rope, at: usize, end: usize) -> usize {
    let line = text::line_start(rope, end - 1);
    if line > at {
        line
    } else {
        text::snap(rope, at + (end - at) / 2)
    }
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}
