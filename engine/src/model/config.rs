//! A model's shape, read from the metadata of its file.

use super::{ModelConfig, RopePairing};
use crate::{error::EngineError, weights::Gguf};

/// Architectures that the shared forward pass runs, with the way they pair the rotary embedding.
const ARCHITECTURES: [(&str, RopePairing); 3] = [
    ("llama", RopePairing::Adjacent),
    ("qwen2", RopePairing::Halves),
    ("qwen3", RopePairing::Halves),
];

/// Largest width, count or length that a file may give; beyond it, activations alone would take gigabytes.
const MAX_WIDTH: usize = 1 << 20;

const EPSILON: &str = "attention.layer_norm_rms_epsilon";
const THETA: &str = "rope.freq_base";

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
            if (1..=MAX_WIDTH).contains(&value) {
                Ok(value)
            } else {
                Err(metadata.bad(&key(name), format!("{value} found, 1 to {MAX_WIDTH} expected")))
            }
        };
        let positive = |name: &str, value: f32| -> Result<f32, EngineError> {
            if value.is_finite() && value > 0.0 {
                Ok(value)
            } else {
                Err(metadata.bad(
                    &key(name),
                    format!("{value} found, a finite number above 0 expected"),
                ))
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
            rms_norm_eps: positive(EPSILON, metadata.require_f32(&key(EPSILON))?)?,
            rope_theta: positive(THETA, metadata.get_f32(&key(THETA))?.unwrap_or(10_000.0))?,
            rope_scale: rope_scale(gguf, architecture)?,
            rope_pairing,
            architecture: architecture.into(),
        })
    }
}

/// What positions are divided by: 1, or the factor of linear scaling, which older files give without its type.
fn rope_scale(gguf: &Gguf, architecture: &str) -> Result<f32, EngineError> {
    let metadata = gguf.metadata();
    let linear = || {
        for key in ["rope.scaling.factor", "rope.scale_linear"].map(|name| format!("{architecture}.{name}")) {
            match metadata.get_f32(&key)? {
                None => {}
                // llama.cpp's converter writes 0 for "not scaled".
                Some(0.0) => return Ok(1.0),
                Some(factor) if factor.is_finite() && factor >= 1.0 => return Ok(factor),
                Some(factor) => {
                    return Err(
                        metadata.bad(&key, format!("{factor} found, a number of at least 1 expected"))
                    );
                }
            }
        }
        Ok(1.0)
    };
    match metadata.get_str(&format!("{architecture}.rope.scaling.type"))? {
        Some("none") => Ok(1.0),
        None | Some("linear") => linear(),
        Some(other) => Err(EngineError::Unsupported {
            what: "RoPE scaling",
            found: other.into(),
            known: "none, linear, and the factors of Llama 3 in `rope_freqs.weight`".into(),
        }),
    }
}
