//! Qwen 3 Next's own order of a delta net's rows, turned into that of Qwen 3.5.
//!
//! What belongs to one key head stands together there: its query, its key, the values and gates of the value heads that
//! read it. Elsewhere all queries come first, then all keys, and values and gates are matrices of their own.

use std::ops::Range;

use super::{DeltaNet, ModelConfig};
use crate::{
    error::EngineError,
    weights::{Conversion, Tensor, Weights},
};

/// Replaces matrices whose rows stand in groups by those that the forward pass reads, which are made as they are read.
/// Leaves other checkpoints as they are.
///
/// # Errors
/// [`EngineError::BadFile`] for a matrix of an unexpected shape.
pub(super) fn ungroup_heads(weights: &mut Weights, config: &ModelConfig) -> Result<(), EngineError> {
    let Some(shape) = config.delta_net else {
        return Ok(());
    };
    let DeltaNet {
        n_key_heads,
        n_value_heads,
        key_dim,
        value_dim,
        ..
    } = shape;
    let n_shared = n_value_heads / n_key_heads;
    let values = n_shared * value_dim;
    for layer_idx in 0..config.n_layers {
        let name = |part: &str| format!("blk.{layer_idx}.{part}.weight");
        if let Some(grouped) = weights.take(&name("ssm_in")) {
            let widths = [key_dim, key_dim, values, values];
            let [queries, keys, values, gates] = parts(widths);
            let all = Groups::new(weights, &grouped, n_key_heads, widths.iter().sum())?;
            let mixed = name("attn_qkv");
            weights.insert(mixed.clone(), all.pick(&mixed, &[queries, keys, values])?)?;
            let gate = name("attn_gate");
            weights.insert(gate.clone(), all.pick(&gate, &[gates])?)?;
        }
        if let Some(grouped) = weights.take(&name("ssm_ba")) {
            let [learn, fade] = parts([n_shared, n_shared]);
            let all = Groups::new(weights, &grouped, n_key_heads, 2 * n_shared)?;
            for (part, rows) in [("ssm_beta", learn), ("ssm_alpha", fade)] {
                weights.insert(name(part), all.pick(&name(part), &[rows])?)?;
            }
        }
    }
    Ok(())
}

/// Ranges of these widths, one after the other.
fn parts<const N: usize>(widths: [usize; N]) -> [Range<usize>; N] {
    let mut end = 0;
    widths.map(|width| {
        let start = end;
        end += width;
        start..end
    })
}

/// A matrix whose rows stand in groups of one size.
struct Groups<'a> {
    matrix: &'a Tensor,
    n_groups: usize,
    group_len: usize,
}

impl<'a> Groups<'a> {
    fn new(
        weights: &Weights,
        matrix: &'a Tensor,
        n_groups: usize,
        group_len: usize,
    ) -> Result<Self, EngineError> {
        match matrix.shape[..] {
            [n_rows, _] if n_rows == n_groups * group_len => Ok(Self {
                matrix,
                n_groups,
                group_len,
            }),
            _ => {
                let (found, expected) = (&matrix.shape, n_groups * group_len);
                let reason = format!("shape {found:?} found, {expected} rows expected");
                Err(weights.bad(&matrix.name, reason))
            }
        }
    }

    /// The first of some parts of every group, then the second ones...
    fn pick(&self, name: &str, parts: &[Range<usize>]) -> Result<Tensor, EngineError> {
        let (matrix, group_len) = (self.matrix, self.group_len);
        let starts = (0..self.n_groups).map(|group| group * group_len);
        let rows: Vec<usize> = parts
            .iter()
            .flat_map(|part| {
                starts
                    .clone()
                    .flat_map(|start| start + part.start..start + part.end)
            })
            .collect();
        let shape = [rows.len(), matrix.n_cols()];
        let matrix = matrix.clone();
        Tensor::converted(name, matrix.dtype, &shape, Picked { matrix, rows })
    }
}

/// Some rows of a matrix, in another order.
struct Picked {
    matrix: Tensor,
    rows: Vec<usize>,
}

impl Conversion for Picked {
    fn source_type(&self) -> &'static str {
        self.matrix.source_type()
    }

    fn write_rows(&self, rows: Range<usize>, out: &mut [u8]) {
        let row_bytes = out.len() / rows.len().max(1);
        for (&row, out) in self.rows[rows].iter().zip(out.chunks_exact_mut(row_bytes)) {
            out.copy_from_slice(&self.matrix.read_rows(row..row + 1));
        }
    }

    fn read_numbers(&self, rows: Range<usize>, out: &mut [f32]) {
        let n_cols = self.matrix.n_cols();
        for (&row, out) in self.rows[rows].iter().zip(out.chunks_exact_mut(n_cols)) {
            self.matrix.read_numbers(row..row + 1, out);
        }
    }

    fn release(&self, rows: Range<usize>) {
        for run in self.rows[rows].chunk_by(|row, next| row + 1 == *next) {
            self.matrix.rows(run[0]..run[0] + run.len()).release();
        }
    }
}
