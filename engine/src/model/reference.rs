//! The same forward pass on candle's tensors: slow, obvious, without a cache; what the fast one is checked against.
//!
//! Every weight is dequantised to single precision, every position is computed again for every call.

use candle_core::{D, Device, Result, Tensor};

use super::{
    ModelConfig, RopePairing,
    transformer::{optional_vector, rope_frequencies, vector},
};
use crate::{error::EngineError, quant, weights::Gguf};

/// Logits after every token, `(tokens, vocab)`, f32, row-major.
///
/// # Errors
/// As [`super::transformer::Transformer::load`]; [`EngineError::Stopped`] if candle refuses an operation.
pub fn logits(
    gguf: &Gguf,
    config: &ModelConfig,
    tokens: &[u32],
) -> std::result::Result<Vec<f32>, EngineError> {
    let reference = Reference {
        gguf,
        config,
        device: Device::Cpu,
    };
    reference.forward(tokens)
}

struct Reference<'a> {
    gguf: &'a Gguf,
    config: &'a ModelConfig,
    device: Device,
}

impl Reference<'_> {
    fn forward(&self, tokens: &[u32]) -> std::result::Result<Vec<f32>, EngineError> {
        let rotations = self.rotations(tokens.len())?;
        let embedding = self.matrix("token_embd.weight")?;
        let ids = Tensor::new(tokens, &self.device).map_err(failed)?;
        let mut residual = embedding.embedding(&ids).map_err(failed)?;
        for layer in 0..self.config.n_layers {
            let prefix = format!("blk.{layer}");
            let normed = self.norm(&residual, &format!("{prefix}.attn_norm.weight"))?;
            let attended = self.attention(&normed, &prefix, &rotations)?;
            residual = (residual + attended).map_err(failed)?;
            let normed = self.norm(&residual, &format!("{prefix}.ffn_norm.weight"))?;
            let fed = self.feed_forward(&normed, &prefix)?;
            residual = (residual + fed).map_err(failed)?;
        }
        let normed = self.norm(&residual, "output_norm.weight")?;
        let output = if self.gguf.tensor("output.weight").is_some() {
            self.matrix("output.weight")?
        } else {
            embedding
        };
        let logits = normed.matmul(&output.t().map_err(failed)?).map_err(failed)?;
        logits
            .flatten_all()
            .and_then(|logits| logits.to_vec1())
            .map_err(failed)
    }

    /// `x`: (tokens, hidden) -> (tokens, hidden).
    fn attention(
        &self,
        x: &Tensor,
        prefix: &str,
        rotations: &(Tensor, Tensor),
    ) -> std::result::Result<Tensor, EngineError> {
        let ModelConfig {
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = *self.config;
        let heads = |part: &str, n: usize| -> std::result::Result<Tensor, EngineError> {
            let name = format!("{prefix}.attn_{part}");
            let mut y = self.linear(x, &format!("{name}.weight"))?;
            if let Some(bias) = optional_vector(self.gguf, &format!("{name}.bias"), n * head_dim)? {
                y = Tensor::new(bias, &self.device)
                    .and_then(|bias| y.broadcast_add(&bias))
                    .map_err(failed)?;
            }
            y.reshape(((), n, head_dim)).map_err(failed)
        };
        let turned = |part: &str, n: usize| -> std::result::Result<Tensor, EngineError> {
            let mut y = heads(part, n)?;
            let norm = format!("{prefix}.attn_{part}_norm.weight");
            if self.gguf.tensor(&norm).is_some() {
                y = self.norm(&y, &norm)?;
            }
            self.rotate(&y, rotations).map_err(failed)
        };
        let (q, k, v) = (
            turned("q", n_heads)?,
            turned("k", n_kv_heads)?,
            heads("v", n_kv_heads)?,
        );
        let attended = self.attend(&q, &k, &v).map_err(failed)?;
        self.linear(&attended, &format!("{prefix}.attn_output.weight"))
    }

    /// `q`: (tokens, n_heads, head_dim), `k`, `v`: (tokens, n_kv_heads, head_dim) -> (tokens, n_heads * head_dim).
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let ModelConfig {
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = *self.config;
        let n_tokens = q.dim(0)?;
        let group = n_heads / n_kv_heads;
        let repeat = |x: &Tensor| -> Result<Tensor> {
            let shape = (n_tokens, n_kv_heads, group, head_dim);
            x.unsqueeze(2)?
                .broadcast_as(shape)?
                .reshape((n_tokens, n_heads, head_dim))?
                .transpose(0, 1)?
                .contiguous()
        };
        let (k, v) = (repeat(k)?, repeat(v)?);
        let q = q.transpose(0, 1)?.contiguous()?;
        let scores = (q.matmul(&k.transpose(1, 2)?)? / (head_dim as f64).sqrt())?;
        let mask: Vec<f32> = (0..n_tokens * n_tokens)
            .map(|at| {
                if at % n_tokens > at / n_tokens {
                    f32::NEG_INFINITY
                } else {
                    0.0
                }
            })
            .collect();
        let scores = scores.broadcast_add(&Tensor::from_vec(mask, (n_tokens, n_tokens), &self.device)?)?;
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        weights
            .matmul(&v)?
            .transpose(0, 1)?
            .reshape((n_tokens, n_heads * head_dim))
    }

    fn feed_forward(&self, x: &Tensor, prefix: &str) -> std::result::Result<Tensor, EngineError> {
        let gate = self.linear(x, &format!("{prefix}.ffn_gate.weight"))?;
        let up = self.linear(x, &format!("{prefix}.ffn_up.weight"))?;
        let hidden = gate.silu().and_then(|gate| gate * up).map_err(failed)?;
        self.linear(&hidden, &format!("{prefix}.ffn_down.weight"))
    }

    /// Cosines and sines, `(tokens, 1, head_dim / 2)` each.
    fn rotations(&self, n_tokens: usize) -> std::result::Result<(Tensor, Tensor), EngineError> {
        let frequencies = rope_frequencies(self.gguf, self.config)?;
        let angles = || -> Result<Tensor> {
            let positions =
                Tensor::arange(0u32, n_tokens as u32, &self.device)?.to_dtype(candle_core::DType::F32)?;
            let frequencies = Tensor::new(frequencies, &self.device)?;
            positions
                .unsqueeze(1)?
                .broadcast_mul(&frequencies.unsqueeze(0)?)?
                .unsqueeze(1)
        };
        let angles = angles().map_err(failed)?;
        Ok((angles.cos().map_err(failed)?, angles.sin().map_err(failed)?))
    }

    /// `x`: (tokens, heads, head_dim).
    fn rotate(&self, x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
        let (n_tokens, n_heads, head_dim) = x.dims3()?;
        let (a, b) = match self.config.rope_pairing {
            RopePairing::Halves => (
                x.narrow(2, 0, head_dim / 2)?,
                x.narrow(2, head_dim / 2, head_dim / 2)?,
            ),
            RopePairing::Adjacent => {
                let pairs = x.reshape((n_tokens, n_heads, head_dim / 2, 2))?;
                (
                    pairs.narrow(3, 0, 1)?.squeeze(3)?,
                    pairs.narrow(3, 1, 1)?.squeeze(3)?,
                )
            }
        };
        let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
        let second = (a.broadcast_mul(sin)? + b.broadcast_mul(cos)?)?;
        match self.config.rope_pairing {
            RopePairing::Halves => Tensor::cat(&[first, second], 2),
            RopePairing::Adjacent => {
                Tensor::stack(&[first, second], 3)?.reshape((n_tokens, n_heads, head_dim))
            }
        }
    }

    fn norm(&self, x: &Tensor, weight: &str) -> std::result::Result<Tensor, EngineError> {
        let width = x.dims()[x.dims().len() - 1];
        let weight = vector(self.gguf, weight, width)?;
        let norm = || -> Result<Tensor> {
            let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
            let scale = (mean_square + f64::from(self.config.rms_norm_eps))?.sqrt()?;
            x.broadcast_div(&scale)?
                .broadcast_mul(&Tensor::new(weight, &self.device)?)
        };
        norm().map_err(failed)
    }

    fn linear(&self, x: &Tensor, name: &str) -> std::result::Result<Tensor, EngineError> {
        let weight = self.matrix(name)?;
        weight.t().and_then(|weight| x.matmul(&weight)).map_err(failed)
    }

    fn matrix(&self, name: &str) -> std::result::Result<Tensor, EngineError> {
        let tensor = self.gguf.require(name)?;
        quant::require_known(&tensor)?;
        let mut numbers = vec![0.0; tensor.n_elements()];
        quant::dequantize_row(tensor.dtype, tensor.bytes(), &mut numbers);
        Tensor::from_vec(numbers, tensor.shape.as_slice(), &self.device).map_err(failed)
    }
}

fn failed(error: candle_core::Error) -> EngineError {
    EngineError::Stopped(format!("candle refused an operation: {error}"))
}
