//! Dot products of bytes as x86's VNNI gives them, for any width of register.
//!
//! Weights are kept as unsigned bytes and multiplied by signed ones, four products at a time and exactly; what the
//! format's offset added is taken away again with the sum of the activations.

use super::{
    formats::Format,
    lanes::{Lanes, Run, unrolled},
    quantized_rows::ActivationRun,
};

/// Registers with VNNI. All functions are unsafe for the reasons that [`Lanes`] gives.
pub(super) trait Vnni: Lanes {
    /// Adds to each word of `sums` the products of four unsigned bytes with four signed ones.
    unsafe fn add_products(sums: Self::Int, unsigned: Self::Int, signed: Self::Int) -> Self::Int;
    /// Adds to each word of `sums` the products of two signed 16-bit numbers with two others.
    unsafe fn add_pair_products(sums: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int;
    /// The unsigned bytes, which is what is kept of weights.
    unsafe fn bytes_of(weights: Self::Weights) -> Self::Int;
}

/// [`Lanes::dot`].
#[inline(always)]
pub(super) unsafe fn dot<L: Vnni, F: Format, const T: usize>(
    run: &impl Run<L>,
    half_scales: [L::Int; 2],
    activations: &[ActivationRun; T],
) -> [L::Float; T] {
    // Loops over numbers, not closures, which would be compiled without the instructions of the function around them.
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [L::splat(0); T];
        for row in 0..T {
            sums[row] = without_offset::<L, F>(&activations[row], [true, !F::HALF_SCALES]);
        }
        unrolled!(J in 0 1 2 3 => {
            let weights = L::bytes_of(run.weights(J));
            for row in 0..T {
                sums[row] = L::add_products(sums[row], weights, four_values::<L>(&activations[row], J));
            }
        });
        let first = sums;
        if F::HALF_SCALES {
            for row in 0..T {
                sums[row] = without_offset::<L, F>(&activations[row], [false, true]);
            }
        }
        unrolled!(J in 4 5 6 7 => {
            let weights = L::bytes_of(run.weights(J));
            for row in 0..T {
                sums[row] = L::add_products(sums[row], weights, four_values::<L>(&activations[row], J));
            }
        });
        let mut dots = [L::splat_float(0.0); T];
        for row in 0..T {
            dots[row] = L::to_float(sums[row]);
            if F::HALF_SCALES {
                let [low, high] = half_scales;
                let first = L::mul(L::to_float(first[row]), L::to_float(low));
                dots[row] = L::mul_add(dots[row], L::to_float(high), first);
            }
        }
        dots
    }
}

/// What to begin the sums of these halves with, so that the format's offset is taken away.
#[inline(always)]
unsafe fn without_offset<L: Vnni, F: Format>(run: &ActivationRun, halves: [bool; 2]) -> L::Int {
    if F::OFFSET == 0 {
        // SAFETY: the caller's promise.
        return unsafe { L::splat(0) };
    }
    let negated = -i16::from(F::OFFSET);
    let [first, second] = halves.map(|it| u32::from(if it { negated as u16 } else { 0 }));
    // SAFETY: the caller's promise, and two numbers of 16 bits are a word.
    unsafe {
        let sums = L::splat(run.half_sums.as_ptr().cast::<u32>().read_unaligned());
        L::add_pair_products(L::splat(0), L::splat(first | second << 16), sums)
    }
}

/// Activations `4j..4j + 4` of a run in every lane.
#[inline(always)]
unsafe fn four_values<L: Lanes>(run: &ActivationRun, j: usize) -> L::Int {
    // SAFETY: the caller's promise, and a run has 32 values.
    unsafe { L::splat(run.values.as_ptr().cast::<u32>().add(j).read_unaligned()) }
}
