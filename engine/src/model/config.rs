//! A model's shape, read from the metadata of its file.

use super::{ModelConfig, RopePairing};
use crate::{error::EngineError, weights::Gguf};

/// Architectures that the shared forward pass runs, with the way they pair the rotary embedding.
const ARCHITECTURES: [(&str, RopePairing); 3] = [
    ("llama", RopePairing::Adjacent),
    ("qwen2", RopePairing::Halves),
    ("qwen3", RopePairing::Halves),
];

impl ModelConfig {
    /// Reads the shape from the keys that the GGUF specification gives for an architecture.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for an architecture or a RoPE scaling without a forward pass,
    /// [`EngineError::BadFile`] for a key that is missing or contradicts another.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, EngineError> {
        let metadata = gguf.metadata();
        let architecture = metadata.require_str("general.architecture")?;
        let Some(&(_, rope_pairing)) = ARCHITECTURES.iter().find(|(name, _)| *name == architecture) else {
            return Err(EngineError::Unsupported {
                what: "architecture",
                found: architecture.into(),
                known: ARCHITECTURES.map(|(name, _)| name).join(", "),
            });
        };
        let key = |name: &str| format!("{architecture}.{name}");
        let size = |name: &str| -> Result<usize, EngineError> {
            let value = metadata.require_u32(&key(name))? as usize;
            if value == 0 {
                Err(metadata.bad(&key(name), "0 found, at least 1 expected"))
            } else {
                Ok(value)
            }
        };
        let optional_size = |name: &str| -> Result<Option<usize>, EngineError> {
            Ok(metadata.get_u32(&key(name))?.map(|value| value as usize))
        };

        let hidden = size("embedding_length")?;
        let n_heads = size("attention.head_count")?;
        let n_kv_heads = optional_size("attention.head_count_kv")?.unwrap_or(n_heads);
        let head_dim = optional_size("attention.key_length")?.unwrap_or(hidden / n_heads);
        if n_kv_heads == 0 || n_heads % n_kv_heads != 0 {
            let reason = format!("{n_kv_heads} found, a divisor of the {n_heads} query heads expected");
            return Err(metadata.bad(&key("attention.head_count_kv"), reason));
        }
        if head_dim == 0 || head_dim % 2 != 0 {
            let reason = format!("{head_dim} found, an even number above 0 expected");
            return Err(metadata.bad(&key("attention.key_length"), reason));
        }
        for name in ["attention.value_length", "rope.dimension_count"] {
            if let Some(found) = optional_size(name)?.filter(|&found| found != head_dim) {
                let reason =
                    format!("{found} found; this forward pass needs the width of a head, {head_dim}");
                return Err(metadata.bad(&key(name), reason));
            }
        }
        Ok(Self {
            vocab: gguf.require("token_embd.weight")?.shape[0],
            hidden,
            n_layers: size("block_count")?,
            n_heads,
            n_kv_heads,
            head_dim,
            feed_forward: size("feed_forward_length")?,
            context_length: size("context_length")?,
            rms_norm_eps: metadata.require_f32(&key("attention.layer_norm_rms_epsilon"))?,
            rope_theta: metadata.get_f32(&key("rope.freq_base"))?.unwrap_or(10_000.0),
            rope_scale: rope_scale(gguf, architecture)?,
            rope_pairing,
            architecture: architecture.into(),
        })
    }
}

/// What positions are divided by: 1, or the factor of linear scaling.
fn rope_scale(gguf: &Gguf, architecture: &str) -> Result<f32, EngineError> {
    let metadata = gguf.metadata();
    let factor_key = format!("{architecture}.rope.scaling.factor");
    match metadata.get_str(&format!("{architecture}.rope.scaling.type"))? {
        None | Some("none") => Ok(1.0),
        Some("linear") => match metadata.require_f32(&factor_key)? {
            factor if factor.is_finite() && factor >= 1.0 => Ok(factor),
            factor => Err(metadata.bad(
                &factor_key,
                format!("{factor} found, a number of at least 1 expected"),
            )),
        },
        Some(other) => Err(EngineError::Unsupported {
            what: "RoPE scaling",
            found: other.into(),
            known: "none, linear, and the factors of Llama 3 in `rope_freqs.weight`".into(),
        }),
    }
}
