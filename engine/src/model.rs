//! What a model is to the engine: a configuration, and one forward pass over a batch of rows.

mod checkpoint;
mod config;
pub mod dictated;
mod family;
mod mxfp4;
mod names;
mod quantization;
pub mod reference;
pub mod rope;
pub mod scripted;
pub mod transformer;

pub use checkpoint::Checkpoint;
pub use rope::{Rope, RopePairing};

use crate::{
    error::EngineError, kernels::Isa, kv_cache::KvCache, model::transformer::Transformer, weights::GgmlType,
};

/// Makes the model that `checkpoint` describes, on `n_threads` threads of the CPU.
///
/// # Errors
/// As [`Transformer::load`].
pub fn load_model(checkpoint: &Checkpoint, n_threads: usize) -> Result<Transformer, EngineError> {
    let config = checkpoint.config().clone();
    Transformer::load(checkpoint.weights(), config, n_threads, Isa::detect())
}

/// Bytes that the weights of `checkpoint` take in memory, large matrices of plain numbers quantised if so asked.
pub(crate) fn loaded_bytes(checkpoint: &Checkpoint, quantize: Option<GgmlType>) -> usize {
    transformer::loaded_bytes(checkpoint.weights(), quantize)
}

/// Shape and constants of a transformer: all that the forward pass knows about a family.
///
/// Names follow `house-style`: `hidden` is the width of the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Architecture as GGUF names it, such as `qwen3`.
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
    /// Width of the feed-forward layer, or of one expert.
    pub feed_forward: usize,
    /// Positions the model was trained for.
    pub context_length: usize,
    /// What every norm of the residual stream does.
    pub norm: Norm,
    /// What happens between the two products of a feed-forward layer.
    pub activation: Activation,
    /// Feed-forward layers that a row can choose from, if there are several.
    pub experts: Option<ExpertChoice>,
    /// Multiplies every attention score.
    pub attention_scale: f32,
    /// Multiplies the embedding.
    pub embedding_scale: f32,
    /// Multiplies what each half of a layer adds to the residual stream.
    pub residual_scale: f32,
    /// Multiplies the logits.
    pub logit_scale: f32,
    /// Rotary embeddings that layers choose from.
    pub ropes: Vec<Rope>,
    /// What differs from layer to layer, `n_layers` of them.
    pub layers: Vec<LayerConfig>,
}

impl ModelConfig {
    /// A configuration without weights to go with it: the shape of a cache, and one query head for each key head.
    pub(crate) fn bare(architecture: &str, n_layers: usize, n_heads: usize, head_dim: usize) -> Self {
        Self {
            architecture: architecture.into(),
            vocab: 16,
            hidden: n_heads * head_dim,
            n_layers,
            n_heads,
            n_kv_heads: n_heads,
            head_dim,
            feed_forward: n_heads * head_dim,
            context_length: 4096,
            norm: Norm {
                subtracts_mean: false,
                epsilon: 1e-6,
                weight_offset: 0.0,
            },
            activation: Activation::SwiGlu,
            experts: None,
            attention_scale: 1.0,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            ropes: Vec::new(),
            layers: Vec::new(),
        }
    }
}

/// A norm of the residual stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Whether the mean is subtracted first (layer norm) or not (RMS norm). Norms of single heads never do.
    pub subtracts_mean: bool,
    /// Number under the root.
    pub epsilon: f32,
    /// What is added to the weights in the file: 1 where they are stored as differences from 1.
    pub weight_offset: f32,
}

/// What a feed-forward layer does to `gate` and `up`, the results of its first products.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `silu(gate) * up`.
    SwiGlu,
    /// `gelu(gate) * up`, with the tanh form of gelu.
    GeGlu,
    /// `gelu(up)`; there is no gate.
    Gelu,
    /// `gate * sigmoid(1.702 gate) * (up + 1)`, with the gate at most `limit` and `up` within it on both sides.
    ClampedSwiGlu {
        /// Largest magnitude.
        limit: f32,
    },
}

/// How many feed-forward layers there are, and how many of them a row runs. Their results are mixed by the softmax of
/// the chosen ones' scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertChoice {
    /// Experts of a layer.
    pub n_experts: usize,
    /// Experts that one row runs, those with the highest scores.
    pub n_chosen: usize,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// A row sees only this many of the last positions, its own included.
    pub window: Option<usize>,
    /// Which of [`ModelConfig::ropes`] turns its heads.
    pub rope_idx: usize,
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
