//! GPT-OSS's own layout of MXFP4 experts, turned into ggml's.
//!
//! In safetensors, gate and up alternate row by row, a byte holds two neighbours, and scales stand apart. In ggml's
//! blocks a scale stands before its 16 bytes, which hold number `i` and number `i + 16`. Ollama's first files are half way:
//! scales stand where ggml has them, and all else is as in safetensors.

use std::ops::Range;

use crate::{
    error::EngineError,
    quant,
    weights::{Conversion, GgmlType, Tensor, Weights},
};

/// Bytes of a block's 32 numbers.
const PACKED_BYTES: usize = 16;

/// A scale and its numbers.
const BLOCK_BYTES: usize = 1 + PACKED_BYTES;

/// The matrices whose rows alternate, and the first row of each.
const HALVES: [(&str, usize); 2] = [("ffn_gate_exps", 0), ("ffn_up_exps", 1)];

/// Replaces packed experts by ggml's tensors, which are made as they are read. Leaves other checkpoints as they are.
///
/// # Errors
/// [`EngineError::BadFile`] for packed experts of an unexpected shape.
pub(super) fn unpack_experts(weights: &mut Weights, n_layers: usize) -> Result<(), EngineError> {
    for layer_idx in 0..n_layers {
        let name = |part: &str| format!("blk.{layer_idx}.{part}");
        let parts = [
            ("ffn_gate_up_exps", &HALVES[..]),
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

/// Takes gate and up of all experts apart that a GGUF file has in one tensor, row by row in turn.
///
/// # Errors
/// [`EngineError::BadFile`] for a tensor without as many rows of each.
pub(super) fn part_gate_and_up(weights: &mut Weights, n_layers: usize) -> Result<(), EngineError> {
    for layer_idx in 0..n_layers {
        let name = |part: &str| format!("blk.{layer_idx}.{part}");
        let fused = weights.take(&name("ffn_gate_up_exps.weight"));
        let bias = weights.take(&name("ffn_gate_up_exps.bias"));
        for (matrix, first) in HALVES {
            let every = (first, HALVES.len());
            if let Some(fused) = &fused {
                let &[n_experts, n_rows, n_cols] = &fused.shape[..] else {
                    let reason = format!("shape {:?} found, 3 dimensions expected", fused.shape);
                    return Err(weights.bad(&fused.name, reason));
                };
                if n_rows % HALVES.len() != 0 {
                    let reason = format!("{n_rows} rows of gate and up found, as many of each expected");
                    return Err(weights.bad(&fused.name, reason));
                }
                let (weight_name, shape) =
                    (name(&format!("{matrix}.weight")), [n_experts, n_rows / 2, n_cols]);
                let conversion = EveryOther {
                    source: fused.clone(),
                    first,
                };
                let weight = Tensor::converted(&weight_name, fused.dtype, &shape, conversion)?;
                weights.insert(weight_name, weight)?;
            }
            if let Some(bias) = &bias {
                let bias_name = name(&format!("{matrix}.bias"));
                let bias = pick_columns(&bias_name, bias, every)?;
                weights.insert(bias_name, bias)?;
            }
        }
    }
    Ok(())
}

/// Replaces tensors whose bytes hold two neighbours by ggml's, which are made as they are read.
///
/// # Errors
/// None but those of [`Tensor::converted`].
pub(super) fn unpair_numbers(weights: &mut Weights) -> Result<(), EngineError> {
    let in_pairs = weights
        .iter()
        .filter(|(_, tensor)| tensor.dtype == GgmlType::MXFP4Pairs);
    let in_pairs: Vec<(String, Tensor)> = in_pairs
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect();
    for (name, tensor) in in_pairs {
        weights.take(&name);
        let shape = tensor.shape.clone();
        let unpaired = Tensor::converted(&tensor.name.clone(), GgmlType::MXFP4, &shape, Unpaired(tensor))?;
        weights.insert(name, unpaired)?;
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
        let row_bytes = BLOCK_BYTES * self.n_blocks;
        for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes)) {
            let first_block = self.source_row(row) * self.n_blocks;
            let blocks = self.blocks.read_rows(first_block..first_block + self.n_blocks);
            let scales = self
                .scales
                .read_rows(self.source_row(row)..self.source_row(row) + 1);
            let packed = blocks.as_chunks::<PACKED_BYTES>().0.iter().zip(&*scales);
            for ((packed, scale), out) in packed.zip(out.as_chunks_mut().0) {
                *out = unpaired(*scale, packed);
            }
        }
    }

    fn read_numbers(&self, rows: Range<usize>, out: &mut [f32]) {
        let mut bytes = vec![0; rows.len() * BLOCK_BYTES * self.n_blocks];
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

/// ggml's block of a scale and bytes with two neighbours each.
fn unpaired(scale: u8, packed: &[u8; PACKED_BYTES]) -> [u8; BLOCK_BYTES] {
    let number = |idx: usize| packed[idx / 2] >> (idx % 2 * 4) & 15;
    std::array::from_fn(|idx| match idx.checked_sub(1) {
        None => scale,
        Some(idx) => number(idx) | number(idx + PACKED_BYTES) << 4,
    })
}

/// Blocks in which a scale stands before bytes with two neighbours each.
struct Unpaired(Tensor);

impl Conversion for Unpaired {
    fn source_type(&self) -> &'static str {
        GgmlType::MXFP4.name()
    }

    fn write_rows(&self, rows: Range<usize>, out: &mut [u8]) {
        let blocks = self.0.read_rows(rows);
        let blocks = blocks.as_chunks::<BLOCK_BYTES>().0.iter();
        for (block, out) in blocks.zip(out.as_chunks_mut().0) {
            let [scale, packed @ ..] = block;
            *out = unpaired(*scale, packed);
        }
    }

    fn read_numbers(&self, rows: Range<usize>, out: &mut [f32]) {
        let mut bytes = vec![0; rows.len() * self.0.n_bytes() / self.0.n_rows()];
        self.write_rows(rows, &mut bytes);
        quant::dequantize_row(GgmlType::MXFP4, &bytes, out);
    }

    fn release(&self, rows: Range<usize>) {
        self.0.rows(rows).release();
    }
}

/// The rows of one of two matrices that alternate.
struct EveryOther {
    source: Tensor,
    first: usize,
}

impl EveryOther {
    /// The rows in the source, one by one.
    fn sources(&self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let first = self.first;
        rows.map(move |row| first + HALVES.len() * row..first + HALVES.len() * row + 1)
    }
}

impl Conversion for EveryOther {
    fn source_type(&self) -> &'static str {
        self.source.source_type()
    }

    fn write_rows(&self, rows: Range<usize>, out: &mut [u8]) {
        let row_bytes = self.source.n_bytes() / self.source.n_rows();
        for (row, out) in self.sources(rows).zip(out.chunks_exact_mut(row_bytes)) {
            out.copy_from_slice(&self.source.read_rows(row));
        }
    }

    fn read_numbers(&self, rows: Range<usize>, out: &mut [f32]) {
        for (row, out) in self.sources(rows).zip(out.chunks_exact_mut(self.source.n_cols())) {
            self.source.read_numbers(row, out);
        }
    }

    fn release(&self, rows: Range<usize>) {
        self.source
            .rows(HALVES.len() * rows.start..HALVES.len() * rows.end)
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
