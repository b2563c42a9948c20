//! The one quantised product: blocks of a panel of weight rows are unpacked once, then multiplied by all rows of activations.
//!
//! Of a panel of `N` rows (see [`super::tiles`]), a few runs of 32 weights at a time are unpacked into slots, where each meets
//! a group of rows in registers. If there is one group only, one block after the other is unpacked and forgotten; otherwise
//! 256 weights stay in the first-level cache while the groups pass.
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
    formats::Format,
    lanes::{Blocks, Lanes, Slot},
    quantized_rows::{ActivationRun, QuantizedRows, RowGroup},
    tiles::{Panel, Tiles},
};
use crate::quant::MAX_RUNS;

/// Most outputs of a panel, on any machine.
pub(super) const MAX_LANES: usize = 16;

/// Groups of rows that stay in cache while the panels pass over them.
pub(super) const GROUP_TILE: usize = 6;

/// How far ahead of the multiplications weights are asked for, in bytes.
const PREFETCH_BYTES: usize = 4096;

/// A product of quantised weights, as every path but the slow one takes it.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    /// The whole matrix.
    pub(super) weights: &'a Tiles,
    pub(super) n_outputs: usize,
    pub(super) input: &'a QuantizedRows,
    /// `(rows, n_outputs)`.
    pub(super) out: SharedOut<'a, f32>,
}

/// Writes columns `outputs` of the rows of the only group, which is `T` wide: each block is multiplied as soon as it is unpacked.
///
/// # Safety
/// The instructions of `L` are there; the weights are tiles of format `F` for `L::N` lanes; no other thread touches these
/// places of the result.
#[inline(always)]
pub(super) unsafe fn multiply_group<L: Lanes, F: Format, const T: usize>(
    task: Task<'_>,
    outputs: Range<usize>,
) {
    let group = task.input.groups()[0];
    assert!(group.width == T && F::N_RUNS <= MAX_RUNS);
    check::<L, F>(task, &outputs);
    let runs = task.input.runs_of(group).as_chunks::<T>().0;
    let mut slots = [const { MaybeUninit::<Slot<L>>::uninit() }; MAX_RUNS];
    // SAFETY: a slot is plain registers of which any bits are valid, and each field is written before it is read.
    let slots = unsafe { &mut *(&raw mut slots).cast::<[Slot<L>; MAX_RUNS]>() };
    let slots = &mut slots[..F::N_RUNS];
    let mut sums = [[0.0f32; MAX_LANES]; T];
    for start in outputs.clone().step_by(L::N) {
        let panel = task.weights.panel(start / L::N);
        // SAFETY: the caller's promises.
        unsafe {
            let mut totals = [L::splat_float(0.0); T];
            for (block, runs) in runs.chunks_exact(F::N_RUNS).enumerate() {
                unpack_block::<L, F>(panel, block, slots);
                for (slot, runs) in slots.iter().zip(runs) {
                    add_run::<L, F, T>(slot, runs, &mut totals);
                }
            }
            for row in 0..T {
                L::store(sums[row].as_mut_ptr(), totals[row]);
            }
            write::<L>(
                task,
                group,
                start..outputs.end.min(start + L::N),
                sums.as_flattened(),
                MAX_LANES,
            );
        }
    }
}

/// Writes columns `outputs` of the rows in `groups`, at most [`GROUP_TILE`] of them, `WIDE` or `NARROW` wide.
///
/// # Safety
/// As [`multiply_group`].
#[inline(always)]
pub(super) unsafe fn multiply_groups<L: Lanes, F: Format, const WIDE: usize, const NARROW: usize>(
    task: Task<'_>,
    outputs: Range<usize>,
    groups: Range<usize>,
) {
    let (input, n_runs) = (task.input, task.input.n_runs());
    let groups = &input.groups()[groups];
    assert!(groups.len() <= GROUP_TILE && groups.iter().all(|it| it.width == WIDE || it.width == NARROW));
    check::<L, F>(task, &outputs);
    let mut slots = [const { MaybeUninit::<Slot<L>>::uninit() }; MAX_RUNS];
    // SAFETY: a slot is plain registers of which any bits are valid, and each field is written before it is read.
    let slots = unsafe { &mut *(&raw mut slots).cast::<[Slot<L>; MAX_RUNS]>() };
    let mut sums = [[0.0f32; 12 * MAX_LANES]; GROUP_TILE];
    for start in outputs.clone().step_by(L::N) {
        let panel = task.weights.panel(start / L::N);
        for first_run in (0..n_runs).step_by(MAX_RUNS) {
            let slots = &mut slots[..MAX_RUNS.min(n_runs - first_run)];
            for (idx, slots) in slots.chunks_exact_mut(F::N_RUNS).enumerate() {
                // SAFETY: the caller's promises.
                unsafe { unpack_block::<L, F>(panel, first_run / F::N_RUNS + idx, slots) };
            }
            for (group, sums) in groups.iter().zip(&mut sums) {
                let runs = &input.runs_of(*group)[first_run * group.width..];
                // SAFETY: the caller's promises.
                unsafe {
                    if group.width == WIDE {
                        add_products::<L, F, WIDE>(slots, runs, first_run == 0, sums);
                    } else {
                        add_products::<L, F, NARROW>(slots, runs, first_run == 0, sums);
                    }
                }
            }
        }
        for (group, sums) in groups.iter().zip(&sums) {
            // SAFETY: the caller's promises.
            unsafe { write::<L>(task, *group, start..outputs.end.min(start + L::N), sums, L::N) };
        }
    }
}

fn check<L: Lanes, F: Format>(task: Task<'_>, outputs: &Range<usize>) {
    assert!(outputs.start.is_multiple_of(L::N) && outputs.end <= task.n_outputs);
    assert!(task.weights.n_lanes() == L::N && task.weights.n_blocks() * F::N_RUNS == task.input.n_runs());
}

/// Writes the sums of a group, `(width, stride)`, to columns `outputs` of its rows.
///
/// # Safety
/// No other thread touches these places.
#[inline(always)]
unsafe fn write<L: Lanes>(
    task: Task<'_>,
    group: RowGroup,
    outputs: Range<usize>,
    sums: &[f32],
    stride: usize,
) {
    for (row, sums) in (group.first_row..)
        .zip(sums.chunks_exact(stride))
        .take(group.n_rows)
    {
        let at = row * task.n_outputs;
        // SAFETY: the caller's promise.
        unsafe {
            let out = task.out.slice(at + outputs.start..at + outputs.end);
            if out.len() == L::N {
                L::store(out.as_mut_ptr(), L::load(sums.as_ptr()));
            } else {
                out.copy_from_slice(&sums[..out.len()]);
            }
        }
    }
}

/// Adds the products of unpacked runs to the sums of `T` rows, `(T, L::N)`, or begins them.
#[inline(always)]
unsafe fn add_products<L: Lanes, F: Format, const T: usize>(
    slots: &[Slot<L>],
    runs: &[ActivationRun],
    is_first: bool,
    sums: &mut [f32],
) {
    let runs = &runs.as_chunks::<T>().0[..slots.len()];
    let sums = &mut sums[..T * L::N];
    // SAFETY: the caller's promise.
    unsafe {
        let mut totals = [L::splat_float(0.0); T];
        if !is_first {
            for (total, sums) in totals.iter_mut().zip(sums.chunks_exact(L::N)) {
                *total = L::load(sums.as_ptr());
            }
        }
        for (slot, runs) in slots.iter().zip(runs) {
            add_run::<L, F, T>(slot, runs, &mut totals);
        }
        for (sums, total) in sums.chunks_exact_mut(L::N).zip(totals) {
            L::store(sums.as_mut_ptr(), total);
        }
    }
}

/// Fills `slots` from block `block` of each row.
#[inline(always)]
unsafe fn unpack_block<L: Lanes, F: Format>(panel: Panel, block: usize, slots: &mut [Slot<L>]) {
    let (head_bytes, word_bytes) = (L::N * F::HEAD_BYTES, L::N * (F::BYTES - F::HEAD_BYTES));
    // SAFETY: the caller's promise; a prefetch may ask for anything.
    unsafe {
        let words = panel.words.add(block * word_bytes);
        for line in 0..word_bytes.div_ceil(64) {
            L::prefetch(words.wrapping_add(PREFETCH_BYTES + 64 * line));
        }
        let heads = panel.heads.add(block * head_bytes);
        F::unpack(Blocks { heads, words }, slots);
    }
}

/// Adds the products of one run with `T` rows to their sums.
#[inline(always)]
unsafe fn add_run<L: Lanes, F: Format, const T: usize>(
    slot: &Slot<L>,
    runs: &[ActivationRun; T],
    totals: &mut [L::Float; T],
) {
    // SAFETY: the caller's promises.
    unsafe {
        let dots = L::dot::<F, T>(slot, runs);
        for row in 0..T {
            let (run, total) = (&runs[row], &mut totals[row]);
            let scale = L::mul(slot.scale, L::splat_float(run.scale));
            *total = L::mul_add(scale, L::to_float(dots[row]), *total);
            if F::N_MINS == 1 {
                *total = L::mul_sub(slot.mins[0], L::splat_float(run.scaled_sum), *total);
            }
            if F::N_MINS == 2 {
                *total = L::mul_sub(slot.mins[0], L::splat_float(run.scaled_half_sums[0]), *total);
                *total = L::mul_sub(slot.mins[1], L::splat_float(run.scaled_half_sums[1]), *total);
            }
        }
    }
}
