//! What a rewriting changes, and nothing else: cursors, marks and folds in the lines that stay are not touched.

use std::ops::Range;

use similar::{Algorithm, DiffOp, capture_diff_slices};

use crate::{document::Document, rewrite::Rewriting};

/// A text for some bytes of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Bytes of the document as it is.
    pub range: Range<usize>,
    /// What stands there instead, in the document's own line breaks.
    pub text: String,
}

impl Rewriting {
    /// What changes, in order; no two changes touch each other.
    pub fn changes(&self, document: &Document) -> Vec<Change> {
        if self.before == self.after {
            return Vec::new();
        }
        let line_break = line_break(document);
        let lines = Lines::of(document, self.range.clone());
        let before: Vec<&str> = self.before.split('\n').collect();
        let after: Vec<&str> = self.after.split('\n').collect();
        let mut changes = Vec::new();
        for op in capture_diff_slices(Algorithm::Myers, &before, &after) {
            let (old, new) = (op.old_range(), op.new_range());
            match op {
                DiffOp::Equal { .. } => {}
                // As many lines as there were: each by itself.
                DiffOp::Replace { .. } if old.len() == new.len() => {
                    changes.extend(old.zip(new).filter(|&(old, new)| before[old] != after[new]).map(
                        |(old, new)| {
                            narrowed(lines.content(old..old + 1), before[old], after[new], line_break)
                        },
                    ));
                }
                DiffOp::Replace { .. } => changes.push(narrowed(
                    lines.content(old.clone()),
                    &before[old].join("\n"),
                    &after[new].join("\n"),
                    line_break,
                )),
                DiffOp::Insert { .. } => changes.push(lines.insert(old.start, &after[new], line_break)),
                DiffOp::Delete { .. } => changes.push(Change {
                    range: lines.whole(old),
                    text: String::new(),
                }),
            }
        }
        changes
    }

    /// The whole document with the lines as they should be, and with its own line breaks.
    pub fn apply(&self, document: &Document) -> String {
        let mut text = document.text.to_string();
        for Change { range, text: new } in self.changes(document).into_iter().rev() {
            text.replace_range(range, &new);
        }
        text
    }
}

/// The line break of most documents that have any `\r\n` is that; of the others it is `\n`.
fn line_break(document: &Document) -> &'static str {
    let first = document.text.line(0).to_string();
    if first.ends_with("\r\n") { "\r\n" } else { "\n" }
}

/// Where some lines of a document stand.
struct Lines {
    /// Bytes of each line without its line break.
    contents: Vec<Range<usize>>,
}

impl Lines {
    fn of(document: &Document, range: Range<usize>) -> Self {
        let text = &document.text;
        let first = text.byte_to_line(range.start);
        let mut contents = Vec::new();
        for line in first.. {
            let content = super::byte_range(document, line..line + 1);
            let is_last = content.end >= range.end || line + 1 >= text.len_lines();
            contents.push(content);
            if is_last {
                break;
            }
        }
        Self { contents }
    }

    /// From the first byte of the first of some lines to the end of the last, without its line break.
    fn content(&self, lines: Range<usize>) -> Range<usize> {
        self.contents[lines.start].start..self.contents[lines.end - 1].end
    }

    /// Some lines with one line break each: their own where a line follows, else the one before.
    fn whole(&self, lines: Range<usize>) -> Range<usize> {
        let Range { start, end } = self.content(lines.clone());
        match (self.contents.get(lines.end), lines.start.checked_sub(1)) {
            (Some(next), _) => start..next.start,
            (None, Some(previous)) => self.contents[previous].end..end,
            (None, None) => start..end,
        }
    }

    /// New lines before the line `at`, or after all of them.
    fn insert(&self, at: usize, new: &[&str], line_break: &str) -> Change {
        let text = new.join(line_break);
        match self.contents.get(at) {
            Some(line) => Change {
                range: line.start..line.start,
                text: text + line_break,
            },
            None => {
                let end = self.contents[at - 1].end;
                Change {
                    range: end..end,
                    text: line_break.to_owned() + &text,
                }
            }
        }
    }
}

/// `new` for `old`, which stands in `range`, without what both begin and end with. Both have `\n` as line breaks, so only what
/// lies in the first and in the last line of `old` can be told by counting bytes.
fn narrowed(range: Range<usize>, old: &str, new: &str, line_break: &str) -> Change {
    let shared = |pairs: &mut dyn Iterator<Item = (char, char)>| -> usize {
        let same = pairs.take_while(|(old, new)| old == new && *old != '\n');
        same.map(|(c, _)| c.len_utf8()).sum()
    };
    let head = shared(&mut old.chars().zip(new.chars()));
    let (old, new) = (&old[head..], &new[head..]);
    let tail = shared(&mut old.chars().rev().zip(new.chars().rev()));
    Change {
        range: range.start + head..range.end - tail,
        text: new[..new.len() - tail].replace('\n', line_break),
    }
}

#[cfg(test)]
mod tests {
    use surmise_engine::request::{Finish, FinishReason};

    use super::*;
    use crate::rewrite::byte_range;

    fn rewriting(document: &Document, lines: Range<usize>, after: &str) -> Rewriting {
        let range = byte_range(document, lines);
        Rewriting {
            before: document.excerpt(range.clone()),
            range,
            after: after.to_owned(),
            breaks_syntax: false,
            tokens: Vec::new(),
            finish: Finish {
                reason: FinishReason::StopToken(0),
                usage: Default::default(),
                timings: Default::default(),
                speculation: Default::default(),
            },
        }
    }

    /// The changed document, and the changes as `old→new`.
    fn check(text: &str, lines: Range<usize>, after: &str, expected: &str, changes: &[&str]) {
        let document = Document::new(None, None, None, text);
        let rewriting = rewriting(&document, lines, after);
        assert_eq!(rewriting.apply(&document), expected, "{text:?} to {after:?}");
        let shown: Vec<String> = rewriting
            .changes(&document)
            .into_iter()
            .map(|it| format!("{}→{}", &text[it.range], it.text))
            .collect();
        assert_eq!(shown, changes, "{text:?} to {after:?}");
    }

    #[test]
    fn only_what_differs_is_changed() {
        check(
            "a = \"é\"\r\nb\r\nc = \"d\"\r\ne\r\n",
            0..3,
            "a = 'é'\nb\nc = 'd'",
            "a = 'é'\r\nb\r\nc = 'd'\r\ne\r\n",
            &["\"é\"→'é'", "\"d\"→'d'"],
        );
        check("a\nb\n", 0..2, "a\nb", "a\nb\n", &[]);
        check("ab\nc\n", 0..2, "axb\nc", "axb\nc\n", &["→x"]);
        check("aaa\n", 0..1, "aa", "aa\n", &["a→"]);
    }

    #[test]
    fn lines_come_and_go_with_their_line_breaks() {
        check("a\r\nb\r\nc", 0..3, "a\nx\nb\nc", "a\r\nx\r\nb\r\nc", &["→x\r\n"]);
        check("a\r\nb", 0..2, "a\nb\nx\ny", "a\r\nb\r\nx\r\ny", &["→\r\nx\r\ny"]);
        check("a\r\nb\r\nc", 0..3, "b", "b", &["a\r\n→", "\r\nc→"]);
        check("a\nb\nc\n", 1..2, "", "a\n\nc\n", &["b→"]);
        check(
            "a\r\nb\r\nc\r\n",
            0..2,
            "x\ny\nz",
            "x\r\ny\r\nz\r\nc\r\n",
            &["a\r\nb→x\r\ny\r\nz"],
        );
        check("\n", 0..1, "x", "x\n", &["→x"]);
        check("", 0..1, "x", "x", &["→x"]);
    }

    #[test]
    fn line_breaks_of_lines_that_stay_are_kept_as_they_are() {
        check("a\r\nb\nc\n", 0..3, "A\nb\nC", "A\r\nb\nC\n", &["a→A", "c→C"]);
    }
}
