//! Logits processors: each edits the scores or drops tokens, in a fixed order, before the sampler picks.
//!
//! The order is that of Hugging Face `transformers`: penalties, temperature, top-k, top-p, min-p. A processor
//! is a function of the tokens so far and the scores alone, so that a verified draft row is processed exactly
//! as it would have been without drafts.

use std::cmp::Ordering;

use crate::{kernels::float::exp, request::SamplingParams};

/// A token that may still be picked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Token id.
    pub id: u32,
    /// Its score; negative infinity forbids it.
    pub logit: f32,
}

/// The tokens of a sequence before the one to pick.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    /// Prompt and generated tokens. Between calls for one sequence it only grows.
    pub tokens: &'a [u32],
    /// How many of them are the prompt.
    pub prompt_len: usize,
}

/// Edits the scores of the next token.
pub trait LogitsProcessor: Send {
    /// Changes scores or removes candidates, and leaves at least one.
    ///
    /// Processors that look candidates up by id stand before those that remove or reorder them: until then
    /// `candidates[i].id == i`.
    fn process(&mut self, history: History<'_>, candidates: &mut Vec<Candidate>);
}

/// The processors that `params` ask for, in order. Greedy picking needs no more than the penalties, because
/// the others keep the most probable token where it is.
pub fn processors(params: &SamplingParams) -> Vec<Box<dyn LogitsProcessor>> {
    let mut processors: Vec<Box<dyn LogitsProcessor>> = Vec::new();
    if params.repetition_penalty != 1.0 {
        processors.push(Box::new(RepetitionPenalty {
            penalty: params.repetition_penalty,
            seen: SeenTokens::default(),
        }));
    }
    if params.presence_penalty != 0.0 {
        processors.push(Box::new(PresencePenalty {
            penalty: params.presence_penalty,
            seen: SeenTokens::default(),
        }));
    }
    if params.temperature == 0.0 {
        return processors;
    }
    if params.temperature != 1.0 {
        processors.push(Box::new(Temperature(params.temperature)));
    }
    if params.top_k > 0 {
        processors.push(Box::new(TopK(params.top_k)));
    }
    if params.top_p < 1.0 {
        processors.push(Box::new(TopP(params.top_p)));
    }
    if params.min_p > 0.0 {
        processors.push(Box::new(MinP(params.min_p)));
    }
    processors
}

/// Makes every token already seen, prompt included, less likely by a factor (Keskar et al. 2019, "CTRL", §4.1).
struct RepetitionPenalty {
    penalty: f32,
    seen: SeenTokens,
}

impl LogitsProcessor for RepetitionPenalty {
    fn process(&mut self, history: History<'_>, candidates: &mut Vec<Candidate>) {
        self.seen.edit(history.tokens, candidates, |logit| {
            if *logit > 0.0 {
                *logit /= self.penalty;
            } else {
                *logit *= self.penalty;
            }
        });
    }
}

/// Subtracts a constant from the score of every token already generated, as the OpenAI API defines it.
struct PresencePenalty {
    penalty: f32,
    seen: SeenTokens,
}

impl LogitsProcessor for PresencePenalty {
    fn process(&mut self, history: History<'_>, candidates: &mut Vec<Candidate>) {
        let generated = &history.tokens[history.prompt_len..];
        self.seen
            .edit(generated, candidates, |logit| *logit -= self.penalty);
    }
}

/// Divides the scores, after moving the best one to 0 so that no temperature overflows.
struct Temperature(f32);

impl LogitsProcessor for Temperature {
    fn process(&mut self, _: History<'_>, candidates: &mut Vec<Candidate>) {
        let best = max_logit(candidates);
        for candidate in candidates {
            candidate.logit = (candidate.logit - best) / self.0;
        }
    }
}

/// Keeps the `k` best candidates (Fan et al. 2018, "Hierarchical Neural Story Generation", §5.4); among equals
/// the lowest ids.
struct TopK(usize);

impl LogitsProcessor for TopK {
    fn process(&mut self, _: History<'_>, candidates: &mut Vec<Candidate>) {
        sort_best(candidates, self.0);
        candidates.truncate(self.0);
    }
}

/// Keeps the fewest best candidates whose probabilities add up to `p` (Holtzman et al. 2020, "The Curious Case
/// of Neural Text Degeneration", §3.1).
struct TopP(f32);

impl LogitsProcessor for TopP {
    fn process(&mut self, _: History<'_>, candidates: &mut Vec<Candidate>) {
        let best = max_logit(candidates);
        let total: f64 = candidates.iter().map(|it| weight(it.logit, best)).sum();
        let wanted = f64::from(self.0) * total;
        // A vocabulary is long and its nucleus short: sort only as much as is needed.
        let mut n_sorted = 64;
        loop {
            n_sorted = n_sorted.min(candidates.len());
            sort_best(candidates, n_sorted);
            let mut reached = 0.0;
            let kept = candidates[..n_sorted].iter().position(|it| {
                reached += weight(it.logit, best);
                reached >= wanted
            });
            if let Some(last) = kept {
                return candidates.truncate(last + 1);
            }
            if n_sorted == candidates.len() {
                return;
            }
            n_sorted *= 8;
        }
    }
}

/// Drops candidates less probable than a share of the best one (Nguyen et al. 2024, "Turning Up the Heat:
/// Min-p Sampling", §3).
struct MinP(f32);

impl LogitsProcessor for MinP {
    fn process(&mut self, _: History<'_>, candidates: &mut Vec<Candidate>) {
        let threshold = max_logit(candidates) + self.0.ln();
        candidates.retain(|it| it.logit >= threshold);
    }
}

/// The distinct tokens of a growing history.
#[derive(Default)]
struct SeenTokens {
    distinct: Vec<u32>,
    /// One bit per token id.
    bits: Vec<u64>,
    n_read: usize,
}

impl SeenTokens {
    /// Edits the score of every candidate that occurs in `history`, of which earlier calls have read a prefix.
    fn edit(&mut self, history: &[u32], candidates: &mut [Candidate], edit: impl Fn(&mut f32)) {
        for &token in &history[self.n_read..] {
            let (word, bit) = (token as usize / 64, 1u64 << (token % 64));
            if word >= self.bits.len() {
                self.bits.resize(word + 1, 0);
            }
            if self.bits[word] & bit == 0 {
                self.bits[word] |= bit;
                self.distinct.push(token);
            }
        }
        self.n_read = history.len();
        for &id in &self.distinct {
            if let Some(candidate) = candidates.get_mut(id as usize) {
                edit(&mut candidate.logit);
            }
        }
    }
}

/// Sorts the `n` best candidates to the front, best first.
fn sort_best(candidates: &mut [Candidate], n: usize) {
    if n < candidates.len() {
        candidates.select_nth_unstable_by(n, best_first);
    }
    let n = n.min(candidates.len());
    candidates[..n].sort_unstable_by(best_first);
}

/// A total order, so that the outcome never depends on the sorting algorithm.
pub(crate) fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

pub(crate) fn max_logit(candidates: &[Candidate]) -> f32 {
    candidates
        .iter()
        .fold(f32::NEG_INFINITY, |best, it| best.max(it.logit))
}

/// Probability relative to that of the best candidate.
#[inline]
pub(crate) fn weight(logit: f32, best: f32) -> f64 {
    f64::from(exp::<false>(logit - best))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(params: &SamplingParams, tokens: &[u32], prompt_len: usize, logits: &[f32]) -> Vec<(u32, f32)> {
        let mut candidates: Vec<Candidate> = logits
            .iter()
            .zip(0..)
            .map(|(&logit, id)| Candidate { id, logit })
            .collect();
        for mut processor in processors(params) {
            processor.process(History { tokens, prompt_len }, &mut candidates);
        }
        candidates.sort_by_key(|it| it.id);
        candidates.iter().map(|it| (it.id, it.logit)).collect()
    }

    #[test]
    fn penalties_touch_only_what_was_seen() {
        let repetition = SamplingParams {
            repetition_penalty: 2.0,
            ..Default::default()
        };
        assert_eq!(
            kept(&repetition, &[3, 0, 3], 3, &[4.0, 4.0, -1.0, -1.0]),
            [(0, 2.0), (1, 4.0), (2, -1.0), (3, -2.0)]
        );
        let presence = SamplingParams {
            presence_penalty: 0.5,
            ..Default::default()
        };
        assert_eq!(
            kept(&presence, &[0, 2, 1, 2, 99], 2, &[1.0, 1.0, 1.0]),
            [(0, 1.0), (1, 0.5), (2, 0.5)]
        );
    }

    #[test]
    fn top_k_prefers_low_ids_among_equals() {
        let params = SamplingParams {
            temperature: 1.0,
            top_k: 2,
            ..Default::default()
        };
        let ids: Vec<u32> = kept(&params, &[], 0, &[1.0, 3.0, 1.0, 1.0])
            .iter()
            .map(|it| it.0)
            .collect();
        assert_eq!(ids, [0, 1]);
    }

    #[test]
    fn top_p_keeps_the_token_that_crosses_the_border() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
        for (top_p, n_kept) in [(0.0, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.999, 4)] {
            let params = SamplingParams {
                temperature: 1.0,
                top_p,
                ..Default::default()
            };
            assert_eq!(kept(&params, &[], 0, &logits).len(), n_kept, "top_p {top_p}");
        }
    }

    #[test]
    fn top_p_over_a_long_flat_vocabulary() {
        let params = SamplingParams {
            temperature: 1.0,
            top_p: 0.5,
            ..Default::default()
        };
        let n_kept = kept(&params, &[], 0, &[0.0; 10_000]).len();
        assert!((5_000..=5_001).contains(&n_kept), "{n_kept}");
    }

    #[test]
    fn min_p_is_relative_to_the_best() {
        let params = SamplingParams {
            temperature: 1.0,
            min_p: 0.25,
            ..Default::default()
        };
        let logits = [0.6f32.ln(), 0.2f32.ln(), 0.1f32.ln()];
        let ids: Vec<u32> = kept(&params, &[], 0, &logits).iter().map(|it| it.0).collect();
        assert_eq!(ids, [0, 1]);
    }

    #[test]
    fn tiny_temperatures_leave_one_token() {
        let params = SamplingParams {
            temperature: 1e-38,
            min_p: 0.5,
            ..Default::default()
        };
        assert_eq!(kept(&params, &[], 0, &[5.0, 6.0, 4.0]), [(1, 0.0)]);
    }
}
