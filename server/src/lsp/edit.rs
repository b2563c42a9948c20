//! Lines of a document rewritten, as an edit that the editor can apply; or, in words for the user, why there is none.

use std::{ops::Range, sync::Arc};

use surmise_engine::{Engine, request::RewriteTask};
use tokio::sync::oneshot;
use tower_lsp_server::{
    gen_lsp_types::{
        AnnotatedTextEdit, ChangeAnnotation, DocumentChange, Edit, MessageType,
        OptionalVersionedTextDocumentIdentifier, ProgressToken, TextDocumentEdit, TextDocumentIdentifier,
        TextEdit, Uri, WorkspaceEdit,
    },
    jsonrpc::{Error, ErrorCode},
};

use crate::{
    actions::{Promise, Unusable, first_usable},
    document::Document,
    lsp::{ModelState, Server, State, convert, progress, task},
    rewrite::{Change, RewriteQuery},
};

/// What is to be done.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) uri: String,
    /// The text that it is about.
    pub(super) stamp: u64,
    /// Lines that may change, from 0.
    pub(super) lines: Range<usize>,
    /// What the model is told; a model that is trained on certain words is told in the next ones if it gets it wrong.
    pub(super) wordings: Vec<String>,
    /// What the model must leave alone.
    pub(super) promise: Promise,
    /// What the user calls it.
    pub(super) title: String,
}

impl Job {
    /// Tells the user why this came to nothing.
    pub(super) async fn say(&self, server: &Server, error: &EditError) {
        if !matches!(error, EditError::Cancelled) {
            let message = format!("Surmise: {}: {error}", self.title);
            server.client().show_message(MessageType::Warning, message).await;
        }
    }
}

/// Why there is no edit.
#[derive(Debug, thiserror::Error)]
pub(super) enum EditError {
    #[error("not open: {0}")]
    NotOpen(String),
    #[error("the text has changed since this was asked for, so nothing was changed; ask again")]
    Stale,
    #[error("the model is still loading; try again in a moment")]
    StillLoading,
    #[error("there is no model: {0}")]
    NoModel(String),
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error("cancelled")]
    Cancelled,
    #[error("the request failed inside Surmise; this is a bug")]
    Panicked,
}

impl EditError {
    /// As the answer to a request.
    pub(super) fn answer(&self) -> Error {
        let code = match self {
            Self::NotOpen(_) => ErrorCode::InvalidParams,
            Self::Stale => ErrorCode::ContentModified,
            Self::Cancelled => ErrorCode::RequestCancelled,
            Self::Panicked => ErrorCode::InternalError,
            _ => ErrorCode::ServerError(REQUEST_FAILED),
        };
        Error {
            message: self.to_string().into(),
            ..Error::new(code)
        }
    }
}

/// LSP's `RequestFailed`: the request was right, and there is still no answer.
const REQUEST_FAILED: i64 = -32803;

/// Asks the model, with progress where it takes long: under `token`, if the client gave one. The document is as it was; the
/// edit is for the text that the job is about.
pub(super) async fn work_out(
    server: &Server,
    job: &Job,
    token: Option<ProgressToken>,
) -> Result<WorkspaceEdit, EditError> {
    let (engine, queries) = begin(server, job)?;
    let (stop, stopped) = oneshot::channel();
    let work = task::run(changes(engine, queries, job.promise), stopped);
    let title = format!("Surmise: {}", job.title);
    let (document, changes) = match progress::show(server, title, token, stop, work).await {
        Ok(Some(rewritten)) => rewritten?,
        Ok(None) => return Err(EditError::Cancelled),
        Err(_) => return Err(EditError::Panicked),
    };
    let state = server.state();
    unchanged(&state, job)?;
    Ok(encode(&state, job, &document, changes))
}

/// The changes of the first of these that can be used.
async fn changes(
    engine: Arc<Engine>,
    queries: Vec<RewriteQuery>,
    promise: Promise,
) -> Result<(Document, Vec<Change>), EditError> {
    let (query, rewriting) = first_usable(&engine, queries, promise).await?;
    let changes = rewriting.changes(&query.document);
    Ok((query.document, changes))
}

/// The model, and what to ask it, in the order of trying.
fn begin(server: &Server, job: &Job) -> Result<(Arc<Engine>, Vec<RewriteQuery>), EditError> {
    let state = server.state();
    let document = unchanged(&state, job)?;
    let engine = match &state.model {
        ModelState::Ready(engine) => engine.clone(),
        ModelState::Absent | ModelState::Loading(_) => return Err(EditError::StillLoading),
        ModelState::Failed(reason) => return Err(EditError::NoModel(reason.clone())),
    };
    let query = |instruction: &String| RewriteQuery {
        root: state.root_of(document),
        lines: job.lines.clone(),
        task: RewriteTask::Instruction(instruction.clone()),
        speculation: state.config.engine.speculation(),
        document: document.clone(),
    };
    let queries = job.wordings.iter().map(query).collect();
    Ok((engine, queries))
}

/// The document, if its text is still the one that the job is about.
fn unchanged<'a>(state: &'a State, job: &Job) -> Result<&'a Document, EditError> {
    let open = state.documents.get(&job.uri);
    let open = open.ok_or_else(|| EditError::NotOpen(job.uri.clone()))?;
    if open.stamp() != job.stamp {
        return Err(EditError::Stale);
    }
    Ok(&open.document)
}

/// The edit in the form that the client knows: with the document's version, and for it to be looked at first, if it can.
fn encode(state: &State, job: &Job, document: &Document, changes: Vec<Change>) -> WorkspaceEdit {
    const ANNOTATION: &str = "surmise";
    let encoding = state.encoding;
    let edits = changes
        .into_iter()
        .map(|Change { range, text }| TextEdit::new(convert::range(document, range, encoding), text));
    let uri = Uri(job.uri.clone());
    let mut edit = WorkspaceEdit::default();
    if !state.features.document_changes {
        edit.changes = Some([(uri, edits.collect())].into());
        return edit;
    }
    let is_annotated = job.promise.needs_a_look() && state.features.change_annotations;
    let edits = edits.map(|edit| match is_annotated {
        true => Edit::from(AnnotatedTextEdit::new(ANNOTATION.to_owned(), edit)),
        false => edit.into(),
    });
    let text_document =
        OptionalVersionedTextDocumentIdentifier::new(document.version, TextDocumentIdentifier::new(uri));
    let edits = TextDocumentEdit::new(text_document, edits.collect());
    edit.document_changes = Some(vec![DocumentChange::from(edits)]);
    edit.change_annotations = is_annotated.then(|| {
        let annotation = ChangeAnnotation {
            label: job.title.clone(),
            needs_confirmation: Some(true),
            description: Some("Surmise".to_owned()),
        };
        [(ANNOTATION.to_owned(), annotation)].into()
    });
    edit
}
