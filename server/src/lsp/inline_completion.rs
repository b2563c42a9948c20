//! `textDocument/inlineCompletion`: ghost text.
//!
//! The answer is `null` when it would say nothing about the document as it is now: the model is not ready,
//! the document is unknown or has changed meanwhile, a newer request took over. It is an empty list when
//! there is nothing to suggest, so that the editor takes an older suggestion away.

use tokio::{sync::oneshot, task::JoinSet};
use tower_lsp_server::{
    gen_lsp_types::{
        InlineCompletionItem, InlineCompletionList, InlineCompletionParams, InlineCompletionResponse,
        InlineCompletionTriggerKind, SelectedCompletionInfo,
    },
    jsonrpc::Result,
};

use crate::{
    completion::{Completion, Query, Suggestion, Trace, complete, reuse::Remembered, trigger::Trigger},
    lsp::{Server, convert, load_model},
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
        remembered,
    }) = begin(server, &uri, params)
    else {
        return Ok(None);
    };
    let completion = match remembered {
        Some(completion) => completion,
        None => match load_model::ready(server) {
            Some(engine) => {
                // On a task of its own, so that the next message is read while this one is worked on; the
                // set ends the task when this future is dropped.
                let mut tasks = JoinSet::new();
                let for_task = query.clone();
                tasks.spawn(async move { complete(&engine, &for_task).await });
                tokio::select! {
                    biased;
                    _ = superseded => return Ok(None),
                    Some(Ok(completion)) = tasks.join_next() => completion,
                    else => return Ok(None),
                }
            }
            None => {
                load_model::say_not_ready(server).await;
                return Ok(None);
            }
        },
    };
    Ok(finish(server, &uri, &query, revision, selected, completion).map(Into::into))
}

/// A request, ready to run.
struct Request {
    query: Query,
    /// The item selected in the completion menu, as the editor gave it.
    selected: Option<SelectedCompletionInfo>,
    superseded: oneshot::Receiver<()>,
    /// Which text of the document it is about.
    revision: u64,
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
    let mut query = state.query(uri, trigger)?;
    query.at = convert::offset(
        &query.document,
        params.text_document_position_params.position,
        encoding,
    );
    if let Some(SelectedCompletionInfo { range, text }) = &selected {
        // Complete the text as it would be with the selected item in it.
        let start = convert::offset(&query.document, range.start, encoding);
        let end = convert::offset(&query.document, range.end, encoding).max(start);
        query.document.replace(start..end, text);
        query.at = start + text.len();
    }
    let open = state.documents.get_mut(uri)?;
    let superseded = open.take_turn();
    let revision = open.revision();
    let remembered = open
        .remembered
        .as_ref()
        .and_then(|it| it.rest(&query.document, query.at));
    let remembered = remembered
        .filter(|_| query.config.enabled)
        .map(|rest| Completion {
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
    open.last = Some(completion);
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
