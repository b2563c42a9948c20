//! The parts of an answer: reasoning, text and calls of tools, told apart while the answer is generated.
//!
//! Models write all three as one text, with markers between that differ from model to model ([`AnswerFormat`]). What a
//! parser gives depends on the answer alone, not on how it is cut into events, and nothing that was said is lost: what looked
//! like a call and was none comes back as text.

mod calls;
mod format;
mod markers;
mod parser;

use std::mem;

pub use format::{AnswerFormat, CallForm, ReasoningForm};
pub use parser::AnswerParser;

/// The next part of an answer, or more of the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerPart {
    /// What the model said to itself.
    Reasoning(String),
    /// What it said to the user.
    Text(String),
    /// All text so far was reasoning: its end came, and nothing had marked its beginning.
    TextWasReasoning,
    /// A tool to call.
    Call(ToolCall),
}

/// A tool that the model wants called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// What tells it from other calls, where the format has such a thing: in Mistral's.
    pub id: Option<String>,
    /// Name of the tool; perhaps none of those that were offered.
    pub name: String,
    /// Arguments: a JSON object, as the model wrote it where it wrote JSON.
    pub arguments: String,
}

/// A whole answer in its parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParsedAnswer {
    /// What the model said to itself.
    pub reasoning: String,
    /// What it said to the user.
    pub text: String,
    /// Tools to call, in order.
    pub calls: Vec<ToolCall>,
}

impl Extend<AnswerPart> for ParsedAnswer {
    fn extend<T: IntoIterator<Item = AnswerPart>>(&mut self, parts: T) {
        for part in parts {
            match part {
                AnswerPart::Reasoning(text) => self.reasoning.push_str(&text),
                AnswerPart::Text(text) => self.text.push_str(&text),
                AnswerPart::TextWasReasoning => self.reasoning.push_str(&mem::take(&mut self.text)),
                AnswerPart::Call(call) => self.calls.push(call),
            }
        }
    }
}
