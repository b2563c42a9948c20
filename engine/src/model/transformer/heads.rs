//! Queries, keys and values that come straight from the residual stream.

use super::{
    Context,
    attention::{Projection, Rotations},
    load::Loader,
};
use crate::{
    error::EngineError,
    kernels::{
        SharedOut,
        activation::multiply_by_sigmoid,
        matmul::{Input, multiply},
        norm::rms_norm_in_place,
    },
    model::{CacheShape, RopePairing},
};

pub(super) struct Heads {
    /// With gates, twice as wide: a head's query, then its gate.
    query: Projection,
    query_norm: Option<Vec<f32>>,
    /// Absent where the layer looks at those of an earlier one.
    cached: Option<KeysAndValues>,
}

struct KeysAndValues {
    key: Projection,
    key_norm: Option<Vec<f32>>,
    /// Absent where the keys' matrix makes values too.
    value: Option<Projection>,
    value_norm: Option<Vec<f32>>,
}

/// Activations of one batch where the family has gates.
#[derive(Default)]
pub(super) struct Buffers {
    /// `(rows, n_heads, 2, head_dim)`: a query, then its gate.
    gated_query: Vec<f32>,
    /// `(rows, n_heads, head_dim)`.
    gate: Vec<f32>,
}

impl Heads {
    pub(super) fn load(loader: &mut Loader<'_>, layer_idx: usize) -> Result<Self, EngineError> {
        let name = |part: &str| format!("blk.{layer_idx}.{part}");
        let config = loader.config;
        let (hidden, n_heads) = (config.hidden, config.n_heads);
        let CacheShape {
            n_heads: n_kv_heads,
            key_dim: head_dim,
            ..
        } = config.cache_of(layer_idx);
        let query_dim = if config.gates_attention {
            2 * head_dim
        } else {
            head_dim
        };
        let (query_width, key_width) = (n_heads * query_dim, n_kv_heads * head_dim);
        // One matrix for all three, or one for each.
        let fused = name("attn_qkv.weight");
        let is_fused = loader.has(&fused);
        let ends = [
            0,
            query_width,
            query_width + key_width,
            query_width + 2 * key_width,
        ];
        let fused_bias = loader.optional_vector(&name("attn_qkv.bias"), ends[3])?;
        let projection = |loader: &mut Loader<'_>, part: &str, idx: usize| {
            let rows = ends[idx]..ends[idx + 1];
            if !is_fused {
                return Projection::load(loader, &name(part), rows.len(), hidden);
            }
            Ok(Projection {
                matrix: loader.part(&fused, &[ends[3], hidden], rows.clone())?,
                bias: fused_bias.as_ref().map(|bias| bias[rows].to_vec()),
            })
        };
        let query = projection(loader, "attn_q", 0)?;
        let query_norm = loader.optional_head_norm(&name("attn_q_norm"), head_dim)?;
        let cached = if config.layers[layer_idx].shares_cache {
            // Some files have them all the same.
            for part in ["attn_k.weight", "attn_v.weight", "attn_k_norm.weight"] {
                loader.ignore(&name(part));
            }
            None
        } else {
            let has_value = is_fused || !config.norms_values || loader.has(&name("attn_v.weight"));
            Some(KeysAndValues {
                key: projection(loader, "attn_k", 1)?,
                key_norm: loader.optional_head_norm(&name("attn_k_norm"), head_dim)?,
                value: has_value.then(|| projection(loader, "attn_v", 2)).transpose()?,
                value_norm: config.norms_values.then(|| vec![1.0; head_dim]),
            })
        };
        Ok(Self {
            query,
            query_norm,
            cached,
        })
    }

    /// Writes queries, `(rows, n_heads, head_dim)`, and keys and values, `(rows, key heads, head_dim)`, if the layer has its own.
    pub(super) fn project(
        &self,
        context: &mut Context<'_>,
        (input, n_rows): (Input<'_>, usize),
        rotation: (&Rotations, RopePairing),
        head_dim: usize,
        buffers: &mut Buffers,
        (query, key, value): (&mut [f32], &mut [f32], &mut [f32]),
    ) {
        let (isa, has_gates) = (context.isa, context.config.gates_attention);
        let shape = (n_rows, head_dim);
        let query_out = if has_gates {
            buffers.gated_query.resize(2 * query.len(), 0.0);
            &mut buffers.gated_query
        } else {
            &mut *query
        };
        let product = self.query.product(query_out);
        let projections = self.cached.as_ref().map(|own| (&own.key, &own.value));
        match projections {
            None => multiply(isa, context.pool, input, n_rows, [product]),
            Some((keys, None)) => {
                multiply(isa, context.pool, input, n_rows, [product, keys.product(key)]);
            }
            Some((keys, Some(values))) => {
                let products = [product, keys.product(key), values.product(value)];
                multiply(isa, context.pool, input, n_rows, products);
            }
        }
        self.query.add_bias(query_out);
        if has_gates {
            buffers.split_gates(query, head_dim);
        }
        norm_and_rotate(context, self.query_norm.as_deref(), Some(rotation), query, shape);
        if let Some(own) = &self.cached {
            own.key.add_bias(key);
            match &own.value {
                Some(values) => values.add_bias(value),
                None => value.copy_from_slice(key),
            }
            norm_and_rotate(context, own.key_norm.as_deref(), Some(rotation), key, shape);
            norm_and_rotate(context, own.value_norm.as_deref(), None, value, shape);
        }
    }
}

impl Buffers {
    /// Takes queries, `(rows, n_heads, head_dim)`, and gates apart.
    fn split_gates(&mut self, query: &mut [f32], head_dim: usize) {
        self.gate.resize(query.len(), 0.0);
        let heads = self.gated_query.chunks_exact(2 * head_dim);
        let parts = query
            .chunks_exact_mut(head_dim)
            .zip(self.gate.chunks_exact_mut(head_dim));
        for (head, (query, gate)) in heads.zip(parts) {
            query.copy_from_slice(&head[..head_dim]);
            gate.copy_from_slice(&head[head_dim..]);
        }
    }

    /// Multiplies what the heads see, `(rows, n_heads, head_dim)`, by their gates where the family has them.
    pub(super) fn gate(&self, context: &Context<'_>, attended: &mut [f32]) {
        if context.config.gates_attention {
            multiply_by_sigmoid(context.isa, attended, &self.gate);
        }
    }
}

/// Norms each head where the family has it, then rotates it by its row's position. `rows` is `(n_rows, heads, head_dim)`.
fn norm_and_rotate(
    context: &mut Context<'_>,
    norm: Option<&[f32]>,
    rotation: Option<(&Rotations, RopePairing)>,
    rows: &mut [f32],
    (n_rows, head_dim): (usize, usize),
) {
    if norm.is_none() && rotation.is_none() {
        return;
    }
    let (isa, epsilon) = (context.isa, context.config.norm.epsilon);
    let width = rows.len() / n_rows;
    let rows = SharedOut::new(rows);
    context.pool.run_rows(n_rows, width, &|range| {
        let row = range.start / width;
        // SAFETY: every row is another range.
        for head in unsafe { rows.slice(range) }.chunks_exact_mut(head_dim) {
            if let Some(weight) = norm {
                rms_norm_in_place(isa, head, weight, epsilon);
            }
            if let Some((rotations, pairing)) = rotation {
                rotations.rotate(isa, row, head, pairing);
            }
        }
    });
}
