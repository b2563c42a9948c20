//! `surmise/explain`: why the last request in a document ended as it did.

use serde_json::{Value, json};
use tower_lsp_server::jsonrpc::{Error, Result};

use crate::lsp::{ModelState, Server, convert::AboutDocument};

pub(super) async fn handle(server: &Server, params: AboutDocument) -> Result<Value> {
    let uri = &params.text_document.uri;
    let state = server.state();
    let open = state
        .documents
        .get(uri)
        .ok_or_else(|| Error::invalid_params(format!("not open: {uri}")))?;
    let model = match &state.model {
        ModelState::Absent => "absent",
        ModelState::Loading(_) => "loading",
        ModelState::Ready(_) => "ready",
        ModelState::Failed(_) => "failed",
    };
    let last = open
        .last
        .as_ref()
        .map(|(completion, document)| completion.report(document));
    Ok(json!({ "model": model, "last": last }))
}
