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
///
/// A row sees the first [`context_len`](Self::context_len) slots of its sequence, and in a tree of drafts also its
/// ancestors there. A draft after a context of five, with two guesses for the first token and one more after the
/// second guess:
///
/// ```text
/// slots       0 1 2 3 4 | 5 6 7        node 0   context_len 5, ancestors 0b001, position 5
/// context     a b c d e |              node 1   context_len 5, ancestors 0b010, position 5
/// nodes                 | x y z        node 2   context_len 5, ancestors 0b110, position 6
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Token id, below [`ModelConfig::vocab`].
    pub token: u32,
    /// Which of [`Batch::blocks`] holds its keys and values.
    pub sequence_idx: u32,
    /// Slots that it sees from the first one on; its own is the last of them unless it stands in a tree.
    pub context_len: u32,
    /// Nodes of a tree that it sees besides: bit i is slot `context_len + i`, the highest one its own. 0 outside of a
    /// tree.
    pub ancestors: u64,
    /// Whether the logits after this row are wanted.
    pub wants_logits: bool,
}

/// Most nodes that a tree of drafts can have.
pub const MAX_TREE_NODES: usize = u64::BITS as usize;

impl Row {
    /// A row that sees its sequence up to its own position, counted from 0.
    pub fn chain(token: u32, position: usize, sequence_idx: usize, wants_logits: bool) -> Self {
        Self {
            token,
            sequence_idx: sequence_idx as u32,
            context_len: position as u32 + 1,
            ancestors: 0,
            wants_logits,
        }
    }

    /// Index in the text of its sequence, from 0: what the rotary embedding sees.
    pub fn position(&self) -> usize {
        (self.context_len + self.ancestors.count_ones()) as usize - 1
    }

    /// Where its key and value stand among the slots of its sequence. Equal to the position outside of a tree.
    pub fn slot(&self) -> usize {
        (self.context_len + u64::BITS - self.ancestors.leading_zeros()) as usize - 1
    }

    /// The slots that it sees, its own last: as many as `position() + 1`.
    pub fn visible_slots(&self) -> impl Iterator<Item = usize> + use<> {
        let (context_len, ancestors) = (self.context_len as usize, self.ancestors);
        let nodes = (0..MAX_TREE_NODES).filter(move |node| ancestors >> node & 1 == 1);
        (0..context_len).chain(nodes.map(move |node| context_len + node))
    }
}

/// The rows of one forward pass, prefill chunks and decode steps of several sequences side by side.
///
/// Rows of one sequence stand together, in order of slots without gaps: first those outside of a tree, then the nodes of
/// at most one tree, each after its parent.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Rows, one token each.
    pub rows: &'a [Row],
    /// For each sequence, its KV cache blocks in order of slots.
    pub blocks: &'a [&'a [u32]],
}

/// A transformer that can run a batch of rows.
pub trait Model: Send {
    /// Shape and constants.
    fn config(&self) -> &ModelConfig;

    /// Runs `batch`: writes its keys and values into `cache` at the rows' slots, and the scores of
    /// the rows that want them into `logits`, `(n_wanted, vocab)`, f32, row-major, replacing its content.
    ///
    /// The logits of a row do not depend on which other rows run beside it, nor on the slots where what it sees
    /// stands: same bits alone, in a batch, and as a node of a tree.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] for a token outside the vocabulary.
    fn forward(
        &mut self,
        batch: Batch<'_>,
        cache: &mut KvCache,
        logits: &mut Vec<f32>,
    ) -> Result<(), EngineError>;

    /// From now on keeps, for every row of a forward pass, the residual stream that enters each of `layers`; the
    /// number of layers itself stands for what leaves the last one.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for a model that has no such layer, or none at all.
    fn capture(&mut self, layers: &[usize]) -> Result<(), EngineError> {
        match layers {
            [] => Ok(()),
            _ => Err(EngineError::Unsupported {
                what: "captured layers",
                found: format!("{layers:?}"),
                known: "none for this model".into(),
            }),
        }
    }

    /// What the last forward pass captured, `(rows, layers, hidden)`, f32, row-major.
    fn captured(&self) -> &[f32] {
        &[]
    }
}
