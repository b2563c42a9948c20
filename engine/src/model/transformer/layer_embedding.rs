//! A second embedding of each token, with a part for every layer (Gemma 4's small models).
//!
//! Each part is mixed with a projection of the usual embedding, and gates what its layer adds at its end.

use super::{
    Buffers, Context, NormWeights,
    load::{LAYER_EMBEDDING, Loader},
    scale_by,
};
use crate::{
    error::EngineError,
    kernels::{
        activation::activate,
        matmul::{Input, Matrix, Product, QuantizedRows, multiply},
        norm::rms_norm_in_place,
    },
    model::{Activation, Batch},
};

/// What makes the parts of all layers.
pub(super) struct LayerEmbedding {
    width: usize,
    /// `(vocab, n_layers * width)`.
    table: Matrix,
    /// From the usual embedding, `(n_layers * width, hidden)`.
    projection: Matrix,
    /// `(width)`.
    norm: Vec<f32>,
}

/// What one layer does with its part.
pub(super) struct LayerInput {
    width: usize,
    /// `(width, hidden)`.
    gate: Matrix,
    /// `(hidden, width)`.
    projection: Matrix,
    post_norm: NormWeights,
}

/// Activations of one batch.
#[derive(Default)]
pub(super) struct EmbeddingBuffers {
    /// `(rows, n_layers, width)`.
    parts: Vec<f32>,
    /// A token's row of the table.
    row: Vec<f32>,
    /// `(rows, width)`, in both forms.
    gate: Vec<f32>,
    quantized: QuantizedRows,
}

impl LayerEmbedding {
    pub(super) fn load(loader: &mut Loader<'_>, width: usize) -> Result<Self, EngineError> {
        let (vocab, hidden) = (loader.config.vocab, loader.config.hidden);
        let n_numbers = loader.config.n_layers * width;
        Ok(Self {
            width,
            table: loader.table(LAYER_EMBEDDING, vocab, n_numbers)?,
            projection: loader.matrix("per_layer_model_proj.weight", n_numbers, hidden)?,
            norm: loader.vector("per_layer_proj_norm.weight", width)?,
        })
    }

    /// Makes the parts of all layers; the residual stream holds the usual embedding.
    pub(super) fn prepare(&self, context: &mut Context<'_>, batch: Batch<'_>, buffers: &mut Buffers) {
        let (isa, config) = (context.isa, context.config);
        let (n_rows, n_numbers) = (batch.rows.len(), config.n_layers * self.width);
        buffers.quantize_residual(context);
        let input = Input {
            rows: &buffers.residual,
            quantized: &buffers.quantized,
        };
        let own = &mut buffers.layer_embedding;
        own.parts.resize(n_rows * n_numbers, 0.0);
        own.row.resize(n_numbers, 0.0);
        let product = Product {
            matrix: &self.projection,
            out: &mut own.parts,
        };
        multiply(isa, context.pool, input, n_rows, [product]);
        scale_by(&mut own.parts, 1.0 / (config.hidden as f32).sqrt());
        let table_scale = (self.width as f32).sqrt();
        for (row, parts) in batch.rows.iter().zip(own.parts.chunks_exact_mut(n_numbers)) {
            self.table.row(row.token as usize, &mut own.row);
            let of_layers = parts.chunks_exact_mut(self.width);
            for (part, token) in of_layers.zip(own.row.chunks_exact(self.width)) {
                rms_norm_in_place(isa, part, &self.norm, config.norm.epsilon);
                for (part, token) in part.iter_mut().zip(token) {
                    *part = (*part + token * table_scale) * std::f32::consts::FRAC_1_SQRT_2;
                }
            }
        }
    }
}

impl LayerInput {
    pub(super) fn load(loader: &mut Loader<'_>, layer_idx: usize, width: usize) -> Result<Self, EngineError> {
        let name = |part: &str| format!("blk.{layer_idx}.{part}");
        let hidden = loader.config.hidden;
        Ok(Self {
            width,
            gate: loader.matrix(&name("inp_gate.weight"), width, hidden)?,
            projection: loader.matrix(&name("proj.weight"), hidden, width)?,
            post_norm: loader.norm(&name("post_norm"))?,
        })
    }

    /// Adds what the layer's part lets through to the residual streams.
    pub(super) fn run(
        &self,
        context: &mut Context<'_>,
        (layer_idx, n_rows): (usize, usize),
        buffers: &mut Buffers,
    ) {
        let (isa, width, n_layers) = (context.isa, self.width, context.config.n_layers);
        buffers.quantize_residual(context);
        let input = Input {
            rows: &buffers.residual,
            quantized: &buffers.quantized,
        };
        let EmbeddingBuffers {
            parts,
            gate,
            quantized,
            ..
        } = &mut buffers.layer_embedding;
        gate.resize(n_rows * width, 0.0);
        let product = Product {
            matrix: &self.gate,
            out: gate,
        };
        multiply(isa, context.pool, input, n_rows, [product]);
        quantized.make_rows(isa, context.pool, gate, width, &|range, row| {
            let part = &parts[(range.start * n_layers + layer_idx * width)..][..width];
            activate(isa, Activation::GeGlu, row, part);
        });
        let input = Input {
            rows: gate,
            quantized,
        };
        let product = Product {
            matrix: &self.projection,
            out: &mut buffers.projected,
        };
        multiply(isa, context.pool, input, n_rows, [product]);
        buffers.add_projected(context, Some(&self.post_norm));
    }
}
