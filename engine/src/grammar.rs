//! Answers of a given form: JSON that fits a schema, text that matches a regular expression or a context-free grammar. Of all
//! tokens those are ruled out, before anything is picked, after which no such answer could follow.
//!
//! The picked tokens are the ones that count, so drafts need no care: one that breaks the form is not picked, and verification
//! drops it like any other (`speculative/verify.rs`).
//!
//! The `llguidance` crate follows the form, with an Earley parser over a lexer of derivatives, and a trie of the vocabulary to ask
//! it about all tokens at once.

use std::{fmt, sync::Arc};

use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::Value;

use crate::{error::EngineError, tokenizer::Tokenizer};

/// The form of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// JSON that fits a JSON schema; `{}` allows any.
    JsonSchema(Value),
    /// All of the answer matches a regular expression.
    Regex(String),
    /// A context-free grammar in the syntax of Lark, as llguidance reads it.
    Lark(String),
}

/// Longer tokens, of dashes for instance, are not used: the trie takes fewer than 1,024 bytes.
const MAX_TOKEN_BYTES: usize = 512;

/// What grammars have to know of a vocabulary.
pub(crate) struct GrammarCompiler {
    factory: ParserFactory,
    /// Stands for the end of an answer, whichever token the model ends with.
    end: u32,
}

impl GrammarCompiler {
    /// Sorts the vocabulary: about a tenth of a second for a large one.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] if there is no token that ends an answer.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self, EngineError> {
        let Some(&end) = tokenizer.end_tokens().first() else {
            return Err(EngineError::BadRequest(
                "a grammar needs a model with a token that ends its answer; this one has none".into(),
            ));
        };
        let is_text = |bytes: &[u8]| {
            bytes.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER) && bytes.len() <= MAX_TOKEN_BYTES
        };
        let mut words: Vec<Vec<u8>> = (0..tokenizer.vocab_size() as u32)
            .map(|id| tokenizer.token_bytes(id))
            .map(|bytes| {
                if is_text(bytes) {
                    bytes.to_vec()
                } else {
                    Vec::new()
                }
            })
            .collect();
        words[end as usize] = [&[TokTrie::SPECIAL_TOKEN_MARKER], b"<|end|>".as_slice()].concat();
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), &words);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(refused)?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(Self { factory, end })
    }

    /// Begins an answer, which may end with any of `stop_tokens` once it is whole.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] for a grammar that cannot be read, and if nothing may end the answer.
    pub(crate) fn begin(
        &self,
        grammar: &Grammar,
        stop_tokens: Vec<u32>,
    ) -> Result<GrammarMatcher, EngineError> {
        if stop_tokens.is_empty() {
            return Err(EngineError::BadRequest(
                "an answer with a grammar ends with a stop token, and there is none".into(),
            ));
        }
        let grammar = match grammar {
            Grammar::JsonSchema(schema) => TopLevelGrammar::from_json_schema(schema.clone()),
            Grammar::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Grammar::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        };
        let parser = self.factory.create_parser(grammar).map_err(refused)?;
        Ok(GrammarMatcher {
            matcher: Matcher::new(Ok(parser)),
            n_read: 0,
            end: self.end,
            stop_tokens,
        })
    }
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").finish_non_exhaustive()
    }
}

fn refused(error: impl fmt::Display) -> EngineError {
    EngineError::BadRequest(format!("the grammar cannot be used: {error}"))
}

/// Follows one answer.
pub(crate) struct GrammarMatcher {
    matcher: Matcher,
    /// Tokens of the answer that it has seen.
    n_read: usize,
    end: u32,
    stop_tokens: Vec<u32>,
}

impl GrammarMatcher {
    /// Writes `logits` to `allowed` without those of tokens that may not follow `generated`, which only grows between calls.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] if following it takes more than it may, or no token of this vocabulary goes on.
    pub(crate) fn rule_out(
        &mut self,
        generated: &[u32],
        logits: &[f32],
        allowed: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        let failed = |error| EngineError::Grammar(format!("{error}"));
        self.matcher
            .consume_tokens(&generated[self.n_read..])
            .map_err(failed)?;
        self.n_read = generated.len();
        let mask = self.matcher.compute_mask_or_eos().map_err(failed)?;
        allowed.clear();
        allowed.resize(logits.len(), f32::NEG_INFINITY);
        let mut is_stuck = true;
        let is_text = |id: &u32| *id != self.end && !self.stop_tokens.contains(id);
        let goes_on = mask.iter().filter(is_text);
        let ends = mask.is_allowed(self.end).then_some(&self.stop_tokens);
        for id in goes_on.chain(ends.into_iter().flatten().copied()) {
            // A vocabulary and a network may differ in rows that nobody uses.
            if let Some(&logit) = logits.get(id as usize) {
                allowed[id as usize] = logit;
                is_stuck = false;
            }
        }
        if is_stuck {
            return Err(EngineError::Grammar("no token may follow".into()));
        }
        Ok(())
    }
}
