//! Vocabularies with the markers that answers have, and answers in pieces.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use std::sync::Arc;

use serde_json::json;
use surmise_engine::{
    answer::{AnswerFormat, ParsedAnswer},
    chat_template::{Serde, Value},
    request::{FinishReason, GeneratedToken},
    tokenizer::{Tokenizer, Utf8Stream},
};

use crate::gguf_builder;

/// Markers that vocabularies have as tokens without text: of Harmony, and of the others.
pub const HARMONY_TOKENS: [&str; 7] = [
    "<|start|>",
    "<|channel|>",
    "<|constrain|>",
    "<|message|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
];

pub const CONTROL_TOKENS: [&str; 14] = [
    "<|im_end|>",
    "<|eot_id|>",
    "</s>",
    "<｜end▁of▁sentence｜>",
    "<|tool_response>",
    "<|python_tag|>",
    "<|tool_call|>",
    "[TOOL_CALLS]",
    "[CALL_ID]",
    "[ARGS]",
    "[THINK]",
    "[/THINK]",
    "<|channel>",
    "<channel|>",
];

/// Those that stand for their spelling.
pub const SPELLED_TOKENS: [&str; 16] = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<|tool_call>",
    "<tool_call|>",
    "<|\"|>",
];

/// Those of them that end an answer.
pub const END_TOKENS: [&str; 5] = [
    "<|im_end|>",
    "<|eot_id|>",
    "</s>",
    "<｜end▁of▁sentence｜>",
    "<|tool_response>",
];

pub fn tokenizer(markers: &[&str]) -> Arc<Tokenizer> {
    let kind = |marker| if SPELLED_TOKENS.contains(marker) { 4 } else { 3 };
    let tokens: Vec<_> = markers.iter().map(|marker| (*marker, kind(marker))).collect();
    let builder =
        gguf_builder::byte_level("gpt-2", &tokens).pair("tokenizer.ggml.merges", gguf_builder::strings(&[]));
    let gguf = gguf_builder::open(&builder.build()).unwrap();
    Tokenizer::from_gguf(&gguf).unwrap().into()
}

/// A vocabulary with all the markers that a template's model may have.
pub fn with_markers(template: &str) -> Arc<Tokenizer> {
    if template.contains("<|channel|>") {
        tokenizer(&HARMONY_TOKENS)
    } else {
        tokenizer(&[&CONTROL_TOKENS[..], &SPELLED_TOKENS].concat())
    }
}

pub fn tools() -> Vec<Value> {
    let function = |name: &str, properties: serde_json::Value| {
        json!({"type": "function", "function": {
            "name": name,
            "description": "",
            "parameters": {"type": "object", "properties": properties, "required": []},
        }})
    };
    let text = json!({"type": "string", "description": ""});
    let tools = [
        function(
            "read_file",
            json!({"path": text, "lines": {"type": "array", "items": {"type": "integer"}, "description": ""}}),
        ),
        function(
            "edit_file",
            json!({"path": text, "old": text, "new": text, "all": {"type": "boolean", "description": ""}}),
        ),
    ];
    tools.iter().map(|it| Value::from(Serde(it))).collect()
}

/// Pseudo-random numbers, the same in every run (Marsaglia's xorshift).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % bound
    }
}

/// An answer as the engine gives it.
pub struct Generated {
    text: String,
    tokens: Vec<GeneratedToken>,
    reason: FinishReason,
}

pub fn generated(tokenizer: &Tokenizer, ids: &[u32]) -> Generated {
    let (mut utf8, mut text) = (Utf8Stream::default(), String::new());
    let mut tokens = Vec::new();
    for &id in ids {
        if tokenizer.end_tokens().contains(&id) {
            return Generated {
                text,
                tokens,
                reason: FinishReason::StopToken(id),
            };
        }
        utf8.push(tokenizer.token_bytes(id), &mut text);
        tokens.push(GeneratedToken {
            id,
            logprob: 0.0,
            text_end: text.len(),
            drafter: None,
        });
    }
    Generated {
        text,
        tokens,
        reason: FinishReason::Length,
    }
}

/// Parses an answer in random pieces. Text may come later than its tokens, but no earlier.
pub fn parse_in_pieces(
    format: &AnswerFormat,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    tools: &[Value],
    answer: &Generated,
    random: &mut Random,
) -> ParsedAnswer {
    let mut parser = format.parser(tokenizer, prompt, tools);
    let mut parsed = ParsedAnswer::default();
    let (mut n_tokens, mut n_bytes) = (0, 0);
    let largest = 1 + random.below(12);
    while n_tokens < answer.tokens.len() || n_bytes < answer.text.len() {
        let tokens = &answer.tokens[n_tokens..answer.tokens.len().min(n_tokens + random.below(largest + 1))];
        n_tokens += tokens.len();
        let came = n_tokens
            .checked_sub(1)
            .map_or(0, |last| answer.tokens[last].text_end);
        let mut end = came.min(n_bytes + random.below(2 * largest));
        while !answer.text.is_char_boundary(end) {
            end += 1;
        }
        parsed.extend(parser.push(&answer.text[n_bytes..end.max(n_bytes)], tokens));
        n_bytes = end.max(n_bytes);
    }
    parsed.extend(parser.finish(&answer.reason));
    parsed
}

/// Parses an answer whole and in many kinds of pieces, which must give the same.
pub fn parse(
    format: &AnswerFormat,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    ids: &[u32],
    tools: &[Value],
) -> ParsedAnswer {
    let answer = generated(tokenizer, ids);
    let mut parser = format.parser(tokenizer, prompt, tools);
    let mut whole = ParsedAnswer::default();
    whole.extend(parser.push(&answer.text, &answer.tokens));
    whole.extend(parser.finish(&answer.reason));
    let mut random = Random(7 + ids.len() as u64);
    for _ in 0..60 {
        assert_eq!(
            parse_in_pieces(format, tokenizer, prompt, tools, &answer, &mut random),
            whole
        );
    }
    whole
}
