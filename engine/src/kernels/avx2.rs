//! Eight weight rows side by side with AVX2, FMA and F16C, and with AVX-VNNI where that is there.
//!
//! Without it weights are multiplied as unsigned bytes by signed ones (`maddubs`), whose pairs are summed in 16 bits for as long as
//! they fit. Of weights that take all eight bits the magnitude is multiplied, by activations that have their sign.

use std::{arch::x86_64::*, ops::Range};

use super::{
    formats::{Format, with_format},
    lanes::{Floats, Lanes, Run, unrolled},
    panel::{self, Task},
    quantized_rows::ActivationRun,
    vnni::{self, Vnni},
};
use crate::weights::GgmlType;

/// Writes columns `outputs` of the rows in `groups`; see [`panel`].
///
/// # Safety
/// AVX2, FMA and F16C are there, with `VNNI` also AVX-VNNI; the rest as there.
pub(super) unsafe fn multiply<const VNNI: bool>(
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
        with_format!(dtype, F => match (VNNI, width) {
            (false, 0) => some_groups::<F>(task, outputs, groups),
            (false, 1) => one_group::<F, 1>(task, outputs),
            (false, 2) => one_group::<F, 2>(task, outputs),
            (false, 4) => one_group::<F, 4>(task, outputs),
            (false, _) => one_group::<F, 8>(task, outputs),
            (true, 0) => some_groups_vnni::<F>(task, outputs, groups),
            (true, 1) => one_group_vnni::<F, 1>(task, outputs),
            (true, 2) => one_group_vnni::<F, 2>(task, outputs),
            (true, 4) => one_group_vnni::<F, 4>(task, outputs),
            (true, _) => one_group_vnni::<F, 8>(task, outputs),
        });
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn one_group<F: Format, const T: usize>(task: Task<'_>, outputs: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { panel::multiply_group::<Avx2<false>, F, T>(task, outputs) };
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn some_groups<F: Format>(task: Task<'_>, outputs: Range<usize>, groups: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { panel::multiply_groups::<Avx2<false>, F, 8, 4>(task, outputs, groups) };
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn one_group_vnni<F: Format, const T: usize>(task: Task<'_>, outputs: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { panel::multiply_group::<Avx2<true>, F, T>(task, outputs) };
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn some_groups_vnni<F: Format>(task: Task<'_>, outputs: Range<usize>, groups: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { panel::multiply_groups::<Avx2<true>, F, 8, 4>(task, outputs, groups) };
}

/// The registers, with AVX-VNNI if `VNNI`.
#[derive(Clone, Copy)]
pub(super) struct Avx2<const VNNI: bool>;

/// Multiplications of bytes whose sums fit in 16 bits and share a scale, out of the eight of a run.
const fn steps_in_16_bits<F: Format>() -> usize {
    match F::MAX {
        // 15 * 127 * 2 * 8 = 30,480, 31 * 127 * 2 * 4 = 31,496 and 63 * 127 * 2 * 2 = 32,004 are below 2^15.
        0..=15 if !F::HALF_SCALES => 8,
        0..=31 => 4,
        32..=63 => 2,
        // A magnitude of at most 128.
        _ => 1,
    }
}

/// Whether weights are multiplied as magnitudes, not as what they are with the format's offset.
const fn has_magnitudes<F: Format>() -> bool {
    F::MAX > 127
}

/// The low halves of two words' lanes, side by side.
#[inline(always)]
unsafe fn in_pairs(low: __m256i, high: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_blend_epi16::<0b1010_1010>(low, _mm256_slli_epi32(high, 16)) }
}

// SAFETY (of the blocks below): the instructions and the places that are read are the caller's promise, see `Lanes`.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "said once for all of them, above"
)]
impl<const VNNI: bool> Floats for Avx2<VNNI> {
    const N: usize = 8;
    type Float = __m256;

    #[inline(always)]
    unsafe fn splat_float(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, x: __m256) {
        unsafe { _mm256_storeu_ps(at, x) }
    }

    #[inline(always)]
    unsafe fn halves(at: *const u8) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }

    #[inline(always)]
    unsafe fn brain_floats(at: *const u8) -> __m256 {
        unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32(words, 16))
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
impl<const VNNI: bool> Lanes for Avx2<VNNI> {
    type Int = __m256i;
    type Weights = [__m256i; 2];

    #[inline(always)]
    unsafe fn splat(word: u32) -> __m256i {
        unsafe { _mm256_set1_epi32(word as i32) }
    }

    #[inline(always)]
    unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn xor(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_xor_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_sub_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn shift_left(a: __m256i, bits: u32) -> __m256i {
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(bits as i32)) }
    }

    #[inline(always)]
    unsafe fn shift_right(a: __m256i, bits: u32) -> __m256i {
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(bits as i32)) }
    }

    #[inline(always)]
    unsafe fn shift_right_signed(a: __m256i, bits: u32) -> __m256i {
        unsafe { _mm256_sra_epi32(a, _mm_cvtsi32_si128(bits as i32)) }
    }

    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], bytes: __m256i) -> __m256i {
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, bytes)
        }
    }

    #[inline(always)]
    unsafe fn word(at: *const u8) -> __m256i {
        unsafe { _mm256_load_si256(at.cast()) }
    }

    #[inline(always)]
    unsafe fn bytes(at: *const u8) -> __m256i {
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast())) }
    }

    #[inline(always)]
    unsafe fn low_halves(words: __m256i) -> __m256 {
        unsafe {
            let low = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
            let packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0b1000);
            _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
        }
    }

    #[inline(always)]
    unsafe fn from_bits(words: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(words) }
    }

    #[inline(always)]
    unsafe fn to_float(words: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(words) }
    }

    #[inline(always)]
    unsafe fn mul_sub(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn ready<F: Format>(bytes: __m256i) -> [__m256i; 2] {
        if VNNI || const { !has_magnitudes::<F>() } {
            return [bytes; 2];
        }
        unsafe {
            let signed = _mm256_sub_epi8(bytes, _mm256_set1_epi8(F::OFFSET as i8));
            [_mm256_abs_epi8(signed), signed]
        }
    }

    #[inline(always)]
    unsafe fn dot<F: Format, const T: usize>(
        run: &impl Run<Self>,
        half_scales: [__m256i; 2],
        activations: &[ActivationRun; T],
    ) -> [__m256; T] {
        if VNNI {
            return unsafe { vnni::dot::<Self, F, T>(run, half_scales, activations) };
        }
        unsafe {
            let steps = const { steps_in_16_bits::<F>() };
            // What multiplies pairs of the first half, of the second one, and a pair of one from each.
            let mut scales = [_mm256_set1_epi16(1); 3];
            if F::HALF_SCALES {
                let [first, second] = half_scales;
                scales = [
                    in_pairs(first, first),
                    in_pairs(second, second),
                    in_pairs(first, second),
                ];
            }
            let mut sums = [_mm256_setzero_si256(); T];
            if F::OFFSET > 0 && const { !has_magnitudes::<F>() } {
                let negated = _mm256_mullo_epi16(scales[2], _mm256_set1_epi16(-i16::from(F::OFFSET)));
                for row in 0..T {
                    let half_sums = activations[row].half_sums.as_ptr().cast::<i32>().read_unaligned();
                    sums[row] = _mm256_madd_epi16(negated, _mm256_set1_epi32(half_sums));
                }
            }
            let mut pairs = [_mm256_setzero_si256(); T];
            unrolled!(J in 0 1 2 3 4 5 6 7 => {
                let [unsigned, signed] = run.weights(J);
                for row in 0..T {
                    let four = activations[row].values.as_ptr().cast::<i32>().add(J);
                    let mut four = _mm256_set1_epi32(four.read());
                    if const { has_magnitudes::<F>() } {
                        four = _mm256_sign_epi8(four, signed);
                    }
                    let products = _mm256_maddubs_epi16(unsigned, four);
                    pairs[row] = if J.is_multiple_of(steps) {
                        products
                    } else {
                        _mm256_add_epi16(pairs[row], products)
                    };
                    if (J + 1).is_multiple_of(steps) {
                        let products = _mm256_madd_epi16(pairs[row], scales[J / 4]);
                        sums[row] = _mm256_add_epi32(sums[row], products);
                    }
                }
            });
            let mut dots = [_mm256_setzero_ps(); T];
            for row in 0..T {
                dots[row] = _mm256_cvtepi32_ps(sums[row]);
            }
            dots
        }
    }
}

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "as above; only called where `VNNI` is true"
)]
impl<const VNNI: bool> Vnni for Avx2<VNNI> {
    #[inline(always)]
    unsafe fn add_products(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(sums, unsigned, signed) }
    }

    #[inline(always)]
    unsafe fn add_pair_products(sums: __m256i, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_dpwssd_avx_epi32(sums, a, b) }
    }

    #[inline(always)]
    unsafe fn bytes_of(weights: [__m256i; 2]) -> __m256i {
        weights[0]
    }
}
