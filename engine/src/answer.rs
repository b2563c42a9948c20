//! The parts of an answer: reasoning, text and calls of tools, told apart while the answer is generated.
//!
//! Models write all three as one text, with markers between that differ from model to model ([`AnswerFormat`]). What a
//! parser gives depends on the answer alone, not on how it is cut into events, and nothing that was said is lost: what looked
//! like a call and was none comes back as text.

mod calls;
mod format;
mod markers;

use std::mem;

pub use format::{AnswerFormat, CallForm, ReasoningForm};

use crate::{
    chat_template::Value,
    engine::Answer,
    request::{FinishReason, GeneratedToken},
};
use calls::{
    Tools, may_be_bare_call, parse_bare_calls, parse_harmony, parse_json_calls, parse_mistral, parse_tagged,
};
use markers::{
    CALL, CHANNEL, END, FUNCTION, FUNCTION_END, Lexeme, Lexer, MESSAGE, PYTHON_TAG, RETURN, START, THINK,
    THINK_END, TOOL_CALL, TOOL_CALL_END, TOOL_CALLS,
};

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

/// Tells the parts of one answer apart; [`AnswerFormat::parser`] makes it.
///
/// Blanks between the parts belong to none of them. Where the model goes on with its text, or its reasoning, after another
/// part, a line break stands between.
#[derive(Debug)]
pub struct AnswerParser {
    lexer: Lexer,
    calls: CallForm,
    tools: Tools,
    state: State,
    /// Blanks at the end of what was said: part of it if more follows.
    blanks: String,
    /// Whether what is said next begins a part, after another one.
    begins: bool,
    /// Whether the last call was without the tags around it; there may be the closing one.
    lacks_end: bool,
    has_reasoning: bool,
    has_text: bool,
    parts: Vec<AnswerPart>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voice {
    Reasoning,
    Text,
}

#[derive(Debug)]
enum State {
    /// The model talks.
    Speech(Voice),
    /// It may be calling a tool: what it says is kept until the end tells.
    Call {
        form: Block,
        /// What it counts for if it is no call.
        voice: Voice,
        /// All of it, markers spelled.
        raw: String,
        /// Where the body begins in `raw`.
        body: usize,
    },
    /// Between two messages, or at the head of one: Harmony.
    Head {
        /// Whether a marker was there, so that a role or a channel follows and no text.
        is_marked: bool,
        /// What was there, markers spelled.
        raw: String,
    },
}

/// What a call is written in.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Block {
    /// `<tool_call>` up to `</tool_call>`.
    Tagged,
    /// `<function=` up to `</function>`, for want of the tags around it.
    Function,
    /// After `<|python_tag|>`.
    Python,
    /// JSON that nothing marks.
    Bare,
    /// `[TOOL_CALLS]` up to the next.
    Mistral,
    /// A message to somebody else than the user.
    Message { recipient: String },
}

impl AnswerParser {
    fn new(lexer: Lexer, format: &AnswerFormat, opening: Vec<Lexeme>, tools: &[Value]) -> Self {
        let mut parser = Self {
            lexer,
            calls: format.calls(),
            tools: Tools::new(tools),
            state: State::Speech(Voice::Text),
            blanks: String::new(),
            begins: false,
            lacks_end: false,
            has_reasoning: false,
            has_text: false,
            parts: Vec::new(),
        };
        match format.reasoning() {
            ReasoningForm::None => {}
            ReasoningForm::Think => {
                let is_blank = |it: &&Lexeme| matches!(it, Lexeme::Text(text) if text.trim().is_empty());
                if opening.iter().rev().find(|it| !is_blank(it)) == Some(&Lexeme::Marker(THINK)) {
                    parser.begin(Voice::Reasoning);
                }
            }
            ReasoningForm::Harmony => parser.open_message(opening),
        }
        parser
    }

    /// Takes what an [`Event::Text`](crate::request::Event::Text) brought; gives what is certain by now.
    pub fn push(&mut self, text: &str, tokens: &[GeneratedToken]) -> Vec<AnswerPart> {
        for lexeme in self.lexer.push(text, tokens) {
            self.take(lexeme);
        }
        mem::take(&mut self.parts)
    }

    /// Takes the end of the answer, and gives all that was kept back.
    pub fn finish(mut self, reason: &FinishReason) -> Vec<AnswerPart> {
        let mut lexemes = self.lexer.finish();
        if let FinishReason::StopToken(token) = reason {
            lexemes.extend(self.lexer.marker_of(*token).map(Lexeme::Marker));
        }
        for lexeme in lexemes {
            self.take(lexeme);
        }
        self.end_call();
        if !self.begins && !self.is_reasoning() {
            let blanks = mem::take(&mut self.blanks);
            self.give(Voice::Text, blanks);
        }
        self.parts
    }

    /// The parts of a whole answer.
    pub fn parse(mut self, answer: &Answer) -> ParsedAnswer {
        let mut parsed = ParsedAnswer::default();
        parsed.extend(self.push(&answer.text, &answer.tokens));
        parsed.extend(self.finish(&answer.finish.reason));
        parsed
    }

    /// Whether the model is reasoning, as far as is certain.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.state, State::Speech(Voice::Reasoning))
    }

    /// Starts where a prompt ends that may hold the head of the answer, or more.
    fn open_message(&mut self, opening: Vec<Lexeme>) {
        self.state = State::Head {
            is_marked: false,
            raw: String::new(),
        };
        let Some(start) = opening.iter().rposition(|it| *it == Lexeme::Marker(START)) else {
            return;
        };
        for lexeme in opening.into_iter().skip(start) {
            self.take(lexeme);
        }
        // The role was said, and what follows may be anything.
        if let State::Head { is_marked, raw } = &mut self.state
            && !raw.contains(CHANNEL)
        {
            *is_marked = false;
            raw.clear();
        }
        (self.parts, self.blanks) = (Vec::new(), String::new());
        (self.begins, self.has_reasoning, self.has_text) = (false, false, false);
    }

    fn take(&mut self, lexeme: Lexeme) {
        match self.state {
            State::Speech(voice) => self.take_speech(voice, lexeme),
            State::Call { .. } => self.take_in_call(lexeme),
            State::Head { .. } => self.take_in_head(lexeme),
        }
    }

    fn take_speech(&mut self, voice: Voice, lexeme: Lexeme) {
        let marker = match lexeme {
            Lexeme::Text(text) if self.may_open_bare_call(voice, &text) => {
                self.open_call(Block::Bare, voice, String::new());
                return self.take_in_call(Lexeme::Text(text));
            }
            Lexeme::Text(text) => return self.say(voice, &text),
            Lexeme::Marker(marker) => marker,
        };
        let is_token = self.lexer.is_token(marker);
        let calls = !self.tools.is_empty() && (voice == Voice::Text || is_token);
        match marker {
            THINK if voice == Voice::Text && (is_token || !self.has_text) => self.begin(Voice::Reasoning),
            // The prompt had it already.
            THINK if voice == Voice::Reasoning && !self.has_reasoning => {}
            THINK_END if voice == Voice::Reasoning => self.begin(Voice::Text),
            THINK_END if !self.has_reasoning => {
                if mem::take(&mut self.has_text) {
                    self.parts.push(AnswerPart::TextWasReasoning);
                }
                self.has_reasoning = true;
                self.begin(Voice::Text);
            }
            TOOL_CALL if calls => self.open_call(Block::Tagged, voice, TOOL_CALL.to_owned()),
            FUNCTION if calls => {
                self.open_call(Block::Function, voice, String::new());
                self.take_in_call(Lexeme::Marker(FUNCTION));
            }
            TOOL_CALL_END if self.begins && self.lacks_end => {}
            PYTHON_TAG if calls => self.open_call(Block::Python, voice, PYTHON_TAG.to_owned()),
            TOOL_CALLS if calls => self.open_call(Block::Mistral, voice, TOOL_CALLS.to_owned()),
            END | RETURN | CALL | START | CHANNEL => {
                self.state = State::Head {
                    is_marked: false,
                    raw: String::new(),
                };
                self.take_in_head(Lexeme::Marker(marker));
            }
            _ => self.say(voice, marker),
        }
    }

    /// Whether text at this place may be the beginning of a call that nothing marks: an answer is such calls or none.
    fn may_open_bare_call(&self, voice: Voice, text: &str) -> bool {
        let is_first = voice == Voice::Text && !self.has_text;
        self.calls == CallForm::Llama && is_first && !self.tools.is_empty() && may_be_bare_call(text)
    }

    /// `raw` is what marks the call.
    fn open_call(&mut self, form: Block, voice: Voice, raw: String) {
        self.state = State::Call {
            form,
            voice,
            body: raw.len(),
            raw,
        };
    }

    fn take_in_call(&mut self, lexeme: Lexeme) {
        let State::Call { form, raw, .. } = &mut self.state else {
            return;
        };
        let marker = match &lexeme {
            Lexeme::Text(text) => {
                raw.push_str(text);
                if *form == Block::Bare && !may_be_bare_call(raw) {
                    self.end_call();
                }
                return;
            }
            Lexeme::Marker(marker) => *marker,
        };
        match (form, marker) {
            (Block::Tagged, TOOL_CALL_END) | (Block::Function, FUNCTION_END) => {
                raw.push_str(marker);
                self.end_call();
            }
            // The end is lacking.
            (Block::Tagged, TOOL_CALL) if self.lexer.is_token(marker) => {
                self.end_call();
                self.take(lexeme);
            }
            (Block::Mistral, TOOL_CALLS) => {
                self.end_call();
                self.take(lexeme);
            }
            (Block::Message { .. }, END | CALL | RETURN | START) => {
                self.end_call();
                self.take(lexeme);
            }
            _ => raw.push_str(marker),
        }
    }

    /// Ends what may be a call, if there is one: gives the call, or the text.
    fn end_call(&mut self) {
        let State::Call {
            form,
            voice,
            raw,
            body,
        } = &mut self.state
        else {
            return;
        };
        let (voice, raw) = (*voice, mem::take(raw));
        let body = &raw[*body..];
        let calls = match form {
            _ if self.tools.is_empty() => None,
            Block::Tagged => parse_tagged(body.strip_suffix(TOOL_CALL_END).unwrap_or(body), &self.tools),
            Block::Function => parse_tagged(body, &self.tools),
            Block::Python => parse_json_calls(body),
            Block::Bare => parse_bare_calls(body, &self.tools),
            Block::Mistral => parse_mistral(body),
            Block::Message { recipient } => parse_harmony(recipient, body),
        };
        self.lacks_end = *form == Block::Function;
        match calls {
            Some(calls) => {
                self.begin(Voice::Text);
                self.parts.extend(calls.into_iter().map(AnswerPart::Call));
            }
            None => {
                self.state = State::Speech(voice);
                self.say(voice, &raw);
            }
        }
    }

    fn take_in_head(&mut self, lexeme: Lexeme) {
        let State::Head { is_marked, raw } = &mut self.state else {
            return;
        };
        match lexeme {
            Lexeme::Marker(marker @ (START | END | RETURN | CALL)) => {
                *is_marked = marker == START;
                raw.clear();
            }
            Lexeme::Marker(MESSAGE) => {
                let head = mem::take(raw);
                match recipient(&head) {
                    Some(recipient) => {
                        let form = Block::Message {
                            recipient: recipient.to_owned(),
                        };
                        self.open_call(form, Voice::Text, head.clone() + MESSAGE);
                    }
                    None if is_analysis(&head) => self.begin(Voice::Reasoning),
                    None => self.begin(Voice::Text),
                }
            }
            Lexeme::Marker(marker) => {
                *is_marked = true;
                raw.push_str(marker);
            }
            Lexeme::Text(text) => {
                raw.push_str(&text);
                let said = raw.trim_start();
                if !*is_marked && !said.starts_with(TO) && !TO.starts_with(said) {
                    let raw = mem::take(raw);
                    self.begin(Voice::Text);
                    self.say(Voice::Text, &raw);
                }
            }
        }
    }

    /// Begins another part.
    fn begin(&mut self, voice: Voice) {
        self.state = State::Speech(voice);
        self.blanks.clear();
        self.begins = true;
    }

    fn say(&mut self, voice: Voice, text: &str) {
        let without_blanks = text.trim_end();
        if without_blanks.is_empty() {
            self.blanks.push_str(text);
            return;
        }
        let mut said = mem::take(&mut self.blanks) + without_blanks;
        self.blanks.push_str(&text[without_blanks.len()..]);
        let has_spoken = match voice {
            Voice::Reasoning => &mut self.has_reasoning,
            Voice::Text => &mut self.has_text,
        };
        let has_spoken = mem::replace(has_spoken, true);
        if mem::take(&mut self.begins) {
            // Blank lines go, indentation stays.
            let n_blank = said.len() - said.trim_start().len();
            let n_lines = said[..n_blank].rfind('\n').map_or(0, |at| at + 1);
            said.replace_range(..n_lines, if has_spoken { "\n" } else { "" });
        }
        self.give(voice, said);
    }

    fn give(&mut self, voice: Voice, text: String) {
        match (voice, self.parts.last_mut()) {
            _ if text.is_empty() => {}
            (Voice::Reasoning, Some(AnswerPart::Reasoning(last)))
            | (Voice::Text, Some(AnswerPart::Text(last))) => {
                last.push_str(&text);
            }
            (Voice::Reasoning, _) => self.parts.push(AnswerPart::Reasoning(text)),
            (Voice::Text, _) => self.parts.push(AnswerPart::Text(text)),
        }
    }
}

/// What stands before the recipient in the head of a Harmony message.
const TO: &str = "to=";

/// Whom a message is for, if not the user.
fn recipient(head: &str) -> Option<&str> {
    let (_, after) = head.split_once(TO)?;
    let recipient = first_word(after);
    (!matches!(recipient, "" | "user" | "all")).then_some(recipient)
}

fn is_analysis(head: &str) -> bool {
    head.split_once(CHANNEL)
        .is_some_and(|(_, after)| first_word(after.trim_start()) == "analysis")
}

fn first_word(text: &str) -> &str {
    let is_end = |it: char| it.is_whitespace() || it == '<';
    text.split(is_end).next().unwrap_or_default()
}
