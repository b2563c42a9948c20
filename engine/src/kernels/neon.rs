//! Four weight rows side by side with NEON and its dot products of bytes (`sdot`, "dotprod"), and with products of small
//! matrices of bytes (`smmla`, "i8mm") where those are there: two rows of weights by two of activations at once.
//!
//! Where the compiler has no stable name for an instruction, it is written as assembly of one line.

use std::{
    arch::{aarch64::*, asm},
    ops::Range,
};

use super::{
    formats::{Format, with_format},
    lanes::{Floats, Lanes, Run, unrolled},
    panel::{self, Task},
    quantized_rows::ActivationRun,
};
use crate::weights::GgmlType;

/// Writes columns `outputs` of the rows in `groups`; see [`panel`].
///
/// # Safety
/// NEON and its dot products are there, with `I8MM` also products of matrices; the rest as there.
pub(super) unsafe fn multiply<const I8MM: bool>(
    dtype: GgmlType,
    task: Task<'_>,
    outputs: Range<usize>,
    groups: Range<usize>,
) {
    let width = match task.input.groups() {
        [group] => group.width,
        _ => 0,
    };
    // SAFETY: the caller's promise.
    unsafe {
        with_format!(dtype, F => match (I8MM, width) {
            (false, 0) => some_groups::<F>(task, outputs, groups),
            (false, 2) => one_group::<F, 2>(task, outputs),
            (false, 4) => one_group::<F, 4>(task, outputs),
            (false, 8) => one_group::<F, 8>(task, outputs),
            (true, 0) => some_groups_i8mm::<F>(task, outputs, groups),
            (true, 2) => one_group_i8mm::<F, 2>(task, outputs),
            (true, 4) => one_group_i8mm::<F, 4>(task, outputs),
            (true, 8) => one_group_i8mm::<F, 8>(task, outputs),
            // One row makes no matrix.
            _ => one_group::<F, 1>(task, outputs),
        });
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn one_group<F: Format, const T: usize>(task: Task<'_>, outputs: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { panel::multiply_group::<Neon<false>, F, T>(task, outputs) };
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn some_groups<F: Format>(task: Task<'_>, outputs: Range<usize>, groups: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { panel::multiply_groups::<Neon<false>, F, 8, 4>(task, outputs, groups) };
}

#[target_feature(enable = "neon,dotprod,i8mm")]
unsafe fn one_group_i8mm<F: Format, const T: usize>(task: Task<'_>, outputs: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { panel::multiply_group::<Neon<true>, F, T>(task, outputs) };
}

#[target_feature(enable = "neon,dotprod,i8mm")]
unsafe fn some_groups_i8mm<F: Format>(task: Task<'_>, outputs: Range<usize>, groups: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { panel::multiply_groups::<Neon<true>, F, 8, 4>(task, outputs, groups) };
}

/// The registers, with products of matrices if `I8MM`.
#[derive(Clone, Copy)]
pub(super) struct Neon<const I8MM: bool>;

/// Adds to each word the sum of the products of its four bytes with four bytes of `b`: those of word `LANE`.
#[inline(always)]
unsafe fn dot_lane<const LANE: usize>(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: dot products are there by the caller's promise; registers only.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// Adds to each word the sum of the products of eight bytes: of the first row of `a` with both of `b`, then of its second.
#[inline(always)]
unsafe fn add_matrix_product(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: products of matrices are there by the caller's promise; registers only.
    unsafe {
        asm!(
            "smmla {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// Four numbers in half precision, widened.
#[inline(always)]
unsafe fn widen(halves: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: registers only.
    unsafe {
        asm!(
            "fcvtl {wide:v}.4s, {halves:v}.4h",
            wide = lateout(vreg) wide,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    wide
}

// SAFETY (of the blocks below): the instructions and the places that are read are the caller's promise, see `Lanes`.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "said once for all of them, above"
)]
impl<const I8MM: bool> Floats for Neon<I8MM> {
    const N: usize = 4;
    type Float = float32x4_t;

    #[inline(always)]
    unsafe fn splat_float(x: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(x) }
    }

    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(at) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, x: float32x4_t) {
        unsafe { vst1q_f32(at, x) }
    }

    #[inline(always)]
    unsafe fn halves(at: *const u8) -> float32x4_t {
        unsafe { widen(vld1_u16(at.cast())) }
    }

    #[inline(always)]
    unsafe fn brain_floats(at: *const u8) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(at.cast())))) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        unsafe { asm!("prfm pldl1keep, [{}]", in(reg) at, options(readonly, nostack, preserves_flags)) }
    }

    #[inline(always)]
    unsafe fn prefetch_far(at: *const u8) {
        unsafe { asm!("prfm pldl2keep, [{}]", in(reg) at, options(readonly, nostack, preserves_flags)) }
    }
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "as above")]
impl<const I8MM: bool> Lanes for Neon<I8MM> {
    type Int = uint32x4_t;
    type Weights = int8x16_t;

    #[inline(always)]
    unsafe fn splat(word: u32) -> uint32x4_t {
        unsafe { vdupq_n_u32(word) }
    }

    #[inline(always)]
    unsafe fn and(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        unsafe { vandq_u32(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        unsafe { vorrq_u32(a, b) }
    }

    #[inline(always)]
    unsafe fn xor(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        unsafe { veorq_u32(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        unsafe { vaddq_u32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        unsafe { vsubq_u32(a, b) }
    }

    #[inline(always)]
    unsafe fn shift_left(a: uint32x4_t, bits: u32) -> uint32x4_t {
        unsafe { vshlq_u32(a, vdupq_n_s32(bits as i32)) }
    }

    #[inline(always)]
    unsafe fn shift_right(a: uint32x4_t, bits: u32) -> uint32x4_t {
        unsafe { vshlq_u32(a, vdupq_n_s32(-(bits as i32))) }
    }

    #[inline(always)]
    unsafe fn shift_right_signed(a: uint32x4_t, bits: u32) -> uint32x4_t {
        unsafe {
            let shifted = vshlq_s32(vreinterpretq_s32_u32(a), vdupq_n_s32(-(bits as i32)));
            vreinterpretq_u32_s32(shifted)
        }
    }

    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], bytes: uint32x4_t) -> uint32x4_t {
        unsafe {
            let found = vqtbl1q_u8(vld1q_u8(table.as_ptr()), vreinterpretq_u8_u32(bytes));
            vreinterpretq_u32_u8(found)
        }
    }

    #[inline(always)]
    unsafe fn word(at: *const u8) -> uint32x4_t {
        unsafe { vld1q_u32(at.cast()) }
    }

    #[inline(always)]
    unsafe fn bytes(at: *const u8) -> uint32x4_t {
        unsafe {
            let four = vcreate_u8(u64::from(at.cast::<u32>().read_unaligned()));
            vmovl_u16(vget_low_u16(vmovl_u8(four)))
        }
    }

    #[inline(always)]
    unsafe fn low_halves(words: uint32x4_t) -> float32x4_t {
        unsafe { widen(vmovn_u32(words)) }
    }

    #[inline(always)]
    unsafe fn from_bits(words: uint32x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(words) }
    }

    #[inline(always)]
    unsafe fn to_float(words: uint32x4_t) -> float32x4_t {
        unsafe { vcvtq_f32_s32(vreinterpretq_s32_u32(words)) }
    }

    #[inline(always)]
    unsafe fn mul_sub(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmsq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn ready<F: Format>(bytes: uint32x4_t) -> int8x16_t {
        unsafe { vreinterpretq_s8_u8(vsubq_u8(vreinterpretq_u8_u32(bytes), vdupq_n_u8(F::OFFSET))) }
    }

    #[inline(always)]
    unsafe fn dot<F: Format, const T: usize>(
        run: &impl Run<Self>,
        half_scales: [uint32x4_t; 2],
        activations: &[ActivationRun; T],
    ) -> [float32x4_t; T] {
        unsafe {
            let halves = if I8MM && T > 1 {
                [
                    matrix_half::<I8MM, T, 0>(run, activations),
                    matrix_half::<I8MM, T, 1>(run, activations),
                ]
            } else {
                [
                    dot_half::<I8MM, T, 0>(run, activations),
                    dot_half::<I8MM, T, 1>(run, activations),
                ]
            };
            let mut dots = [vdupq_n_f32(0.0); T];
            for row in 0..T {
                let [first, second] = [halves[0][row], halves[1][row]];
                dots[row] = if F::HALF_SCALES {
                    let first = vmulq_f32(vcvtq_f32_s32(first), Self::to_float(half_scales[0]));
                    vfmaq_f32(first, vcvtq_f32_s32(second), Self::to_float(half_scales[1]))
                } else {
                    vcvtq_f32_s32(vaddq_s32(first, second))
                };
            }
            dots
        }
    }
}

/// Products of half `HALF` of a run with each row of activations.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn dot_half<const I8MM: bool, const T: usize, const HALF: usize>(
    run: &impl Run<Neon<I8MM>>,
    activations: &[ActivationRun; T],
) -> [int32x4_t; T] {
    // SAFETY: the caller's promise, and a run has 32 values.
    unsafe {
        let mut values = [vdupq_n_s8(0); T];
        for row in 0..T {
            values[row] = vld1q_s8(activations[row].values.as_ptr().add(16 * HALF));
        }
        let mut sums = [vdupq_n_s32(0); T];
        unrolled!(J in 0 1 2 3 => {
            let weights = run.weights(4 * HALF + J);
            for row in 0..T {
                sums[row] = dot_lane::<J>(sums[row], weights, values[row]);
            }
        });
        sums
    }
}

/// As [`dot_half`], two rows of activations at a time. `T` is even.
///
/// # Safety
/// As [`Lanes`], and products of matrices are there.
#[inline(always)]
unsafe fn matrix_half<const I8MM: bool, const T: usize, const HALF: usize>(
    run: &impl Run<Neon<I8MM>>,
    activations: &[ActivationRun; T],
) -> [int32x4_t; T] {
    // SAFETY: the caller's promise, and a run has 32 values.
    unsafe {
        // Even places: the first two rows of weights by two rows of activations. Odd ones: the other two.
        let mut sums = [vdupq_n_s32(0); T];
        unrolled!(EIGHT in 0 1 => {
            let j = 4 * HALF + 2 * EIGHT;
            let four = vreinterpretq_s32_s8(run.weights(j));
            let next = vreinterpretq_s32_s8(run.weights(j + 1));
            let first_rows = vreinterpretq_s8_s32(vzip1q_s32(four, next));
            let last_rows = vreinterpretq_s8_s32(vzip2q_s32(four, next));
            for pair in 0..T / 2 {
                let [a, b] = [&activations[2 * pair], &activations[2 * pair + 1]];
                let values = vcombine_s8(
                    vld1_s8(a.values.as_ptr().add(4 * j)),
                    vld1_s8(b.values.as_ptr().add(4 * j)),
                );
                sums[2 * pair] = add_matrix_product(sums[2 * pair], first_rows, values);
                sums[2 * pair + 1] = add_matrix_product(sums[2 * pair + 1], last_rows, values);
            }
        });
        for pair in 0..T / 2 {
            let [first_rows, last_rows] = [sums[2 * pair], sums[2 * pair + 1]];
            sums[2 * pair] = vuzp1q_s32(first_rows, last_rows);
            sums[2 * pair + 1] = vuzp2q_s32(first_rows, last_rows);
        }
        sums
    }
}
