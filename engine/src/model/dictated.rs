//! A model that writes what it is told, at the price of another one: its passes are run, and their logits replaced.
//!
//! For measurements of texts that the model at hand would not write, such as the answers of a larger one.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Batch, Model, ModelConfig};
use crate::{error::EngineError, kv_cache::KvCache};

/// Logit of the dictated token; all others have 0.
const SURE: f32 = 40.0;

/// Runs `inner` and writes the tokens of a [`Dictation`].
pub struct Dictated {
    inner: Box<dyn Model>,
    dictation: Dictation,
}

/// The token at each position of the sequences that follow: the prompt and the answer. A clone is the same one.
#[derive(Debug, Clone, Default)]
pub struct Dictation(Arc<Mutex<Vec<u32>>>);

impl Dictation {
    /// Sets the prompt and the answer; only then may a request with this prompt be made. After the answer, the last
    /// token is written again and again.
    pub fn set(&self, prompt: &[u32], answer: &[u32]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = [prompt, answer].concat();
    }
}

impl Dictated {
    /// Runs `inner` and writes what `dictation` says.
    pub fn new(inner: Box<dyn Model>, dictation: Dictation) -> Self {
        Self { inner, dictation }
    }
}

impl Model for Dictated {
    fn config(&self) -> &ModelConfig {
        self.inner.config()
    }

    fn settle_threads(&self) {
        self.inner.settle_threads();
    }

    fn forward(
        &mut self,
        batch: Batch<'_>,
        cache: &mut KvCache,
        logits: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        self.inner.forward(batch, cache, logits)?;
        let vocab = self.config().vocab;
        let tokens = self.dictation.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = batch.rows.iter().filter(|row| row.wants_logits);
        for (row, logits) in wanted.zip(logits.chunks_exact_mut(vocab)) {
            logits.fill(0.0);
            let next = tokens.get(row.position() + 1).or(tokens.last());
            if let Some(logit) = next.and_then(|&token| logits.get_mut(token as usize)) {
                *logit = SURE;
            }
        }
        Ok(())
    }

    fn capture(&mut self, layers: &[usize]) -> Result<(), EngineError> {
        self.inner.capture(layers)
    }

    fn captured(&self) -> &[f32] {
        self.inner.captured()
    }
}
