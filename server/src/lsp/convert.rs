//! Between the protocol's types and ours. Lenient on what comes in, strict on what goes out.

use std::ops::Range;

use serde::Deserialize;
use tower_lsp_server::gen_lsp_types as lsp;

use crate::{
    document::Document,
    documents::Change,
    position::{Encoding, Position, offset_at, position_at},
};

/// Parameters of `textDocument/didOpen`; only the URI and the text are needed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DidOpen {
    pub(super) text_document: OpenedDocument,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OpenedDocument {
    pub(super) uri: String,
    pub(super) language_id: Option<String>,
    pub(super) version: Option<i32>,
    pub(super) text: String,
}

/// Parameters of `textDocument/didChange`.
///
/// The protocol crate reads a change whose range it cannot read as a change of the whole text, which would
/// throw the document away; here such a message is refused as a whole.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DidChange {
    pub(super) text_document: DocumentVersion,
    pub(super) content_changes: Vec<ContentChange>,
}

/// A document, named, with its version if the client gives any.
#[derive(Debug, Deserialize)]
pub(super) struct DocumentVersion {
    pub(super) uri: String,
    pub(super) version: Option<i32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ContentChange {
    range: Option<lsp::Range>,
    text: String,
}

/// Parameters of requests about a whole document.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AboutDocument {
    pub(super) text_document: DocumentVersion,
}

impl ContentChange {
    pub(super) fn into_change(self) -> Change {
        Change {
            range: self
                .range
                .map(|range| (position(range.start), position(range.end))),
            text: self.text,
        }
    }
}

pub(super) fn position(position: lsp::Position) -> Position {
    Position {
        line: position.line as usize,
        column: position.character as usize,
    }
}

pub(super) fn offset(document: &Document, at: lsp::Position, encoding: Encoding) -> usize {
    offset_at(&document.text, position(at), encoding)
}

pub(super) fn range(document: &Document, range: Range<usize>, encoding: Encoding) -> lsp::Range {
    let encode = |offset| {
        let Position { line, column } = position_at(&document.text, offset, encoding);
        // Editors count in `uinteger`, up to 2^31 - 1; no file that they open has more.
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX >> 1);
        lsp::Position::new(number(line), number(column))
    };
    lsp::Range::new(encode(range.start), encode(range.end))
}
