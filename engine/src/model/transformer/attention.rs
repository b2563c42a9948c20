//! The half of a layer that looks at other positions.

use super::{
    Context, NormWeights, add_bias,
    heads::{self, Heads},
    latent::{self, Latent},
    load::Loader,
    scale_by,
};
use crate::{
    error::EngineError,
    kernels::{
        Isa,
        attention::{AttentionShape, attend},
        matmul::{Input, Matrix, Product, QuantizedRows, multiply},
        norm::rotate,
    },
    kv_cache::KvCache,
    model::{Batch, LayerConfig, ModelConfig, RopePairing},
};

pub(super) struct Attention {
    norm: NormWeights,
    kind: Kind,
    /// `(n_heads)`.
    sinks: Option<Vec<f32>>,
    output: Projection,
    post_norm: Option<NormWeights>,
}

enum Kind {
    Heads(Box<Heads>),
    Latent(Box<Latent>),
}

pub(super) struct Projection {
    pub(super) matrix: Matrix,
    pub(super) bias: Option<Vec<f32>>,
}

/// Activations of one batch.
#[derive(Default)]
pub(super) struct Buffers {
    /// `(rows, n_heads, key_dim)`.
    query: Vec<f32>,
    /// `(rows, key heads, key_dim)`.
    key: Vec<f32>,
    /// `(rows, key heads, value_dim)`.
    value: Vec<f32>,
    /// `(rows, n_heads, value_dim)`.
    attended: Vec<f32>,
    /// What the output projection reads, in 8 bits.
    quantized: QuantizedRows,
    heads: heads::Buffers,
    latent: latent::Buffers,
    /// For each of the model's rotary embeddings.
    rotations: Vec<Rotations>,
}

/// Cosines and sines, `(rows, n_pairs)` each, times the amplitude.
#[derive(Default)]
pub(super) struct Rotations {
    n_pairs: usize,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Attention {
    pub(super) fn load(loader: &mut Loader<'_>, layer_idx: usize) -> Result<Self, EngineError> {
        let name = |part: &str| format!("blk.{layer_idx}.{part}");
        let ModelConfig {
            hidden,
            n_heads,
            latent,
            ..
        } = *loader.config;
        let norm = loader.norm(&name("attn_norm"))?;
        let (kind, output_width) = match latent {
            Some(shape) => {
                let latent = Latent::load(loader, layer_idx, shape)?;
                (Kind::Latent(Box::new(latent)), n_heads * shape.value_dim)
            }
            None => {
                let heads = Heads::load(loader, layer_idx)?;
                let value_dim = loader.config.cache_of(layer_idx).value_dim;
                (Kind::Heads(Box::new(heads)), n_heads * value_dim)
            }
        };
        Ok(Self {
            norm,
            kind,
            sinks: loader.optional_vector(&name("attn_sinks.weight"), n_heads)?,
            output: Projection::load(loader, &name("attn_output"), hidden, output_width)?,
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
        let LayerConfig {
            window,
            rope_idx,
            cache_idx,
            shares_cache,
            ..
        } = config.layers[layer_idx];
        let cached = config.caches[cache_idx];
        buffers.norm_residual(context, &self.norm);
        let input = Input {
            rows: &buffers.normed,
            quantized: &buffers.quantized,
        };
        let own = &mut buffers.attention;
        let key_width = cached.n_heads * cached.key_dim;
        let value_width = cached.n_heads * cached.value_dim;
        for (buffer, width) in [
            (&mut own.query, config.n_heads * cached.key_dim),
            (&mut own.key, key_width),
            (&mut own.value, value_width),
            (&mut own.attended, config.n_heads * cached.value_dim),
        ] {
            buffer.resize(n_rows * width, 0.0);
        }
        let rotation = (&own.rotations[rope_idx], config.ropes[rope_idx].pairing);
        match &self.kind {
            Kind::Heads(heads) => heads.project(
                context,
                (input, n_rows),
                rotation,
                cached.key_dim,
                &mut own.heads,
                (&mut own.query, &mut own.key, &mut own.value),
            ),
            Kind::Latent(latent) => latent.project(
                context,
                (input, n_rows),
                rotation,
                &mut own.latent,
                (&mut own.query, &mut own.key),
            ),
        }
        if let Some(growth) = config.query_growth {
            let queries = own.query.chunks_exact_mut(config.n_heads * cached.key_dim);
            for (row, query) in batch.rows.iter().zip(queries) {
                scale_by(query, growth.factor(row.position()));
            }
        }
        if !shares_cache {
            let keys_and_values = own
                .key
                .chunks_exact(key_width)
                .zip(own.value.chunks_exact(value_width));
            for (row, (key, value)) in batch.rows.iter().zip(keys_and_values) {
                let (block, slot) = batch.place(row);
                cache.write(cache_idx, block, slot, key, value);
            }
        }
        let shape = AttentionShape {
            n_heads: config.n_heads,
            cached,
            scale: config.attention_scale,
            cap: config.score_cap,
            window,
            sinks: self.sinks.as_deref(),
        };
        attend(
            isa,
            context.pool,
            shape,
            batch,
            (cache, cache_idx),
            &own.query,
            &mut own.attended,
        );
        let attended = match &self.kind {
            Kind::Heads(_) => {
                own.heads.gate(context, &mut own.attended);
                &own.attended
            }
            Kind::Latent(latent) => latent.values(context, &own.attended, n_rows, &mut own.latent),
        };
        own.quantized
            .set_rows(isa, context.pool, attended, attended.len() / n_rows);
        let input = Input {
            rows: attended,
            quantized: &own.quantized,
        };
        let product = self.output.product(&mut buffers.projected);
        multiply(isa, context.pool, input, n_rows, [product]);
        self.output.add_bias(&mut buffers.projected);
        buffers.add_projected(context, self.post_norm.as_ref());
    }
}

impl Projection {
    pub(super) fn load(
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

    pub(super) fn product<'a>(&'a self, out: &'a mut [f32]) -> Product<'a> {
        Product {
            matrix: &self.matrix,
            out,
        }
    }

    pub(super) fn add_bias(&self, rows: &mut [f32]) {
        add_bias(rows, self.bias.as_deref());
    }
}

impl Buffers {
    /// Cosines and sines of the rows of `batch`: they are the same in every layer.
    pub(super) fn prepare(&mut self, config: &ModelConfig, batch: Batch<'_>) {
        let n_rows = batch.rows.len();
        self.rotations.resize_with(config.ropes.len(), Rotations::default);
        for (rope, rotations) in config.ropes.iter().zip(&mut self.rotations) {
            let Rotations {
                n_pairs,
                cosines,
                sines,
            } = rotations;
            *n_pairs = rope.frequencies.len();
            cosines.resize(n_rows * *n_pairs, 0.0);
            sines.resize(n_rows * *n_pairs, 0.0);
            let rotations = cosines
                .chunks_exact_mut(*n_pairs)
                .zip(sines.chunks_exact_mut(*n_pairs));
            for (row, (cosines, sines)) in batch.rows.iter().zip(rotations) {
                for ((frequency, cosine), sine) in rope.frequencies.iter().zip(cosines).zip(sines) {
                    let (sin, cos) = (row.position() as f32 * frequency).sin_cos();
                    (*cosine, *sine) = (cos * rope.amplitude, sin * rope.amplitude);
                }
            }
        }
    }
}

impl Rotations {
    /// Rotates the first pairs of a head of row `row`; what lies beyond them stays.
    pub(super) fn rotate(&self, isa: Isa, row: usize, head: &mut [f32], pairing: RopePairing) {
        let pairs = row * self.n_pairs..(row + 1) * self.n_pairs;
        let rotated = &mut head[..2 * self.n_pairs];
        let halves = pairing == RopePairing::Halves;
        rotate(
            isa,
            rotated,
            &self.cosines[pairs.clone()],
            &self.sines[pairs],
            halves,
        );
    }
}
