//! The same forward pass on candle's tensors: slow, obvious, without a cache; what the fast one is checked against.
//!
//! Every weight is dequantised to single precision, every position is computed again for every call.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Tensor};

use super::{
    Activation, CacheShape, Checkpoint, DeltaNet, ExpertChoice, Gate, LatentAttention, LayerConfig,
    ModelConfig, RopePairing,
};
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
        if config.learns_positions {
            let positions = self.tensor("position_embd.weight")?;
            residual = (residual + positions.narrow(0, 0, tokens.len())?)?;
        }
        let parts = match config.layer_embedding {
            Some(width) => Some(self.layer_parts(&ids, &residual, width)?),
            None => None,
        };
        let mut cache = HashMap::new();
        for layer in 0..config.n_layers {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let normed = self.norm(&residual, &name("attn_norm"))?;
            let attended = match config.delta_net {
                Some(shape) if config.layers[layer].has_state => self.delta_net(&normed, layer, shape)?,
                _ => self.attention(&normed, layer, &mut cache)?,
            };
            residual = self.add(residual, attended, &name("post_attention_norm"))?;
            let fed = self.feed_forward(&residual, layer)?;
            residual = self.add(residual, fed, &name("post_ffw_norm"))?;
            if let Some(parts) = &parts {
                let gate = self.linear(&residual, &name("inp_gate"))?.gelu()?;
                let part = parts.narrow(1, layer, 1)?.squeeze(1)?;
                let added = self.linear(&(gate * part)?, &name("proj"))?;
                residual = self.add(residual, added, &name("post_norm"))?;
            }
            if let Some(scale) = self.optional(&name("layer_output_scale.weight"))? {
                residual = residual.broadcast_mul(&scale)?;
            }
        }
        let normed = self.norm(&residual, "output_norm")?;
        let output = self.optional("output.weight")?.unwrap_or(embedding);
        let mut logits = (normed.matmul(&output.t()?)? * f64::from(config.logit_scale))?;
        if let Some(cap) = config.logit_cap.map(f64::from) {
            logits = ((logits / cap)?.tanh()? * cap)?;
        }
        Ok(logits.flatten_all()?.to_vec1()?)
    }

    /// The second embedding of each token, (tokens, layers, width).
    fn layer_parts(&self, ids: &Tensor, residual: &Tensor, width: usize) -> Result<Tensor> {
        let shape = (residual.dim(0)?, self.config.n_layers, width);
        let table = self.tensor("per_layer_token_embd.weight")?;
        let own = (table.embedding(ids)?.reshape(shape)? * (width as f64).sqrt())?;
        let projected = self.linear(residual, "per_layer_model_proj")?.reshape(shape)?;
        let projected = (projected / (self.config.hidden as f64).sqrt())?;
        let weight = self.tensor("per_layer_proj_norm.weight")?;
        let projected = self.rms_norm(&projected)?.broadcast_mul(&weight)?;
        Ok(((projected + own)? / std::f64::consts::SQRT_2)?)
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

    /// `x`: (tokens, hidden) -> (tokens, hidden). `cache` holds the keys and values of earlier layers.
    fn attention(
        &self,
        x: &Tensor,
        layer: usize,
        cache: &mut HashMap<usize, (Tensor, Tensor)>,
    ) -> Result<Tensor> {
        if let Some(shape) = self.config.latent {
            return self.latent_attention(x, layer, shape);
        }
        let n_heads = self.config.n_heads;
        let CacheShape {
            n_heads: n_kv_heads,
            key_dim: head_dim,
            ..
        } = self.config.cache_of(layer);
        let name = |part: &str| format!("blk.{layer}.{part}");
        let is_fused = self.optional(&name("attn_qkv.weight"))?.is_some();
        let fused = is_fused.then(|| self.linear(x, &name("attn_qkv"))).transpose()?;
        // A third of the fused product starts after so many heads.
        let heads = |part: &str, n: usize, first: usize| -> Result<Tensor> {
            let rows = match &fused {
                Some(all) => all.narrow(1, first * head_dim, n * head_dim)?,
                None => self.linear(x, &name(&format!("attn_{part}")))?,
            };
            Ok(rows.reshape(((), n, head_dim))?)
        };
        let norm_and_turn = |part: &str, mut y: Tensor| -> Result<Tensor> {
            if let Some(weight) = self.optional(&name(&format!("attn_{part}_norm.weight")))? {
                let weight = (weight + f64::from(self.config.norm.weight_offset))?;
                y = self.rms_norm(&y)?.broadcast_mul(&weight)?;
            }
            self.rotate(&y, self.config.layers[layer].rope_idx)
        };
        let (q, gate) = if self.config.gates_attention {
            let both = self
                .linear(x, &name("attn_q"))?
                .reshape(((), n_heads, 2 * head_dim))?;
            let gate = both.narrow(2, head_dim, head_dim)?.flatten_from(1)?;
            (both.narrow(2, 0, head_dim)?, Some(gate))
        } else {
            (heads("q", n_heads, 0)?, None)
        };
        let q = norm_and_turn("q", q)?;
        let LayerConfig {
            cache_idx,
            shares_cache,
            ..
        } = self.config.layers[layer];
        if !shares_cache {
            let k = norm_and_turn("k", heads("k", n_kv_heads, n_heads)?)?;
            let has_value = fused.is_some() || self.optional(&name("attn_v.weight"))?.is_some();
            let mut v = heads(
                if has_value { "v" } else { "k" },
                n_kv_heads,
                n_heads + n_kv_heads,
            )?;
            if self.config.norms_values {
                v = self.rms_norm(&v)?;
            }
            cache.insert(cache_idx, (k, v));
        }
        let (k, v) = &cache[&cache_idx];
        let sinks = self.optional(&name("attn_sinks.weight"))?;
        let mut attended = self.attend(&q, k, v, self.config.layers[layer], sinks)?;
        if let Some(gate) = gate {
            attended = (attended * sigmoid(&gate)?)?;
        }
        self.linear(&attended, &name("attn_output"))
    }

    /// `x`: (tokens, hidden) -> (tokens, hidden). Makes the keys and values of all heads.
    fn latent_attention(&self, x: &Tensor, layer: usize, shape: LatentAttention) -> Result<Tensor> {
        let LatentAttention {
            rank,
            plain_dim,
            rotated_dim,
            ..
        } = shape;
        let (n_tokens, n_heads) = (x.dim(0)?, self.config.n_heads);
        let LayerConfig { rope_idx, .. } = self.config.layers[layer];
        let name = |part: &str| format!("blk.{layer}.{part}");
        let normed = |x: &Tensor, part: &str| -> Result<Tensor> {
            let weight = self.tensor(&name(&format!("{part}.weight")))?;
            Ok(divide_by_root(x, LatentAttention::NORM_EPSILON)?.broadcast_mul(&weight)?)
        };
        let q = if shape.query_rank.is_some() {
            let compressed = self.linear(x, &name("attn_q_a"))?;
            self.linear(&normed(&compressed, "attn_q_a_norm")?, &name("attn_q_b"))?
        } else {
            self.linear(x, &name("attn_q"))?
        };
        let q = q.reshape((n_tokens, n_heads, plain_dim + rotated_dim))?;
        let turned = self.rotate(&q.narrow(2, plain_dim, rotated_dim)?.contiguous()?, rope_idx)?;
        let q = Tensor::cat(&[q.narrow(2, 0, plain_dim)?.contiguous()?, turned], 2)?;

        let kept = self.linear(x, &name("attn_kv_a_mqa"))?;
        let latent = normed(&kept.narrow(1, 0, rank)?.contiguous()?, "attn_kv_a_norm")?;
        let turned = kept.narrow(1, rank, rotated_dim)?.contiguous()?.unsqueeze(1)?;
        let turned = self.rotate(&turned, rope_idx)?;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for head in 0..n_heads {
            let plain = latent.matmul(&self.slice(&name("attn_k_b"), head)?)?;
            keys.push(Tensor::cat(&[plain.unsqueeze(1)?, turned.clone()], 2)?);
            let value = latent.matmul(&self.slice(&name("attn_v_b"), head)?.t()?)?;
            values.push(value.unsqueeze(1)?);
        }
        let (k, v) = (Tensor::cat(&keys, 1)?, Tensor::cat(&values, 1)?);
        let attended = self.attend(&q, &k, &v, self.config.layers[layer], None)?;
        self.linear(&attended, &name("attn_output"))
    }

    /// `x`: (tokens, hidden) -> (tokens, hidden).
    fn delta_net(&self, x: &Tensor, layer: usize, shape: DeltaNet) -> Result<Tensor> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let DeltaNet {
            n_key_heads,
            n_value_heads,
            key_dim,
            value_dim,
            conv_len,
            ..
        } = shape;
        let n_tokens = x.dim(0)?;
        let mixed = self.linear(x, &name("attn_qkv"))?;
        let weights = self.tensor(&name("ssm_conv1d.weight"))?;
        let weights = weights.reshape((shape.conv_width(), conv_len))?;
        // Position by position, those before the first are zeros.
        let padded = mixed.pad_with_zeros(0, conv_len - 1, 0)?;
        let mut convolved = mixed.zeros_like()?;
        for tap in 0..conv_len {
            let weight = weights.narrow(1, tap, 1)?.t()?;
            convolved = (convolved + padded.narrow(0, tap, n_tokens)?.broadcast_mul(&weight)?)?;
        }
        let convolved = convolved.silu()?;
        let heads = |first: usize, n: usize, dim: usize| -> Result<Tensor> {
            Ok(convolved.narrow(1, first, n * dim)?.reshape((n_tokens, n, dim))?)
        };
        let unit = |x: Tensor| -> Result<Tensor> {
            let square = x.sqr()?.sum_keepdim(D::Minus1)?;
            Ok(x.broadcast_div(&(square + 1e-6)?.sqrt()?)?)
        };
        let queries = (unit(heads(0, n_key_heads, key_dim)?)? / (key_dim as f64).sqrt())?;
        let keys = unit(heads(shape.key_width(), n_key_heads, key_dim)?)?;
        let values = heads(2 * shape.key_width(), n_value_heads, value_dim)?;
        let rate = match self.optional(&name("ssm_a_log"))? {
            Some(log) => log.exp()?.neg()?,
            None => self.tensor(&name("ssm_a"))?,
        };
        let fade = self
            .linear(x, &name("ssm_alpha"))?
            .broadcast_add(&self.tensor(&name("ssm_dt.bias"))?)?;
        let softplus = (fade.exp()? + 1.0)?.log()?;
        let kept = softplus.broadcast_mul(&rate)?.exp()?;
        let learned = sigmoid(&self.linear(x, &name("ssm_beta"))?)?;
        let mut answers = Vec::new();
        let mut states = vec![Tensor::zeros((key_dim, value_dim), DType::F32, &self.device)?; n_value_heads];
        for token in 0..n_tokens {
            for (head, state) in states.iter_mut().enumerate() {
                let at = |all: &Tensor, head: usize| all.get(token)?.get(head);
                let key = at(&keys, shape.key_head(head))?.unsqueeze(1)?; // (key_dim, 1)
                let query = at(&queries, shape.key_head(head))?.unsqueeze(0)?; // (1, key_dim)
                let value = at(&values, head)?.unsqueeze(0)?; // (1, value_dim)
                let faded = state.broadcast_mul(&at(&kept, head)?)?;
                let wrong = (value - key.t()?.matmul(&faded)?)?.broadcast_mul(&at(&learned, head)?)?;
                *state = (faded + key.matmul(&wrong)?)?;
                answers.push(query.matmul(state)?);
            }
        }
        let answers = Tensor::cat(&answers, 0)?.reshape((n_tokens, n_value_heads, value_dim))?;
        let weight = self.tensor(&name("ssm_norm.weight"))?;
        let normed = self.rms_norm(&answers)?.broadcast_mul(&weight)?;
        let gate = self.linear(x, &name("attn_gate"))?.silu()?;
        self.linear(&(normed.flatten_from(1)? * gate)?, &name("ssm_out"))
    }

    /// `q`: (tokens, n_heads, key_dim), `k`: (tokens, n_kv_heads, key_dim), `v`: (tokens, n_kv_heads, value_dim),
    /// `sinks`: (n_heads) -> (tokens, n_heads * value_dim).
    fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        LayerConfig { window, .. }: LayerConfig,
        sinks: Option<Tensor>,
    ) -> Result<Tensor> {
        let (n_tokens, n_heads, _) = q.dims3()?;
        let repeat = |x: &Tensor| -> Result<Tensor> {
            let (_, n_kv_heads, head_dim) = x.dims3()?;
            let group = n_heads / n_kv_heads;
            let x = x
                .unsqueeze(2)?
                .broadcast_as((n_tokens, n_kv_heads, group, head_dim))?;
            let x = x.reshape((n_tokens, n_heads, head_dim))?.transpose(0, 1)?;
            Ok(x.contiguous()?)
        };
        let (k, v) = (repeat(k)?, repeat(v)?);
        let mut q = q.transpose(0, 1)?.contiguous()?;
        if let Some(growth) = self.config.query_growth {
            let factors: Vec<f32> = (0..n_tokens).map(|it| growth.factor(it)).collect();
            q = q.broadcast_mul(&Tensor::from_vec(factors, (n_tokens, 1), &self.device)?)?;
        }
        let mut scores = (q.matmul(&k.transpose(1, 2)?)? * f64::from(self.config.attention_scale))?;
        if let Some(cap) = self.config.score_cap.map(f64::from) {
            scores = ((scores / cap)?.tanh()? * cap)?;
        }
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
        Ok(attended.reshape((n_tokens, ()))?)
    }

    /// `residual`: (tokens, hidden) -> (tokens, hidden).
    fn feed_forward(&self, residual: &Tensor, layer: usize) -> Result<Tensor> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let x = self.norm(residual, &name("ffn_norm"))?;
        let has_experts = self.config.layers[layer].has_experts;
        let Some(choice) = self.config.experts.filter(|_| has_experts) else {
            return self.dense(&x, name);
        };
        if !choice.are_beside_dense {
            return self.experts(&x, &x, layer, choice);
        }
        let normed = |x: &Tensor, part: &str| self.norm(x, &name(part));
        let dense = normed(&self.dense(&x, name)?, "post_ffw_norm_1")?;
        let scale = self.tensor(&name("ffn_gate_inp.scale"))?;
        let routed = (self.rms_norm(residual)?.broadcast_mul(&scale)? / (self.config.hidden as f64).sqrt())?;
        let mixed = self.experts(&normed(residual, "pre_ffw_norm_2")?, &routed, layer, choice)?;
        Ok((dense + normed(&mixed, "post_ffw_norm_2")?)?)
    }

    /// `x` is what experts read, `routed` what the choice goes by; both (tokens, hidden) -> (tokens, hidden).
    fn experts(&self, x: &Tensor, routed: &Tensor, layer: usize, choice: ExpertChoice) -> Result<Tensor> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        // Every row runs every expert; those that it did not choose have no share.
        let scores = self.linear(routed, &name("ffn_gate_inp"))?;
        let bias = match self.optional(&name("exp_probs_b.bias"))? {
            Some(bias) => bias.to_vec1()?,
            None => vec![0.0; choice.n_experts],
        };
        let all = match choice.gate {
            Gate::Softmax => softmax(&scores)?,
            Gate::Sigmoid => sigmoid(&scores)?,
        };
        let all: Vec<Vec<f32>> = all.to_vec2()?;
        let shares: Vec<f32> = all.iter().flat_map(|row| shares(row, &bias, choice)).collect();
        let mut shares = Tensor::from_vec(shares, (x.dim(0)?, choice.n_experts), &self.device)?;
        if let Some(scales) = self.optional(&name("ffn_down_exps.scale"))? {
            shares = shares.broadcast_mul(&scales)?;
        }
        let mut mixed = match choice.shared_width {
            Some(_) => self.dense(x, |part| name(&format!("{part}_shexp")))?,
            None => x.zeros_like()?,
        };
        if let Some(gate) = self.optional(&name("ffn_gate_inp_shexp.weight"))? {
            let gate = sigmoid(&x.matmul(&gate.reshape((1, ()))?.t()?)?)?;
            mixed = mixed.broadcast_mul(&gate)?;
        }
        for expert in 0..choice.n_experts {
            let (gate, up) = match self.optional(&name("ffn_gate_up_exps.weight"))? {
                Some(all) => {
                    let both = x.matmul(&all.get(expert)?.t()?)?;
                    let halves = both.chunk(2, 1)?;
                    (halves[0].clone(), halves[1].clone())
                }
                None => (
                    self.expert(x, &name("ffn_gate_exps"), expert)?,
                    self.expert(x, &name("ffn_up_exps"), expert)?,
                ),
            };
            let out = self.expert(&self.activate(&gate, &up)?, &name("ffn_down_exps"), expert)?;
            mixed = (mixed + out.broadcast_mul(&shares.narrow(1, expert, 1)?)?)?;
        }
        Ok(mixed)
    }

    /// One feed-forward layer; `name` gives the whole name of a part such as `ffn_up`.
    fn dense(&self, x: &Tensor, name: impl Fn(&str) -> String) -> Result<Tensor> {
        let up = self.linear(x, &name("ffn_up"))?;
        let gate = name("ffn_gate");
        let hidden = if self.optional(&format!("{gate}.weight"))?.is_some() {
            self.activate(&self.linear(x, &gate)?, &up)?
        } else if self.config.activation == Activation::Gelu {
            up.gelu()?
        } else {
            let halves = up.chunk(2, 1)?;
            self.activate(&halves[0], &halves[1])?
        };
        self.linear(&hidden, &name("ffn_down"))
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

    /// One expert's product and bias.
    fn expert(&self, x: &Tensor, name: &str, expert: usize) -> Result<Tensor> {
        let y = x.matmul(&self.slice(name, expert)?.t()?)?;
        Ok(match self.optional(&format!("{name}.bias"))? {
            Some(bias) => y.broadcast_add(&bias.get(expert)?)?,
            None => y,
        })
    }

    /// One of several matrices, from its own tensor or its slice of all of them.
    fn slice(&self, name: &str, idx: usize) -> Result<Tensor> {
        match self.optional(&format!("{name}.{idx}.weight"))? {
            Some(matrix) => Ok(matrix),
            None => Ok(self.tensor(&format!("{name}.weight"))?.get(idx)?),
        }
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
        divide_by_root(x, self.config.norm.epsilon)
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

/// The share of every expert in one row, 0 for those that it does not choose; `all` is what the gate makes of the scores.
fn shares(all: &[f32], bias: &[f32], choice: ExpertChoice) -> Vec<f32> {
    let mut ranks: Vec<f32> = all.iter().zip(bias).map(|(share, bias)| share + bias).collect();
    if let Some(groups) = choice.groups {
        let group_len = choice.n_experts / groups.n_groups;
        let n_counted = match choice.gate {
            Gate::Softmax => 1,
            Gate::Sigmoid => 2,
        };
        let counts: Vec<f32> = ranks
            .chunks(group_len)
            .map(|group| highest(group, n_counted).into_iter().map(|it| group[it]).sum())
            .collect();
        let open = highest(&counts, groups.n_chosen);
        for (expert, rank) in ranks.iter_mut().enumerate() {
            if !open.contains(&(expert / group_len)) {
                *rank = f32::NEG_INFINITY;
            }
        }
    }
    let chosen = highest(&ranks, choice.n_chosen);
    let total = match choice.is_normalized {
        true => chosen.iter().map(|expert| all[*expert]).sum(),
        false => 1.0,
    };
    let share = |expert: usize| choice.scale * all[expert] / total;
    (0..all.len())
        .map(|it| if chosen.contains(&it) { share(it) } else { 0.0 })
        .collect()
}

/// Where the `n` highest of some numbers stand.
fn highest(numbers: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|a, b| numbers[*b].total_cmp(&numbers[*a]));
    order.truncate(n);
    order
}

/// `x` over the root of its mean square, along the last dimension.
fn divide_by_root(x: &Tensor, epsilon: f32) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(x.broadcast_div(&(mean_square + f64::from(epsilon))?.sqrt()?)?)
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok((x.neg()?.exp()? + 1.0)?.recip()?)
}

/// Over the last dimension.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?)
}
