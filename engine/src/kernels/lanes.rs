//! A vector register as the quantised products see it: one 32-bit lane for each of `N` weight rows side by side.
//!
//! A lane holds four bytes, two 16-bit numbers or one 32-bit number of its row, as [`panels`](crate::weights::panels) have them. All work
//! is the same in every lane, so there are no sums across lanes and each output is finished where it started.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use super::{formats::Format, quantized_rows::ActivationRun};

/// A block of each of [`Floats::N`] weight rows.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    /// The rows' heads, side by side.
    pub(super) heads: *const u8,
    /// The rows' first words, then their second ones...
    pub(super) words: *const u8,
}

/// What the weights of a run are multiplied with, in each row.
#[derive(Clone, Copy)]
pub(super) struct Scales<L: Lanes> {
    pub(super) scale: L::Float,
    /// Integer scales of the halves, signed words; 1 if the format has none.
    pub(super) halves: [L::Int; 2],
    /// As many as the format has.
    pub(super) mins: [L::Float; 2],
}

/// Thirty-two weights of each row, wherever they come from.
pub(super) trait Run<L: Lanes> {
    /// Weights `4j..4j + 4`, ready to be multiplied.
    ///
    /// # Safety
    /// As [`Lanes`].
    unsafe fn weights(&self, j: usize) -> L::Weights;
}

/// The operations on single-precision numbers alone.
///
/// # Safety
/// All functions are unsafe for the same two reasons: the instructions of the implementation must be there, and the
/// places given as pointers must be readable or writable, for `N` lanes.
pub(super) trait Floats: Copy {
    /// Lanes side by side, at most [`MAX_LANES`](super::panel::MAX_LANES).
    const N: usize;
    /// `N` single-precision numbers.
    type Float: Copy;

    unsafe fn splat_float(x: f32) -> Self::Float;
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a * b + c`, rounded once where there is an instruction for it.
    unsafe fn mul_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// The place need not be aligned.
    unsafe fn load(at: *const f32) -> Self::Float;
    unsafe fn store(at: *mut f32, x: Self::Float);
    /// `N` half-precision numbers, widened.
    unsafe fn halves(at: *const u8) -> Self::Float;
    /// `N` numbers of bfloat16, widened.
    unsafe fn brain_floats(at: *const u8) -> Self::Float;
    /// Asks for a cache line, wherever it is.
    unsafe fn prefetch(at: *const u8);
    /// The same into the second-level cache: more lines can be on their way there from memory.
    unsafe fn prefetch_far(at: *const u8);
}

/// Numbers as any machine has them.
#[derive(Clone, Copy)]
pub(super) struct PlainFloats<const N: usize>;

// SAFETY (of the block below): the places are the caller's promise.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "said once for all of them, above"
)]
impl<const N: usize> Floats for PlainFloats<N> {
    const N: usize = N;
    type Float = [f32; N];

    #[inline(always)]
    unsafe fn splat_float(x: f32) -> [f32; N] {
        [x; N]
    }

    #[inline(always)]
    unsafe fn mul(mut a: [f32; N], b: [f32; N]) -> [f32; N] {
        for lane in 0..N {
            a[lane] *= b[lane];
        }
        a
    }

    #[inline(always)]
    unsafe fn mul_add(mut a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        for lane in 0..N {
            a[lane] = a[lane] * b[lane] + c[lane];
        }
        a
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> [f32; N] {
        unsafe { at.cast::<[f32; N]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, x: [f32; N]) {
        unsafe { at.cast::<[f32; N]>().write(x) }
    }

    #[inline(always)]
    unsafe fn halves(at: *const u8) -> [f32; N] {
        let mut wide = [0.0; N];
        unsafe { at.cast::<[f16; N]>().read_unaligned() }.convert_to_f32_slice(&mut wide);
        wide
    }

    #[inline(always)]
    unsafe fn brain_floats(at: *const u8) -> [f32; N] {
        unsafe { at.cast::<[bf16; N]>().read_unaligned() }.map(bf16::to_f32)
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}

    #[inline(always)]
    unsafe fn prefetch_far(_: *const u8) {}
}

/// The operations that unpacking and multiplying are made of, on one lane for each row.
///
/// # Safety
/// As [`Floats`]. There `mul_add` rounds once.
pub(super) trait Lanes: Floats {
    /// `N` words of 32 bits.
    type Int: Copy;
    /// Four weights of each row, ready to be multiplied: a vector of bytes, or two of them.
    type Weights: Copy;

    unsafe fn splat(word: u32) -> Self::Int;
    unsafe fn and(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn or(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn xor(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Of whole words, wrapping.
    unsafe fn add(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn sub(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Shifts of whole words; the arithmetic one copies the sign.
    unsafe fn shift_left(a: Self::Int, bits: u32) -> Self::Int;
    unsafe fn shift_right(a: Self::Int, bits: u32) -> Self::Int;
    unsafe fn shift_right_signed(a: Self::Int, bits: u32) -> Self::Int;
    /// `table[byte]` for every byte; all are below 16.
    unsafe fn lookup(table: &[u8; 16], bytes: Self::Int) -> Self::Int;

    /// The low four bits of each word, one in each byte, as 16 or 0.
    #[inline(always)]
    unsafe fn spread_bits(words: Self::Int) -> Self::Int {
        // SAFETY: the caller's promise.
        unsafe {
            let four = Self::and(words, Self::splat(15));
            // Bit `i` moves to bit `8 i + 4`: by 4 and by 7 for each place. What else lands in between is masked out.
            let two = Self::or(Self::shift_left(four, 4), Self::shift_left(four, 18));
            Self::and(Self::or(two, Self::shift_left(two, 7)), Self::splat(0x1010_1010))
        }
    }

    /// A word of each row. The place is aligned to all of them.
    unsafe fn word(at: *const u8) -> Self::Int;
    /// A byte of each row, in the low eight bits.
    unsafe fn bytes(at: *const u8) -> Self::Int;
    /// The half-precision numbers in the low 16 bits of the words, widened.
    unsafe fn low_halves(words: Self::Int) -> Self::Float;

    /// Words as the floats of the same bits.
    unsafe fn from_bits(words: Self::Int) -> Self::Float;
    /// The nearest float to a signed word.
    unsafe fn to_float(words: Self::Int) -> Self::Float;
    /// `c - a * b`, rounded once.
    unsafe fn mul_sub(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// Makes four weights ready to be multiplied, given as unsigned bytes before the format's offset is taken away.
    unsafe fn ready<F: Format>(bytes: Self::Int) -> Self::Weights;

    /// Sums of products of a run's weights, times the scales of their halves, with a run of each of `T` rows of activations.
    /// They are exact: integers of less than 2^24, since 32 products of a weight, a scale and an activation are at most
    /// 32 * 128 * 127 each.
    unsafe fn dot<F: Format, const T: usize>(
        run: &impl Run<Self>,
        half_scales: [Self::Int; 2],
        activations: &[ActivationRun; T],
    ) -> [Self::Float; T];
}

/// Repeats a block for some constants: the compiler gives up on loops this long, and then computes addresses anew.
macro_rules! unrolled {
    ($name:ident in $($value:literal)* => $body:block) => {
        $({
            const $name: usize = $value;
            $body
        })*
    };
}
pub(super) use unrolled;
