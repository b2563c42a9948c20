//! Calls of GLM 4: a name, then a tag for each key and each value.

use super::{Tools, argument, checked_name, quoted};
use crate::answer::{
    ToolCall,
    markers::{KEY, KEY_END, VALUE, VALUE_END},
};

/// What stands in `<tool_call>` and `</tool_call>`. Without arguments, it must be the name of a tool that there is.
pub(in crate::answer) fn parse(body: &str, tools: &Tools) -> Option<Vec<ToolCall>> {
    let (name, mut rest) = body.split_at(body.find(KEY).unwrap_or(body.len()));
    let name = checked_name(name)?;
    if rest.is_empty() && !tools.has(&name) {
        return None;
    }
    let mut arguments = Vec::new();
    while !rest.is_empty() {
        let (key, after) = rest.strip_prefix(KEY)?.split_once(KEY_END)?;
        let (value, after) = split_value(after.trim_start().strip_prefix(VALUE)?)?;
        arguments.push(format!(
            "{}: {}",
            quoted(key.trim()),
            argument(value, tools.takes_text(&name, key.trim()))
        ));
        rest = after;
    }
    Some(vec![ToolCall {
        id: None,
        name,
        arguments: format!("{{{}}}", arguments.join(", ")),
    }])
}

/// A value, and what follows its end: the first that another key or nothing follows, as values may be about such tags
/// themselves.
fn split_value(text: &str) -> Option<(&str, &str)> {
    text.match_indices(VALUE_END).find_map(|(at, _)| {
        let after = text[at + VALUE_END.len()..].trim_start();
        (after.is_empty() || after.starts_with(KEY)).then(|| (&text[..at], after))
    })
}
