//! Files near a document as texts to copy and to draft from: what they say may be said again.

use std::sync::Arc;

use serde_json::json;
use surmise_engine::Engine;
use tower_lsp_server::gen_lsp_types::{
    DidChangeWatchedFilesParams, DidChangeWorkspaceFoldersParams, FileChangeType, FileEvent, Registration,
};

use crate::{
    documents::path_of_uri,
    lsp::{Server, State},
    repository::{Look, Watch},
};

/// Looks, beside everything else and not at every key, for the files near the document that somebody types in.
pub(super) fn refresh(server: &Server, engine: &Arc<Engine>, typed_in: &str) {
    let mut state = server.state();
    if let Some(look) = look(&state, engine, typed_in) {
        if state.watch == Watch::Changed {
            state.watch = Watch::Unchanged;
        }
        server.shared.repository.look(look);
    }
}

/// What to look for; none if that is not wanted, or not yet due.
fn look(state: &State, engine: &Arc<Engine>, typed_in: &str) -> Option<Look> {
    let document = &state.documents.get(typed_in)?.document;
    let path = document.path.as_ref()?;
    state.root_of(document)?;
    let is_due = state.config.completion.nearby_files && state.nearby.take_turn(path);
    is_due.then(|| Look {
        roots: state.roots.clone(),
        watch: state.watch,
        document: document.clone(),
        open: state.documents.paths().map(ToOwned::to_owned).collect(),
        engine: Arc::clone(engine),
        nearby: Arc::clone(&state.nearby),
    })
}

/// Asks the client to say when there are other files, if it can. Does not wait.
pub(super) fn watch(server: &Server) {
    if !server.state().features.watched_files {
        return;
    }
    let server = server.clone();
    tokio::spawn(async move {
        let registration = Registration {
            id: "surmise/watch".to_owned(),
            method: "workspace/didChangeWatchedFiles".to_owned(),
            register_options: Some(json!({ "watchers": [{ "globPattern": "**/*" }] })),
        };
        match server.client().register_capability(vec![registration]).await {
            // What has changed meanwhile, nobody said.
            Ok(()) => server.state().watch = Watch::Changed,
            Err(error) => tracing::debug!("files are not watched: {error}"),
        }
    });
}

/// `workspace/didChangeWatchedFiles`. What files say is looked at when it is needed.
pub(super) async fn files_changed(server: &Server, params: DidChangeWatchedFilesParams) {
    let alters_list = |change: &FileEvent| {
        change.kind != FileChangeType::Changed || change.uri.as_ref().ends_with("/.gitignore")
    };
    if params.changes.iter().any(alters_list) {
        server.state().watch = Watch::Changed;
    }
}

/// `workspace/didChangeWorkspaceFolders`.
pub(super) async fn change_folders(server: &Server, params: DidChangeWorkspaceFoldersParams) {
    let change = params.event;
    let mut state = server.state();
    let removed = change
        .removed
        .iter()
        .filter_map(|it| path_of_uri(it.uri.as_ref()));
    let removed: Vec<_> = removed.collect();
    state.roots.retain(|root| !removed.contains(root));
    let added = change.added.iter().filter_map(|it| path_of_uri(it.uri.as_ref()));
    state.roots.extend(added);
    // What was found in folders that are gone goes with them.
    state.nearby = Arc::default();
}
