//! Loads the queries in `queries/`, embedded in the binary, each compiled at most once.
//!
//! A first line `; inherits: a,b` puts the patterns of other folders first. A folder or file that does not
//! exist is an empty query. Captures outside the list in [`Capture`] are refused, so that a typing error in a
//! query is a failing test and not a pattern that silently does nothing.

use std::ops::Range;
use std::sync::OnceLock;

use ropey::Rope;
use tree_sitter::{Node, Query, QueryCursor, StreamingIterator};

use crate::outline::DefinitionKind;
use crate::scope::ScopeKind;
use crate::{Language, Syntax, text};

/// The bytes of any text.
pub(crate) const EVERYWHERE: Range<usize> = 0..usize::MAX;

/// What a query is for: the name of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Outline,
    Imports,
    Scopes,
}

/// What a captured node is to us; `queries/README.md` has the same table in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capture {
    Definition(DefinitionKind),
    Scope(ScopeKind),
    Name,
    Body,
    Import,
    Module,
    Header,
    /// `@_anything`: read by a predicate in the query itself.
    Private,
}

/// Why a query could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    #[error("queries/{folder}/{file}.scm inherits from `{base}`, which inherits from it")]
    InheritsItself {
        folder: String,
        file: &'static str,
        base: String,
    },
    #[error("queries/{folder}/{file}.scm inherits from `{base}`, but there is no queries/{base}/{file}.scm")]
    NoSuchBase {
        folder: String,
        file: &'static str,
        base: String,
    },
    #[error("the {file} query of {language} does not compile: {source}")]
    DoesNotCompile {
        language: &'static str,
        file: &'static str,
        source: tree_sitter::QueryError,
    },
    #[error(
        "the {file} query of {language} captures `@{capture}`, which queries/README.md does not list for it"
    )]
    UnknownCapture {
        language: &'static str,
        file: &'static str,
        capture: String,
    },
}

impl Purpose {
    pub(crate) const ALL: [Purpose; 3] = [Purpose::Outline, Purpose::Imports, Purpose::Scopes];

    pub(crate) fn file(self) -> &'static str {
        match self {
            Purpose::Outline => "outline",
            Purpose::Imports => "imports",
            Purpose::Scopes => "scopes",
        }
    }
}

impl Capture {
    /// The meaning of `@name` in a query for `purpose`, if it has one.
    fn parse(purpose: Purpose, name: &str) -> Option<Capture> {
        if name.starts_with('_') {
            return Some(Capture::Private);
        }
        match (purpose, name) {
            (Purpose::Outline | Purpose::Scopes, "name") => Some(Capture::Name),
            (Purpose::Outline | Purpose::Scopes, "body") => Some(Capture::Body),
            (Purpose::Outline, name) => {
                DefinitionKind::from_name(name.strip_prefix("definition.")?).map(Capture::Definition)
            }
            (Purpose::Scopes, name) => ScopeKind::from_name(name.strip_prefix("scope.")?).map(Capture::Scope),
            (Purpose::Imports, "import") => Some(Capture::Import),
            (Purpose::Imports, "module") => Some(Capture::Module),
            (Purpose::Imports, "header") => Some(Capture::Header),
            (Purpose::Imports, _) => None,
        }
    }
}

/// A compiled query and the meaning of its captures, by capture index.
pub(crate) struct LoadedQuery {
    pub(crate) query: Query,
    captures: Vec<Capture>,
}

impl LoadedQuery {
    /// The query of a language for a purpose; `None` if it has none.
    ///
    /// # Panics
    ///
    /// If an embedded query is wrong, which the test `every_query_of_every_language_loads` rules out.
    pub(crate) fn get(language: Language, purpose: Purpose) -> Option<&'static LoadedQuery> {
        const N_QUERIES: usize = 32 * Purpose::ALL.len();
        static LOADED: [OnceLock<Option<LoadedQuery>>; N_QUERIES] = [const { OnceLock::new() }; N_QUERIES];
        LOADED[language as usize * Purpose::ALL.len() + purpose as usize]
            .get_or_init(|| LoadedQuery::load(language, purpose).unwrap_or_else(|error| panic!("{error}")))
            .as_ref()
    }

    fn load(language: Language, purpose: Purpose) -> Result<Option<LoadedQuery>, QueryError> {
        let Some(grammar) = language.grammar() else {
            return Ok(None);
        };
        let Some(source) = resolve(language.name(), purpose, &mut Vec::new())? else {
            return Ok(None);
        };
        LoadedQuery::compile(language.name(), grammar, purpose, &source).map(Some)
    }

    fn compile(
        language: &'static str,
        grammar: &tree_sitter::Language,
        purpose: Purpose,
        source: &str,
    ) -> Result<LoadedQuery, QueryError> {
        let file = purpose.file();
        let query = Query::new(grammar, source).map_err(|source| QueryError::DoesNotCompile {
            language,
            file,
            source,
        })?;
        let captures = query.capture_names().iter().map(|name| {
            Capture::parse(purpose, name).ok_or_else(|| QueryError::UnknownCapture {
                language,
                file,
                capture: name.to_string(),
            })
        });
        let captures = captures.collect::<Result<_, _>>()?;
        Ok(LoadedQuery { query, captures })
    }

    /// Calls `visit` with every match whose whole is at most `max_depth` levels below `node`: which pattern it
    /// is of, counted from 0 with inherited ones first, and what it captured. Looks at the nodes that touch `range`.
    pub(crate) fn for_each_match<'tree>(
        &'static self,
        node: Node<'tree>,
        rope: &Rope,
        max_depth: u32,
        range: Range<usize>,
        mut visit: impl FnMut(usize, &[(Capture, Node<'tree>)]),
    ) {
        let mut cursor = QueryCursor::new();
        cursor.set_max_start_depth(Some(max_depth));
        cursor.set_byte_range(range);
        let text_of = |node: Node<'_>| {
            let range = text::snap_range(rope, node.byte_range());
            rope.byte_slice(range).chunks().map(str::as_bytes)
        };
        let mut matches = cursor.matches(&self.query, node, text_of);
        let mut captured = Vec::new();
        while let Some(found) = matches.next() {
            captured.clear();
            captured.extend(
                found
                    .captures()
                    .iter()
                    .map(|c| (self.captures[c.index as usize], c.node)),
            );
            visit(found.pattern_index, &captured);
        }
    }
}

/// The nodes of a match by role: the captured whole, its name, its body.
pub(crate) struct Parts<'tree> {
    pub(crate) name: Option<Node<'tree>>,
    pub(crate) body: Option<Node<'tree>>,
}

impl<'tree> Parts<'tree> {
    pub(crate) fn of(captured: &[(Capture, Node<'tree>)]) -> Parts<'tree> {
        Parts {
            name: first(captured, Capture::Name),
            body: first(captured, Capture::Body),
        }
    }
}

/// The first node captured as `role`.
pub(crate) fn first<'tree>(captured: &[(Capture, Node<'tree>)], role: Capture) -> Option<Node<'tree>> {
    captured
        .iter()
        .find(|(capture, _)| *capture == role)
        .map(|&(_, node)| node)
}

/// Runs the query of `syntax`'s language for `purpose` over its tree as far as `range` reaches, if there are both.
pub(crate) fn for_each_match<'tree>(
    syntax: &'tree Syntax,
    rope: &Rope,
    purpose: Purpose,
    max_depth: u32,
    range: Range<usize>,
    visit: impl FnMut(usize, &[(Capture, Node<'tree>)]),
) {
    if let (Some(tree), Some(query)) = (syntax.tree(), LoadedQuery::get(syntax.language(), purpose)) {
        query.for_each_match(tree.root_node(), rope, max_depth, range, visit);
    }
}

/// From the start of a node to its body, or to the end of the node if it has none, without white space at
/// the end.
pub(crate) fn until_body(rope: &Rope, node: Node<'_>, body: Option<Node<'_>>) -> Range<usize> {
    let range = text::snap_range(rope, node.byte_range());
    let end = body.map_or(range.end, |body| {
        text::snap(rope, body.start_byte()).clamp(range.start, range.end)
    });
    trim_end(rope, range.start..end)
}

/// The range without the white space it ends with.
pub(crate) fn trim_end(rope: &Rope, range: Range<usize>) -> Range<usize> {
    range.start..range.start + text::text(rope, range.clone()).trim_end().len()
}

/// A name without the quotes around it and with white space collapsed: headings and selectors span words.
pub(crate) fn clean_name(name: &str) -> String {
    let name = name.trim();
    let unquoted = ['"', '\'', '`']
        .iter()
        .find_map(|&quote| name.strip_prefix(quote)?.strip_suffix(quote));
    unquoted
        .unwrap_or(name)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// The text of a query with everything it inherits, or `None` if there is no such file.
fn resolve(folder: &str, purpose: Purpose, path: &mut Vec<String>) -> Result<Option<String>, QueryError> {
    let Some(source) = source(folder, purpose) else {
        return Ok(None);
    };
    path.push(folder.to_owned());
    let mut whole = String::new();
    let first_line = source.lines().next().unwrap_or("");
    if let Some(bases) = first_line.strip_prefix("; inherits:") {
        for base in bases.split(',').map(str::trim) {
            let (folder, file, base) = (folder.to_owned(), purpose.file(), base.to_owned());
            if path.contains(&base) {
                return Err(QueryError::InheritsItself { folder, file, base });
            }
            match resolve(&base, purpose, path)? {
                Some(text) => whole.push_str(&text),
                None => return Err(QueryError::NoSuchBase { folder, file, base }),
            }
        }
    }
    path.pop();
    whole.push_str(source);
    whole.push('\n');
    Ok(Some(whole))
}

fn source(folder: &str, purpose: Purpose) -> Option<&'static str> {
    let found = SOURCES
        .iter()
        .find(|(name, file, _)| *name == folder && *file == purpose.file());
    found.map(|(_, _, source)| *source)
}

macro_rules! sources {
    ($($folder:literal: $($file:literal)+;)+) => {
        &[$($((
            $folder,
            $file,
            include_str!(concat!("../queries/", $folder, "/", $file, ".scm")),
        ),)+)+]
    };
}

/// Every query file as (folder, file, text). Folders that are no language are there to be inherited from.
static SOURCES: &[(&str, &str, &str)] = sources! {
    "bash": "outline" "imports" "scopes";
    "c": "outline" "imports" "scopes";
    "cpp": "outline" "imports" "scopes";
    "csharp": "outline" "imports" "scopes";
    "css": "outline" "imports" "scopes";
    "ecma": "outline" "imports" "scopes";
    "go": "outline" "imports" "scopes";
    "html": "outline" "imports" "scopes";
    "java": "outline" "imports" "scopes";
    "javascript": "outline" "imports" "scopes";
    "json": "outline" "scopes";
    "lua": "outline" "imports" "scopes";
    "markdown": "outline" "scopes";
    "php": "outline" "imports" "scopes";
    "python": "outline" "imports" "scopes";
    "ruby": "outline" "imports" "scopes";
    "rust": "outline" "imports" "scopes";
    "sql": "outline" "scopes";
    "toml": "outline" "scopes";
    "tsx": "outline" "imports" "scopes";
    "typescript": "outline" "imports" "scopes";
    "yaml": "outline" "scopes";
};

#[cfg(test)]
mod tests;
