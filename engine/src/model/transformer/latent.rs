//! Queries and what the cache keeps, in multi-head latent attention.
//!
//! A key is never made: the matrix that would make it is applied to the query, so that all heads look at the same narrow rows,
//! and the weighted sum of those rows becomes a value by the other half of that matrix.

use super::{
    Context,
    attention::{Projection, Rotations},
    load::Loader,
};
use crate::{
    error::EngineError,
    kernels::{
        SharedOut,
        matmul::{Input, Matrix, Product, QuantizedRows, multiply, multiply_each},
        norm::rms_norm_in_place,
    },
    model::{LatentAttention, RopePairing},
};

pub(super) struct Latent {
    shape: LatentAttention,
    query: Query,
    /// What the cache keeps, `(rank + rotated_dim, hidden)`.
    compress: Projection,
    /// `(rank)`.
    norm: Vec<f32>,
    /// For each head, from the plain part of a query to what it looks for, `(rank, plain_dim)`.
    keys: Vec<Matrix>,
    /// For each head, from what it has found to its value, `(value_dim, rank)`.
    values: Vec<Matrix>,
}

/// From the residual stream to the queries of all heads, `(n_heads, plain_dim + rotated_dim)`.
enum Query {
    Direct(Projection),
    Compressed {
        compress: Projection,
        /// `(query_rank)`.
        norm: Vec<f32>,
        expand: Projection,
    },
}

/// Activations of one batch.
#[derive(Default)]
pub(super) struct Buffers {
    /// `(rows, query_rank)`, in both forms.
    compressed_query: Vec<f32>,
    quantized: QuantizedRows,
    /// `(rows, n_heads, plain_dim + rotated_dim)`.
    query: Vec<f32>,
    by_head: ByHead,
    /// `(rows, n_heads, value_dim)`.
    values: Vec<f32>,
}

/// What the heads' own matrices read and write.
#[derive(Default)]
struct ByHead {
    /// `(n_heads, rows, n_inputs)`, and the 8-bit form of each head.
    input: Vec<f32>,
    quantized: Vec<QuantizedRows>,
    /// `(n_heads, rows, n_outputs)`.
    out: Vec<f32>,
}

impl Latent {
    pub(super) fn load(
        loader: &mut Loader<'_>,
        layer_idx: usize,
        shape: LatentAttention,
    ) -> Result<Self, EngineError> {
        let name = |part: &str| format!("blk.{layer_idx}.{part}");
        let (hidden, n_heads) = (loader.config.hidden, loader.config.n_heads);
        let LatentAttention {
            rank,
            plain_dim,
            rotated_dim,
            value_dim,
            ..
        } = shape;
        let query_width = n_heads * (plain_dim + rotated_dim);
        let query = match shape.query_rank {
            None => Query::Direct(Projection::load(loader, &name("attn_q"), query_width, hidden)?),
            Some(query_rank) => Query::Compressed {
                compress: Projection::load(loader, &name("attn_q_a"), query_rank, hidden)?,
                norm: loader.vector(&name("attn_q_a_norm.weight"), query_rank)?,
                expand: Projection::load(loader, &name("attn_q_b"), query_width, query_rank)?,
            },
        };
        let mut of_heads = |part: &str, n_outputs: usize, n_inputs: usize| {
            (0..n_heads)
                .map(|head| loader.slice(&name(part), (head, n_heads), n_outputs, n_inputs))
                .collect::<Result<Vec<_>, EngineError>>()
        };
        Ok(Self {
            shape,
            query,
            keys: of_heads("attn_k_b", rank, plain_dim)?,
            values: of_heads("attn_v_b", value_dim, rank)?,
            compress: Projection::load(loader, &name("attn_kv_a_mqa"), rank + rotated_dim, hidden)?,
            norm: loader.vector(&name("attn_kv_a_norm.weight"), rank)?,
        })
    }

    /// Writes what each head looks for, `(rows, n_heads, rank + rotated_dim)`, and what the cache is to keep,
    /// `(rows, rank + rotated_dim)`.
    pub(super) fn project(
        &self,
        context: &mut Context<'_>,
        (input, n_rows): (Input<'_>, usize),
        (rotations, pairing): (&Rotations, RopePairing),
        own: &mut Buffers,
        (query, key): (&mut [f32], &mut [f32]),
    ) {
        let LatentAttention {
            rank,
            plain_dim,
            rotated_dim,
            ..
        } = self.shape;
        let (isa, epsilon) = (context.isa, LatentAttention::NORM_EPSILON);
        let n_heads = self.keys.len();
        let (query_dim, key_dim) = (plain_dim + rotated_dim, rank + rotated_dim);
        own.query.resize(n_rows * n_heads * query_dim, 0.0);
        let compress = Product {
            matrix: &self.compress.matrix,
            out: &mut *key,
        };
        match &self.query {
            Query::Direct(direct) => {
                let product = direct.product(&mut own.query);
                multiply(isa, context.pool, input, n_rows, [product, compress]);
                direct.add_bias(&mut own.query);
            }
            Query::Compressed {
                compress: first,
                norm,
                expand,
            } => {
                own.compressed_query.resize(n_rows * norm.len(), 0.0);
                let product = first.product(&mut own.compressed_query);
                multiply(isa, context.pool, input, n_rows, [product, compress]);
                first.add_bias(&mut own.compressed_query);
                for row in own.compressed_query.chunks_exact_mut(norm.len()) {
                    rms_norm_in_place(isa, row, norm, epsilon);
                }
                own.quantized
                    .set_rows(isa, context.pool, &own.compressed_query, norm.len());
                let input = Input {
                    rows: &own.compressed_query,
                    quantized: &own.quantized,
                };
                let product = expand.product(&mut own.query);
                multiply(isa, context.pool, input, n_rows, [product]);
                expand.add_bias(&mut own.query);
            }
        }
        self.compress.add_bias(key);
        for (row, key) in key.chunks_exact_mut(key_dim).enumerate() {
            let (latent, rotated) = key.split_at_mut(rank);
            rms_norm_in_place(isa, latent, &self.norm, epsilon);
            rotations.rotate(isa, row, rotated, pairing);
        }
        own.by_head.gather(&own.query, n_heads, plain_dim, n_rows);
        own.by_head
            .multiply(context, &self.keys, n_rows, (plain_dim, rank));
        let (out, absorbed, own_query) = (SharedOut::new(query), &own.by_head.out, &own.query);
        context.pool.run_rows(n_rows, n_heads * key_dim, &|range| {
            let row = range.start / (n_heads * key_dim);
            // SAFETY: every row is another range.
            let heads = unsafe { out.slice(range) }.chunks_exact_mut(key_dim);
            for (head, out) in heads.enumerate() {
                let (latent, rotated) = out.split_at_mut(rank);
                latent.copy_from_slice(&absorbed[(head * n_rows + row) * rank..][..rank]);
                let start = (row * n_heads + head) * query_dim + plain_dim;
                rotated.copy_from_slice(&own_query[start..][..rotated_dim]);
                rotations.rotate(isa, row, rotated, pairing);
            }
        });
    }

    /// The heads' values, `(rows, n_heads, value_dim)`, of the weighted sums that they have found, `(rows, n_heads, rank)`.
    pub(super) fn values<'a>(
        &self,
        context: &mut Context<'_>,
        found: &[f32],
        n_rows: usize,
        own: &'a mut Buffers,
    ) -> &'a [f32] {
        let LatentAttention { rank, value_dim, .. } = self.shape;
        let n_heads = self.values.len();
        own.by_head.gather(found, n_heads, rank, n_rows);
        own.by_head
            .multiply(context, &self.values, n_rows, (rank, value_dim));
        own.values.resize(n_rows * n_heads * value_dim, 0.0);
        for (idx, value) in own.values.chunks_exact_mut(value_dim).enumerate() {
            let (row, head) = (idx / n_heads, idx % n_heads);
            value.copy_from_slice(&own.by_head.out[(head * n_rows + row) * value_dim..][..value_dim]);
        }
        &own.values
    }
}

impl ByHead {
    /// Takes the first `width` numbers of each head of `rows`, `(rows, n_heads, at least width)`.
    fn gather(&mut self, rows: &[f32], n_heads: usize, width: usize, n_rows: usize) {
        let head_dim = rows.len() / (n_rows * n_heads);
        self.input.clear();
        for head in 0..n_heads {
            let of_head = rows.chunks_exact(head_dim).skip(head).step_by(n_heads);
            of_head.for_each(|it| self.input.extend_from_slice(&it[..width]));
        }
    }

    /// Applies each head's matrix, `(n_outputs, n_inputs)`, to its rows.
    fn multiply(
        &mut self,
        context: &mut Context<'_>,
        matrices: &[Matrix],
        n_rows: usize,
        (n_inputs, n_outputs): (usize, usize),
    ) {
        let Self {
            input,
            quantized,
            out,
        } = self;
        quantized.resize_with(matrices.len(), QuantizedRows::default);
        let heads = input.chunks_exact(n_rows * n_inputs);
        for (rows, quantized) in heads.zip(&mut *quantized) {
            quantized.set_rows(context.isa, context.pool, rows, n_inputs);
        }
        out.resize(matrices.len() * n_rows * n_outputs, 0.0);
        let inputs = |head: usize| Input {
            rows: &input[head * n_rows * n_inputs..][..n_rows * n_inputs],
            quantized: &quantized[head],
        };
        multiply_each(context.isa, context.pool, matrices, &inputs, n_rows, out);
    }
}
