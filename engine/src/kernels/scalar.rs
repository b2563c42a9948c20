//! Quantised products one weight at a time: what every other path must equal bit for bit, and the path of machines
//! for which there is no other. [`super::panel`] says what is computed.

use std::ops::Range;

use super::{
    panel::{ROW_TILE, Task},
    quantized_rows::ActivationRun,
};
use crate::{
    quant::{self, MAX_RUNS, RUN_LEN, Run},
    weights::GgmlType,
};

/// Writes columns `outputs` of `rows`, at most [`ROW_TILE`] of them.
///
/// # Safety
/// No other thread touches these places of the result.
///
/// # Panics
/// For a type that is not quantised.
pub(super) unsafe fn multiply(dtype: GgmlType, task: Task<'_>, outputs: Range<usize>, rows: Range<usize>) {
    let read_block = quant::block_reader(dtype).expect("a quantised type");
    let block_runs = dtype.block_len() / RUN_LEN;
    let n_mins = quant::n_mins(dtype);
    let n_runs = task.input.n_runs();
    let stride = n_runs / block_runs * dtype.block_bytes();
    let mut runs = [Run::default(); MAX_RUNS];
    for output in outputs {
        let mut sums = [0.0; ROW_TILE];
        let sums = &mut sums[..rows.len()];
        let blocks = task.weights[output * stride..(output + 1) * stride].chunks_exact(dtype.block_bytes());
        for (block_idx, block) in blocks.enumerate() {
            read_block(block, &mut runs[..block_runs]);
            for (row, sum) in rows.clone().zip(&mut *sums) {
                let first = row * n_runs + block_idx * block_runs;
                for (run, activation) in runs[..block_runs].iter().zip(&task.input.runs()[first..]) {
                    *sum = add_product(run, n_mins, activation, *sum);
                }
            }
        }
        for (row, sum) in rows.clone().zip(sums) {
            let at = row * task.n_outputs + output;
            // SAFETY: this place is ours by the caller's promise.
            let place = unsafe { task.out.slice(at..at + 1) };
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
