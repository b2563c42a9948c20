//! The definitions of a file, in order, each with its signature and body apart.

use std::ops::Range;

use ropey::Rope;
use tree_sitter::Node;

use crate::query::{self, Capture, Parts, Purpose};
use crate::{Syntax, text};

/// Definitions nested deeper than this many tree levels are left out; the deepest real one we have seen is at
/// nine (a method of a class in a namespace in an `#ifdef`). Keeps expressions from being searched.
const MAX_DEPTH: u32 = 12;

/// What kind of thing a definition introduces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DefinitionKind {
    /// A namespace, package or module.
    Module,
    /// A class.
    Class,
    /// A struct, union or record.
    Struct,
    /// An enumeration.
    Enum,
    /// One of the values of an enumeration.
    Variant,
    /// An interface, trait or protocol.
    Interface,
    /// Code added to a type elsewhere, such as a Rust `impl`.
    Implementation,
    /// A type alias or another named type.
    Type,
    /// A function that belongs to no type.
    Function,
    /// A function of a type, constructors included.
    Method,
    /// A macro.
    Macro,
    /// A named value that does not change.
    Constant,
    /// A named value that may change.
    Variable,
    /// A member of a type that holds a value, properties included.
    Field,
    /// A table or view of a database, or a table of TOML.
    Table,
    /// A heading of a document.
    Heading,
    /// A key of a data file.
    Key,
    /// The selector of a style rule.
    Selector,
    /// An element of a document that has an id.
    Element,
}

/// One definition. All ranges are bytes of the rope, half-open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// What it introduces.
    pub kind: DefinitionKind,
    /// Its name as written, without quotes.
    pub name: String,
    /// Where the name stands.
    pub name_range: Range<usize>,
    /// The whole definition.
    pub range: Range<usize>,
    /// Its beginning up to the body, without white space at the end. A definition with no body is its own
    /// signature, or its first line if it is long.
    pub signature: Range<usize>,
    /// The body with its delimiters, if it has one.
    pub body: Option<Range<usize>>,
    /// How many other definitions in the list enclose this one.
    pub depth: usize,
}

/// All definitions of the text, by where they start; an enclosing one comes before those inside it.
///
/// Visits the upper levels of the whole tree: for background work, not for every key.
pub fn outline(syntax: &Syntax, rope: &Rope) -> Vec<Definition> {
    let mut found: Vec<(usize, Definition)> = Vec::new();
    query::for_each_match(
        syntax,
        rope,
        Purpose::Outline,
        MAX_DEPTH,
        query::EVERYWHERE,
        |pattern, captured| {
            let whole = captured.iter().find_map(|&(capture, node)| match capture {
                Capture::Definition(kind) => Some((kind, node)),
                _ => None,
            });
            let Parts { name, body } = Parts::of(captured);
            if let (Some((kind, node)), Some(name)) = (whole, name) {
                let name_range = text::snap_range(rope, name.byte_range());
                let definition = Definition {
                    kind,
                    name: query::clean_name(&text::text(rope, name_range.clone())),
                    name_range,
                    range: text::snap_range(rope, node.byte_range()),
                    signature: signature(rope, kind, node, body),
                    body: body.map(|body| text::snap_range(rope, body.byte_range())),
                    depth: 0,
                };
                found.push((pattern, definition));
            }
        },
    );
    // The first pattern that names something wins.
    found.sort_by_key(|(pattern, definition)| (definition.name_range.start, *pattern));
    found.dedup_by_key(|(_, definition)| definition.name_range.clone());
    let mut definitions: Vec<_> = found.into_iter().map(|(_, definition)| definition).collect();
    definitions.sort_by_key(|d| (d.range.start, usize::MAX - d.range.end, d.name_range.start));
    set_depths(&mut definitions);
    definitions
}

impl DefinitionKind {
    /// Every kind.
    pub const ALL: &[DefinitionKind] = &[
        DefinitionKind::Module,
        DefinitionKind::Class,
        DefinitionKind::Struct,
        DefinitionKind::Enum,
        DefinitionKind::Variant,
        DefinitionKind::Interface,
        DefinitionKind::Implementation,
        DefinitionKind::Type,
        DefinitionKind::Function,
        DefinitionKind::Method,
        DefinitionKind::Macro,
        DefinitionKind::Constant,
        DefinitionKind::Variable,
        DefinitionKind::Field,
        DefinitionKind::Table,
        DefinitionKind::Heading,
        DefinitionKind::Key,
        DefinitionKind::Selector,
        DefinitionKind::Element,
    ];

    /// Lower-case name, as in the capture `@definition.name`.
    pub fn name(self) -> &'static str {
        match self {
            DefinitionKind::Module => "module",
            DefinitionKind::Class => "class",
            DefinitionKind::Struct => "struct",
            DefinitionKind::Enum => "enum",
            DefinitionKind::Variant => "variant",
            DefinitionKind::Interface => "interface",
            DefinitionKind::Implementation => "implementation",
            DefinitionKind::Type => "type",
            DefinitionKind::Function => "function",
            DefinitionKind::Method => "method",
            DefinitionKind::Macro => "macro",
            DefinitionKind::Constant => "constant",
            DefinitionKind::Variable => "variable",
            DefinitionKind::Field => "field",
            DefinitionKind::Table => "table",
            DefinitionKind::Heading => "heading",
            DefinitionKind::Key => "key",
            DefinitionKind::Selector => "selector",
            DefinitionKind::Element => "element",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<DefinitionKind> {
        DefinitionKind::ALL
            .iter()
            .copied()
            .find(|kind| kind.name() == name)
    }

    /// Whether functions directly inside are methods.
    fn is_type(self) -> bool {
        use DefinitionKind::*;
        matches!(self, Class | Struct | Enum | Interface | Implementation)
    }
}

/// How a definition is introduced: up to its body; all of it if it has none and is short; else its first line.
fn signature(rope: &Rope, kind: DefinitionKind, node: Node<'_>, body: Option<Node<'_>>) -> Range<usize> {
    const SHORT_BYTES: usize = 400;
    let range = query::until_body(rope, node, body);
    // A section, table or element of a document goes on over all it contains.
    let contains = matches!(
        kind,
        DefinitionKind::Heading | DefinitionKind::Table | DefinitionKind::Element
    );
    if body.is_some() || (range.len() <= SHORT_BYTES && !contains) {
        return range;
    }
    query::trim_end(
        rope,
        range.start..text::line_end(rope, range.start).min(range.end),
    )
}

/// Sets the depth of each definition, and turns functions directly inside a type into methods.
fn set_depths(definitions: &mut [Definition]) {
    let mut enclosing: Vec<(Range<usize>, DefinitionKind)> = Vec::new();
    for definition in definitions {
        let encloses = |outer: &Range<usize>| {
            outer.end > definition.range.start
                && outer.end >= definition.range.end
                && *outer != definition.range
        };
        while enclosing.last().is_some_and(|(outer, _)| !encloses(outer)) {
            enclosing.pop();
        }
        definition.depth = enclosing.len();
        let in_type = enclosing.last().is_some_and(|(_, kind)| kind.is_type());
        if in_type && definition.kind == DefinitionKind::Function {
            definition.kind = DefinitionKind::Method;
        }
        enclosing.push((definition.range.clone(), definition.kind));
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use expect_test::{Expect, expect};

    use super::*;
    use crate::Language;

    /// One line for each definition: depth as indentation, kind, name, signature, number of lines in the body.
    fn check(language: Language, code: &str, expected: Expect) {
        let rope = Rope::from_str(code);
        let mut shown = String::new();
        for definition in outline(&Syntax::parse(language, &rope), &rope) {
            let signature = text::text(&rope, definition.signature.clone()).replace('\n', "\\n");
            let indent = "  ".repeat(definition.depth);
            write!(
                shown,
                "{indent}{} {}: {signature}",
                definition.kind.name(),
                definition.name
            )
            .unwrap();
            if let Some(body) = definition.body {
                write!(shown, " | {} lines", text::text(&rope, body).lines().count()).unwrap();
            }
            shown.push('\n');
            assert_eq!(
                text::text(&rope, definition.range)[..1],
                text::text(&rope, definition.signature)[..1]
            );
        }
        expected.assert_eq(&shown);
    }

    #[test]
    fn signatures_stop_at_the_body_and_functions_of_types_are_methods() {
        check(
            Language::Rust,
            "#[derive(Debug)]\npub struct A {\n    x: u32,\n}\nimpl A {\n    pub fn new(\n        x: u32,\n    ) -> A {\n        \
             A { x }\n    }\n}\nfn free() {\n    fn inner() {}\n}\n",
            expect![[r#"
                struct A: pub struct A | 3 lines
                  field x: x: u32
                implementation A: impl A | 7 lines
                  method new: pub fn new(\n        x: u32,\n    ) -> A | 3 lines
                function free: fn free() | 3 lines
                  function inner: fn inner() | 1 lines
            "#]],
        );
        check(
            Language::Python,
            "class A(B):\n    @property\n    def x(self) -> int:\n        return 1\n\nasync def run(\n    a,\n):\n    pass\n",
            expect![[r#"
                class A: class A(B): | 3 lines
                  method x: def x(self) -> int: | 1 lines
                function run: async def run(\n    a,\n): | 1 lines
            "#]],
        );
        check(
            Language::Cpp,
            "namespace n {\nclass A {\n  A() = default;\n  int f(int x) const { return x; }\n};\n}\nint n::A::g() { return 1; }\n",
            expect![[r#"
                module n: namespace n | 6 lines
                  class A: class A | 4 lines
                    method A: A() = default;
                    method f: int f(int x) const | 1 lines
                function n::A::g: int n::A::g() | 1 lines
            "#]],
        );
    }

    #[test]
    fn the_first_pattern_to_name_something_wins() {
        check(
            Language::TypeScript,
            "export const f = async (x: number) => {\n  return x;\n};\nconst a = 1, b = 2;\n",
            expect![[r#"
                function f: const f = async (x: number) => | 3 lines
                constant a: const a = 1, b = 2;
                constant b: const a = 1, b = 2;
            "#]],
        );
        check(
            Language::Json,
            "{\"a\": {\"b\": 1}}",
            expect![[r#"
                key a: "a": | 1 lines
                  key b: "b": 1
            "#]],
        );
    }

    #[test]
    fn documents_have_outlines_too() {
        check(
            Language::Markdown,
            "# One\n\ntext\n\n## Two\n\nmore\n\n# Three\n",
            expect![[r#"
                heading One: # One
                  heading Two: ## Two
                heading Three: # Three
            "#]],
        );
        check(
            Language::Yaml,
            "a:\n  b: 1\n  c:\n    - d: 2\n",
            expect![[r#"
                key a: a: | 3 lines
                  key b: b: 1
                  key c: c: | 1 lines
            "#]],
        );
        check(
            Language::Toml,
            "[a]\nb = 1\n",
            expect![[r#"
                table a: [a]
                  key b: b = 1
            "#]],
        );
    }

    #[test]
    fn a_long_definition_without_body_is_introduced_by_its_first_line() {
        let code = format!("const TABLE: [u8; 900] = [\n    {}\n];\n", "0, ".repeat(900));
        check(
            Language::Rust,
            &code,
            expect![[r#"
                constant TABLE: const TABLE: [u8; 900] = [
            "#]],
        );
    }

    #[test]
    fn broken_code_still_has_an_outline() {
        check(
            Language::Rust,
            "fn a() {\n    let x = foo(\n}\n\nfn b(x: u32) {}\n",
            expect![""],
        );
        check(Language::PlainText, "fn a() {}", expect![[r#""#]]);
    }
}
