//! A person at work: pieces of a document are deleted and typed again, with looks elsewhere in between.

/// One thing that the user does before the editor asks for a suggestion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keystroke {
    pub(super) kind: Kind,
    /// What changes, in order.
    pub(super) changes: Vec<Change>,
    /// Where the cursor is after that.
    pub(super) cursor: Place,
}

/// What sort of request follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The first one at another place of the file.
    Jump,
    /// A character more at the cursor.
    Typing,
    /// Something has changed above the cursor.
    EditAbove,
}

/// Text put in place of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) start: Place,
    pub(super) end: Place,
    pub(super) text: String,
}

/// Line and column, from 0, in ASCII text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Lines that are deleted and typed again at each place.
const LINES_TYPED: usize = 3;
/// Characters between two edits above the cursor.
const CHARS_BETWEEN_EDITS: usize = 30;
/// How far above the cursor those are, in lines.
const LINES_ABOVE: usize = 12;

/// What is typed in `text`, which must be ASCII, at one place after another; nothing if it has no code to type. At the end of
/// each place the text is as it was but for the comments added above.
pub(super) fn keystrokes(text: &str) -> impl Iterator<Item = Keystroke> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    // Far apart, and never where the last one was: a step of about a golden section of the file.
    let mut line = 0;
    let stride = (lines.len() * 5 / 13).max(LINES_TYPED + 1);
    (0..lines.len()).flat_map(move |_| {
        line = (line + stride) % lines.len();
        type_again(&mut lines, line)
    })
}

/// Deletes some lines from `first` on and types them again.
fn type_again(lines: &mut Vec<String>, first: usize) -> Vec<Keystroke> {
    let last = first + LINES_TYPED;
    if first < LINES_ABOVE + 1 || last >= lines.len() || !lines[first..last].iter().all(|line| is_code(line))
    {
        return Vec::new();
    }
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut cursor = Place {
        line: first,
        column: indent(&lines[first]),
    };
    let end = Place {
        line: last - 1,
        column: lines[last - 1].len(),
    };
    let typed = lines[first..last].join("\n");
    let deleted = Change {
        start: cursor,
        end,
        text: String::new(),
    };
    let mut keystrokes = vec![Keystroke {
        kind: Kind::Jump,
        changes: vec![deleted],
        cursor,
    }];
    let mut rest = &typed[cursor.column..];
    let mut n_typed = 0;
    while let Some(next) = rest.chars().next() {
        // An editor indents a new line by itself.
        let len = if next == '\n' { 1 + indent(&rest[1..]) } else { 1 };
        let (text, left) = rest.split_at(len);
        rest = left;
        let mut changes = vec![Change {
            start: cursor,
            end: cursor,
            text: text.to_owned(),
        }];
        cursor = match text.strip_prefix('\n') {
            Some(indent) => Place {
                line: cursor.line + 1,
                column: indent.len(),
            },
            None => Place {
                column: cursor.column + len,
                ..cursor
            },
        };
        n_typed += 1;
        let kind = if n_typed % CHARS_BETWEEN_EDITS == 0 {
            let above = Place {
                line: cursor.line - LINES_ABOVE,
                column: 0,
            };
            let text = format!("// Note {n_typed}.\n");
            lines.insert(above.line, text.trim_end().to_owned());
            changes.push(Change {
                start: above,
                end: above,
                text,
            });
            cursor.line += 1;
            Kind::EditAbove
        } else {
            Kind::Typing
        };
        keystrokes.push(Keystroke {
            kind,
            changes,
            cursor,
        });
    }
    keystrokes
}

/// Whether a line is worth typing in a benchmark of code.
fn is_code(line: &str) -> bool {
    let line = line.trim_start();
    line.is_ascii() && !line.is_empty() && !line.starts_with("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies a change the slow and obvious way.
    fn apply(text: &mut String, change: &Change) {
        let offset = |place: Place| {
            let lines = text.split_inclusive('\n').take(place.line);
            lines.map(str::len).sum::<usize>() + place.column
        };
        let range = offset(change.start)..offset(change.end);
        text.replace_range(range, &change.text);
    }

    #[test]
    fn what_was_deleted_is_typed_again() {
        let original: String = (0..200).map(|n| format!("    let x{n} = call({n});\n")).collect();
        let keystrokes: Vec<_> = keystrokes(&original).collect();
        assert!(keystrokes.len() >= 300);
        let mut text = original.clone();
        for Keystroke { changes, cursor, .. } in &keystrokes {
            changes.iter().for_each(|change| apply(&mut text, change));
            let line = text.lines().nth(cursor.line).expect("the cursor is in the text");
            assert_eq!(cursor.column, line.len(), "typing happens at the end of a line");
        }
        let without_notes: String = text
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("// Note"))
            .collect();
        assert_eq!(without_notes, original);
        for kind in [Kind::Jump, Kind::Typing, Kind::EditAbove] {
            assert!(keystrokes.iter().any(|it| it.kind == kind), "{kind:?}");
        }
    }

    #[test]
    fn prose_alone_is_not_typed() {
        assert_eq!(keystrokes(&"// Only words.\n".repeat(100)).count(), 0);
    }
}
