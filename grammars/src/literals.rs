//! The strings and comments in a range of a text, as the tree has them.

use std::ops::Range;

use crate::Syntax;

/// The comments that touch the bytes of `range`, in order; none in plain text.
pub fn comments_in(syntax: &Syntax, range: Range<usize>) -> Vec<Range<usize>> {
    found(syntax, range, |kind| kind.contains("comment"))
}

/// The string literals that touch the bytes of `range`, in order, with their quotes and whatever stands before those
/// (`f"…"`); a literal inside of another one is not listed. None in plain text.
pub fn strings_in(syntax: &Syntax, range: Range<usize>) -> Vec<Range<usize>> {
    found(syntax, range, |kind| kind.contains("string"))
}

/// The outermost named nodes that touch `range` and whose kind is wanted. Grammars name comments and strings alike.
fn found(syntax: &Syntax, range: Range<usize>, wanted: impl Fn(&str) -> bool) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let Some(tree) = syntax.tree() else {
        return found;
    };
    let mut cursor = tree.walk();
    loop {
        let node = cursor.node();
        let touches = node.start_byte() < range.end && node.end_byte() > range.start;
        // Unnamed nodes are keywords, such as the type `string`.
        let is_found = touches && node.is_named() && wanted(node.kind());
        if is_found {
            found.push(node.byte_range());
        }
        if touches && !is_found && cursor.goto_first_child() {
            continue;
        }
        while cursor.node().start_byte() >= range.end || !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return found;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ropey::Rope;

    use super::*;
    use crate::Language;

    fn check(language: Language, text: &str, strings: &[&str], comments: &[&str]) {
        let syntax = Syntax::parse(language, &Rope::from_str(text));
        let all = |ranges: Vec<Range<usize>>| -> Vec<String> {
            ranges
                .into_iter()
                .map(|it| text[it].trim_end().to_owned())
                .collect()
        };
        assert_eq!(all(strings_in(&syntax, 0..text.len())), strings, "{text}");
        assert_eq!(all(comments_in(&syntax, 0..text.len())), comments, "{text}");
    }

    #[test]
    fn strings_and_comments_are_found_in_many_languages() {
        check(
            Language::Python,
            "# one\nx = f\"{a['b']}\" + 'c'  # two\n",
            &["f\"{a['b']}\"", "'c'"],
            &["# one", "# two"],
        );
        check(
            Language::TypeScript,
            "const a: string = 'b'; // c\n/* d */ f(\"e\");\n",
            &["'b'", "\"e\""],
            &["// c", "/* d */"],
        );
        check(
            Language::Rust,
            "/// a\nfn f() { g(\"b\"); } // c\n",
            &["\"b\""],
            &["/// a", "// c"],
        );
        check(
            Language::Php,
            "<?php\n$a = \"b $c\" . 'd'; # e\n",
            &["\"b $c\"", "'d'"],
            &["# e"],
        );
        check(Language::PlainText, "'a' # b\n", &[], &[]);
    }

    #[test]
    fn what_lies_beside_the_range_is_left_out() {
        let text = "a = 'b'\nc = 'd'\ne = 'f'\n";
        let syntax = Syntax::parse(Language::Python, &Rope::from_str(text));
        assert_eq!(strings_in(&syntax, 8..15), vec![12..15; 1]);
        assert!(strings_in(&syntax, 8..8).is_empty());
    }
}
