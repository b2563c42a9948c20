//! Where one more parameter of a function goes, and one more argument of a call.

use std::ops::Range;

use ropey::Rope;
use tree_sitter::Node;

use crate::{Syntax, text};

/// A place in a list in parentheses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListPlace {
    /// Byte at which something is to be inserted.
    pub at: usize,
    /// What belongs before it.
    pub before: &'static str,
    /// What belongs after it.
    pub after: &'static str,
}

/// A call of a function by its plain name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The name.
    pub name: String,
    /// Where another argument goes.
    pub place: ListPlace,
}

/// Levels between the name of a function and the node that has its parameters.
const LEVELS: usize = 3;

/// Where another parameter of the function whose name stands in `name` goes: last, but before one that takes all the rest.
/// None in a language whose parameters do not stand in parentheses.
pub fn parameter_place(syntax: &Syntax, rope: &Rope, name: Range<usize>) -> Option<ListPlace> {
    let root = syntax.tree()?.root_node();
    let node = root.descendant_for_byte_range(name.start, name.end)?;
    let enclosing = std::iter::successors(Some(node), Node::parent).take(LEVELS);
    let list = enclosing
        .filter_map(|node| node.child_by_field_name("parameters"))
        .next()?;
    let last = last_item(list);
    let takes_rest = last.filter(|last| {
        let text = text::text(rope, last.byte_range());
        text.starts_with(['*', '&', '.']) && !text.contains("self") || text.contains("...")
    });
    match takes_rest {
        Some(rest) => Some(ListPlace {
            at: rest.start_byte(),
            before: "",
            after: ", ",
        }),
        None => end_of(list, rope),
    }
}

/// The calls within `range` of functions by their plain names, in order. Methods of a value and constructors, whose names
/// begin with a capital letter, are not among them.
pub fn calls_in(syntax: &Syntax, rope: &Rope, range: Range<usize>) -> Vec<Call> {
    let mut calls = Vec::new();
    let Some(tree) = syntax.tree() else {
        return calls;
    };
    let mut cursor = tree.walk();
    loop {
        let node = cursor.node();
        let touches = node.start_byte() < range.end && node.end_byte() > range.start;
        if touches {
            calls.extend(call(node, rope));
        }
        if touches && cursor.goto_first_child() {
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return calls;
            }
        }
    }
}

fn call(node: Node<'_>, rope: &Rope) -> Option<Call> {
    let list = node.child_by_field_name("arguments")?;
    let has_receiver = node
        .child_by_field_name("object")
        .or(node.child_by_field_name("receiver"));
    let called = ["function", "name", "method"]
        .into_iter()
        .find_map(|it| node.child_by_field_name(it))?;
    let name = text::text(rope, called.byte_range()).into_owned();
    let is_plain = name.starts_with(|it: char| it.is_lowercase() || it == '_')
        && name.chars().all(|it| it.is_alphanumeric() || it == '_');
    let place = end_of(list, rope).filter(|_| is_plain && has_receiver.is_none())?;
    Some(Call { name, place })
}

/// The place after the last item of a list in parentheses.
fn end_of(list: Node<'_>, rope: &Rope) -> Option<ListPlace> {
    if !text::text(rope, list.byte_range()).starts_with('(') {
        return None;
    }
    Some(match last_item(list) {
        Some(last) => ListPlace {
            at: last.end_byte(),
            before: ", ",
            after: "",
        },
        None => ListPlace {
            at: list.start_byte() + 1,
            before: "",
            after: "",
        },
    })
}

fn last_item(list: Node<'_>) -> Option<Node<'_>> {
    let mut cursor = list.walk();
    let items = list.named_children(&mut cursor);
    items.filter(|item| !item.is_extra()).last()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Language, outline};

    /// The text with `it` as another parameter of its first function and another argument of all calls of `called`.
    #[track_caller]
    fn check(language: Language, text: &str, called: &str, expected: &str) {
        let rope = Rope::from_str(text);
        let syntax = Syntax::parse(language, &rope);
        let name = outline(&syntax, &rope)[0].name_range.clone();
        let calls = calls_in(&syntax, &rope, 0..text.len()).into_iter();
        let mut places: Vec<_> = calls.filter(|it| it.name == called).map(|it| it.place).collect();
        places.extend(parameter_place(&syntax, &rope, name));
        places.sort_by_key(|it| std::cmp::Reverse(it.at));
        let mut out = text.to_owned();
        for ListPlace { at, before, after } in places {
            out.insert_str(at, &format!("{before}it{after}"));
        }
        assert_eq!(out, expected);
    }

    #[test]
    fn parameters_and_arguments_go_to_the_end_of_their_lists() {
        check(
            Language::Rust,
            "fn a<T>(&self, x: u32,\n) { b(1, c()); d.b(2); B(3); b() }\n",
            "b",
            "fn a<T>(&self, x: u32, it,\n) { b(1, c(), it); d.b(2); B(3); b(it) }\n",
        );
        check(
            Language::Python,
            "def a(x, *rest):\n    return b(x)\n",
            "b",
            "def a(x, it, *rest):\n    return b(x, it)\n",
        );
        check(
            Language::TypeScript,
            "function a(): void { b(c => d(c)); }\n",
            "b",
            "function a(it): void { b(c => d(c), it); }\n",
        );
        check(
            Language::Go,
            "func a(x int, y ...int) int { return b(x) }\n",
            "b",
            "func a(x int, it, y ...int) int { return b(x, it) }\n",
        );
        check(
            Language::C,
            "int a(int x) { return b(x); }\n",
            "b",
            "int a(int x, it) { return b(x, it); }\n",
        );
        check(Language::Rust, "fn a(&self) {}\n", "b", "fn a(&self, it) {}\n");
        check(Language::Bash, "a() { b c; }\n", "b", "a() { b c; }\n");
    }
}
