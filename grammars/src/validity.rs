//! Whether a suggestion would break the code it is put into.

use std::ops::Range;

use ropey::Rope;

use crate::syntax::Neighbourhood;
use crate::{Language, Syntax};

/// Whether the tree has more errors with `text` in the place of `replace` than it has now.
///
/// Code around a cursor is usually broken already, so errors are compared, not forbidden: worse means more
/// ERROR and MISSING nodes, or as many of them over more text than was inserted. More but clearly smaller
/// errors (half the bytes) are no worse. The beginning of a block in Python (`if x:`) is no error, because
/// its body comes next. Plain text never gets worse, nor does what takes too long to parse.
///
/// Parses an edited copy of what is around; neither the rope nor the tree changes.
pub fn worsens(syntax: &Syntax, rope: &Rope, replace: Range<usize>, text: &str) -> bool {
    let around = syntax.around(rope, replace.clone());
    let replace = replace.start - around.start..replace.end - around.start;
    if is_worse(&around, replace.clone(), text) {
        // A header is judged by whether it would be right with a body.
        let header = syntax.language() == Language::Python && text.trim_end().ends_with(':');
        return !header || is_worse(&around, replace, &format!("{} pass", text.trim_end()));
    }
    false
}

fn is_worse(around: &Neighbourhood, replace: Range<usize>, text: &str) -> bool {
    let preview = around.preview(replace, text);
    if preview.syntax.is_stale() {
        return false;
    }
    let (before, after) = (preview.damage_before, preview.syntax.damage());
    if after.nodes > before.nodes {
        after.bytes * 2 >= before.bytes
    } else {
        after.nodes == before.nodes && after.nodes > 0 && after.bytes > before.bytes + text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `text` at `ˇ` makes the tree worse.
    fn worse(language: Language, fixture: &str, text: &str) -> bool {
        let at = fixture.find('ˇ').unwrap();
        let rope = Rope::from_str(&fixture.replace('ˇ', ""));
        let syntax = Syntax::parse(language, &rope);
        worsens(&syntax, &rope, at..at, text)
    }

    #[test]
    fn whole_code_is_no_worse() {
        let cases = [
            (Language::Rust, "fn f() {\n    ˇ\n}\n", "let x = 1;\n    x + 1"),
            (Language::Rust, "fn f() {\n    let x = ˇ\n}\n", "foo(1, 2);"),
            (Language::Rust, "fn f() {\n    fooˇ\n}\n", ".bar()"),
            (Language::Rust, "fn f() {\n    foo(ˇ\n}\n", "a, b);"),
            (Language::Rust, "fn f(ˇ)", "x: u32"),
            (Language::Python, "def f():\n    ˇ\n", "return 1"),
            (Language::Python, "def f():\n    x = 1\n    ˇ\n", "if x:"),
            (
                Language::Python,
                "def f():\n    x = 1\n    ˇ\n",
                "for y in x:\n        print(y)",
            ),
            (Language::JavaScript, "const x = {ˇ};\n", "a: 1, b: [2]"),
            (Language::Json, "{\"a\": ˇ}", "[1, 2]"),
            (Language::Html, "<div>ˇ</div>", "<p>text</p>"),
            (Language::PlainText, "ˇ", "((("),
        ];
        for (language, fixture, text) in cases {
            assert!(
                !worse(language, fixture, text),
                "{language:?} {fixture:?} {text:?}"
            );
        }
    }

    #[test]
    fn broken_code_is_worse() {
        let cases = [
            (Language::Rust, "fn f() {\n    ˇ\n}\n", "let x = foo(1;"),
            (Language::Rust, "fn f() {\n    ˇ\n}\n", "if x {"),
            (Language::Rust, "fn f() {\n    ˇ\n}\n", "x }"),
            (Language::Rust, "fn f() {\n    foo(ˇ);\n}\n", "a, b);"),
            (Language::Python, "def f():\n    x = 1\n    ˇ\n", "if x = :"),
            (Language::Python, "def f():\n    x = 1\n    ˇ\n", "return (1"),
            (Language::JavaScript, "const x = {ˇ};\n", "a: }, b"),
            (Language::Json, "{\"a\": 1ˇ}", "}"),
            (Language::Go, "package a\n\nfunc f() {\n\tˇ\n}\n", "x := := 1"),
        ];
        for (language, fixture, text) in cases {
            assert!(
                worse(language, fixture, text),
                "{language:?} {fixture:?} {text:?}"
            );
        }
    }

    #[test]
    fn errors_that_were_there_are_not_held_against_a_suggestion() {
        let elsewhere = "fn broken( {\n}\n\nfn f() {\n    ˇ\n}\n";
        assert!(!worse(Language::Rust, elsewhere, "let x = 1;"));
        assert!(worse(
            Language::Rust,
            "let let = ;\nfn f() {\n    ˇ\n}\n",
            "let x = (1;"
        ));
    }

    #[test]
    fn what_is_replaced_counts_as_gone() {
        let rope = Rope::from_str("fn f() { foo(; }");
        let syntax = Syntax::parse(Language::Rust, &rope);
        assert!(!worsens(&syntax, &rope, 12..13, "()"));
        assert!(!worsens(&syntax, &rope, 9..500, "}"));
    }
}
