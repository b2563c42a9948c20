//! Norms, rotations, activations and dot products, on the best instructions at hand.

use super::{
    Isa,
    float::{dot, rms_norm_generic, rms_norm_in_place_generic, rotate_generic, swiglu_generic},
};

/// `out = x / sqrt(mean(x^2) + eps) * weight`, all of one length.
pub(crate) fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `super::Kind::Avx2` is only made where the instructions were detected.
        super::Kind::Avx2(_) => unsafe { x86::rms_norm(x, weight, eps, out) },
        _ => rms_norm_generic::<false>(x, weight, eps, out),
    }
}

/// [`rms_norm`] in place.
pub(crate) fn rms_norm_in_place(isa: Isa, x: &mut [f32], weight: &[f32], eps: f32) {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        super::Kind::Avx2(_) => unsafe { x86::rms_norm_in_place(x, weight, eps) },
        _ => rms_norm_in_place_generic::<false>(x, weight, eps),
    }
}

/// Rotates the pairs of one head by the angles whose cosines and sines are given, one for each pair
/// (Su et al. 2021, "RoFormer"). `halves` pairs `(i, i + n_pairs)`, otherwise `(2i, 2i + 1)`.
pub(crate) fn rotate(isa: Isa, head: &mut [f32], cosines: &[f32], sines: &[f32], halves: bool) {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        super::Kind::Avx2(_) => unsafe { x86::rotate(head, cosines, sines, halves) },
        _ => rotate_generic(head, cosines, sines, halves),
    }
}

/// Sum of products, both of one length.
pub(crate) fn dot_product(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        super::Kind::Avx2(_) => unsafe { x86::dot_product(a, b) },
        _ => dot::<false>(a, b),
    }
}

/// `gate = silu(gate) * up`, both of one length.
pub(crate) fn swiglu(isa: Isa, gate: &mut [f32], up: &[f32]) {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        super::Kind::Avx2(super::Integers::Avx512Vnni) => unsafe { x86::swiglu_avx512(gate, up) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        super::Kind::Avx2(_) => unsafe { x86::swiglu(gate, up) },
        _ => swiglu_generic::<false>(gate, up),
    }
}

/// The same, compiled for AVX2 and FMA, and for AVX-512 where that pays.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{dot, rms_norm_generic, rms_norm_in_place_generic, rotate_generic, swiglu_generic};

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        rms_norm_generic::<true>(x, weight, eps, out);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
        rms_norm_in_place_generic::<true>(x, weight, eps);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn rotate(head: &mut [f32], cosines: &[f32], sines: &[f32], halves: bool) {
        rotate_generic(head, cosines, sines, halves);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn dot_product(a: &[f32], b: &[f32]) -> f32 {
        dot::<true>(a, b)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) fn swiglu_avx512(gate: &mut [f32], up: &[f32]) {
        swiglu_generic::<true>(gate, up);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn swiglu(gate: &mut [f32], up: &[f32]) {
        swiglu_generic::<true>(gate, up);
    }
}
