//! `textDocument/didOpen`: the editor owns the text from here on.

use crate::{
    document::Document,
    documents::path_of_uri,
    lsp::{
        Server,
        convert::{DidOpen, OpenedDocument},
    },
};

pub(super) async fn handle(server: &Server, params: DidOpen) {
    let OpenedDocument {
        uri,
        language_id,
        version,
        text,
    } = params.text_document;
    let path = path_of_uri(&uri);
    let document = Document::new(path.as_deref(), language_id.as_deref(), version, &text);
    tracing::debug!("opened {uri} as {}", document.language().name());
    server.state().documents.open(uri, document);
}
