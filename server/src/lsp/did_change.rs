//! `textDocument/didChange`: applied whole, in order, before anything else is read.

use crate::{
    documents::Change,
    lsp::{
        Server,
        convert::{ContentChange, DidChange},
    },
};

pub(super) async fn handle(server: &Server, params: DidChange) {
    let changes: Vec<Change> = params
        .content_changes
        .into_iter()
        .map(ContentChange::into_change)
        .collect();
    let mut state = server.state();
    let encoding = state.encoding;
    let uri = &params.text_document.uri;
    if !state
        .documents
        .change(uri, params.text_document.version, &changes, encoding)
    {
        tracing::warn!("change of a document that is not open: {uri}");
    }
}
