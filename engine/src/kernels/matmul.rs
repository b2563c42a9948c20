//! Products of a weight matrix, as stored in the file, with a few or many rows of activations.

use std::ops::Range;

#[cfg(target_arch = "aarch64")]
use super::neon;
pub(crate) use super::quantized_rows::QuantizedRows;
pub(crate) use super::tiles::{STRIPE_BYTES, TileArena};
#[cfg(target_arch = "x86_64")]
use super::{Integers, avx2, avx512};
use super::{
    Isa, Kind, SharedOut, float_product,
    panel::{GROUP_TILE, MAX_LANES, Task},
    pool::ThreadPool,
    scalar,
    tiles::Tiles,
};
use crate::{
    error::EngineError,
    quant,
    weights::{GgmlType, PANEL_ROWS, Tensor},
};

/// Multiply-adds below which waking other threads costs more than it gives.
const MIN_PARALLEL_WORK: usize = 1 << 17;

/// A weight matrix, `(n_outputs, n_inputs)`. A clone shares the weights.
#[derive(Clone)]
pub(crate) struct Matrix {
    name: String,
    dtype: GgmlType,
    n_outputs: usize,
    n_inputs: usize,
    layout: Layout,
}

/// How the weights lie in memory.
#[derive(Clone)]
enum Layout {
    /// As in the file.
    File(Tensor),
    /// Quantised ones, for the instructions that multiply them.
    Tiles(Tiles),
}

/// What a product reads: the same rows in both forms. `quantized` may be stale if no weight needs it.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) rows: &'a [f32],
    pub(crate) quantized: &'a QuantizedRows,
}

impl Matrix {
    /// Takes a tensor of shape `[n_outputs, n_inputs]`, to multiply by it with `isa`: lays quantised weights out for that, and
    /// gives back the memory that they take in a mapped file.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for a type without kernels, [`EngineError::BadWeight`] for weights that are not numbers
    /// among those that it reads: all but plain ones that stay as they are.
    ///
    /// # Panics
    /// If the tensor has not two dimensions.
    pub(crate) fn new(
        tensor: Tensor,
        isa: Isa,
        pool: &mut ThreadPool,
        arena: &mut TileArena,
    ) -> Result<Self, EngineError> {
        let mut matrix = Self::of_rows(tensor)?;
        if let Layout::File(tensor) = &matrix.layout {
            if isa.has_panels() && matrix.wants_quantized() {
                matrix.layout = Layout::Tiles(Tiles::lay_out(tensor, pool, arena)?);
            } else if !tensor.is_stored() && tensor.panels().is_none() {
                matrix.layout = Layout::File(store(tensor, pool)?);
            }
        }
        Ok(matrix)
    }

    /// Takes a tensor of shape `[n_outputs, n_inputs]`, to read rows of: they stay where they are. Products with it are slow.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub(crate) fn of_rows(tensor: Tensor) -> Result<Self, EngineError> {
        quant::require_known(&tensor)?;
        Ok(Self {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            n_outputs: tensor.shape[0],
            n_inputs: tensor.shape[1],
            layout: Layout::File(tensor),
        })
    }

    /// Whether products read the blocks as the tensor holds them, and so nobody has looked at them yet.
    pub(crate) fn is_unread(&self) -> bool {
        matches!(self.layout, Layout::File(_))
    }

    /// Whether products with this matrix read the 8-bit form of the activations.
    pub(crate) fn wants_quantized(&self) -> bool {
        quant::block_reader(self.dtype).is_some()
    }

    /// Row `row` as single-precision numbers.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        match &self.layout {
            Layout::File(tensor) => tensor.read_numbers(row..row + 1, out),
            Layout::Tiles(tiles) => tiles.read_row(row, |block_idx, block| {
                let len = self.dtype.block_len();
                quant::dequantize_row(
                    self.dtype,
                    block,
                    &mut out[block_idx * len..(block_idx + 1) * len],
                );
            }),
        }
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
        let tiles = match &self.layout {
            Layout::Tiles(tiles) => tiles,
            Layout::File(tensor) => {
                let tile = if self.wants_quantized() {
                    scalar::ROW_TILE
                } else {
                    float_product::ROW_TILE
                };
                for start in (0..n_rows).step_by(tile) {
                    let (outputs, rows) = (outputs.clone(), start..(start + tile).min(n_rows));
                    // SAFETY: the caller's promise.
                    unsafe {
                        if self.wants_quantized() {
                            scalar::multiply(tensor, input.quantized, outputs, rows, out);
                        } else {
                            float_product::multiply(isa, tensor, input.rows, outputs, rows, out);
                        }
                    }
                }
                return;
            }
        };
        let task = Task {
            weights: tiles,
            n_outputs: self.n_outputs,
            input: input.quantized,
            out,
        };
        let n_groups = input.quantized.groups().len();
        for start in (0..n_groups).step_by(GROUP_TILE) {
            let (outputs, groups) = (outputs.clone(), start..(start + GROUP_TILE).min(n_groups));
            // SAFETY: the instructions were detected, or the kind would not be; the rest is the caller's promise.
            unsafe {
                match isa.0 {
                    #[cfg(target_arch = "x86_64")]
                    Kind::Avx2(Integers::Avx512Vnni) => avx512::multiply(self.dtype, task, outputs, groups),
                    #[cfg(target_arch = "x86_64")]
                    Kind::Avx2(Integers::AvxVnni) => {
                        avx2::multiply::<true>(self.dtype, task, outputs, groups)
                    }
                    #[cfg(target_arch = "x86_64")]
                    Kind::Avx2(Integers::Avx2) => avx2::multiply::<false>(self.dtype, task, outputs, groups),
                    #[cfg(target_arch = "aarch64")]
                    Kind::Neon { i8mm: true } => neon::multiply::<true>(self.dtype, task, outputs, groups),
                    #[cfg(target_arch = "aarch64")]
                    Kind::Neon { i8mm: false } => neon::multiply::<false>(self.dtype, task, outputs, groups),
                    Kind::Portable => unreachable!("no tiles are made for portable kernels"),
                }
            }
        }
    }
}

/// Rows that are made in one piece: some tensors make several as quickly as one.
const STORED_ROWS: usize = 64;

/// The same tensor with all its blocks in memory, made on all threads.
fn store(tensor: &Tensor, pool: &mut ThreadPool) -> Result<Tensor, EngineError> {
    let (n_rows, n_bytes) = (tensor.shape[0], tensor.n_bytes());
    let row_bytes = n_bytes / n_rows;
    let mut bytes = vec![0; n_bytes];
    let out = SharedOut::new(&mut bytes);
    pool.run(n_rows.div_ceil(STORED_ROWS), &|idx| {
        let rows = idx * STORED_ROWS..n_rows.min((idx + 1) * STORED_ROWS);
        // SAFETY: every piece is another range.
        let out = unsafe { out.slice(rows.start * row_bytes..rows.end * row_bytes) };
        out.copy_from_slice(&tensor.read_rows(rows));
    });
    tensor.release();
    let stored = Tensor::from_bytes(&tensor.name, tensor.dtype, &tensor.shape, bytes)?;
    quant::require_numbers(&stored)?;
    Ok(stored)
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
            product.matrix.name
        );
        (product.matrix, SharedOut::new(product.out))
    });
    pool.run(n_parts * N, &|task_idx| {
        let (matrix, out) = products[task_idx / n_parts];
        let part = task_idx % n_parts;
        const { assert!(MAX_LANES.is_multiple_of(PANEL_ROWS)) };
        // Whole panels, but for the last part.
        let n_panels = matrix.n_outputs.div_ceil(MAX_LANES);
        let start = n_panels * part / n_parts * MAX_LANES;
        let end = (n_panels * (part + 1) / n_parts * MAX_LANES).min(matrix.n_outputs);
        // SAFETY: parts of one matrix are disjoint, and each matrix has its own buffer.
        unsafe { matrix.multiply_rows(isa, start..end, input, n_rows, out) };
    });
}

/// Multiplies rows of its own by each of some matrices of one shape, on all threads: `inputs` gives `n_rows` for each, `out` is
/// `(matrices, n_rows, n_outputs)`.
pub(crate) fn multiply_each<'a>(
    isa: Isa,
    pool: &mut ThreadPool,
    matrices: &[Matrix],
    inputs: &(dyn Fn(usize) -> Input<'a> + Sync),
    n_rows: usize,
    out: &mut [f32],
) {
    let out = SharedOut::new(out);
    pool.run(matrices.len(), &|idx| {
        let matrix = &matrices[idx];
        let len = n_rows * matrix.n_outputs;
        // SAFETY: every matrix has a part of its own.
        let out = SharedOut::new(unsafe { out.slice(idx * len..(idx + 1) * len) });
        // SAFETY: as above.
        unsafe { matrix.multiply_rows(isa, 0..matrix.n_outputs, inputs(idx), n_rows, out) };
    });
}

#[cfg(test)]
mod tests;
