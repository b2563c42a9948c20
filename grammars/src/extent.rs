//! Where a completion should end: with the line, the statement or the block the cursor stands in.
//!
//! Works on lines, indentation and brackets, because those stay meaningful in code that does not parse. The
//! tree says which brackets are code, and which lines are inside a string or a comment.

use std::ops::Range;

use ropey::Rope;

use crate::brackets::{self, Bracket, Pending, for_each_leaf};
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
    let site = Site::new(syntax, rope, at, text);
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
    fn new(syntax: &Syntax, rope: &'a Rope, at: usize, text: &'a str) -> Site<'a> {
        let (preview, preview_rope, edit) = syntax.preview(rope, at..at, text);
        let inserted = edit.start_byte..edit.new_end_byte;
        let mut inside = brackets::brackets_in(&preview, &preview_rope, inserted.clone());
        inside.iter_mut().for_each(|bracket| bracket.at -= at);
        Site {
            language: syntax.language(),
            rope,
            at,
            text,
            head: text::text(rope, text::line_start(rope, at)..at).into_owned(),
            pending: brackets::pending_at(syntax, rope, at),
            brackets: inside,
            opaque: opaque_ranges(&preview, inserted),
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
            started |= !is_preamble(self.language, content);
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
    let mut found = Vec::new();
    for_each_leaf(syntax, range.clone(), |leaf| {
        if leaf.is_named() && leaf.start_position().row < leaf.end_position().row {
            let start = leaf.start_byte().max(range.start) - range.start;
            found.push(start..leaf.end_byte().min(range.end).saturating_sub(range.start));
        }
    });
    found
}

/// The quote that ends the string around the cursor, if the cursor is inside of one.
///
/// A string that ends on a later line than the cursor's counts only if it also began on an earlier one:
/// otherwise the closing quote is missing and the string has swallowed the next.
fn closing_quote(syntax: &Syntax, rope: &Rope, at: usize) -> Option<char> {
    let string = scope::enclosing(syntax, at)
        .into_iter()
        .filter(|node| node.kind().contains("string") && node.start_byte() < at)
        .next_back()?;
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
