//! The half of a layer that looks at other positions.

use super::{Context, NormWeights, add_bias, load::Loader};
use crate::{
    error::EngineError,
    kernels::{
        SharedOut,
        activation::multiply_by_sigmoid,
        attention::{AttentionShape, attend},
        float::rotate,
        matmul::{Input, Matrix, Product, QuantizedRows, multiply},
        norm::rms_norm_in_place,
    },
    kv_cache::KvCache,
    model::{Batch, LayerConfig, ModelConfig, RopePairing},
};

pub(super) struct Attention {
    /// Its place among the layers with keys and values.
    cache_layer: usize,
    norm: NormWeights,
    /// With gates, twice as wide: a head's query, then its gate.
    query: Projection,
    key: Projection,
    value: Projection,
    query_norm: Option<Vec<f32>>,
    key_norm: Option<Vec<f32>>,
    /// `(n_heads)`.
    sinks: Option<Vec<f32>>,
    output: Projection,
    post_norm: Option<NormWeights>,
}

struct Projection {
    matrix: Matrix,
    bias: Option<Vec<f32>>,
}

/// Activations of one batch.
#[derive(Default)]
pub(super) struct Buffers {
    /// `(rows, n_heads, head_dim)`.
    query: Vec<f32>,
    /// `(rows, n_heads, 2, head_dim)`, and of those the gates; empty if the family has none.
    gated_query: Vec<f32>,
    gate: Vec<f32>,
    /// `(rows, n_kv_heads, head_dim)`.
    key: Vec<f32>,
    value: Vec<f32>,
    /// `(rows, n_heads, head_dim)`, in both forms.
    attended: Vec<f32>,
    quantized: QuantizedRows,
    /// For each of the model's rotary embeddings.
    rotations: Vec<Rotations>,
}

/// Cosines and sines, `(rows, pairs)` each, times the amplitude.
#[derive(Default)]
struct Rotations {
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Attention {
    pub(super) fn load(loader: &mut Loader<'_>, layer_idx: usize) -> Result<Self, EngineError> {
        let name = |part: &str| format!("blk.{layer_idx}.{part}");
        let ModelConfig {
            hidden,
            n_heads,
            head_dim,
            ..
        } = *loader.config;
        let (query_width, key_width) = (n_heads * head_dim, loader.config.n_kv_heads * head_dim);
        let query_outputs = if loader.config.gates_attention {
            2 * query_width
        } else {
            query_width
        };
        let norm = loader.norm(&name("attn_norm"))?;
        let [query, key, value] = if loader.has(&name("attn_qkv.weight")) {
            let fused = name("attn_qkv.weight");
            let n_rows = query_width + 2 * key_width;
            let ends = [0, query_width, query_width + key_width, n_rows];
            let mut part = |idx: usize| -> Result<Projection, EngineError> {
                Ok(Projection {
                    matrix: loader.part(&fused, (n_rows, hidden), ends[idx]..ends[idx + 1])?,
                    bias: None,
                })
            };
            [part(0)?, part(1)?, part(2)?]
        } else {
            [
                Projection::load(loader, &name("attn_q"), query_outputs, hidden)?,
                Projection::load(loader, &name("attn_k"), key_width, hidden)?,
                Projection::load(loader, &name("attn_v"), key_width, hidden)?,
            ]
        };
        Ok(Self {
            cache_layer: layer_idx - loader.config.n_state_layers(layer_idx),
            norm,
            query,
            key,
            value,
            query_norm: loader.optional_head_norm(&name("attn_q_norm"))?,
            key_norm: loader.optional_head_norm(&name("attn_k_norm"))?,
            sinks: loader.optional_vector(&name("attn_sinks.weight"), n_heads)?,
            output: Projection::load(loader, &name("attn_output"), hidden, query_width)?,
            post_norm: loader.optional_norm(&name("post_attention_norm"))?,
        })
    }

    /// Adds what the rows see to their residual streams, and their keys and values to the cache.
    pub(super) fn run(
        &self,
        context: &mut Context<'_>,
        layer_idx: usize,
        batch: Batch<'_>,
        cache: &mut KvCache,
        buffers: &mut super::Buffers,
    ) {
        let (config, isa, n_rows) = (context.config, context.isa, batch.rows.len());
        let LayerConfig { window, rope_idx, .. } = config.layers[layer_idx];
        buffers.norm_residual(context, &self.norm);
        let input = Input {
            rows: &buffers.normed,
            quantized: &buffers.quantized,
        };
        let own = &mut buffers.attention;
        let query_out = if config.gates_attention {
            &mut own.gated_query
        } else {
            &mut own.query
        };
        let products = [
            (&self.query, &mut *query_out),
            (&self.key, &mut own.key),
            (&self.value, &mut own.value),
        ];
        let products = products.map(|(projection, out)| Product {
            matrix: &projection.matrix,
            out,
        });
        multiply(isa, context.pool, input, n_rows, products);
        add_bias(query_out, self.query.bias.as_deref());
        add_bias(&mut own.key, self.key.bias.as_deref());
        add_bias(&mut own.value, self.value.bias.as_deref());
        own.split_gates(config.head_dim);
        let pairing = config.ropes[rope_idx].pairing;
        let rotations = &own.rotations[rope_idx];
        norm_and_rotate(
            context,
            self.query_norm.as_deref(),
            rotations,
            pairing,
            (&mut own.query, n_rows),
        );
        norm_and_rotate(
            context,
            self.key_norm.as_deref(),
            rotations,
            pairing,
            (&mut own.key, n_rows),
        );

        let key_width = config.n_kv_heads * config.head_dim;
        let keys_and_values = own
            .key
            .chunks_exact(key_width)
            .zip(own.value.chunks_exact(key_width));
        for (row, (key, value)) in batch.rows.iter().zip(keys_and_values) {
            let (block, slot) = batch.place(row);
            cache.write(self.cache_layer, block, slot, key, value);
        }
        let shape = AttentionShape {
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale,
            window,
            sinks: self.sinks.as_deref(),
        };
        attend(
            isa,
            context.pool,
            shape,
            batch,
            (cache, self.cache_layer),
            &own.query,
            &mut own.attended,
        );
        if config.gates_attention {
            multiply_by_sigmoid(isa, &mut own.attended, &own.gate);
        }
        own.quantized
            .set_rows(isa, context.pool, &own.attended, config.n_heads * config.head_dim);
        let input = Input {
            rows: &own.attended,
            quantized: &own.quantized,
        };
        let product = Product {
            matrix: &self.output.matrix,
            out: &mut buffers.projected,
        };
        multiply(isa, context.pool, input, n_rows, [product]);
        add_bias(&mut buffers.projected, self.output.bias.as_deref());
        buffers.add_projected(context, self.post_norm.as_ref());
    }
}

impl Projection {
    fn load(
        loader: &mut Loader<'_>,
        name: &str,
        n_outputs: usize,
        n_inputs: usize,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            matrix: loader.matrix(&format!("{name}.weight"), n_outputs, n_inputs)?,
            bias: loader.optional_vector(&format!("{name}.bias"), n_outputs)?,
        })
    }
}

impl Buffers {
    /// Makes room for the rows of `batch`; cosines and sines are the same in every layer.
    pub(super) fn prepare(&mut self, config: &ModelConfig, batch: Batch<'_>) {
        let n_rows = batch.rows.len();
        let n_gates = if config.gates_attention { config.n_heads } else { 0 };
        for (buffer, n_heads) in [
            (&mut self.query, config.n_heads),
            (&mut self.gated_query, 2 * n_gates),
            (&mut self.gate, n_gates),
            (&mut self.attended, config.n_heads),
            (&mut self.key, config.n_kv_heads),
            (&mut self.value, config.n_kv_heads),
        ] {
            buffer.resize(n_rows * n_heads * config.head_dim, 0.0);
        }
        self.rotations.resize_with(config.ropes.len(), Rotations::default);
        for (rope, Rotations { cosines, sines }) in config.ropes.iter().zip(&mut self.rotations) {
            let n_pairs = rope.frequencies.len();
            cosines.resize(n_rows * n_pairs, 0.0);
            sines.resize(n_rows * n_pairs, 0.0);
            let rotations = cosines
                .chunks_exact_mut(n_pairs)
                .zip(sines.chunks_exact_mut(n_pairs));
            for (row, (cosines, sines)) in batch.rows.iter().zip(rotations) {
                for ((frequency, cosine), sine) in rope.frequencies.iter().zip(cosines).zip(sines) {
                    let (sin, cos) = (row.position() as f32 * frequency).sin_cos();
                    (*cosine, *sine) = (cos * rope.amplitude, sin * rope.amplitude);
                }
            }
        }
    }

    /// Takes queries and gates apart, where the family has gates.
    fn split_gates(&mut self, head_dim: usize) {
        let heads = self.gated_query.chunks_exact(2 * head_dim);
        let parts = self
            .query
            .chunks_exact_mut(head_dim)
            .zip(self.gate.chunks_exact_mut(head_dim));
        for (head, (query, gate)) in heads.zip(parts) {
            query.copy_from_slice(&head[..head_dim]);
            gate.copy_from_slice(&head[head_dim..]);
        }
    }
}

/// Norms each head where the family has it, then rotates it by its row's position. `rows` is `(rows, heads, head_dim)`.
fn norm_and_rotate(
    context: &mut Context<'_>,
    norm: Option<&[f32]>,
    Rotations { cosines, sines }: &Rotations,
    pairing: RopePairing,
    (rows, n_rows): (&mut [f32], usize),
) {
    let (config, isa) = (context.config, context.isa);
    let (head_dim, epsilon) = (config.head_dim, config.norm.epsilon);
    let halves = pairing == RopePairing::Halves;
    let width = rows.len() / n_rows;
    let n_pairs = cosines.len() / n_rows;
    let rows = SharedOut::new(rows);
    context.pool.run_rows(n_rows, width, &|range| {
        let pairs = range.start / width * n_pairs..(range.start / width + 1) * n_pairs;
        // SAFETY: every row is another range.
        for head in unsafe { rows.slice(range) }.chunks_exact_mut(head_dim) {
            if let Some(weight) = norm {
                rms_norm_in_place(isa, head, weight, epsilon);
            }
            let rotated = &mut head[..2 * n_pairs];
            rotate(rotated, &cosines[pairs.clone()], &sines[pairs.clone()], halves);
        }
    });
}
