//! Single-precision building blocks: dot products, norms, activations, exponentials.
//!
//! Each is written once, generic over whether fused multiply-add is at hand, with eight independent lanes
//! that the compiler turns into vector registers where the caller enables them.

use half::f16;
#[cfg(not(target_arch = "aarch64"))]
use half::slice::HalfFloatSliceExt;

use super::{Isa, lanes::Floats};

/// Independent accumulators in every reduction.
const LANES: usize = 8;

/// Half-precision numbers as single-precision ones, exactly.
pub(crate) fn widen(isa: Isa, halves: &[f16], out: &mut [f32]) {
    assert_eq!(halves.len(), out.len());
    // SAFETY: the kinds are only made where the instructions were detected; both slices are of one length.
    unsafe {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            super::Kind::Avx2(_) => widen_f16c(halves, out),
            #[cfg(target_arch = "aarch64")]
            _ => widen_lanes::<super::neon::Neon<false>>(halves, out),
            #[cfg(not(target_arch = "aarch64"))]
            super::Kind::Portable => halves.convert_to_f32_slice(out),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
unsafe fn widen_f16c(halves: &[f16], out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { widen_lanes::<super::avx2::Avx2<false>>(halves, out) };
}

/// # Safety
/// The instructions of `L` are there, and `out` is as long as `halves`.
#[inline(always)]
unsafe fn widen_lanes<L: Floats>(halves: &[f16], out: &mut [f32]) {
    let (whole, rest) = halves.split_at(halves.len() / L::N * L::N);
    let (out, out_rest) = out.split_at_mut(whole.len());
    for (halves, out) in whole.chunks_exact(L::N).zip(out.chunks_exact_mut(L::N)) {
        // SAFETY: the caller's promise.
        unsafe { L::store(out.as_mut_ptr(), L::halves(halves.as_ptr().cast())) };
    }
    for (half, out) in rest.iter().zip(out_rest) {
        *out = half.to_f32();
    }
}

/// `a * b + c`, fused where the instruction exists; `f32::mul_add` would call a slow library routine elsewhere.
#[inline(always)]
pub(super) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Sum of products; `a` and `b` of the same length, any.
#[inline(always)]
pub(super) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] = mul_add::<FMA>(a[lane], b[lane], lanes[lane]);
        }
    }
    sum_lanes(lanes) + rest
}

#[inline(always)]
fn sum_lanes(lanes: [f32; LANES]) -> f32 {
    ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))
}

/// The largest of some numbers, a multiple of eight of them; NaN is passed over.
#[inline(always)]
pub(super) fn largest(numbers: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in numbers.chunks_exact(LANES) {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] {
                chunk[lane]
            } else {
                lanes[lane]
            };
        }
    }
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let pairs = [0, 1, 2, 3].map(|lane| larger(lanes[lane], lanes[lane + 4]));
    larger(larger(pairs[0], pairs[2]), larger(pairs[1], pairs[3]))
}

/// Sum of some numbers, a multiple of eight of them.
#[inline(always)]
pub(super) fn sum(numbers: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    for chunk in numbers.chunks_exact(LANES) {
        for lane in 0..LANES {
            lanes[lane] += chunk[lane];
        }
    }
    sum_lanes(lanes)
}

/// e to the power of x, within 2 units in the last place for x in [-87, 88]; smaller x give 0.
///
/// Range reduction by ln 2 in two parts and the polynomial of Cephes' `expf` (Moshier).
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits.
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = mul_add::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let exponent = shifted - ROUND;
    // ln 2 = 355/512 - 2.1219444e-4; the product with the first part is exact.
    let reduced = mul_add::<FMA>(exponent, -355.0 / 512.0, clamped);
    let reduced = mul_add::<FMA>(exponent, 2.121_944_4e-4, reduced);
    let mut poly = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        poly = mul_add::<FMA>(poly, reduced, coefficient);
    }
    let poly = mul_add::<FMA>(poly, reduced * reduced, reduced) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    let result = poly * power;
    if x < -87.0 { 0.0 } else { result }
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich 2019, "Root Mean Square Layer Normalization").
#[inline(always)]
pub(super) fn rms_norm_generic<const FMA: bool>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean_square = dot::<FMA>(x, x) / x.len() as f32;
    let scale = 1.0 / (mean_square + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// [`rms_norm_generic`] in place.
#[inline(always)]
pub(super) fn rms_norm_in_place_generic<const FMA: bool>(x: &mut [f32], weight: &[f32], eps: f32) {
    let mean_square = dot::<FMA>(x, x) / x.len() as f32;
    let scale = 1.0 / (mean_square + eps).sqrt();
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * scale * weight;
    }
}

/// `gate = silu(gate) * up`, with silu(x) = x / (1 + exp(-x)) (Shazeer 2020, "GLU Variants Improve Transformer").
#[inline(always)]
pub(super) fn swiglu_generic<const FMA: bool>(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp::<FMA>(-*gate)) * up;
    }
}

/// The slow version of [`rotate`](super::norm::rotate), and the fast one where more instructions are enabled.
#[inline(always)]
pub(super) fn rotate_generic(head: &mut [f32], cosines: &[f32], sines: &[f32], halves: bool) {
    let n_pairs = cosines.len();
    if halves {
        let (first, second) = head.split_at_mut(n_pairs);
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
        }
    } else {
        for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cosines).zip(sines) {
            let (a, b) = (pair[0], pair[1]);
            (pair[0], pair[1]) = (a * cos - b * sin, a * sin + b * cos);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened_exactly() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        for isa in Isa::all() {
            for n_left_out in [0, 3] {
                let halves = &halves[n_left_out..];
                let mut wide = vec![0.0; halves.len()];
                widen(isa, halves, &mut wide);
                for (half, wide) in halves.iter().zip(wide) {
                    let expected = half.to_f32();
                    assert!(expected.to_bits() == wide.to_bits() || expected.is_nan() && wide.is_nan());
                }
            }
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for step in -8700..8799 {
            let x = step as f32 / 100.0 + 0.003;
            let expected = f64::from(x).exp();
            for found in [exp::<false>(x), exp::<true>(x)] {
                let error = (f64::from(found) - expected).abs() / expected;
                assert!(error < 2.5e-7, "exp({x}): relative error {error:e}");
            }
        }
        assert_eq!(exp::<true>(-200.0), 0.0);
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<false>(0.0), 1.0);
    }

    #[test]
    fn dot_handles_a_tail() {
        let a: Vec<f32> = (0..21).map(|i| i as f32).collect();
        let expected: f32 = a.iter().map(|a| a * a).sum();
        assert_eq!(dot::<false>(&a, &a), expected);
        assert_eq!(dot::<true>(&a, &a), expected);
    }
}
