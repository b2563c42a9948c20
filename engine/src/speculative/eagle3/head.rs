//! The network of an EAGLE-3 head: one transformer layer that reads a token and a feature of the position before it.
//!
//! Li et al. 2025, "EAGLE-3: Scaling up Inference Acceleration of Large Language Models via Training-Time Test". A
//! feature is either the fusion of three residual streams of the target, or what the layer made of the row before.

use super::config::{FusionNorm, HeadConfig, HeadFile};
use crate::{
    error::EngineError,
    kernels::{
        Isa,
        attention::{AttentionShape, attend},
        matmul::{Input, Matrix, Product, QuantizedRows, TileArena, multiply},
        norm::{rms_norm, rotate, swiglu},
        pool::ThreadPool,
    },
    kv_cache::KvCache,
    model::{Batch, CacheShape, ModelConfig, RopePairing},
    quant,
    weights::{Tensor, Weights},
};

pub(super) struct Head {
    pub(super) config: HeadConfig,
    target_hidden: usize,
    isa: Isa,
    pool: ThreadPool,
    /// For each token of the head the target's; none where they are the same.
    target_ids: Option<Vec<u32>>,
    /// Weights of the norms of captured streams: each goes over as many numbers as it has.
    fusion_norms: Vec<Vec<f32>>,
    /// `(hidden, captured layers * target hidden)`.
    fusion: Matrix,
    embedding: Matrix,
    token_norm: Vec<f32>,
    feature_norm: Vec<f32>,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    attention_output: Matrix,
    feed_forward_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    output_norm: Vec<f32>,
    output: Matrix,
    buffers: Buffers,
}

/// Activations of one batch.
#[derive(Default)]
struct Buffers {
    quantized: QuantizedRows,
    /// Captured streams, normed, `(rows, captured layers * target hidden)`.
    captured: Vec<f32>,
    /// Token and feature, each normed, `(rows, 2 * hidden)`.
    input: Vec<f32>,
    /// Residual stream, `(rows, hidden)`: at the end of a pass, the features for the next rows.
    residual: Vec<f32>,
    normed: Vec<f32>,
    projected: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    /// Of one row's angles.
    sines: Vec<f32>,
    cosines: Vec<f32>,
}

impl Head {
    /// Runs on these threads from now on.
    pub(super) fn run_on(&mut self, threads: ThreadPool) {
        self.pool = threads;
    }

    /// As [`Model::settle_threads`](crate::model::Model::settle_threads).
    pub(super) fn settle_threads(&self) {
        self.pool.keep_on_cores();
    }

    /// Takes the tensors of a head; those that it shares with its target come from `target_weights`.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] if a tensor is missing or has another shape than the configuration says,
    /// [`EngineError::Unsupported`] for a tensor type without kernels, or a tensor that nothing would read.
    pub(super) fn new(
        file: HeadFile,
        target: &ModelConfig,
        target_weights: &Weights,
        n_threads: usize,
    ) -> Result<Self, EngineError> {
        let HeadFile {
            config,
            mut weights,
            target_ids,
        } = file;
        let ModelConfig { hidden, n_heads, .. } = config.shape;
        let CacheShape {
            n_heads: n_kv_heads,
            key_dim: head_dim,
            ..
        } = config.shape.caches[0];
        let (query_width, key_width) = (n_heads * head_dim, n_kv_heads * head_dim);
        // What the head does not have of its own is the target's.
        let shared = |weights: &mut Weights, own: &str, names: &[&str], n_rows: usize| {
            if weights.get(own).is_some() {
                return take(weights, own, n_rows, hidden);
            }
            let name = names.iter().find(|name| target_weights.get(name).is_some());
            take(
                &mut target_weights.clone(),
                name.unwrap_or(&names[0]),
                n_rows,
                hidden,
            )
        };
        let (isa, mut pool, mut arena) = (Isa::detect(), ThreadPool::new(n_threads), TileArena::default());
        let weights = &mut weights;
        let mut matrix = |weights: &mut Weights, name: &str, n_outputs: usize, n_inputs: usize| {
            Matrix::new(
                take(weights, name, n_outputs, n_inputs)?,
                isa,
                &mut pool,
                &mut arena,
            )
        };
        let n_captured = config.target_layers.len();
        let fusion_norms = match config.fusion_norm {
            FusionNorm::None => Vec::new(),
            FusionNorm::Whole => vec![vector(weights, "input_norm.weight", n_captured * target.hidden)?],
            FusionNorm::Each => (0..n_captured)
                .map(|idx| vector(weights, &format!("fc_norm.{idx}.weight"), target.hidden))
                .collect::<Result<_, _>>()?,
        };
        let head = Self {
            target_hidden: target.hidden,
            isa,
            target_ids,
            fusion_norms,
            fusion: matrix(weights, "fc.weight", hidden, n_captured * target.hidden)?,
            embedding: Matrix::of_rows(shared(
                weights,
                "embed_tokens.weight",
                &["token_embd.weight"],
                target.vocab,
            )?)?,
            token_norm: vector(weights, "midlayer.input_layernorm.weight", hidden)?,
            feature_norm: vector(weights, "midlayer.hidden_norm.weight", hidden)?,
            query: matrix(
                weights,
                "midlayer.self_attn.q_proj.weight",
                query_width,
                2 * hidden,
            )?,
            key: matrix(weights, "midlayer.self_attn.k_proj.weight", key_width, 2 * hidden)?,
            value: matrix(weights, "midlayer.self_attn.v_proj.weight", key_width, 2 * hidden)?,
            attention_output: matrix(weights, "midlayer.self_attn.o_proj.weight", hidden, query_width)?,
            feed_forward_norm: vector(weights, "midlayer.post_attention_layernorm.weight", hidden)?,
            gate: matrix(
                weights,
                "midlayer.mlp.gate_proj.weight",
                config.feed_forward,
                hidden,
            )?,
            up: matrix(
                weights,
                "midlayer.mlp.up_proj.weight",
                config.feed_forward,
                hidden,
            )?,
            down: matrix(
                weights,
                "midlayer.mlp.down_proj.weight",
                hidden,
                config.feed_forward,
            )?,
            output_norm: vector(weights, "norm.weight", hidden)?,
            output: {
                let names = ["output.weight", "token_embd.weight"];
                let tensor = shared(weights, "lm_head.weight", &names, config.vocab)?;
                Matrix::new(tensor, isa, &mut pool, &mut arena)?
            },
            buffers: Buffers::default(),
            pool,
            config,
        };
        match weights.names().next() {
            None => Ok(head),
            Some(name) => Err(EngineError::Unsupported {
                what: "tensor of an EAGLE-3 head",
                found: name.to_owned(),
                known: "those of one layer without biases".into(),
            }),
        }
    }

    /// Numbers that are captured for one position.
    pub(super) fn captured_width(&self) -> usize {
        self.config.target_layers.len() * self.target_hidden
    }

    /// The target's token for one of the head's.
    pub(super) fn target_token(&self, token: usize) -> u32 {
        self.target_ids.as_ref().map_or(token as u32, |ids| ids[token])
    }

    /// Fuses captured residual streams, `(rows, layers, target hidden)`, to features, `(rows, hidden)`.
    pub(super) fn fuse(&mut self, captured: &[f32], features: &mut Vec<f32>) {
        let width = self.captured_width();
        let (n_rows, start) = (captured.len() / width, features.len());
        features.resize(start + n_rows * self.config.shape.hidden, 0.0);
        let own = &mut self.buffers;
        own.captured.clear();
        own.captured.extend_from_slice(captured);
        let (mut streams, mut normed) = (captured, &mut own.captured[..]);
        for weight in self.fusion_norms.iter().cycle() {
            let Some((stream, others)) = streams.split_at_checked(weight.len()) else {
                break;
            };
            let (out, others_out) = normed.split_at_mut(weight.len());
            rms_norm(self.isa, stream, weight, self.config.shape.norm.epsilon, out);
            (streams, normed) = (others, others_out);
        }
        own.quantized
            .set_rows(self.isa, &mut self.pool, &own.captured, width);
        let input = Input {
            rows: &own.captured,
            quantized: &own.quantized,
        };
        let product = Product {
            matrix: &self.fusion,
            out: &mut features[start..],
        };
        multiply(self.isa, &mut self.pool, input, n_rows, [product]);
    }

    /// Runs rows whose features are `(rows, hidden)`. Their positions are those of the features, their tokens the ones
    /// after those. Leaves in `rolled` what the layer makes of each row, which is the feature of a row that follows it,
    /// and in `logits` the scores after the rows that want them, `(n_wanted, vocab)`.
    pub(super) fn forward(
        &mut self,
        batch: Batch<'_>,
        features: &[f32],
        cache: &mut KvCache,
        rolled: &mut Vec<f32>,
        logits: &mut Vec<f32>,
    ) {
        let n_rows = batch.rows.len();
        let (isa, pool) = (self.isa, &mut self.pool);
        let HeadConfig {
            shape, feed_forward, ..
        } = &self.config;
        let ModelConfig { hidden, n_heads, .. } = *shape;
        let cached = shape.caches[0];
        let (head_dim, key_width) = (cached.key_dim, cached.n_heads * cached.key_dim);
        let epsilon = shape.norm.epsilon;
        let own = &mut self.buffers;
        own.resize(n_rows, shape, *feed_forward);
        own.residual.copy_from_slice(features);
        let inputs = own
            .input
            .chunks_exact_mut(2 * hidden)
            .zip(own.normed.chunks_exact_mut(hidden));
        let rows = batch.rows.iter().zip(own.residual.chunks_exact_mut(hidden));
        for ((row, feature), (input, token)) in rows.zip(inputs) {
            self.embedding.row(row.token as usize, token);
            let (left, right) = input.split_at_mut(hidden);
            rms_norm(isa, token, &self.token_norm, epsilon, left);
            rms_norm(isa, feature, &self.feature_norm, epsilon, right);
            if self.config.norm_before_residual {
                feature.copy_from_slice(right);
            }
        }
        own.quantized.set_rows(isa, pool, &own.input, 2 * hidden);
        let input = Input {
            rows: &own.input,
            quantized: &own.quantized,
        };
        let products = [
            Product {
                matrix: &self.query,
                out: &mut own.query,
            },
            Product {
                matrix: &self.key,
                out: &mut own.key,
            },
            Product {
                matrix: &self.value,
                out: &mut own.value,
            },
        ];
        multiply(isa, pool, input, n_rows, products);
        let rope = &self.config.rope;
        for (row, (query, key)) in batch.rows.iter().zip(
            own.query
                .chunks_exact_mut(n_heads * head_dim)
                .zip(own.key.chunks_exact_mut(key_width)),
        ) {
            own.sines.clear();
            own.cosines.clear();
            for frequency in &rope.frequencies {
                let (sin, cos) = (row.position() as f32 * frequency).sin_cos();
                own.sines.push(sin * rope.amplitude);
                own.cosines.push(cos * rope.amplitude);
            }
            for head in query
                .chunks_exact_mut(head_dim)
                .chain(key.chunks_exact_mut(head_dim))
            {
                rotate(
                    isa,
                    head,
                    &own.cosines,
                    &own.sines,
                    rope.pairing == RopePairing::Halves,
                );
            }
        }
        let keys_and_values = own
            .key
            .chunks_exact(key_width)
            .zip(own.value.chunks_exact(key_width));
        for (row, (key, value)) in batch.rows.iter().zip(keys_and_values) {
            let (block, slot) = batch.place(row);
            cache.write(0, block, slot, key, value);
        }
        let attention = AttentionShape {
            n_heads,
            cached,
            scale: 1.0 / (head_dim as f32).sqrt(),
            cap: None,
            window: None,
            sinks: None,
        };
        attend(
            isa,
            pool,
            attention,
            batch,
            (cache, 0),
            &own.query,
            &mut own.attended,
        );
        own.quantized
            .set_rows(isa, pool, &own.attended, n_heads * head_dim);
        let input = Input {
            rows: &own.attended,
            quantized: &own.quantized,
        };
        let product = Product {
            matrix: &self.attention_output,
            out: &mut own.projected,
        };
        multiply(isa, pool, input, n_rows, [product]);
        add_to(&mut own.residual, &own.projected);

        own.norm_residual(isa, pool, &self.feed_forward_norm, epsilon);
        let input = Input {
            rows: &own.normed,
            quantized: &own.quantized,
        };
        let products = [
            Product {
                matrix: &self.gate,
                out: &mut own.gate,
            },
            Product {
                matrix: &self.up,
                out: &mut own.up,
            },
        ];
        multiply(isa, pool, input, n_rows, products);
        let (gate, up) = (&mut own.gate, &own.up);
        own.quantized
            .make_rows(isa, pool, gate, *feed_forward, &|range, row| {
                swiglu(isa, row, &up[range]);
            });
        let input = Input {
            rows: &own.gate,
            quantized: &own.quantized,
        };
        let product = Product {
            matrix: &self.down,
            out: &mut own.projected,
        };
        multiply(isa, pool, input, n_rows, [product]);
        add_to(&mut own.residual, &own.projected);
        if self.config.norm_output {
            own.norm_residual(isa, pool, &self.output_norm, epsilon);
            rolled.clone_from(&own.normed);
        } else {
            rolled.clone_from(&own.residual);
        }

        let wanted = batch
            .rows
            .iter()
            .zip(rolled.chunks_exact(hidden))
            .filter(|(row, _)| row.wants_logits);
        own.residual.clear();
        own.residual.extend(wanted.flat_map(|(_, row)| row));
        let n_wanted = own.residual.len() / hidden;
        logits.resize(n_wanted * self.config.vocab, 0.0);
        if n_wanted > 0 {
            own.normed.truncate(own.residual.len());
            if self.config.norm_output {
                own.normed.copy_from_slice(&own.residual);
                own.quantized.set_rows(isa, pool, &own.normed, hidden);
            } else {
                own.norm_residual(isa, pool, &self.output_norm, epsilon);
            }
            let input = Input {
                rows: &own.normed,
                quantized: &own.quantized,
            };
            multiply(
                isa,
                pool,
                input,
                n_wanted,
                [Product {
                    matrix: &self.output,
                    out: logits,
                }],
            );
        }
    }
}

impl Buffers {
    fn resize(&mut self, n_rows: usize, shape: &ModelConfig, feed_forward: usize) {
        let cached = shape.caches[0];
        let (query_width, key_width) = (shape.n_heads * cached.key_dim, cached.n_heads * cached.key_dim);
        for (buffer, width) in [
            (&mut self.input, 2 * shape.hidden),
            (&mut self.residual, shape.hidden),
            (&mut self.normed, shape.hidden),
            (&mut self.projected, shape.hidden),
            (&mut self.query, query_width),
            (&mut self.attended, query_width),
            (&mut self.key, key_width),
            (&mut self.value, key_width),
            (&mut self.gate, feed_forward),
            (&mut self.up, feed_forward),
        ] {
            buffer.resize(n_rows * width, 0.0);
        }
    }

    /// `normed` and its 8-bit form from the residual stream.
    fn norm_residual(&mut self, isa: Isa, pool: &mut ThreadPool, weight: &[f32], epsilon: f32) {
        let hidden = weight.len();
        let residual = &self.residual;
        self.quantized
            .make_rows(isa, pool, &mut self.normed, hidden, &|range, out| {
                rms_norm(isa, &residual[range], weight, epsilon, out);
            });
    }
}

fn add_to(sum: &mut [f32], x: &[f32]) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += x;
    }
}

/// Takes the tensor `name`, `[n_rows, n_columns]`.
fn take(weights: &mut Weights, name: &str, n_rows: usize, n_columns: usize) -> Result<Tensor, EngineError> {
    let expected = [n_rows, n_columns];
    let shape = &weights.require(name)?.shape;
    if *shape != expected {
        return Err(weights.bad(name, format!("shape {shape:?} found, {expected:?} expected")));
    }
    weights
        .take(name)
        .ok_or_else(|| weights.bad(name, "the tensor is missing".into()))
}

/// Takes the vector `name` as single precision.
fn vector(weights: &mut Weights, name: &str, len: usize) -> Result<Vec<f32>, EngineError> {
    let tensor = weights.require(name)?;
    quant::require_known(tensor)?;
    if tensor.n_elements() != len {
        return Err(weights.bad(
            name,
            format!("{} numbers found, {len} expected", tensor.n_elements()),
        ));
    }
    let mut numbers = vec![0.0; len];
    quant::dequantize_row(tensor.dtype, tensor.bytes(), &mut numbers);
    weights.take(name);
    Ok(numbers)
}
