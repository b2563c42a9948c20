//! Quantised products one weight at a time: what every other path must equal bit for bit, and the path of machines
//! for which there is no other. [`super::panel`] says what is computed.

use std::ops::Range;

use super::{
    SharedOut,
    quantized_rows::{ActivationRun, QuantizedRows},
};
use crate::{
    quant::{self, MAX_RUNS, RUN_LEN, Run},
    weights::Tensor,
};

/// Rows whose sums are kept while one row of weights passes.
pub(super) const ROW_TILE: usize = 64;

/// Writes columns `outputs` of `rows`, at most [`ROW_TILE`] of them, of `out`, `(rows, n_outputs)`.
///
/// # Safety
/// No other thread touches these places of the result.
///
/// # Panics
/// For a type that is not quantised.
pub(super) unsafe fn multiply(
    weights: &Tensor,
    input: &QuantizedRows,
    outputs: Range<usize>,
    rows: Range<usize>,
    out: SharedOut<'_, f32>,
) {
    let (dtype, n_outputs) = (weights.dtype, weights.shape[0]);
    let read_block = quant::block_reader(dtype).expect("a quantised type");
    let block_runs = dtype.block_len() / RUN_LEN;
    let n_mins = quant::n_mins(dtype);
    let mut runs = [Run::default(); MAX_RUNS];
    for output in outputs {
        let mut sums = [0.0; ROW_TILE];
        let sums = &mut sums[..rows.len()];
        let blocks = weights.read_rows(output..output + 1);
        for (block_idx, block) in blocks.chunks_exact(dtype.block_bytes()).enumerate() {
            read_block(block, &mut runs[..block_runs]);
            for (row, sum) in rows.clone().zip(&mut *sums) {
                for (idx, run) in runs[..block_runs].iter().enumerate() {
                    let activation = input.run(row, block_idx * block_runs + idx);
                    *sum = add_product(run, n_mins, activation, *sum);
                }
            }
        }
        for (row, sum) in rows.clone().zip(sums) {
            let at = row * n_outputs + output;
            // SAFETY: this place is ours by the caller's promise.
            let place = unsafe { out.slice(at..at + 1) };
            place[0] = *sum;
        }
    }
}

fn add_product(run: &Run, n_mins: usize, activation: &ActivationRun, sum: f32) -> f32 {
    let dot: i32 = run
        .weights
        .iter()
        .zip(activation.values)
        .map(|(weight, value)| i32::from(*weight) * i32::from(value))
        .sum();
    let sum = (run.scale * activation.scale).mul_add(dot as f32, sum);
    match n_mins {
        0 => sum,
        1 => (-run.mins[0]).mul_add(activation.scaled_sum, sum),
        _ => (0..2).fold(sum, |sum, half| {
            (-run.mins[half]).mul_add(activation.scaled_half_sums[half], sum)
        }),
    }
}
