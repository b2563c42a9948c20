//! The scopes around a position: which function, in which class, in which module.

use std::ops::Range;

use ropey::Rope;
use tree_sitter::{Node, Tree};

use crate::query::{self, Capture, EVERYWHERE, LoadedQuery, Parts, Purpose};
use crate::{Language, Syntax, TextEdit, brackets, text};

/// How far before a position what was typed last is looked for.
const LOOK_BACK_BYTES: usize = 256;

/// What kind of construct a scope is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScopeKind {
    /// A namespace, package, module or section.
    Module,
    /// A class, struct, interface, `impl` or anything else that has members.
    Class,
    /// A function, method or closure.
    Function,
    /// A loop, branch, table or another nested group.
    Block,
}

/// A construct that encloses a position. All ranges are bytes of the rope, half-open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// What it is.
    pub kind: ScopeKind,
    /// Its name as written, if it has one.
    pub name: Option<String>,
    /// All of it, signature and body.
    pub range: Range<usize>,
    /// Its beginning up to the body, or its first line, without white space at the end.
    pub signature: Range<usize>,
}

/// The scopes that enclose the byte offset `at`, innermost first; none at the top of a file or in plain text.
///
/// A position just after a scope is outside of it, except that in a language with significant indentation
/// a blank line belongs to whatever its own indentation says. Brackets that are not closed yet are taken to
/// be closed at `at`. `at` is snapped to a character.
pub fn scopes_at(syntax: &Syntax, rope: &Rope, at: usize) -> Vec<Scope> {
    let at = text::snap(rope, at);
    let around = syntax.around(rope, at..at);
    let local_at = at - around.start;
    let closers = missing_closers(&around.syntax, &around.rope, local_at);
    let mut scopes = if closers.is_empty() {
        scopes_in(
            around.syntax.language(),
            around.syntax.tree(),
            &around.rope,
            local_at,
        )
    } else {
        // An unclosed bracket can cost the tree everything around it. We look at the text as it will be.
        let repaired = around.preview(local_at..local_at, &closers);
        scopes_in(
            around.syntax.language(),
            repaired.syntax.tree(),
            &repaired.rope,
            local_at,
        )
    };
    for scope in &mut scopes {
        for range in [&mut scope.range, &mut scope.signature] {
            if range.end > local_at {
                range.end = (range.end - closers.len()).max(local_at);
            }
            range.start += around.start;
            range.end += around.start;
        }
    }
    scopes
}

/// Scopes that were found above a place in code that was whole, for as long as nothing is changed there.
#[derive(Clone, Debug)]
pub(crate) struct ScopesAbove {
    before: usize,
    /// Where they were asked for: further up there may be others.
    at: usize,
    scopes: Vec<Scope>,
}

impl ScopesAbove {
    /// What becomes of them with an edit of the text; none if it is not below them, or takes the end of one.
    pub(crate) fn after(&self, edit: &TextEdit) -> Option<Self> {
        let scopes = self.scopes.iter().map(|scope| {
            Some(Scope {
                range: edit.moved(&scope.range)?,
                ..scope.clone()
            })
        });
        let scopes = scopes.collect::<Option<_>>()?;
        let at = edit
            .moved(&(self.at..self.at))
            .map_or(edit.new_end_byte, |it| it.start);
        (edit.start_byte >= self.before).then_some(Self {
            before: self.before,
            at,
            scopes,
        })
    }

    fn are_around(&self, at: usize, before: usize) -> bool {
        self.before == before && self.at <= at && self.scopes.iter().all(|scope| at < scope.range.end)
    }
}

/// Those of [`scopes_at`] whose signatures end before the byte `before`, far above what was typed last: they do not wait for
/// that to be parsed. While what is between is broken, they are those of before it broke, if they were asked for.
pub fn scopes_above(syntax: &Syntax, rope: &Rope, at: usize, before: usize) -> Vec<Scope> {
    let at = text::snap(rope, at);
    let tree = syntax.rough_tree();
    let around = enclosing(tree, at);
    let is_broken = [&around, &enclosing(tree, before)].map(|nodes| nodes.iter().any(Node::is_error));
    // Something long may just have been pasted.
    let line = text::text(rope, text::snap(rope, before)..text::line_end(rope, before));
    let code = before + line.len() - line.trim_start().len();
    let is_new = enclosing(tree, code).first().is_some_and(Node::has_changes);
    let is_unsure = is_new || is_broken.contains(&true);
    // What is broken by what was typed may have lost its beginning to the nodes around it, of which the root has errors from anywhere.
    let has_error = around.iter().rev().nth(1).is_some_and(Node::has_error);
    if is_unsure || has_error {
        let known = syntax.lock_scopes_above().clone();
        if let Some(known) = known.filter(|it| it.are_around(at, before)) {
            return known.scopes;
        }
    }
    let mut scopes = if is_unsure {
        scopes_at(syntax, rope, at)
    } else {
        scopes_in(syntax.language(), tree, rope, at)
    };
    scopes.retain(|scope| scope.signature.end <= before);
    if !is_unsure && !has_error {
        // Where indentation ends a block, the tree of before the last key does not say so.
        let is_right = syntax.rough_has_all_lines() && !is_indented(syntax.language());
        *syntax.lock_scopes_above() = (is_right && !scopes.is_empty()).then(|| ScopesAbove {
            before,
            at,
            scopes: scopes.clone(),
        });
    }
    scopes
}

impl ScopeKind {
    /// Every kind.
    pub const ALL: &[ScopeKind] = &[
        ScopeKind::Module,
        ScopeKind::Class,
        ScopeKind::Function,
        ScopeKind::Block,
    ];

    /// Lower-case name, as in the capture `@scope.name`.
    pub fn name(self) -> &'static str {
        match self {
            ScopeKind::Module => "module",
            ScopeKind::Class => "class",
            ScopeKind::Function => "function",
            ScopeKind::Block => "block",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<ScopeKind> {
        ScopeKind::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

/// What closes the brackets that are open at `at` and not closed after it; empty where the nodes around it are whole.
fn missing_closers(syntax: &Syntax, rope: &Rope, at: usize) -> String {
    // What was typed last may be a broken node by itself, with the cursor some white space after it.
    let start = text::snap(rope, at.saturating_sub(LOOK_BACK_BYTES));
    let typed = start + text::text(rope, start..at).trim_end().len();
    let is_broken = |at| enclosing(syntax.tree(), at).iter().any(Node::is_error);
    if !is_broken(at) && !is_broken(typed.saturating_sub(1)) {
        return String::new();
    }
    let pending = brackets::pending_at(syntax, rope, at);
    pending
        .iter()
        .rev()
        .filter(|open| !open.closed_after)
        .map(|open| brackets::closer(open.shape))
        .collect()
}

fn scopes_in(language: Language, tree: Option<&Tree>, rope: &Rope, at: usize) -> Vec<Scope> {
    let Some(query) = LoadedQuery::get(language, Purpose::Scopes) else {
        return Vec::new();
    };
    let (probe, indent) = probe(language, rope, at);
    let mut scopes = Vec::new();
    for node in enclosing(tree, probe) {
        if let Some(indent) = indent
            && node.end_byte() <= at
            && text::indent_width(&text::text(rope, line_of(rope, node.start_byte()))) >= indent
        {
            continue;
        }
        if node.start_byte() == at {
            continue;
        }
        query.for_each_match(node, rope, 0, EVERYWHERE, |_, captured| {
            let whole = captured.iter().find_map(|&(capture, found)| match capture {
                Capture::Scope(kind) if found == node => Some(kind),
                _ => None,
            });
            let already = scopes
                .last()
                .is_some_and(|scope: &Scope| scope.range == node.byte_range());
            if let Some(kind) = whole
                && !already
            {
                let Parts { name, body } = Parts::of(captured);
                scopes.push(Scope {
                    kind,
                    name: name.map(|name| query::clean_name(&text::text(rope, name.byte_range()))),
                    range: text::snap_range(rope, node.byte_range()),
                    signature: signature(rope, node, body),
                });
            }
        });
    }
    scopes
}

/// How a scope is introduced: up to its body, or its first line if nothing in it is marked as the body.
fn signature(rope: &Rope, node: Node<'_>, body: Option<Node<'_>>) -> Range<usize> {
    let range = query::until_body(rope, node, body);
    match body {
        Some(_) => range,
        None => query::trim_end(
            rope,
            range.start..text::line_end(rope, range.start).min(range.end),
        ),
    }
}

/// The nodes that contain the byte at `at`, smallest first; none without a tree.
pub(crate) fn enclosing(tree: Option<&Tree>, at: usize) -> Vec<Node<'_>> {
    let Some(tree) = tree else {
        return Vec::new();
    };
    let mut cursor = tree.walk();
    let mut nodes = vec![tree.root_node()];
    while cursor.goto_first_child_for_byte(at).is_some() {
        let mut node = cursor.node();
        // The child found may end exactly here; the byte belongs to the one after it.
        while node.end_byte() <= at {
            if !cursor.goto_next_sibling() {
                break;
            }
            node = cursor.node();
        }
        if node.start_byte() > at || node.end_byte() <= at {
            break;
        }
        nodes.push(node);
    }
    nodes.reverse();
    nodes
}

/// Whether blocks end with their indentation.
fn is_indented(language: Language) -> bool {
    matches!(language, Language::Python | Language::Yaml)
}

/// Where to look for the scopes of `at`, and the indentation that decides which of them still go on there.
///
/// In Python a block ends with its last statement, so a cursor on the blank line below is outside of every
/// node. We look at the last character before it and keep what is less indented than the cursor.
fn probe(language: Language, rope: &Rope, at: usize) -> (usize, Option<usize>) {
    if !is_indented(language) {
        return (at, None);
    }
    let line = text::line_start(rope, at);
    let before = text::text(rope, line..at);
    if !before.trim().is_empty() {
        // At the end of the last statement of a block we are still in it.
        let at_line_end = text::text(rope, at..text::line_end(rope, at)).trim().is_empty();
        return match before.char_indices().rev().find(|(_, c)| !c.is_whitespace()) {
            Some((last, _)) if at_line_end => (line + last, None),
            _ => (at, None),
        };
    }
    let indent = text::indent_width(&before);
    let mut end = line;
    while end > 0 {
        let start = text::line_start(rope, end - 1);
        let above = text::text(rope, start..end);
        if let Some((last, _)) = above.char_indices().rev().find(|(_, c)| !c.is_whitespace()) {
            return (start + last, Some(indent));
        }
        end = start;
    }
    (at, None)
}

fn line_of(rope: &Rope, byte: usize) -> Range<usize> {
    text::line_start(rope, byte)..text::line_end(rope, byte)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// One line for each scope around `ˇ`, innermost first: kind, name, signature.
    fn check(language: Language, fixture: &str, expected: Expect) {
        let at = fixture.find('ˇ').unwrap();
        let rope = Rope::from_str(&fixture.replace('ˇ', ""));
        let scopes = scopes_at(&Syntax::parse(language, &rope), &rope, at);
        let shown = scopes.iter().map(|scope| {
            let signature = text::text(&rope, scope.signature.clone());
            format!(
                "{} {} | {signature}\n",
                scope.kind.name(),
                scope.name.as_deref().unwrap_or("-")
            )
        });
        expected.assert_eq(&shown.collect::<String>());
    }

    #[test]
    fn scopes_enclose_the_cursor_innermost_first() {
        check(
            Language::Rust,
            "mod m {\n    impl<T> A for B<T> {\n        fn f(&self) {\n            if x {\n                ˇ\n            }\n        }\n    }\n}\n",
            expect![[r#"
                block - | if x
                function f | fn f(&self)
                class B<T> | impl<T> A for B<T>
                module m | mod m
            "#]],
        );
        check(
            Language::Tsx,
            "class A {\n  run = () => {\n    items.map((x) => <p>{xˇ}</p>);\n  };\n}\n",
            expect![[r#"
                function - | (x) =>
                function - | () =>
                class A | class A
            "#]],
        );
        check(
            Language::Go,
            "func (s *Server) Run() {\n\tswitch x {\n\tcase 1:\n\t\tˇfoo()\n\t}\n}\n",
            expect![[r#"
                block 1 | case 1:
                block - | switch x {
                function Run | func (s *Server) Run()
            "#]],
        );
        check(
            Language::Json,
            "{\"a\": {\"b\": [1, ˇ2]}}",
            expect![[r#"
                block b | "b":
                block a | "a":
            "#]],
        );
        check(
            Language::Markdown,
            "# One\n\n## Two\n\nteˇxt\n",
            expect![[r#"
                module Two | ## Two
                module One | # One
            "#]],
        );
    }

    #[test]
    fn a_position_beside_a_scope_is_outside() {
        check(Language::Rust, "ˇfn f() {}\n", expect![[r#""#]]);
        check(Language::Rust, "fn f() {}ˇ\n", expect![[r#""#]]);
        check(
            Language::Rust,
            "fn f() {ˇ}\n",
            expect![[r#"
                function f | fn f()
            "#]],
        );
        check(Language::PlainText, "fn f() {ˇ}\n", expect![[r#""#]]);
    }

    #[test]
    fn blank_lines_belong_to_what_their_indentation_says() {
        let inside = "class A:\n    def f(self):\n        return 1\n        ˇ\n";
        check(
            Language::Python,
            inside,
            expect![[r#"
                function f | def f(self):
                class A | class A:
            "#]],
        );
        let in_class = "class A:\n    def f(self):\n        return 1\n\n    ˇ\n";
        check(
            Language::Python,
            in_class,
            expect![[r#"
                class A | class A:
            "#]],
        );
        let outside = "class A:\n    def f(self):\n        return 1\nˇ\n";
        check(Language::Python, outside, expect![[r#""#]]);
        let at_line_end = "def f():\n    return xˇ\n\nclass B:\n    pass\n";
        check(
            Language::Python,
            at_line_end,
            expect![[r#"
                function f | def f():
            "#]],
        );
    }

    #[test]
    fn an_unclosed_bracket_hides_nothing() {
        check(
            Language::Rust,
            "impl A {\n    fn f(&self) {\n        let x = foo(ˇ\n    }\n}\n\nfn g() {}\n",
            expect![[r#"
                function f | fn f(&self)
                class A | impl A
            "#]],
        );
        check(
            Language::JavaScript,
            "class A {\n  f() {\n    if (x) {\n      ˇ\n  }\n}\n",
            expect![[r#"
                block - | if (x)
                function f | f()
                class A | class A
            "#]],
        );
        check(
            Language::Go,
            "func f() {\n\tfoo(a[ˇ",
            expect![[r#"
            function f | func f()
        "#]],
        );
    }

    #[test]
    fn offsets_beyond_the_text_are_at_its_end() {
        let rope = Rope::from_str("fn f() { 'é' }");
        let syntax = Syntax::parse(Language::Rust, &rope);
        assert_eq!(scopes_at(&syntax, &rope, 1000), []);
        assert_eq!(scopes_at(&syntax, &rope, 11).len(), 1);
    }

    #[test]
    fn scopes_far_above_are_known_without_a_parse() {
        let body = "        self.sum += 1;\n".repeat(200);
        let code = format!("impl Counter {{\n    fn count(&mut self) {{\n{body}    }}\n}}\n");
        let code = format!("{}{code}", "fn other() {}\n".repeat(2000));
        let mut rope = Rope::from_str(&code);
        let mut syntax = Syntax::parse(Language::Rust, &rope);
        let mut at = code.rfind("self.sum").unwrap();
        for key in ["g", "(", "1", ")", ";", "\n", "if x {\n", "h("] {
            let edit = crate::TextEdit::apply(&mut rope, at..at, key);
            syntax.edit(&edit, &rope);
            at += key.len();
            let above = scopes_above(&syntax, &rope, at, at - 2000);
            let names: Vec<_> = above.iter().map(|scope| scope.name.as_deref()).collect();
            assert_eq!(names, [Some("count"), Some("Counter")], "after {key:?}");
        }
        assert_eq!(scopes_above(&syntax, &rope, at, 1000), []);
    }

    #[test]
    fn scopes_above_broken_code_are_those_of_before() {
        let body = "        self.sum += 1;\n".repeat(200);
        let code = format!("impl Counter {{\n    fn count(&mut self) {{\n{body}    }}\n}}\n");
        let mut rope = Rope::from_str(&code);
        let mut syntax = Syntax::parse(Language::Rust, &rope);
        let mut at = code.rfind("self.sum").unwrap();
        let before = at - 2000;
        let names = |syntax: &Syntax, rope: &Rope, at: usize| -> Vec<_> {
            let above = scopes_above(syntax, rope, at, before);
            above.into_iter().filter_map(|scope| scope.name).collect()
        };
        assert_eq!(names(&syntax, &rope, at), ["count", "Counter"]);
        let mut edit = |range: Range<usize>, text: &str| {
            let edit = TextEdit::apply(&mut rope, range, text);
            syntax.edit(&edit, &rope);
            syntax.parse_ahead();
            (syntax.clone(), rope.clone())
        };
        for key in ["fn (", "x", "[1, "] {
            let (syntax, rope) = edit(at..at, key);
            at += key.len();
            assert_eq!(names(&syntax, &rope, at), ["count", "Counter"], "after {key:?}");
        }
        // Neither outlives what takes its end.
        let (syntax, rope) = edit(at..usize::MAX, "");
        assert_eq!(names(&syntax, &rope, at), ["count", "Counter"]);
        // A change further up is looked at.
        let (syntax, rope) = edit(0..12, "impl Meter");
        assert_ne!(names(&syntax, &rope, at - 2), ["count", "Counter"]);
    }
}
