//! Calls of Mistral, Codestral and Devstral.

use super::{checked_name, json::parse_list, object};
use crate::answer::{
    ToolCall,
    markers::{ARGS, CALL_ID},
};

/// What follows `[TOOL_CALLS]`: a list of JSON objects, or `name[ARGS]{…}` with or without `[CALL_ID]id` in between.
pub(in crate::answer) fn parse(body: &str) -> Option<Vec<ToolCall>> {
    let body = body.trim();
    if body.starts_with('[') && !body.starts_with(ARGS) {
        return parse_list(body);
    }
    let (head, arguments) = match body.split_once(ARGS) {
        Some(parts) => parts,
        // Some go without the marker.
        None => body.split_at(body.find('{')?),
    };
    let (name, id) = match head.split_once(CALL_ID) {
        Some((name, id)) => (name, Some(id.trim().to_owned())),
        None => (head, None),
    };
    Some(vec![ToolCall {
        id,
        name: checked_name(name)?,
        arguments: object(arguments)?,
    }])
}
