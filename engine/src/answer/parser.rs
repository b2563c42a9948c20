//! One answer, taken apart piece by piece: who speaks, and what is kept until its end tells what it is.

use std::mem;

use super::{
    AnswerFormat, AnswerPart, CallForm, ParsedAnswer, ReasoningForm,
    calls::{Tools, deepseek, functions, gemma, glm, harmony, json, mistral},
    markers::{
        CALL, CALL_LIST, CALLS_BEGIN, CALLS_END, CHANNEL, END, FUNCTION, FUNCTION_END, Lexeme, Lexer,
        MESSAGE, PYTHON_TAG, RETURN, START, TOOL_CALL, TOOL_CALL_END, TOOL_CALLS, TURNED_CALL,
        TURNED_CALL_END,
    },
};
use crate::{
    chat_template::Value,
    engine::Answer,
    request::{FinishReason, GeneratedToken},
};

/// Tells the parts of one answer apart; [`AnswerFormat::parser`] makes it.
///
/// Blanks between the parts belong to none of them. Where the model goes on with its text, or its reasoning, after another
/// part, a line break stands between.
#[derive(Debug)]
pub struct AnswerParser {
    lexer: Lexer,
    reasoning: ReasoningForm,
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
    /// After `<|channel>`: the name of the channel is not said.
    Channel {
        /// As much as came of it.
        name: String,
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
    /// After `<|tool_call|>`.
    List,
    /// `[TOOL_CALLS]` up to the next.
    Mistral,
    /// `<｜tool▁calls▁begin｜>` up to `<｜tool▁calls▁end｜>`.
    DeepSeek,
    /// `<|tool_call>` up to `<tool_call|>`.
    Gemma,
    /// A message to somebody else than the user.
    Message { recipient: String },
}

impl AnswerParser {
    pub(super) fn new(lexer: Lexer, format: &AnswerFormat, opening: Vec<Lexeme>, tools: &[Value]) -> Self {
        let mut parser = Self {
            lexer,
            reasoning: format.reasoning(),
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
        if parser.reasoning == ReasoningForm::Harmony {
            parser.open_message(opening);
        } else {
            parser.open_reasoning(opening);
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
        self.end_channel_name();
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
        matches!(
            self.state,
            State::Speech(Voice::Reasoning) | State::Channel { .. }
        )
    }

    /// Starts in the middle of reasoning if the prompt ends with its beginning.
    fn open_reasoning(&mut self, mut opening: Vec<Lexeme>) {
        let begins = |it: &Lexeme| matches!((it, self.reasoning.tags()), (Lexeme::Marker(it), Some((begin, _))) if *it == begin);
        let Some(begin) = opening.iter().rposition(begins) else {
            return;
        };
        let is_opening = |it: &Lexeme| match it {
            Lexeme::Text(text) => {
                text.trim().is_empty()
                    || (self.reasoning == ReasoningForm::Channel && THOUGHT.starts_with(text))
            }
            Lexeme::Marker(_) => false,
        };
        let rest = opening.split_off(begin + 1);
        if rest.iter().all(is_opening) {
            self.begin_reasoning();
            for lexeme in rest {
                self.take(lexeme);
            }
        }
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
            State::Channel { .. } => self.take_in_channel(lexeme),
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
        let (begin, end) = self.reasoning.tags().unzip();
        let may_reason = match voice {
            Voice::Text => is_token || !self.has_text,
            // The prompt had the beginning already.
            Voice::Reasoning => !self.has_reasoning,
        };
        match marker {
            _ if Some(marker) == begin && may_reason => self.begin_reasoning(),
            _ if Some(marker) == end && voice == Voice::Reasoning => self.begin(Voice::Text),
            _ if Some(marker) == end && !self.has_reasoning => {
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
            CALL_LIST if calls => self.open_call(Block::List, voice, CALL_LIST.to_owned()),
            TOOL_CALLS if calls => self.open_call(Block::Mistral, voice, TOOL_CALLS.to_owned()),
            CALLS_BEGIN if calls => self.open_call(Block::DeepSeek, voice, CALLS_BEGIN.to_owned()),
            TURNED_CALL if calls => self.open_call(Block::Gemma, voice, TURNED_CALL.to_owned()),
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
        self.calls == CallForm::Llama && is_first && !self.tools.is_empty() && json::may_be_bare(text)
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
                if *form == Block::Bare && !json::may_be_bare(raw) {
                    self.end_call();
                }
                return;
            }
            Lexeme::Marker(marker) => *marker,
        };
        match (form, marker) {
            (Block::Tagged, TOOL_CALL_END)
            | (Block::Function, FUNCTION_END)
            | (Block::DeepSeek, CALLS_END)
            | (Block::Gemma, TURNED_CALL_END) => {
                raw.push_str(marker);
                self.end_call();
            }
            // The end is lacking.
            (Block::Tagged, TOOL_CALL) | (Block::Gemma, TURNED_CALL) if self.lexer.is_token(marker) => {
                self.end_call();
                self.take(lexeme);
            }
            (Block::Mistral, TOOL_CALLS) | (Block::List, CALL_LIST) => {
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
            Block::Tagged => {
                let body = body.strip_suffix(TOOL_CALL_END).unwrap_or(body);
                match self.calls {
                    CallForm::Glm => glm::parse(body, &self.tools),
                    _ if body.trim_start().starts_with(FUNCTION) => functions::parse(body, &self.tools),
                    _ => json::parse(body),
                }
            }
            Block::Function => functions::parse(body, &self.tools),
            Block::Python => json::parse(body),
            Block::Bare => json::parse_bare(body, &self.tools),
            Block::List => json::parse_list(body),
            Block::Mistral => mistral::parse(body),
            Block::DeepSeek => deepseek::parse(body),
            Block::Gemma => gemma::parse(body),
            Block::Message { recipient } => harmony::parse(recipient, body),
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

    fn take_in_channel(&mut self, lexeme: Lexeme) {
        let State::Channel { name } = &mut self.state else {
            return;
        };
        match lexeme {
            Lexeme::Text(text) => {
                name.push_str(&text);
                if !THOUGHT.starts_with(name.as_str()) {
                    self.end_channel_name();
                }
            }
            marker => {
                self.end_channel_name();
                self.take(marker);
            }
        }
    }

    /// Ends the name of a channel, if there is one. It is not said; what is there in its place is.
    fn end_channel_name(&mut self) {
        if let State::Channel { name } = &mut self.state {
            let said = mem::take(name);
            self.begin(Voice::Reasoning);
            let said = match said.strip_prefix(THOUGHT) {
                Some(said) => said,
                None if THOUGHT.trim_end() == said => "",
                None => &said,
            };
            self.say(Voice::Reasoning, said);
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

    fn begin_reasoning(&mut self) {
        self.begin(Voice::Reasoning);
        if self.reasoning == ReasoningForm::Channel {
            self.state = State::Channel { name: String::new() };
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

/// The name of the channel that Gemma 4 reasons in, and the end of its line.
const THOUGHT: &str = "thought\n";

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
