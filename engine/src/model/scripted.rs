//! Models without weights, so that every layer above the model runs in tests and demonstrations.
//!
//! Both read the sequence back from the KV cache, where each row wrote its token as its key. So they answer to what
//! the cache really holds, and a block that was shared, copied or overwritten wrongly changes the text.

use std::sync::Arc;

use crate::{
    error::EngineError,
    kv_cache::{BLOCK_LEN, KvCache},
    model::{Batch, Model, ModelConfig, Row},
    sampler::split_mix,
    tokenizer::{TextStart, Tokenizer},
};

/// A model that replays given texts, or one whose scores are a hash of the last few tokens.
pub struct ScriptedModel {
    config: ModelConfig,
    script: Script,
    /// Kept between rows for its memory.
    history: Vec<u32>,
}

enum Script {
    Replay {
        replies: Vec<Reply>,
        end_token: u32,
        tokenizer: Arc<Tokenizer>,
    },
    Hashed(HashedScript),
}

struct Reply {
    trigger: String,
    tokens: Vec<u32>,
}

/// How [`ScriptedModel::hashed`] makes up its scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashedScript {
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Last tokens that the next one depends on. The fewer, the sooner greedy text repeats itself.
    pub order: usize,
    /// One position in so many also depends on its index, which breaks repetitions; 0 for never.
    pub surprise: u64,
    /// Scores lie between 0 and this.
    pub spread: u32,
    /// Another seed is another model.
    pub seed: u64,
}

impl ScriptedModel {
    /// Score of the scripted token; all others have 0.
    const SURE: f32 = 30.0;

    /// A model that answers `replies`: pairs of a trigger and the text that follows once the trigger has occurred.
    /// The trigger that occurred last counts; an empty one always has. After its reply, the model ends.
    ///
    /// Where in a reply a sequence stands is told from its tokens: it has given the longest beginning of the reply
    /// that it ends with. A prompt that ends as the reply begins has therefore begun it.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] if the tokenizer has no end token; its errors for a reply that it cannot encode.
    pub fn replay(tokenizer: Arc<Tokenizer>, replies: &[(&str, &str)]) -> Result<Self, EngineError> {
        let Some(&end_token) = tokenizer.end_tokens().first() else {
            return Err(EngineError::BadRequest(
                "a scripted model needs a tokenizer with an end token".into(),
            ));
        };
        let vocab = tokenizer.vocab_size();
        let replies = replies.iter().map(|&(trigger, text)| {
            // It goes on from the prompt.
            let tokens = tokenizer.encode_from(text, false, TextStart::Continued)?;
            Ok(Reply {
                trigger: trigger.to_owned(),
                tokens,
            })
        });
        let replies = replies.collect::<Result<_, EngineError>>()?;
        Ok(Self::new(
            vocab,
            Script::Replay {
                replies,
                end_token,
                tokenizer,
            },
        ))
    }

    /// A model whose scores for the next token are a hash of the last few.
    pub fn hashed(script: HashedScript) -> Self {
        Self::new(script.vocab, Script::Hashed(script))
    }

    fn new(vocab: usize, script: Script) -> Self {
        let config = ModelConfig {
            vocab,
            context_length: 1 << 16,
            ..ModelConfig::bare("scripted", 1, 1, 2)
        };
        Self {
            config,
            script,
            history: Vec::new(),
        }
    }
}

impl Model for ScriptedModel {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn forward(
        &mut self,
        batch: Batch<'_>,
        cache: &mut KvCache,
        logits: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        logits.clear();
        for row in batch.rows {
            if row.token as usize >= self.config.vocab {
                return Err(EngineError::BadRequest(format!(
                    "token {} is outside the vocabulary",
                    row.token
                )));
            }
            let blocks = batch.sequences[row.sequence_idx as usize].blocks();
            let (position, slot) = (row.position(), row.slot());
            let key = key_of(row.token);
            cache.write(0, blocks[slot / BLOCK_LEN], slot % BLOCK_LEN, &key, &[0.0; 2]);
            if !row.wants_logits {
                continue;
            }
            let start = logits.len();
            logits.resize(start + self.config.vocab, 0.0);
            let logits = &mut logits[start..];
            match &self.script {
                Script::Hashed(script) => {
                    read_tokens(cache, blocks, row, script.order, &mut self.history);
                    script.score(&self.history, position, logits);
                }
                Script::Replay {
                    replies,
                    end_token,
                    tokenizer,
                } => {
                    read_tokens(cache, blocks, row, usize::MAX, &mut self.history);
                    let next = next_in_reply(replies, &tokenizer.decode(&self.history), &self.history);
                    logits[next.unwrap_or(*end_token) as usize] = Self::SURE;
                }
            }
        }
        Ok(())
    }
}

impl HashedScript {
    fn score(&self, last_tokens: &[u32], position: usize, logits: &mut [f32]) {
        let mut context = last_tokens
            .iter()
            .fold(self.seed, |hash, &token| split_mix(hash ^ u64::from(token)));
        let position_hash = split_mix(self.seed ^ position as u64);
        if self.surprise > 0 && position_hash.is_multiple_of(self.surprise) {
            context ^= position_hash;
        }
        for (logit, id) in logits.iter_mut().zip(0..) {
            let fraction = (split_mix(context ^ id) >> 40) as f32 / (1u64 << 24) as f32;
            *logit = fraction * self.spread as f32;
        }
    }
}

/// The token that continues the reply which `text`, the text of `tokens`, has triggered last.
fn next_in_reply(replies: &[Reply], text: &str, tokens: &[u32]) -> Option<u32> {
    let triggered = replies
        .iter()
        .filter_map(|reply| Some((text.rfind(&reply.trigger)?, reply)));
    let (_, reply) = triggered.max_by_key(|(at, reply)| (!reply.trigger.is_empty(), *at))?;
    let n_given = (0..=reply.tokens.len())
        .rev()
        .find(|&n| tokens.ends_with(&reply.tokens[..n]))?;
    reply.tokens.get(n_given).copied()
}

/// Half precision holds integers up to 2,048 exactly.
const DIGIT: u32 = 2048;

fn key_of(token: u32) -> [f32; 2] {
    [(token / DIGIT) as f32, (token % DIGIT) as f32]
}

/// Reads the last tokens that `row` sees, at most `n_tokens`.
fn read_tokens(cache: &KvCache, blocks: &[u32], row: &Row, n_tokens: usize, tokens: &mut Vec<u32>) {
    tokens.clear();
    let (mut keys, mut values) = ([0.0; 2 * BLOCK_LEN], [0.0; 2 * BLOCK_LEN]);
    let n_unseen = (row.position() + 1).saturating_sub(n_tokens);
    tokens.extend(row.visible_slots().skip(n_unseen).map(|slot| {
        let place = (blocks[slot / BLOCK_LEN], slot % BLOCK_LEN);
        cache.load_slot(0, place, 0, 0, &mut keys, &mut values);
        keys[0] as u32 * DIGIT + keys[BLOCK_LEN] as u32
    }));
}
