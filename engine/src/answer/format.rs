//! How a model marks the parts of its answers, found out from its chat template and its vocabulary, never from its name.

use super::{
    AnswerParser,
    markers::{
        ARGS, BRACKET_THINK, BRACKET_THINK_END, CALL, CALL_BEGIN, CALL_END, CALL_ID, CALL_LIST,
        CALL_SEPARATOR, CALLS_BEGIN, CALLS_END, CHANNEL, CONSTRAIN, END, FUNCTION, FUNCTION_END, KEY,
        KEY_END, Lexeme, Lexer, MESSAGE, Marker, PYTHON_TAG, QUOTE, RETURN, START, THINK, THINK_END,
        TOOL_CALL, TOOL_CALL_END, TOOL_CALLS, TURNED_CALL, TURNED_CALL_END, TURNED_CHANNEL,
        TURNED_CHANNEL_END, VALUE, VALUE_END,
    },
};
use crate::{
    chat_template::{ChatTemplate, Conversation, Serde, Value},
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
    /// `[THINK]…[/THINK]`: Mistral.
    BracketThink,
    /// `<|channel>thought…<channel|>`: Gemma 4.
    Channel,
    /// A channel of its own: Harmony.
    Harmony,
}

impl ReasoningForm {
    /// What begins reasoning and what ends it, where one marker does.
    pub(super) fn tags(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Think => Some((THINK, THINK_END)),
            Self::BracketThink => Some((BRACKET_THINK, BRACKET_THINK_END)),
            Self::Channel => Some((TURNED_CHANNEL, TURNED_CHANNEL_END)),
            Self::None | Self::Harmony => None,
        }
    }

    fn markers(self) -> Vec<&'static str> {
        match self {
            Self::Harmony => vec![START, CHANNEL, CONSTRAIN, MESSAGE, END, CALL, RETURN],
            _ => self.tags().into_iter().flat_map(<[_; 2]>::from).collect(),
        }
    }
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
    /// `NAME<arg_key>KEY</arg_key><arg_value>…` in `<tool_call>…</tool_call>`: GLM 4.
    Glm,
    /// A list of JSON after `<|tool_call|>`: Granite 3.
    Granite,
    /// JSON alone or after `<|python_tag|>`: Llama 3.
    Llama,
    /// `[TOOL_CALLS]`, and a list or `name[ARGS]{…}`: Mistral.
    Mistral,
    /// `<｜tool▁calls▁begin｜>`, and calls with marks around and within: DeepSeek V3, R1.
    DeepSeek,
    /// `<|tool_call>call:NAME{KEY:VALUE,…}<tool_call|>`: Gemma 4.
    Gemma,
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
        } else {
            let forms = [
                ReasoningForm::Channel,
                ReasoningForm::BracketThink,
                ReasoningForm::Think,
            ];
            let tags = forms.iter().filter_map(|form| Some((form, form.tags()?)));
            let mut said = tags.clone().filter(|(_, (_, end))| says(&[end]));
            let mut in_vocabulary = tags.filter(|(_, (begin, end))| has(&[begin, end]));
            let found = said.next().or_else(|| in_vocabulary.next());
            found.map_or(ReasoningForm::None, |(form, _)| *form)
        };
        let calls = if is_harmony {
            CallForm::Harmony
        } else if let Some(example) = chat.and_then(example_call) {
            CallForm::of_example(&example)
        } else {
            let forms = CallForm::BY_MARKERS.iter();
            let mut said = forms.clone().filter(|(_, markers)| says(markers));
            let mut in_vocabulary = forms.filter(|(_, markers)| has(markers));
            let found = said.next().or_else(|| in_vocabulary.next());
            found.map_or(CallForm::None, |(form, _)| *form)
        };
        let spellings = reasoning
            .markers()
            .into_iter()
            .chain(calls.markers().iter().copied());
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
            form if self.parser(tokenizer, prompt, &[]).is_reasoning() => match form.tags() {
                // Blank lines as in the templates.
                Some((THINK, end)) => format!("\n{end}\n\n"),
                Some((_, end)) => end.to_owned(),
                None => return Ok(()),
            },
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
    /// Markers that tell a form where no template writes a call. Those of one form may be in the vocabulary of another, so
    /// the order matters.
    const BY_MARKERS: [(Self, &'static [&'static str]); 7] = [
        (Self::DeepSeek, &[CALLS_BEGIN, CALL_BEGIN, CALL_SEPARATOR]),
        (Self::Gemma, &[TURNED_CALL, TURNED_CALL_END]),
        (Self::Glm, &[TOOL_CALL, TOOL_CALL_END, KEY, VALUE]),
        (Self::Hermes, &[TOOL_CALL, TOOL_CALL_END]),
        (Self::Mistral, &[TOOL_CALLS]),
        (Self::Llama, &[PYTHON_TAG]),
        (Self::Granite, &[CALL_LIST]),
    ];

    /// The form of a call that a template wrote.
    fn of_example(example: &str) -> Self {
        if example.contains(CALL_BEGIN) && example.contains(CALL_SEPARATOR) {
            return Self::DeepSeek;
        }
        if example.contains(&format!("{TURNED_CALL}call:{EXAMPLE_TOOL}{{")) {
            return Self::Gemma;
        }
        if example.contains(TOOL_CALLS) {
            return Self::Mistral;
        }
        if example.contains(CALL_LIST) {
            return Self::Granite;
        }
        if let Some((_, body)) = example.split_once(TOOL_CALL) {
            return match body.trim_start() {
                body if body.starts_with('{') => Self::Hermes,
                body if body.starts_with(FUNCTION) => Self::Functions,
                body if body.starts_with(EXAMPLE_TOOL) && body.contains(KEY) => Self::Glm,
                _ => Self::None,
            };
        }
        if example.contains(&format!(r#"{{"name": "{EXAMPLE_TOOL}", "parameters": {{"#)) {
            return Self::Llama;
        }
        Self::None
    }

    fn markers(self) -> &'static [&'static str] {
        match self {
            Self::None | Self::Harmony => &[],
            Self::Hermes => &[TOOL_CALL, TOOL_CALL_END],
            Self::Functions => &[TOOL_CALL, TOOL_CALL_END, FUNCTION, FUNCTION_END],
            Self::Glm => &[TOOL_CALL, TOOL_CALL_END, KEY, KEY_END, VALUE, VALUE_END],
            Self::Granite => &[CALL_LIST],
            Self::Llama => &[PYTHON_TAG],
            Self::Mistral => &[TOOL_CALLS, CALL_ID, ARGS],
            Self::DeepSeek => &[CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, CALL_SEPARATOR],
            Self::Gemma => &[TURNED_CALL, TURNED_CALL_END, QUOTE],
        }
    }
}

/// What a template writes where the model calls a tool; nothing if it leaves calls out, or refuses them. Some take arguments
/// only as an object and some only as its JSON, some leave out calls beside a text and some those beside none.
fn example_call(chat: &ChatTemplate) -> Option<String> {
    let arguments = serde_json::json!({"key": "value"});
    let as_text = serde_json::Value::from(arguments.to_string());
    let variants = [
        ("".into(), arguments.clone()),
        (serde_json::Value::Null, arguments),
        ("".into(), as_text.clone()),
        (serde_json::Value::Null, as_text),
    ];
    let mut examples = variants.into_iter().filter_map(|(content, arguments)| {
        let text = chat.render(&example_conversation(&content, &arguments)).ok()?;
        let (_, answer) = text.rsplit_once(EXAMPLE_QUESTION)?;
        answer.contains(EXAMPLE_TOOL).then(|| answer.to_owned())
    });
    examples.next()
}

fn example_conversation(content: &serde_json::Value, arguments: &serde_json::Value) -> Conversation {
    let conversation = serde_json::json!({
        "messages": [
            {"role": "user", "content": EXAMPLE_QUESTION},
            {"role": "assistant", "content": content, "tool_calls": [{
                "id": "a1B2c3D4e",
                "type": "function",
                "function": {"name": EXAMPLE_TOOL, "arguments": arguments},
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
        list.map(|it| Value::from(Serde(it))).collect()
    };
    Conversation {
        messages: values("messages"),
        tools: values("tools"),
        ..Conversation::default()
    }
}
