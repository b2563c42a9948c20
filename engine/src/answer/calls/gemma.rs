//! Calls of Gemma 4: a notation like JSON's, with keys as they are and strings in marks of their own.

use serde_json::value::RawValue;

use super::{checked_name, quoted};
use crate::answer::{
    ToolCall,
    markers::{QUOTE, TURNED_CALL_END},
};

/// What stands before the name of the tool.
const CALL: &str = "call:";

/// Most objects and lists within each other, as serde_json has it.
const MAX_DEPTH: usize = 127;

/// What follows `<|tool_call>`: `call:NAME{KEY:VALUE,…}`.
pub(in crate::answer) fn parse(body: &str) -> Option<Vec<ToolCall>> {
    let body = body.strip_suffix(TURNED_CALL_END).unwrap_or(body);
    let call = body.trim().strip_prefix(CALL)?;
    let (name, arguments) = call.split_at(call.find('{')?);
    let mut reader = Reader {
        rest: arguments,
        json: String::new(),
    };
    reader.value(0)?;
    reader.rest.is_empty().then_some(())?;
    Some(vec![ToolCall {
        id: None,
        name: checked_name(name)?,
        arguments: reader.json,
    }])
}

/// Reads values from the front of `rest`, and writes them as JSON.
struct Reader<'a> {
    rest: &'a str,
    json: String,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Option<()> {
        if self.rest.starts_with(QUOTE) {
            self.string()
        } else if self.skip("{") {
            self.elements('{', '}', depth)
        } else if self.skip("[") {
            self.elements('[', ']', depth)
        } else {
            self.literal()
        }
    }

    /// What follows the opening bracket of an object or a list, up to the closing one.
    fn elements(&mut self, open: char, close: char, depth: usize) -> Option<()> {
        if depth == MAX_DEPTH {
            return None;
        }
        self.json.push(open);
        let mut is_first = true;
        while !self.skip(close.encode_utf8(&mut [0; 4])) {
            if !is_first {
                self.skip(",").then_some(())?;
                self.json.push_str(", ");
            }
            is_first = false;
            if open == '{' {
                self.key()?;
            }
            self.value(depth + 1)?;
        }
        self.json.push(close);
        Some(())
    }

    fn key(&mut self) -> Option<()> {
        if self.rest.starts_with(QUOTE) {
            self.string()?;
            self.skip(":").then_some(())?;
        } else {
            let (key, after) = self.rest.split_once(':')?;
            let is_key = !key.trim().is_empty() && !key.contains(['{', '}', '[', ']', ',', '"']);
            is_key.then_some(())?;
            self.json.push_str(&quoted(key.trim()));
            self.rest = after.trim_start();
        }
        self.json.push_str(": ");
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        let (text, after) = self.rest.strip_prefix(QUOTE)?.split_once(QUOTE)?;
        self.json.push_str(&quoted(text));
        self.rest = after.trim_start();
        Some(())
    }

    /// A number, or a word that JSON has.
    fn literal(&mut self) -> Option<()> {
        let end = self.rest.find([',', '}', ']'])?;
        let literal = match self.rest[..end].trim() {
            // As the template writes it.
            "None" => "null",
            literal => literal,
        };
        let is_json =
            !literal.starts_with(['"', '{', '[']) && serde_json::from_str::<&RawValue>(literal).is_ok();
        is_json.then_some(())?;
        self.json.push_str(literal);
        self.rest = &self.rest[end..];
        Some(())
    }

    /// Passes over a mark and the blanks behind it, if it comes next.
    fn skip(&mut self, mark: &str) -> bool {
        let after = self.rest.strip_prefix(mark);
        if let Some(after) = after {
            self.rest = after.trim_start();
        }
        after.is_some()
    }
}
