//! Calls of DeepSeek V3, R1 and their distills.

use super::{checked_name, leading_json, object};
use crate::answer::{
    ToolCall,
    markers::{CALL_BEGIN, CALL_END, CALL_SEPARATOR, CALLS_END},
};

/// What stands around arguments.
const FENCE: &str = "```json";
const FENCE_END: &str = "```";

/// What follows `<｜tool▁calls▁begin｜>`: for each call a name and its arguments (V3.1), or its kind, a name and the arguments in
/// a fenced block (V3 and R1).
pub(in crate::answer) fn parse(body: &str) -> Option<Vec<ToolCall>> {
    let mut rest = body.strip_suffix(CALLS_END).unwrap_or(body).trim();
    let mut calls = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.strip_prefix(CALL_BEGIN)?.split_once(CALL_SEPARATOR)?;
        let (name, arguments);
        if after.trim_start().starts_with(['{', '"']) {
            name = head;
            (arguments, rest) = leading_json(after)?;
        } else {
            (name, rest) = after.split_once('\n')?;
            (arguments, rest) = leading_json(rest.trim_start().strip_prefix(FENCE)?)?;
            rest = rest.trim_start().strip_prefix(FENCE_END)?;
        }
        rest = rest.trim_start();
        if !rest.is_empty() {
            rest = rest.strip_prefix(CALL_END)?.trim_start();
        }
        calls.push(ToolCall {
            id: None,
            name: checked_name(name)?,
            arguments: object(arguments)?,
        });
    }
    (!calls.is_empty()).then_some(calls)
}
