//! Rotary embeddings: how fast each pair of a head turns, with the ways to stretch them over longer contexts.
//!
//! Su et al. 2021, "RoFormer". All of this happens once, when a model is loaded; the rotation itself is a kernel.

use std::f64::consts::TAU;

/// Which two numbers of a head form one rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairing {
    /// `(0, 1), (2, 3), ...`: Llama's GGUF files, whose rows were permuted when they were converted.
    Adjacent,
    /// `(0, d/2), (1, d/2 + 1), ...`: everybody else, as GPT-NeoX does it.
    Halves,
}

/// How the heads of some layers are rotated.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Which numbers are rotated together.
    pub pairing: RopePairing,
    /// Radians per position of each pair; the numbers of a head beyond these pairs stay as they are.
    pub frequencies: Vec<f32>,
    /// Multiplies the rotated pairs; 1 but for some stretched embeddings.
    pub amplitude: f32,
    /// What turns in place of `frequencies` where no sequence is longer than the first training's, if that is something else.
    pub unstretched: Option<Unstretched>,
}

/// The frequencies of sequences within the context of the first training.
#[derive(Debug, Clone, PartialEq)]
pub struct Unstretched {
    /// Positions of the first training.
    pub original: usize,
    /// As [`Rope::frequencies`].
    pub frequencies: Vec<f32>,
}

/// How a file says that frequencies are changed for contexts longer than those of the first training.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// Positions are divided by this (Chen et al. 2023, "Extending Context Window ... via Positional Interpolation").
    Linear(f32),
    /// Each pair's frequency is divided by its own factor: llama.cpp's tensor `rope_freqs.weight`.
    Factors(Vec<f32>),
    /// Llama 3.1: slow pairs are divided by `factor`, fast ones stay, those between are mixed.
    Llama3 {
        /// What slow pairs are divided by.
        factor: f32,
        /// Turns within `original` positions below which a pair is slow.
        low: f32,
        /// Turns within `original` positions above which a pair is fast.
        high: f32,
        /// Positions of the first training.
        original: usize,
    },
    /// Peng et al. 2023, "YaRN".
    Yarn {
        /// What slow pairs are divided by.
        factor: f32,
        /// Turns within `original` positions above which a pair stays.
        beta_fast: f32,
        /// Turns within `original` positions below which a pair is wholly divided.
        beta_slow: f32,
        /// Positions of the first training.
        original: usize,
        /// Whether the borders between fast and slow pairs are rounded to whole pairs.
        truncate: bool,
        /// Amplitude, where the file has its own.
        amplitude: Option<f32>,
    },
    /// Gemma 4: only the first pairs turn, as slowly as if all did.
    Proportional {
        /// Pairs that turn, of all.
        share: f32,
        /// What frequencies are divided by.
        factor: f32,
    },
    /// Phi-3: factors of each pair, one list for contexts up to `original` and one for longer ones (Ding et al. 2024,
    /// "LongRoPE").
    LongRope {
        /// Divisors within the first training's context.
        short: Vec<f32>,
        /// Divisors beyond it.
        long: Vec<f32>,
        /// Positions of the first training.
        original: usize,
        /// Amplitude, where the file has its own.
        amplitude: Option<f32>,
    },
}

impl Rope {
    /// Frequencies `theta^(-2i / n_dims)`, changed by `scaling` for a context of `context_length` positions.
    ///
    /// # Errors
    /// A sentence about numbers in `scaling` that cannot be used.
    pub fn new(
        pairing: RopePairing,
        theta: f32,
        n_dims: usize,
        scaling: &RopeScaling,
        context_length: usize,
    ) -> Result<Self, String> {
        let exponent = |pair: usize| -2.0 * pair as f64 / n_dims as f64;
        let plain: Vec<f64> = (0..n_dims / 2)
            .map(|pair| f64::from(theta).powf(exponent(pair)))
            .collect();
        let narrow = |it: Vec<f64>| -> Vec<f32> { it.into_iter().map(|it| it as f32).collect() };
        let unstretched = match scaling {
            RopeScaling::LongRope { original, .. } if context_length > *original => {
                let (frequencies, _) = scaling.apply(plain.clone(), f64::from(theta), *original)?;
                Some(Unstretched {
                    original: *original,
                    frequencies: narrow(frequencies),
                })
            }
            _ => None,
        };
        let (frequencies, amplitude) = scaling.apply(plain, f64::from(theta), context_length)?;
        let frequencies = narrow(frequencies);
        let is_usable = |number: f32| number.is_finite() && number > 0.0;
        let may_stand_still = matches!(scaling, RopeScaling::Proportional { .. });
        let is_bad = |number: f32| !(is_usable(number) || may_stand_still && number == 0.0);
        let all = frequencies
            .iter()
            .chain(unstretched.iter().flat_map(|it| &it.frequencies));
        match all.copied().find(|it| is_bad(*it)) {
            Some(frequency) => Err(format!("a frequency of {frequency} comes out")),
            None if !is_usable(amplitude as f32) => Err(format!("an amplitude of {amplitude} comes out")),
            None => Ok(Self {
                pairing,
                frequencies,
                amplitude: amplitude as f32,
                unstretched,
            }),
        }
    }

    /// Takes the frequencies for sequences of at most `n_positions`.
    pub fn run_within(&mut self, n_positions: usize) {
        if let Some(unstretched) = self.unstretched.take_if(|it| n_positions <= it.original) {
            self.frequencies = unstretched.frequencies;
        }
    }
}

impl RopeScaling {
    /// The changed frequencies, and the amplitude.
    fn apply(
        &self,
        frequencies: Vec<f64>,
        theta: f64,
        context_length: usize,
    ) -> Result<(Vec<f64>, f64), String> {
        let divided_by_each = |factors: &[f32]| -> Result<Vec<f64>, String> {
            if factors.len() != frequencies.len() {
                let (found, expected) = (factors.len(), frequencies.len());
                return Err(format!("{found} factors found, {expected} expected"));
            }
            let pairs = frequencies.iter().zip(factors);
            Ok(pairs.map(|(it, factor)| it / f64::from(*factor)).collect())
        };
        Ok(match self {
            Self::None => (frequencies, 1.0),
            Self::Linear(factor) => {
                let factor = f64::from(*factor);
                (frequencies.into_iter().map(|it| it / factor).collect(), 1.0)
            }
            Self::Factors(factors) => (divided_by_each(factors)?, 1.0),
            &Self::Proportional { share, factor } => {
                let n_turning = (frequencies.len() as f32 * share) as usize;
                let turning = frequencies
                    .iter()
                    .map(|it| it / f64::from(factor))
                    .take(n_turning);
                let still = std::iter::repeat_n(0.0, frequencies.len() - n_turning.min(frequencies.len()));
                (turning.chain(still).collect(), 1.0)
            }
            &Self::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                let scaled = frequencies.into_iter().map(|frequency| {
                    let turns = original as f64 * frequency / TAU;
                    // 0 for slow pairs, 1 for fast ones.
                    let kept = ((turns - f64::from(low)) / f64::from(high - low)).clamp(0.0, 1.0);
                    frequency * (kept + (1.0 - kept) / f64::from(factor))
                });
                (scaled.collect(), 1.0)
            }
            &Self::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original,
                truncate,
                amplitude,
            } => {
                let n_pairs = frequencies.len() as f64;
                // The pair that turns so often within the first training's context.
                let pair_of =
                    |n_turns: f32| n_pairs * (original as f64 / (f64::from(n_turns) * TAU)).ln() / theta.ln();
                let (mut first, mut last) = (pair_of(beta_fast), pair_of(beta_slow));
                if truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                let (first, last) = (first.max(0.0), last.min(2.0 * n_pairs - 1.0));
                let width = if last > first { last - first } else { 1e-3 };
                let factor = f64::from(factor);
                let scaled = frequencies.into_iter().enumerate().map(|(pair, frequency)| {
                    let divided = ((pair as f64 - first) / width).clamp(0.0, 1.0);
                    frequency * (1.0 - divided + divided / factor)
                });
                let usual = if factor > 1.0 {
                    0.1 * factor.ln() + 1.0
                } else {
                    1.0
                };
                (scaled.collect(), amplitude.map_or(usual, f64::from))
            }
            Self::LongRope {
                short,
                long,
                original,
                amplitude,
            } => {
                let stretch = context_length as f64 / *original as f64;
                let usual = if stretch > 1.0 {
                    (1.0 + stretch.ln() / (*original as f64).ln()).sqrt()
                } else {
                    1.0
                };
                let factors = if context_length > *original { long } else { short };
                (divided_by_each(factors)?, amplitude.map_or(usual, f64::from))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(scaling: RopeScaling) -> Rope {
        Rope::new(RopePairing::Halves, 10_000.0, 8, &scaling, 4096).unwrap()
    }

    #[test]
    fn frequencies_fall_from_one() {
        let rope = scaled(RopeScaling::None);
        assert_eq!(rope.frequencies, [1.0, 0.1, 0.01, 0.001]);
        assert_eq!(rope.amplitude, 1.0);
        assert_eq!(scaled(RopeScaling::Linear(4.0)).frequencies[1], 0.025);
    }

    #[test]
    fn long_contexts_take_the_long_factors() {
        let scaling = RopeScaling::LongRope {
            short: vec![1.0; 4],
            long: vec![2.0; 4],
            original: 2048,
            amplitude: None,
        };
        let long = scaled(scaling.clone());
        assert_eq!(long.frequencies[0], 0.5);
        for (n_positions, expected) in [(2049, 0.5), (2048, 1.0)] {
            let mut rope = long.clone();
            rope.run_within(n_positions);
            assert_eq!((rope.frequencies[0], rope.amplitude), (expected, long.amplitude));
        }
        let short = Rope::new(RopePairing::Halves, 10_000.0, 8, &scaling, 2048).unwrap();
        assert_eq!((short.frequencies[0], short.amplitude), (1.0, 1.0));
    }

    #[test]
    fn numbers_that_cannot_be_used_are_refused() {
        let error = |scaling| Rope::new(RopePairing::Halves, 10_000.0, 8, &scaling, 64).unwrap_err();
        assert_eq!(
            error(RopeScaling::Factors(vec![1.0; 3])),
            "3 factors found, 4 expected"
        );
        assert_eq!(error(RopeScaling::Linear(0.0)), "a frequency of inf comes out");
        assert_eq!(
            error(RopeScaling::Factors(vec![1.0, f32::NAN, 1.0, 1.0])),
            "a frequency of NaN comes out"
        );
    }
}
