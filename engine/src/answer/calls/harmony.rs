//! Calls of GPT-OSS: messages to a tool.

use super::{checked_name, object};
use crate::answer::ToolCall;

/// The body of a Harmony message to `recipient`.
pub(in crate::answer) fn parse(recipient: &str, body: &str) -> Option<Vec<ToolCall>> {
    Some(vec![ToolCall {
        id: None,
        name: checked_name(recipient.strip_prefix("functions.").unwrap_or(recipient))?,
        arguments: object(body)?,
    }])
}
