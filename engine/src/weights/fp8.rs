//! FP8 weights with scales: numbers of 8 bits, each times the scale of its tensor, of its row, or of its block.
//!
//! There are no products of FP8 here: matrices become Q8_0 as they are loaded, which takes 6 % more than the file and moves
//! a weight by a fifth of what FP8 itself did when the checkpoint was made; BF16 would be nearer, and twice as large and slow.
//! Layouts: `weight_scale_inv` of DeepSeek and Qwen, `weight_scale` of compressed-tensors and of NVIDIA's ModelOpt. All of
//! them are factors, whatever the name says.

use std::ops::Range;

use super::{Conversion, GgmlType, Tensor, Weights};
use crate::error::EngineError;

/// Name of the form in messages.
pub(crate) const NAME: &str = "FP8";

/// Outputs and inputs that share a scale, where the scales are those of blocks and the configuration does not say.
pub(crate) const DEFAULT_BLOCK: [usize; 2] = [128; 2];

/// What a scale is called after the name of its weight.
const SCALE_SUFFIXES: [&str; 2] = ["_scale_inv", "_scale"];

/// Ends of the names of scales for activations and for the KV cache, neither of which is in FP8 here.
const OTHER_SCALES: [&str; 6] = [
    ".activation_scale",
    ".input_scale",
    ".output_scale",
    ".q_scale",
    ".k_scale",
    ".v_scale",
];

/// Adds matrices of FP8 numbers, each a byte in `matrices`, to the other tensors of a folder, which hold their scales.
/// `block` is how many outputs and inputs share a scale where there are several of both.
///
/// # Errors
/// [`EngineError::BadFile`] for a matrix without scales, or with scales that do not fit its shape.
pub(super) fn add_matrices(
    weights: &mut Weights,
    matrices: Vec<Tensor>,
    block: [usize; 2],
) -> Result<(), EngineError> {
    if !matrices.is_empty() {
        weights.rename(|name| {
            let is_other = OTHER_SCALES.iter().any(|end| name.ends_with(end));
            (!is_other).then(|| name.to_owned())
        })?;
    }
    for bits in matrices {
        let name = bits.name.clone();
        let mut names = SCALE_SUFFIXES.iter().map(|suffix| format!("{name}{suffix}"));
        let Some(scales) = names.find_map(|name| weights.take(&name)) else {
            let reason = format!("FP8 numbers with no scale; `{name}_scale` or `{name}_scale_inv` expected");
            return Err(weights.bad(&name, reason));
        };
        let matrix = Fp8Rows::new(bits, scales, block).map_err(|reason| weights.bad(&name, reason))?;
        let (shape, n_cols) = (matrix.bits.shape.clone(), matrix.bits.n_cols());
        let numbers = Tensor::converted(&name, GgmlType::F32, &shape, matrix)?;
        let dtype = if n_cols.is_multiple_of(GgmlType::Q8_0.block_len()) {
            GgmlType::Q8_0
        } else {
            GgmlType::BF16
        };
        weights.insert(name, numbers.requantized(dtype)?)?;
    }
    Ok(())
}

/// A matrix of FP8 numbers as single precision.
struct Fp8Rows {
    /// A byte for each number, `(outputs, inputs)`.
    bits: Tensor,
    /// `(outputs / block[0], inputs / block[1])`, rounded up.
    scales: Tensor,
    /// Outputs and inputs that share a scale.
    block: [usize; 2],
}

impl Fp8Rows {
    fn new(bits: Tensor, mut scales: Tensor, block: [usize; 2]) -> Result<Self, String> {
        let &[n_outputs, n_inputs] = &bits.shape[..] else {
            return Err(format!("shape {:?} found, a matrix expected", bits.shape));
        };
        if !matches!(scales.dtype, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16) {
            return Err(format!("scales of {} found, F32 or BF16 expected", scales.dtype));
        }
        let in_blocks = [n_outputs.div_ceil(block[0]), n_inputs.div_ceil(block[1])];
        let block = match scales.shape[..] {
            [1] | [1, 1] => [n_outputs, n_inputs],
            [n] | [n, 1] if n == n_outputs => [1, n_inputs],
            [rows, columns] if [rows, columns] == in_blocks => block,
            _ => {
                return Err(format!(
                    "scales of shape {:?} found for {:?}; 1, {n_outputs} or {in_blocks:?} expected",
                    scales.shape, bits.shape
                ));
            }
        };
        scales.shape = vec![n_outputs.div_ceil(block[0]), n_inputs.div_ceil(block[1])];
        Ok(Self { bits, scales, block })
    }

    fn read_row(&self, row: usize, out: &mut [f32]) {
        let mut scales = vec![0.0; self.scales.n_cols()];
        let block_row = row / self.block[0];
        self.scales.read_numbers(block_row..block_row + 1, &mut scales);
        let bits = self.bits.read_rows(row..row + 1);
        let blocks = bits.chunks(self.block[1]).zip(out.chunks_mut(self.block[1]));
        for ((bits, out), scale) in blocks.zip(scales) {
            for (bits, out) in bits.iter().zip(out) {
                *out = VALUES[usize::from(*bits)] * scale;
            }
        }
    }
}

impl Conversion for Fp8Rows {
    fn source_type(&self) -> &'static str {
        NAME
    }

    fn write_rows(&self, rows: Range<usize>, out: &mut [u8]) {
        let mut numbers = vec![0.0; self.bits.n_cols()];
        for (row, out) in rows.zip(out.chunks_exact_mut(size_of::<f32>() * numbers.len())) {
            self.read_row(row, &mut numbers);
            for (x, out) in numbers.iter().zip(out.as_chunks_mut().0) {
                *out = x.to_le_bytes();
            }
        }
    }

    fn read_numbers(&self, rows: Range<usize>, out: &mut [f32]) {
        for (row, out) in rows.zip(out.chunks_exact_mut(self.bits.n_cols())) {
            self.read_row(row, out);
        }
    }

    fn release(&self, rows: Range<usize>) {
        self.bits.rows(rows).release();
    }
}

/// What the bytes of E4M3 stand for: a sign, 4 bits of exponent and 3 of mantissa, no infinities (OCP 8-bit Floating Point
/// 1.0).
const VALUES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut bits = 0u32;
    while bits < 256 {
        let (exponent, mantissa) = (bits >> 3 & 15, bits & 7);
        let magnitude = if bits & 0x7f == 0x7f {
            f32::NAN
        } else if exponent == 0 {
            mantissa as f32 / 512.0
        } else {
            f32::from_bits((exponent + 120) << 23 | mantissa << 20)
        };
        values[bits as usize] = if bits < 128 { magnitude } else { -magnitude };
        bits += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stand_for_numbers() {
        for (bits, expected) in [
            (0x00, 0.0),
            (0x01, 0.001953125),
            (0x07, 0.013671875),
            (0x08, 0.015625),
            (0x38, 1.0),
            (0x3b, 1.375),
            (0x7e, 448.0),
            (0xb8, -1.0),
        ] {
            assert_eq!(VALUES[bits], expected);
        }
        assert!(VALUES[0x7f].is_nan() && VALUES[0xff].is_nan());
    }

    #[test]
    fn every_layout_of_scales_is_told_apart() {
        let bits = Tensor::from_bytes("w", GgmlType::I8, &[3, 4], vec![0x38; 12]).unwrap();
        let numbers = |shape: &[usize], scales: &[f32]| {
            let bytes = scales.iter().flat_map(|it| it.to_le_bytes()).collect();
            let scales = Tensor::from_bytes("s", GgmlType::F32, shape, bytes).unwrap();
            let matrix = Fp8Rows::new(bits.clone(), scales, [2, 3])?;
            let mut numbers = vec![0.0; 12];
            matrix.read_numbers(0..3, &mut numbers);
            Ok::<_, String>(numbers)
        };
        assert_eq!(numbers(&[1], &[2.0]), Ok(vec![2.0; 12]));
        let rows = [[1.0; 4], [2.0; 4], [3.0; 4]].concat();
        assert_eq!(numbers(&[3, 1], &[1.0, 2.0, 3.0]), Ok(rows.clone()));
        assert_eq!(numbers(&[3], &[1.0, 2.0, 3.0]), Ok(rows));
        let top = [1.0, 1.0, 1.0, 2.0];
        let blocks = [top, top, [3.0, 3.0, 3.0, 4.0]].concat();
        assert_eq!(numbers(&[2, 2], &[1.0, 2.0, 3.0, 4.0]), Ok(blocks));
        assert_eq!(
            numbers(&[2, 1], &[1.0, 2.0]).unwrap_err(),
            "scales of shape [2, 1] found for [3, 4]; 1, 3 or [2, 2] expected"
        );
    }
}
