//! What the metadata of a GGUF file states, under the keys of the GGUF specification.

use super::{super::family::Source, RopeScaling, Stated};
use crate::{
    error::EngineError,
    weights::{Gguf, Metadata},
};

impl Stated {
    /// Reads the keys of `architecture`.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] for a key that is missing or has another type, [`EngineError::Unsupported`] for a kind of
    /// RoPE scaling that is not known.
    pub(in crate::model) fn from_gguf(gguf: &Gguf, architecture: &str) -> Result<Self, EngineError> {
        let keys = Keys {
            metadata: gguf.metadata(),
            architecture,
        };
        let require = |name: &str| -> Result<usize, EngineError> {
            Ok(keys.metadata.require_u32(&keys.key(name))? as usize)
        };
        let head_dim = keys.size("attention.key_length")?;
        if let (Some(key), Some(value)) = (head_dim, keys.size("attention.value_length")?)
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
        Ok(Self {
            source: Source::Gguf,
            vocab: gguf.require("token_embd.weight")?.shape[0],
            hidden: require("embedding_length")?,
            n_layers: require("block_count")?,
            n_heads: require("attention.head_count")?,
            n_kv_heads: keys.size("attention.head_count_kv")?,
            head_dim,
            rope_dims: keys.size("rope.dimension_count")?,
            feed_forward: require("feed_forward_length")?,
            context_length: require("context_length")?,
            norm_epsilon,
            rope_theta: keys.number("rope.freq_base")?,
            rope_scaling: keys.rope_scaling(gguf)?,
            window_rope_theta: keys.number("rope.freq_base_swa")?,
            // Some converters write 0 for "none".
            window: keys.size("attention.sliding_window")?.filter(|it| *it > 0),
            has_window: None,
            attention_scale: keys.number("attention.scale")?,
            embedding_scale: keys.number("embedding_scale")?,
            residual_scale: keys.number("residual_scale")?,
            logit_divisor: keys.number("logit_scale")?,
            n_experts: keys.size("expert_count")?,
            n_chosen_experts: keys.size("expert_used_count")?,
            expert_feed_forward: keys.size("expert_feed_forward_length")?,
            swiglu_limit: None,
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

    fn number(&self, name: &str) -> Result<Option<f32>, EngineError> {
        self.metadata.get_f32(&self.key(name))
    }

    fn rope_scaling(&self, gguf: &Gguf) -> Result<RopeScaling, EngineError> {
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
                amplitude: None,
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
