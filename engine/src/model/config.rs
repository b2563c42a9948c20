//! A model's shape from what its file states, whatever the format of the file.

mod gguf;
mod hugging_face;

use super::{
    Activation, DeltaNet, ExpertChoice, LayerConfig, ModelConfig, Norm,
    family::{Family, Source},
    rope::{Rope, RopePairing, RopeScaling},
};
use crate::{error::EngineError, kernels::delta_rule::STATE_COLUMNS, kv_cache::BLOCK_LEN};

/// Largest width, count or length that a file may give; beyond it, activations alone would take gigabytes.
const MAX_WIDTH: usize = 1 << 20;

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
    /// Layers after those, which only draft.
    pub(super) n_drafting_layers: usize,
    pub(super) n_heads: usize,
    pub(super) n_kv_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    /// Numbers of a head that are rotated.
    pub(super) rope_dims: Option<usize>,
    pub(super) feed_forward: usize,
    pub(super) context_length: usize,
    pub(super) norm_epsilon: f32,
    pub(super) rope_theta: Option<f32>,
    pub(super) rope_scaling: RopeScaling,
    /// The base of layers with a window, if they have their own.
    pub(super) window_rope_theta: Option<f32>,
    pub(super) window: Option<usize>,
    /// Which layers have the window, where the file lists them.
    pub(super) has_window: Option<Vec<bool>>,
    pub(super) attention_scale: Option<f32>,
    pub(super) embedding_scale: Option<f32>,
    pub(super) residual_scale: Option<f32>,
    /// What logits are divided by.
    pub(super) logit_divisor: Option<f32>,
    pub(super) n_experts: Option<usize>,
    pub(super) n_chosen_experts: Option<usize>,
    pub(super) expert_feed_forward: Option<usize>,
    /// Width of the expert that all rows run.
    pub(super) shared_feed_forward: Option<usize>,
    /// Largest magnitude inside a clamped SwiGLU.
    pub(super) swiglu_limit: Option<f32>,
    pub(super) delta_net: Option<DeltaNet>,
    /// One layer in so many is no delta net, where the file does not list them.
    pub(super) attention_interval: Option<usize>,
    /// Which layers are delta nets, where the file lists them.
    pub(super) has_state: Option<Vec<bool>>,
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
            ("width of the feed-forward layer", self.feed_forward),
        ] {
            check_size(name, value, MAX_WIDTH)?;
        }
        check_size("context length", self.context_length, u32::MAX as usize)?;
        check_size("layers", self.n_layers, MAX_LAYERS)?;
        let n_kv_heads = self.n_kv_heads.unwrap_or(self.n_heads);
        if n_kv_heads == 0 || !self.n_heads.is_multiple_of(n_kv_heads) {
            let heads = self.n_heads;
            return Err(Fault::new(
                "key and value heads",
                format!("{n_kv_heads} found, a divisor of the {heads} query heads expected"),
            ));
        }
        let head_dim = self.head_dim.unwrap_or(self.hidden / self.n_heads);
        check_size("width of a head", head_dim, MAX_WIDTH)?;
        let rope_dims = self.rope_dims.unwrap_or(head_dim);
        if rope_dims == 0 || !rope_dims.is_multiple_of(2) || rope_dims > head_dim {
            return Err(Fault::new(
                "rotated numbers of a head",
                format!("{rope_dims} found, an even number up to the head's {head_dim} expected"),
            ));
        }
        for (name, number) in [
            ("norm epsilon", Some(self.norm_epsilon)),
            ("rope theta", self.rope_theta),
            ("rope theta of layers with a window", self.window_rope_theta),
            ("attention scale", self.attention_scale),
            ("embedding scale", self.embedding_scale),
            ("residual scale", self.residual_scale),
            ("logit divisor", self.logit_divisor),
            ("SwiGLU limit", self.swiglu_limit),
        ] {
            if let Some(number) = number.filter(|it| !(it.is_finite() && *it > 0.0)) {
                let reason = format!("{number} found, a finite number above 0 expected");
                return Err(Fault::new(name, reason));
            }
        }
        let experts = match (self.n_experts.unwrap_or(0), self.n_chosen_experts) {
            (0, _) => None,
            (n_experts, Some(n_chosen)) if (1..=n_experts).contains(&n_chosen) && n_experts <= MAX_WIDTH => {
                Some(ExpertChoice {
                    n_experts,
                    n_chosen,
                    shared_width: self.shared_feed_forward.filter(|width| *width > 0),
                })
            }
            (n_experts, n_chosen) => {
                let reason = format!("{n_chosen:?} chosen of {n_experts} found");
                return Err(Fault::new("experts", reason));
            }
        };
        let feed_forward = match experts {
            Some(_) => self.expert_feed_forward.unwrap_or(self.feed_forward),
            None => self.feed_forward,
        };
        check_size("width of an expert", feed_forward, MAX_WIDTH)?;
        let shared_width = self.shared_feed_forward.unwrap_or(0);
        check_size("width of the shared expert", shared_width.max(1), MAX_WIDTH)?;
        if let Some(delta_net) = &self.delta_net {
            check_delta_net(delta_net)?;
        }
        let (ropes, layers) = self.layers(family, rope_dims)?;
        Ok(ModelConfig {
            architecture: family.gguf.into(),
            vocab: self.vocab,
            hidden: self.hidden,
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            n_kv_heads,
            head_dim,
            feed_forward,
            context_length: self.context_length,
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
            embedding_scale: self.embedding_scale.unwrap_or(1.0),
            residual_scale: self.residual_scale.unwrap_or(1.0),
            logit_scale: 1.0 / self.logit_divisor.unwrap_or(1.0),
            gates_attention: family.gates_attention,
            delta_net: self.delta_net.map(|stated| DeltaNet {
                shares_with_neighbours: self.source == Source::HuggingFace || family.gguf_keeps_value_heads,
                ..stated
            }),
            ropes,
            layers,
        })
    }

    fn layers(&self, family: &Family, rope_dims: usize) -> Result<(Vec<Rope>, Vec<LayerConfig>), Fault> {
        let pairing = match self.source {
            Source::Gguf => family.gguf_pairing,
            Source::HuggingFace => RopePairing::Halves,
        };
        let rope = |theta: f32, scaling: &RopeScaling| {
            Rope::new(pairing, theta, rope_dims, scaling, self.context_length)
                .map_err(|reason| Fault::new("rope scaling", reason))
        };
        let mut ropes = vec![rope(self.rope_theta.unwrap_or(10_000.0), &self.rope_scaling)?];
        // Layers that see a window need no longer contexts: their own base goes unscaled.
        if let Some(theta) = self.window_rope_theta {
            ropes.push(rope(theta, &RopeScaling::None)?);
        }
        for (name, listed) in [
            ("list of layers with a window", &self.has_window),
            ("list of layers with a state", &self.has_state),
        ] {
            if let Some(listed) = listed.as_ref().filter(|it| it.len() != self.n_layers) {
                let reason = format!("{} layers found, {} expected", listed.len(), self.n_layers);
                return Err(Fault::new(name, reason));
            }
        }
        let layers = (0..self.n_layers).map(|layer_idx| {
            let has_window = match &self.has_window {
                Some(listed) => listed[layer_idx],
                None => (family.has_window)(layer_idx),
            };
            let window = self.window.filter(|_| has_window);
            LayerConfig {
                window,
                rope_idx: if window.is_some() { ropes.len() - 1 } else { 0 },
                has_state: match (&self.delta_net, &self.has_state) {
                    (None, _) => false,
                    (Some(_), Some(listed)) => listed[layer_idx],
                    (Some(_), None) => {
                        let interval = self.attention_interval.unwrap_or(DEFAULT_ATTENTION_INTERVAL);
                        (layer_idx + 1) % interval.max(1) != 0
                    }
                },
            }
        });
        let layers = layers.collect();
        Ok((ropes, layers))
    }
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
    pub(super) fn of(self, path: &std::path::Path) -> EngineError {
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
