//! Products of a weight matrix, as stored in the file, with a few or many rows of activations.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::{Isa, Kind, SharedOut, float::dot, pool::ThreadPool};
use crate::{
    error::EngineError,
    quant,
    weights::{GgmlType, Tensor},
};

/// Multiply-adds below which waking other threads costs more than it gives.
const MIN_PARALLEL_WORK: usize = 1 << 17;

/// Activation rows that stay in cache while a run of weight rows passes over them.
const ROW_TILE: usize = 48;

/// A weight matrix, `(n_outputs, n_inputs)`, in the file's own layout.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    tensor: Tensor,
    n_outputs: usize,
    n_inputs: usize,
}

/// Activations, `(rows, columns)`, f32 and, where the weights are quantised, as 8-bit integers.
///
/// Each run of 32 numbers has a scale, its largest magnitude over 127, so that the number is about
/// scale * value (the Q8_0 of ggml, with the scale in single precision).
#[derive(Debug, Default)]
pub(crate) struct QuantizedRows {
    n_columns: usize,
    values: Vec<i8>,
    scales: Vec<f32>,
    /// Scale times the sum of the values of each run, for weights with a minimum.
    scaled_sums: Vec<f32>,
}

impl QuantizedRows {
    /// Quantises `rows`, `(n_rows, n_columns)`. Does nothing where no kernel would read the result.
    pub(crate) fn set_rows(&mut self, isa: Isa, pool: &mut ThreadPool, rows: &[f32], n_columns: usize) {
        let n_runs = n_columns / 32;
        if isa == Isa::PORTABLE || !n_columns.is_multiple_of(32) {
            return;
        }
        self.n_columns = n_columns;
        let n_rows = rows.len() / n_columns;
        self.values.resize(rows.len(), 0);
        self.scales.resize(n_rows * n_runs, 0.0);
        self.scaled_sums.resize(n_rows * n_runs, 0.0);
        let values = SharedOut::new(&mut self.values);
        let (scales, scaled_sums) = (
            SharedOut::new(&mut self.scales),
            SharedOut::new(&mut self.scaled_sums),
        );
        pool.run_rows(n_rows, n_columns, &|columns| {
            let runs = columns.start / 32..columns.end / 32;
            // SAFETY: every row is another range in each of the three.
            let (values, scales, scaled_sums) = unsafe {
                (
                    values.slice(columns.clone()),
                    scales.slice(runs.clone()),
                    scaled_sums.slice(runs),
                )
            };
            match isa.0 {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `Kind::Avx2` is only made where the instructions were detected.
                Kind::Avx2 => unsafe { avx2::quantize_row(&rows[columns], values, scales, scaled_sums) },
                Kind::Portable => quantize_row(&rows[columns], values, scales, scaled_sums),
            }
        });
    }

    pub(super) fn n_columns(&self) -> usize {
        self.n_columns
    }

    pub(super) fn values(&self, row: usize) -> &[i8] {
        &self.values[row * self.n_columns..][..self.n_columns]
    }

    pub(super) fn scales(&self, row: usize) -> &[f32] {
        let n_runs = self.n_columns / 32;
        &self.scales[row * n_runs..][..n_runs]
    }

    pub(super) fn scaled_sums(&self, row: usize) -> &[f32] {
        let n_runs = self.n_columns / 32;
        &self.scaled_sums[row * n_runs..][..n_runs]
    }
}

#[inline(always)]
pub(super) fn quantize_row(x: &[f32], values: &mut [i8], scales: &mut [f32], scaled_sums: &mut [f32]) {
    for (run, x) in x.chunks_exact(32).enumerate() {
        let (mut largest, mut poison) = ([0.0f32; 8], [0.0f32; 8]);
        for chunk in x.chunks_exact(8) {
            for lane in 0..8 {
                let magnitude = chunk[lane].abs();
                largest[lane] = if magnitude > largest[lane] {
                    magnitude
                } else {
                    largest[lane]
                };
                // Comparisons pass over NaN, and integers cannot hold it: the scale carries it on.
                poison[lane] += magnitude * 0.0;
            }
        }
        let largest = largest.into_iter().fold(0.0, f32::max);
        let scale = largest / 127.0 + poison.iter().sum::<f32>();
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let mut sum = 0i32;
        for (value, x) in values[run * 32..run * 32 + 32].iter_mut().zip(x) {
            // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even.
            let rounded = (x * inverse + 12_582_912.0) - 12_582_912.0;
            *value = rounded as i32 as i8;
            sum += i32::from(*value);
        }
        scales[run] = scale;
        scaled_sums[run] = scale * sum as f32;
    }
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
    pub(crate) fn wants_quantized(&self, isa: Isa) -> bool {
        isa != Isa::PORTABLE && !matches!(self.tensor.dtype, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16)
    }

    /// Row `row` as single-precision numbers.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        quant::dequantize_row(self.tensor.dtype, self.row_bytes(row..row + 1), out);
    }

    fn row_bytes(&self, rows: Range<usize>) -> &[u8] {
        let n_bytes = self.tensor.bytes().len() / self.n_outputs;
        &self.tensor.bytes()[rows.start * n_bytes..rows.end * n_bytes]
    }

    /// `out[row][output] = sum over inputs of weight[output][input] * input[row][input]`, output rows `range`.
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
            let rows = start..(start + ROW_TILE).min(n_rows);
            let outputs = outputs.clone();
            match (isa.0, self.tensor.dtype) {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the instructions were detected; the places of `out` are the caller's promise.
                (Kind::Avx2, dtype) if self.wants_quantized(isa) => unsafe {
                    let weights = self.tensor.bytes();
                    let stride = self.n_outputs;
                    match dtype {
                        GgmlType::Q8_0 => {
                            avx2::matmul::<avx2::Q8_0>(weights, outputs, input.quantized, rows, out, stride)
                        }
                        GgmlType::Q4_0 => {
                            avx2::matmul::<avx2::Q4_0>(weights, outputs, input.quantized, rows, out, stride)
                        }
                        GgmlType::Q4_1 => {
                            avx2::matmul::<avx2::Q4_1>(weights, outputs, input.quantized, rows, out, stride)
                        }
                        GgmlType::Q5_0 => {
                            avx2::matmul::<avx2::Q5_0>(weights, outputs, input.quantized, rows, out, stride)
                        }
                        GgmlType::Q5_1 => {
                            avx2::matmul::<avx2::Q5_1>(weights, outputs, input.quantized, rows, out, stride)
                        }
                        GgmlType::Q4K => {
                            avx2::matmul::<avx2::Q4K>(weights, outputs, input.quantized, rows, out, stride)
                        }
                        GgmlType::Q5K => {
                            avx2::matmul::<avx2::Q5K>(weights, outputs, input.quantized, rows, out, stride)
                        }
                        _ => avx2::matmul::<avx2::Q6K>(weights, outputs, input.quantized, rows, out, stride),
                    }
                },
                // SAFETY: the caller's promise.
                _ => unsafe { self.multiply_dequantized(isa, outputs, input.rows, rows, out) },
            }
        }
    }

    /// The same in single precision: float weights everywhere, and all weights on the portable path.
    ///
    /// # Safety
    /// As [`multiply_rows`](Self::multiply_rows).
    unsafe fn multiply_dequantized(
        &self,
        isa: Isa,
        outputs: Range<usize>,
        input: &[f32],
        rows: Range<usize>,
        out: SharedOut<'_, f32>,
    ) {
        let mut weights = vec![0.0; self.n_inputs];
        for output in outputs {
            self.row(output, &mut weights);
            for row in rows.clone() {
                let input = &input[row * self.n_inputs..][..self.n_inputs];
                let product = match isa.0 {
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: the instructions were detected.
                    Kind::Avx2 => unsafe { avx2::dot_f32(&weights, input) },
                    Kind::Portable => dot::<false>(&weights, input),
                };
                let at = row * self.n_outputs + output;
                // SAFETY: the caller's promise.
                let place = unsafe { out.slice(at..at + 1) };
                place[0] = product;
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
        let outputs = matrix.n_outputs * part / n_parts..matrix.n_outputs * (part + 1) / n_parts;
        // SAFETY: parts of one matrix are disjoint, and each matrix has its own buffer.
        unsafe { matrix.multiply_rows(isa, outputs, input, n_rows, out) };
    });
}

#[cfg(test)]
mod tests;
