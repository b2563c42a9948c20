//! A model's shape from what its file states, whatever the format of the file.

mod gguf;
mod hugging_face;

use std::path::Path;

use serde_json::Value;

use super::{
    Activation, CacheShape, DeltaNet, ExpertChoice, ExpertGroups, Gate, LatentAttention, LayerConfig,
    ModelConfig, Norm, QueryGrowth,
    family::{Family, Source},
    rope::{Rope, RopeScaling},
};
use crate::{error::EngineError, kernels::delta_rule::STATE_COLUMNS, kv_cache::BLOCK_LEN};

/// Largest width, count or length that a file may give; beyond it, activations alone would take gigabytes.
const MAX_WIDTH: usize = 1 << 20;

/// Base of the rotary embedding where a file has none.
const DEFAULT_THETA: f32 = 10_000.0;

/// Most layers that a file may give.
const MAX_LAYERS: usize = 1 << 12;

/// Most heads of a delta net that a file may give, and their largest width: they are multiplied by each other.
const MAX_HEAD: usize = 1 << 12;

/// One layer in so many is no delta net, if the file says nothing else.
const DEFAULT_ATTENTION_INTERVAL: usize = 4;

/// The numbers of a file, before a family makes sense of them. What is `None` was not there.
#[derive(Debug, Clone)]
pub(super) struct Stated {
    pub(super) source: Source,
    pub(super) vocab: usize,
    pub(super) hidden: usize,
    pub(super) n_layers: usize,
    /// Layers after those that predict further tokens, which nothing here runs.
    pub(super) n_prediction_layers: usize,
    pub(super) n_heads: usize,
    pub(super) n_kv_heads: Option<PerLayer>,
    /// That of layers with a window, where it is another.
    pub(super) window_kv_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    /// That of layers with a window, where it is another.
    pub(super) window_head_dim: Option<usize>,
    /// Numbers of a head that are rotated.
    pub(super) rope_dims: Option<usize>,
    pub(super) feed_forward: PerLayer,
    pub(super) context_length: usize,
    pub(super) norm_epsilon: f32,
    pub(super) rope_theta: Option<f32>,
    pub(super) rope_scaling: RopeScaling,
    /// What DeepSeek multiplies the logarithm of YaRN's factor by, to scale its scores.
    pub(super) yarn_score_scale: Option<f32>,
    /// The base of layers with a window, if they have their own.
    pub(super) window_rope_theta: Option<f32>,
    pub(super) window: Option<usize>,
    /// Which layers have the window, where the file lists them.
    pub(super) has_window: Option<Vec<bool>>,
    pub(super) attention_scale: Option<f32>,
    pub(super) score_cap: Option<f32>,
    /// How much queries grow with their position.
    pub(super) query_growth: Option<f32>,
    /// Positions before they grow, where that is not the context of the first training.
    pub(super) query_growth_span: Option<usize>,
    pub(super) embedding_scale: Option<f32>,
    pub(super) residual_scale: Option<f32>,
    /// What logits are divided by.
    pub(super) logit_divisor: Option<f32>,
    pub(super) logit_cap: Option<f32>,
    /// Last layers that look at the keys and values of an earlier one.
    pub(super) n_sharing_layers: usize,
    /// Width of the second embedding that every layer has.
    pub(super) layer_embedding: Option<usize>,
    pub(super) n_experts: Option<usize>,
    pub(super) n_chosen_experts: Option<usize>,
    pub(super) expert_feed_forward: Option<usize>,
    /// Width of the expert that all rows run.
    pub(super) shared_feed_forward: Option<usize>,
    /// First layers without experts.
    pub(super) n_dense_layers: Option<usize>,
    pub(super) expert_gate: Option<Gate>,
    pub(super) experts_are_normalized: Option<bool>,
    pub(super) expert_scale: Option<f32>,
    /// Groups of experts, and how many of them a row can choose from.
    pub(super) expert_groups: Option<(usize, usize)>,
    pub(super) latent: Option<LatentAttention>,
    /// Largest magnitude inside a clamped SwiGLU.
    pub(super) swiglu_limit: Option<f32>,
    pub(super) delta_net: Option<DeltaNet>,
    /// One layer in so many is no delta net, where the file does not list them.
    pub(super) attention_interval: Option<usize>,
    /// Which layers are delta nets, where the file lists them.
    pub(super) has_state: Option<Vec<bool>>,
}

/// A number that all layers have, or one for each.
#[derive(Debug, Clone)]
pub(super) enum PerLayer {
    All(usize),
    Each(Vec<usize>),
}

impl PerLayer {
    /// The number of a layer; 0 where the list ends before it.
    fn of(&self, layer_idx: usize) -> usize {
        match self {
            Self::All(number) => *number,
            Self::Each(numbers) => numbers.get(layer_idx).copied().unwrap_or(0),
        }
    }
}

impl Stated {
    /// The configuration of a model of `family`.
    ///
    /// # Errors
    /// The number at fault and a sentence about it.
    pub(super) fn into_config(mut self, family: &Family) -> Result<ModelConfig, Fault> {
        (family.complete)(&mut self);
        for (name, value) in [
            ("vocabulary", self.vocab),
            ("width of the residual stream", self.hidden),
            ("query heads", self.n_heads),
            (
                "width of embeddings for layers",
                self.layer_embedding.unwrap_or(1),
            ),
            (
                "width of a head in layers with a window",
                self.window_head_dim.unwrap_or(1),
            ),
        ] {
            check_size(name, value, MAX_WIDTH)?;
        }
        check_size("context length", self.context_length, u32::MAX as usize)?;
        check_size("layers", self.n_layers, MAX_LAYERS)?;
        let head_dim = self.head_dim()?;
        for (name, number) in [
            ("norm epsilon", Some(self.norm_epsilon)),
            ("rope theta", self.rope_theta),
            ("rope theta of layers with a window", self.window_rope_theta),
            ("attention scale", self.attention_scale),
            ("bound of attention scores", self.score_cap),
            ("growth of queries", self.query_growth),
            ("embedding scale", self.embedding_scale),
            ("residual scale", self.residual_scale),
            ("logit divisor", self.logit_divisor),
            ("bound of logits", self.logit_cap),
            ("SwiGLU limit", self.swiglu_limit),
            ("scale of experts", self.expert_scale),
        ] {
            if let Some(number) = number.filter(|it| !(it.is_finite() && *it > 0.0)) {
                let reason = format!("{number} found, a finite number above 0 expected");
                return Err(Fault::new(name, reason));
            }
        }
        if let Some(delta_net) = &self.delta_net {
            check_delta_net(delta_net)?;
        }
        let query_growth = self.query_growth()?;
        let experts = self.experts(family)?;
        let ropes = self.ropes(family, head_dim)?;
        let (caches, layers) = self.layers(family, head_dim, ropes.len())?;
        Ok(ModelConfig {
            architecture: family.gguf.into(),
            vocab: self.vocab,
            hidden: self.hidden,
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            latent: self.latent,
            norms_values: family.norms_values,
            layer_embedding: self.layer_embedding,
            context_length: self.context_length,
            learns_positions: family.learns_positions,
            norm: Norm {
                subtracts_mean: family.norm_subtracts_mean,
                epsilon: self.norm_epsilon,
                weight_offset: match self.source {
                    Source::Gguf => 0.0,
                    Source::HuggingFace => family.norm_weight_offset,
                },
            },
            activation: match (family.activation, self.swiglu_limit) {
                (Activation::ClampedSwiGlu { .. }, Some(limit)) => Activation::ClampedSwiGlu { limit },
                (activation, _) => activation,
            },
            experts,
            attention_scale: self
                .attention_scale
                .unwrap_or_else(|| 1.0 / (head_dim as f32).sqrt()),
            score_cap: self.score_cap,
            query_growth,
            embedding_scale: self.embedding_scale.unwrap_or(1.0),
            residual_scale: self.residual_scale.unwrap_or(1.0),
            logit_scale: 1.0 / self.logit_divisor.unwrap_or(1.0),
            logit_cap: self.logit_cap,
            gates_attention: family.gates_attention,
            delta_net: self.delta_net.map(|stated| DeltaNet {
                shares_with_neighbours: self.source == Source::HuggingFace || family.gguf_keeps_value_heads,
                ..stated
            }),
            ropes,
            caches,
            layers,
        })
    }

    /// Width of a query head, in layers without a window.
    fn head_dim(&self) -> Result<usize, Fault> {
        let Some(latent) = self.latent else {
            let head_dim = self.head_dim.unwrap_or(self.hidden / self.n_heads);
            check_size("width of a head", head_dim, MAX_WIDTH)?;
            return Ok(head_dim);
        };
        let LatentAttention {
            rank,
            query_rank,
            plain_dim,
            rotated_dim,
            value_dim,
        } = latent;
        for (name, value) in [
            ("rank of keys and values", rank),
            ("rank of queries", query_rank.unwrap_or(1)),
            ("part of a head without positions", plain_dim),
            ("rotated part of a head", rotated_dim),
            ("width of a value", value_dim),
        ] {
            check_size(name, value, MAX_WIDTH)?;
        }
        Ok(plain_dim + rotated_dim)
    }

    fn query_growth(&self) -> Result<Option<QueryGrowth>, Fault> {
        let Some(rate) = self.query_growth else {
            return Ok(None);
        };
        let original = match self.rope_scaling {
            RopeScaling::Yarn { original, .. } => original,
            _ => self.context_length,
        };
        let span = self.query_growth_span.unwrap_or(original);
        check_size("positions before queries grow", span, u32::MAX as usize)?;
        Ok(Some(QueryGrowth { rate, span }))
    }

    /// What the cache keeps for a layer.
    fn cached(&self, layer_idx: usize, has_window: bool, head_dim: usize) -> Result<CacheShape, Fault> {
        if let Some(latent) = self.latent {
            return Ok(CacheShape {
                n_heads: 1,
                key_dim: latent.rank + latent.rotated_dim,
                value_dim: latent.rank,
                values_are_keys: true,
            });
        }
        let usual = self
            .n_kv_heads
            .as_ref()
            .map_or(self.n_heads, |it| it.of(layer_idx));
        let n_kv_heads = self.window_kv_heads.filter(|_| has_window).unwrap_or(usual);
        if n_kv_heads == 0 || !self.n_heads.is_multiple_of(n_kv_heads) {
            let heads = self.n_heads;
            return Err(Fault::new(
                "key and value heads",
                format!("{n_kv_heads} found, a divisor of the {heads} query heads expected"),
            ));
        }
        let head_dim = self.window_head_dim.filter(|_| has_window).unwrap_or(head_dim);
        Ok(CacheShape::heads(n_kv_heads, head_dim))
    }

    fn experts(&self, family: &Family) -> Result<Option<ExpertChoice>, Fault> {
        let (n_experts, n_chosen) = match (self.n_experts.unwrap_or(0), self.n_chosen_experts) {
            (0, _) => return Ok(None),
            (n_experts, Some(n_chosen)) if (1..=n_experts).contains(&n_chosen) && n_experts <= MAX_WIDTH => {
                (n_experts, n_chosen)
            }
            (n_experts, n_chosen) => {
                let reason = format!("{n_chosen:?} chosen of {n_experts} found");
                return Err(Fault::new("experts", reason));
            }
        };
        let width = self.expert_feed_forward.unwrap_or(self.feed_forward.of(0));
        check_size("width of an expert", width, MAX_WIDTH)?;
        let shared_width = self.shared_feed_forward.filter(|it| *it > 0);
        check_size("width of the shared expert", shared_width.unwrap_or(1), MAX_WIDTH)?;
        let groups = match self.expert_groups {
            None | Some((0 | 1, _)) => None,
            Some((n_groups, n_chosen_groups)) => {
                let is_usable = n_experts.is_multiple_of(n_groups)
                    && (1..=n_groups).contains(&n_chosen_groups)
                    && n_chosen <= n_experts / n_groups * n_chosen_groups;
                if !is_usable {
                    return Err(Fault::new(
                        "groups of experts",
                        format!(
                            "{n_chosen} experts of {n_chosen_groups} groups of {n_groups} found, with {n_experts} experts"
                        ),
                    ));
                }
                Some(ExpertGroups {
                    n_groups,
                    n_chosen: n_chosen_groups,
                })
            }
        };
        Ok(Some(ExpertChoice {
            n_experts,
            n_chosen,
            width,
            shared_width,
            gate: self.expert_gate.unwrap_or(Gate::Softmax),
            is_normalized: self.experts_are_normalized.unwrap_or(true),
            scale: self.expert_scale.unwrap_or(1.0),
            groups,
            are_beside_dense: family.experts_are_beside_dense,
        }))
    }

    /// The rotary embedding of layers without a window, and that of the others where it is another.
    fn ropes(&self, family: &Family, head_dim: usize) -> Result<Vec<Rope>, Fault> {
        let pairing = match self.source {
            Source::Gguf => family.gguf_pairing,
            Source::HuggingFace => family.hugging_face_pairing,
        };
        let rope = |theta: f32, n_dims: usize, head_dim: usize, scaling: &RopeScaling| {
            if n_dims == 0 || !n_dims.is_multiple_of(2) || n_dims > head_dim {
                return Err(Fault::new(
                    "rotated numbers of a head",
                    format!("{n_dims} found, an even number up to the head's {head_dim} expected"),
                ));
            }
            Rope::new(pairing, theta, n_dims, scaling, self.context_length)
                .map_err(|reason| Fault::new("rope scaling", reason))
        };
        let theta = self.rope_theta.unwrap_or(DEFAULT_THETA);
        let n_dims = self.rope_dims.unwrap_or(head_dim);
        let mut ropes = vec![rope(theta, n_dims, head_dim, &self.rope_scaling)?];
        // Layers that see a window need no longer contexts: their own base goes unscaled.
        if self.window_rope_theta.is_some() || self.window_head_dim.is_some() {
            let (n_dims, head_dim) = match self.window_head_dim {
                Some(width) => (width, width),
                None => (n_dims, head_dim),
            };
            let theta = self.window_rope_theta.unwrap_or(theta);
            ropes.push(rope(theta, n_dims, head_dim, &RopeScaling::None)?);
        }
        Ok(ropes)
    }

    fn layers(
        &self,
        family: &Family,
        head_dim: usize,
        n_ropes: usize,
    ) -> Result<(Vec<CacheShape>, Vec<LayerConfig>), Fault> {
        for (name, listed) in [
            ("list of layers with a window", &self.has_window),
            ("list of layers with a state", &self.has_state),
        ] {
            if let Some(listed) = listed.as_ref().filter(|it| it.len() != self.n_layers) {
                let reason = format!("{} layers found, {} expected", listed.len(), self.n_layers);
                return Err(Fault::new(name, reason));
            }
        }
        let n_owning = self.n_layers.saturating_sub(self.n_sharing_layers);
        let (mut caches, mut layers) = (Vec::new(), Vec::<LayerConfig>::new());
        let mut n_states = 0;
        for layer_idx in 0..self.n_layers {
            let has_window = match &self.has_window {
                Some(listed) => listed[layer_idx],
                None => (family.has_window)(layer_idx),
            };
            let window = self.window.filter(|_| has_window);
            let has_state = self.has_state(layer_idx);
            let shares_cache = !has_state && layer_idx >= n_owning;
            let cache_idx = if has_state {
                n_states += 1;
                n_states - 1
            } else if shares_cache {
                // The last one of its kind that has its own.
                let mut owners = layers[..n_owning].iter().filter(|it| !it.has_state);
                let Some(owner) = owners.rfind(|it| it.window.is_some() == window.is_some()) else {
                    let reason = format!("layer {layer_idx} has no earlier layer of its kind");
                    return Err(Fault::new("layers that share keys and values", reason));
                };
                owner.cache_idx
            } else {
                caches.push(self.cached(layer_idx, window.is_some(), head_dim)?);
                caches.len() - 1
            };
            let feed_forward = self.feed_forward.of(layer_idx);
            check_size("width of the feed-forward layer", feed_forward, MAX_WIDTH)?;
            layers.push(LayerConfig {
                window,
                rope_idx: if window.is_some() { n_ropes - 1 } else { 0 },
                has_state,
                cache_idx,
                shares_cache,
                feed_forward,
                has_experts: layer_idx >= self.n_dense_layers.unwrap_or(0),
            });
        }
        Ok((caches, layers))
    }

    /// Whether a layer is a delta net.
    fn has_state(&self, layer_idx: usize) -> bool {
        match (&self.delta_net, &self.has_state) {
            (None, _) => false,
            (Some(_), Some(listed)) => listed[layer_idx],
            (Some(_), None) => {
                let interval = self.attention_interval.unwrap_or(DEFAULT_ATTENTION_INTERVAL);
                !(layer_idx + 1).is_multiple_of(interval.max(1))
            }
        }
    }
}

/// Base and scaling of a rotary embedding as `config`, the `config.json` at `path`, has them.
///
/// # Errors
/// [`EngineError::BadFile`] for a number that is missing, or a scaling that is not known.
pub(crate) fn published_rope(config: &Value, path: &Path) -> Result<(f32, RopeScaling), EngineError> {
    hugging_face::rope(config).map_err(|fault| fault.of(path))
}

/// A number in a file that cannot be used.
#[derive(Debug)]
pub(super) struct Fault {
    field: &'static str,
    reason: String,
}

impl Fault {
    fn new(field: &'static str, reason: String) -> Self {
        Self { field, reason }
    }

    /// As the error of a file.
    pub(super) fn of(self, path: &Path) -> EngineError {
        EngineError::BadFile {
            path: path.into(),
            field: self.field.into(),
            reason: self.reason,
        }
    }
}

/// The heads of a delta net have to fit together, and into what its kernel works on at once.
fn check_delta_net(delta_net: &DeltaNet) -> Result<(), Fault> {
    let DeltaNet {
        n_key_heads,
        n_value_heads,
        key_dim,
        value_dim,
        conv_len,
        ..
    } = *delta_net;
    for (name, value) in [
        ("key heads of a delta net", n_key_heads),
        ("value heads of a delta net", n_value_heads),
        ("width of a delta net's keys", key_dim),
        ("width of a delta net's values", value_dim),
    ] {
        check_size(name, value, MAX_HEAD)?;
    }
    if !n_value_heads.is_multiple_of(n_key_heads) {
        let reason = format!("{n_value_heads} found, a multiple of the {n_key_heads} key heads expected");
        return Err(Fault::new("value heads of a delta net", reason));
    }
    if !value_dim.is_multiple_of(STATE_COLUMNS) {
        let reason = format!("{value_dim} found, a multiple of {STATE_COLUMNS} expected");
        return Err(Fault::new("width of a delta net's values", reason));
    }
    if !(2..=BLOCK_LEN).contains(&conv_len) {
        let reason = format!("{conv_len} found, 2 to {BLOCK_LEN} expected");
        return Err(Fault::new("positions of a delta net's convolution", reason));
    }
    Ok(())
}

fn check_size(name: &'static str, value: usize, most: usize) -> Result<(), Fault> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(Fault::new(name, format!("{value} found, 1 to {most} expected")))
}
