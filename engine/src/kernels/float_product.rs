//! Products of weights in F32, F16 and BF16 with single-precision activations.
//!
//! A few rows of weights meet a few of activations in registers, as many inputs at a time as a register has lanes. As with
//! [`super::panel`], a row's result does not depend on its neighbours: every (row, output) has its own lanes, filled in
//! the order of inputs and added up at the end.

use std::ops::Range;

#[cfg(not(target_arch = "aarch64"))]
use super::lanes::PlainFloats;
use super::{Isa, SharedOut, lanes::Floats, panel::MAX_LANES};
use crate::weights::{GgmlType, Tensor};

/// Rows of activations that stay in the second-level cache while the weights pass; whole tiles of every machine.
pub(super) const ROW_TILE: usize = 96;

/// Rows of weights whose sums are in registers.
const OUTPUT_TILE: usize = 4;

/// The whole product.
#[derive(Clone, Copy)]
struct Task<'a> {
    n_outputs: usize,
    n_inputs: usize,
    /// `(n_outputs, n_inputs)`, as stored.
    weights: &'a [u8],
    /// `(rows, n_inputs)`.
    input: &'a [f32],
    /// `(rows, n_outputs)`.
    out: SharedOut<'a, f32>,
}

/// Writes columns `outputs` of `rows` of `out`, `(rows, n_outputs)`.
///
/// `weights` is `(n_outputs, n_inputs)`, `input` `(rows, n_inputs)`.
///
/// # Safety
/// No other thread touches these places of `out`.
///
/// # Panics
/// For weights that are not plain numbers, and for places outside the matrices.
pub(super) unsafe fn multiply(
    isa: Isa,
    weights: &Tensor,
    input: &[f32],
    outputs: Range<usize>,
    rows: Range<usize>,
    out: SharedOut<'_, f32>,
) {
    let (n_outputs, n_inputs, dtype) = (weights.shape[0], weights.shape[1], weights.dtype);
    let weights = weights.bytes();
    assert!(outputs.end <= n_outputs && rows.end * n_inputs <= input.len());
    assert!(n_outputs * n_inputs * dtype.block_bytes() <= weights.len());
    let task = Task {
        n_outputs,
        n_inputs,
        weights,
        input,
        out,
    };
    // SAFETY: the places are there by the assertions, the rest is the caller's promise.
    unsafe {
        match dtype {
            GgmlType::F32 => multiply_numbers::<F32>(isa, task, outputs, rows),
            GgmlType::F16 => multiply_numbers::<F16>(isa, task, outputs, rows),
            GgmlType::BF16 => multiply_numbers::<BF16>(isa, task, outputs, rows),
            other => panic!("{} is not a type of plain numbers", other.name()),
        }
    }
}

/// How weights are stored.
trait Number {
    const N_BYTES: usize;

    /// As many as a register has lanes, in single precision.
    ///
    /// # Safety
    /// As [`Floats`].
    unsafe fn load<L: Floats>(at: *const u8) -> L::Float;
}

struct F32;
struct F16;
struct BF16;

impl Number for F32 {
    const N_BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<L: Floats>(at: *const u8) -> L::Float {
        // SAFETY: the caller's promise.
        unsafe { L::load(at.cast()) }
    }
}

impl Number for F16 {
    const N_BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<L: Floats>(at: *const u8) -> L::Float {
        // SAFETY: the caller's promise.
        unsafe { L::halves(at) }
    }
}

impl Number for BF16 {
    const N_BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<L: Floats>(at: *const u8) -> L::Float {
        // SAFETY: the caller's promise.
        unsafe { L::brain_floats(at) }
    }
}

/// # Safety
/// The outputs and rows are there, and no other thread touches their places of the result.
unsafe fn multiply_numbers<W: Number>(isa: Isa, task: Task<'_>, outputs: Range<usize>, rows: Range<usize>) {
    // SAFETY: the instructions were detected, or the kind would not be; the rest is the caller's promise.
    unsafe {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            super::Kind::Avx2(super::Integers::Avx512Vnni) => multiply_avx512::<W>(task, outputs, rows),
            #[cfg(target_arch = "x86_64")]
            super::Kind::Avx2(_) => multiply_avx2::<W>(task, outputs, rows),
            #[cfg(target_arch = "aarch64")]
            // Every such processor has what numbers with a point take.
            _ => multiply_tiles::<super::neon::Neon<false>, W, 6>(task, outputs, rows),
            #[cfg(not(target_arch = "aarch64"))]
            super::Kind::Portable => multiply_tiles::<PlainFloats<16>, W, 1>(task, outputs, rows),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
unsafe fn multiply_avx512<W: Number>(task: Task<'_>, outputs: Range<usize>, rows: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { multiply_tiles::<super::avx512::Avx512, W, 6>(task, outputs, rows) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_avx2<W: Number>(task: Task<'_>, outputs: Range<usize>, rows: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { multiply_tiles::<super::avx2::Avx2<false>, W, 3>(task, outputs, rows) };
}

/// # Safety
/// The instructions of `L` are there, and the outputs and rows; no other thread touches their places of the result.
#[inline(always)]
unsafe fn multiply_tiles<L: Floats, W: Number, const MAX_ROWS: usize>(
    task: Task<'_>,
    outputs: Range<usize>,
    rows: Range<usize>,
) {
    let tiled_end = outputs.end - outputs.len() % OUTPUT_TILE;
    // SAFETY: the caller's promise.
    unsafe {
        for output in (outputs.start..tiled_end).step_by(OUTPUT_TILE) {
            multiply_outputs::<L, W, MAX_ROWS, OUTPUT_TILE>(task, output, rows.clone());
        }
        for output in tiled_end..outputs.end {
            multiply_outputs::<L, W, MAX_ROWS, 1>(task, output, rows.clone());
        }
    }
}

/// Outputs `output..output + R` of all rows.
#[inline(always)]
unsafe fn multiply_outputs<L: Floats, W: Number, const MAX_ROWS: usize, const R: usize>(
    task: Task<'_>,
    output: usize,
    rows: Range<usize>,
) {
    const { assert!(MAX_ROWS <= 6) };
    for row in rows.clone().step_by(MAX_ROWS) {
        // While the first rows pass, those weights are asked for that come next.
        let ahead = if row == rows.start {
            R * task.n_inputs * W::N_BYTES
        } else {
            0
        };
        // SAFETY: the caller's promise.
        unsafe {
            match (rows.end - row).min(MAX_ROWS) {
                1 => multiply_tile::<L, W, R, 1>(task, output, row, ahead),
                2 => multiply_tile::<L, W, R, 2>(task, output, row, ahead),
                3 => multiply_tile::<L, W, R, 3>(task, output, row, ahead),
                4 => multiply_tile::<L, W, R, 4>(task, output, row, ahead),
                5 => multiply_tile::<L, W, R, 5>(task, output, row, ahead),
                _ => multiply_tile::<L, W, R, 6>(task, output, row, ahead),
            }
        }
    }
}

/// Outputs `output..output + R` of rows `row..row + T`. Asks for the weights that are `ahead` bytes behind those that it reads.
#[inline(always)]
unsafe fn multiply_tile<L: Floats, W: Number, const R: usize, const T: usize>(
    task: Task<'_>,
    output: usize,
    row: usize,
    ahead: usize,
) {
    let Task {
        n_outputs, n_inputs, ..
    } = task;
    let n_whole = n_inputs / L::N * L::N;
    // SAFETY: the caller's promise; what is left of a row is read from arrays that are as long as a register.
    unsafe {
        let mut weights = [task.weights.as_ptr(); R];
        for (idx, weights) in weights.iter_mut().enumerate() {
            *weights = weights.add((output + idx) * n_inputs * W::N_BYTES);
        }
        let mut input = [task.input.as_ptr(); T];
        for (idx, input) in input.iter_mut().enumerate() {
            *input = input.add((row + idx) * n_inputs);
        }
        let mut sums = [[L::splat_float(0.0); T]; R];
        for at in (0..n_whole).step_by(L::N) {
            add_products::<L, W, R, T>(&weights, &input, at, ahead, &mut sums);
        }
        if n_whole < n_inputs {
            let n_left = n_inputs - n_whole;
            let mut last_weights = [[0u8; MAX_LANES * size_of::<f32>()]; R];
            for (last, weights) in last_weights.iter_mut().zip(&mut weights) {
                let left = weights.add(n_whole * W::N_BYTES);
                left.copy_to_nonoverlapping(last.as_mut_ptr(), n_left * W::N_BYTES);
                *weights = last.as_ptr();
            }
            let mut last_input = [[0.0f32; MAX_LANES]; T];
            for (last, input) in last_input.iter_mut().zip(&mut input) {
                input
                    .add(n_whole)
                    .copy_to_nonoverlapping(last.as_mut_ptr(), n_left);
                *input = last.as_ptr();
            }
            add_products::<L, W, R, T>(&weights, &input, 0, 0, &mut sums);
        }
        for row_idx in 0..T {
            let at = (row + row_idx) * n_outputs + output;
            let out = task.out.slice(at..at + R);
            for (out, sums) in out.iter_mut().zip(&sums) {
                *out = sum_of_lanes::<L>(sums[row_idx]);
            }
        }
    }
}

/// Adds the products of a register of each of `R` rows of weights with one of each of `T` rows of activations, from input `at` on.
/// Asks for the weights that are `ahead` bytes further on.
#[inline(always)]
unsafe fn add_products<L: Floats, W: Number, const R: usize, const T: usize>(
    weights: &[*const u8; R],
    input: &[*const f32; T],
    at: usize,
    ahead: usize,
    sums: &mut [[L::Float; T]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut loaded = [L::splat_float(0.0); T];
        for row in 0..T {
            loaded[row] = L::load(input[row].add(at));
        }
        for output in 0..R {
            let weights = weights[output].add(at * W::N_BYTES);
            L::prefetch(weights.wrapping_add(ahead));
            let weights = W::load::<L>(weights);
            for row in 0..T {
                sums[output][row] = L::mul_add(weights, loaded[row], sums[output][row]);
            }
        }
    }
}

/// The upper half is added to the lower one until one number is left.
#[inline(always)]
unsafe fn sum_of_lanes<L: Floats>(sums: L::Float) -> f32 {
    let mut lanes = [0.0; MAX_LANES];
    // SAFETY: the caller's promise.
    unsafe { L::store(lanes.as_mut_ptr(), sums) };
    let mut n_lanes = L::N;
    while n_lanes > 1 {
        n_lanes /= 2;
        for lane in 0..n_lanes {
            lanes[lane] += lanes[lane + n_lanes];
        }
    }
    lanes[0]
}
