//! `textDocument/didClose`: the document and what we remember about it go.

use crate::lsp::{Server, convert::AboutDocument};

pub(super) async fn handle(server: &Server, params: AboutDocument) {
    server.state().documents.close(&params.text_document.uri);
}
