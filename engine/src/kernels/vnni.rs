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
    rows: [*const ActivationRun; T],
) -> [L::Int; T] {
    let weights = slot.weights.as_ref();
    // SAFETY: the caller's promise.
    unsafe {
        let offset = |sum: i32| L::splat((-i32::from(F::OFFSET) * sum) as u32);
        let values = rows.map(|row| (&raw const (*row).values).cast::<u32>());
        let mut sums = rows.map(|row| {
            let [first, second] = (*row).half_sums;
            offset(if F::HALF_SCALES { first } else { first + second })
        });
        unrolled!(J in 0 1 2 3 => {
            for (sum, values) in sums.iter_mut().zip(values) {
                *sum = L::add_products(*sum, weights[J], L::splat(*values.add(J)));
            }
        });
        let first = sums;
        if F::HALF_SCALES {
            sums = rows.map(|row| offset((*row).half_sums[1]));
        }
        unrolled!(J in 4 5 6 7 => {
            for (sum, values) in sums.iter_mut().zip(values) {
                *sum = L::add_products(*sum, weights[J], L::splat(*values.add(J)));
            }
        });
        if F::HALF_SCALES {
            let [low, high] = slot.half_scales;
            for (sum, first) in sums.iter_mut().zip(first) {
                *sum = L::add(L::mul_words(first, low), L::mul_words(*sum, high));
            }
        }
        sums
    }
}
