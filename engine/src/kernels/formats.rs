//! How each block type is taken apart, for any width of register. The slow reference is [`crate::quant`].
//!
//! A format makes of each run of 32 weights in a block of each of `N` weight rows unsigned bytes, with an offset that is the
//! same for all, and [`Scales`]. [`quant`](crate::quant) describes the bytes.

use super::lanes::{Blocks, Lanes, Scales};
use crate::{
    quant::{IQ4_VALUES, MXFP4_VALUES},
    weights::PANEL_ROWS,
};

/// A block type.
pub(super) trait Format {
    /// Bytes of a block.
    const BYTES: usize;
    /// Bytes of a block that are no whole word, and where they stand: at its start or its end.
    const HEAD_BYTES: usize = 0;
    const HEAD_AT: usize = 0;
    /// Runs of 32 weights in a block.
    const N_RUNS: usize;
    /// A weight is its unsigned byte minus this.
    const OFFSET: u8;
    /// Largest unsigned byte.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only AVX2 adds products up in 16 bits")
    )]
    const MAX: u8;
    /// Whether each 16 weights have an integer scale of their own.
    const HALF_SCALES: bool = false;
    /// Minimums of a run: 0, 1, or 2, one for each half.
    const N_MINS: usize = 0;

    /// What the scales and the minimums of a block's runs are multiples of, where it has several.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn block_scales<L: Lanes>(_: Blocks) -> [L::Float; 2] {
        // SAFETY: the caller's promise.
        unsafe { [L::splat_float(0.0); 2] }
    }

    /// Scales of run `run`, given those of the block. Where this is inlined, `run` is a constant, so that shifts are by constants.
    ///
    /// # Safety
    /// As [`Lanes`].
    unsafe fn scales<L: Lanes>(blocks: Blocks, block_scales: [L::Float; 2], run: usize) -> Scales<L>;

    /// Weights `4j..4j + 4` of run `run` as unsigned bytes, before the offset is taken away. Both are constants, as there.
    ///
    /// # Safety
    /// As [`Lanes`].
    unsafe fn bytes<L: Lanes>(blocks: Blocks, run: usize, j: usize) -> L::Int;
}

const LOW_NIBBLES: u32 = 0x0f0f_0f0f;

/// Low four bits of every byte.
#[inline(always)]
unsafe fn low<L: Lanes>(bytes: L::Int) -> L::Int {
    // SAFETY: as the caller.
    unsafe { L::and(bytes, L::splat(LOW_NIBBLES)) }
}

/// High four bits of every byte.
#[inline(always)]
unsafe fn high<L: Lanes>(bytes: L::Int) -> L::Int {
    // SAFETY: as the caller.
    unsafe { low::<L>(L::shift_right(bytes, 4)) }
}

/// The four bits of weights `4j..4j + 4` of a run, whose low halves of the 16 bytes from word `first` on come first.
#[inline(always)]
unsafe fn nibbles<L: Lanes>(blocks: Blocks, first: usize, j: usize) -> L::Int {
    // SAFETY: as the caller.
    unsafe { half_byte::<L>(word::<L>(blocks, first + j % 4), j / 4) }
}

/// Low four bits of every byte, or the high ones.
#[inline(always)]
unsafe fn half_byte<L: Lanes>(bytes: L::Int, half: usize) -> L::Int {
    // SAFETY: as the caller.
    unsafe {
        match half {
            0 => low::<L>(bytes),
            _ => high::<L>(bytes),
        }
    }
}

/// Bits `4j..4j + 4` of each word, one in each byte, as 16 or 0.
#[inline(always)]
unsafe fn fifth_bits<L: Lanes>(words: L::Int, j: usize) -> L::Int {
    // SAFETY: as the caller.
    unsafe { L::spread_bits(L::shift_right(words, 4 * j as u32)) }
}

/// Word `idx` of the blocks.
#[inline(always)]
unsafe fn word<L: Lanes>(blocks: Blocks, idx: usize) -> L::Int {
    // SAFETY: as the caller.
    unsafe { L::word(blocks.words.add(4 * PANEL_ROWS * idx)) }
}

/// The scale of a run that has nothing else.
#[inline(always)]
unsafe fn only_scale<L: Lanes>(scale: L::Float) -> Scales<L> {
    // SAFETY: as the caller.
    unsafe {
        Scales {
            scale,
            halves: [L::splat(1); 2],
            mins: [L::splat_float(0.0); 2],
        }
    }
}

/// Scale and negated minimum in the first word of a block, both in half precision.
#[inline(always)]
unsafe fn scale_and_added_min<L: Lanes>(blocks: Blocks) -> Scales<L> {
    // SAFETY: as the caller.
    unsafe {
        let words = word::<L>(blocks, 0);
        let negated = L::xor(L::shift_right(words, 16), L::splat(0x8000));
        Scales {
            mins: [L::low_halves(negated); 2],
            ..only_scale(L::low_halves(words))
        }
    }
}

/// The two numbers of half precision in each word.
#[inline(always)]
unsafe fn two_halves<L: Lanes>(words: L::Int) -> [L::Float; 2] {
    // SAFETY: as the caller.
    unsafe { [L::low_halves(words), L::low_halves(L::shift_right(words, 16))] }
}

/// Byte `idx` of every word as an unsigned number.
#[inline(always)]
unsafe fn byte<L: Lanes>(words: L::Int, idx: usize) -> L::Int {
    // SAFETY: as the caller.
    unsafe { L::and(L::shift_right(words, 8 * idx as u32), L::splat(255)) }
}

/// Byte `idx` of every word as a signed number.
#[inline(always)]
unsafe fn signed_byte<L: Lanes>(words: L::Int, idx: usize) -> L::Int {
    // SAFETY: as the caller.
    unsafe { L::shift_right_signed(L::shift_left(words, 24 - 8 * idx as u32), 24) }
}

pub(super) struct Q8_0;

impl Format for Q8_0 {
    const BYTES: usize = 34;
    const HEAD_BYTES: usize = 2;
    const N_RUNS: usize = 1;
    const OFFSET: u8 = 128;
    const MAX: u8 = 255;

    #[inline(always)]
    unsafe fn scales<L: Lanes>(blocks: Blocks, _: [L::Float; 2], _: usize) -> Scales<L> {
        // SAFETY: the block has 2 + 32 bytes.
        unsafe { only_scale(L::halves(blocks.heads)) }
    }

    #[inline(always)]
    unsafe fn bytes<L: Lanes>(blocks: Blocks, _: usize, j: usize) -> L::Int {
        // SAFETY: as above.
        unsafe { L::xor(word::<L>(blocks, j), L::splat(0x8080_8080)) }
    }
}

pub(super) struct Q4_0;

impl Format for Q4_0 {
    const BYTES: usize = 18;
    const HEAD_BYTES: usize = 2;
    const N_RUNS: usize = 1;
    const OFFSET: u8 = 8;
    const MAX: u8 = 15;

    #[inline(always)]
    unsafe fn scales<L: Lanes>(blocks: Blocks, _: [L::Float; 2], _: usize) -> Scales<L> {
        // SAFETY: the block has 2 + 16 bytes.
        unsafe { only_scale(L::halves(blocks.heads)) }
    }

    #[inline(always)]
    unsafe fn bytes<L: Lanes>(blocks: Blocks, _: usize, j: usize) -> L::Int {
        // SAFETY: as above.
        unsafe { nibbles::<L>(blocks, 0, j) }
    }
}

pub(super) struct Q4_1;

impl Format for Q4_1 {
    const BYTES: usize = 20;
    const N_RUNS: usize = 1;
    const OFFSET: u8 = 0;
    const MAX: u8 = 15;
    const N_MINS: usize = 1;

    #[inline(always)]
    unsafe fn scales<L: Lanes>(blocks: Blocks, _: [L::Float; 2], _: usize) -> Scales<L> {
        // SAFETY: the block has 4 + 16 bytes.
        unsafe { scale_and_added_min(blocks) }
    }

    #[inline(always)]
    unsafe fn bytes<L: Lanes>(blocks: Blocks, _: usize, j: usize) -> L::Int {
        // SAFETY: as above.
        unsafe { nibbles::<L>(blocks, 1, j) }
    }
}

pub(super) struct Q5_0;

impl Format for Q5_0 {
    const BYTES: usize = 22;
    const HEAD_BYTES: usize = 2;
    const N_RUNS: usize = 1;
    const OFFSET: u8 = 16;
    const MAX: u8 = 31;

    #[inline(always)]
    unsafe fn scales<L: Lanes>(blocks: Blocks, _: [L::Float; 2], _: usize) -> Scales<L> {
        // SAFETY: the block has 2 + 4 + 16 bytes.
        unsafe { only_scale(L::halves(blocks.heads)) }
    }

    #[inline(always)]
    unsafe fn bytes<L: Lanes>(blocks: Blocks, _: usize, j: usize) -> L::Int {
        // SAFETY: as above.
        unsafe {
            L::or(
                nibbles::<L>(blocks, 1, j),
                fifth_bits::<L>(word::<L>(blocks, 0), j),
            )
        }
    }
}

pub(super) struct Q5_1;

impl Format for Q5_1 {
    const BYTES: usize = 24;
    const N_RUNS: usize = 1;
    const OFFSET: u8 = 0;
    const MAX: u8 = 31;
    const N_MINS: usize = 1;

    #[inline(always)]
    unsafe fn scales<L: Lanes>(blocks: Blocks, _: [L::Float; 2], _: usize) -> Scales<L> {
        // SAFETY: the block has 4 + 4 + 16 bytes.
        unsafe { scale_and_added_min(blocks) }
    }

    #[inline(always)]
    unsafe fn bytes<L: Lanes>(blocks: Blocks, _: usize, j: usize) -> L::Int {
        // SAFETY: as above.
        unsafe {
            L::or(
                nibbles::<L>(blocks, 2, j),
                fifth_bits::<L>(word::<L>(blocks, 1), j),
            )
        }
    }
}

pub(super) struct IQ4NL;

/// Values of a table as unsigned bytes.
const fn with_offset(values: [i8; 16], offset: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut idx = 0;
    while idx < 16 {
        bytes[idx] = (values[idx] as u8).wrapping_add(offset);
        idx += 1;
    }
    bytes
}

impl Format for IQ4NL {
    const BYTES: usize = 18;
    const HEAD_BYTES: usize = 2;
    const N_RUNS: usize = 1;
    const OFFSET: u8 = 128;
    const MAX: u8 = 255;

    #[inline(always)]
    unsafe fn scales<L: Lanes>(blocks: Blocks, _: [L::Float; 2], _: usize) -> Scales<L> {
        // SAFETY: the block has 2 + 16 bytes.
        unsafe { only_scale(L::halves(blocks.heads)) }
    }

    #[inline(always)]
    unsafe fn bytes<L: Lanes>(blocks: Blocks, _: usize, j: usize) -> L::Int {
        // SAFETY: as above.
        unsafe {
            L::lookup(
                &const { with_offset(IQ4_VALUES, Self::OFFSET) },
                nibbles::<L>(blocks, 0, j),
            )
        }
    }
}

pub(super) struct MXFP4;

impl Format for MXFP4 {
    const BYTES: usize = 17;
    const HEAD_BYTES: usize = 1;
    const N_RUNS: usize = 1;
    const OFFSET: u8 = 12;
    const MAX: u8 = 24;

    #[inline(always)]
    unsafe fn scales<L: Lanes>(blocks: Blocks, _: [L::Float; 2], _: usize) -> Scales<L> {
        // SAFETY: the block has 1 + 16 bytes.
        unsafe {
            // 2^(e - 128), taken as 2^(e / 2 - 64) * 2^(e - e / 2 - 64): neither is subnormal, nor is the product
            // unless it should be.
            let exponent = L::bytes(blocks.heads);
            let first = L::shift_right(exponent, 1);
            let second = L::sub(exponent, first);
            let power = |x| L::from_bits(L::shift_left(L::add(x, L::splat(127 - 64)), 23));
            only_scale(L::mul(power(first), power(second)))
        }
    }

    #[inline(always)]
    unsafe fn bytes<L: Lanes>(blocks: Blocks, _: usize, j: usize) -> L::Int {
        // SAFETY: as above.
        unsafe {
            L::lookup(
                &const { with_offset(MXFP4_VALUES, Self::OFFSET) },
                nibbles::<L>(blocks, 0, j),
            )
        }
    }
}

pub(super) struct IQ4XS;

impl Format for IQ4XS {
    const BYTES: usize = 136;
    const N_RUNS: usize = 8;
    const OFFSET: u8 = 128;
    const MAX: u8 = 255;

    #[inline(always)]
    unsafe fn block_scales<L: Lanes>(blocks: Blocks) -> [L::Float; 2] {
        // SAFETY: as the caller.
        unsafe { [L::low_halves(word::<L>(blocks, 0)); 2] }
    }

    #[inline(always)]
    unsafe fn scales<L: Lanes>(blocks: Blocks, block_scales: [L::Float; 2], run: usize) -> Scales<L> {
        // SAFETY: the block has 2 + 2 + 4 + 128 bytes.
        unsafe {
            let (first, low_bits) = (word::<L>(blocks, 0), word::<L>(blocks, 1));
            let high_bits = L::shift_right(first, 16);
            let low_bits = L::and(L::shift_right(low_bits, 4 * run as u32), L::splat(15));
            let high_bits = L::and(L::shift_right(high_bits, 2 * run as u32), L::splat(3));
            let run_scale = L::sub(L::or(low_bits, L::shift_left(high_bits, 4)), L::splat(32));
            only_scale(L::mul(block_scales[0], L::to_float(run_scale)))
        }
    }

    #[inline(always)]
    unsafe fn bytes<L: Lanes>(blocks: Blocks, run: usize, j: usize) -> L::Int {
        // SAFETY: as above.
        unsafe {
            L::lookup(
                &const { with_offset(IQ4_VALUES, Self::OFFSET) },
                nibbles::<L>(blocks, 2 + 4 * run, j),
            )
        }
    }
}

/// Scale and minimum of a run of a Q4_K or Q5_K block, from the block's first 16 bytes.
#[inline(always)]
unsafe fn k_scales<L: Lanes>(blocks: Blocks, [scale, min]: [L::Float; 2], run: usize) -> Scales<L> {
    // SAFETY: as the caller.
    unsafe {
        let (a, b, c) = (word::<L>(blocks, 1), word::<L>(blocks, 2), word::<L>(blocks, 3));
        let six_bits = |x| L::and(x, L::splat(0x3f3f_3f3f));
        // The two high bits of the second four stand above the first four.
        let high_bits = |x| L::and(L::shift_right(x, 2), L::splat(0x3030_3030));
        let (scales, mins) = if run < 4 {
            (six_bits(a), six_bits(b))
        } else {
            (
                L::or(low::<L>(c), high_bits(a)),
                L::or(high::<L>(c), high_bits(b)),
            )
        };
        let number = |four| L::to_float(byte::<L>(four, run % 4));
        Scales {
            mins: [L::mul(min, number(mins)); 2],
            ..only_scale(L::mul(scale, number(scales)))
        }
    }
}

pub(super) struct Q4K;

impl Format for Q4K {
    const BYTES: usize = 144;
    const N_RUNS: usize = 8;
    const OFFSET: u8 = 0;
    const MAX: u8 = 15;
    const N_MINS: usize = 1;

    #[inline(always)]
    unsafe fn block_scales<L: Lanes>(blocks: Blocks) -> [L::Float; 2] {
        // SAFETY: as the caller.
        unsafe { two_halves::<L>(word::<L>(blocks, 0)) }
    }

    #[inline(always)]
    unsafe fn scales<L: Lanes>(blocks: Blocks, block_scales: [L::Float; 2], run: usize) -> Scales<L> {
        // SAFETY: the block has 16 + 128 bytes.
        unsafe { k_scales(blocks, block_scales, run) }
    }

    #[inline(always)]
    unsafe fn bytes<L: Lanes>(blocks: Blocks, run: usize, j: usize) -> L::Int {
        // SAFETY: as above.
        unsafe {
            // Two runs share 32 bytes.
            half_byte::<L>(word::<L>(blocks, 4 + 8 * (run / 2) + j), run % 2)
        }
    }
}

pub(super) struct Q5K;

impl Format for Q5K {
    const BYTES: usize = 176;
    const N_RUNS: usize = 8;
    const OFFSET: u8 = 0;
    const MAX: u8 = 31;
    const N_MINS: usize = 1;

    #[inline(always)]
    unsafe fn block_scales<L: Lanes>(blocks: Blocks) -> [L::Float; 2] {
        // SAFETY: as the caller.
        unsafe { two_halves::<L>(word::<L>(blocks, 0)) }
    }

    #[inline(always)]
    unsafe fn scales<L: Lanes>(blocks: Blocks, block_scales: [L::Float; 2], run: usize) -> Scales<L> {
        // SAFETY: the block has 16 + 32 + 128 bytes.
        unsafe { k_scales(blocks, block_scales, run) }
    }

    #[inline(always)]
    unsafe fn bytes<L: Lanes>(blocks: Blocks, run: usize, j: usize) -> L::Int {
        // SAFETY: as above.
        unsafe {
            // Bit `run` of these bytes is the fifth bit of a weight of that run.
            let fifth = L::shift_right(word::<L>(blocks, 4 + j), run as u32);
            let fifth = L::shift_left(L::and(fifth, L::splat(0x0101_0101)), 4);
            L::or(
                half_byte::<L>(word::<L>(blocks, 12 + 8 * (run / 2) + j), run % 2),
                fifth,
            )
        }
    }
}

/// Bits `2 quarter..2 quarter + 2` of every byte, moved to bit `place`, 0 to 4.
#[inline(always)]
unsafe fn two_bits<L: Lanes>(bytes: L::Int, quarter: usize, place: usize) -> L::Int {
    // SAFETY: as the caller.
    unsafe {
        let moved = if 2 * quarter > place {
            L::shift_right(bytes, (2 * quarter - place) as u32)
        } else {
            L::shift_left(bytes, (place - 2 * quarter) as u32)
        };
        L::and(moved, L::splat(0x0303_0303 << place))
    }
}

pub(super) struct Q6K;

impl Format for Q6K {
    const BYTES: usize = 210;
    const HEAD_BYTES: usize = 2;
    const HEAD_AT: usize = 208;
    const N_RUNS: usize = 8;
    const OFFSET: u8 = 32;
    const MAX: u8 = 63;
    const HALF_SCALES: bool = true;

    #[inline(always)]
    unsafe fn block_scales<L: Lanes>(blocks: Blocks) -> [L::Float; 2] {
        // SAFETY: as the caller.
        unsafe { [L::halves(blocks.heads); 2] }
    }

    #[inline(always)]
    unsafe fn scales<L: Lanes>(blocks: Blocks, block_scales: [L::Float; 2], run: usize) -> Scales<L> {
        // SAFETY: the block has 128 + 64 + 16 + 2 bytes.
        unsafe {
            let (scales, place) = (word::<L>(blocks, 48 + run / 2), run % 2 * 2);
            Scales {
                halves: [
                    signed_byte::<L>(scales, place),
                    signed_byte::<L>(scales, place + 1),
                ],
                ..only_scale(block_scales[0])
            }
        }
    }

    #[inline(always)]
    unsafe fn bytes<L: Lanes>(blocks: Blocks, run: usize, j: usize) -> L::Int {
        // SAFETY: as above.
        unsafe {
            // Four runs share 64 bytes of low bits and 32 bytes of high bits.
            let (four, quarter) = (run / 4, run % 4);
            let bottom = word::<L>(blocks, 16 * four + 8 * (quarter % 2) + j);
            let top = word::<L>(blocks, 32 + 8 * four + j);
            L::or(
                half_byte::<L>(bottom, quarter / 2),
                two_bits::<L>(top, quarter, 4),
            )
        }
    }
}

pub(super) struct Q3K;

impl Format for Q3K {
    const BYTES: usize = 110;
    const HEAD_BYTES: usize = 2;
    const HEAD_AT: usize = 108;
    const N_RUNS: usize = 8;
    const OFFSET: u8 = 4;
    const MAX: u8 = 7;
    const HALF_SCALES: bool = true;

    #[inline(always)]
    unsafe fn block_scales<L: Lanes>(blocks: Blocks) -> [L::Float; 2] {
        // SAFETY: as the caller.
        unsafe { [L::halves(blocks.heads); 2] }
    }

    #[inline(always)]
    unsafe fn scales<L: Lanes>(blocks: Blocks, block_scales: [L::Float; 2], run: usize) -> Scales<L> {
        // SAFETY: the block has 32 + 64 + 12 + 2 bytes.
        unsafe {
            // Low four bits of scales 0 to 3, 4 to 7, 8 to 11, 12 to 15, and above them two bits of the third word.
            let group = run / 2;
            let bottom = half_byte::<L>(word::<L>(blocks, 24 + group % 2), group / 2);
            let six_bits = L::or(bottom, two_bits::<L>(word::<L>(blocks, 26), group, 4));
            let scales = [
                byte::<L>(six_bits, run % 2 * 2),
                byte::<L>(six_bits, run % 2 * 2 + 1),
            ];
            Scales {
                halves: [L::sub(scales[0], L::splat(32)), L::sub(scales[1], L::splat(32))],
                ..only_scale(block_scales[0])
            }
        }
    }

    #[inline(always)]
    unsafe fn bytes<L: Lanes>(blocks: Blocks, run: usize, j: usize) -> L::Int {
        // SAFETY: as above.
        unsafe {
            let bottom = word::<L>(blocks, 8 + 8 * (run / 4) + j);
            let top = L::shift_right(word::<L>(blocks, j), run as u32);
            let top = L::shift_left(L::and(top, L::splat(0x0101_0101)), 2);
            L::or(two_bits::<L>(bottom, run % 4, 0), top)
        }
    }
}

pub(super) struct Q2K;

impl Format for Q2K {
    const BYTES: usize = 84;
    const N_RUNS: usize = 8;
    const OFFSET: u8 = 0;
    const MAX: u8 = 3;
    const HALF_SCALES: bool = true;
    const N_MINS: usize = 2;

    #[inline(always)]
    unsafe fn block_scales<L: Lanes>(blocks: Blocks) -> [L::Float; 2] {
        // SAFETY: as the caller.
        unsafe { two_halves::<L>(word::<L>(blocks, 20)) }
    }

    #[inline(always)]
    unsafe fn scales<L: Lanes>(blocks: Blocks, block_scales: [L::Float; 2], run: usize) -> Scales<L> {
        // SAFETY: the block has 16 + 64 + 2 + 2 bytes.
        unsafe {
            let packed = word::<L>(blocks, run / 2);
            let [scale, min_scale] = block_scales;
            let (scales, mins, place) = (low::<L>(packed), high::<L>(packed), run % 2 * 2);
            let min_scales = [byte::<L>(mins, place), byte::<L>(mins, place + 1)];
            Scales {
                scale,
                halves: [byte::<L>(scales, place), byte::<L>(scales, place + 1)],
                mins: [
                    L::mul(min_scale, L::to_float(min_scales[0])),
                    L::mul(min_scale, L::to_float(min_scales[1])),
                ],
            }
        }
    }

    #[inline(always)]
    unsafe fn bytes<L: Lanes>(blocks: Blocks, run: usize, j: usize) -> L::Int {
        // SAFETY: as above.
        unsafe { two_bits::<L>(word::<L>(blocks, 4 + 8 * (run / 4) + j), run % 4, 0) }
    }
}

/// Evaluates an expression with `$format` standing for the [`Format`] of a quantised type.
macro_rules! with_format {
    ($dtype:expr, $format:ident => $call:expr) => {
        $crate::kernels::formats::with_format!(
            $dtype, $format => $call;
            Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2K Q3K Q4K Q5K Q6K IQ4NL IQ4XS MXFP4
        )
    };
    ($dtype:expr, $format:ident => $call:expr; $($name:ident)*) => {
        match $dtype {
            $($crate::weights::GgmlType::$name => {
                type $format = $crate::kernels::formats::$name;
                $call
            })*
            other => unreachable!("{} is not quantised", other.name()),
        }
    };
}
pub(super) use with_format;
