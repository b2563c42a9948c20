//! `textDocument/inlineCompletion`: ghost text.
//!
//! The answer is `null` when it would say nothing about the document as it is now: the model is not ready,
//! the document is unknown or has changed meanwhile, a newer request took over. It is an empty list when
//! there is nothing to suggest, so that the editor takes an older suggestion away.

use std::time::Duration;

use tokio::sync::oneshot;
use tower_lsp_server::{
    gen_lsp_types::{
        InlineCompletionItem, InlineCompletionList, InlineCompletionParams, InlineCompletionResponse,
        InlineCompletionTriggerKind, SelectedCompletionInfo,
    },
    jsonrpc::Result,
};

use crate::{
    completion::{
        Completion, Query, Suggestion, Trace, complete, reuse::Remembered, trigger::Trigger,
        withheld::Withheld,
    },
    document::with_lf,
    lsp::{Server, convert, load_model, nearby, references, status, task},
    position::line_at,
};

pub(super) async fn handle(
    server: &Server,
    params: InlineCompletionParams,
) -> Result<Option<InlineCompletionResponse>> {
    let uri = params.text_document_position_params.text_document.uri.0.clone();
    let Some(Request {
        query,
        selected,
        superseded,
        revision,
        changed_in,
        remembered,
    }) = begin(server, &uri, params)
    else {
        return Ok(None);
    };
    let mut completion = match remembered {
        Some(completion) => completion,
        None => match load_model::ready(server) {
            Some(engine) => {
                references::refresh(server, &engine, &uri);
                nearby::refresh(server, &engine, &uri);
                let (server, for_task) = (server.clone(), query.clone());
                let work = async move {
                    let completion = complete(&engine, &for_task).await;
                    server.prepare_for_edits(for_task);
                    completion
                };
                match task::run(work, superseded).await? {
                    Some(completion) => completion,
                    None => return Ok(None),
                }
            }
            None => {
                load_model::say_not_ready(server).await;
                return Ok(None);
            }
        },
    };
    tell_of_failure(server, &completion).await;
    completion.trace.stages.change = changed_in;
    Ok(finish(server, &uri, &query, revision, selected, completion).map(Into::into))
}

/// Tells the client that the engine cannot run requests, and when it can again.
async fn tell_of_failure(server: &Server, completion: &Completion) {
    let failure = match &completion.outcome {
        Err(Withheld::EngineFailed { message }) => Some(message.clone()),
        _ if completion.trace.finish.is_some() => None,
        _ => return,
    };
    if std::mem::replace(&mut server.state().failure, failure.clone()) == failure {
        return;
    }
    let (kind, message) = match failure {
        Some(message) => (status::State::Failed, format!("no suggestions: {message}")),
        None => (status::State::Ready, "suggestions come again".to_owned()),
    };
    tracing::warn!("{message}");
    status::send(server, kind, message).await;
}

/// A request, ready to run.
struct Request {
    query: Query,
    /// The item selected in the completion menu, as the editor gave it.
    selected: Option<SelectedCompletionInfo>,
    superseded: oneshot::Receiver<()>,
    /// Which text of the document it is about.
    revision: u64,
    /// How long it took to get to that text.
    changed_in: Duration,
    /// The rest of the suggestion that the user is typing.
    remembered: Option<Completion>,
}

/// Takes the snapshot. Nothing in here waits.
fn begin(server: &Server, uri: &str, params: InlineCompletionParams) -> Option<Request> {
    let trigger = match params.context.trigger_kind {
        InlineCompletionTriggerKind::Invoked => Trigger::Invoked,
        _ => Trigger::Automatic,
    };
    let selected = params.context.selected_completion_info;
    let mut state = server.state();
    let encoding = state.encoding;
    let mut query = state.query(uri, trigger, params.text_document_position_params.position)?;
    if let Some(SelectedCompletionInfo { range, text }) = &selected {
        // Complete the text as it would be with the selected item in it.
        let start = convert::offset(&query.document, range.start, encoding);
        let end = convert::offset(&query.document, range.end, encoding).max(start);
        let text = with_lf(text);
        query.document.replace(start..end, &text);
        // Where a `\r` stands before and a `\n` after, the two have become one line break.
        let at = start + text.len();
        query.at = at.min(line_at(&query.document.text, at).end);
    }
    let open = state.documents.get_mut(uri)?;
    let superseded = open.take_turn();
    let (revision, changed_in) = (open.revision(), open.changed_in);
    let remembered = open
        .remembered
        .as_ref()
        .and_then(|it| it.rest(&query.document, query.at));
    // One that was asked for stays while it is typed, even where none comes by itself. Other settings would have taken it away.
    let remembered = remembered.map(|rest| Completion {
        outcome: Ok(Suggestion {
            range: query.at..query.at,
            text: rest.to_owned(),
        }),
        trace: Trace {
            reused: true,
            ..Trace::default()
        },
    });
    Some(Request {
        query,
        selected,
        superseded,
        revision,
        changed_in,
        remembered,
    })
}

/// Remembers the completion, and encodes it if the document is still the one it was made for.
fn finish(
    server: &Server,
    uri: &str,
    query: &Query,
    revision: u64,
    selected: Option<SelectedCompletionInfo>,
    completion: Completion,
) -> Option<InlineCompletionList> {
    let mut state = server.state();
    let encoding = state.encoding;
    let open = state.documents.get_mut(uri)?;
    if let (Ok(suggestion), false) = (&completion.outcome, completion.trace.reused) {
        open.remembered = Some(Remembered::new(&query.document, query.at, &suggestion.text));
    }
    let suggestion = completion.outcome.clone();
    let replaced = open.last.replace((completion, query.document.clone()));
    // Nor need the answer wait for what it takes to free the last one's trees.
    server.shared.afterwards.run(move || drop(replaced));
    if open.revision() != revision {
        return None;
    }
    let items = suggestion
        .into_iter()
        .map(|Suggestion { range, text }| match &selected {
            Some(selected) => (selected.range, format!("{}{text}", selected.text)),
            None => (convert::range(&query.document, range, encoding), text),
        });
    let items = items.map(|(range, text)| InlineCompletionItem {
        insert_text: text.into(),
        filter_text: None,
        range: Some(range),
        command: None,
    });
    Some(InlineCompletionList {
        items: items.collect(),
    })
}
