//! DeepSeek's matrix that makes keys and values of what the cache keeps, taken apart into two for each head.
//!
//! Attention works on what the cache keeps, without making keys of it: the matrix of the keys is applied to the query
//! instead, transposed, and that of the values to the weighted sum (DeepSeek-AI 2024, "DeepSeek-V2", appendix C). GGUF files of
//! today hold the matrices like that, older ones and safetensors files hold them joined.

use std::ops::Range;

use half::f16;

use super::{LatentAttention, ModelConfig};
use crate::{
    error::EngineError,
    quant,
    weights::{Conversion, GgmlType, Tensor, Weights},
};

/// Replaces joined matrices by `attn_k_b.HEAD`, `(rank, plain_dim)`, and `attn_v_b.HEAD`, `(value_dim, rank)`. Nothing is read
/// of them before somebody asks. Leaves other checkpoints as they are.
///
/// Quantised keys become half-precision numbers: blocks cannot be transposed.
///
/// # Errors
/// [`EngineError::BadFile`] for a joined matrix of an unexpected shape, [`EngineError::Unsupported`] for one of a type that is
/// not known.
pub(super) fn split_joined(weights: &mut Weights, config: &ModelConfig) -> Result<(), EngineError> {
    let Some(LatentAttention {
        rank,
        plain_dim,
        value_dim,
        ..
    }) = config.latent
    else {
        return Ok(());
    };
    for layer_idx in 0..config.n_layers {
        let name = |part: &str| format!("blk.{layer_idx}.{part}.weight");
        let joined_name = name("attn_kv_b");
        let Some(joined) = weights.take(&joined_name) else {
            continue;
        };
        let head_rows = plain_dim + value_dim;
        let shape = [config.n_heads * head_rows, rank];
        if joined.shape != shape {
            let reason = format!(
                "shape {:?} found, {shape:?} expected from the configuration",
                joined.shape
            );
            return Err(weights.bad(&joined_name, reason));
        }
        for head in 0..config.n_heads {
            let first = head * head_rows;
            let keys = joined.rows(first..first + plain_dim);
            weights.insert(name(&format!("attn_k_b.{head}")), transposed(keys)?)?;
            let values = joined.rows(first + plain_dim..first + head_rows);
            weights.insert(name(&format!("attn_v_b.{head}")), values)?;
        }
    }
    Ok(())
}

/// A matrix with rows for columns, which are made as they are read.
fn transposed(matrix: Tensor) -> Result<Tensor, EngineError> {
    quant::require_known(&matrix)?;
    let is_plain = matrix.dtype.block_len() == 1;
    let dtype = if is_plain { matrix.dtype } else { GgmlType::F16 };
    let shape = [matrix.n_cols(), matrix.n_rows()];
    let name = matrix.name.clone();
    Tensor::converted(&name, dtype, &shape, Transposed { matrix })
}

struct Transposed {
    matrix: Tensor,
}

impl Conversion for Transposed {
    fn source_type(&self) -> &'static str {
        self.matrix.source_type()
    }

    fn write_rows(&self, rows: Range<usize>, out: &mut [u8]) {
        let (n_rows, n_cols) = (self.matrix.n_rows(), self.matrix.n_cols());
        if self.matrix.dtype.block_len() > 1 {
            let mut numbers = vec![0.0; rows.len() * n_rows];
            self.read_numbers(rows, &mut numbers);
            for (x, out) in numbers.into_iter().zip(out.as_chunks_mut().0) {
                *out = f16::from_f32(x).to_le_bytes();
            }
            return;
        }
        let number_bytes = self.matrix.dtype.block_bytes();
        let bytes = self.matrix.read_rows(0..n_rows);
        let starts =
            rows.flat_map(|column| (0..n_rows).map(move |row| (row * n_cols + column) * number_bytes));
        for (start, out) in starts.zip(out.chunks_exact_mut(number_bytes)) {
            out.copy_from_slice(&bytes[start..start + number_bytes]);
        }
    }

    fn read_numbers(&self, rows: Range<usize>, out: &mut [f32]) {
        let n_rows = self.matrix.n_rows();
        let mut numbers = vec![0.0; self.matrix.n_cols()];
        for row in 0..n_rows {
            self.matrix.read_numbers(row..row + 1, &mut numbers);
            let column = out.iter_mut().skip(row).step_by(n_rows);
            for (out, x) in column.zip(&numbers[rows.clone()]) {
                *out = *x;
            }
        }
    }

    fn release(&self, _rows: Range<usize>) {
        // A row has numbers of all rows of the file.
        self.matrix.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        let bytes = |numbers: &[f32]| numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
        let numbers = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let matrix = Tensor::from_bytes("m", GgmlType::F32, &[2, 3], bytes(&numbers)).unwrap();
        let turned = transposed(matrix).unwrap();
        assert_eq!((turned.dtype, &turned.shape[..]), (GgmlType::F32, &[3, 2][..]));
        assert_eq!(turned.bytes(), bytes(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]).as_slice());
        assert_eq!(*turned.read_rows(1..2), bytes(&[2.0, 5.0])[..]);
        assert_eq!(turned.rows(1..3).numbers().unwrap(), [2.0, 5.0, 3.0, 6.0]);
    }

    #[test]
    fn blocks_become_numbers() {
        let numbers: Vec<f32> = (0..2 * 32).map(|it| it as f32 * 0.37 - 9.0).collect();
        let bytes = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
        let matrix = Tensor::from_bytes("m", GgmlType::F32, &[2, 32], bytes).unwrap();
        let blocks = matrix.requantized(GgmlType::Q8_0).unwrap();
        let blocks = Tensor::from_bytes("m", GgmlType::Q8_0, &[2, 32], blocks.bytes().to_vec()).unwrap();
        let numbers = blocks.numbers().unwrap();
        let turned = transposed(blocks).unwrap();
        assert_eq!((turned.dtype, turned.source_type()), (GgmlType::F16, "Q8_0"));
        let columns = (0..32).flat_map(|column| [numbers[column], numbers[32 + column]]);
        let columns: Vec<f32> = columns.collect();
        assert_eq!(turned.numbers().unwrap(), columns);
        let halves = columns.iter().flat_map(|it| f16::from_f32(*it).to_le_bytes());
        assert_eq!(turned.bytes(), halves.collect::<Vec<u8>>());
    }
}
