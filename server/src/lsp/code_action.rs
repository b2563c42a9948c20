//! `textDocument/codeAction` and `codeAction/resolve`: edits that a menu can offer.
//!
//! The menu must open at once, so the first runs no model: it says what makes sense at the place. The model works when the
//! user has chosen: in `codeAction/resolve`, or in a command, for clients that resolve nothing and for what is to be shown before it
//! is applied.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use surmise_engine::RewriteSupport;
use tokio::task::spawn_blocking;
use tower_lsp_server::{
    gen_lsp_types::{self as lsp, CodeAction, CodeActionKind, CodeActionResponse, CodeActionTag, Command},
    jsonrpc::{Error, Result},
};

use crate::{
    actions::{self, Offer},
    document::Document,
    lsp::{
        ModelState, Server,
        capabilities::ClientFeatures,
        convert::{self, DocumentVersion},
        edit::{self, EditError, Job},
        execute_command::RUN_ACTION,
    },
    position::Encoding,
};

/// Kinds of our actions.
pub(super) const KINDS: [CodeActionKind; 2] = [CodeActionKind::RefactorRewrite, CodeActionKind::QuickFix];

/// `CodeActionTriggerKind.Automatic`: the cursor has moved, and the user may not want to hear of anything.
const AUTOMATIC: u32 = 2;

/// Parameters of `textDocument/codeAction`, as far as they matter here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Question {
    text_document: DocumentVersion,
    range: lsp::Range,
    context: Context,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Context {
    #[serde(default)]
    diagnostics: Vec<Diagnostic>,
    only: Option<Vec<String>>,
    trigger_kind: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Diagnostic {
    range: lsp::Range,
    message: String,
}

/// What an action brings back when it has been chosen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ticket {
    uri: String,
    /// The text that it was offered for.
    stamp: u64,
    /// Lines, from 0, the last one included.
    first_line: usize,
    last_line: usize,
    title: String,
    action: String,
    /// What a diagnostic said, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Ticket {
    /// # Errors
    /// Invalid parameters if there is no such action.
    pub(super) fn job(self) -> Result<Job> {
        let action = actions::action(&self.action)
            .ok_or_else(|| Error::invalid_params(format!("there is no action `{}`", self.action)))?;
        Ok(Job {
            uri: self.uri,
            stamp: self.stamp,
            lines: self.first_line..self.last_line.max(self.first_line).saturating_add(1),
            wordings: action
                .wordings
                .iter()
                .map(|words| match &self.problem {
                    Some(problem) => format!("{words}: {problem}"),
                    None => (*words).to_owned(),
                })
                .collect(),
            promise: action.promise,
            title: self.title,
        })
    }
}

pub(super) async fn handle(server: &Server, question: Question) -> Result<Option<Vec<CodeActionResponse>>> {
    let uri = question.text_document.uri.clone();
    let (document, stamp, support, encoding, features) = {
        let state = server.state();
        let Some(open) = state.documents.get(&uri) else {
            return Ok(None);
        };
        let support = match &state.model {
            ModelState::Ready(engine) => engine.info().rewrite,
            _ => RewriteSupport::None,
        };
        (
            open.document.clone(),
            open.stamp(),
            support,
            state.encoding,
            state.features,
        )
    };
    // On another thread: a question about the tree can take a few milliseconds, and typing does not wait.
    let offers = spawn_blocking(move || offers(&document, &question, encoding, support)).await;
    let offers = offers.map_err(|_| Error::internal_error())?;
    let answers = offers.into_iter().map(|(kind, offer)| {
        let title = offer.title.clone();
        // The client looks at what a command applies; a resolved action would be shown in its own way, if at all.
        let is_shown = features.document_changes
            && features.change_annotations
            && actions::action(offer.id).is_some_and(|it| it.promise.needs_a_look());
        let ticket = json!(Ticket {
            uri: uri.clone(),
            stamp,
            first_line: offer.lines.start,
            last_line: offer.lines.end - 1,
            title: offer.title,
            action: offer.id.to_owned(),
            problem: offer.problem,
        });
        encode(title, kind, ticket, &features, is_shown)
    });
    Ok(Some(answers.collect()))
}

/// What makes sense and was asked for.
fn offers(
    document: &Document,
    question: &Question,
    encoding: Encoding,
    support: RewriteSupport,
) -> Vec<(CodeActionKind, Offer)> {
    let bytes = |range: lsp::Range| {
        let start = convert::offset(document, range.start, encoding);
        start..convert::offset(document, range.end, encoding).max(start)
    };
    let context = &question.context;
    let selection = bytes(question.range);
    let mut offers = Vec::new();
    if context.wants(&CodeActionKind::QuickFix) {
        let fix = |it: &Diagnostic| actions::fix(document, bytes(it.range), &it.message, support);
        let fixes = context.diagnostics.iter().filter_map(fix);
        offers.extend(fixes.map(|offer| (CodeActionKind::QuickFix, offer)));
    }
    // A cursor that merely passes by is no reason for a light bulb.
    let is_asked = context.trigger_kind != Some(AUTOMATIC) || !selection.is_empty();
    if is_asked && context.wants(&CodeActionKind::RefactorRewrite) {
        let rewrites = actions::offers(document, selection, support).into_iter();
        offers.extend(rewrites.map(|offer| (CodeActionKind::RefactorRewrite, offer)));
    }
    offers
}

impl Context {
    /// Whether actions of this kind are asked for: by name, by that of a kind above it, or because all are.
    fn wants(&self, kind: &CodeActionKind) -> bool {
        let is_part = |only: &String| {
            let below = kind.as_str().strip_prefix(only.as_str());
            below.is_some_and(|below| only.is_empty() || below.is_empty() || below.starts_with('.'))
        };
        self.only.as_ref().is_none_or(|only| only.iter().any(is_part))
    }
}

/// The action in the form that the client knows; as a command if it is to be shown before it is applied.
fn encode(
    title: String,
    kind: CodeActionKind,
    ticket: Value,
    features: &ClientFeatures,
    is_shown: bool,
) -> CodeActionResponse {
    let command = |title, ticket| Command {
        title,
        tooltip: None,
        command: RUN_ACTION.to_owned(),
        arguments: Some(vec![ticket]),
    };
    if !features.action_literals {
        return command(title, ticket).into();
    }
    let mut action = CodeAction {
        title,
        kind: Some(kind),
        tags: features.action_tags.then(|| vec![CodeActionTag::LLMGenerated]),
        ..CodeAction::default()
    };
    if features.resolves_edits && !is_shown {
        action.data = Some(ticket);
    } else {
        action.command = Some(command(action.title.clone(), ticket));
    }
    action.into()
}

/// `codeAction/resolve`: the action as it came, with its edit. One that comes to nothing has none, and the user is told why;
/// only a text that is another one by now is an error, for the client must not go on with this action.
pub(super) async fn resolve(server: &Server, mut action: Value) -> Result<Value> {
    // Some clients resolve every action; one with a command is whole.
    if action.get("data").is_none() && action.get("command").is_some() {
        return Ok(action);
    }
    let ticket: Ticket = serde_json::from_value(action["data"].clone())
        .map_err(|error| Error::invalid_params(format!("not an action of Surmise: {error}")))?;
    let job = ticket.job()?;
    match edit::work_out(server, &job, None).await {
        Ok(edit) => action["edit"] = json!(edit),
        Err(error @ EditError::Cancelled) => return Err(error.answer()),
        Err(error) => {
            job.say(server, &error).await;
            if matches!(error, EditError::Stale | EditError::NotOpen(_)) {
                return Err(error.answer());
            }
        }
    }
    Ok(action)
}
