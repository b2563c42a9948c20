//! How a model marks the parts of its answers, found out from its chat template and its vocabulary, never from its name.

use super::{
    AnswerParser,
    markers::{
        ARGS, CALL, CALL_ID, CHANNEL, CONSTRAIN, END, FUNCTION, FUNCTION_END, Lexeme, Lexer, MESSAGE, Marker,
        PYTHON_TAG, RETURN, START, THINK, THINK_END, TOOL_CALL, TOOL_CALL_END, TOOL_CALLS,
    },
};
use crate::{
    chat_template::{ChatTemplate, Conversation, Value},
    error::EngineError,
    request::GeneratedToken,
    tokenizer::{Tokenizer, Utf8Stream},
};

/// Tokens at the end of a prompt among which the beginning of the answer is looked for.
const MAX_OPENING: usize = 64;

/// Tool and question of the conversation by which a template shows how it writes calls.
const EXAMPLE_TOOL: &str = "example_tool";
const EXAMPLE_QUESTION: &str = "An example question";

/// How a model marks the parts of its answers.
#[derive(Debug, Clone)]
pub struct AnswerFormat {
    reasoning: ReasoningForm,
    calls: CallForm,
    markers: Vec<Marker>,
}

/// How reasoning is told from the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasoningForm {
    /// It is not.
    None,
    /// `<think>…</think>`; the prompt may have the beginning.
    Think,
    /// A channel of its own: Harmony.
    Harmony,
}

/// How tools are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallForm {
    /// In no way that is known here.
    None,
    /// JSON in `<tool_call>…</tool_call>`: Hermes, Qwen, Granite 4.
    Hermes,
    /// `<function=NAME><parameter=KEY>…` in `<tool_call>…</tool_call>`: Qwen3-Coder.
    Functions,
    /// JSON alone or after `<|python_tag|>`: Llama 3.
    Llama,
    /// `[TOOL_CALLS]`, and a list or `name[ARGS]{…}`: Mistral.
    Mistral,
    /// A message to the tool: Harmony.
    Harmony,
}

impl AnswerFormat {
    /// The format of a model with this chat template and this vocabulary. The template writes a call, to see how; what it does
    /// not say, the vocabulary's special tokens do.
    pub fn new(chat: Option<&ChatTemplate>, tokenizer: &Tokenizer) -> Self {
        let source = chat.map_or("", ChatTemplate::source);
        let has = |spellings: &[&str]| spellings.iter().all(|it| tokenizer.special_token(it).is_some());
        let says = |spellings: &[&str]| spellings.iter().all(|it| source.contains(it));
        let is_harmony = says(&[CHANNEL, MESSAGE]) || has(&[START, CHANNEL, MESSAGE]);
        let reasoning = if is_harmony {
            ReasoningForm::Harmony
        } else if says(&[THINK_END]) || has(&[THINK, THINK_END]) {
            ReasoningForm::Think
        } else {
            ReasoningForm::None
        };
        let calls = if is_harmony {
            CallForm::Harmony
        } else if let Some(example) = chat.and_then(|chat| example_call(chat).ok().flatten()) {
            CallForm::of_example(&example)
        } else if has(&[TOOL_CALL, TOOL_CALL_END]) {
            CallForm::Hermes
        } else if has(&[TOOL_CALLS]) {
            CallForm::Mistral
        } else if has(&[PYTHON_TAG]) {
            CallForm::Llama
        } else {
            CallForm::None
        };
        let of_reasoning: &[_] = match reasoning {
            ReasoningForm::None => &[],
            ReasoningForm::Think => &[THINK, THINK_END],
            ReasoningForm::Harmony => &[START, CHANNEL, CONSTRAIN, MESSAGE, END, CALL, RETURN],
        };
        let of_calls: &[_] = match calls {
            CallForm::None | CallForm::Harmony => &[],
            CallForm::Hermes => &[TOOL_CALL, TOOL_CALL_END],
            CallForm::Functions => &[TOOL_CALL, TOOL_CALL_END, FUNCTION, FUNCTION_END],
            CallForm::Llama => &[PYTHON_TAG],
            CallForm::Mistral => &[TOOL_CALLS, CALL_ID, ARGS],
        };
        let spellings = of_reasoning.iter().chain(of_calls);
        Self {
            markers: spellings.map(|it| Marker::new(it, tokenizer)).collect(),
            reasoning,
            calls,
        }
    }

    /// How reasoning is told from the answer.
    pub fn reasoning(&self) -> ReasoningForm {
        self.reasoning
    }

    /// How tools are called.
    pub fn calls(&self) -> CallForm {
        self.calls
    }

    /// A parser for the answer to a prompt, which may have its beginning already. Calls are looked for if there are `tools`, as
    /// OpenAI's API has them.
    pub fn parser(&self, tokenizer: &Tokenizer, prompt: &[u32], tools: &[Value]) -> AnswerParser {
        AnswerParser::new(
            Lexer::new(self.markers.clone()),
            self,
            self.opening(tokenizer, prompt),
            tools,
        )
    }

    /// Appends to a prompt what leads from the place where the answer begins to its text, past reasoning.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn skip_reasoning(&self, tokenizer: &Tokenizer, prompt: &mut Vec<u32>) -> Result<(), EngineError> {
        let rest = match self.reasoning {
            ReasoningForm::Harmony => format!("{CHANNEL}final{MESSAGE}"),
            ReasoningForm::Think if self.parser(tokenizer, prompt, &[]).is_reasoning() => {
                format!("\n{THINK_END}\n\n")
            }
            _ => return Ok(()),
        };
        prompt.extend(tokenizer.encode(&rest, true)?);
        Ok(())
    }

    /// Tokens that mark parts of an answer: after one of them, what follows is not the text that was begun.
    pub fn marker_tokens(&self) -> impl Iterator<Item = u32> {
        self.markers.iter().filter_map(|it| it.token)
    }

    /// The end of a prompt, markers told from text.
    fn opening(&self, tokenizer: &Tokenizer, prompt: &[u32]) -> Vec<Lexeme> {
        let ids = &prompt[prompt.len().saturating_sub(MAX_OPENING)..];
        let (mut utf8, mut text) = (Utf8Stream::default(), String::new());
        let tokens = ids.iter().map(|&id| {
            utf8.push(tokenizer.token_bytes(id), &mut text);
            GeneratedToken {
                id,
                logprob: 0.0,
                text_end: text.len(),
                drafter: None,
            }
        });
        let tokens: Vec<_> = tokens.collect();
        let mut lexer = Lexer::new(self.markers.clone());
        let mut lexemes = lexer.push(&text, &tokens);
        lexemes.extend(lexer.finish());
        lexemes
    }
}

impl CallForm {
    /// The form of a call that a template wrote.
    fn of_example(example: &str) -> Self {
        if example.contains(TOOL_CALLS) {
            return Self::Mistral;
        }
        if let Some((_, body)) = example.split_once(TOOL_CALL) {
            return match body.trim_start() {
                body if body.starts_with('{') => Self::Hermes,
                body if body.starts_with(FUNCTION) => Self::Functions,
                _ => Self::None,
            };
        }
        if example.contains(&format!(r#"{{"name": "{EXAMPLE_TOOL}", "parameters": {{"#)) {
            return Self::Llama;
        }
        Self::None
    }
}

/// What a template writes where the model calls a tool; nothing if it leaves calls out.
fn example_call(chat: &ChatTemplate) -> Result<Option<String>, EngineError> {
    let conversation = serde_json::json!({
        "messages": [
            {"role": "user", "content": EXAMPLE_QUESTION},
            {"role": "assistant", "content": "", "tool_calls": [{
                "id": "a1B2c3D4e",
                "type": "function",
                "function": {"name": EXAMPLE_TOOL, "arguments": {"key": "value"}},
            }]},
        ],
        "tools": [{"type": "function", "function": {
            "name": EXAMPLE_TOOL,
            "description": "",
            "parameters": {"type": "object", "properties": {"key": {"type": "string", "description": ""}}, "required": []},
        }}],
    });
    let values = |key: &str| -> Vec<Value> {
        let list = conversation[key].as_array().into_iter().flatten();
        list.map(Value::from_serialize).collect()
    };
    let text = chat.render(&Conversation {
        messages: values("messages"),
        tools: values("tools"),
        ..Conversation::default()
    })?;
    let answer = text.rsplit_once(EXAMPLE_QUESTION).map(|(_, answer)| answer);
    Ok(answer.filter(|it| it.contains(EXAMPLE_TOOL)).map(str::to_owned))
}
