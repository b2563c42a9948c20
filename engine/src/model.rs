//! What a model is to the engine: a configuration, and one forward pass over a batch of rows.

mod config;
pub mod reference;
pub mod scripted;
pub mod transformer;

use crate::{
    error::EngineError, kernels::Isa, kv_cache::KvCache, model::transformer::Transformer, weights::Gguf,
};

/// Makes the model that `gguf` describes, on `n_threads` threads of the CPU.
///
/// # Errors
/// As [`ModelConfig::from_gguf`] and [`Transformer::load`].
pub fn load_model(gguf: &Gguf, n_threads: usize) -> Result<Transformer, EngineError> {
    Transformer::load(gguf, ModelConfig::from_gguf(gguf)?, n_threads, Isa::detect())
}

/// Shape and constants of a transformer, read from the file's metadata.
///
/// Names follow `house-style`: `hidden` is the width of the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Architecture as the file names it, such as `qwen3`.
    pub architecture: String,
    /// Number of tokens in the vocabulary.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Number of transformer blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Positions the model was trained for.
    pub context_length: usize,
    /// Epsilon inside every RMS norm.
    pub rms_norm_eps: f32,
    /// Base of the rotary embedding's frequencies.
    pub rope_theta: f32,
    /// What positions are divided by before the rotation; 1 without linear scaling.
    pub rope_scale: f32,
    /// Which pairs of a head are rotated together.
    pub rope_pairing: RopePairing,
}

/// Which two numbers of a head form one rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairing {
    /// `(0, 1), (2, 3), ...`: Llama files, whose rows were permuted when they were converted.
    Adjacent,
    /// `(0, d/2), (1, d/2 + 1), ...`: Qwen files, as GPT-NeoX does it.
    Halves,
}

/// One token to run: a row of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Token id, below [`ModelConfig::vocab`].
    pub token: u32,
    /// Index in its sequence, from 0.
    pub position: u32,
    /// Which of [`Batch::blocks`] holds its keys and values.
    pub sequence_idx: u32,
    /// Whether the logits after this row are wanted.
    pub wants_logits: bool,
}

/// The rows of one forward pass, prefill chunks and decode steps of several sequences side by side.
///
/// Rows of one sequence stand together, in order of position without gaps, so a row attends to all that
/// its sequence holds up to and including its own position.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Rows, one token each.
    pub rows: &'a [Row],
    /// For each sequence, its KV cache blocks in order of position.
    pub blocks: &'a [&'a [u32]],
}

/// A transformer that can run a batch of rows.
pub trait Model: Send {
    /// Shape and constants.
    fn config(&self) -> &ModelConfig;

    /// Runs `batch`: writes its keys and values into `cache` at the rows' positions, and the scores of
    /// the rows that want them into `logits`, `(n_wanted, vocab)`, f32, row-major, replacing its content.
    ///
    /// The logits of a row do not depend on which other rows run beside it: same bits alone or in a batch.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] for a token outside the vocabulary.
    fn forward(
        &mut self,
        batch: Batch<'_>,
        cache: &mut KvCache,
        logits: &mut Vec<f32>,
    ) -> Result<(), EngineError>;
}
