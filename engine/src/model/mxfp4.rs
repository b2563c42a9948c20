//! GPT-OSS's own layout of MXFP4 experts, turned into ggml's.
//!
//! In safetensors, gate and up alternate row by row, a byte holds two neighbours, and scales stand apart. In ggml's
//! blocks a scale stands before its 16 bytes, which hold number `i` and number `i + 16`.

use std::ops::Range;

use crate::{
    error::EngineError,
    quant,
    weights::{Conversion, GgmlType, Tensor, Weights},
};

/// Bytes of a block's 32 numbers.
const PACKED_BYTES: usize = 16;

/// Replaces packed experts by ggml's tensors, which are made as they are read. Leaves other checkpoints as they are.
///
/// # Errors
/// [`EngineError::BadFile`] for packed experts of an unexpected shape.
pub(super) fn unpack_experts(weights: &mut Weights, n_layers: usize) -> Result<(), EngineError> {
    for layer_idx in 0..n_layers {
        let name = |part: &str| format!("blk.{layer_idx}.{part}");
        let halves = [("ffn_gate_exps", 0), ("ffn_up_exps", 1)];
        let parts = [
            ("ffn_gate_up_exps", &halves[..]),
            ("ffn_down_exps", &[("ffn_down_exps", 0)]),
        ];
        for (packed, matrices) in parts {
            let Some(blocks) = weights.take(&name(&format!("{packed}_blocks"))) else {
                continue;
            };
            let scales_name = name(&format!("{packed}_scales"));
            let scales = weights.require(&scales_name)?.clone();
            weights.take(&scales_name);
            let bias = weights.take(&name(&format!("{packed}_bias")));
            for (matrix, first_row) in matrices {
                let every = (*first_row, matrices.len());
                let weight_name = name(&format!("{matrix}.weight"));
                let weight = interleave(weights, &weight_name, (&blocks, &scales), every)?;
                weights.insert(weight_name, weight)?;
                if let Some(bias) = &bias {
                    let bias_name = name(&format!("{matrix}.bias"));
                    let bias = pick_columns(&bias_name, bias, every)?;
                    weights.insert(bias_name, bias)?;
                }
            }
        }
    }
    Ok(())
}

/// Rows `first, first + step, ...` of each expert as ggml's blocks, `(experts, rows, inputs)`.
fn interleave(
    weights: &Weights,
    name: &str,
    (blocks, scales): (&Tensor, &Tensor),
    (first, step): (usize, usize),
) -> Result<Tensor, EngineError> {
    let &[n_experts, n_rows, n_blocks, PACKED_BYTES] = &blocks.shape[..] else {
        let reason = format!(
            "packed shape {:?} found, 4 dimensions with {PACKED_BYTES} last expected",
            blocks.shape
        );
        return Err(weights.bad(name, reason));
    };
    let are_bytes = blocks.dtype == GgmlType::I8 && scales.dtype == GgmlType::I8;
    if !are_bytes || scales.shape != [n_experts, n_rows, n_blocks] || n_rows % step != 0 {
        let reason = format!(
            "{} of {:?} with scales {} of {:?} found, bytes of fitting shapes expected",
            blocks.dtype, blocks.shape, scales.dtype, scales.shape
        );
        return Err(weights.bad(name, reason));
    }
    let shape = [n_experts, n_rows / step, n_blocks * 2 * PACKED_BYTES];
    let conversion = Interleaving {
        blocks: blocks.clone(),
        scales: scales.clone(),
        n_blocks,
        first,
        step,
    };
    Tensor::converted(name, GgmlType::MXFP4, &shape, conversion)
}

/// Every so manieth row of packed experts.
struct Interleaving {
    /// `(experts, rows, n_blocks, PACKED_BYTES)`.
    blocks: Tensor,
    /// `(experts, rows, n_blocks)`.
    scales: Tensor,
    n_blocks: usize,
    first: usize,
    step: usize,
}

impl Interleaving {
    /// Where `row` is in the file: the number of rows of an expert is a multiple of the step.
    fn source_row(&self, row: usize) -> usize {
        self.first + row * self.step
    }
}

impl Conversion for Interleaving {
    fn source_type(&self) -> &'static str {
        GgmlType::MXFP4.name()
    }

    fn write_rows(&self, rows: Range<usize>, out: &mut [u8]) {
        let row_bytes = (1 + PACKED_BYTES) * self.n_blocks;
        for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes)) {
            let first_block = self.source_row(row) * self.n_blocks;
            let blocks = self.blocks.read_rows(first_block..first_block + self.n_blocks);
            let scales = self
                .scales
                .read_rows(self.source_row(row)..self.source_row(row) + 1);
            let packed = blocks.as_chunks::<PACKED_BYTES>().0.iter().zip(&*scales);
            for ((packed, scale), out) in packed.zip(out.chunks_exact_mut(1 + PACKED_BYTES)) {
                out[0] = *scale;
                let number = |idx: usize| packed[idx / 2] >> (idx % 2 * 4) & 15;
                for (idx, out) in out[1..].iter_mut().enumerate() {
                    *out = number(idx) | number(idx + PACKED_BYTES) << 4;
                }
            }
        }
    }

    fn read_numbers(&self, rows: Range<usize>, out: &mut [f32]) {
        let mut bytes = vec![0; rows.len() * (1 + PACKED_BYTES) * self.n_blocks];
        self.write_rows(rows, &mut bytes);
        quant::dequantize_row(GgmlType::MXFP4, &bytes, out);
    }

    fn release(&self, rows: Range<usize>) {
        let source = self.source_row(rows.start)..self.source_row(rows.end).min(self.scales.n_rows());
        self.scales.rows(source.clone()).release();
        self.blocks
            .rows(source.start * self.n_blocks..source.end * self.n_blocks)
            .release();
    }
}

/// Columns `first, first + step, ...` of a matrix of plain numbers.
fn pick_columns(name: &str, tensor: &Tensor, (first, step): (usize, usize)) -> Result<Tensor, EngineError> {
    let number_bytes = tensor.dtype.block_bytes();
    let numbers = tensor
        .bytes()
        .chunks_exact(number_bytes)
        .skip(first)
        .step_by(step);
    let mut shape = tensor.shape.clone();
    if let Some(n_columns) = shape.last_mut() {
        *n_columns /= step;
    }
    Tensor::from_bytes(name, tensor.dtype, &shape, numbers.flatten().copied().collect())
}
