//! The most text around a cursor that fits a budget, beginning and ending where the code does.

use std::ops::Range;

use ropey::Rope;

use crate::{Syntax, text};

/// First guess of the bytes in one unit of cost, for a token of code. Always the same, for always the same borders.
const BYTES_PER_UNIT: f64 = 3.3;
/// How often `cost` may be asked about one side before the best size so far is taken.
const MAX_GUESSES: usize = 4;
/// The part of a side that may be given up to begin or end it at a border of the syntax: one quarter.
const SNAP_SHARE: usize = 4;
/// The part of the prefix that is kept free for what is typed: one eighth. Meanwhile it begins where it began.
const TYPING_SHARE: usize = 8;
/// Bytes of it for one unit, few enough to fit with the line in which they begin.
const TYPED_BYTES_PER_UNIT: f64 = 2.5;
/// With fewer units for it than a line takes, nothing is kept free.
const MIN_TYPING_UNITS: usize = 16;
/// Words that begin no statement, in one language or another, but end one or go on with it.
const GOING_ON: [&str; 11] = [
    "do", "done", "elif", "else", "elsif", "end", "ensure", "except", "fi", "finally", "rescue",
];

/// The bytes before the offset `at` that fit a budget; they end at `at`, snapped to a character.
///
/// As many as `cost` allows, less up to a quarter for a better border: they begin at the start of a line, if
/// possible of a definition or statement, the outermost one in reach. Only a line that is too long by itself is
/// cut inside.
///
/// Where somebody types they begin where they began, as far as they can, as a model that has read them goes on
/// from there: the start depends on the text before the block of lines that the cursor is in.
///
/// `cost` should be roughly proportional to length and say 0 for an empty text. It is called up to six times,
/// never with much more text than fits.
pub fn prefix(
    syntax: &Syntax,
    rope: &Rope,
    at: usize,
    budget: usize,
    cost: &dyn Fn(&str) -> usize,
) -> Range<usize> {
    let at = text::snap(rope, at);
    let (block, kept_free) = block_of(rope, at, budget);
    let before = |bytes: usize| text::snap_up(rope, block - bytes)..block;
    let raw = block - fit(rope, budget - kept_free, block, before, cost);
    let mut start = begin_at_border(syntax, rope, raw, block);
    while start < at && cost(&text::text(rope, start..at)) > budget {
        let next = begin_at_border(syntax, rope, start + 1, block);
        start = if (start + 1..block).contains(&next) {
            next
        } else {
            next_border(rope, start, at)
        };
    }
    start..at
}

/// The bytes from the offset `at`, snapped to a character, that fit a budget.
///
/// As with [`prefix`], but they end after a line, if possible where the next one is indented least, and that
/// depends on nothing but the text after `at`.
pub fn suffix(rope: &Rope, at: usize, budget: usize, cost: &dyn Fn(&str) -> usize) -> Range<usize> {
    let at = text::snap(rope, at);
    let after = |bytes: usize| at..text::snap(rope, at + bytes);
    let raw = at + fit(rope, budget, rope.len_bytes() - at, after, cost);
    let mut end = end_at_border(rope, at, raw);
    while end > at && cost(&text::text(rope, at..end)) > budget {
        end = previous_border(rope, at, end);
    }
    at..end
}

/// Start of the block of lines that the cursor is in, and the units that are kept free for the text from there
/// to the cursor.
fn block_of(rope: &Rope, at: usize, budget: usize) -> (usize, usize) {
    let units = budget / TYPING_SHARE;
    if units < MIN_TYPING_UNITS {
        return (at, 0);
    }
    let bytes = (units as f64 * TYPED_BYTES_PER_UNIT) as usize;
    (text::line_start(rope, text::snap(rope, at - at % bytes)), units)
}

/// The most bytes, up to `available`, whose text costs no more than `budget`, found in a few guesses.
fn fit(
    rope: &Rope,
    budget: usize,
    available: usize,
    range_of: impl Fn(usize) -> Range<usize>,
    cost: &dyn Fn(&str) -> usize,
) -> usize {
    let (mut fits, mut too_much) = (0, available + 1);
    let mut bytes_per_unit = BYTES_PER_UNIT;
    let mut bytes = ((budget as f64 * bytes_per_unit) as usize).min(available);
    for _ in 0..MAX_GUESSES {
        if bytes == 0 {
            break;
        }
        let range = range_of(bytes);
        let n_bytes = range.len();
        let used = cost(&text::text(rope, range));
        if used > 0 && n_bytes > 0 {
            bytes_per_unit = n_bytes as f64 / used as f64;
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
        let aim = (budget as f64 * bytes_per_unit * 0.98) as usize;
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

/// End of a line at or before `raw` that is a good place to end, not before the line of `at`: after the line
/// where the code is back furthest, of those in reach the last one.
///
/// By indentation: the tree after the cursor is another one at every key while a bracket is open.
fn end_at_border(rope: &Rope, at: usize, raw: usize) -> usize {
    if raw == rope.len_bytes() {
        return raw;
    }
    let last_line = text::line_start(rope, raw);
    if last_line <= at {
        // Not even the cursor's own line fits.
        return text::snap(rope, raw);
    }
    let reach = last_line.saturating_sub((raw - at) / SNAP_SHARE).max(at + 1);
    let mut best = (usize::MAX, last_line);
    // What follows the lines gone over, the first that is not blank.
    let mut below = indent_from(rope, last_line);
    let mut line = last_line;
    while line >= reach {
        let above = text::line_start(rope, line - 1);
        let is_blank_above = is_blank(&text::text(rope, above..line));
        if let Some(indent) = below.filter(|it| !is_blank_above && *it < best.0) {
            best = (indent, line);
        }
        if !is_blank_above {
            below = indent_of(&text::text(rope, above..line));
        }
        line = above;
    }
    best.1
}

/// Indentation of the first line from `line` on that is not blank, none if it closes something.
fn indent_from(rope: &Rope, mut line: usize) -> Option<usize> {
    while line < rope.len_bytes() {
        let next = text::next_line(rope, line);
        let content = text::text(rope, line..next);
        if !is_blank(&content) {
            return indent_of(&content);
        }
        line = next;
    }
    None
}

/// Columns before a line's text, none if it closes something or goes on with it: nothing begins there.
fn indent_of(line: &str) -> Option<usize> {
    let text = line.trim_start();
    let word = text.split(|it: char| !it.is_alphanumeric()).next();
    let begins = !text.starts_with([')', ']', '}']) && word.is_none_or(|it| !GOING_ON.contains(&it));
    begins.then(|| text::indent_width(line))
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
    use crate::{Language, TextEdit, outline};

    #[derive(Clone, Copy)]
    struct Budget {
        prefix: usize,
        suffix: usize,
    }

    struct Excerpt {
        prefix: Range<usize>,
        suffix: Range<usize>,
    }

    fn excerpt(
        syntax: &Syntax,
        rope: &Rope,
        at: usize,
        budget: Budget,
        cost: &dyn Fn(&str) -> usize,
    ) -> Excerpt {
        Excerpt {
            prefix: prefix(syntax, rope, at, budget.prefix, cost),
            suffix: suffix(rope, at, budget.suffix, cost),
        }
    }

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
            expect!["…ee four five ˇsix seven eig…"],
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
                assert!(starts_line || in_line, "{language:?} {at} {:?}", excerpt.prefix);
            }
        }
    }

    #[test]
    fn borders_stay_where_somebody_types() {
        let code = long_rust(2_000);
        let budget = Budget {
            prefix: 600,
            suffix: 200,
        };
        let mut n_starts = 0;
        for middle in [code.len() / 3, code.len() / 2] {
            let mut rope = Rope::from_str(&code);
            let line = text::line_start(&rope, middle);
            let mut syntax = Syntax::parse(Language::Rust, &rope);
            let mut excerpts = Vec::new();
            for (n_typed, typed) in "let total = first + second;\n    ".repeat(9).chars().enumerate() {
                let at = line + n_typed;
                let edit = TextEdit::apply(&mut rope, at..at, &typed.to_string());
                syntax.edit(&edit, &rope);
                excerpts.push(excerpt(&syntax, &rope, at + 1, budget, &words));
            }
            let is_kept = |pair: &[Excerpt]| pair[0].suffix.len() == pair[1].suffix.len();
            assert!(excerpts.windows(2).all(is_kept));
            n_starts += 1 + excerpts
                .windows(2)
                .filter(|pair| pair[0].prefix.start != pair[1].prefix.start)
                .count();
        }
        // 306 keys each.
        assert!(n_starts <= 8, "{n_starts} starts");
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
        // With the comment line above a function, or without where that did not fit.
        let begins = |line: usize| {
            outline(&syntax, &rope).iter().any(|d| {
                let start = text::line_start(&rope, d.range.start);
                line == start || line == text::line_start(&rope, start - 1)
            })
        };
        assert!(begins(excerpt.prefix.start));
    }
}
