//! The one quantised product: blocks of a panel of weight rows are unpacked once, then multiplied by all rows of activations.
//!
//! Of a panel (see [`panels`](crate::weights::panels)), as many rows as a register has lanes, runs of 32 weights meet a group of rows
//! in registers. If there is one group
//! only, one run after the other is unpacked into registers and forgotten; otherwise 256 weights at a time are unpacked into
//! slots, which stay in the first-level cache while the groups pass.
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

use std::{hint::black_box, marker::PhantomData, mem::MaybeUninit, ops::Range};

use super::{
    SharedOut,
    formats::Format,
    lanes::{Blocks, Lanes, Run, Scales, unrolled},
    quantized_rows::{ActivationRun, QuantizedRows, RowGroup},
    tiles::{Panel, Tiles},
};
use crate::{
    quant::{MAX_RUNS, RUN_LEN},
    weights::{PANEL_ROWS, panels::LINE_BYTES},
};

/// Most outputs of a panel, on any machine.
pub(super) const MAX_LANES: usize = 16;

/// Groups of rows that stay in cache while the panels pass over them.
pub(super) const GROUP_TILE: usize = 6;

/// Most registers that a panel takes, on any machine.
const MAX_PARTS: usize = 2;

/// How far ahead of the multiplications weights are asked for, in bytes: from memory into the second-level cache, and from there
/// into the first. Asking the first one for lines of memory would fill all the places that it has for lines on their way.
const FAR_BYTES: usize = 8192;
const NEAR_BYTES: usize = 3584;

/// Of a panel that takes several registers, the part of one is multiplied for so many bytes of the panel before the next: what comes
/// from memory in whole lines is still there. With the block that it may take beyond that, no more than is asked for ahead.
const BYTES_AT_ONCE: usize = 2048;

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
/// The instructions of `L` are there; the weights are tiles of format `F`; no other thread touches these
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
    let n_parts = PANEL_ROWS / L::N;
    let n_blocks_at_once = match n_parts {
        1 => task.weights.n_blocks(),
        _ => (BYTES_AT_ONCE / (PANEL_ROWS * F::BYTES)).max(1),
    };
    let mut sums = [[0.0f32; MAX_LANES]; T];
    for start in outputs.clone().step_by(PANEL_ROWS) {
        let panel = task.weights.panel(start / PANEL_ROWS);
        // SAFETY: the caller's promises.
        unsafe {
            let mut totals = [[L::splat_float(0.0); T]; MAX_PARTS];
            for (idx, runs) in runs.chunks(n_blocks_at_once * F::N_RUNS).enumerate() {
                let first_block = idx * n_blocks_at_once;
                for (part, totals) in totals[..n_parts].iter_mut().enumerate() {
                    let part = Part {
                        panel,
                        lane: part * L::N,
                    };
                    let mut sums = *totals;
                    for (block, runs) in (first_block..).zip(runs.chunks_exact(F::N_RUNS)) {
                        let blocks = part.blocks::<F>(block);
                        let scales = F::block_scales::<L>(blocks);
                        unrolled!(RUN in 0 1 2 3 4 5 6 7 => {
                            if RUN < F::N_RUNS {
                                // Each part asks for its share, so that memory is never idle.
                                ask_ahead::<L, F>(blocks, RUN, part.lane / L::N, n_parts);
                                let run = PackedRun::<L, F>::new(blocks, scales, RUN);
                                add_run::<L, F, T>(&run, &run.scales, &runs[RUN], &mut sums);
                            }
                        });
                    }
                    *totals = sums;
                }
            }
            for (start, totals) in (start..outputs.end).step_by(L::N).zip(&totals[..n_parts]) {
                for row in 0..T {
                    L::store(sums[row].as_mut_ptr(), totals[row]);
                }
                let outputs = start..outputs.end.min(start + L::N);
                write::<L>(task, group, outputs, sums.as_flattened(), MAX_LANES);
            }
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
        let part = Part::of(task, start);
        for first_run in (0..n_runs).step_by(MAX_RUNS) {
            let slots = &mut slots[..MAX_RUNS.min(n_runs - first_run)];
            for (idx, slots) in slots.chunks_exact_mut(F::N_RUNS).enumerate() {
                // SAFETY: the caller's promises.
                unsafe {
                    let blocks = part.blocks::<F>(first_run / F::N_RUNS + idx);
                    let scales = F::block_scales::<L>(blocks);
                    unrolled!(RUN in 0 1 2 3 4 5 6 7 => {
                        if RUN < F::N_RUNS {
                            if part.lane == 0 {
                                ask_ahead::<L, F>(blocks, RUN, 0, 1);
                            }
                            PackedRun::<L, F>::new(blocks, scales, RUN).unpack(&mut slots[RUN]);
                        }
                    });
                }
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
    assert!(outputs.start.is_multiple_of(PANEL_ROWS) && outputs.end <= task.n_outputs);
    assert!(PANEL_ROWS.is_multiple_of(L::N) && PANEL_ROWS / L::N <= MAX_PARTS);
    assert!(task.weights.n_blocks() * F::N_RUNS == task.input.n_runs());
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
            add_run::<L, F, T>(slot, &slot.scales, runs, &mut totals);
        }
        for (sums, total) in sums.chunks_exact_mut(L::N).zip(totals) {
            L::store(sums.as_mut_ptr(), total);
        }
    }
}

/// Those rows of a panel that fit in a register.
#[derive(Clone, Copy)]
struct Part {
    panel: Panel,
    /// The first of them.
    lane: usize,
}

impl Part {
    /// Rows from `output` on.
    fn of(task: Task<'_>, output: usize) -> Self {
        Self {
            panel: task.weights.panel(output / PANEL_ROWS),
            lane: output % PANEL_ROWS,
        }
    }

    /// Block `block` of each row.
    ///
    /// # Safety
    /// The panel has the block, of format `F`.
    #[inline(always)]
    unsafe fn blocks<F: Format>(self, block: usize) -> Blocks {
        let Self { panel, lane } = self;
        // SAFETY: the caller's promise.
        unsafe {
            Blocks {
                heads: panel.heads.add((block * PANEL_ROWS + lane) * F::HEAD_BYTES),
                words: panel
                    .words
                    .add(block * PANEL_ROWS * (F::BYTES - F::HEAD_BYTES) + 4 * lane),
            }
        }
    }
}

/// Asks for the lines of run `run` some blocks further on: all, or those of one of `n_shares`, counted from `share`.
#[inline(always)]
fn ask_ahead<L: Lanes, F: Format>(blocks: Blocks, run: usize, share: usize, n_shares: usize) {
    let n_lines = (PANEL_ROWS * (F::BYTES - F::HEAD_BYTES)).div_ceil(LINE_BYTES);
    let first = n_lines * run / F::N_RUNS + share;
    for line in (first..n_lines * (run + 1) / F::N_RUNS).step_by(n_shares) {
        let at = blocks.words.wrapping_add(LINE_BYTES * line);
        // SAFETY: a prefetch may ask for anything.
        unsafe {
            L::prefetch_far(at.wrapping_add(FAR_BYTES));
            L::prefetch(at.wrapping_add(NEAR_BYTES));
        }
    }
}

/// A run of 32 weights of each row, taken apart when they are asked for.
struct PackedRun<L: Lanes, F> {
    blocks: Blocks,
    run: usize,
    scales: Scales<L>,
    format: PhantomData<F>,
}

/// The same, taken apart already.
struct Slot<L: Lanes> {
    weights: [L::Weights; RUN_LEN / 4],
    scales: Scales<L>,
}

impl<L: Lanes, F: Format> PackedRun<L, F> {
    /// Run `run` of these blocks, which have these scales.
    ///
    /// The compiler is kept from seeing that other runs read the same words: it would hold on to them until registers run out.
    ///
    /// # Safety
    /// As [`Part::blocks`].
    #[inline(always)]
    unsafe fn new(blocks: Blocks, block_scales: [L::Float; 2], run: usize) -> Self {
        let blocks = black_box(blocks);
        Self {
            blocks,
            run,
            // SAFETY: the caller's promise.
            scales: unsafe { F::scales(blocks, block_scales, run) },
            format: PhantomData,
        }
    }

    #[inline(always)]
    unsafe fn unpack(&self, slot: &mut Slot<L>) {
        slot.scales = self.scales;
        unrolled!(J in 0 1 2 3 4 5 6 7 => {
            // SAFETY: the promise of `new`.
            slot.weights[J] = unsafe { self.weights(J) };
        });
    }
}

impl<L: Lanes, F: Format> Run<L> for PackedRun<L, F> {
    #[inline(always)]
    unsafe fn weights(&self, j: usize) -> L::Weights {
        // SAFETY: the promise of `new`.
        unsafe {
            let bytes = F::bytes::<L>(self.blocks, self.run, j);
            L::ready::<F>(bytes)
        }
    }
}

impl<L: Lanes> Run<L> for Slot<L> {
    #[inline(always)]
    unsafe fn weights(&self, j: usize) -> L::Weights {
        self.weights[j]
    }
}

/// Adds the products of one run with `T` rows to their sums.
#[inline(always)]
unsafe fn add_run<L: Lanes, F: Format, const T: usize>(
    run: &impl Run<L>,
    scales: &Scales<L>,
    activations: &[ActivationRun; T],
    totals: &mut [L::Float; T],
) {
    // SAFETY: the caller's promises.
    unsafe {
        let dots = L::dot::<F, T>(run, scales.halves, activations);
        for row in 0..T {
            let (activation, total) = (&activations[row], &mut totals[row]);
            let scale = L::mul(scales.scale, L::splat_float(activation.scale));
            *total = L::mul_add(scale, dots[row], *total);
            if F::N_MINS == 1 {
                *total = L::mul_sub(scales.mins[0], L::splat_float(activation.scaled_sum), *total);
            }
            if F::N_MINS == 2 {
                let [first, second] = activation.scaled_half_sums;
                *total = L::mul_sub(scales.mins[0], L::splat_float(first), *total);
                *total = L::mul_sub(scales.mins[1], L::splat_float(second), *total);
            }
        }
    }
}
