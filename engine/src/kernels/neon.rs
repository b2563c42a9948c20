//! Four weight rows side by side with NEON and its dot products of bytes (`sdot`, "dotprod").
//!
//! Where the compiler has no stable name for an instruction, it is written as assembly of one line.

use std::{
    arch::{aarch64::*, asm},
    ops::Range,
};

use super::{
    formats::{Format, with_format},
    lanes::{Lanes, Slot, unrolled},
    panel::{self, Task},
    quantized_rows::ActivationRun,
};
use crate::weights::GgmlType;

/// Writes columns `outputs` of the rows in `groups`; see [`panel`].
///
/// # Safety
/// NEON and its dot products are there; the rest as there.
pub(super) unsafe fn multiply(dtype: GgmlType, task: Task<'_>, outputs: Range<usize>, groups: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe {
        with_format!(dtype, F => match task.input.groups() {
            [group] => match group.width {
                1 => one_group::<F, 1>(task, outputs),
                2 => one_group::<F, 2>(task, outputs),
                4 => one_group::<F, 4>(task, outputs),
                _ => one_group::<F, 8>(task, outputs),
            },
            _ => some_groups::<F>(task, outputs, groups),
        });
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn one_group<F: Format, const T: usize>(task: Task<'_>, outputs: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { panel::multiply_group::<Neon, F, T>(task, outputs) };
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn some_groups<F: Format>(task: Task<'_>, outputs: Range<usize>, groups: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { panel::multiply_groups::<Neon, F, 8, 4>(task, outputs, groups) };
}

#[derive(Clone, Copy)]
pub(super) struct Neon;

/// Adds to each word the sum of the products of its four bytes with four bytes of `b`: those of word `LANE`.
#[inline(always)]
unsafe fn dot_lane<const LANE: usize>(mut sums: int32x4_t, a: uint32x4_t, b: int8x16_t) -> int32x4_t {
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
impl Lanes for Neon {
    const N: usize = 4;
    type Int = uint32x4_t;
    type Float = float32x4_t;
    type Weights = [uint32x4_t; 8];

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
    unsafe fn halves(at: *const u8) -> float32x4_t {
        unsafe { widen(vld1_u16(at.cast())) }
    }

    #[inline(always)]
    unsafe fn low_halves(words: uint32x4_t) -> float32x4_t {
        unsafe { widen(vmovn_u32(words)) }
    }

    #[inline(always)]
    unsafe fn splat_float(x: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(x) }
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
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn mul_sub(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmsq_f32(c, a, b) }
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
    unsafe fn prefetch(at: *const u8) {
        unsafe { asm!("prfm pldl1keep, [{}]", in(reg) at, options(readonly, nostack, preserves_flags)) }
    }

    #[inline(always)]
    unsafe fn put<F: Format>(slot: &mut Slot<Self>, j: usize, bytes: uint32x4_t, half_scale: uint32x4_t) {
        unsafe {
            let signed = vsubq_u8(vreinterpretq_u8_u32(bytes), vdupq_n_u8(F::OFFSET));
            slot.weights[j] = vreinterpretq_u32_u8(signed);
        }
        if F::HALF_SCALES {
            slot.half_scales[j / 4] = half_scale;
        }
    }

    #[inline(always)]
    unsafe fn dot<F: Format, const T: usize>(
        slot: &Slot<Self>,
        runs: &[ActivationRun; T],
    ) -> [uint32x4_t; T] {
        unsafe {
            let mut halves = [[vdupq_n_s32(0); T]; 2];
            for (half, sums) in halves.iter_mut().enumerate() {
                let values = runs
                    .each_ref()
                    .map(|run| vld1q_s8(run.values.as_ptr().add(16 * half)));
                unrolled!(J in 0 1 2 3 => {
                    for (sum, values) in sums.iter_mut().zip(values) {
                        *sum = dot_lane::<J>(*sum, slot.weights[4 * half + J], values);
                    }
                });
            }
            std::array::from_fn(|row| {
                let [first, second] = halves.map(|sums| sums[row]);
                vreinterpretq_u32_s32(if F::HALF_SCALES {
                    let scales = slot.half_scales.map(|scales| vreinterpretq_s32_u32(scales));
                    vmlaq_s32(vmulq_s32(first, scales[0]), second, scales[1])
                } else {
                    vaddq_s32(first, second)
                })
            })
        }
    }
}
