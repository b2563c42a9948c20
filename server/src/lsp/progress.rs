//! Progress that a user can cancel, for requests that may take long.

use std::{pin::pin, time::Duration};

use tokio::{sync::oneshot, time::sleep};
use tower_lsp_server::{
    Cancellable, OngoingProgress, Unbounded,
    gen_lsp_types::{ProgressToken, WorkDoneProgressCancelParams},
};

use crate::lsp::Server;

/// What takes no longer than this is not worth a spinner.
const PATIENCE: Duration = Duration::from_millis(300);

/// `window/workDoneProgress/cancel`.
pub(super) async fn handle_cancel(server: &Server, params: WorkDoneProgressCancelParams) {
    drop(server.state().take_stop(&params.token));
}

/// Waits for `work`. Where the client gave a token its progress begins at once, else under a token of ours, if the client
/// shows those and the work takes a while. Cancelling it drops `stop`, which is otherwise kept to the end.
pub(super) async fn show<T>(
    server: &Server,
    title: String,
    token: Option<ProgressToken>,
    stop: oneshot::Sender<()>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    let created = async {
        match token {
            Some(token) => Some(token),
            None => {
                sleep(PATIENCE).await;
                create(server).await
            }
        }
    };
    let token = tokio::select! {
        biased;
        done = &mut work => return done,
        token = created => token,
    };
    match token {
        Some(token) => {
            let _shown = Shown::begin(server, token, title, stop).await;
            work.await
        }
        None => {
            let _kept = stop;
            work.await
        }
    }
}

async fn create(server: &Server) -> Option<ProgressToken> {
    let n_tokens = {
        let mut state = server.state();
        if !state.features.work_done_progress {
            return None;
        }
        state.n_tokens += 1;
        state.n_tokens
    };
    // A string: some clients keep no others.
    let token = ProgressToken::String(format!("surmise/edit/{n_tokens}"));
    let created = server.client().create_work_done_progress(token.clone()).await;
    created.ok().map(|()| token)
}

/// Progress on the screen, which ends when this is dropped: also with a request that is cancelled.
struct Shown {
    server: Server,
    token: ProgressToken,
    progress: Option<OngoingProgress<Unbounded, Cancellable>>,
}

impl Shown {
    async fn begin(server: &Server, token: ProgressToken, title: String, stop: oneshot::Sender<()>) -> Self {
        server.state().stops.push((token.clone(), stop));
        // Before anything is awaited: dropping it takes the stop away again.
        let mut shown = Self {
            server: server.clone(),
            token: token.clone(),
            progress: None,
        };
        let progress = server.client().progress(token, title).with_cancel_button();
        shown.progress = Some(progress.begin().await);
        shown
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        drop(self.server.state().take_stop(&self.token));
        if let Some(progress) = self.progress.take() {
            tokio::spawn(progress.finish());
        }
    }
}
