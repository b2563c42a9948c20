//! Loading the model beside everything else, with progress where the editor shows it.

use std::{cell::Cell, sync::Arc};

use surmise_engine::{Engine, LoadProgress, memory::Bytes};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower_lsp_server::{
    Bounded, NotCancellable, OngoingProgress,
    gen_lsp_types::{MessageType, ProgressToken},
};

use crate::{
    lsp::{ModelState, Server, status},
    model::fim_note,
};

/// Percent of the weights between two reports.
const REPORT_PERCENT: u32 = 5;

type Progress = OngoingProgress<Bounded, NotCancellable>;

/// Starts loading the model that the settings name; the one loaded so far, if any, is let go. Does not wait,
/// and does nothing once the editor has shut us down.
pub(super) fn start(server: &Server) {
    let (config, attempt, former) = {
        let mut state = server.state();
        if state.is_shut_down {
            return;
        }
        state.n_loads += 1;
        let attempt = state.n_loads;
        let former = std::mem::replace(&mut state.model, ModelState::Loading(attempt));
        (state.config.clone(), attempt, former)
    };
    let server = server.clone();
    tokio::spawn(async move {
        status::send(
            &server,
            status::State::Loading,
            format!("loading the model ({})", config.model),
        )
        .await;
        let progress = begin_progress(&server, attempt).await;
        let load = server.shared.options.load.clone();
        let (reports, received) = unbounded_channel();
        let loaded = tokio::task::spawn_blocking(move || {
            // Letting a model go takes a moment too.
            drop(former);
            load(&config, &reporter(reports)).map_err(|error| error.to_string())
        });
        forward(received, progress.as_ref()).await;
        let loaded = loaded
            .await
            .unwrap_or_else(|_| Err("the loader panicked; this is a bug".to_owned()));
        let message = match &loaded {
            Ok(engine) => {
                let note = fim_note(engine).map_or_else(String::new, |note| format!(", {note}"));
                format!("ready: {}{note}", engine.info().model_name)
            }
            Err(reason) => format!("cannot load the model: {reason}"),
        };
        if let Some(progress) = progress {
            progress.finish_with_message(message.clone()).await;
        }
        let (is_ready, is_current) = (loaded.is_ok(), server.state().finish_loading(attempt, loaded));
        if !is_current {
            return;
        }
        if is_ready {
            tracing::info!("{message}");
            status::send(&server, status::State::Ready, message).await;
        } else {
            tracing::error!("{message}");
            server
                .client()
                .show_message(MessageType::Error, format!("Surmise: {message}"))
                .await;
            status::send(&server, status::State::Failed, message).await;
        }
    });
}

/// Passes on the first report and then one every few percent.
fn reporter(reports: UnboundedSender<LoadProgress>) -> impl Fn(LoadProgress) {
    let next = Cell::new(0);
    move |progress| {
        let percent = percent(&progress);
        if percent >= next.get() {
            next.set(percent + REPORT_PERCENT);
            // Nobody listens once the editor is gone.
            let _ = reports.send(progress);
        }
    }
}

fn percent(progress: &LoadProgress) -> u32 {
    let share = progress.loaded_bytes as f64 / progress.plan.weight_bytes.max(1) as f64;
    (share * 100.0).min(100.0) as u32
}

/// Shows reports until there are no more.
async fn forward(mut reports: UnboundedReceiver<LoadProgress>, progress: Option<&Progress>) {
    while let Some(report) = reports.recv().await {
        let LoadProgress { plan, loaded_bytes } = report;
        let message = match loaded_bytes {
            0 => plan.summary(),
            _ => format!("{} of {} read", Bytes(loaded_bytes), Bytes(plan.weight_bytes)),
        };
        if let Some(progress) = progress {
            progress.report_with_message(message, percent(&report)).await;
        }
    }
}

/// The model, if it is loaded.
pub(super) fn ready(server: &Server) -> Option<Arc<Engine>> {
    match &server.state().model {
        ModelState::Ready(engine) => Some(engine.clone()),
        _ => None,
    }
}

/// Tells the client, once for each load, why its requests get no answer.
pub(super) async fn say_not_ready(server: &Server) {
    let (kind, message) = {
        let mut state = server.state();
        if std::mem::replace(&mut state.told_not_ready, true) {
            return;
        }
        match &state.model {
            ModelState::Ready(_) => return,
            ModelState::Absent | ModelState::Loading(_) => {
                (status::State::Loading, "the model is still loading".to_owned())
            }
            ModelState::Failed(reason) => (status::State::Failed, format!("cannot load the model: {reason}")),
        }
    };
    status::send(server, kind, message).await;
}

async fn begin_progress(server: &Server, attempt: u64) -> Option<Progress> {
    if !server.state().features.work_done_progress {
        return None;
    }
    // A string: some clients keep no others.
    let token = ProgressToken::String(format!("surmise/load-model/{attempt}"));
    server
        .client()
        .create_work_done_progress(token.clone())
        .await
        .ok()?;
    let progress = server.client().progress(token, "Surmise: loading the model");
    Some(progress.with_percentage(0).begin().await)
}
