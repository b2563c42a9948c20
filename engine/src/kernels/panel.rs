//! The one quantised product: a panel of weight rows is unpacked once, then multiplied by all rows of activations.
//!
//! Weights stay as the file has them. Of a panel of `N` rows, 256 weights at a time are unpacked into slots that
//! stay in the first-level cache, where each slot meets up to eight rows of activations in registers.
//!
//! What is computed for each (row, output), run after run of 32 weights, in this order:
//!
//! ```text
//! sum = fma(weight scale * activation scale, integer dot product, sum)
//! sum = sum - min * scaled sum of activations, fused      once for each minimum of the run
//! ```
//!
//! Integers are exact, so every width of register and every number of rows gives the same bits as the slow
//! version, [`super::scalar`].

use std::{mem::MaybeUninit, ops::Range};

use super::{
    SharedOut,
    formats::{Format, Q8_0, halves},
    lanes::{Lanes, Rows, Slot},
    quantized_rows::{ActivationRun, QuantizedRows},
};
use crate::quant::MAX_RUNS;

/// Most outputs of a panel, on any machine.
pub(super) const MAX_LANES: usize = 16;

/// Activation rows that stay in cache while the panels pass over them.
pub(super) const ROW_TILE: usize = 64;

/// A product of quantised weights, as every path takes it.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    /// The whole matrix, `(n_outputs, input.n_runs())` runs.
    pub(super) weights: &'a [u8],
    pub(super) n_outputs: usize,
    pub(super) input: &'a QuantizedRows,
    /// `(rows, n_outputs)`.
    pub(super) out: SharedOut<'a, f32>,
}

/// Writes columns `outputs` of `rows`, at most [`ROW_TILE`] of them.
///
/// # Safety
/// The instructions of `L` are there; the matrix has at least `L::N` outputs and is as long as it should be; no other
/// thread touches these places of the result.
#[inline(always)]
pub(super) unsafe fn multiply<L: Lanes, F: Format>(
    task: Task<'_>,
    outputs: Range<usize>,
    rows: Range<usize>,
) {
    let n_runs = task.input.n_runs();
    let stride = n_runs / F::N_RUNS * F::BYTES;
    assert!(rows.len() <= ROW_TILE && rows.end * n_runs <= task.input.runs().len());
    assert!(L::N <= task.n_outputs && outputs.end <= task.n_outputs);
    assert_eq!(task.weights.len(), task.n_outputs * stride);
    let mut slots = [const { MaybeUninit::<Slot<L>>::uninit() }; MAX_RUNS];
    // SAFETY: a slot is plain registers of which any bits are valid, and each field is written before it is read.
    let slots = unsafe { &mut *(&raw mut slots).cast::<[Slot<L>; MAX_RUNS]>() };
    let mut sums = [0.0f32; ROW_TILE * MAX_LANES];
    for start in outputs.clone().step_by(L::N) {
        // The last panel reaches back, so that there is none with fewer rows; what it gives again is not written.
        let first = start.min(task.n_outputs - L::N);
        let panel = Rows {
            at: task.weights[first * stride..].as_ptr(),
            stride,
        };
        let sums = &mut sums[..rows.len() * L::N];
        sums.fill(0.0);
        let in_place = F::IS_PLAIN && rows.len() <= L::MAX_IN_PLACE;
        if in_place {
            // SAFETY: as below.
            unsafe { multiply_in_place::<L>(panel, &task.input.runs()[rows.start * n_runs..], n_runs, sums) };
        }
        for first_run in (0..if in_place { 0 } else { n_runs }).step_by(MAX_RUNS) {
            let slots = &mut slots[..MAX_RUNS.min(n_runs - first_run)];
            // SAFETY: whole blocks of `L::N` rows of the matrix; activations of `rows` by the assertions above.
            unsafe {
                unpack::<L, F>(panel, first_run, slots);
                let activations = task.input.runs()[rows.start * n_runs + first_run..].as_ptr();
                multiply_rows::<L, F>(slots, activations, n_runs, sums);
            }
        }
        let end = outputs.end.min(start + L::N);
        for (row, sums) in rows.clone().zip(sums.chunks_exact(L::N)) {
            let at = row * task.n_outputs;
            // SAFETY: these places are ours by the caller's promise.
            let out = unsafe { task.out.slice(at + start..at + end) };
            out.copy_from_slice(&sums[start - first..end - first]);
        }
    }
}

/// Fills `slots` from run `first_run` on, the first of a block.
#[inline(always)]
unsafe fn unpack<L: Lanes, F: Format>(panel: Rows, first_run: usize, slots: &mut [Slot<L>]) {
    for (idx, slots) in slots.chunks_exact_mut(F::N_RUNS).enumerate() {
        let block = first_run / F::N_RUNS + idx;
        // SAFETY: by the caller's promise.
        unsafe {
            prefetch_next::<L, F>(panel, block);
            F::unpack(panel.add(block * F::BYTES), slots);
        }
    }
}

/// Products of plain blocks with very few rows, where unpacking would take longer than multiplying.
#[inline(always)]
unsafe fn multiply_in_place<L: Lanes>(
    panel: Rows,
    activations: &[ActivationRun],
    n_runs: usize,
    sums: &mut [f32],
) {
    for run in 0..n_runs {
        // SAFETY: by the caller's promise; see `unpack` about the prefetch.
        unsafe {
            prefetch_next::<L, Q8_0>(panel, run);
            let block = panel.add(run * Q8_0::BYTES);
            let scale = halves::<L>(block);
            for (row, sums) in sums.chunks_exact_mut(L::N).enumerate() {
                let activation = &activations[row * n_runs + run];
                let dot = L::dot_in_place(block.add(2), activation);
                let scale = L::mul(scale, L::splat_float(activation.scale));
                let total = L::mul_add(scale, L::to_float(dot), L::load(sums.as_ptr()));
                L::store(sums.as_mut_ptr(), total);
            }
        }
    }
}

/// Asks for as much of the next panel as block `block` takes of this one: eight or sixteen streams side by side are more
/// than the processor foresees by itself.
#[inline(always)]
unsafe fn prefetch_next<L: Lanes, F: Format>(panel: Rows, block: usize) {
    // The next panel begins where this one ends.
    let next = panel.at.wrapping_add(L::N * (panel.stride + block * F::BYTES));
    for line in 0..(L::N * F::BYTES).div_ceil(64) {
        // SAFETY: the instructions are there; a prefetch may ask for anything.
        unsafe { L::prefetch(next.wrapping_add(64 * line)) };
    }
}

/// Adds the products of some runs, `n_runs` apart from row to row, to `sums`, `(rows, L::N)`.
#[inline(always)]
unsafe fn multiply_rows<L: Lanes, F: Format>(
    slots: &[Slot<L>],
    activations: *const ActivationRun,
    n_runs: usize,
    sums: &mut [f32],
) {
    let n_rows = sums.len() / L::N;
    let mut row = 0;
    macro_rules! rows_at_once {
        ($n:literal) => {
            while n_rows - row >= $n {
                // SAFETY: rows below `n_rows`.
                unsafe {
                    let activations = activations.add(row * n_runs);
                    add_products::<L, F, $n>(slots, activations, n_runs, sums[row * L::N..].as_mut_ptr());
                }
                row += $n;
            }
        };
    }
    rows_at_once!(8);
    rows_at_once!(4);
    rows_at_once!(2);
    rows_at_once!(1);
}

/// The same for `T` rows, whose sums stay in registers.
#[inline(always)]
unsafe fn add_products<L: Lanes, F: Format, const T: usize>(
    slots: &[Slot<L>],
    activations: *const ActivationRun,
    n_runs: usize,
    sums: *mut f32,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let mut totals: [L::Float; T] = std::array::from_fn(|row| L::load(sums.add(row * L::N)));
        for (run, slot) in slots.iter().enumerate() {
            let rows: [*const ActivationRun; T] =
                std::array::from_fn(|row| activations.add(row * n_runs + run));
            let dots = L::dot::<F, T>(slot, rows);
            for row in 0..T {
                let activation = &*rows[row];
                let scale = L::mul(slot.scale, L::splat_float(activation.scale));
                totals[row] = L::mul_add(scale, L::to_float(dots[row]), totals[row]);
                if F::N_MINS == 1 {
                    let sum = L::splat_float(activation.scaled_sum);
                    totals[row] = L::mul_sub(slot.mins[0], sum, totals[row]);
                }
                if F::N_MINS == 2 {
                    for half in 0..2 {
                        let sum = L::splat_float(activation.scaled_half_sums[half]);
                        totals[row] = L::mul_sub(slot.mins[half], sum, totals[row]);
                    }
                }
            }
        }
        for (row, total) in totals.into_iter().enumerate() {
            L::store(sums.add(row * L::N), total);
        }
    }
}
