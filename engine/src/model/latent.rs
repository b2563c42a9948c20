//! DeepSeek's matrix that makes keys and values of what the cache keeps, taken apart into two for each head.
//!
//! Attention works on what the cache keeps, without making keys of it: the matrix of the keys is applied to the query
//! instead, transposed, and that of the values to the weighted sum (DeepSeek-AI 2024, "DeepSeek-V2", appendix C). GGUF files of
//! today hold the matrices like that, older ones and safetensors files hold them joined.

use half::f16;

use super::{LatentAttention, ModelConfig};
use crate::{
    error::EngineError,
    weights::{GgmlType, Tensor, Weights},
};

/// Replaces joined matrices by `attn_k_b.HEAD`, `(rank, plain_dim)`, and `attn_v_b.HEAD`, `(value_dim, rank)`. Leaves other
/// checkpoints as they are.
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
            let key_name = name(&format!("attn_k_b.{head}"));
            let keys = transposed(&key_name, &keys)?;
            weights.insert(key_name, keys)?;
            let mut values = joined.rows(first + plain_dim..first + head_rows);
            values.name = name(&format!("attn_v_b.{head}"));
            weights.insert(values.name.clone(), values)?;
        }
    }
    Ok(())
}

/// A matrix with rows for columns.
fn transposed(name: &str, matrix: &Tensor) -> Result<Tensor, EngineError> {
    let plain = if matrix.dtype.block_len() > 1 {
        let numbers = matrix.numbers()?;
        let bytes = numbers.into_iter().flat_map(|it| f16::from_f32(it).to_le_bytes());
        &Tensor::from_bytes(name, GgmlType::F16, &matrix.shape, bytes.collect())?
    } else {
        matrix
    };
    let &[n_rows, n_columns] = &plain.shape[..] else {
        unreachable!("rows of a tensor are a matrix");
    };
    let number_bytes = plain.dtype.block_bytes();
    let bytes = plain.read_rows(0..n_rows);
    let mut turned = Vec::with_capacity(bytes.len());
    for column in 0..n_columns {
        for row in 0..n_rows {
            let start = (row * n_columns + column) * number_bytes;
            turned.extend_from_slice(&bytes[start..start + number_bytes]);
        }
    }
    Tensor::from_bytes(name, plain.dtype, &[n_columns, n_rows], turned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        let bytes = |numbers: &[f32]| numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
        let matrix = Tensor::from_bytes(
            "m",
            GgmlType::F32,
            &[2, 3],
            bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        );
        let turned = transposed("t", &matrix.unwrap()).unwrap();
        assert_eq!(turned.shape, [3, 2]);
        assert_eq!(turned.bytes(), bytes(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]).as_slice());
    }
}
