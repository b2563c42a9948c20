//! Dot products of bytes as x86's VNNI gives them, for any width of register.
//!
//! Weights are kept as unsigned bytes and multiplied by signed ones, four products at a time and exactly; what the
//! format's offset added is taken away again with the sum of the activations.

use super::{
    formats::Format,
    lanes::{Lanes, Slot, unrolled},
    quantized_rows::ActivationRun,
};

/// Registers with VNNI. All functions are unsafe for the reasons that [`Lanes`] gives.
pub(super) trait Vnni: Lanes<Weights: AsRef<[Self::Int]> + AsMut<[Self::Int]>> {
    /// Adds to each word of `sums` the products of four unsigned bytes with four signed ones.
    unsafe fn add_products(sums: Self::Int, unsigned: Self::Int, signed: Self::Int) -> Self::Int;
    /// Low halves of the products of words.
    unsafe fn mul_words(a: Self::Int, b: Self::Int) -> Self::Int;
}

/// [`Lanes::put`].
#[inline(always)]
pub(super) fn put<L: Vnni, F: Format>(slot: &mut Slot<L>, j: usize, bytes: L::Int, half_scale: L::Int) {
    slot.weights.as_mut()[j] = bytes;
    if F::HALF_SCALES {
        slot.half_scales[j / 4] = half_scale;
    }
}

/// [`Lanes::dot`].
#[inline(always)]
pub(super) unsafe fn dot<L: Vnni, F: Format, const T: usize>(
    slot: &Slot<L>,
    runs: &[ActivationRun; T],
) -> [L::Int; T] {
    let weights = slot.weights.as_ref();
    // Loops over numbers, not closures, which would be compiled without the instructions of the function around them.
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [L::splat(0); T];
        for row in 0..T {
            let [first, second] = runs[row].half_sums;
            sums[row] = without_offset::<L, F>(if F::HALF_SCALES { first } else { first + second });
        }
        unrolled!(J in 0 1 2 3 => {
            for row in 0..T {
                sums[row] = L::add_products(sums[row], weights[J], four_values::<L>(&runs[row], J));
            }
        });
        let first = sums;
        if F::HALF_SCALES {
            for row in 0..T {
                sums[row] = without_offset::<L, F>(runs[row].half_sums[1]);
            }
        }
        unrolled!(J in 4 5 6 7 => {
            for row in 0..T {
                sums[row] = L::add_products(sums[row], weights[J], four_values::<L>(&runs[row], J));
            }
        });
        if F::HALF_SCALES {
            let [low, high] = slot.half_scales;
            for row in 0..T {
                sums[row] = L::add(L::mul_words(first[row], low), L::mul_words(sums[row], high));
            }
        }
        sums
    }
}

/// What to begin with so that the format's offset is taken away, given the sum of the activations.
#[inline(always)]
unsafe fn without_offset<L: Lanes, F: Format>(sum: i32) -> L::Int {
    // SAFETY: the caller's promise.
    unsafe { L::splat((-i32::from(F::OFFSET) * sum) as u32) }
}

/// Activations `4j..4j + 4` of a run in every lane.
#[inline(always)]
unsafe fn four_values<L: Lanes>(run: &ActivationRun, j: usize) -> L::Int {
    // SAFETY: the caller's promise, and a run has 32 values.
    unsafe { L::splat(run.values.as_ptr().cast::<u32>().add(j).read_unaligned()) }
}
