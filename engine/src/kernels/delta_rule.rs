//! The gated delta rule, position by position: how a state fades, learns a key with its value, and answers a query.
//!
//! Yang et al. 2024, "Gated Delta Networks: Improving Mamba2 with Delta Rule", equation 10. The columns of a state do not
//! depend on each other, so [`STATE_COLUMNS`] of them at a time pass through registers. What comes before is here too: a
//! convolution over the last positions and norms of queries and keys. The slow reference is `model/reference.rs`.

#[cfg(target_arch = "x86_64")]
use super::Integers;
use super::{
    Isa,
    float::{dot, exp, mul_add},
};
use crate::model::DeltaNet;

/// Columns of a state that lie together: `(key_dim, STATE_COLUMNS)`.
pub const STATE_COLUMNS: usize = 32;

/// Under the root of the norm of queries and keys.
const EPSILON: f32 = 1e-6;

/// What one position does to a state, and asks it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeltaStep<'a> {
    /// `(key_dim)`.
    pub(crate) query: &'a [f32],
    pub(crate) key: &'a [f32],
    /// `(STATE_COLUMNS)`.
    pub(crate) value: &'a [f32],
    /// What is left of the state, 0 to 1.
    pub(crate) kept: f32,
    /// How much of the difference between what the state has for the key and the value is made up for, 0 to 1.
    pub(crate) learned: f32,
}

/// Takes a step with some columns of a state, `(key_dim, STATE_COLUMNS)`: `state = kept * state`, then `state += key
/// (learned * (value - key state))`, then `out = query state`, `(STATE_COLUMNS)`.
pub(crate) fn take_step(isa: Isa, state: &mut [f32], step: DeltaStep<'_>, out: &mut [f32]) {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the kind is only made where the instructions were detected.
        super::Kind::Avx2(Integers::Avx512Vnni) => unsafe { x86::take_step_avx512(state, step, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        super::Kind::Avx2(_) => unsafe { x86::take_step(state, step, out) },
        _ => take_step_generic::<false>(state, step, out),
    }
}

/// Queries, keys and values of one position from what the convolution sees of it and the positions before it.
///
/// `inputs` are those positions, the last one first, `(conv_width)` each at the beginning of a row; `weights` are
/// `(conv_len, conv_width)` in the same order. `out` is `(conv_width)`: queries of length 1 / sqrt(key_dim), keys of
/// length 1, values.
pub(crate) fn convolve(isa: Isa, shape: &DeltaNet, weights: &[f32], inputs: &[&[f32]], out: &mut [f32]) {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        super::Kind::Avx2(_) => unsafe { x86::convolve(shape, weights, inputs, out) },
        _ => convolve_generic::<false>(shape, weights, inputs, out),
    }
}

/// The same, compiled for AVX2 and FMA, and for AVX-512.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{DeltaNet, DeltaStep, convolve_generic, take_step_generic};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) fn take_step_avx512(state: &mut [f32], step: DeltaStep<'_>, out: &mut [f32]) {
        take_step_generic::<true>(state, step, out);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn take_step(state: &mut [f32], step: DeltaStep<'_>, out: &mut [f32]) {
        take_step_generic::<true>(state, step, out);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn convolve(shape: &DeltaNet, weights: &[f32], inputs: &[&[f32]], out: &mut [f32]) {
        convolve_generic::<true>(shape, weights, inputs, out);
    }
}

#[inline(always)]
fn take_step_generic<const FMA: bool>(state: &mut [f32], step: DeltaStep<'_>, out: &mut [f32]) {
    let rows = state.as_chunks_mut::<STATE_COLUMNS>().0;
    let mut known = [0.0; STATE_COLUMNS];
    for (row, key) in rows.iter().zip(step.key) {
        for column in 0..STATE_COLUMNS {
            known[column] = mul_add::<FMA>(*key, row[column], known[column]);
        }
    }
    let mut change = [0.0; STATE_COLUMNS];
    for ((change, known), value) in change.iter_mut().zip(known).zip(step.value) {
        *change = step.learned * (value - step.kept * known);
    }
    let mut answer = [0.0; STATE_COLUMNS];
    for ((row, key), query) in rows.iter_mut().zip(step.key).zip(step.query) {
        for column in 0..STATE_COLUMNS {
            let x = mul_add::<FMA>(*key, change[column], step.kept * row[column]);
            row[column] = x;
            answer[column] = mul_add::<FMA>(*query, x, answer[column]);
        }
    }
    out.copy_from_slice(&answer);
}

#[inline(always)]
fn convolve_generic<const FMA: bool>(shape: &DeltaNet, weights: &[f32], inputs: &[&[f32]], out: &mut [f32]) {
    out.fill(0.0);
    for (input, weights) in inputs.iter().zip(weights.chunks_exact(out.len())) {
        for ((out, x), weight) in out.iter_mut().zip(*input).zip(weights) {
            *out = mul_add::<FMA>(*x, *weight, *out);
        }
    }
    for x in out.iter_mut() {
        *x /= 1.0 + exp::<FMA>(-*x);
    }
    let (queries, rest) = out.split_at_mut(shape.key_width());
    let keys = &mut rest[..shape.key_width()];
    let query_len = 1.0 / (shape.key_dim as f32).sqrt();
    for (heads, len) in [(queries, query_len), (keys, 1.0)] {
        for head in heads.chunks_exact_mut(shape.key_dim) {
            let scale = len / (dot::<FMA>(head, head) + EPSILON).sqrt();
            head.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

/// What is left of a head's state after a position, and how much it learns there, from what the position's inputs give.
/// `rate` is how fast the head forgets, below 0; `offset` moves `fade`.
pub(crate) fn gates(fade: f32, learn: f32, rate: f32, offset: f32) -> (f32, f32) {
    let x = fade + offset;
    // Beyond, exp(x) is all of 1 + exp(x).
    let softplus = if x > 20.0 { x } else { x.exp().ln_1p() };
    ((rate * softplus).exp(), 1.0 / (1.0 + (-learn).exp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between -1 and 1.
    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len)
            .map(|idx| ((idx * 37 + seed * 101) % 199) as f32 / 99.0 - 1.0)
            .collect()
    }

    #[test]
    fn a_state_that_learns_all_of_a_value_answers_with_it() {
        let key_dim = 24;
        let mut key = numbers(key_dim, 1);
        let len = key.iter().map(|x| x * x).sum::<f32>().sqrt();
        key.iter_mut().for_each(|x| *x /= len);
        let value = numbers(STATE_COLUMNS, 2);
        for isa in Isa::all() {
            let mut state = numbers(key_dim * STATE_COLUMNS, 3);
            let mut out = [0.0; STATE_COLUMNS];
            let step = DeltaStep {
                query: &key,
                key: &key,
                value: &value,
                kept: 0.5,
                learned: 1.0,
            };
            take_step(isa, &mut state, step, &mut out);
            for (found, expected) in out.iter().zip(&value) {
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{}: {found}, {expected}",
                    isa.name()
                );
            }
        }
    }

    #[test]
    fn a_state_fades() {
        for isa in Isa::all() {
            let before = numbers(2 * STATE_COLUMNS, 3);
            let (mut state, mut out) = (before.clone(), [0.0; STATE_COLUMNS]);
            let step = DeltaStep {
                query: &[1.0, 0.0],
                key: &[0.0, 1.0],
                value: &[5.0; STATE_COLUMNS],
                kept: 0.25,
                learned: 0.0,
            };
            take_step(isa, &mut state, step, &mut out);
            for (after, before) in state.iter().zip(&before) {
                assert_eq!(*after, 0.25 * before, "{}", isa.name());
            }
            assert_eq!(out, state[..STATE_COLUMNS], "{}", isa.name());
        }
    }

    #[test]
    fn gates_stay_between_nothing_and_all() {
        assert_eq!(gates(0.0, 0.0, -0.0, 0.0), (1.0, 0.5));
        assert_eq!(gates(1e30, 100.0, -1.0, 0.0), (0.0, 1.0));
        let (kept, learned) = gates(-1.0, -2.0, -2.0, 1.0);
        assert!((kept - 0.25).abs() < 1e-6, "{kept}");
        assert!((learned - 0.119_202_92).abs() < 1e-6, "{learned}");
    }
}
