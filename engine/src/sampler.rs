//! The sampler: one token from one row of logits, greedy or seeded, with the probability the target gave it.

use std::sync::Arc;

use crate::{
    copy::{CopyMixer, CopyPredictor},
    error::EngineError,
    grammar::GrammarMatcher,
    healing::Healing,
    kernels::{Isa, float::exp},
    logits::{Candidate, History, LogitsProcessor, best_first, max_logit, processors, weight},
    request::SamplingParams,
    tokenizer::Tokenizer,
};

/// Picks the tokens of one sequence.
///
/// The random number behind the n-th generated token is a function of the seed and n alone. So rejected drafts
/// use none up, and the same seed gives the same text with and without speculation, at any batch size.
pub struct Sampler {
    processors: Vec<Box<dyn LogitsProcessor>>,
    is_greedy: bool,
    seed: u64,
    copy: Option<CopyMixer>,
    healing: Option<(Healing, Arc<Tokenizer>)>,
    grammar: Option<GrammarMatcher>,
    /// Scores without those of tokens that healing or a grammar rules out. Kept between calls for its memory.
    allowed: Vec<f32>,
    /// Kept between calls for its memory.
    candidates: Vec<Candidate>,
}

/// A picked token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PickedToken {
    /// Token id.
    pub id: u32,
    /// Log softmax of the raw logits at `id` over the tokens that may follow, copying mixed in, before any processor.
    pub logprob: f32,
}

impl Sampler {
    /// Makes a sampler.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] names the parameter that is out of range.
    pub fn new(params: &SamplingParams) -> Result<Self, EngineError> {
        check("temperature", params.temperature, 0.0..=f32::MAX)?;
        check("top_p", params.top_p, 0.0..=1.0)?;
        check("min_p", params.min_p, 0.0..=1.0)?;
        check(
            "repetition_penalty",
            params.repetition_penalty,
            f32::MIN_POSITIVE..=f32::MAX,
        )?;
        check("presence_penalty", params.presence_penalty, f32::MIN..=f32::MAX)?;
        Ok(Self {
            processors: processors(params),
            is_greedy: params.temperature == 0.0,
            seed: params.seed,
            copy: None,
            healing: None,
            grammar: None,
            allowed: Vec::new(),
            candidates: Vec::new(),
        })
    }

    /// From now on picks from the mixture of the logits with what `predictor` copies.
    pub fn mix_copy(&mut self, predictor: CopyPredictor) {
        self.copy = Some(CopyMixer::new(predictor));
    }

    /// Lets the first tokens spell what was taken from the prompt.
    pub fn heal(&mut self, healing: Healing, tokenizer: Arc<Tokenizer>) {
        self.healing = Some((healing, tokenizer));
    }

    /// From now on picks only what lets the answer have the form of a grammar.
    pub(crate) fn follow(&mut self, grammar: GrammarMatcher) {
        self.grammar = Some(grammar);
    }

    /// Picks the token that follows `history` from its `logits`, `(vocab,)`. Among equals, greedy picking takes
    /// the lowest id.
    ///
    /// # Errors
    /// [`EngineError::BadLogits`] if they hold a NaN or positive infinity, or nothing else than negative infinity;
    /// [`EngineError::Grammar`] if a grammar cannot be followed further.
    pub fn pick(&mut self, logits: &[f32], history: History<'_>) -> Result<PickedToken, EngineError> {
        let mut allowed = std::mem::take(&mut self.allowed);
        let picked = match self.rule_out(logits, history, &mut allowed) {
            Ok(true) => self.pick_allowed(&allowed, history),
            Ok(false) => self.pick_allowed(logits, history),
            Err(error) => Err(error),
        };
        self.allowed = allowed;
        picked
    }

    /// Copies `logits` without those of tokens that a grammar does not allow, or that do not spell what was taken from the
    /// prompt; false if all may follow.
    fn rule_out(
        &mut self,
        logits: &[f32],
        history: History<'_>,
        allowed: &mut Vec<f32>,
    ) -> Result<bool, EngineError> {
        let generated = &history.tokens[history.prompt_len..];
        if let Some(grammar) = &mut self.grammar {
            grammar.rule_out(generated, logits, allowed)?;
            return Ok(true);
        }
        let Some((healing, tokenizer)) = &self.healing else {
            return Ok(false);
        };
        let left = healing.left(tokenizer, generated);
        if left.is_empty() {
            return Ok(false);
        }
        let spells = |id: u32| healing.allows(tokenizer, left, id);
        allowed.clear();
        allowed.extend(
            logits
                .iter()
                .zip(0..)
                .map(|(&logit, id)| if spells(id) { logit } else { f32::NEG_INFINITY }),
        );
        // A vocabulary that cannot spell it is no reason to say nothing.
        Ok(allowed.iter().any(|it| *it > f32::NEG_INFINITY))
    }

    fn pick_allowed(&mut self, logits: &[f32], history: History<'_>) -> Result<PickedToken, EngineError> {
        let (best, log_total) = log_sum_exp(logits);
        if !log_total.is_finite() {
            return Err(EngineError::BadLogits {
                position: history.tokens.len(),
            });
        }
        let log_total = match &mut self.copy {
            Some(copy) => copy.mix(logits, best, log_total, history.tokens),
            None => log_total,
        };
        let id = if self.is_greedy && self.processors.is_empty() {
            self.best_raised(best)
                .unwrap_or_else(|| first_position(logits, best))
        } else {
            self.pick_processed(logits, history)
        };
        let raised = self.raised().iter().find(|it| it.id == id);
        let logit = raised.map_or(logits[id as usize], |it| it.logit);
        Ok(PickedToken {
            id,
            logprob: logit - log_total,
        })
    }

    /// Scores that copying has changed.
    fn raised(&self) -> &[Candidate] {
        self.copy.as_ref().map_or(&[], CopyMixer::raised)
    }

    /// The token that copying has raised above `best`, the best score without it.
    fn best_raised(&self, best: f32) -> Option<u32> {
        let above = self.raised().iter().filter(|it| it.logit > best);
        above.min_by(|a, b| best_first(a, b)).map(|it| it.id)
    }

    fn pick_processed(&mut self, logits: &[f32], history: History<'_>) -> u32 {
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates.extend(logits.iter().zip(0..).map(|(&logit, id)| Candidate { id, logit }));
        for &raised in self.copy.iter().flat_map(CopyMixer::raised) {
            candidates[raised.id as usize] = raised;
        }
        for processor in &mut self.processors {
            processor.process(history, candidates);
        }
        let best = max_logit(candidates);
        let first_best = candidates
            .iter()
            .find(|it| it.logit == best)
            .map_or(0, |it| it.id);
        if self.is_greedy {
            return first_best;
        }
        let total: f64 = candidates.iter().map(|it| weight(it.logit, best)).sum();
        let n_generated = history.tokens.len() - history.prompt_len;
        let mut left = uniform(self.seed, n_generated as u64) * total;
        for candidate in candidates.iter() {
            let weight = weight(candidate.logit, best);
            if left < weight {
                return candidate.id;
            }
            left -= weight;
        }
        // Rounding can leave a crumb after the last candidate.
        first_best
    }
}

fn check(name: &str, value: f32, range: std::ops::RangeInclusive<f32>) -> Result<(), EngineError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(EngineError::BadRequest(format!(
        "`{name}` is {value}, expected {:e} to {:e}",
        range.start(),
        range.end()
    )))
}

/// A number in `[0, 1)` for `(seed, index)`: SplitMix64 (Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom
/// Number Generators", §5) with its counter as the index; the top 53 bits become the fraction.
pub(crate) fn uniform(seed: u64, index: u64) -> f64 {
    // The seed is mixed first: neighbouring seeds must not give shifted copies of one stream.
    let bits = split_mix(split_mix(seed).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// SplitMix64's step and output function.
pub(crate) fn split_mix(state: u64) -> u64 {
    let mut bits = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Numbers worked on side by side, so that the compiler uses vector instructions.
const LANES: usize = 16;

/// The best of `logits`, and the logarithm of the sum of their exponentials. The latter is not finite if one of them
/// is NaN or positive infinity, or all are negative infinity.
fn log_sum_exp(logits: &[f32]) -> (f32, f32) {
    match Isa::detect().0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: detection found the instructions that the function is compiled for.
        crate::kernels::Kind::Avx2(_) => unsafe { log_sum_exp_avx2(logits) },
        _ => log_sum_exp_generic::<false>(logits),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn log_sum_exp_avx2(logits: &[f32]) -> (f32, f32) {
    log_sum_exp_generic::<true>(logits)
}

#[inline(always)]
fn log_sum_exp_generic<const FMA: bool>(logits: &[f32]) -> (f32, f32) {
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    let best = lanes
        .iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |best, &logit| best.max(logit));
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane += exp::<FMA>(logit - best);
        }
    }
    let total = lanes.iter().sum::<f32>() + rest.iter().map(|&logit| exp::<FMA>(logit - best)).sum::<f32>();
    (best, best + total.ln())
}

fn first_position(logits: &[f32], value: f32) -> u32 {
    let chunk_idx = logits
        .chunks(LANES)
        .position(|chunk| chunk.contains(&value))
        .unwrap_or(0);
    let start = chunk_idx * LANES;
    let within = logits[start..].iter().position(|&logit| logit == value);
    (start + within.unwrap_or(0)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_HISTORY: History<'_> = History {
        tokens: &[],
        prompt_len: 0,
    };

    fn pick(params: SamplingParams, logits: &[f32]) -> Result<PickedToken, EngineError> {
        Sampler::new(&params)?.pick(logits, NO_HISTORY)
    }

    #[test]
    fn greedy_takes_the_best_and_the_lowest_among_equals() {
        for n in [1, 15, 16, 17, 40, 1000] {
            for best in [0, n / 2, n - 1] {
                let mut logits = vec![-1.0; n];
                logits[best] = 2.0;
                logits[n - 1] = 2.0;
                assert_eq!(pick(SamplingParams::default(), &logits).unwrap().id, best as u32);
            }
        }
    }

    #[test]
    fn logprobs_are_those_of_the_softmax() {
        let logits: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.7).sin() * 20.0).collect();
        let total: f64 = logits.iter().map(|&it| f64::from(it).exp()).sum();
        let picked = pick(SamplingParams::default(), &logits).unwrap();
        let expected = f64::from(logits[picked.id as usize]) - total.ln();
        assert!(
            (f64::from(picked.logprob) - expected).abs() < 1e-5,
            "{picked:?} {expected}"
        );
    }

    #[test]
    fn numbers_that_are_none_are_an_error() {
        let sampled = SamplingParams {
            temperature: 1.0,
            ..Default::default()
        };
        for bad in [f32::NAN, f32::INFINITY] {
            for at in [0, 20, 39] {
                let mut logits = vec![0.0; 40];
                logits[at] = bad;
                for params in [SamplingParams::default(), sampled.clone()] {
                    let outcome = pick(params, &logits);
                    assert!(
                        matches!(outcome, Err(EngineError::BadLogits { position: 0 })),
                        "{outcome:?}"
                    );
                }
            }
        }
        assert!(pick(sampled.clone(), &[f32::NEG_INFINITY; 3]).is_err());
        assert_eq!(
            pick(sampled, &[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY])
                .unwrap()
                .id,
            1
        );
    }

    #[test]
    fn parameters_out_of_range_are_named() {
        let outcome = Sampler::new(&SamplingParams {
            top_p: 1.5,
            ..Default::default()
        });
        assert!(matches!(outcome, Err(EngineError::BadRequest(text)) if text.contains("top_p")));
        assert!(
            Sampler::new(&SamplingParams {
                temperature: f32::NAN,
                ..Default::default()
            })
            .is_err()
        );
        assert!(
            Sampler::new(&SamplingParams {
                repetition_penalty: 0.0,
                ..Default::default()
            })
            .is_err()
        );
    }

    #[test]
    fn uniform_numbers_fill_the_interval() {
        let n = 100_000;
        for seed in [0, 1, 2, u64::MAX] {
            let mean = (0..n).map(|i| uniform(seed, i)).sum::<f64>() / n as f64;
            assert!((mean - 0.5).abs() < 0.005, "seed {seed}: mean {mean}");
        }
        assert_ne!(uniform(0, 1), uniform(1, 0));
    }
}
