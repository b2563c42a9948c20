//! What an action leaves alone. A model may be wrong; an answer that changes something else than the action is about is not
//! applied.

use std::ops::Range;

use ropey::Rope;
use surmise_grammars::{Language, Syntax, comments_in, strings_in};

/// What a text after an action has in common with the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Everything but the quotes around strings, single or double.
    OnlyQuotes,
    /// Every line with something in it, in order, but for its indentation. What is new tries them, catches errors and raises them again.
    RaisesAgain,
    /// Everything but the marks before comments, and white space at the beginning of lines.
    OnlyCommentMarks,
    /// Everything but comments, docstrings and white space.
    OnlyComments,
    /// Everything but underscores and the case of letters.
    OnlyCase,
    /// Nothing in particular: somebody should look at it.
    Nothing,
}

impl Promise {
    /// Whether `after` keeps the promise: whole texts, so that what is in them is told by the language's grammar.
    pub fn is_kept(self, language: Language, before: &str, after: &str) -> bool {
        match self {
            Self::OnlyQuotes => without_quotes(language, before) == without_quotes(language, after),
            Self::RaisesAgain => {
                added_lines(&trimmed(before), &trimmed(after)).is_some_and(|added| raises_again(&added))
            }
            Self::OnlyCommentMarks => {
                let bare = |text: &str| -> Vec<String> {
                    trimmed(text)
                        .into_iter()
                        .map(|line| without_mark(language, line).to_owned())
                        .collect()
                };
                bare(before) == bare(after)
            }
            Self::OnlyComments => without_comments(language, before) == without_comments(language, after),
            Self::OnlyCase => {
                let folded = |text: &str| text.replace('_', "").to_lowercase();
                folded(before) == folded(after)
            }
            Self::Nothing => true,
        }
    }

    /// Whether the promise says too little for an edit to be applied unseen.
    pub fn needs_a_look(self) -> bool {
        self == Self::Nothing
    }

    /// What a model changed that it should not have, in words.
    pub fn broken(self) -> &'static str {
        match self {
            Self::OnlyQuotes => "more than the quotes",
            Self::RaisesAgain => "lines that should stay, or kept errors to itself",
            Self::OnlyCommentMarks => "more than the comment marks",
            Self::OnlyComments => "more than comments",
            Self::OnlyCase => "more than the style of names",
            Self::Nothing => "nothing",
        }
    }
}

fn trimmed(text: &str) -> Vec<&str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect()
}

/// The lines of `whole` beside those of `part`; none if it does not have all of those, in their order.
fn added_lines<'t>(part: &[&str], whole: &[&'t str]) -> Option<Vec<&'t str>> {
    let mut missing = part.iter().peekable();
    let added = whole.iter().filter(|line| missing.next_if_eq(line).is_none());
    let added = added.copied().collect();
    missing.next().is_none().then_some(added)
}

/// Whether lines make one block that is tried and one that catches what goes wrong in it and raises that, or more about it, again.
fn raises_again(lines: &[&str]) -> bool {
    /// With braces in lines of their own, and a line that tells of the error.
    const MOST_LINES: usize = 8;
    let count = |words: &[&str]| {
        let is_wanted = |line: &&&str| {
            line.split(|it: char| !it.is_alphanumeric() && it != '_')
                .any(|word| words.contains(&word))
        };
        lines.iter().filter(is_wanted).count()
    };
    lines.len() <= MOST_LINES
        && count(&["try", "begin"]) == 1
        && count(&["except", "catch", "rescue"]) == 1
        && count(&["raise", "throw"]) == 1
}

fn without_mark(language: Language, line: &str) -> &str {
    let mark = language.line_comment().unwrap_or_default();
    line.strip_prefix(mark).map_or(line, str::trim_start)
}

/// What stands outside of strings and what inside of them, in turns, without the quotes of those.
fn without_quotes(language: Language, text: &str) -> Vec<&str> {
    let rope = Rope::from_str(text);
    let (mut parts, mut at) = (Vec::new(), 0);
    for string in strings_in(&Syntax::parse(language, &rope), 0..text.len()) {
        let literal = &text[string.clone()];
        let prefix_len = literal.find(['"', '\'']).unwrap_or(0);
        let (prefix, quoted) = literal.split_at(prefix_len);
        let content = ['"', '\'']
            .iter()
            .find_map(|&it| quoted.strip_prefix(it)?.strip_suffix(it));
        parts.extend([&text[at..string.start], prefix, content.unwrap_or(quoted)]);
        at = string.end;
    }
    parts.push(&text[at..]);
    parts
}

/// The lines of what is no comment and no docstring, with their indentation where it means something.
fn without_comments(language: Language, text: &str) -> Vec<String> {
    let rope = Rope::from_str(text);
    let syntax = Syntax::parse(language, &rope);
    let mut left_out = comments_in(&syntax, 0..text.len());
    if language == Language::Python {
        let strings = strings_in(&syntax, 0..text.len()).into_iter();
        left_out.extend(strings.filter(|it| is_docstring(text, it)));
        left_out.sort_by_key(|it| it.start);
    }
    let (mut code, mut at) = (String::new(), 0);
    for range in left_out {
        code.push_str(&text[at..range.start]);
        code.push(' ');
        at = range.end;
    }
    code.push_str(&text[at..]);
    let lines = code.lines().map(|line| match language {
        Language::Python => line.trim_end(),
        _ => line.trim(),
    });
    lines.filter(|it| !it.is_empty()).map(str::to_owned).collect()
}

/// Whether a string stands by itself where a body begins.
fn is_docstring(text: &str, string: &Range<usize>) -> bool {
    let before = text[..string.start].trim_end();
    let begins_body = before.ends_with(':') && text[before.len()..string.start].contains('\n');
    let rest_of_line = text[string.end..].lines().next().unwrap_or_default();
    (before.is_empty() || begins_body) && rest_of_line.trim().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_action_is_not_about_stays() {
        use Promise::*;
        let cases = [
            (OnlyQuotes, Language::Python, "f(\"a\")", "f('a')", true),
            (OnlyQuotes, Language::Python, "f(\"a\")", "f('b')", false),
            (OnlyQuotes, Language::Python, "f(\"a\")", "f('a')\n", false),
            (
                RaisesAgain,
                Language::Python,
                "def f():\n    a()\n    b()",
                "def f():\n    try:\n        a()\n        b()\n    except E:\n        raise",
                true,
            ),
            (
                RaisesAgain,
                Language::Python,
                "def f():\n    a()\n    b()",
                "def f():\n    try:\n        a()\n    except E:\n        raise",
                false,
            ),
            (
                RaisesAgain,
                Language::Python,
                "def f():\n    a()",
                "def f():\n    try:\n        a()\n    except E:\n        pass",
                false,
            ),
            (
                RaisesAgain,
                Language::Python,
                "def f():\n    a()",
                "def f():\n    a()\n    a()",
                false,
            ),
            (
                RaisesAgain,
                Language::TypeScript,
                "function f() {\n  a();\n}",
                "function f() {\n  try {\n    a();\n  } catch (error) {\n    console.error(error);\n    throw error;\n  }\n}",
                true,
            ),
            (
                OnlyCommentMarks,
                Language::Go,
                "\ta()\n\n\tb()",
                "\t// a()\n\n\t// b()",
                true,
            ),
            (OnlyCommentMarks, Language::Go, "\t// a()", "\ta(b)", false),
            (
                OnlyComments,
                Language::Rust,
                "// a\nb();\n/* c\n   d */\ne();",
                "b();\ne();",
                true,
            ),
            (OnlyComments, Language::Rust, "// a\nb();", "", false),
            (
                OnlyComments,
                Language::Rust,
                "/* a */ b();",
                "/* a */ c();",
                false,
            ),
            (OnlyComments, Language::Rust, "/* a */ b();", "b();", true),
            (
                OnlyComments,
                Language::Python,
                "if a:\n    b()  # c\n    d()\n",
                "if a:\n    b()\nd()\n",
                false,
            ),
            (
                OnlyComments,
                Language::Python,
                "x = \"\"\"\na\n\"\"\"\nb()\n",
                "x = \"\"\"\na\n\"\"\"\nc()\n",
                false,
            ),
            (
                OnlyQuotes,
                Language::Python,
                "f(\"it's\", \"a\")",
                "f(\"it's\", 'a')",
                true,
            ),
            (OnlyQuotes, Language::Python, "f(\"it's\")", "f('it\"s')", false),
            (
                OnlyQuotes,
                Language::Python,
                "x = 1  # don't",
                "x = 1  # don\"t",
                false,
            ),
            (
                OnlyQuotes,
                Language::Php,
                "<?php\nf(\"a\");\n",
                "<?php\nf('a');\n",
                true,
            ),
            (
                OnlyComments,
                Language::Python,
                "def f():\n    a()",
                "def f():\n    \"\"\"Does a.\"\"\"\n    a()",
                true,
            ),
            (
                OnlyComments,
                Language::Python,
                "def f():\n    a()",
                "def f():\n    \"\"\"\n    Does a.\n    \"\"\"\n    a()",
                true,
            ),
            (
                OnlyComments,
                Language::Python,
                "def f():\n    a()",
                "def f():\n    # a\n    b()",
                false,
            ),
            (
                OnlyCase,
                Language::Python,
                "maxSize = getSize(1)",
                "max_size = get_size(1)",
                true,
            ),
            (
                OnlyCase,
                Language::Python,
                "maxSize = getSize(1)",
                "max_size = get_size(2)",
                false,
            ),
        ];
        for (promise, language, before, after, kept) in cases {
            assert_eq!(
                promise.is_kept(language, before, after),
                kept,
                "{promise:?} {before:?} {after:?}"
            );
        }
    }
}
