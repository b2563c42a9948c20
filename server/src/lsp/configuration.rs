//! Settings from the editor: given with `initialize`, pulled when it is ready, pulled again when they change.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tower_lsp_server::gen_lsp_types::{ConfigurationItem, MessageType};

use crate::{
    config::{Config, Layer},
    lsp::{ModelState, Server, load_model},
};

/// The editor's settings that are ours.
const SECTION: &str = "surmise";

/// How long the model waits for the editor to say which one it is.
const PULL_TIMEOUT: Duration = Duration::from_secs(2);

/// Parameters of `workspace/didChangeConfiguration`; `null` from clients that expect to be asked.
#[derive(Debug, Deserialize)]
pub(super) struct Changed {
    #[serde(default)]
    settings: Value,
}

/// Asks the editor for its settings, follows them, and starts loading the model. Does not wait.
pub(super) fn pull_then_load(server: &Server) {
    let attempt = begin_settings(server);
    let server = server.clone();
    tokio::spawn(async move {
        let pulled = tokio::time::timeout(PULL_TIMEOUT, pull(&server)).await;
        let is_current = match pulled {
            Ok(Some(settings)) => replace_editor_settings(&server, attempt, settings),
            _ => server.state().n_settings == attempt,
        };
        if is_current {
            follow(&server).await;
        }
    });
}

/// `workspace/didChangeConfiguration`.
pub(super) async fn handle_change(server: &Server, params: Changed) {
    let pushed = params
        .settings
        .get(SECTION)
        .filter(|settings| settings.is_object())
        .cloned();
    match pushed {
        // In a task: the client's answer comes in the same stream as this notification.
        None => pull_then_load(server),
        Some(settings) => {
            let attempt = begin_settings(server);
            if replace_editor_settings(server, attempt, settings) {
                follow(server).await;
            }
        }
    }
}

/// The settings that the editor has now; none if it cannot be asked or has none.
async fn pull(server: &Server) -> Option<Value> {
    if !server.state().features.configuration {
        return None;
    }
    let section = ConfigurationItem {
        scope_uri: None,
        section: Some(SECTION.to_owned()),
    };
    server.client().configuration(vec![section]).await.ok()?.pop()
}

/// Makes the settings that are about to come the newest; returns their number.
fn begin_settings(server: &Server) -> u64 {
    let mut state = server.state();
    state.n_settings += 1;
    state.n_settings
}

/// Takes the settings of an attempt; false if newer ones have been asked for since.
fn replace_editor_settings(server: &Server, attempt: u64, settings: Value) -> bool {
    const SOURCE: &str = "editor settings";
    let mut state = server.state();
    if state.n_settings != attempt {
        return false;
    }
    let layers = &mut state.editor_settings;
    layers.retain(|layer| layer.source != SOURCE);
    layers.push(Layer {
        source: SOURCE.to_owned(),
        settings,
    });
    true
}

/// Works the settings out anew, tells the user what could not be followed and could before, and loads the model if another one is
/// wanted or the same one in another way.
async fn follow(server: &Server) {
    let (problems, load) = {
        let mut state = server.state();
        let options = &server.shared.options;
        let layers = [
            &*options.below_editor,
            &*state.editor_settings,
            &*options.above_editor,
        ]
        .concat();
        let (config, found) = Config::from_layers(&layers);
        let told = std::mem::replace(&mut state.told, found.clone());
        let mut problems = found;
        problems.retain(|it| !told.contains(it));
        problems.append(&mut state.untold);
        let is_other_model = config.model != state.config.model || config.engine != state.config.engine;
        let load = is_other_model || matches!(state.model, ModelState::Absent);
        if is_other_model || config.completion != state.config.completion {
            state.documents.forget_suggestions();
        }
        state.config = config;
        (problems, load)
    };
    if load {
        load_model::start(server);
    }
    for problem in problems {
        tracing::warn!("{problem}");
        let kind = if problem.is_error() {
            MessageType::Error
        } else {
            MessageType::Warning
        };
        server
            .client()
            .show_message(kind, format!("Surmise: {problem}"))
            .await;
    }
}
