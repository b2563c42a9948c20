//! `surmise/viewText`: the server's copy of a document, for tests and bug reports.

use serde::Serialize;
use tower_lsp_server::jsonrpc::{Error, Result};

use crate::lsp::{Server, convert::AboutDocument};

/// The server's copy of a document.
#[derive(Debug, Serialize)]
pub(super) struct TextView {
    version: Option<i32>,
    text: String,
    language: &'static str,
    tree: TreeView,
}

#[derive(Debug, Serialize)]
struct TreeView {
    /// ERROR and MISSING nodes.
    errors: usize,
    /// All nodes, so that a tree that has drifted from its text shows.
    nodes: usize,
    /// Whether the last parse ran out of time.
    stale: bool,
}

pub(super) async fn handle(server: &Server, params: AboutDocument) -> Result<TextView> {
    let uri = &params.text_document.uri;
    let document = server
        .state()
        .documents
        .get(uri)
        .map(|open| open.document.clone());
    let document = document.ok_or_else(|| Error::invalid_params(format!("not open: {uri}")))?;
    Ok(TextView {
        version: document.version,
        text: document.text.to_string(),
        language: document.language().name(),
        tree: TreeView {
            errors: document.syntax.error_count(),
            nodes: document
                .syntax
                .tree()
                .map_or(0, |tree| tree.root_node().descendant_count()),
            stale: document.syntax.is_stale(),
        },
    })
}
