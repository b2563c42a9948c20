//! `workspace/executeCommand`: lines rewritten as the user says, and actions that were not resolved.

use serde::Deserialize;
use serde_json::{Value, json};
use tower_lsp_server::{
    gen_lsp_types::{self as lsp, ApplyWorkspaceEditParams, ApplyWorkspaceEditRequest, ProgressToken},
    jsonrpc::{Error, Result},
};

use crate::{
    actions::{Promise, selected_lines},
    lsp::{
        Server,
        code_action::Ticket,
        convert,
        edit::{self, EditError, Job},
    },
};

/// Rewrites lines as an instruction says; its only argument is an [`Order`].
pub(super) const EDIT: &str = "surmise.edit";

/// Runs an action that a menu offered; its only argument is the action's [`Ticket`].
pub(super) const RUN_ACTION: &str = "surmise.runAction";

/// Every command that there is.
pub(super) const COMMANDS: [&str; 2] = [EDIT, RUN_ACTION];

/// Longest title made of an instruction, in characters.
const MAX_TITLE: usize = 60;

/// Parameters of `workspace/executeCommand`, as far as they matter here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Call {
    command: String,
    #[serde(default)]
    arguments: Vec<Value>,
    work_done_token: Option<ProgressToken>,
}

/// What to do with which lines.
#[derive(Debug, Deserialize)]
struct Order {
    uri: String,
    /// The version that `range` is about; none means the document as it is.
    version: Option<i32>,
    /// Its lines may change.
    range: lsp::Range,
    instruction: String,
}

/// The answer says whether the editor applied the edit, and if not, its reason: the user may have looked at it and discarded it.
pub(super) async fn handle(server: &Server, call: Call) -> Result<Value> {
    let job = match call.command.as_str() {
        EDIT => order(server, argument(&call)?)?,
        RUN_ACTION => argument::<Ticket>(&call)?.job()?,
        other => {
            let known = COMMANDS.join(" and ");
            return Err(Error::invalid_params(format!(
                "there is no command `{other}`, only {known}"
            )));
        }
    };
    let edit = match edit::work_out(server, &job, call.work_done_token).await {
        Ok(edit) => edit,
        // Editors that run an action say of an error little more than that it is one.
        Err(error) if call.command == RUN_ACTION => {
            job.say(server, &error).await;
            return Ok(json!({ "applied": false, "reason": error.to_string() }));
        }
        Err(error) => return Err(error.answer()),
    };
    let applied = server
        .client()
        .send_request::<ApplyWorkspaceEditRequest>(ApplyWorkspaceEditParams {
            label: Some(job.title),
            edit,
            metadata: None,
        })
        .await?;
    Ok(json!({ "applied": applied.applied, "reason": applied.failure_reason }))
}

fn argument<T: serde::de::DeserializeOwned>(call: &Call) -> Result<T> {
    let first = call.arguments.first().unwrap_or(&Value::Null);
    T::deserialize(first)
        .map_err(|error| Error::invalid_params(format!("the argument of `{}`: {error}", call.command)))
}

fn order(server: &Server, order: Order) -> Result<Job> {
    let instruction = order.instruction.trim();
    if instruction.is_empty() {
        return Err(Error::invalid_params("the instruction is empty; say what to do"));
    }
    let state = server.state();
    let open = state.documents.get(&order.uri);
    let open = open.ok_or_else(|| EditError::NotOpen(order.uri.clone()).answer())?;
    let document = &open.document;
    if order.version.is_some() && order.version != document.version {
        return Err(EditError::Stale.answer());
    }
    let start = convert::offset(document, order.range.start, state.encoding);
    let end = convert::offset(document, order.range.end, state.encoding).max(start);
    let mut title: String = instruction.chars().take(MAX_TITLE).collect();
    if title.len() < instruction.len() {
        title.push('…');
    }
    Ok(Job {
        stamp: open.stamp(),
        lines: selected_lines(document, start..end),
        wordings: vec![instruction.to_owned()],
        promise: Promise::Nothing,
        title,
        uri: order.uri,
    })
}
