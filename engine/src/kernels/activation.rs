//! What stands between the two products of a feed-forward layer, and the norm that subtracts the mean.

use super::{
    Isa,
    float::{dot, exp, sum},
    norm::swiglu,
};
use crate::model::Activation;

/// Lanes of a sum, as in [`sum`].
const LANES: usize = 8;

/// `gate = activation(gate, up)`, both of one length; `up` is not read where the activation has no gate.
pub(crate) fn activate(isa: Isa, activation: Activation, gate: &mut [f32], up: &[f32]) {
    if activation == Activation::SwiGlu {
        return swiglu(isa, gate, up);
    }
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `super::Kind::Avx2` is only made where the instructions were detected.
        super::Kind::Avx2(_) => unsafe { activate_avx2(activation, gate, up) },
        _ => activate_generic::<false>(activation, gate, up),
    }
}

/// `x = limit * tanh(x / limit)`.
pub(crate) fn cap(isa: Isa, numbers: &mut [f32], limit: f32) {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        super::Kind::Avx2(_) => unsafe { cap_avx2(numbers, limit) },
        _ => cap_generic::<false>(numbers, limit),
    }
}

/// `x = x * sigmoid(gate)`, both of one length.
pub(crate) fn multiply_by_sigmoid(isa: Isa, x: &mut [f32], gate: &[f32]) {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        super::Kind::Avx2(_) => unsafe { multiply_by_sigmoid_avx2(x, gate) },
        _ => multiply_by_sigmoid_generic::<false>(x, gate),
    }
}

/// `out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias`, all of one length.
pub(crate) fn layer_norm(isa: Isa, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        super::Kind::Avx2(_) => unsafe { layer_norm_avx2(x, weight, bias, eps, out) },
        _ => layer_norm_generic::<false>(x, weight, bias, eps, out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn activate_avx2(activation: Activation, gate: &mut [f32], up: &[f32]) {
    activate_generic::<true>(activation, gate, up);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn cap_avx2(numbers: &mut [f32], limit: f32) {
    cap_generic::<true>(numbers, limit);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_by_sigmoid_avx2(x: &mut [f32], gate: &[f32]) {
    multiply_by_sigmoid_generic::<true>(x, gate);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn layer_norm_avx2(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    layer_norm_generic::<true>(x, weight, bias, eps, out);
}

#[inline(always)]
fn activate_generic<const FMA: bool>(activation: Activation, gate: &mut [f32], up: &[f32]) {
    match activation {
        Activation::SwiGlu => {
            for (gate, up) in gate.iter_mut().zip(up) {
                *gate = *gate * sigmoid::<FMA>(*gate) * up;
            }
        }
        Activation::GeGlu => {
            for (gate, up) in gate.iter_mut().zip(up) {
                *gate = gelu::<FMA>(*gate) * up;
            }
        }
        Activation::Gelu => gate.iter_mut().for_each(|x| *x = gelu::<FMA>(*x)),
        Activation::ClampedSwiGlu { limit } => {
            for (gate, up) in gate.iter_mut().zip(up) {
                let (bounded, up) = (gate.min(limit), up.clamp(-limit, limit));
                // `min` passes over NaN, which has to show in the logits.
                let bounded = if gate.is_nan() { *gate } else { bounded };
                *gate = bounded * sigmoid::<FMA>(1.702 * bounded) * (up + 1.0);
            }
        }
    }
}

/// As [`cap`], with `tanh z = 2 sigmoid(2 z) - 1`.
#[inline(always)]
pub(super) fn cap_generic<const FMA: bool>(numbers: &mut [f32], limit: f32) {
    for x in numbers {
        *x = limit * (2.0 * sigmoid::<FMA>(2.0 * *x / limit) - 1.0);
    }
}

#[inline(always)]
fn multiply_by_sigmoid_generic<const FMA: bool>(x: &mut [f32], gate: &[f32]) {
    for (x, gate) in x.iter_mut().zip(gate) {
        *x *= sigmoid::<FMA>(*gate);
    }
}

#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel 2016), with `(1 + tanh z) / 2 = sigmoid(2 z)`.
#[inline(always)]
fn gelu<const FMA: bool>(x: f32) -> f32 {
    /// 2 sqrt(2 / pi)
    const SLOPE: f32 = 1.595_769;
    x * sigmoid::<FMA>(SLOPE * (x + 0.044_715 * x * x * x))
}

#[inline(always)]
fn layer_norm_generic<const FMA: bool>(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let (whole, rest) = x.split_at(x.len() / LANES * LANES);
    let mean = (sum(whole) + rest.iter().sum::<f32>()) / n;
    for (out, x) in out.iter_mut().zip(x) {
        *out = x - mean;
    }
    let scale = 1.0 / (dot::<FMA>(out, out) / n + eps).sqrt();
    for ((out, weight), bias) in out.iter_mut().zip(weight).zip(bias) {
        *out = *out * scale * weight + bias;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_are_what_their_formulas_say() {
        let gates: Vec<f32> = (-80..80).map(|i| i as f32 / 8.0).collect();
        let ups: Vec<f32> = gates.iter().map(|gate| 9.0 - 1.5 * gate).collect();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let gelu = |x: f64| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        };
        for isa in Isa::all() {
            for activation in [
                Activation::SwiGlu,
                Activation::GeGlu,
                Activation::Gelu,
                Activation::ClampedSwiGlu { limit: 7.0 },
            ] {
                let mut found = gates.clone();
                activate(isa, activation, &mut found, &ups);
                for ((&gate, &up), found) in gates.iter().zip(&ups).zip(found) {
                    let (gate, up) = (f64::from(gate), f64::from(up));
                    let expected = match activation {
                        Activation::SwiGlu => gate * sigmoid(gate) * up,
                        Activation::GeGlu => gelu(gate) * up,
                        Activation::Gelu => gelu(gate),
                        Activation::ClampedSwiGlu { .. } => {
                            let gate = gate.min(7.0);
                            gate * sigmoid(1.702 * gate) * (up.clamp(-7.0, 7.0) + 1.0)
                        }
                    };
                    let error = (f64::from(found) - expected).abs();
                    assert!(
                        error < 1e-5 * (1.0 + expected.abs()),
                        "{activation:?} of {gate}, {up}: {found}, {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_number_that_is_none_survives_the_clamp() {
        for isa in Isa::all() {
            let mut gate = [f32::NAN; 8];
            activate(
                isa,
                Activation::ClampedSwiGlu { limit: 7.0 },
                &mut gate,
                &[1.0; 8],
            );
            assert!(gate.iter().all(|it| it.is_nan()));
        }
    }

    #[test]
    fn capped_numbers_come_near_the_limit() {
        for isa in Isa::all() {
            let mut numbers: Vec<f32> = (-50..50).map(|i| i as f32 * 3.0).collect();
            let expected: Vec<f32> = numbers.iter().map(|x| 30.0 * (x / 30.0).tanh()).collect();
            cap(isa, &mut numbers, 30.0);
            for (found, expected) in numbers.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5, "{found}, {expected}");
            }
        }
    }

    #[test]
    fn layer_norm_has_mean_of_bias() {
        let x: Vec<f32> = (0..19).map(|i| 100.0 + i as f32).collect();
        for isa in Isa::all() {
            let mut out = [0.0; 19];
            layer_norm(isa, &x, &[2.0; 19], &[0.5; 19], 1e-5, &mut out);
            let mean = out.iter().sum::<f32>() / 19.0;
            let variance = out.iter().map(|it| (it - mean).powi(2)).sum::<f32>() / 19.0;
            assert!(
                (mean - 0.5).abs() < 1e-5 && (variance - 4.0).abs() < 1e-4,
                "{mean}, {variance}"
            );
        }
    }
}
