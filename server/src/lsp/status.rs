//! `surmise/status`: what the server is doing, for clients that show it.
//!
//! Sent only to clients that asked for it with `capabilities.experimental.surmiseStatus: true`; the others
//! get `window/logMessage`.

use serde::{Deserialize, Serialize};
use tower_lsp_server::gen_lsp_types::{LspNotificationMethod, MessageDirection, MessageType, Notification};

use crate::lsp::Server;

/// What the server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// The model is being loaded; requests get no suggestions yet.
    Loading,
    /// Suggestions can be had.
    Ready,
    /// The model could not be loaded; the message says why.
    Failed,
}

/// Parameters of `surmise/status`.
#[derive(Debug, Serialize, Deserialize)]
struct Status {
    state: State,
    message: String,
}

enum StatusNotification {}

impl Notification for StatusNotification {
    type Params = Status;
    const METHOD: LspNotificationMethod<'static> = LspNotificationMethod::new("surmise/status");
    const MESSAGE_DIRECTION: MessageDirection = MessageDirection::ServerToClient;
}

pub(super) async fn send(server: &Server, state: State, message: String) {
    if server.state().features.status {
        server
            .client()
            .send_notification::<StatusNotification>(Status { state, message })
            .await;
    } else {
        server
            .client()
            .log_message(MessageType::Info, format!("Surmise: {message}"))
            .await;
    }
}
