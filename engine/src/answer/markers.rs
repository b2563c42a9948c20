//! Markers of answers: their spellings, and finding them in text and tokens that arrive in pieces.

use std::{collections::VecDeque, mem};

use crate::{request::GeneratedToken, stop::overlap, tokenizer::Tokenizer};

// Reasoning.
pub(super) const THINK: &str = "<think>";
pub(super) const THINK_END: &str = "</think>";

// Reasoning of Mistral.
pub(super) const BRACKET_THINK: &str = "[THINK]";
pub(super) const BRACKET_THINK_END: &str = "[/THINK]";

// Reasoning and calls of Gemma 4.
pub(super) const TURNED_CHANNEL: &str = "<|channel>";
pub(super) const TURNED_CHANNEL_END: &str = "<channel|>";
pub(super) const TURNED_CALL: &str = "<|tool_call>";
pub(super) const TURNED_CALL_END: &str = "<tool_call|>";
pub(super) const QUOTE: &str = "<|\"|>";

// Calls of Hermes, Qwen and Granite, and the form within them that Qwen3-Coder writes.
pub(super) const TOOL_CALL: &str = "<tool_call>";
pub(super) const TOOL_CALL_END: &str = "</tool_call>";
pub(super) const FUNCTION: &str = "<function=";
pub(super) const FUNCTION_END: &str = "</function>";

// What GLM 4 writes within them.
pub(super) const KEY: &str = "<arg_key>";
pub(super) const KEY_END: &str = "</arg_key>";
pub(super) const VALUE: &str = "<arg_value>";
pub(super) const VALUE_END: &str = "</arg_value>";

// Calls of Granite 3.
pub(super) const CALL_LIST: &str = "<|tool_call|>";

// Calls of DeepSeek.
pub(super) const CALLS_BEGIN: &str = "<｜tool▁calls▁begin｜>";
pub(super) const CALLS_END: &str = "<｜tool▁calls▁end｜>";
pub(super) const CALL_BEGIN: &str = "<｜tool▁call▁begin｜>";
pub(super) const CALL_END: &str = "<｜tool▁call▁end｜>";
pub(super) const CALL_SEPARATOR: &str = "<｜tool▁sep｜>";

// Calls of Llama 3.
pub(super) const PYTHON_TAG: &str = "<|python_tag|>";

// Calls of Mistral.
pub(super) const TOOL_CALLS: &str = "[TOOL_CALLS]";
pub(super) const CALL_ID: &str = "[CALL_ID]";
pub(super) const ARGS: &str = "[ARGS]";

// Harmony, GPT-OSS's format. Source: OpenAI, "OpenAI Harmony Response Format".
pub(super) const START: &str = "<|start|>";
pub(super) const CHANNEL: &str = "<|channel|>";
pub(super) const CONSTRAIN: &str = "<|constrain|>";
pub(super) const MESSAGE: &str = "<|message|>";
pub(super) const END: &str = "<|end|>";
pub(super) const CALL: &str = "<|call|>";
pub(super) const RETURN: &str = "<|return|>";

/// A marker that a model may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) spelling: &'static str,
    /// Its token, if the vocabulary has one. Then nothing else is this marker: the same characters in ordinary tokens are
    /// text.
    pub(super) token: Option<u32>,
    /// Bytes of the answer's text that its token takes: those of the spelling, or none if it is a control token.
    token_bytes: usize,
}

impl Marker {
    pub(super) fn new(spelling: &'static str, tokenizer: &Tokenizer) -> Self {
        let token = tokenizer.special_token(spelling);
        Self {
            spelling,
            token,
            token_bytes: token.map_or(0, |id| tokenizer.token_bytes(id).len()),
        }
    }
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lexeme {
    /// Text with no marker in it, nor the end or the beginning of one.
    Text(String),
    /// A marker, by its spelling.
    Marker(&'static str),
}

/// Tells markers from text, however the text is cut.
#[derive(Debug)]
pub(super) struct Lexer {
    markers: Vec<Marker>,
    /// Text that came and was not given yet.
    text: String,
    /// Bytes of the answer before `text`.
    n_given: usize,
    /// Markers that came as tokens: where in the answer they begin and end.
    tokens: VecDeque<(usize, usize, &'static str)>,
}

impl Lexer {
    pub(super) fn new(markers: Vec<Marker>) -> Self {
        Self {
            markers,
            text: String::new(),
            n_given: 0,
            tokens: VecDeque::new(),
        }
    }

    /// The marker that is this token.
    pub(super) fn marker_of(&self, token: u32) -> Option<&'static str> {
        let marker = self.markers.iter().find(|it| it.token == Some(token));
        marker.map(|it| it.spelling)
    }

    /// Whether this marker is only ever a token.
    pub(super) fn is_token(&self, spelling: &str) -> bool {
        self.markers
            .iter()
            .any(|it| it.spelling == spelling && it.token.is_some())
    }

    /// Takes what an [`Event::Text`](crate::request::Event::Text) brought, and gives what is certain.
    pub(super) fn push(&mut self, text: &str, tokens: &[GeneratedToken]) -> Vec<Lexeme> {
        self.text.push_str(text);
        for token in tokens {
            if let Some(marker) = self.markers.iter().find(|it| it.token == Some(token.id)) {
                let end = token.text_end.max(self.n_given);
                let start = end.saturating_sub(marker.token_bytes).max(self.n_given);
                self.tokens.push_back((start, end, marker.spelling));
            }
        }
        self.give(false)
    }

    /// Gives the rest, as nothing follows. A marker whose text never came is not part of the answer.
    pub(super) fn finish(&mut self) -> Vec<Lexeme> {
        let lexemes = self.give(true);
        self.tokens.clear();
        lexemes
    }

    fn give(&mut self, is_last: bool) -> Vec<Lexeme> {
        let mut lexemes = Vec::new();
        while let Some(&(start, end, spelling)) = self.tokens.front() {
            if self.n_given + self.text.len() < end {
                break;
            }
            self.tokens.pop_front();
            self.give_text(start, true, &mut lexemes);
            self.text.drain(..end - self.n_given);
            self.n_given = end;
            lexemes.push(Lexeme::Marker(spelling));
        }
        let end = self.n_given + self.text.len();
        // A marker begins in what is there, but has not come whole.
        let next = self.tokens.front().filter(|(start, ..)| !is_last && *start < end);
        let (end, is_whole) = next.map_or((end, is_last), |(start, ..)| (*start, true));
        self.give_text(end, is_whole, &mut lexemes);
        lexemes
    }

    /// Gives the text up to byte `end` of the answer, and the markers spelled in it. Unless it `is_whole`, what could be the
    /// beginning of a marker stays.
    fn give_text(&mut self, end: usize, is_whole: bool, lexemes: &mut Vec<Lexeme>) {
        let mut text = mem::take(&mut self.text);
        let rest = text.split_off(end - self.n_given);
        let spelled = || self.markers.iter().filter(|it| it.token.is_none());
        let mut from = 0;
        loop {
            let found = spelled().filter_map(|it| Some((text[from..].find(it.spelling)?, it.spelling)));
            let Some((at, spelling)) = found.min_by_key(|(at, _)| *at) else {
                break;
            };
            push_text(&text[from..from + at], lexemes);
            lexemes.push(Lexeme::Marker(spelling));
            from += at + spelling.len();
        }
        let n_held = match is_whole {
            true => 0,
            false => spelled()
                .map(|it| overlap(&text[from..], it.spelling))
                .max()
                .unwrap_or(0),
        };
        let certain = text.len() - n_held;
        push_text(&text[from..certain], lexemes);
        self.n_given += certain;
        self.text = text.split_off(certain) + &rest;
    }
}

fn push_text(text: &str, lexemes: &mut Vec<Lexeme>) {
    if !text.is_empty() {
        lexemes.push(Lexeme::Text(text.to_owned()));
    }
}
