//! Sixteen weight rows side by side with AVX-512 and its dot products of bytes.

use std::{arch::x86_64::*, ops::Range};

use super::{
    formats::{Format, with_format},
    lanes::{Floats, Lanes, Run},
    panel::{self, Task},
    quantized_rows::ActivationRun,
    vnni::{self, Vnni},
};
use crate::weights::GgmlType;

/// Writes columns `outputs` of the rows in `groups`; see [`panel`].
///
/// # Safety
/// AVX-512 F, BW and VNNI are there; the rest as there.
pub(super) unsafe fn multiply(dtype: GgmlType, task: Task<'_>, outputs: Range<usize>, groups: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe {
        with_format!(dtype, F => match task.input.groups() {
            [group] => match group.width {
                1 => one_group::<F, 1>(task, outputs),
                2 => one_group::<F, 2>(task, outputs),
                4 => one_group::<F, 4>(task, outputs),
                8 => one_group::<F, 8>(task, outputs),
                _ => one_group::<F, 12>(task, outputs),
            },
            _ => some_groups::<F>(task, outputs, groups),
        });
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn one_group<F: Format, const T: usize>(task: Task<'_>, outputs: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { panel::multiply_group::<Avx512, F, T>(task, outputs) };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn some_groups<F: Format>(task: Task<'_>, outputs: Range<usize>, groups: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { panel::multiply_groups::<Avx512, F, 12, 8>(task, outputs, groups) };
}

/// For every number of four bits a word whose bytes are 16 times its bits.
const fn spread() -> [u32; 16] {
    let mut words = [0; 16];
    let mut bits = 0;
    while bits < 16 {
        words[bits as usize] = (bits & 1 | (bits & 2) << 7 | (bits & 4) << 14 | (bits & 8) << 21) << 4;
        bits += 1;
    }
    words
}

#[derive(Clone, Copy)]
pub(super) struct Avx512;

// SAFETY (of the blocks below): the instructions and the places that are read are the caller's promise, see `Lanes`.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "said once for all of them, above"
)]
impl Floats for Avx512 {
    const N: usize = 16;
    type Float = __m512;

    #[inline(always)]
    unsafe fn splat_float(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, x: __m512) {
        unsafe { _mm512_storeu_ps(at, x) }
    }

    #[inline(always)]
    unsafe fn halves(at: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }

    #[inline(always)]
    unsafe fn brain_floats(at: *const u8) -> __m512 {
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32(words, 16))
        }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        unsafe { _mm_prefetch(at.cast(), _MM_HINT_T0) }
    }

    #[inline(always)]
    unsafe fn prefetch_far(at: *const u8) {
        unsafe { _mm_prefetch(at.cast(), _MM_HINT_T1) }
    }
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "as above")]
impl Lanes for Avx512 {
    type Int = __m512i;
    type Weights = __m512i;

    #[inline(always)]
    unsafe fn splat(word: u32) -> __m512i {
        unsafe { _mm512_set1_epi32(word as i32) }
    }

    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn xor(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_xor_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_sub_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn shift_left(a: __m512i, bits: u32) -> __m512i {
        unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(bits as i32)) }
    }

    #[inline(always)]
    unsafe fn shift_right(a: __m512i, bits: u32) -> __m512i {
        unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(bits as i32)) }
    }

    #[inline(always)]
    unsafe fn shift_right_signed(a: __m512i, bits: u32) -> __m512i {
        unsafe { _mm512_sra_epi32(a, _mm_cvtsi32_si128(bits as i32)) }
    }

    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], bytes: __m512i) -> __m512i {
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, bytes)
        }
    }

    #[inline(always)]
    unsafe fn spread_bits(words: __m512i) -> __m512i {
        // The bits are the index of a lane; the others are not looked at.
        const SPREAD: [u32; 16] = spread();
        unsafe { _mm512_permutexvar_epi32(words, _mm512_loadu_si512(SPREAD.as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn word(at: *const u8) -> __m512i {
        unsafe { _mm512_load_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn bytes(at: *const u8) -> __m512i {
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast())) }
    }

    #[inline(always)]
    unsafe fn low_halves(words: __m512i) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)) }
    }

    #[inline(always)]
    unsafe fn from_bits(words: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(words) }
    }

    #[inline(always)]
    unsafe fn to_float(words: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(words) }
    }

    #[inline(always)]
    unsafe fn mul_sub(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn ready<F: Format>(bytes: __m512i) -> __m512i {
        bytes
    }

    #[inline(always)]
    unsafe fn dot<F: Format, const T: usize>(
        run: &impl Run<Self>,
        half_scales: [__m512i; 2],
        activations: &[ActivationRun; T],
    ) -> [__m512; T] {
        unsafe { vnni::dot::<Self, F, T>(run, half_scales, activations) }
    }
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "as above")]
impl Vnni for Avx512 {
    #[inline(always)]
    unsafe fn add_products(sums: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sums, unsigned, signed) }
    }

    #[inline(always)]
    unsafe fn add_pair_products(sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_dpwssd_epi32(sums, a, b) }
    }

    #[inline(always)]
    unsafe fn bytes_of(weights: __m512i) -> __m512i {
        weights
    }
}
