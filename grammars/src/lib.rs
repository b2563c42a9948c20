//! Text and trees to context: what stands around a cursor.
//!
//! A document is a [`ropey::Rope`] and a [`Syntax`], its tree. An edit goes through [`TextEdit::apply`] and
//! [`Syntax::edit`]; everything else is a plain function of the two and a position. The crate knows no
//! protocol, no model and no files.
//!
//! **All offsets are bytes of the rope, from 0; all ranges are half-open.** An offset beyond the rope counts
//! as its end, an offset inside a character as the start of that character. Nothing here fails or panics on
//! any text: what cannot be parsed is inside error nodes, what cannot be parsed in time is
//! [stale](Syntax::is_stale), and a language we do not know is [plain text](Language::PlainText).
//!
//! ```
//! use ropey::Rope;
//! use surmise_grammars::{Language, Syntax, TextEdit, scopes_at};
//!
//! let mut rope = Rope::from_str("fn main() {\n    \n}\n");
//! let mut syntax = Syntax::parse(Language::Rust, &rope);
//! let edit = TextEdit::apply(&mut rope, 16..16, "greet();");
//! syntax.edit(&edit, &rope);
//! assert_eq!(scopes_at(&syntax, &rope, 20)[0].name.as_deref(), Some("main"));
//! ```

mod arguments;
mod brackets;
mod edit;
mod excerpt;
mod extent;
mod imports;
mod language;
mod literals;
mod outline;
mod query;
mod scope;
mod syntax;
#[cfg(test)]
mod test_support;
mod text;
mod validity;

pub use arguments::{Call, ListPlace, calls_in, parameter_place};
pub use edit::TextEdit;
pub use excerpt::{prefix, suffix};
pub use extent::{Extent, completion_end};
pub use imports::{Import, Imports, imports, imports_above};
pub use language::Language;
pub use literals::{comments_in, strings_in};
pub use outline::{Definition, DefinitionKind, outline};
pub use scope::{Scope, ScopeKind, scopes_above, scopes_at};
pub use syntax::Syntax;
pub use tree_sitter::{Point, Tree};
pub use validity::worsens;
