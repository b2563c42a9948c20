//! What stands between the markers of a call: the tool and its arguments, in each of the forms that models write.
//!
//! All functions give `None` for what is not of their form to the last character; it is text then.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    ToolCall,
    markers::{ARGS, CALL_ID, FUNCTION, FUNCTION_END},
};
use crate::chat_template::Value;

const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";

/// The tools that a model was offered: what tells a call from other JSON, and text from numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Tools {
    /// By name: for each parameter, whether it takes a text.
    parameters: BTreeMap<String, BTreeMap<String, bool>>,
}

impl Tools {
    /// Takes tools as OpenAI's API has them.
    pub(super) fn new(tools: &[Value]) -> Self {
        let attribute = |value: &Value, name: &str| value.get_attr(name).ok().filter(|it| !it.is_undefined());
        let parameters = tools.iter().filter_map(|tool| {
            let function = attribute(tool, "function").unwrap_or_else(|| tool.clone());
            let name = attribute(&function, "name")?.as_str()?.to_owned();
            let properties = attribute(&function, "parameters").and_then(|it| attribute(&it, "properties"));
            let keys = properties.iter().flat_map(|it| it.try_iter().ok()).flatten();
            let parameters = keys.filter_map(|key| {
                let schema = properties.as_ref()?.get_item(&key).ok()?;
                let kind = attribute(&schema, "type");
                Some((
                    key.as_str()?.to_owned(),
                    kind.is_some_and(|it| it.as_str() == Some("string")),
                ))
            });
            Some((name, parameters.collect()))
        });
        Self {
            parameters: parameters.collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parameters.is_empty()
    }

    fn has(&self, name: &str) -> bool {
        self.parameters.contains_key(name)
    }

    fn takes_text(&self, name: &str, parameter: &str) -> bool {
        let parameters = self.parameters.get(name);
        parameters.and_then(|it| it.get(parameter)).is_some_and(|it| *it)
    }
}

/// A call as JSON, with the names that Hermes, Llama 3 and Mistral have for its parts.
#[derive(Deserialize)]
struct JsonCall<'a> {
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

/// What stands in `<tool_call>` and `</tool_call>`: JSON objects, or Qwen3-Coder's functions.
pub(super) fn parse_tagged(body: &str, tools: &Tools) -> Option<Vec<ToolCall>> {
    if body.trim_start().starts_with(FUNCTION) {
        parse_functions(body, tools)
    } else {
        parse_json_calls(body)
    }
}

/// One or more JSON objects, with blanks, commas or semicolons between.
pub(super) fn parse_json_calls(body: &str) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    let mut rest = body.trim();
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<JsonCall<'_>>();
        calls.push(values.next()?.ok()?.into_call()?);
        rest = rest[values.byte_offset()..].trim_start_matches([' ', '\t', '\n', '\r', ',', ';']);
    }
    (!calls.is_empty()).then_some(calls)
}

/// As [`parse_json_calls`], where no marker says that it is a call: it must be of tools that there are.
pub(super) fn parse_bare_calls(body: &str, tools: &Tools) -> Option<Vec<ToolCall>> {
    parse_json_calls(body).filter(|calls| calls.iter().all(|it| tools.has(&it.name)))
}

/// Whether `text`, which begins with a brace, can be the beginning of what [`parse_bare_calls`] takes.
pub(super) fn may_be_bare_call(text: &str) -> bool {
    const KEYS: [&str; 4] = ["\"name\"", "\"parameters\"", "\"type\"", "\"id\""];
    let key = text.trim_start().strip_prefix('{').map(str::trim_start);
    key.is_some_and(|key| KEYS.iter().any(|it| it.starts_with(key) || key.starts_with(it)))
}

/// What follows `[TOOL_CALLS]`: a list of JSON objects, or `name[ARGS]{…}` with or without `[CALL_ID]id` in between.
pub(super) fn parse_mistral(body: &str) -> Option<Vec<ToolCall>> {
    let body = body.trim();
    if body.starts_with('[') && !body.starts_with(ARGS) {
        let calls: Vec<JsonCall<'_>> = serde_json::from_str(body).ok()?;
        return calls.into_iter().map(JsonCall::into_call).collect();
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

/// The body of a Harmony message to `recipient`.
pub(super) fn parse_harmony(recipient: &str, body: &str) -> Option<Vec<ToolCall>> {
    Some(vec![ToolCall {
        id: None,
        name: checked_name(recipient.strip_prefix("functions.").unwrap_or(recipient))?,
        arguments: object(body)?,
    }])
}

/// Functions as Qwen3-Coder writes them: `<function=NAME>`, `<parameter=KEY>` for each argument, `</function>`.
fn parse_functions(body: &str, tools: &Tools) -> Option<Vec<ToolCall>> {
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
                json(key.trim()),
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

/// A value as JSON: as it stands if it is JSON and no text is wanted, else a string.
fn argument(value: &str, is_text: bool) -> String {
    let trimmed = value.trim();
    match trimmed {
        _ if is_text => json(value),
        "True" => "true".to_owned(),
        "False" => "false".to_owned(),
        "None" => "null".to_owned(),
        _ if serde_json::from_str::<&RawValue>(trimmed).is_ok() => trimmed.to_owned(),
        _ => json(value),
    }
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The arguments as JSON, which must be an object. Some models write it into a string.
fn object(arguments: &str) -> Option<String> {
    let arguments = arguments.trim();
    if arguments.starts_with('"') {
        let inner: String = serde_json::from_str(arguments).ok()?;
        return inner.trim_start().starts_with('{').then(|| object(&inner))?;
    }
    let is_object = arguments.starts_with('{') && serde_json::from_str::<&RawValue>(arguments).is_ok();
    is_object.then(|| arguments.to_owned())
}

fn checked_name(name: &str) -> Option<String> {
    let name = name.trim();
    let is_name =
        !name.is_empty() && !name.contains(|it: char| it.is_whitespace() || "<>{}[]\"".contains(it));
    is_name.then(|| name.to_owned())
}
