//! Single products under a stopwatch: what one type of weights costs with one set of instructions.

use std::time::{Duration, Instant};

use crate::{
    EngineError,
    engine::n_threads,
    kernels::{
        Isa,
        matmul::{Input, Matrix, Product, QuantizedRows, TileArena, multiply},
        pool::ThreadPool,
    },
    weights::{GgmlType, Tensor},
};

/// Every byte of the weights: whatever it stands for is a number of moderate size.
const WEIGHT_BYTE: u8 = 0x38;

/// A weight matrix, and room for what it is multiplied by.
pub struct ProductTimer {
    matrix: Matrix,
    isa: Isa,
    pool: ThreadPool,
    n_bytes: usize,
    n_inputs: usize,
    n_outputs: usize,
    rows: Vec<f32>,
    quantized: QuantizedRows,
    out: Vec<f32>,
}

impl ProductTimer {
    /// A matrix `(n_outputs, n_inputs)` of this type, laid out as `isa` wants it; `threads` as in
    /// [`EngineOptions`](crate::EngineOptions).
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for a type without kernels, [`EngineError::NoMemory`], and [`EngineError::BadRequest`] for rows that
    /// are no whole number of blocks.
    pub fn new(
        dtype: GgmlType,
        isa: Isa,
        [n_outputs, n_inputs]: [usize; 2],
        threads: Option<usize>,
    ) -> Result<Self, EngineError> {
        let shape = [n_outputs, n_inputs];
        let n_bytes = dtype.tensor_bytes(&shape).map_err(EngineError::BadRequest)?;
        let tensor = Tensor::from_bytes("weights", dtype, &shape, vec![WEIGHT_BYTE; n_bytes])?;
        let mut pool = ThreadPool::new(n_threads(threads));
        Ok(Self {
            matrix: Matrix::new(tensor, isa, &mut pool, &mut TileArena::default())?,
            isa,
            pool,
            n_bytes,
            n_inputs,
            n_outputs,
            rows: Vec::new(),
            quantized: QuantizedRows::default(),
            out: Vec::new(),
        })
    }

    /// Multiplies the matrix by `n_rows` rows of activations, making them 8-bit where the weights want that; how long it took.
    pub fn multiply(&mut self, n_rows: usize) -> Duration {
        let (n_numbers, n_results) = (n_rows * self.n_inputs, n_rows * self.n_outputs);
        // What was made for more rows is kept.
        self.rows.resize(n_numbers.max(self.rows.len()), 1.0);
        self.out.resize(n_results.max(self.out.len()), 0.0);
        let (rows, out) = (&self.rows[..n_numbers], &mut self.out[..n_results]);
        let started = Instant::now();
        if self.matrix.wants_quantized() {
            self.quantized
                .set_rows(self.isa, &mut self.pool, rows, self.n_inputs);
        }
        let input = Input {
            rows,
            quantized: &self.quantized,
        };
        let matrix = &self.matrix;
        multiply(self.isa, &mut self.pool, input, n_rows, [Product { matrix, out }]);
        started.elapsed()
    }

    /// Bytes of the weights.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Threads that compute.
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_multiplied_with_every_set_of_instructions() {
        for dtype in crate::quant::known_types() {
            for isa in Isa::all() {
                let mut timer = ProductTimer::new(dtype, isa, [48, 256], Some(1)).unwrap();
                let mut products = Vec::new();
                for n_rows in [1, 12, 3] {
                    timer.multiply(n_rows);
                    let out = &timer.out[..n_rows * 48];
                    assert!(out.iter().all(|it| it.is_finite() && *it != 0.0), "{dtype}");
                    products.push(timer.out[0]);
                }
                assert!(products.iter().all(|it| *it == products[0]), "{dtype}");
            }
        }
        assert!(ProductTimer::new(GgmlType::Q4K, Isa::detect(), [16, 32], Some(1)).is_err());
    }
}
