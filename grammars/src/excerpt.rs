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
    let Some(tree) = syntax.rough_tree() else {
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
    let Some(tree) = syntax.rough_tree() else {
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use expect_test::{Expect, expect};

    use super::*;
    use crate::test_support::{Random, code_in, long_rust};
    use crate::{Language, outline};

    /// A word, a number or a punctuation mark costs 1, as with a tokenizer.
    fn words(text: &str) -> usize {
        let mut n_words = 0;
        let mut in_word = false;
        for c in text.chars() {
            let is_word = c.is_alphanumeric();
            let begins = !is_word || !in_word;
            n_words += usize::from(begins && !c.is_whitespace());
            in_word = is_word;
        }
        n_words
    }

    /// Shows the excerpt around `ˇ`, with `…` where something was left out.
    fn check(language: Language, fixture: &str, prefix: usize, suffix: usize, expected: Expect) {
        let at = fixture.find('ˇ').unwrap();
        let rope = Rope::from_str(&fixture.replace('ˇ', ""));
        let syntax = Syntax::parse(language, &rope);
        let excerpt = excerpt(&syntax, &rope, at, Budget { prefix, suffix }, &words);
        let mut shown = String::new();
        shown.push_str(if excerpt.prefix.start > 0 { "…" } else { "" });
        shown.push_str(&text::text(&rope, excerpt.prefix));
        shown.push('ˇ');
        shown.push_str(&text::text(&rope, excerpt.suffix.clone()));
        shown.push_str(if excerpt.suffix.end < rope.len_bytes() {
            "…"
        } else {
            ""
        });
        expected.assert_eq(&shown);
    }

    const CODE: &str = "struct A;

fn first(x: u32) -> u32 {
    let y = x + 1;
    y * 2
}

fn second() {
    let a = 1;
    ˇ
    let b = 2;
}

fn third() {
    let c = 3;
    let d = 4;
}

struct B;
";

    #[test]
    fn everything_is_taken_if_it_fits() {
        check(
            Language::Rust,
            CODE,
            1000,
            1000,
            expect![[r#"
            struct A;

            fn first(x: u32) -> u32 {
                let y = x + 1;
                y * 2
            }

            fn second() {
                let a = 1;
                ˇ
                let b = 2;
            }

            fn third() {
                let c = 3;
                let d = 4;
            }

            struct B;
        "#]],
        );
    }

    #[test]
    fn an_excerpt_begins_and_ends_at_definitions_if_it_can() {
        check(
            Language::Rust,
            CODE,
            20,
            24,
            expect![[r#"
            …fn second() {
                let a = 1;
                ˇ
                let b = 2;
            }

            fn third() {
                let c = 3;
                let d = 4;
            }
            …"#]],
        );
        check(
            Language::Rust,
            CODE,
            38,
            9,
            expect![[r#"
            struct A;

            fn first(x: u32) -> u32 {
                let y = x + 1;
                y * 2
            }

            fn second() {
                let a = 1;
                ˇ
                let b = 2;
            }
            …"#]],
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_inside() {
        let line = "one two three four five ˇsix seven eight nine ten";
        check(
            Language::PlainText,
            line,
            3,
            3,
            expect!["…e four five ˇsix seven ei…"],
        );
        check(Language::Rust, CODE, 0, 0, expect!["…ˇ…"]);
    }

    #[test]
    fn excerpts_fit_for_any_budget_anywhere() {
        for &language in Language::all() {
            let code = match language {
                Language::PlainText => "é 😀 words\r\n".repeat(50),
                language => code_in(language).repeat(3),
            };
            let rope = Rope::from_str(&code);
            let syntax = Syntax::parse(language, &rope);
            let mut random = Random::new(language as u64);
            for _ in 0..60 {
                let at = random.below(code.len() + 3);
                let budget = Budget {
                    prefix: random.below(300),
                    suffix: random.below(200),
                };
                let n_calls = Cell::new(0);
                let cost = |text: &str| {
                    n_calls.set(n_calls.get() + 1);
                    words(text)
                };
                let excerpt = excerpt(&syntax, &rope, at, budget, &cost);
                assert!(n_calls.get() <= 12, "{} calls", n_calls.get());
                assert_eq!(excerpt.prefix.end, text::snap(&rope, at));
                assert_eq!(excerpt.suffix.start, text::snap(&rope, at));
                assert!(words(&text::text(&rope, excerpt.prefix.clone())) <= budget.prefix);
                assert!(words(&text::text(&rope, excerpt.suffix.clone())) <= budget.suffix);
                let starts_line = text::line_start(&rope, excerpt.prefix.start) == excerpt.prefix.start;
                let in_line = text::line_start(&rope, at) <= excerpt.prefix.start;
                assert!(starts_line || in_line, "{language:?} {at} {excerpt:?}");
            }
        }
    }

    #[test]
    fn a_long_file_is_not_measured_as_a_whole() {
        let code = long_rust(10_000);
        let rope = Rope::from_str(&code);
        let syntax = Syntax::parse(Language::Rust, &rope);
        let n_bytes = Cell::new(0);
        let cost = |text: &str| {
            n_bytes.set(n_bytes.get() + text.len());
            words(text)
        };
        let budget = Budget {
            prefix: 1000,
            suffix: 300,
        };
        let excerpt = excerpt(&syntax, &rope, code.len() / 2, budget, &cost);
        assert!(n_bytes.get() < 40_000, "{} bytes measured", n_bytes.get());
        assert!(words(&text::text(&rope, excerpt.prefix.clone())) > 700);
        // A function begins with the comment line above it.
        let begins = |line: usize| {
            outline(&syntax, &rope)
                .iter()
                .any(|d| text::line_start(&rope, d.range.start.saturating_sub(1)) == line)
        };
        assert!(begins(excerpt.prefix.start));
    }
}
