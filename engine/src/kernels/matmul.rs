//! Products of a weight matrix, as stored in the file, with a few or many rows of activations.

use std::ops::Range;

#[cfg(target_arch = "aarch64")]
use super::neon::{self, Neon};
pub(crate) use super::quantized_rows::QuantizedRows;
#[cfg(target_arch = "x86_64")]
use super::{
    Integers,
    avx2::{self, Avx2},
    avx512::{self, Avx512},
};
use super::{
    Isa, Kind, SharedOut, float_product,
    lanes::Lanes,
    panel::{MAX_LANES, ROW_TILE, Task},
    pool::ThreadPool,
    scalar,
};
use crate::{error::EngineError, quant, weights::Tensor};

/// Multiply-adds below which waking other threads costs more than it gives.
const MIN_PARALLEL_WORK: usize = 1 << 17;

/// A weight matrix, `(n_outputs, n_inputs)`, in the file's own layout.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    tensor: Tensor,
    n_outputs: usize,
    n_inputs: usize,
}

/// What a product reads: the same rows in both forms. `quantized` may be stale if no weight needs it.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) rows: &'a [f32],
    pub(crate) quantized: &'a QuantizedRows,
}

impl Matrix {
    /// Takes a tensor of shape `[n_outputs, n_inputs]`.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for a type without kernels.
    ///
    /// # Panics
    /// If the tensor has not two dimensions.
    pub(crate) fn new(tensor: Tensor) -> Result<Self, EngineError> {
        quant::require_known(&tensor)?;
        let (n_outputs, n_inputs) = (tensor.shape[0], tensor.shape[1]);
        Ok(Self {
            tensor,
            n_outputs,
            n_inputs,
        })
    }

    /// Whether products with this matrix read the 8-bit form of the activations.
    fn wants_quantized(&self) -> bool {
        quant::block_reader(self.tensor.dtype).is_some()
    }

    /// Row `row` as single-precision numbers.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        quant::dequantize_row(self.tensor.dtype, self.row_bytes(row..row + 1), out);
    }

    fn row_bytes(&self, rows: Range<usize>) -> &[u8] {
        let n_bytes = self.tensor.bytes().len() / self.n_outputs;
        &self.tensor.bytes()[rows.start * n_bytes..rows.end * n_bytes]
    }

    /// `out[row][output] = sum over inputs of weight[output][input] * input[row][input]` for output rows `outputs`.
    ///
    /// # Safety
    /// No other thread touches columns `outputs` of `out`, which is `(n_rows, n_outputs)`.
    unsafe fn multiply_rows(
        &self,
        isa: Isa,
        outputs: Range<usize>,
        input: Input<'_>,
        n_rows: usize,
        out: SharedOut<'_, f32>,
    ) {
        for start in (0..n_rows).step_by(ROW_TILE) {
            let (outputs, rows) = (outputs.clone(), start..(start + ROW_TILE).min(n_rows));
            if !self.wants_quantized() {
                // SAFETY: the caller's promise.
                unsafe { float_product::multiply(isa, &self.tensor, input.rows, outputs, rows, out) };
                continue;
            }
            let dtype = self.tensor.dtype;
            let task = Task {
                weights: self.tensor.bytes(),
                n_outputs: self.n_outputs,
                input: input.quantized,
                out,
            };
            // SAFETY: the instructions were detected, or the kind would not be; the rest is the caller's promise.
            unsafe {
                match isa.0 {
                    #[cfg(target_arch = "x86_64")]
                    Kind::Avx2(Integers::Avx512Vnni) if self.n_outputs >= Avx512::N => {
                        avx512::multiply(dtype, task, outputs, rows);
                    }
                    #[cfg(target_arch = "x86_64")]
                    Kind::Avx2(Integers::Avx2) if self.n_outputs >= Avx2::<false>::N => {
                        avx2::multiply::<false>(dtype, task, outputs, rows);
                    }
                    #[cfg(target_arch = "x86_64")]
                    Kind::Avx2(_) if self.n_outputs >= Avx2::<true>::N => {
                        avx2::multiply::<true>(dtype, task, outputs, rows);
                    }
                    #[cfg(target_arch = "aarch64")]
                    Kind::Neon if self.n_outputs >= Neon::N => neon::multiply(dtype, task, outputs, rows),
                    _ => scalar::multiply(dtype, task, outputs, rows),
                }
            }
        }
    }
}

/// One product of a [`multiply`] call.
pub(crate) struct Product<'a> {
    pub(crate) matrix: &'a Matrix,
    /// `(n_rows, matrix.n_outputs())`.
    pub(crate) out: &'a mut [f32],
}

/// Multiplies the same `n_rows` rows by one or several matrices, on all threads.
pub(crate) fn multiply<const N: usize>(
    isa: Isa,
    pool: &mut ThreadPool,
    input: Input<'_>,
    n_rows: usize,
    products: [Product<'_>; N],
) {
    let work: usize = products
        .iter()
        .map(|product| product.matrix.n_outputs * product.matrix.n_inputs)
        .sum();
    let n_parts = if work * n_rows < MIN_PARALLEL_WORK {
        1
    } else {
        pool.n_threads() * 4
    };
    let products = products.map(|product| {
        assert_eq!(
            product.out.len(),
            n_rows * product.matrix.n_outputs,
            "{}",
            product.matrix.tensor.name
        );
        (product.matrix, SharedOut::new(product.out))
    });
    pool.run(n_parts * N, &|task_idx| {
        let (matrix, out) = products[task_idx / n_parts];
        let part = task_idx % n_parts;
        // Whole panels, but for the last part.
        let n_panels = matrix.n_outputs.div_ceil(MAX_LANES);
        let start = n_panels * part / n_parts * MAX_LANES;
        let end = (n_panels * (part + 1) / n_parts * MAX_LANES).min(matrix.n_outputs);
        // SAFETY: parts of one matrix are disjoint, and each matrix has its own buffer.
        unsafe { matrix.multiply_rows(isa, start..end, input, n_rows, out) };
    });
}

#[cfg(test)]
mod tests;
