//! What an action leaves alone. A model may be wrong; an answer that changes something else than the action is about is not
//! applied.

use surmise_grammars::Language;

/// What the lines after an action have in common with those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Everything but single and double quotes.
    OnlyQuotes,
    /// Every line with something in it, in order, but for its indentation.
    KeepsLines,
    /// Everything but the marks before comments, and white space at the beginning of lines.
    OnlyCommentMarks,
    /// Every line that is no comment.
    OnlyComments,
    /// Everything but underscores and the case of letters.
    OnlyCase,
    /// Nothing in particular: somebody should look at it.
    Nothing,
}

impl Promise {
    /// Whether `after` keeps the promise.
    pub fn is_kept(self, language: Language, before: &str, after: &str) -> bool {
        match self {
            Self::OnlyQuotes => same(before, after, |c| if c == '\'' { '"' } else { c }),
            Self::KeepsLines => is_subsequence(&trimmed(before), &trimmed(after)),
            Self::OnlyCommentMarks => {
                let bare = |text: &str| -> Vec<String> {
                    trimmed(text)
                        .into_iter()
                        .map(|line| without_mark(language, line).to_owned())
                        .collect()
                };
                bare(before) == bare(after)
            }
            Self::OnlyComments => code_lines(language, before) == code_lines(language, after),
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
            Self::KeepsLines => "lines that should stay",
            Self::OnlyCommentMarks => "more than the comment marks",
            Self::OnlyComments => "more than comments",
            Self::OnlyCase => "more than the style of names",
            Self::Nothing => "nothing",
        }
    }
}

fn same(before: &str, after: &str, fold: impl Fn(char) -> char) -> bool {
    before.chars().map(&fold).eq(after.chars().map(&fold))
}

fn trimmed(text: &str) -> Vec<&str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect()
}

fn is_subsequence(part: &[&str], whole: &[&str]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|line| rest.any(|it| it == line))
}

fn without_mark(language: Language, line: &str) -> &str {
    let mark = language.line_comment().unwrap_or_default();
    line.strip_prefix(mark).map_or(line, str::trim_start)
}

/// The lines that are no comments: neither lines with a mark, nor those from one that begins a block to the one that ends it,
/// nor those of a docstring.
fn code_lines(language: Language, text: &str) -> Vec<String> {
    let mark = language.line_comment();
    let block = match language {
        Language::Python => Some(("\"\"\"", "\"\"\"")),
        _ => language.block_comment(),
    };
    let mut is_inside = false;
    let mut code = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some((open, close)) = block {
            if is_inside {
                is_inside = !line.contains(close);
                continue;
            }
            if let Some(rest) = line.strip_prefix(open) {
                is_inside = !rest.contains(close);
                continue;
            }
        }
        if mark.is_none_or(|mark| !line.starts_with(mark)) {
            code.push(line.to_owned());
        }
    }
    code
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
                KeepsLines,
                Language::Python,
                "def f():\n    a()\n    b()",
                "def f():\n    try:\n        a()\n        b()\n    except E:\n        raise",
                true,
            ),
            (
                KeepsLines,
                Language::Python,
                "def f():\n    a()\n    b()",
                "def f():\n    try:\n        a()\n    except E:\n        raise",
                false,
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
