//! What a model is to the engine: a configuration, and one forward pass over a batch of rows.

mod checkpoint;
mod config;
pub mod dictated;
mod family;
mod head_groups;
mod latent;
mod mxfp4;
mod names;
mod quantization;
pub mod reference;
pub mod rope;
pub mod scripted;
pub mod transformer;

pub use checkpoint::Checkpoint;
pub(crate) use config::published_rope;
pub use rope::{Rope, RopePairing};

use crate::{
    error::EngineError,
    kernels::Isa,
    kv_cache::{BLOCK_LEN, CachedSequence, KvCache},
    model::transformer::Transformer,
    weights::GgmlType,
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
    /// How queries, keys and values are made where they come from a narrower row.
    pub latent: Option<LatentAttention>,
    /// Whether each head's value is normed, and a layer without a matrix for values takes the one for keys (Gemma 4).
    pub norms_values: bool,
    /// Width of a second embedding of each token that every layer has, if there is one (Gemma 4).
    pub layer_embedding: Option<usize>,
    /// Positions the model was trained for.
    pub context_length: usize,
    /// Whether each of them has an embedding of its own, which is added to that of the token (StarCoder 1).
    pub learns_positions: bool,
    /// What every norm of the residual stream does.
    pub norm: Norm,
    /// What happens between the two products of a feed-forward layer.
    pub activation: Activation,
    /// Feed-forward layers that a row can choose from, if there are several.
    pub experts: Option<ExpertChoice>,
    /// Multiplies every attention score.
    pub attention_scale: f32,
    /// Bound that attention scores come near but do not reach: `cap * tanh(score / cap)` (Gemma 2).
    pub score_cap: Option<f32>,
    /// How queries grow with their position, if they do (Ministral 3).
    pub query_growth: Option<QueryGrowth>,
    /// Multiplies the embedding.
    pub embedding_scale: f32,
    /// Multiplies what each half of a layer adds to the residual stream.
    pub residual_scale: f32,
    /// Multiplies the logits.
    pub logit_scale: f32,
    /// Bound that logits come near but do not reach: `cap * tanh(logit / cap)`.
    pub logit_cap: Option<f32>,
    /// Whether what a head attends to is multiplied by the sigmoid of a gate, which the query's matrix gives too.
    pub gates_attention: bool,
    /// The heads of layers that keep a state in place of keys and values, if there are such layers.
    pub delta_net: Option<DeltaNet>,
    /// Rotary embeddings that layers choose from.
    pub ropes: Vec<Rope>,
    /// What is kept of every position, for each layer of the cache.
    pub caches: Vec<CacheShape>,
    /// What differs from layer to layer, `n_layers` of them.
    pub layers: Vec<LayerConfig>,
}

impl ModelConfig {
    /// What the cache keeps for layer `layer_idx`.
    pub(crate) fn cache_of(&self, layer_idx: usize) -> CacheShape {
        self.caches[self.layers[layer_idx].cache_idx]
    }

    /// A configuration without weights to go with it: the shape of a cache, and one query head for each key head.
    pub(crate) fn bare(architecture: &str, n_layers: usize, n_heads: usize, head_dim: usize) -> Self {
        Self {
            architecture: architecture.into(),
            vocab: 16,
            hidden: n_heads * head_dim,
            n_layers,
            n_heads,
            latent: None,
            norms_values: false,
            layer_embedding: None,
            context_length: 4096,
            learns_positions: false,
            norm: Norm {
                subtracts_mean: false,
                epsilon: 1e-6,
                weight_offset: 0.0,
            },
            activation: Activation::SwiGlu,
            experts: None,
            attention_scale: 1.0,
            score_cap: None,
            query_growth: None,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            logit_cap: None,
            gates_attention: false,
            delta_net: None,
            ropes: Vec::new(),
            caches: vec![CacheShape::heads(n_heads, head_dim); n_layers],
            layers: Vec::new(),
        }
    }

    /// Takes the rotary embeddings for sequences of at most `n_positions`.
    pub(crate) fn run_within(&mut self, n_positions: usize) {
        for rope in &mut self.ropes {
            rope.run_within(n_positions);
        }
    }

    /// How many layers keep a state in place of keys and values.
    pub fn n_state_layers(&self) -> usize {
        self.layers.iter().filter(|it| it.has_state).count()
    }
}

/// Queries are multiplied by `1 + rate * ln(1 + floor(position / span))`, so that attention over long contexts stays as sharp
/// as over short ones (Nakanishi 2025, "Scalable-Softmax Is Superior for Attention", in the form of Llama 4).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryGrowth {
    /// Growth for each factor e of the context.
    pub rate: f32,
    /// Positions before the first step of it.
    pub span: usize,
}

impl QueryGrowth {
    /// What multiplies the query of a position.
    pub fn factor(&self, position: usize) -> f32 {
        1.0 + self.rate * ((1 + position / self.span) as f32).ln()
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

/// Which feed-forward layers of many a row runs, and how their results are mixed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertChoice {
    /// Experts of a layer.
    pub n_experts: usize,
    /// Experts that one row runs, those with the highest scores.
    pub n_chosen: usize,
    /// Width of one of them.
    pub width: usize,
    /// Width of the one that all rows run besides, if there is one.
    pub shared_width: Option<usize>,
    /// What makes shares of the scores.
    pub gate: Gate,
    /// Whether the shares of the chosen are divided by their sum.
    pub is_normalized: bool,
    /// Multiplies the shares.
    pub scale: f32,
    /// Where only some groups of experts are open to a row.
    pub groups: Option<ExpertGroups>,
    /// Whether experts run beside the layer's dense half, with norms of their own (Gemma 4).
    pub are_beside_dense: bool,
}

/// What makes the shares of experts of their scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// The softmax over all experts.
    Softmax,
    /// The sigmoid of each score. The choice goes by the shares and a bias of each expert, which the shares go without
    /// (DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", section 2.1.2).
    Sigmoid,
}

/// Experts in groups of equal size, one after the other. A group counts by its highest share, with [`Gate::Sigmoid`] by
/// the sum of the two highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertGroups {
    /// Groups of a layer; divides its experts.
    pub n_groups: usize,
    /// Groups that a row can choose experts from.
    pub n_chosen: usize,
}

/// Multi-head latent attention: the keys and values of all heads are made of one narrow row for each position, and that
/// row is what the cache keeps (DeepSeek-AI 2024, "DeepSeek-V2", section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentAttention {
    /// Width of the row that keys and values are made of.
    pub rank: usize,
    /// Width of the row that queries are made of, where that takes two steps.
    pub query_rank: Option<usize>,
    /// Width of the first part of a key or query, which knows no positions.
    pub plain_dim: usize,
    /// Width of the second part, which is rotated; in keys the same for all heads.
    pub rotated_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
}

/// What one layer of the cache keeps of every position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Key and value heads; divides the query heads.
    pub n_heads: usize,
    /// Width of a key.
    pub key_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
    /// Whether a value is the beginning of its key, and so not kept on its own.
    pub values_are_keys: bool,
}

impl LatentAttention {
    /// Number under the root in the norms of the narrow rows: these models' own code has it apart from the configuration's.
    pub const NORM_EPSILON: f32 = 1e-6;
}

impl CacheShape {
    /// Keys and values of `n_heads` heads, each `head_dim` wide.
    pub fn heads(n_heads: usize, head_dim: usize) -> Self {
        Self {
            n_heads,
            key_dim: head_dim,
            value_dim: head_dim,
            values_are_keys: false,
        }
    }
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// A row sees only this many of the last positions, its own included.
    pub window: Option<usize>,
    /// Which of [`ModelConfig::ropes`] turns its heads.
    pub rope_idx: usize,
    /// Whether it is a gated delta net, which sees what came before through a state: [`ModelConfig::delta_net`].
    pub has_state: bool,
    /// Which of [`ModelConfig::caches`] holds its keys and values; with a state, which of the layers with states it is.
    pub cache_idx: usize,
    /// Whether the keys and values are an earlier layer's.
    pub shares_cache: bool,
    /// Width of its feed-forward layer, if that is not made of experts.
    pub feed_forward: usize,
    /// Whether it has experts, in a model that has any.
    pub has_experts: bool,
}

/// The heads of a gated delta net (Yang et al. 2024, "Gated Delta Networks: Improving Mamba2 with Delta Rule").
///
/// Queries, keys and values pass a short convolution over the last positions. The state of a value head is a matrix,
/// `(key_dim, value_dim)`, which every position fades, corrects by its key and value, and reads by its query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaNet {
    /// Heads of queries and of keys.
    pub n_key_heads: usize,
    /// Heads of values, a multiple of `n_key_heads`: some of them share a query and a key.
    pub n_value_heads: usize,
    /// Width of a query and of a key.
    pub key_dim: usize,
    /// Width of a value, a multiple of [`STATE_COLUMNS`](crate::kernels::delta_rule::STATE_COLUMNS).
    pub value_dim: usize,
    /// Positions that the convolution sees, its own included.
    pub conv_len: usize,
    /// Which value heads share a key head: neighbours, or those that are `n_key_heads` apart.
    pub shares_with_neighbours: bool,
}

impl DeltaNet {
    /// Numbers of all queries, or of all keys, of a position.
    pub fn key_width(&self) -> usize {
        self.n_key_heads * self.key_dim
    }

    /// Numbers of all values of a position.
    pub fn value_width(&self) -> usize {
        self.n_value_heads * self.value_dim
    }

    /// Numbers of a position that the convolution sees: queries, keys, values.
    pub fn conv_width(&self) -> usize {
        2 * self.key_width() + self.value_width()
    }

    /// Numbers of the states of all heads: `(n_value_heads, value_dim / STATE_COLUMNS, key_dim, STATE_COLUMNS)`.
    pub fn state_len(&self) -> usize {
        self.n_value_heads * self.key_dim * self.value_dim
    }

    /// Numbers that a position leaves to the states: what the convolution sees, then what fades and what corrects each head.
    pub fn input_width(&self) -> usize {
        self.conv_width() + 2 * self.n_value_heads
    }

    /// The head of queries and keys that `value_head` reads.
    pub fn key_head(&self, value_head: usize) -> usize {
        if self.shares_with_neighbours {
            value_head * self.n_key_heads / self.n_value_heads
        } else {
            value_head % self.n_key_heads
        }
    }
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
    /// Which of [`Batch::sequences`] it belongs to.
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

    /// Slot of the row that comes before it in its text, if there is one.
    pub fn parent_slot(&self) -> Option<usize> {
        let context_len = self.context_len as usize;
        match self.ancestors {
            0 => context_len.checked_sub(2),
            nodes => {
                let above = nodes ^ (1 << nodes.ilog2());
                match above {
                    0 => context_len.checked_sub(1),
                    above => Some(context_len + above.ilog2() as usize),
                }
            }
        }
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
/// at most one tree, all of it, each after its parent. Rows whose logits are not wanted come before all others of their
/// sequence and are final: layers with states take them in at once, so they have to be committed.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Rows, one token each.
    pub rows: &'a [Row],
    /// What the cache holds of each sequence.
    pub sequences: &'a [&'a CachedSequence],
}

impl Batch<'_> {
    /// Block and slot within it where `row`'s key and value belong.
    pub fn place(&self, row: &Row) -> (u32, usize) {
        let (slot, sequence) = (row.slot(), self.sequences[row.sequence_idx as usize]);
        (sequence.blocks()[slot / BLOCK_LEN], slot % BLOCK_LEN)
    }
}

/// A transformer that can run a batch of rows.
pub trait Model: Send {
    /// Shape and constants.
    fn config(&self) -> &ModelConfig;

    /// Prepares the model's threads for all passes to be run by the calling one.
    fn settle_threads(&self) {}

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

    /// Looks for a weight that is not a number among those that loading did not read: all plain numbers that are multiplied
    /// where they stand in their file. Reads them all, which takes about as long as reading the file.
    ///
    /// # Errors
    /// [`EngineError::BadWeight`] for the first one.
    fn require_numbers(&self) -> Result<(), EngineError> {
        Ok(())
    }

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
