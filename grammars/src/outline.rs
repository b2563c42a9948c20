//! The definitions of a file, in order, each with its signature and body apart.

use std::ops::Range;

use ropey::Rope;

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
    let mut definitions = Vec::new();
    query::for_each_match(syntax, rope, Purpose::Outline, MAX_DEPTH, |captured| {
        let whole = captured.iter().find_map(|&(capture, node)| match capture {
            Capture::Definition(kind) => Some((kind, node)),
            _ => None,
        });
        let Parts { name, body } = Parts::of(captured);
        if let (Some((kind, node)), Some(name)) = (whole, name) {
            let name_range = text::snap_range(rope, name.byte_range());
            definitions.push(Definition {
                kind,
                name: query::clean_name(&text::text(rope, name_range.clone())),
                name_range,
                range: text::snap_range(rope, node.byte_range()),
                signature: query::signature(rope, node, body),
                body: body.map(|body| text::snap_range(rope, body.byte_range())),
                depth: 0,
            });
        }
    });
    // A stable sort keeps the order of patterns, so that the first pattern to name something wins.
    definitions.sort_by_key(|d| (d.range.start, usize::MAX - d.range.end, d.name_range.start));
    definitions.dedup_by(|later, earlier| later.name_range == earlier.name_range);
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
