//! Products of weights in F32, F16 and BF16 with single-precision activations.
//!
//! As with [`super::panel`], a row's result does not depend on its neighbours: every (row, output) has its own lanes,
//! filled in the order of inputs and added up at the end.

use std::ops::Range;

use super::{Isa, SharedOut, float::mul_add, scalar::ROW_TILE};
use crate::{quant, weights::Tensor};

/// Weights that are widened at a time.
const CHUNK: usize = 256;

/// Independent sums of an output.
const LANES: usize = 32;

/// Writes columns `outputs` of `rows`, at most [`ROW_TILE`] of them, of `out`, `(rows, n_outputs)`.
///
/// `weights` is `(n_outputs, n_inputs)`, `input` `(rows, n_inputs)`.
///
/// # Safety
/// No other thread touches these places of `out`.
pub(super) unsafe fn multiply(
    isa: Isa,
    weights: &Tensor,
    input: &[f32],
    outputs: Range<usize>,
    rows: Range<usize>,
    out: SharedOut<'_, f32>,
) {
    let (n_outputs, n_inputs) = (weights.shape[0], weights.shape[1]);
    let input = &input[rows.start * n_inputs..rows.end * n_inputs];
    let number_bytes = weights.dtype.block_bytes();
    let row_bytes = n_inputs * number_bytes;
    let mut chunk = [0.0; CHUNK];
    for output in outputs {
        let mut sums = [[0.0; LANES]; ROW_TILE];
        let bytes = &weights.bytes()[output * row_bytes..(output + 1) * row_bytes];
        for (chunk_idx, bytes) in bytes.chunks(CHUNK * number_bytes).enumerate() {
            let chunk = &mut chunk[..bytes.len() / number_bytes];
            quant::dequantize_row(weights.dtype, bytes, chunk);
            for (sums, input) in sums.iter_mut().zip(input.chunks_exact(n_inputs)) {
                let input = &input[chunk_idx * CHUNK..][..chunk.len()];
                match isa.0 {
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: the instructions were detected, or the kind would not be.
                    super::Kind::Avx2(_) => unsafe { add_products_avx2(chunk, input, sums) },
                    _ => add_products::<false>(chunk, input, sums),
                }
            }
        }
        for (row, sums) in rows.clone().zip(sums) {
            let at = row * n_outputs + output;
            // SAFETY: this place is ours by the caller's promise.
            let place = unsafe { out.slice(at..at + 1) };
            place[0] = sums.into_iter().sum();
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn add_products_avx2(a: &[f32], b: &[f32], sums: &mut [f32; LANES]) {
    add_products::<true>(a, b, sums);
}

#[inline(always)]
fn add_products<const FMA: bool>(a: &[f32], b: &[f32], sums: &mut [f32; LANES]) {
    let mut lanes = *sums;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] = mul_add::<FMA>(a[lane], b[lane], lanes[lane]);
        }
    }
    for ((a, b), sum) in a_rest.iter().zip(b_rest).zip(&mut lanes) {
        *sum = mul_add::<FMA>(*a, *b, *sum);
    }
    *sums = lanes;
}
