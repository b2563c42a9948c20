//! How each block type is taken apart, for any width of register. The slow reference is [`crate::quant`].
//!
//! A format turns a block of each of `N` weight rows into [`Slot`]s: for every run of 32 weights unsigned bytes, an
//! offset that is the same for all, and scales. [`quant`](crate::quant) describes the bytes.

use super::lanes::{Blocks, Lanes, Quads, Slot};
use crate::quant::{IQ4_VALUES, MXFP4_VALUES};

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

    /// Fills `N_RUNS` slots from a block of each row.
    ///
    /// # Safety
    /// As [`Lanes`]; there are as many slots.
    unsafe fn unpack<L: Lanes>(blocks: Blocks, slots: &mut [Slot<L>]);
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

/// Keeps weights of a format without half scales.
#[inline(always)]
unsafe fn put<L: Lanes, F: Format>(slot: &mut Slot<L>, j: usize, bytes: L::Int) {
    // SAFETY: as the caller.
    unsafe { L::put::<F>(slot, j, bytes, L::splat(1)) };
}

/// Keeps 32 weights of four bits, low halves of 16 bytes first, after `map` (of bytes and vector index) made them whole.
#[inline(always)]
unsafe fn put_nibbles<L: Lanes, F: Format>(
    slot: &mut Slot<L>,
    packed: Quads<L>,
    map: impl Fn(L::Int, usize) -> L::Int,
) {
    for (j, packed) in packed.into_iter().enumerate() {
        // SAFETY: as the caller.
        unsafe {
            put::<L, F>(slot, j, map(low::<L>(packed), j));
            put::<L, F>(slot, j + 4, map(high::<L>(packed), j + 4));
        }
    }
}

/// Bits `4j..4j + 4` of each word, one in each byte, as 16 or 0.
#[inline(always)]
unsafe fn fifth_bits<L: Lanes>(words: L::Int, j: usize) -> L::Int {
    // SAFETY: as the caller.
    unsafe {
        let four = L::and(L::shift_right(words, 4 * j as u32), L::splat(15));
        // Bit `i` moves to bit `8 i + 4`: by 4 and by 7 for each place. What else lands in between is masked out.
        let two = L::or(L::shift_left(four, 4), L::shift_left(four, 18));
        L::and(L::or(two, L::shift_left(two, 7)), L::splat(0x1010_1010))
    }
}

/// Word `idx` of the blocks.
#[inline(always)]
unsafe fn word<L: Lanes>(blocks: Blocks, idx: usize) -> L::Int {
    // SAFETY: as the caller.
    unsafe { L::word(blocks.words.add(4 * L::N * idx)) }
}

/// Words `idx..idx + 4` of the blocks.
#[inline(always)]
unsafe fn quads<L: Lanes>(blocks: Blocks, idx: usize) -> Quads<L> {
    // SAFETY: as the caller.
    unsafe {
        [
            word::<L>(blocks, idx),
            word::<L>(blocks, idx + 1),
            word::<L>(blocks, idx + 2),
            word::<L>(blocks, idx + 3),
        ]
    }
}

/// Scale and negated minimum in the first word of a block, both in half precision.
#[inline(always)]
unsafe fn set_scale_and_added_min<L: Lanes>(slot: &mut Slot<L>, blocks: Blocks) {
    // SAFETY: as the caller.
    unsafe {
        let words = word::<L>(blocks, 0);
        slot.scale = L::low_halves(words);
        let negated = L::xor(L::shift_right(words, 16), L::splat(0x8000));
        slot.mins[0] = L::low_halves(negated);
    }
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
    unsafe fn unpack<L: Lanes>(blocks: Blocks, slots: &mut [Slot<L>]) {
        // SAFETY: the block has 2 + 32 bytes.
        unsafe {
            slots[0].scale = L::halves(blocks.heads);
            for part in 0..2 {
                for (j, bytes) in quads::<L>(blocks, 4 * part).into_iter().enumerate() {
                    let unsigned = L::xor(bytes, L::splat(0x8080_8080));
                    put::<L, Self>(&mut slots[0], 4 * part + j, unsigned);
                }
            }
        }
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
    unsafe fn unpack<L: Lanes>(blocks: Blocks, slots: &mut [Slot<L>]) {
        // SAFETY: the block has 2 + 16 bytes.
        unsafe {
            slots[0].scale = L::halves(blocks.heads);
            put_nibbles::<L, Self>(&mut slots[0], quads::<L>(blocks, 0), |bytes, _| bytes);
        }
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
    unsafe fn unpack<L: Lanes>(blocks: Blocks, slots: &mut [Slot<L>]) {
        // SAFETY: the block has 4 + 16 bytes.
        unsafe {
            set_scale_and_added_min(&mut slots[0], blocks);
            put_nibbles::<L, Self>(&mut slots[0], quads::<L>(blocks, 1), |bytes, _| bytes);
        }
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
    unsafe fn unpack<L: Lanes>(blocks: Blocks, slots: &mut [Slot<L>]) {
        // SAFETY: the block has 2 + 4 + 16 bytes.
        unsafe {
            slots[0].scale = L::halves(blocks.heads);
            let fifth = word::<L>(blocks, 0);
            put_nibbles::<L, Self>(&mut slots[0], quads::<L>(blocks, 1), |bytes, j| {
                L::or(bytes, fifth_bits::<L>(fifth, j))
            });
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
    unsafe fn unpack<L: Lanes>(blocks: Blocks, slots: &mut [Slot<L>]) {
        // SAFETY: the block has 4 + 4 + 16 bytes.
        unsafe {
            set_scale_and_added_min(&mut slots[0], blocks);
            let fifth = word::<L>(blocks, 1);
            put_nibbles::<L, Self>(&mut slots[0], quads::<L>(blocks, 2), |bytes, j| {
                L::or(bytes, fifth_bits::<L>(fifth, j))
            });
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
    unsafe fn unpack<L: Lanes>(blocks: Blocks, slots: &mut [Slot<L>]) {
        // SAFETY: the block has 2 + 16 bytes.
        unsafe {
            slots[0].scale = L::halves(blocks.heads);
            put_nibbles::<L, Self>(&mut slots[0], quads::<L>(blocks, 0), |bytes, _| {
                L::lookup(&const { with_offset(IQ4_VALUES, Self::OFFSET) }, bytes)
            });
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
    unsafe fn unpack<L: Lanes>(blocks: Blocks, slots: &mut [Slot<L>]) {
        // SAFETY: the block has 1 + 16 bytes.
        unsafe {
            // 2^(e - 128), taken as 2^(e / 2 - 64) * 2^(e - e / 2 - 64): neither is subnormal, nor is the product
            // unless it should be.
            let exponent = L::bytes(blocks.heads);
            let first = L::shift_right(exponent, 1);
            let second = L::sub(exponent, first);
            let power = |x| L::from_bits(L::shift_left(L::add(x, L::splat(127 - 64)), 23));
            slots[0].scale = L::mul(power(first), power(second));
            put_nibbles::<L, Self>(&mut slots[0], quads::<L>(blocks, 0), |bytes, _| {
                L::lookup(&const { with_offset(MXFP4_VALUES, Self::OFFSET) }, bytes)
            });
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
    unsafe fn unpack<L: Lanes>(blocks: Blocks, slots: &mut [Slot<L>]) {
        // SAFETY: the block has 2 + 2 + 4 + 128 bytes.
        unsafe {
            let first = word::<L>(blocks, 0);
            let (scale, high) = (L::low_halves(first), L::shift_right(first, 16));
            let low = word::<L>(blocks, 1);
            for (run, slot) in slots[..8].iter_mut().enumerate() {
                let low = L::and(L::shift_right(low, 4 * run as u32), L::splat(15));
                let high = L::and(L::shift_right(high, 2 * run as u32), L::splat(3));
                let run_scale = L::sub(L::or(low, L::shift_left(high, 4)), L::splat(32));
                slot.scale = L::mul(scale, L::to_float(run_scale));
                put_nibbles::<L, Self>(slot, quads::<L>(blocks, 2 + 4 * run), |bytes, _| {
                    L::lookup(&const { with_offset(IQ4_VALUES, Self::OFFSET) }, bytes)
                });
            }
        }
    }
}

/// Scales and minimums of the eight runs of a Q4_K or Q5_K block, from its first 16 bytes.
#[inline(always)]
unsafe fn set_k_scales<L: Lanes>(slots: &mut [Slot<L>], blocks: Blocks) {
    // SAFETY: as the caller.
    unsafe {
        let [halves, a, b, c] = quads::<L>(blocks, 0);
        let (scale, min_scale) = (L::low_halves(halves), L::low_halves(L::shift_right(halves, 16)));
        let six_bits = |x| L::and(x, L::splat(0x3f3f_3f3f));
        // The two high bits of the second four stand above the first four.
        let high_bits = |x| L::and(L::shift_right(x, 2), L::splat(0x3030_3030));
        let scales = [six_bits(a), L::or(low::<L>(c), high_bits(a))];
        let mins = [six_bits(b), L::or(high::<L>(c), high_bits(b))];
        for (run, slot) in slots[..8].iter_mut().enumerate() {
            let number = |four: [L::Int; 2]| L::to_float(byte::<L>(four[run / 4], run % 4));
            slot.scale = L::mul(scale, number(scales));
            slot.mins[0] = L::mul(min_scale, number(mins));
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
    unsafe fn unpack<L: Lanes>(blocks: Blocks, slots: &mut [Slot<L>]) {
        // SAFETY: the block has 16 + 128 bytes.
        unsafe {
            set_k_scales(slots, blocks);
            // Two runs share 32 bytes: sixteen of them are four vectors of each.
            for part in 0..8 {
                for (j, packed) in quads::<L>(blocks, 4 + 4 * part).into_iter().enumerate() {
                    let (run, j) = (part / 2 * 2, part % 2 * 4 + j);
                    put::<L, Self>(&mut slots[run], j, low::<L>(packed));
                    put::<L, Self>(&mut slots[run + 1], j, high::<L>(packed));
                }
            }
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
    unsafe fn unpack<L: Lanes>(blocks: Blocks, slots: &mut [Slot<L>]) {
        // SAFETY: the block has 16 + 32 + 128 bytes.
        unsafe {
            set_k_scales(slots, blocks);
            for half in 0..2 {
                // Bit `run` of these bytes is the fifth bit of a weight of that run.
                let fifth = quads::<L>(blocks, 4 + 4 * half);
                for pair in 0..4 {
                    let packed = quads::<L>(blocks, 12 + 8 * pair + 4 * half);
                    for j in 0..4 {
                        let run = 2 * pair;
                        let bit = |run: usize| {
                            let bits = L::and(L::shift_right(fifth[j], run as u32), L::splat(0x0101_0101));
                            L::shift_left(bits, 4)
                        };
                        let (first, second) = (low::<L>(packed[j]), high::<L>(packed[j]));
                        put::<L, Self>(&mut slots[run], 4 * half + j, L::or(first, bit(run)));
                        put::<L, Self>(&mut slots[run + 1], 4 * half + j, L::or(second, bit(run + 1)));
                    }
                }
            }
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
    unsafe fn unpack<L: Lanes>(blocks: Blocks, slots: &mut [Slot<L>]) {
        // SAFETY: the block has 128 + 64 + 16 + 2 bytes.
        unsafe {
            let scales = quads::<L>(blocks, 48);
            let scale = L::halves(blocks.heads);
            slots[..8].iter_mut().for_each(|slot| slot.scale = scale);
            // Four runs share 64 bytes of low bits and 32 bytes of high bits.
            for (four, half) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let at = 16 * four + 4 * half;
                let (first, second) = (quads::<L>(blocks, at), quads::<L>(blocks, at + 8));
                let top = quads::<L>(blocks, 32 + 8 * four + 4 * half);
                for quarter in 0..4 {
                    let run = 4 * four + quarter;
                    let half_scale = signed_byte::<L>(scales[run / 2], run % 2 * 2 + half);
                    for j in 0..4 {
                        let bottom = match quarter {
                            0 => low::<L>(first[j]),
                            1 => low::<L>(second[j]),
                            2 => high::<L>(first[j]),
                            _ => high::<L>(second[j]),
                        };
                        let bytes = L::or(bottom, two_bits::<L>(top[j], quarter, 4));
                        L::put::<Self>(&mut slots[run], 4 * half + j, bytes, half_scale);
                    }
                }
            }
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
    unsafe fn unpack<L: Lanes>(blocks: Blocks, slots: &mut [Slot<L>]) {
        // SAFETY: the block has 32 + 64 + 12 + 2 bytes.
        unsafe {
            let scale = L::halves(blocks.heads);
            slots[..8].iter_mut().for_each(|slot| slot.scale = scale);
            let (a, b, c) = (
                word::<L>(blocks, 24),
                word::<L>(blocks, 25),
                word::<L>(blocks, 26),
            );
            // Low four bits of scales 0 to 3, 4 to 7, 8 to 11, 12 to 15, and above them two bits of `c`.
            let low_bits = [low::<L>(a), low::<L>(b), high::<L>(a), high::<L>(b)];
            for (four, half) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let top = quads::<L>(blocks, 4 * half);
                let bottom = quads::<L>(blocks, 8 + 8 * four + 4 * half);
                for quarter in 0..4 {
                    let run = 4 * four + quarter;
                    let group = run / 2;
                    let six_bits = L::or(low_bits[group], two_bits::<L>(c, group, 4));
                    let half_scale = L::sub(byte::<L>(six_bits, run % 2 * 2 + half), L::splat(32));
                    for j in 0..4 {
                        let bit = L::and(L::shift_right(top[j], run as u32), L::splat(0x0101_0101));
                        let bytes = L::or(two_bits::<L>(bottom[j], quarter, 0), L::shift_left(bit, 2));
                        L::put::<Self>(&mut slots[run], 4 * half + j, bytes, half_scale);
                    }
                }
            }
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
    unsafe fn unpack<L: Lanes>(blocks: Blocks, slots: &mut [Slot<L>]) {
        // SAFETY: the block has 16 + 64 + 2 + 2 bytes.
        unsafe {
            let packed = quads::<L>(blocks, 0);
            let halves = word::<L>(blocks, 20);
            let (scale, min_scale) = (L::low_halves(halves), L::low_halves(L::shift_right(halves, 16)));
            for (four, half) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let bytes = quads::<L>(blocks, 4 + 8 * four + 4 * half);
                for quarter in 0..4 {
                    let run = 4 * four + quarter;
                    let (group, idx) = (run / 2, run % 2 * 2 + half);
                    let half_scale = byte::<L>(low::<L>(packed[group]), idx);
                    let min = L::to_float(byte::<L>(high::<L>(packed[group]), idx));
                    slots[run].scale = scale;
                    slots[run].mins[half] = L::mul(min_scale, min);
                    for j in 0..4 {
                        let bytes = two_bits::<L>(bytes[j], quarter, 0);
                        L::put::<Self>(&mut slots[run], 4 * half + j, bytes, half_scale);
                    }
                }
            }
        }
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
