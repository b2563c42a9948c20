//! Brackets in code, and which of them are open at a position.
//!
//! Works where the tree is broken, because the tokens of a broken tree are still right for the most part.

use std::ops::Range;

use ropey::Rope;
use tree_sitter::Node;

use crate::{Syntax, text};

/// How far on each side of a position brackets are matched, in bytes.
const WINDOW_BYTES: usize = 16 * 1024;

/// A bracket in code: where, which one, and whether it opens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bracket {
    pub(crate) at: usize,
    pub(crate) shape: char,
    pub(crate) opens: bool,
}

/// An opening bracket before the cursor that is still open there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) at: usize,
    pub(crate) shape: char,
    /// Whether the text after the cursor closes it.
    pub(crate) closed_after: bool,
}

/// The brackets that are open at `at`, outermost first, as far as they are in reach.
pub(crate) fn pending_at(syntax: &Syntax, rope: &Rope, at: usize) -> Vec<Pending> {
    let before = text::snap(rope, at.saturating_sub(WINDOW_BYTES))..at;
    let after = at..text::snap(rope, at + WINDOW_BYTES);
    let loose = |range: Range<usize>| {
        // A node without errors closes what it opens; only what is open at the cursor or broken is of interest.
        let is_whole = |node: Node<'_>| {
            range.start <= node.start_byte() && node.end_byte() <= range.end && !node.has_error()
        };
        collect(syntax, rope, range.clone(), &is_whole)
    };
    matched(&loose(before), &loose(after))
}

/// What closes a bracket of a shape.
pub(crate) fn closer(shape: char) -> char {
    match shape {
        '(' => ')',
        '[' => ']',
        _ => '}',
    }
}

/// The brackets of a range, by where they stand; those in strings and comments are left out if there is a tree.
pub(crate) fn brackets_in(syntax: &Syntax, rope: &Rope, range: Range<usize>) -> Vec<Bracket> {
    collect(syntax, rope, range, &|_| false)
}

/// The brackets of a range that are not in a node for which `skip` holds.
fn collect(
    syntax: &Syntax,
    rope: &Rope,
    range: Range<usize>,
    skip: &dyn Fn(Node<'_>) -> bool,
) -> Vec<Bracket> {
    let mut found = Vec::new();
    let mut add = |at: usize, token: &str| {
        for (idx, c) in token.char_indices() {
            let (shape, opens) = match c {
                '(' | '[' | '{' => (c, true),
                ')' => ('(', false),
                ']' => ('[', false),
                '}' => ('{', false),
                _ => continue,
            };
            found.push(Bracket {
                at: at + idx,
                shape,
                opens,
            });
        }
    };
    if syntax.tree().is_none() {
        add(range.start, &text::text(rope, range));
        return found;
    }
    for_each_node(syntax, range.clone(), |node| {
        let inside = range.start <= node.start_byte() && node.start_byte() < range.end;
        if inside && node.child_count() == 0 && !node.is_named() && !node.is_missing() {
            add(node.start_byte(), node.kind());
        }
        !skip(node)
    });
    found
}

/// Visits the nodes that touch `range`, from the root down and in order; children only where `visit` says so.
pub(crate) fn for_each_node<'tree>(
    syntax: &'tree Syntax,
    range: Range<usize>,
    mut visit: impl FnMut(Node<'tree>) -> bool,
) {
    let Some(tree) = syntax.tree() else { return };
    let mut cursor = tree.walk();
    loop {
        let node = cursor.node();
        if node.start_byte() >= range.end && node.start_byte() > range.start {
            return;
        }
        if node.end_byte() >= range.start
            && visit(node)
            && cursor.goto_first_child_for_byte(range.start).is_some()
        {
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return;
            }
        }
    }
}

/// Matches what is open before the cursor with what is closed after it, from the outside in: when something
/// is missing, it is what was typed last.
fn matched(before: &[Bracket], after: &[Bracket]) -> Vec<Pending> {
    let mut open: Vec<Pending> = Vec::new();
    for bracket in before {
        if bracket.opens {
            open.push(Pending {
                at: bracket.at,
                shape: bracket.shape,
                closed_after: false,
            });
        } else if let Some(partner) = open.iter().rposition(|open| open.shape == bracket.shape) {
            open.truncate(partner);
        }
    }
    let mut own: Vec<char> = Vec::new();
    let mut closers = Vec::new();
    for bracket in after {
        if bracket.opens {
            own.push(bracket.shape);
        } else if let Some(partner) = own.iter().rposition(|&shape| shape == bracket.shape) {
            own.truncate(partner);
        } else if own.is_empty() {
            closers.push(bracket.shape);
        }
    }
    let mut from_outside = open.iter_mut();
    for &shape in closers.iter().rev() {
        if let Some(open) = from_outside.find(|open| open.shape == shape) {
            open.closed_after = true;
        }
    }
    open
}
