//! `textDocument/completion`: the same suggestion, for editors that have a menu but no ghost text.
//!
//! A menu waits for its slowest server, so this never waits for the model: it answers with what is ready and
//! says that there may be more. The model starts in the background, and the next key finds its answer. An editor that shows
//! ghost text gets no items: it would show the same thing twice.

use tower_lsp_server::{
    gen_lsp_types::{
        CompletionItem, CompletionItemKind, CompletionItemLabelDetails, CompletionList, CompletionParams,
        CompletionResponse, InsertTextMode, TextEdit,
    },
    jsonrpc::Result,
};

use crate::{
    completion::{Query, complete, reuse::Remembered, trigger::Trigger},
    lsp::{Server, State, convert, load_model, nearby, references},
    position::line_at,
};

/// Longest label, in characters.
const MAX_LABEL: usize = 60;

pub(super) async fn handle(server: &Server, params: CompletionParams) -> Result<Option<CompletionResponse>> {
    let at = params.text_document_position_params;
    let uri = at.text_document.uri.0;
    let items = {
        let state = server.state();
        if state.features.inline_completion {
            return Ok(None);
        }
        let Some(query) = state.query(&uri, Trigger::Automatic, at.position) else {
            return Ok(None);
        };
        let ready = state.documents.get(&uri).and_then(|it| it.remembered.as_ref());
        let ready = ready.and_then(|it| it.rest(&query.document, query.at));
        let item = ready.map(|rest| item(&state, &query, rest));
        if item.is_none() {
            drop(state);
            prepare(server, uri, query);
        }
        item.into_iter().collect()
    };
    Ok(Some(
        CompletionList {
            is_incomplete: true,
            items,
            ..CompletionList::default()
        }
        .into(),
    ))
}

/// The item that inserts `rest`. It replaces the word before the cursor with itself and the rest, because
/// menus compare an item with that word.
fn item(state: &State, query: &Query, rest: &str) -> CompletionItem {
    let document = &query.document;
    let line = line_at(&document.text, query.at);
    let before = document.excerpt(line.start..query.at);
    let word = &before[before
        .trim_end_matches(|c: char| c.is_alphanumeric() || c == '_')
        .len()..];
    let text = format!("{word}{rest}");
    let first_line = text.trim_start().lines().next().unwrap_or_default();
    let mut label: String = first_line.chars().take(MAX_LABEL).collect();
    if label.len() < text.trim().len() {
        label.push('…');
    }
    CompletionItem {
        label,
        label_details: Some(CompletionItemLabelDetails {
            description: Some("Surmise".to_owned()),
            ..CompletionItemLabelDetails::default()
        }),
        kind: Some(CompletionItemKind::Text),
        filter_text: Some(text.clone()),
        // The lines are indented as they should be.
        insert_text_mode: Some(InsertTextMode::AsIs),
        text_edit: Some(
            TextEdit {
                range: convert::range(document, query.at - word.len()..query.at, state.encoding),
                new_text: text,
            }
            .into(),
        ),
        ..CompletionItem::default()
    }
}

/// Starts the model on `query`; the answer is remembered for the next request.
fn prepare(server: &Server, uri: String, query: Query) {
    let Some(engine) = load_model::ready(server) else {
        return;
    };
    let turn = server
        .state()
        .documents
        .get_mut(&uri)
        .and_then(|open| open.take_turn_to_prepare(query.at));
    let Some(superseded) = turn else { return };
    references::refresh(server, &engine, &uri);
    nearby::refresh(server, &engine, &uri);
    let server = server.clone();
    tokio::spawn(async move {
        let completion = tokio::select! {
            biased;
            _ = superseded => return,
            completion = complete(&engine, &query) => completion,
        };
        if let Some(open) = server.state().documents.get_mut(&uri) {
            if let Ok(suggestion) = &completion.outcome {
                open.remembered = Some(Remembered::new(&query.document, query.at, &suggestion.text));
            }
            open.last = Some((completion, query.document.clone()));
        }
        server.prepare_for_edits(query);
    });
}
