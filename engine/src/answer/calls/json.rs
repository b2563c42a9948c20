//! Calls as JSON: of Hermes, Qwen, Llama 3, Granite 3.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Tools, checked_name, object};
use crate::answer::ToolCall;

/// A call as JSON, with the names that Hermes, Llama 3 and Mistral have for its parts.
#[derive(Deserialize)]
pub(super) struct JsonCall<'a> {
    name: String,
    #[serde(borrow, alias = "parameters")]
    arguments: Option<&'a RawValue>,
    id: Option<String>,
}

impl JsonCall<'_> {
    fn into_call(self) -> Option<ToolCall> {
        Some(ToolCall {
            id: self.id,
            name: checked_name(&self.name)?,
            arguments: match self.arguments {
                Some(arguments) => object(arguments.get())?,
                None => "{}".to_owned(),
            },
        })
    }
}

/// One or more JSON objects, with blanks, commas or semicolons between.
pub(in crate::answer) fn parse(body: &str) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    let mut rest = body.trim();
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<JsonCall<'_>>();
        calls.push(values.next()?.ok()?.into_call()?);
        rest = rest[values.byte_offset()..].trim_start_matches([' ', '\t', '\n', '\r', ',', ';']);
    }
    (!calls.is_empty()).then_some(calls)
}

/// As [`parse`], where no marker says that it is a call: it must be of tools that there are.
pub(in crate::answer) fn parse_bare(body: &str, tools: &Tools) -> Option<Vec<ToolCall>> {
    parse(body).filter(|calls| calls.iter().all(|it| tools.has(&it.name)))
}

/// Whether `text`, which begins with a brace, can be the beginning of what [`parse_bare`] takes.
pub(in crate::answer) fn may_be_bare(text: &str) -> bool {
    const KEYS: [&str; 4] = ["\"name\"", "\"parameters\"", "\"type\"", "\"id\""];
    let key = text.trim_start().strip_prefix('{').map(str::trim_start);
    key.is_some_and(|key| KEYS.iter().any(|it| it.starts_with(key) || key.starts_with(it)))
}

/// A list of JSON objects.
pub(in crate::answer) fn parse_list(body: &str) -> Option<Vec<ToolCall>> {
    let calls: Vec<JsonCall<'_>> = serde_json::from_str(body.trim()).ok()?;
    calls.into_iter().map(JsonCall::into_call).collect()
}
