//! What the metadata of a GGUF file states, under the keys of the GGUF specification.

use super::{
    super::{
        DeltaNet,
        family::{Family, Source},
    },
    Gate, LatentAttention, PerLayer, RopeScaling, Stated,
};
use crate::{
    error::EngineError,
    weights::{Gguf, Metadata},
};

impl Stated {
    /// Reads the keys of `family`.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] for a key that is missing or has another type, [`EngineError::Unsupported`] for a kind of
    /// RoPE scaling that is not known.
    pub(in crate::model) fn from_gguf(gguf: &Gguf, family: &Family) -> Result<Self, EngineError> {
        let keys = Keys {
            metadata: gguf.metadata(),
            architecture: family.gguf,
        };
        let require = |name: &str| -> Result<usize, EngineError> {
            Ok(keys.metadata.require_u32(&keys.key(name))? as usize)
        };
        let latent = keys.latent()?;
        let head_dim = keys.size("attention.key_length")?;
        if let (Some(key), Some(value), None) = (head_dim, keys.size("attention.value_length")?, latent)
            && key != value
        {
            let reason = format!("{value} found; this forward pass needs the width of a key, {key}");
            return Err(keys.metadata.bad(&keys.key("attention.value_length"), reason));
        }
        let norm_epsilon = match keys.number("attention.layer_norm_rms_epsilon")? {
            Some(epsilon) => epsilon,
            None => keys
                .metadata
                .require_f32(&keys.key("attention.layer_norm_epsilon"))?,
        };
        let n_prediction_layers = keys.size("nextn_predict_layers")?.unwrap_or(0);
        let Some(n_layers) = require("block_count")?.checked_sub(n_prediction_layers) else {
            let reason = format!("{n_prediction_layers} found, more than all layers");
            return Err(keys.metadata.bad(&keys.key("nextn_predict_layers"), reason));
        };
        let expert_feed_forward = keys.size("expert_feed_forward_length")?;
        Ok(Self {
            source: Source::Gguf,
            vocab: gguf.require("token_embd.weight")?.shape[0],
            hidden: require("embedding_length")?,
            n_layers,
            n_prediction_layers,
            n_heads: require("attention.head_count")?,
            n_kv_heads: keys.per_layer("attention.head_count_kv")?,
            window_kv_heads: None,
            head_dim,
            window_head_dim: keys.size("attention.key_length_swa")?,
            rope_dims: keys.size("rope.dimension_count")?,
            feed_forward: match (keys.per_layer("feed_forward_length")?, expert_feed_forward) {
                (Some(widths), _) => widths,
                (None, Some(width)) => PerLayer::All(width),
                (None, None) => PerLayer::All(require("feed_forward_length")?),
            },
            context_length: require("context_length")?,
            norm_epsilon,
            rope_theta: keys.number("rope.freq_base")?,
            rope_scaling: keys.rope_scaling(gguf, family.gguf_scaling)?,
            yarn_score_scale: keys.yarn_score_scale()?,
            window_rope_theta: keys.number("rope.freq_base_swa")?,
            // Some converters write 0 for "none".
            window: keys.size("attention.sliding_window")?.filter(|it| *it > 0),
            has_window: keys.has_window()?,
            attention_scale: keys.number("attention.scale")?,
            score_cap: keys.number("attn_logit_softcapping")?.filter(|it| *it != 0.0),
            query_growth: keys
                .number("attention.temperature_scale")?
                .filter(|it| *it != 0.0),
            query_growth_span: keys.size("attention.temperature_length")?.filter(|it| *it > 0),
            embedding_scale: keys.number("embedding_scale")?,
            residual_scale: keys.number("residual_scale")?,
            logit_divisor: keys.number("logit_scale")?,
            logit_cap: keys.number("final_logit_softcapping")?.filter(|it| *it != 0.0),
            n_sharing_layers: keys.size("attention.shared_kv_layers")?.unwrap_or(0),
            layer_embedding: keys
                .size("embedding_length_per_layer_input")?
                .filter(|it| *it > 0),
            n_experts: keys.size("expert_count")?,
            n_chosen_experts: keys.size("expert_used_count")?,
            expert_feed_forward,
            shared_feed_forward: keys.shared_feed_forward(expert_feed_forward)?,
            n_dense_layers: keys.size("leading_dense_block_count")?,
            expert_gate: keys.expert_gate(gguf)?,
            experts_are_normalized: keys.metadata.get_bool(&keys.key("expert_weights_norm"))?,
            // Some converters write 0 for "none".
            expert_scale: keys.number("expert_weights_scale")?.filter(|it| *it != 0.0),
            expert_groups: keys
                .size("expert_group_count")?
                .zip(keys.size("expert_group_used_count")?),
            latent,
            swiglu_limit: None,
            delta_net: keys.delta_net()?,
            attention_interval: keys.size("full_attention_interval")?,
            has_state: keys.has_state(n_layers)?,
        })
    }
}

struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn size(&self, name: &str) -> Result<Option<usize>, EngineError> {
        Ok(self.metadata.get_u32(&self.key(name))?.map(|it| it as usize))
    }

    /// A count, or a list with one for each layer.
    fn per_layer(&self, name: &str) -> Result<Option<PerLayer>, EngineError> {
        let key = self.key(name);
        if self.metadata.is_array(&key) {
            return Ok(self
                .metadata
                .get_u32_array(&key)?
                .map(|list| PerLayer::Each(list.into_iter().map(|it| it as usize).collect())));
        }
        Ok(self.size(name)?.map(PerLayer::All))
    }

    /// Which layers have a window, where they are listed.
    fn has_window(&self) -> Result<Option<Vec<bool>>, EngineError> {
        let key = self.key("attention.sliding_window_pattern");
        match self.metadata.is_array(&key) {
            true => self.metadata.get_bool_array(&key),
            false => Ok(None),
        }
    }

    fn number(&self, name: &str) -> Result<Option<f32>, EngineError> {
        self.metadata.get_f32(&self.key(name))
    }

    /// The widths of latent attention. Files with one matrix for keys and values give those of a head under the usual keys, files
    /// with two of them under their own.
    fn latent(&self) -> Result<Option<LatentAttention>, EngineError> {
        let Some(rank) = self.size("attention.kv_lora_rank")? else {
            return Ok(None);
        };
        let width = |own: &str, usual: &str| -> Result<usize, EngineError> {
            match self.size(own)? {
                Some(width) => Ok(width),
                None => Ok(self.metadata.require_u32(&self.key(usual))? as usize),
            }
        };
        let key_dim = width("attention.key_length_mla", "attention.key_length")?;
        let rotated_dim = self.metadata.require_u32(&self.key("rope.dimension_count"))? as usize;
        Ok(Some(LatentAttention {
            rank,
            query_rank: self.size("attention.q_lora_rank")?.filter(|it| *it > 0),
            plain_dim: key_dim.saturating_sub(rotated_dim),
            rotated_dim,
            value_dim: width("attention.value_length_mla", "attention.value_length")?,
        }))
    }

    /// DeepSeek's files give a tenth of the number that `config.json` has.
    fn yarn_score_scale(&self) -> Result<Option<f32>, EngineError> {
        Ok(self
            .number("rope.scaling.yarn_log_multiplier")?
            .filter(|it| *it != 0.0)
            .map(|it| it * 10.0))
    }

    /// Width of the expert that all rows run, given or as so many times that of the others.
    fn shared_feed_forward(&self, expert_feed_forward: Option<usize>) -> Result<Option<usize>, EngineError> {
        if let Some(width) = self.size("expert_shared_feed_forward_length")? {
            return Ok(Some(width));
        }
        let n_shared = self.size("expert_shared_count")?;
        Ok(n_shared
            .zip(expert_feed_forward)
            .map(|(n_shared, width)| width.saturating_mul(n_shared)))
    }

    /// What makes shares of scores. Some files leave it out, but only a sigmoid goes with a bias of the choice.
    fn expert_gate(&self, gguf: &Gguf) -> Result<Option<Gate>, EngineError> {
        match self.size("expert_gating_func")? {
            None | Some(0) => {
                let has_bias = gguf.tensors().any(|it| it.name.ends_with(".exp_probs_b.bias"));
                Ok(has_bias.then_some(Gate::Sigmoid))
            }
            Some(1) => Ok(Some(Gate::Softmax)),
            Some(2) => Ok(Some(Gate::Sigmoid)),
            Some(other) => Err(EngineError::Unsupported {
                what: "gate of experts",
                found: other.to_string(),
                known: "1 (softmax) and 2 (sigmoid)".into(),
            }),
        }
    }

    /// The heads of a delta net, under the keys of state space models.
    fn delta_net(&self) -> Result<Option<DeltaNet>, EngineError> {
        let Some(key_dim) = self.size("ssm.state_size")? else {
            return Ok(None);
        };
        let require = |name: &str| -> Result<usize, EngineError> {
            Ok(self.metadata.require_u32(&self.key(name))? as usize)
        };
        let n_value_heads = require("ssm.time_step_rank")?;
        Ok(Some(DeltaNet {
            n_key_heads: require("ssm.group_count")?,
            n_value_heads,
            key_dim,
            value_dim: require("ssm.inner_size")? / n_value_heads.max(1),
            conv_len: require("ssm.conv_kernel")?,
            shares_with_neighbours: true,
        }))
    }

    fn has_state(&self, n_layers: usize) -> Result<Option<Vec<bool>>, EngineError> {
        let listed = self
            .metadata
            .get_bool_array(&self.key("attention.recurrent_layers"))?;
        // Layers that draft are listed too.
        Ok(listed.map(|mut listed| {
            listed.truncate(n_layers);
            listed
        }))
    }

    fn rope_scaling(&self, gguf: &Gguf, default_kind: Option<&str>) -> Result<RopeScaling, EngineError> {
        if gguf.tensor("rope_freqs.weight").is_some() {
            return Ok(RopeScaling::Factors(
                gguf.require("rope_freqs.weight")?.numbers()?,
            ));
        }
        let original = self.size("rope.scaling.original_context_length")?;
        if gguf.tensor("rope_factors_long.weight").is_some() {
            return Ok(RopeScaling::LongRope {
                short: gguf.require("rope_factors_short.weight")?.numbers()?,
                long: gguf.require("rope_factors_long.weight")?.numbers()?,
                original: original.unwrap_or(4096),
                amplitude: self.number("rope.scaling.attn_factor")?,
            });
        }
        // Older files give the factor of linear scaling without its type; llama.cpp's converter writes 0 for "none".
        let factor = match self.number("rope.scaling.factor")? {
            None => self.number("rope.scale_linear")?,
            factor => factor,
        };
        let factor = factor.filter(|it| *it != 0.0);
        let kind = self.metadata.get_str(&self.key("rope.scaling.type"))?;
        let kind = kind.or(default_kind.filter(|_| factor.is_some()));
        match (kind, factor) {
            (Some("none"), _) | (None | Some("linear"), None) => Ok(RopeScaling::None),
            (None | Some("linear"), Some(factor)) => Ok(RopeScaling::Linear(factor)),
            (Some("yarn"), factor) => Ok(RopeScaling::Yarn {
                factor: factor.unwrap_or(1.0),
                beta_fast: self.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: self.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                original: match original {
                    Some(original) => original,
                    None => self.metadata.require_u32(&self.key("context_length"))? as usize,
                },
                truncate: true,
                // A score that is scaled leaves nothing to do for the amplitude in all released models.
                amplitude: self.yarn_score_scale()?.map(|_| 1.0),
            }),
            (Some(other), _) => Err(EngineError::Unsupported {
                what: "RoPE scaling",
                found: other.into(),
                known: "none, linear, yarn, and factors in `rope_freqs.weight` or `rope_factors_long.weight`"
                    .into(),
            }),
        }
    }
}
