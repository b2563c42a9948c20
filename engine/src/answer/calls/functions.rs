//! Calls of Qwen3-Coder and Qwen 3.5: tags for the function and for each parameter.

use super::{Tools, argument, checked_name, quoted};
use crate::answer::{
    ToolCall,
    markers::{FUNCTION, FUNCTION_END},
};

const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";

/// One or more functions: `<function=NAME>`, `<parameter=KEY>` for each argument, `</function>`.
pub(in crate::answer) fn parse(body: &str, tools: &Tools) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    let mut rest = body.trim();
    while !rest.is_empty() {
        let (name, after) = rest.strip_prefix(FUNCTION)?.split_once('>')?;
        let name = checked_name(name)?;
        let mut arguments = Vec::new();
        rest = after.trim_start();
        while let Some(after) = rest.strip_prefix(PARAMETER) {
            let (key, after) = after.split_once('>')?;
            let (value, after) = split_value(after)?;
            arguments.push(format!(
                "{}: {}",
                quoted(key.trim()),
                argument(value, tools.takes_text(&name, key.trim()))
            ));
            rest = after;
        }
        rest = rest.strip_prefix(FUNCTION_END)?.trim_start();
        calls.push(ToolCall {
            id: None,
            name,
            arguments: format!("{{{}}}", arguments.join(", ")),
        });
    }
    (!calls.is_empty()).then_some(calls)
}

/// A parameter's value, and what follows its end: the first that another parameter or the end of the function follows, as
/// values may be about such tags themselves.
fn split_value(text: &str) -> Option<(&str, &str)> {
    text.match_indices(PARAMETER_END).find_map(|(at, _)| {
        let after = text[at + PARAMETER_END.len()..].trim_start();
        (after.starts_with(PARAMETER) || after.starts_with(FUNCTION_END)).then(|| {
            let value = &text[..at];
            let value = value.strip_prefix('\n').unwrap_or(value);
            (value.strip_suffix('\n').unwrap_or(value), after)
        })
    })
}
