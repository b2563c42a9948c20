//! Where a completion should end: with the line, the statement or the block the cursor stands in.
//!
//! Works on lines, indentation and brackets, because those stay meaningful in code that does not parse. The
//! tree says which brackets are code, and which lines are inside a string or a comment.

use std::ops::Range;

use ropey::Rope;

use crate::brackets::{self, Bracket, Pending, for_each_node};
use crate::syntax::Neighbourhood;
use crate::{Language, Syntax, scope, text};

/// How much a completion may complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// To the end of the line the cursor is in, without the line break.
    Line,
    /// To the end of the statement the cursor is in, or of the first one after it if it is in none.
    Statement,
    /// To the end of the block the cursor is in. At the top level, where there is no block, to the first
    /// blank line between two statements.
    Block,
}

/// How many bytes of `text` to keep when it is inserted at the byte offset `at`.
///
/// Whatever the extent, the kept text never closes a bracket or string that the text after the cursor closes
/// already, and never a bracket that was not opened. It may close what is open and not closed
/// after the cursor; a block ends with that. When something is cut off, white space before the cut goes too.
/// `at` is snapped to a character; the result is a character border of `text`.
pub fn completion_end(syntax: &Syntax, rope: &Rope, at: usize, text: &str, extent: Extent) -> usize {
    let at = text::snap(rope, at);
    let around = syntax.around(rope, at..at);
    let site = Site::new(&around, at - around.start, text);
    let limit = site.closing_limit();
    let end = match extent {
        Extent::Line => text.find('\n').unwrap_or(text.len()),
        Extent::Statement => site.statement_end(limit),
        Extent::Block => site.block_end(limit),
    };
    let end = end.min(limit);
    if end == text.len() {
        end
    } else {
        text[..end].trim_end().len()
    }
}

/// The text at its place.
struct Site<'a> {
    language: Language,
    rope: &'a Rope,
    at: usize,
    text: &'a str,
    /// The line of the cursor, up to the cursor.
    head: String,
    /// Open at the cursor, outermost first.
    pending: Vec<Pending>,
    /// Brackets of `text`, at offsets in it.
    brackets: Vec<Bracket>,
    /// Strings and comments that span lines, at offsets in `text`.
    opaque: Vec<Range<usize>>,
    /// The quote that ends the string the cursor is in, if one follows.
    quote: Option<char>,
}

impl<'a> Site<'a> {
    fn new(around: &'a Neighbourhood, at: usize, text: &'a str) -> Site<'a> {
        let Neighbourhood { syntax, rope, .. } = around;
        let preview = around.preview(at..at, text);
        let inserted = preview.edit.start_byte..preview.edit.new_end_byte;
        let mut inside = brackets::brackets_in(&preview.syntax, &preview.rope, inserted.clone());
        for bracket in &mut inside {
            bracket.at -= inserted.start;
        }
        Site {
            language: syntax.language(),
            rope,
            at,
            text,
            head: text::text(rope, text::line_start(rope, at)..at).into_owned(),
            pending: brackets::pending_at(syntax, rope, at),
            brackets: inside,
            opaque: opaque_ranges(&preview.syntax, inserted),
            quote: closing_quote(syntax, rope, at),
        }
    }

    /// Where the text first closes something it must not.
    fn closing_limit(&self) -> usize {
        if let Some(quote) = self.quote
            && let Some(end) = find_unescaped(self.text, quote)
        {
            return end;
        }
        let mut pending = self.pending.clone();
        let mut own = 0usize;
        for bracket in &self.brackets {
            if bracket.opens {
                own += 1;
            } else if own > 0 {
                own -= 1;
            } else {
                match pending.pop() {
                    Some(open) if !open.closed_after && open.shape == bracket.shape => {}
                    _ => return bracket.at,
                }
            }
        }
        self.text.len()
    }

    /// End of the block the cursor is in, at most `limit`.
    fn block_end(&self, limit: usize) -> usize {
        let floor = self.indent();
        let opens = self.opens_block();
        let top_level = floor == 0 && !opens && self.pending.is_empty();
        let mut blank_before = false;
        let mut seen_code = !self.head.trim().is_empty();
        for line in self.lines(limit) {
            let content = self.text[line.clone()].trim();
            if content.is_empty() {
                blank_before = line.start > 0;
                continue;
            }
            let first = line.start == 0 || !seen_code;
            seen_code = true;
            if first || self.is_opaque(line.start) {
                blank_before = false;
                continue;
            }
            let indent = text::indent_width(&self.text[line.clone()]);
            let outside = if opens { indent <= floor } else { indent < floor };
            if outside {
                if self.closes_pending(&line) {
                    return line.end;
                }
                match keyword_role(self.language, content) {
                    Some(KeywordRole::Middle) if opens && indent == floor => {}
                    Some(KeywordRole::End) if opens && indent == floor && !self.suffix_ends_block(floor) => {
                        return line.end;
                    }
                    _ => return line.start,
                }
            } else if top_level && blank_before && indent == 0 && !starts_with_closer(content) {
                return line.start;
            }
            blank_before = false;
        }
        limit
    }

    /// End of the statement the cursor is in, at most `limit`.
    fn statement_end(&self, limit: usize) -> usize {
        let floor = self.indent();
        // Comments, attributes and decorators belong to what follows them.
        let mut started = !self.head.trim().is_empty() && !is_preamble(self.language, self.head.trim());
        let mut seen_line = !self.head.trim().is_empty();
        for line in self.lines(limit) {
            let content = self.text[line.clone()].trim();
            if content.is_empty() {
                continue;
            }
            let continues_head = line.start == 0 && seen_line;
            let goes_on = !started
                || continues_head
                || self.is_opaque(line.start)
                || self.open_at(line.start)
                || text::indent_width(&self.text[line.clone()]) > floor
                || starts_with_closer(content)
                || begins_with_operator(content)
                || match keyword_role(self.language, content) {
                    Some(KeywordRole::Middle) => true,
                    Some(KeywordRole::End) => !self.suffix_ends_block(floor),
                    None => false,
                };
            if !goes_on {
                return line.start;
            }
            seen_line = true;
            started |= !continues_head && !is_preamble(self.language, content);
        }
        limit
    }

    /// Indentation of the statement at the cursor: of the cursor's line, or of the first line with text.
    fn indent(&self) -> usize {
        if !self.head.trim().is_empty() {
            return text::indent_width(&self.head);
        }
        let first = self
            .text
            .split('\n')
            .find(|line| !line.trim().is_empty())
            .unwrap_or("");
        let on_cursor_line = self
            .text
            .trim_start_matches([' ', '\t'])
            .starts_with(first.trim_start());
        if on_cursor_line {
            text::indent_width(&format!("{}{first}", self.head))
        } else {
            text::indent_width(first)
        }
    }

    /// Whether the block of the cursor is one that its own line begins.
    fn opens_block(&self) -> bool {
        let head = self.head.trim();
        if head.is_empty() {
            return false;
        }
        let line = self.at - self.head.len();
        let first_line = self.text.find('\n').unwrap_or(self.text.len());
        let n_closed = self.pending.len() - self.pending_after(first_line);
        if self
            .pending
            .iter()
            .rev()
            .skip(n_closed)
            .any(|open| open.at >= line)
        {
            return true;
        }
        match self.language {
            Language::Python => {
                let header = format!("{head}{}", &self.text[..first_line]);
                header.trim_end().ends_with(':')
            }
            Language::Yaml => head.ends_with(':'),
            Language::Ruby | Language::Lua | Language::Bash => {
                let below = self.text[first_line..]
                    .split('\n')
                    .find(|line| !line.trim().is_empty());
                below.is_some_and(|line| text::indent_width(line) > text::indent_width(&self.head))
            }
            _ => false,
        }
    }

    /// How many of the brackets open at the cursor are still open at an offset of the text.
    fn pending_after(&self, offset: usize) -> usize {
        let (mut own, mut n_pending) = (0usize, self.pending.len());
        for bracket in self.brackets.iter().take_while(|bracket| bracket.at < offset) {
            if bracket.opens {
                own += 1;
            } else if own > 0 {
                own -= 1;
            } else {
                n_pending = n_pending.saturating_sub(1);
            }
        }
        n_pending
    }

    /// Whether a bracket opened by the text, or by the cursor's line before it, is open at an offset of the text.
    fn open_at(&self, offset: usize) -> bool {
        let mut own = 0usize;
        for bracket in self.brackets.iter().take_while(|bracket| bracket.at < offset) {
            own = if bracket.opens {
                own + 1
            } else {
                own.saturating_sub(1)
            };
        }
        let line = self.at - self.head.len();
        own > 0
            || self.pending[..self.pending_after(offset)]
                .iter()
                .any(|open| open.at >= line)
    }

    /// Whether the first bracket of a line of the text closes one that was open at the cursor.
    fn closes_pending(&self, line: &Range<usize>) -> bool {
        let content = self.text[line.clone()].trim_start();
        let first = line.end - content.len();
        starts_with_closer(content) && self.pending_after(first + 1) < self.pending_after(first)
    }

    /// Whether the next line after the cursor ends a block at this indentation with a keyword.
    fn suffix_ends_block(&self, indent: usize) -> bool {
        let mut start = text::next_line(self.rope, self.at);
        while start < self.rope.len_bytes() {
            let end = text::line_end(self.rope, start);
            let line = text::text(self.rope, start..end);
            if !line.trim().is_empty() {
                return text::indent_width(&line) == indent
                    && keyword_role(self.language, line.trim()) == Some(KeywordRole::End);
            }
            start = end + 1;
        }
        false
    }

    fn is_opaque(&self, offset: usize) -> bool {
        self.opaque
            .iter()
            .any(|range| range.start < offset && offset < range.end)
    }

    /// The lines of the text before `limit`, without their line breaks.
    fn lines(&self, limit: usize) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        self.text[..limit].split('\n').map(move |line| {
            let range = start..start + line.len();
            start = range.end + 1;
            range
        })
    }
}

/// What a word at the start of a line says about a block of the same indentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeywordRole {
    /// Goes on with the construct: `else`.
    Middle,
    /// Ends it: `end`.
    End,
}

fn keyword_role(language: Language, line: &str) -> Option<KeywordRole> {
    let (middle, end): (&[&str], &[&str]) = match language {
        Language::Python => (&["elif", "else", "except", "finally", "case"], &[]),
        Language::Ruby => (
            &["elsif", "else", "when", "in", "rescue", "ensure", "then"],
            &["end"],
        ),
        Language::Lua => (&["elseif", "else"], &["end", "until"]),
        Language::Bash => (&["elif", "else", "then", "do"], &["fi", "done", "esac"]),
        Language::Yaml | Language::Markdown | Language::PlainText | Language::Toml => (&[], &[]),
        _ => (&["else", "catch", "finally", "while", "where"], &[]),
    };
    let word = line
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .unwrap_or("");
    if middle.contains(&word) {
        Some(KeywordRole::Middle)
    } else if end.contains(&word) {
        Some(KeywordRole::End)
    } else {
        None
    }
}

fn starts_with_closer(line: &str) -> bool {
    line.starts_with([')', ']', '}'])
}

/// Whether a line goes on with the expression above it.
fn begins_with_operator(line: &str) -> bool {
    const OPERATORS: [&str; 9] = [".", "?.", "&&", "||", "|>", "? ", ": ", "+ ", "="];
    OPERATORS.iter().any(|operator| line.starts_with(operator))
}

/// Whether a line is a comment, attribute or decorator, which belongs to the line below it.
fn is_preamble(language: Language, line: &str) -> bool {
    let comment = language
        .line_comment()
        .is_some_and(|token| line.starts_with(token));
    comment
        || line.starts_with("/*")
        || line.starts_with("* ")
        || line.starts_with("#[")
        || line.starts_with('@')
}

/// Strings and comments that touch `range` and span lines, at offsets from its start.
fn opaque_ranges(syntax: &Syntax, range: Range<usize>) -> Vec<Range<usize>> {
    const KINDS: [&str; 5] = ["string", "comment", "heredoc", "template", "text"];
    let mut found = Vec::new();
    for_each_node(syntax, range.clone(), |node| {
        let spans_lines = node.start_position().row < node.end_position().row;
        let is_opaque = spans_lines && node.is_named() && KINDS.iter().any(|kind| node.kind().contains(kind));
        if is_opaque {
            let start = node.start_byte().max(range.start) - range.start;
            found.push(start..node.end_byte().min(range.end).saturating_sub(range.start));
        }
        spans_lines && !is_opaque
    });
    found
}

/// The quote that ends the string around the cursor, if the cursor is inside of one.
///
/// A string that ends on a later line than the cursor's counts only if it also began on an earlier one:
/// otherwise the closing quote is missing and the string has swallowed the next.
fn closing_quote(syntax: &Syntax, rope: &Rope, at: usize) -> Option<char> {
    let nodes = scope::enclosing(syntax.tree(), at);
    let string = nodes
        .iter()
        .rfind(|node| node.kind().contains("string") && node.start_byte() < at)?;
    let row = text::point_at(rope, at).row;
    if string.end_position().row > row && string.start_position().row == row {
        return None;
    }
    let end = text::text(rope, string.end_byte().saturating_sub(1)..string.end_byte());
    end.chars().next().filter(|c| matches!(c, '"' | '\'' | '`'))
}

/// Offset of the first `quote` that no backslash escapes.
fn find_unescaped(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (idx, c) in text.char_indices() {
        if c == quote && !escaped {
            return Some(idx);
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::Extent::{Block, Line, Statement};
    use super::*;
    use crate::test_support::{Random, code_in};

    /// What is kept of `text` at `ˇ`.
    #[track_caller]
    fn check(language: Language, fixture: &str, text: &str, extent: Extent, expected: &str) {
        let at = fixture.find('ˇ').unwrap();
        let rope = Rope::from_str(&fixture.replace('ˇ', ""));
        let syntax = Syntax::parse(language, &rope);
        assert_eq!(
            &text[..completion_end(&syntax, &rope, at, text, extent)],
            expected,
            "{extent:?}"
        );
    }

    #[test]
    fn a_line_ends_before_its_break() {
        check(
            Language::Rust,
            "fn f() {\n    ˇ\n}",
            "a();\n    b();",
            Line,
            "a();",
        );
        check(Language::Rust, "ˇ", "a();\r\nb();", Line, "a();");
        check(Language::PlainText, "ˇ", "no break", Line, "no break");
        check(Language::Rust, "ˇ", "", Line, "");
    }

    #[test]
    fn what_the_suffix_closes_is_not_closed_again() {
        for extent in [Line, Statement, Block] {
            check(
                Language::Rust,
                "fn f() { foo(ˇ); }",
                "a, g(b));",
                extent,
                "a, g(b)",
            );
            check(
                Language::Rust,
                "fn f() { foo(ˇ); }",
                "a, \")\", ')')",
                extent,
                "a, \")\", ')'",
            );
            check(Language::Python, "x = [ˇ]\n", "1, 2]", extent, "1, 2");
            check(Language::JavaScript, "f({ˇ})", "a: {b: 1}})", extent, "a: {b: 1}");
            check(Language::Rust, "fn f() { g(\"aˇ\"); }", "bc\", d", extent, "bc");
        }
        let text = "x();\n}\n\nfn g() {}";
        check(Language::Rust, "fn f() {\n    ˇ\n}\n", text, Block, "x();");
        check(Language::PlainText, "(ˇ)", "a) b", Block, "a");
    }

    #[test]
    fn what_nothing_closes_may_be_closed() {
        for extent in [Line, Statement, Block] {
            check(
                Language::Rust,
                "fn f() {\n    foo(ˇ\n}\n",
                "a, b);",
                extent,
                "a, b);",
            );
            check(
                Language::Rust,
                "fn f() {\n    foo(a[ˇ\n}\n",
                "1]);",
                extent,
                "1]);",
            );
        }
        // Never more than was opened.
        check(Language::Rust, "fn f() {\n    foo(ˇ\n}\n", "a));", Line, "a)");
        let text = "\n    a();\n}\n\nfn g() {}\n";
        check(Language::Rust, "fn f() {ˇ", text, Block, "\n    a();\n}");
        let fixture = "impl A {\n    fn f() {\n        if x {ˇ\n    }\n}\n";
        let text = "\n            a();\n        }\n        b();\n    }\n";
        check(
            Language::Rust,
            fixture,
            text,
            Block,
            "\n            a();\n        }",
        );
    }

    #[test]
    fn a_statement_goes_on_while_something_is_open() {
        let text = "foo(\n        a,\n    )\n    .bar();\n    next();";
        let first = "foo(\n        a,\n    )\n    .bar();";
        check(
            Language::Rust,
            "fn f() {\n    let x = ˇ\n}",
            text,
            Statement,
            first,
        );
        check(Language::Rust, "fn f() {\n    ˇ\n}", text, Statement, first);
        check(Language::Rust, "fn f() {\n    ˇ\n}", text, Block, text);

        let text = "if x {\n        a();\n    } else {\n        b();\n    }\n    c();";
        let first = "if x {\n        a();\n    } else {\n        b();\n    }";
        check(Language::Rust, "fn f() {\n    ˇ\n}", text, Statement, first);

        let text = "x = \"\"\"\nnot indented\n\"\"\"\n    y = 1";
        check(
            Language::Python,
            "def f():\n    ˇ\n",
            text,
            Statement,
            "x = \"\"\"\nnot indented\n\"\"\"",
        );

        let text = "# Why.\n    x = 1\n    y = 2";
        check(
            Language::Python,
            "def f():\n    ˇ\n",
            text,
            Statement,
            "# Why.\n    x = 1",
        );
        let text = "?\n    x = 1\n    y = 2";
        check(
            Language::Python,
            "def f():\n    # Whyˇ\n",
            text,
            Statement,
            "?\n    x = 1",
        );
    }

    #[test]
    fn a_block_ends_where_its_indentation_does() {
        let text = "return 1\n\ndef g():\n    pass\n";
        check(Language::Python, "def f():\n    ˇ", text, Block, "return 1");
        let text = "\n    if x:\n        return 1\n    else:\n        return 2\n\ndef g():\n    pass\n";
        let body = "\n    if x:\n        return 1\n    else:\n        return 2";
        check(Language::Python, "def f():ˇ", text, Block, body);
        check(
            Language::Python,
            "def ˇ",
            &format!("f():{text}"),
            Block,
            &format!("f():{body}"),
        );
        let text = "\n        return 1\n    else:\n        return 2\n    return 3\n";
        let both = "\n        return 1\n    else:\n        return 2";
        check(Language::Python, "def f():\n    if x:ˇ\n", text, Block, both);
    }

    #[test]
    fn a_block_of_words_ends_with_its_word() {
        let text = "\n  puts 1\nend\n\ndef g\nend\n";
        check(Language::Ruby, "def fˇ\n", text, Block, "\n  puts 1\nend");
        check(Language::Ruby, "def fˇ\nend\n", text, Block, "\n  puts 1");
        check(
            Language::Ruby,
            "def f\n  ˇ\nend\n",
            "puts 1\nend\n",
            Block,
            "puts 1",
        );
        let text = "\n  echo a\nelse\n  echo b\nfi\necho c\n";
        check(
            Language::Bash,
            "if true; thenˇ\n",
            text,
            Block,
            "\n  echo a\nelse\n  echo b\nfi",
        );
        let text = "\n  print(1)\nend\nprint(2)";
        check(Language::Lua, "function f()ˇ\n", text, Block, "\n  print(1)\nend");
    }

    #[test]
    fn at_the_top_level_a_block_ends_with_a_blank_line() {
        let text = "fn f() {\n    a();\n\n    b();\n}\n\nfn g() {}\n";
        let first = "fn f() {\n    a();\n\n    b();\n}";
        check(Language::Rust, "ˇ\n", text, Block, first);
        check(Language::Rust, "ˇ\n", text, Statement, first);
        check(
            Language::Markdown,
            "ˇ",
            "One.\nTwo.\n\nThree.",
            Block,
            "One.\nTwo.",
        );
    }

    #[test]
    fn any_text_anywhere_is_cut_at_a_character() {
        for &language in Language::all() {
            let code = code_in(language);
            let rope = Rope::from_str(&code);
            let syntax = Syntax::parse(language, &rope);
            let mut random = Random::new(language as u64);
            for _ in 0..40 {
                let at = random.below(code.len() + 2);
                let from = text::snap(&rope, random.below(code.len() + 1));
                let to = text::snap(&rope, from + random.below(200));
                let text = format!("é{}😀)\"", &code[from..to]);
                for extent in [Line, Statement, Block] {
                    assert!(text.is_char_boundary(completion_end(&syntax, &rope, at, &text, extent)));
                }
            }
        }
    }
}
