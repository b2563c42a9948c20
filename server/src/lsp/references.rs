//! Open documents as texts to draft from: what is written in one is often written again in another.

use std::sync::Arc;

use surmise_engine::Engine;

use crate::lsp::Server;

/// Gives `engine` the documents that have changed since it was last given them, on a thread of its own: whoever asks for
/// a suggestion in the document `typed_in` does not wait for it. A document that is closed stays until the room is
/// needed.
pub(super) fn refresh(server: &Server, engine: &Arc<Engine>, typed_in: &str) {
    let changed = server.state().documents.take_changed(typed_in);
    if changed.is_empty() {
        return;
    }
    let engine = Arc::clone(engine);
    tokio::task::spawn_blocking(move || {
        for (uri, document) in changed {
            let text = document.excerpt(0..document.text.len_bytes());
            // By its path, as it is called where it is read as a file that is not open.
            let path = document.path.as_ref().map(|path| path.to_string_lossy());
            if let Err(error) = engine.set_reference(path.as_deref().unwrap_or(&uri), &text) {
                tracing::debug!("no drafts from {uri}: {error}");
            }
        }
    });
}
