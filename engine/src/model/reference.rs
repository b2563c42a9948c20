//! The same forward pass on candle's tensors: slow, obvious, without a cache; what the fast one is checked against.
//!
//! Every weight is dequantised to single precision, every position is computed again for every call.

use candle_core::{D, DType, Device, Tensor};

use super::{Activation, Checkpoint, ExpertChoice, LayerConfig, ModelConfig, RopePairing};
use crate::error::EngineError;

/// Logits after every token, `(tokens, vocab)`, f32, row-major.
///
/// # Errors
/// As [`super::transformer::Transformer::load`]; [`EngineError::Stopped`] if candle refuses an operation.
pub fn logits(checkpoint: &Checkpoint, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
    let reference = Reference {
        checkpoint,
        config: checkpoint.config(),
        device: Device::Cpu,
    };
    Ok(reference.forward(tokens)?)
}

struct Reference<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a ModelConfig,
    device: Device,
}

/// What candle or the file refused.
enum Refusal {
    Candle(candle_core::Error),
    Engine(EngineError),
}

type Result<T, E = Refusal> = std::result::Result<T, E>;

impl From<candle_core::Error> for Refusal {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(error)
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<Refusal> for EngineError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Engine(error) => error,
            Refusal::Candle(error) => Self::Stopped(format!("candle refused an operation: {error}")),
        }
    }
}

impl Reference<'_> {
    fn forward(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        let config = self.config;
        let embedding = self.tensor("token_embd.weight")?;
        let ids = Tensor::new(tokens, &self.device)?;
        let mut residual = (embedding.embedding(&ids)? * f64::from(config.embedding_scale))?;
        for layer in 0..config.n_layers {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let normed = self.norm(&residual, &name("attn_norm"))?;
            let attended = self.attention(&normed, layer)?;
            residual = self.add(residual, attended, &name("post_attention_norm"))?;
            let normed = self.norm(&residual, &name("ffn_norm"))?;
            let fed = self.feed_forward(&normed, layer)?;
            residual = self.add(residual, fed, &name("post_ffw_norm"))?;
        }
        let normed = self.norm(&residual, "output_norm")?;
        let output = self.optional("output.weight")?.unwrap_or(embedding);
        let logits = (normed.matmul(&output.t()?)? * f64::from(config.logit_scale))?;
        Ok(logits.flatten_all()?.to_vec1()?)
    }

    /// The residual stream after one half of a layer.
    fn add(&self, residual: Tensor, mut added: Tensor, post_norm: &str) -> Result<Tensor> {
        if self
            .checkpoint
            .weights()
            .get(&format!("{post_norm}.weight"))
            .is_some()
        {
            added = self.norm(&added, post_norm)?;
        }
        Ok((residual + (added * f64::from(self.config.residual_scale))?)?)
    }

    /// `x`: (tokens, hidden) -> (tokens, hidden).
    fn attention(&self, x: &Tensor, layer: usize) -> Result<Tensor> {
        let ModelConfig {
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = *self.config;
        let name = |part: &str| format!("blk.{layer}.{part}");
        let fused = self.optional(&name("attn_qkv.weight"))?;
        let fused = fused.map(|weight| x.matmul(&weight.t()?)).transpose()?;
        // A third of the fused product starts after so many heads.
        let heads = |part: &str, n: usize, first: usize| -> Result<Tensor> {
            let rows = match &fused {
                Some(all) => all.narrow(1, first * head_dim, n * head_dim)?,
                None => self.linear(x, &name(&format!("attn_{part}")))?,
            };
            Ok(rows.reshape(((), n, head_dim))?)
        };
        let turned = |part: &str, n: usize, first: usize| -> Result<Tensor> {
            let mut y = heads(part, n, first)?;
            if let Some(weight) = self.optional(&name(&format!("attn_{part}_norm.weight")))? {
                let weight = (weight + f64::from(self.config.norm.weight_offset))?;
                y = self.rms_norm(&y)?.broadcast_mul(&weight)?;
            }
            self.rotate(&y, self.config.layers[layer].rope_idx)
        };
        let q = turned("q", n_heads, 0)?;
        let k = turned("k", n_kv_heads, n_heads)?;
        let v = heads("v", n_kv_heads, n_heads + n_kv_heads)?;
        let sinks = self.optional(&name("attn_sinks.weight"))?;
        let attended = self.attend(&q, &k, &v, self.config.layers[layer], sinks)?;
        self.linear(&attended, &name("attn_output"))
    }

    /// `q`: (tokens, n_heads, head_dim), `k`, `v`: (tokens, n_kv_heads, head_dim), `sinks`: (n_heads)
    /// -> (tokens, n_heads * head_dim).
    fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        LayerConfig { window, .. }: LayerConfig,
        sinks: Option<Tensor>,
    ) -> Result<Tensor> {
        let ModelConfig {
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = *self.config;
        let n_tokens = q.dim(0)?;
        let group = n_heads / n_kv_heads;
        let repeat = |x: &Tensor| -> Result<Tensor> {
            let x = x
                .unsqueeze(2)?
                .broadcast_as((n_tokens, n_kv_heads, group, head_dim))?;
            let x = x.reshape((n_tokens, n_heads, head_dim))?.transpose(0, 1)?;
            Ok(x.contiguous()?)
        };
        let (k, v) = (repeat(k)?, repeat(v)?);
        let q = q.transpose(0, 1)?.contiguous()?;
        let scores = (q.matmul(&k.transpose(1, 2)?)? * f64::from(self.config.attention_scale))?;
        let is_seen =
            |row: usize, column: usize| column <= row && window.is_none_or(|window| row - column < window);
        let mask: Vec<f32> = (0..n_tokens * n_tokens)
            .map(|at| {
                if is_seen(at / n_tokens, at % n_tokens) {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            })
            .collect();
        let scores = scores.broadcast_add(&Tensor::from_vec(mask, (n_tokens, n_tokens), &self.device)?)?;
        let sinks = match sinks {
            Some(sinks) => sinks.reshape((n_heads, 1, 1))?,
            None => Tensor::full(f32::NEG_INFINITY, (n_heads, 1, 1), &self.device)?,
        };
        let sinks = sinks.broadcast_as((n_heads, n_tokens, 1))?;
        let all = Tensor::cat(&[&scores, &sinks.contiguous()?], 2)?;
        let weights = softmax(&all)?.narrow(2, 0, n_tokens)?.contiguous()?;
        let attended = weights.matmul(&v)?.transpose(0, 1)?;
        Ok(attended.reshape((n_tokens, n_heads * head_dim))?)
    }

    /// `x`: (tokens, hidden) -> (tokens, hidden).
    fn feed_forward(&self, x: &Tensor, layer: usize) -> Result<Tensor> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let Some(ExpertChoice { n_experts, n_chosen }) = self.config.experts else {
            let up = self.linear(x, &name("ffn_up"))?;
            let hidden = if self.optional(&name("ffn_gate.weight"))?.is_some() {
                self.activate(&self.linear(x, &name("ffn_gate"))?, &up)?
            } else if self.config.activation == Activation::Gelu {
                up.gelu()?
            } else {
                let halves = up.chunk(2, 1)?;
                self.activate(&halves[0], &halves[1])?
            };
            return self.linear(&hidden, &name("ffn_down"));
        };
        // Every row runs every expert; those that it did not choose have no share.
        let scores: Vec<Vec<f32>> = self.linear(x, &name("ffn_gate_inp"))?.to_vec2()?;
        let mut shares = Vec::new();
        for row in scores {
            let mut order: Vec<usize> = (0..n_experts).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            let chosen = &order[..n_chosen];
            let total: f32 = chosen.iter().map(|expert| row[*expert].exp()).sum();
            shares.extend((0..n_experts).map(|it| {
                if chosen.contains(&it) {
                    row[it].exp() / total
                } else {
                    0.0
                }
            }));
        }
        let shares = Tensor::from_vec(shares, (x.dim(0)?, n_experts), &self.device)?;
        let mut mixed = x.zeros_like()?;
        for expert in 0..n_experts {
            let gate = self.expert(x, &name("ffn_gate_exps"), expert)?;
            let up = self.expert(x, &name("ffn_up_exps"), expert)?;
            let out = self.expert(&self.activate(&gate, &up)?, &name("ffn_down_exps"), expert)?;
            mixed = (mixed + out.broadcast_mul(&shares.narrow(1, expert, 1)?)?)?;
        }
        Ok(mixed)
    }

    fn activate(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        Ok(match self.config.activation {
            Activation::SwiGlu => (gate.silu()? * up)?,
            Activation::GeGlu => (gate.gelu()? * up)?,
            Activation::Gelu => gate.gelu()?,
            Activation::ClampedSwiGlu { limit } => {
                let (gate, up) = (gate.minimum(limit)?, up.clamp(-limit, limit)?);
                // silu(1.702 x) / 1.702 is x sigmoid(1.702 x).
                ((((&gate * 1.702)?.silu()? / 1.702)?) * (up + 1.0)?)?
            }
        })
    }

    /// One expert's product, from its own tensor or its slice of all of them.
    fn expert(&self, x: &Tensor, name: &str, expert: usize) -> Result<Tensor> {
        let weight = match self.optional(&format!("{name}.{expert}.weight"))? {
            Some(weight) => weight,
            None => self.tensor(&format!("{name}.weight"))?.get(expert)?,
        };
        let y = x.matmul(&weight.t()?)?;
        Ok(match self.optional(&format!("{name}.bias"))? {
            Some(bias) => y.broadcast_add(&bias.get(expert)?)?,
            None => y,
        })
    }

    /// `x`: (tokens, heads, head_dim), rotated by its row's index.
    fn rotate(&self, x: &Tensor, rope_idx: usize) -> Result<Tensor> {
        let rope = &self.config.ropes[rope_idx];
        let (n_tokens, n_heads, head_dim) = x.dims3()?;
        let n_pairs = rope.frequencies.len();
        let positions = Tensor::arange(0u32, n_tokens as u32, &self.device)?.to_dtype(DType::F32)?;
        let frequencies = Tensor::new(&rope.frequencies[..], &self.device)?;
        let angles = positions
            .reshape((n_tokens, 1, 1))?
            .broadcast_mul(&frequencies.reshape((1, 1, n_pairs))?)?;
        let cos = (angles.cos()? * f64::from(rope.amplitude))?;
        let sin = (angles.sin()? * f64::from(rope.amplitude))?;
        let (turned, rest) = (
            x.narrow(2, 0, 2 * n_pairs)?,
            x.narrow(2, 2 * n_pairs, head_dim - 2 * n_pairs)?,
        );
        let (a, b) = match rope.pairing {
            RopePairing::Halves => (turned.narrow(2, 0, n_pairs)?, turned.narrow(2, n_pairs, n_pairs)?),
            RopePairing::Adjacent => {
                let pairs = turned.reshape((n_tokens, n_heads, n_pairs, 2))?;
                (
                    pairs.narrow(3, 0, 1)?.squeeze(3)?,
                    pairs.narrow(3, 1, 1)?.squeeze(3)?,
                )
            }
        };
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
        let turned = match rope.pairing {
            RopePairing::Halves => Tensor::cat(&[first, second], 2)?,
            RopePairing::Adjacent => {
                Tensor::stack(&[first, second], 3)?.reshape((n_tokens, n_heads, 2 * n_pairs))?
            }
        };
        Ok(Tensor::cat(&[turned, rest.contiguous()?], 2)?)
    }

    /// A norm of the residual stream; `name` goes without `.weight`.
    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let norm = self.config.norm;
        let weight = (self.tensor(&format!("{name}.weight"))? + f64::from(norm.weight_offset))?;
        let x = if norm.subtracts_mean {
            x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?
        } else {
            x.clone()
        };
        let normed = self.rms_norm(&x)?.broadcast_mul(&weight)?;
        Ok(match self.optional(&format!("{name}.bias"))? {
            Some(bias) => normed.broadcast_add(&bias)?,
            None => normed,
        })
    }

    fn rms_norm(&self, x: &Tensor) -> Result<Tensor> {
        let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
        let scale = (mean_square + f64::from(self.config.norm.epsilon))?.sqrt()?;
        Ok(x.broadcast_div(&scale)?)
    }

    /// A product and its bias; `name` goes without `.weight`.
    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let y = x.matmul(&self.tensor(&format!("{name}.weight"))?.t()?)?;
        Ok(match self.optional(&format!("{name}.bias"))? {
            Some(bias) => y.broadcast_add(&bias)?,
            None => y,
        })
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let tensor = self.checkpoint.weights().require(name)?;
        let numbers = tensor.numbers()?;
        Ok(Tensor::from_vec(numbers, tensor.shape.as_slice(), &self.device)?)
    }

    fn optional(&self, name: &str) -> Result<Option<Tensor>> {
        let is_there = self.checkpoint.weights().get(name).is_some();
        is_there.then(|| self.tensor(name)).transpose()
    }
}

/// Over the last dimension.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?)
}
