//! Refuses text that the model was not sure of, unless the user asked for whatever there is.

use super::Candidate;
use crate::completion::withheld::Withheld;

pub(super) fn run(candidate: &Candidate<'_>, text: &str) -> Result<usize, Withheld> {
    let least = candidate.config.min_confidence;
    match confidence(candidate.logprobs, text.len()) {
        Some(confidence) if confidence < least && !candidate.invoked => {
            Err(Withheld::LowConfidence { confidence, least })
        }
        _ => Ok(text.len()),
    }
}

/// Geometric mean of the probabilities of the tokens that begin before byte `len`.
pub(in crate::completion) fn confidence(logprobs: &[(usize, f32)], len: usize) -> Option<f64> {
    let begins = std::iter::once(0).chain(logprobs.iter().map(|(end, _)| *end));
    let kept: Vec<f64> = begins
        .zip(logprobs)
        .filter(|(begin, _)| *begin < len)
        .map(|(_, (_, logprob))| f64::from(*logprob))
        .collect();
    (!kept.is_empty()).then(|| (kept.iter().sum::<f64>() / kept.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_that_are_shown_count() {
        let half = 0.5f32.ln();
        assert_eq!(
            confidence(&[(2, half), (4, half), (9, -100.0)], 4).map(|p| (p * 100.0).round()),
            Some(50.0)
        );
        assert_eq!(confidence(&[(2, -1.0)], 0), None);
    }
}
