//! One open document: its text, its version, and its syntax tree, kept in step with each other.

use std::{
    borrow::Cow,
    ops::Range,
    path::{Path, PathBuf},
};

use ropey::Rope;
use surmise_grammars::{Language, Syntax, TextEdit};

/// A text with its tree. Cheap to clone; a clone is a snapshot that later changes do not reach.
#[derive(Debug, Clone)]
pub struct Document {
    /// Where the document lives, if it is a file.
    pub path: Option<PathBuf>,
    /// Version the editor gave it, if it gives any.
    pub version: Option<i32>,
    /// The text, with the line breaks it has in the editor.
    pub text: Rope,
    /// The tree of `text`.
    pub syntax: Syntax,
}

impl Document {
    /// A document with the given text; `editor_id` is what the editor calls its language.
    pub fn new(path: Option<&Path>, editor_id: Option<&str>, version: Option<i32>, text: &str) -> Self {
        let language = Language::detect(path, editor_id, text.lines().next().unwrap_or_default());
        let text = Rope::from_str(text);
        let syntax = Syntax::parse(language, &text);
        Self {
            path: path.map(Path::to_owned),
            version,
            text,
            syntax,
        }
    }

    /// The language that the text is read as.
    pub fn language(&self) -> Language {
        self.syntax.language()
    }

    /// Replaces the bytes of `range` with `text` and lets the tree follow.
    pub fn replace(&mut self, range: Range<usize>, text: &str) {
        let edit = TextEdit::apply(&mut self.text, range, text);
        self.syntax.edit(&edit, &self.text);
    }

    /// Replaces the whole text.
    pub fn replace_all(&mut self, text: &str) {
        self.text = Rope::from_str(text);
        self.syntax = Syntax::parse(self.language(), &self.text);
    }

    /// The text of `range`, with line breaks as models know them: `\n`.
    pub fn excerpt(&self, range: Range<usize>) -> String {
        let text = self.text.byte_slice(range).to_string();
        match with_lf(&text) {
            Cow::Owned(text) => text,
            Cow::Borrowed(_) => text,
        }
    }
}

/// `text` with `\n` for every line break.
pub fn with_lf(text: &str) -> Cow<'_, str> {
    if text.contains('\r') {
        text.replace("\r\n", "\n").replace('\r', "\n").into()
    } else {
        text.into()
    }
}
