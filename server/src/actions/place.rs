//! Where an action makes sense, by the text and its tree.

use std::ops::Range;

use surmise_grammars::{Language, Scope, ScopeKind, comments_in, scopes_at, strings_in, worsens};

use crate::{document::Document, rewrite::byte_range};

/// Languages with exceptions in which the embedded model wraps bodies well; C++ and Ruby it was shown too, and does badly.
const WITH_EXCEPTIONS: [Language; 7] = [
    Language::Python,
    Language::JavaScript,
    Language::TypeScript,
    Language::Tsx,
    Language::Java,
    Language::CSharp,
    Language::Php,
];

/// A kind of place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Selected lines with strings in this quote that mean the same in the other.
    Strings {
        /// The quote.
        quote: char,
    },
    /// The function around the cursor, if its body handles no errors and stands on lines of its own.
    FunctionBody,
    /// Selected lines that the code around them can do without, and of which none is a comment.
    Code,
    /// Selected lines that are code behind comment marks.
    CommentedOut,
    /// Selected lines, or the function around the cursor, with whole lines of comment.
    CommentedCode,
    /// Several selected lines with names in the other style than this.
    Names {
        /// Whether `camelCase` is what they get.
        to_camel: bool,
    },
    /// The function around the cursor.
    Function,
    /// Whatever is selected.
    Selection,
}

/// A place where an action makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its lines, from 0.
    pub lines: Range<usize>,
    /// The function that they are, if the user did not select them.
    pub function: Option<String>,
}

impl Place {
    /// The lines for an action of this kind with this selection, in bytes, if there are any.
    pub fn find(self, document: &Document, selection: Range<usize>) -> Option<Found> {
        let lines = selected_lines(document, selection.clone());
        let selected = || Found {
            lines: lines.clone(),
            function: None,
        };
        match self {
            Self::Strings { quote } => {
                let strings = strings_in_either_quote(document, byte_range(document, lines.clone()), quote);
                (!strings.is_empty()).then(selected)
            }
            Self::FunctionBody => {
                let function = function_around(document, &selection)?;
                can_be_wrapped(document, &function).then_some(function)
            }
            Self::Code => can_be_commented_out(document, lines.clone()).then(selected),
            Self::CommentedOut => is_code_in_comments(document, lines.clone()).then(selected),
            Self::CommentedCode => {
                if !selection.is_empty() {
                    return has_comment_lines(document, lines.clone()).then(selected);
                }
                function_around(document, &selection)
                    .filter(|it| has_comment_lines(document, it.lines.clone()))
            }
            Self::Names { to_camel } => has_names(document, lines.clone(), to_camel)
                .then(selected)
                .filter(|_| !selection.is_empty()),
            Self::Function => function_around(document, &selection),
            Self::Selection => (!document.excerpt(selection).trim().is_empty()).then(selected),
        }
    }
}

/// The lines that a selection reaches into; the line of the cursor if nothing is selected. A selection that ends before
/// the first character of a line does not reach into it.
pub(crate) fn selected_lines(document: &Document, selection: Range<usize>) -> Range<usize> {
    let text = &document.text;
    let first = text.byte_to_line(selection.start);
    let last = text.byte_to_line(selection.end.max(selection.start));
    let ends_before = last > first && text.line_to_byte(last) == selection.end;
    first..last + usize::from(!ends_before)
}

fn has_tree(document: &Document) -> bool {
    document.syntax.tree().is_some() && !document.syntax.is_stale()
}

/// The strings in `quote` that touch some bytes and mean the same in the other one, from quote to quote. None at all where that is
/// not so of any that could be written in both.
pub(crate) fn strings_in_either_quote(
    document: &Document,
    range: Range<usize>,
    quote: char,
) -> Vec<Range<usize>> {
    let language = document.language();
    let interpolation = match language {
        Language::Python | Language::JavaScript | Language::TypeScript | Language::Tsx | Language::Lua => {
            None
        }
        Language::Php => Some("$"),
        Language::Ruby => Some("#"),
        _ => return Vec::new(),
    };
    let mut strings = Vec::new();
    for string in strings_in(&document.syntax, range) {
        let literal = document.excerpt(string.clone());
        let Some(content) = content_of(&literal, quote) else {
            continue;
        };
        if interpolation.is_some_and(|mark| content.contains(mark)) {
            return Vec::new();
        }
        if !content.contains(['"', '\'', '\\', '\n']) {
            strings.push(string.end - content.len() - 2 * quote.len_utf8()..string.end);
        }
    }
    strings
}

/// What a literal has between two of this quote, whatever letters stand before them; nothing for `"""`.
fn content_of(literal: &str, quote: char) -> Option<&str> {
    let quoted = literal.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let content = quoted.strip_prefix(quote)?.strip_suffix(quote)?;
    (!content.starts_with(quote)).then_some(content)
}

/// The innermost named function with all of the selection in it, as whole lines.
fn function_around(document: &Document, selection: &Range<usize>) -> Option<Found> {
    if !has_tree(document) {
        return None;
    }
    let text = &document.text;
    // Before the first word of a signature, and behind the last bracket of a body, a person is in the function.
    let line_start = text.line_to_byte(text.byte_to_line(selection.start));
    let line = document.excerpt(byte_range(
        document,
        selected_lines(document, selection.start..selection.start),
    ));
    let first = line_start + line.len() - line.trim_start().len();
    let last = (line_start + line.trim_end().len()).saturating_sub(1);
    let at = selection.start.max(first + 1).min(last.max(line_start));
    let selected = selected_lines(document, selection.clone());
    let contains = |scope: &Scope| {
        let lines = lines_of(document, scope);
        let is_named = scope.kind == ScopeKind::Function && scope.name.is_some();
        is_named && lines.start <= selected.start && selected.end <= lines.end
    };
    let function = scopes_at(&document.syntax, text, at).into_iter().find(contains)?;
    Some(Found {
        lines: lines_of(document, &function),
        function: function.name,
    })
}

fn lines_of(document: &Document, scope: &Scope) -> Range<usize> {
    let text = &document.text;
    text.byte_to_line(scope.range.start)..text.byte_to_line(scope.range.end.saturating_sub(1)) + 1
}

/// Whether a function has a body on lines of its own, as the embedded model saw them: a first line that ends where the body
/// begins, and in languages with brackets a last line for the closing one.
fn can_be_wrapped(document: &Document, function: &Found) -> bool {
    let language = document.language();
    if !WITH_EXCEPTIONS.contains(&language) {
        return false;
    }
    let text = document.excerpt(byte_range(document, function.lines.clone()));
    let lines: Vec<&str> = text.lines().collect();
    let begins_body = |line: &&str| match language {
        Language::Python => line.ends_with(':'),
        _ => line.ends_with(['{', ')']),
    };
    let Some(head) = lines
        .iter()
        .map(|line| line.trim_end())
        .position(|line| begins_body(&line))
    else {
        return false;
    };
    let body: Vec<&str> = lines[head + 1..]
        .iter()
        .map(|line| line.trim())
        .filter(|line| !line.is_empty() && !matches!(*line, "{" | "}"))
        .collect();
    let is_handled = |line: &&str| line.split(|c: char| !c.is_alphanumeric()).next() == Some("try");
    !body.is_empty() && !body.iter().any(is_handled)
}

/// Whether some lines are code, and the code around them is whole without them.
fn can_be_commented_out(document: &Document, lines: Range<usize>) -> bool {
    let (Some(mark), true) = (document.language().line_comment(), has_tree(document)) else {
        return false;
    };
    let range = byte_range(document, lines);
    let text = document.excerpt(range.clone());
    let is_comment = |line: &str| line.trim_start().starts_with(mark);
    if text.trim().is_empty()
        || text.lines().any(is_comment)
        || !comments_in(&document.syntax, range.clone()).is_empty()
    {
        return false;
    }
    let commented: Vec<String> = text.lines().map(|line| format!("{mark} {line}")).collect();
    !worsens(&document.syntax, &document.text, range, &commented.join("\n"))
}

/// Whether some lines are comments that are code without their marks.
fn is_code_in_comments(document: &Document, lines: Range<usize>) -> bool {
    let (Some(mark), true) = (document.language().line_comment(), has_tree(document)) else {
        return false;
    };
    let range = byte_range(document, lines);
    let text = document.excerpt(range.clone());
    let without_mark = |line: &str| {
        let code = line.trim_start().strip_prefix(mark)?;
        let indentation = &line[..line.len() - line.trim_start().len()];
        Some(format!("{indentation}{}", code.strip_prefix(' ').unwrap_or(code)))
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let Some(code) = lines.map(without_mark).collect::<Option<Vec<String>>>() else {
        return false;
    };
    // A word or two of prose are code to most grammars; code has something else than words.
    let has_marks = |line: &String| line.contains(['(', '=', '{', '}', ';', ':']);
    code.iter().any(has_marks) && !worsens(&document.syntax, &document.text, range, &code.join("\n"))
}

/// Whether some lines hold comments that take whole lines, and what is left is whole without them.
fn has_comment_lines(document: &Document, lines: Range<usize>) -> bool {
    let (Some(mark), true) = (document.language().line_comment(), has_tree(document)) else {
        return false;
    };
    let range = byte_range(document, lines);
    let text = document.excerpt(range.clone());
    let is_comment = |line: &&str| line.trim_start().starts_with(mark);
    let code: Vec<&str> = text.lines().filter(|line| !is_comment(line)).collect();
    // By the tree: a string may have a line that looks like a comment. Comments in other forms are not what was trained.
    let found = comments_in(&document.syntax, range.clone());
    let all_take_lines = found.iter().all(|comment| {
        let start = document
            .text
            .line_to_byte(document.text.byte_to_line(comment.start));
        document.excerpt(start..comment.start).trim().is_empty()
            && is_comment(&&*document.excerpt(comment.clone()))
    });
    !found.is_empty()
        && all_take_lines
        && code.iter().any(|line| !line.trim().is_empty())
        && !worsens(&document.syntax, &document.text, range, &code.join("\n"))
}

/// Whether some lines have names of two words in the style that goes away, and the language's own style is the other.
fn has_names(document: &Document, lines: Range<usize>, to_camel: bool) -> bool {
    let wants_camel = match document.language() {
        Language::Python | Language::Ruby | Language::Rust => Some(false),
        Language::JavaScript
        | Language::TypeScript
        | Language::Tsx
        | Language::Java
        | Language::CSharp
        | Language::Go => Some(true),
        Language::C | Language::Cpp | Language::Php | Language::Lua => None,
        _ => return false,
    };
    if wants_camel.is_some_and(|wanted| wanted != to_camel) {
        return false;
    }
    let text = document.excerpt(byte_range(document, lines));
    let mut names = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    names.any(|name| if to_camel { is_snake(name) } else { is_camel(name) })
}

/// `two_words`, and neither `__dunder__` nor `CONSTANT_NAME`.
fn is_snake(name: &str) -> bool {
    name.contains('_')
        && name
            .split('_')
            .all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase()))
}

/// `twoWords`, and neither `Type` nor `aURL`.
fn is_camel(name: &str) -> bool {
    let mut words = name.split_inclusive(|c: char| c.is_ascii_lowercase());
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.contains(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_alphabetic())
        && words.all(|word| word.bytes().filter(u8::is_ascii_uppercase).count() <= 1)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The lines found, from 1, and the function's name, for the text between two `ˇ`, or for the cursor at one.
    fn check(place: Place, file: &str, fixture: &str, expected: &str) {
        let start = fixture.find('ˇ').expect("a cursor");
        let end = fixture.rfind('ˇ').map_or(start, |end| {
            if end == start {
                start
            } else {
                end - 'ˇ'.len_utf8()
            }
        });
        let document = Document::new(Some(Path::new(file)), None, None, &fixture.replace('ˇ', ""));
        let found = place.find(&document, start..end).map(|it| {
            let name = it.function.map(|name| format!(" {name}")).unwrap_or_default();
            format!("{}-{}{name}", it.lines.start + 1, it.lines.end)
        });
        assert_eq!(found.unwrap_or_default(), expected, "{place:?} {fixture}");
    }

    #[test]
    fn quotes_are_where_strings_mean_the_same_in_others() {
        let double = Place::Strings { quote: '"' };
        check(double, "a.py", "x = f(\"a\")ˇ\n", "1-1");
        check(double, "a.py", "x = f(f\"{a}\")ˇ\n", "1-1");
        check(double, "a.py", "x = f('a')ˇ\n", "");
        check(double, "a.py", "# \"a\"ˇ\n", "");
        check(double, "a.py", "\"\"\"Doc.\"\"\"ˇ\n", "");
        check(double, "a.py", "x = \"don't\"ˇ\n", "");
        check(double, "a.py", "ˇx = 1\ny = \"a\"ˇ\n", "1-2");
        check(double, "a.php", "<?php\n$x = \"a $b\"ˇ;\n", "");
        check(double, "a.rb", "x = \"a\"ˇ\n", "1-1");
        check(double, "a.rs", "let x = \"a\"ˇ;\n", "");
    }

    #[test]
    fn bodies_are_those_of_functions_that_handle_no_errors() {
        let body = Place::FunctionBody;
        check(
            body,
            "a.py",
            "class A:\n    def f(self):\n        aˇ()\n        b()\n\n    def g(self):\n        c()\n",
            "2-4 f",
        );
        check(body, "a.py", "ˇdef f():\n    a()\nˇ\nb()\n", "1-2 f");
        check(body, "a.py", "ˇ    def f():\n        a()\n", "1-2 f");
        check(
            body,
            "a.py",
            "def f():\n    try:\n        a()ˇ\n    except E:\n        pass\n",
            "",
        );
        check(body, "a.py", "a()ˇ\n", "");
        check(
            body,
            "A.java",
            "class A {\n    void f() {\n        a();\n    }ˇ\n}\n",
            "2-4 f",
        );
        check(body, "A.java", "class A {\n    void f() { a(ˇ); }\n}\n", "");
        check(body, "a.rb", "def f\n  a(ˇ)\nend\n", "");
        check(body, "a.go", "func f() {\n\ta(ˇ)\n}\n", "");
    }

    #[test]
    fn comments_are_toggled_and_removed_where_the_rest_stays_whole() {
        check(Place::Code, "a.py", "def f():\n    a()ˇ\n    b()\n", "2-2");
        check(Place::Code, "a.py", "def f():\n    # a\n    bˇ()\n", "3-3");
        check(Place::Code, "a.py", "def f():\nˇ    # a\n    b()ˇ\n", "");
        check(Place::Code, "a.py", "# aˇ\n", "");
        check(Place::Code, "a.js", "if (x) {ˇ\n  a();\n}\n", "");
        check(Place::CommentedOut, "a.go", "func f() {\n\t// a(bˇ)\n}\n", "2-2");
        check(
            Place::CommentedOut,
            "a.go",
            "func f() {\n\t// Says what a does.ˇ\n}\n",
            "",
        );
        let comments = Place::CommentedCode;
        check(comments, "a.rs", "fn f() {\n    // a\n    bˇ();\n}\n", "1-4 f");
        check(
            comments,
            "a.rs",
            "fn f() {\n    let a = \"\n    // a\n    \";ˇ\n}\n",
            "",
        );
        check(comments, "a.rs", "ˇ// a\nb!();ˇ\n", "1-2");
        check(comments, "a.rs", "ˇ// a\nb!(); // cˇ\n", "");
        check(comments, "a.py", "ˇ# aˇ\n", "");
    }

    #[test]
    fn names_are_of_two_words_and_selected() {
        let (camel, snake) = (Place::Names { to_camel: true }, Place::Names { to_camel: false });
        check(snake, "a.py", "ˇmaxSize = getSize(1)ˇ\n", "1-1");
        check(snake, "a.py", "maxSize = getSize(1)ˇ\n", "");
        check(snake, "a.py", "ˇclass HttpServer: URL = aURLˇ\n", "");
        check(camel, "a.py", "ˇmax_size = 1ˇ\n", "");
        check(camel, "a.ts", "ˇlet max_size = MAX_SIZEˇ\n", "1-1");
        check(camel, "a.ts", "ˇlet x = MAX_SIZE + __proto__ˇ\n", "");
        check(snake, "a.c", "ˇint maxSize;ˇ\n", "1-1");
    }

    #[test]
    fn a_selection_of_whole_lines_ends_before_the_next() {
        let document = Document::new(None, None, None, "a\nb\nc\n");
        assert_eq!(selected_lines(&document, 0..2), 0..1);
        assert_eq!(selected_lines(&document, 0..3), 0..2);
        assert_eq!(selected_lines(&document, 2..2), 1..2);
        assert_eq!(selected_lines(&document, 6..6), 3..4);
    }
}
