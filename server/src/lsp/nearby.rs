//! Files near a document as texts to copy and to draft from: what they say may be said again.

use std::sync::Arc;

use surmise_engine::Engine;
use tower_lsp_server::gen_lsp_types::WorkspaceFoldersChangeEvent;

use crate::{documents::path_of_uri, lsp::Server, repository::Look};

/// Looks, beside everything else and not at every key, for the files near the document that somebody types in.
pub(super) fn refresh(server: &Server, engine: &Arc<Engine>, typed_in: &str) {
    let state = server.state();
    let Some(document) = state.documents.get(typed_in).map(|open| &open.document) else {
        return;
    };
    let is_wanted = state.config.completion.nearby_files && state.root_of(document).is_some();
    if is_wanted
        && document
            .path
            .as_ref()
            .is_some_and(|path| state.nearby.take_turn(path))
    {
        server.shared.repository.look(Look {
            roots: state.roots.clone(),
            document: document.clone(),
            open: state.documents.paths().map(ToOwned::to_owned).collect(),
            engine: Arc::clone(engine),
            nearby: Arc::clone(&state.nearby),
        });
    }
}

/// `workspace/didChangeWorkspaceFolders`.
pub(super) fn change_folders(server: &Server, change: &WorkspaceFoldersChangeEvent) {
    let mut state = server.state();
    let removed: Vec<_> = change
        .removed
        .iter()
        .filter_map(|it| path_of_uri(it.uri.as_ref()))
        .collect();
    state.roots.retain(|root| !removed.contains(root));
    let added = change.added.iter().filter_map(|it| path_of_uri(it.uri.as_ref()));
    state.roots.extend(added);
}
