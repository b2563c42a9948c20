//! Quantised dot products with AVX2: weights straight from their blocks, activations as 8-bit integers.
//!
//! Weights are signed (type with an offset of half its range) or unsigned with a minimum. Thirty-two products
//! are one `maddubs` (unsigned by signed bytes to pairs of 16 bits) and one `madd` (to 32 bits): signed weights
//! give their sign to the activation first. 63 * 127 * 2 and 127 * 127 * 2 both fit in 16 bits, so nothing
//! saturates. The slow reference is [`crate::quant`].

use std::arch::x86_64::*;

use super::{
    SharedOut,
    float::{dot, rms_norm_generic, rms_norm_in_place_generic, swiglu_generic},
    matmul::QuantizedRows,
};
use crate::quant::k_scale_min;

/// A block type: how 32 of its weights get into a register.
pub(super) trait Format {
    /// Bytes of a block.
    const BYTES: usize;
    /// Runs of 32 weights in a block.
    const N_RUNS: usize;
    /// Whether weights are unsigned and a minimum is subtracted.
    const HAS_MINS: bool;
    /// What is decoded once for a block.
    type Header;

    /// # Safety
    /// `block` points to `BYTES` readable bytes; AVX2, FMA and F16C are there.
    unsafe fn header(block: *const u8) -> Self::Header;

    /// 32 weights and, for each four of them, their scale.
    ///
    /// # Safety
    /// As [`header`](Self::header); `run < N_RUNS`.
    unsafe fn run(block: *const u8, header: &Self::Header, run: usize) -> (__m256i, __m256);

    /// What is subtracted from each weight of a run, `N_RUNS` numbers, the rest 0.
    ///
    /// # Safety
    /// As [`header`](Self::header).
    unsafe fn mins(_header: &Self::Header) -> __m256 {
        // SAFETY: AVX is there by the caller's promise.
        unsafe { _mm256_setzero_ps() }
    }
}

/// # Safety
/// `at` points to two readable bytes; F16C is there.
#[inline(always)]
unsafe fn half_at(at: *const u8) -> f32 {
    // SAFETY: by the caller's promise; unaligned reads are asked for as such.
    unsafe {
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(
            at.cast::<u16>().read_unaligned(),
        ))))
    }
}

/// Low halves of 16 bytes, then high halves: 32 numbers of 4 bits.
///
/// # Safety
/// `at` points to 16 readable bytes; AVX2 is there.
#[inline(always)]
unsafe fn nibbles(at: *const u8) -> __m256i {
    // SAFETY: by the caller's promise.
    unsafe {
        let bytes = _mm_loadu_si128(at.cast());
        let both = _mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes);
        _mm256_and_si256(both, _mm256_set1_epi8(15))
    }
}

/// 32 bytes that are 16 where bit `i` of the word at `at` is set, else 0.
///
/// # Safety
/// `at` points to four readable bytes; AVX2 is there.
#[inline(always)]
unsafe fn fifth_bits(at: *const u8) -> __m256i {
    // SAFETY: by the caller's promise.
    unsafe {
        let word = _mm256_set1_epi32(at.cast::<i32>().read_unaligned());
        let byte_of_bit = _mm256_set_epi64x(
            0x0303_0303_0303_0303,
            0x0202_0202_0202_0202,
            0x0101_0101_0101_0101,
            0,
        );
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let spread = _mm256_and_si256(_mm256_shuffle_epi8(word, byte_of_bit), bit);
        _mm256_and_si256(_mm256_cmpeq_epi8(spread, bit), _mm256_set1_epi8(16))
    }
}

pub(super) struct Q8_0;

impl Format for Q8_0 {
    const BYTES: usize = 34;
    const N_RUNS: usize = 1;
    const HAS_MINS: bool = false;
    type Header = ();

    #[inline(always)]
    unsafe fn header(_block: *const u8) {}

    #[inline(always)]
    unsafe fn run(block: *const u8, (): &(), _run: usize) -> (__m256i, __m256) {
        // SAFETY: the block has 2 + 32 bytes.
        unsafe {
            (
                _mm256_loadu_si256(block.add(2).cast()),
                _mm256_set1_ps(half_at(block)),
            )
        }
    }
}

pub(super) struct Q4_0;

impl Format for Q4_0 {
    const BYTES: usize = 18;
    const N_RUNS: usize = 1;
    const HAS_MINS: bool = false;
    type Header = ();

    #[inline(always)]
    unsafe fn header(_block: *const u8) {}

    #[inline(always)]
    unsafe fn run(block: *const u8, (): &(), _run: usize) -> (__m256i, __m256) {
        // SAFETY: the block has 2 + 16 bytes.
        unsafe {
            (
                _mm256_sub_epi8(nibbles(block.add(2)), _mm256_set1_epi8(8)),
                _mm256_set1_ps(half_at(block)),
            )
        }
    }
}

pub(super) struct Q5_0;

impl Format for Q5_0 {
    const BYTES: usize = 22;
    const N_RUNS: usize = 1;
    const HAS_MINS: bool = false;
    type Header = ();

    #[inline(always)]
    unsafe fn header(_block: *const u8) {}

    #[inline(always)]
    unsafe fn run(block: *const u8, (): &(), _run: usize) -> (__m256i, __m256) {
        // SAFETY: the block has 2 + 4 + 16 bytes.
        unsafe {
            let quants = _mm256_or_si256(nibbles(block.add(6)), fifth_bits(block.add(2)));
            (
                _mm256_sub_epi8(quants, _mm256_set1_epi8(16)),
                _mm256_set1_ps(half_at(block)),
            )
        }
    }
}

pub(super) struct Q4_1;

impl Format for Q4_1 {
    const BYTES: usize = 20;
    const N_RUNS: usize = 1;
    const HAS_MINS: bool = true;
    type Header = f32;

    #[inline(always)]
    unsafe fn header(block: *const u8) -> f32 {
        // SAFETY: the minimum stands after the scale.
        -unsafe { half_at(block.add(2)) }
    }

    #[inline(always)]
    unsafe fn run(block: *const u8, _min: &f32, _run: usize) -> (__m256i, __m256) {
        // SAFETY: the block has 4 + 16 bytes.
        unsafe { (nibbles(block.add(4)), _mm256_set1_ps(half_at(block))) }
    }

    #[inline(always)]
    unsafe fn mins(min: &f32) -> __m256 {
        // SAFETY: AVX is there by the caller's promise.
        unsafe { _mm256_zextps128_ps256(_mm_set_ss(*min)) }
    }
}

pub(super) struct Q5_1;

impl Format for Q5_1 {
    const BYTES: usize = 24;
    const N_RUNS: usize = 1;
    const HAS_MINS: bool = true;
    type Header = f32;

    #[inline(always)]
    unsafe fn header(block: *const u8) -> f32 {
        // SAFETY: the minimum stands after the scale.
        -unsafe { half_at(block.add(2)) }
    }

    #[inline(always)]
    unsafe fn run(block: *const u8, _min: &f32, _run: usize) -> (__m256i, __m256) {
        // SAFETY: the block has 4 + 4 + 16 bytes.
        unsafe {
            let quants = _mm256_or_si256(nibbles(block.add(8)), fifth_bits(block.add(4)));
            (quants, _mm256_set1_ps(half_at(block)))
        }
    }

    #[inline(always)]
    unsafe fn mins(min: &f32) -> __m256 {
        // SAFETY: AVX is there by the caller's promise.
        unsafe { _mm256_zextps128_ps256(_mm_set_ss(*min)) }
    }
}

/// Scales and minimums of the eight runs of a Q4_K or Q5_K block.
pub(super) struct KHeader {
    scales: [f32; 8],
    mins: [f32; 8],
}

/// # Safety
/// `block` points to at least 16 readable bytes; F16C is there.
#[inline(always)]
unsafe fn k_header(block: *const u8) -> KHeader {
    // SAFETY: by the caller's promise.
    let (scale, min_scale) = unsafe { (half_at(block), half_at(block.add(2))) };
    // SAFETY: twelve bytes follow the two half-precision numbers.
    let packed = unsafe { std::slice::from_raw_parts(block.add(4), 12) };
    let mut header = KHeader {
        scales: [0.0; 8],
        mins: [0.0; 8],
    };
    for run in 0..8 {
        let (run_scale, run_min) = k_scale_min(packed, run);
        header.scales[run] = scale * f32::from(run_scale);
        header.mins[run] = min_scale * f32::from(run_min);
    }
    header
}

pub(super) struct Q4K;

impl Format for Q4K {
    const BYTES: usize = 144;
    const N_RUNS: usize = 8;
    const HAS_MINS: bool = true;
    type Header = KHeader;

    #[inline(always)]
    unsafe fn header(block: *const u8) -> KHeader {
        // SAFETY: the block is longer than its header.
        unsafe { k_header(block) }
    }

    #[inline(always)]
    unsafe fn run(block: *const u8, header: &KHeader, run: usize) -> (__m256i, __m256) {
        // SAFETY: 128 bytes of quants follow the 16 of the header; two runs share 32.
        unsafe {
            let bytes = _mm256_loadu_si256(block.add(16 + run / 2 * 32).cast());
            let shifted = if run.is_multiple_of(2) {
                bytes
            } else {
                _mm256_srli_epi16(bytes, 4)
            };
            (
                _mm256_and_si256(shifted, _mm256_set1_epi8(15)),
                _mm256_set1_ps(header.scales[run]),
            )
        }
    }

    #[inline(always)]
    unsafe fn mins(header: &KHeader) -> __m256 {
        // SAFETY: eight numbers are read.
        unsafe { _mm256_loadu_ps(header.mins.as_ptr()) }
    }
}

pub(super) struct Q5K;

impl Format for Q5K {
    const BYTES: usize = 176;
    const N_RUNS: usize = 8;
    const HAS_MINS: bool = true;
    type Header = KHeader;

    #[inline(always)]
    unsafe fn header(block: *const u8) -> KHeader {
        // SAFETY: the block is longer than its header.
        unsafe { k_header(block) }
    }

    #[inline(always)]
    unsafe fn run(block: *const u8, header: &KHeader, run: usize) -> (__m256i, __m256) {
        // SAFETY: 32 bytes of fifth bits, then 128 of quants follow the 16 of the header.
        unsafe {
            let bytes = _mm256_loadu_si256(block.add(48 + run / 2 * 32).cast());
            let shifted = if run.is_multiple_of(2) {
                bytes
            } else {
                _mm256_srli_epi16(bytes, 4)
            };
            let low = _mm256_and_si256(shifted, _mm256_set1_epi8(15));
            let bit = _mm256_set1_epi8((1u8 << run) as i8);
            let high = _mm256_and_si256(_mm256_loadu_si256(block.add(16).cast()), bit);
            let fifth = _mm256_and_si256(_mm256_cmpeq_epi8(high, bit), _mm256_set1_epi8(16));
            (_mm256_or_si256(low, fifth), _mm256_set1_ps(header.scales[run]))
        }
    }

    #[inline(always)]
    unsafe fn mins(header: &KHeader) -> __m256 {
        // SAFETY: eight numbers are read.
        unsafe { _mm256_loadu_ps(header.mins.as_ptr()) }
    }
}

pub(super) struct Q6K;

impl Format for Q6K {
    const BYTES: usize = 210;
    const N_RUNS: usize = 8;
    const HAS_MINS: bool = false;
    type Header = f32;

    #[inline(always)]
    unsafe fn header(block: *const u8) -> f32 {
        // SAFETY: the scale stands at the end of the block.
        unsafe { half_at(block.add(208)) }
    }

    #[inline(always)]
    unsafe fn run(block: *const u8, scale: &f32, run: usize) -> (__m256i, __m256) {
        let (half, quarter) = (run / 4, run % 4);
        // SAFETY: 128 bytes of low bits, 64 of high bits, 16 scales; `half` and `quarter` stay inside.
        unsafe {
            let low_bytes = _mm256_loadu_si256(block.add(half * 64 + quarter % 2 * 32).cast());
            let low = if quarter < 2 {
                low_bytes
            } else {
                _mm256_srli_epi16(low_bytes, 4)
            };
            let low = _mm256_and_si256(low, _mm256_set1_epi8(15));
            let high_bytes = _mm256_loadu_si256(block.add(128 + half * 32).cast());
            let high = match quarter {
                0 => _mm256_slli_epi16(high_bytes, 4),
                1 => _mm256_slli_epi16(high_bytes, 2),
                2 => high_bytes,
                _ => _mm256_srli_epi16(high_bytes, 2),
            };
            let high = _mm256_and_si256(high, _mm256_set1_epi8(0x30));
            let quants = _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32));
            let scales = block.add(192 + run * 2).cast::<i8>();
            let (first, second) = (
                f32::from(scales.read()) * scale,
                f32::from(scales.add(1).read()) * scale,
            );
            (quants, _mm256_set_m128(_mm_set1_ps(second), _mm_set1_ps(first)))
        }
    }
}

/// Products of one weight row, whose blocks `weights` are, with `N` activation rows from `first_row` on.
///
/// # Safety
/// AVX2, FMA and F16C are there; `weights` holds `input.n_columns()` weights of the format.
#[inline(always)]
unsafe fn products<F: Format, const N: usize>(
    weights: &[u8],
    input: &QuantizedRows,
    first_row: usize,
) -> [f32; N] {
    let n_runs = input.n_columns() / 32;
    // SAFETY: all reads stay inside the weight row and inside the activation rows, whose lengths were checked
    // when they were made; AVX2 by the caller's promise.
    unsafe {
        let mut sums = [_mm256_setzero_ps(); N];
        let values: [*const i8; N] = std::array::from_fn(|idx| input.values(first_row + idx).as_ptr());
        let scales: [*const f32; N] = std::array::from_fn(|idx| input.scales(first_row + idx).as_ptr());
        let offsets: [*const f32; N] = std::array::from_fn(|idx| input.scaled_sums(first_row + idx).as_ptr());
        let ones = _mm256_set1_epi16(1);
        for block_idx in 0..n_runs / F::N_RUNS {
            let block = weights.as_ptr().add(block_idx * F::BYTES);
            let header = F::header(block);
            if F::HAS_MINS {
                let mins = F::mins(&header);
                for idx in 0..N {
                    let at = offsets[idx].add(block_idx * F::N_RUNS);
                    let offset = if F::N_RUNS == 8 {
                        _mm256_loadu_ps(at)
                    } else {
                        _mm256_zextps128_ps256(_mm_load_ss(at))
                    };
                    sums[idx] = _mm256_fnmadd_ps(mins, offset, sums[idx]);
                }
            }
            for run in 0..F::N_RUNS {
                let at = block_idx * F::N_RUNS + run;
                let (quants, scale) = F::run(block, &header, run);
                let magnitudes = if F::HAS_MINS {
                    quants
                } else {
                    _mm256_abs_epi8(quants)
                };
                for idx in 0..N {
                    let activations = _mm256_loadu_si256(values[idx].add(at * 32).cast());
                    let signed = if F::HAS_MINS {
                        activations
                    } else {
                        _mm256_sign_epi8(activations, quants)
                    };
                    let pairs = _mm256_maddubs_epi16(magnitudes, signed);
                    let product = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones));
                    let factor = _mm256_mul_ps(scale, _mm256_broadcast_ss(&*scales[idx].add(at)));
                    sums[idx] = _mm256_fmadd_ps(product, factor, sums[idx]);
                }
            }
        }
        sums.map(|sum| horizontal_sum(sum))
    }
}

/// # Safety
/// AVX is there.
#[inline(always)]
unsafe fn horizontal_sum(lanes: __m256) -> f32 {
    // SAFETY: by the caller's promise.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)))
    }
}

/// Products of weight rows `weight_rows` with activation rows `rows`; see [`super::matmul`].
///
/// # Safety
/// AVX2, FMA and F16C are there; `weights` is the whole matrix; no other thread writes these places of `out`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn matmul<F: Format>(
    weights: &[u8],
    weight_rows: std::ops::Range<usize>,
    input: &QuantizedRows,
    rows: std::ops::Range<usize>,
    out: SharedOut<'_, f32>,
    stride: usize,
) {
    let row_bytes = input.n_columns() / 32 / F::N_RUNS * F::BYTES;
    for weight_row in weight_rows {
        let weights = &weights[weight_row * row_bytes..(weight_row + 1) * row_bytes];
        let mut row = rows.start;
        macro_rules! run_rows {
            ($n:literal) => {
                while rows.end - row >= $n {
                    // SAFETY: instructions by the caller's promise; `weights` is one row.
                    let products = unsafe { products::<F, $n>(weights, input, row) };
                    for (idx, product) in products.into_iter().enumerate() {
                        let at = (row + idx) * stride + weight_row;
                        // SAFETY: this place is ours by the caller's promise.
                        let place = unsafe { out.slice(at..at + 1) };
                        place[0] = product;
                    }
                    row += $n;
                }
            };
        }
        run_rows!(6);
        run_rows!(4);
        run_rows!(2);
        run_rows!(1);
    }
}

/// Dot product in single precision.
#[target_feature(enable = "avx2,fma")]
pub(super) fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    dot::<true>(a, b)
}

/// `gate = silu(gate) * up`.
#[target_feature(enable = "avx2,fma")]
pub(super) fn swiglu(gate: &mut [f32], up: &[f32]) {
    swiglu_generic::<true>(gate, up);
}

/// Root-mean-square norm.
#[target_feature(enable = "avx2,fma")]
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    rms_norm_generic::<true>(x, weight, eps, out);
}

/// Root-mean-square norm in place.
#[target_feature(enable = "avx2,fma")]
pub(super) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    rms_norm_in_place_generic::<true>(x, weight, eps);
}

/// Quantises one row to 8 bits; see [`QuantizedRows`]. The same integers as the portable version.
#[target_feature(enable = "avx2,fma")]
pub(super) fn quantize_row(x: &[f32], values: &mut [i8], scales: &mut [f32], scaled_sums: &mut [f32]) {
    super::matmul::quantize_row(x, values, scales, scaled_sums);
}
