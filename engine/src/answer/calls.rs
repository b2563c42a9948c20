//! What stands between the markers of a call: the tool and its arguments, a file for each form that models write.
//!
//! All functions give `None` for what is not of their form to the last character; it is text then.

pub(super) mod deepseek;
pub(super) mod functions;
pub(super) mod gemma;
pub(super) mod glm;
pub(super) mod harmony;
pub(super) mod json;
pub(super) mod mistral;

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::chat_template::Value;

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

/// A value that is written without quotes, as JSON: as it stands if it is JSON and no text is wanted, else a string.
fn argument(value: &str, is_text: bool) -> String {
    let trimmed = value.trim();
    match trimmed {
        _ if is_text => quoted(value),
        "True" => "true".to_owned(),
        "False" => "false".to_owned(),
        "None" => "null".to_owned(),
        _ if serde_json::from_str::<&RawValue>(trimmed).is_ok() => trimmed.to_owned(),
        _ => quoted(value),
    }
}

/// A string in JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The JSON value that `text` begins with, and what follows it.
fn leading_json(text: &str) -> Option<(&str, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let value = values.next()?.ok()?.get();
    Some((value, &text[values.byte_offset()..]))
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
