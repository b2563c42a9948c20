//! What the answers come to: by language, and for every threshold of confidence.

use serde::Serialize;

use super::{Answer, Shown};
use crate::bench::spread::quantile;

/// How good the answers are at one threshold of confidence. Shares are from 0 to 1; none where there is nothing to
/// take a share of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// Least confidence that is shown.
    pub min_confidence: f64,
    /// Of the holes that want something, the share that gets a suggestion.
    pub show_rate: Option<f64>,
    /// Of the suggestions shown there, the share that is exact or right for at least ten characters.
    pub precision: Option<f64>,
    /// Of the holes that want something, the share that is filled exactly.
    pub exact: Option<f64>,
    /// Mean edit similarity of the suggestions shown there.
    pub similarity: Option<f64>,
    /// Of the places where nothing is missing, the share that stays quiet.
    pub quiet: Option<f64>,
}

/// Thresholds that are compared.
pub const THRESHOLDS: [f64; 19] = [
    0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95,
];

/// What the default threshold aims at.
pub const QUIET_AIM: f64 = 0.9;
/// See [`QUIET_AIM`].
pub const PRECISION_AIM: f64 = 0.6;

/// Judges what `answers` show at a threshold, one that they were asked about.
pub fn judge<'a>(answers: impl Iterator<Item = &'a Answer>, min_confidence: f64) -> Judgement {
    let (mut n_wanted, mut n_unwanted, mut n_noise) = (0, 0, 0);
    let mut shown: Vec<&Shown> = Vec::new();
    for answer in answers {
        let suggestion = answer.shown_at(min_confidence);
        if answer.is_wanted {
            n_wanted += 1;
            shown.extend(suggestion);
        } else {
            n_unwanted += 1;
            n_noise += usize::from(suggestion.is_some());
        }
    }
    let n_exact = shown.iter().filter(|it| it.is_exact).count();
    let n_useful = shown.iter().filter(|it| it.is_useful()).count();
    let similarity: f64 = shown.iter().map(|it| it.similarity).sum();
    Judgement {
        min_confidence,
        show_rate: share(shown.len() as f64, n_wanted),
        precision: share(n_useful as f64, shown.len()),
        exact: share(n_exact as f64, n_wanted),
        similarity: share(similarity, shown.len()),
        quiet: share((n_unwanted - n_noise) as f64, n_unwanted),
    }
}

fn share(part: f64, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part / whole as f64)
}

/// The lowest threshold that reaches both aims; without one, among those that are quiet enough the most precise; none if
/// no threshold is quiet enough.
pub fn calibrate(judgements: &[Judgement]) -> Option<&Judgement> {
    let is_quiet = |it: &&Judgement| it.quiet.is_none_or(|quiet| quiet >= QUIET_AIM);
    let precision = |it: &Judgement| it.precision.unwrap_or(0.0);
    let quiet = || judgements.iter().filter(is_quiet);
    quiet()
        .find(|it| precision(it) >= PRECISION_AIM)
        .or_else(|| quiet().max_by(|a, b| precision(a).total_cmp(&precision(b))))
}

/// Precision at the `share` of the holes that want something where the model is surest.
pub fn precision_at(answers: &[Answer], share: f64) -> Option<f64> {
    let wanted: Vec<&Answer> = answers.iter().filter(|it| it.is_wanted).collect();
    let mut shown: Vec<&Shown> = wanted.iter().filter_map(|it| it.shown_at(0.0)).collect();
    shown.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    shown.truncate((wanted.len() as f64 * share).round() as usize);
    let n_useful = shown.iter().filter(|it| it.is_useful()).count();
    self::share(n_useful as f64, shown.len())
}

/// Milliseconds below which the given share of the answers took.
pub fn latency(answers: &[Answer], share: f64) -> f64 {
    let mut millis: Vec<f64> = answers.iter().map(|it| it.elapsed.as_secs_f64() * 1e3).collect();
    millis.sort_by(f64::total_cmp);
    quantile(&millis, share)
}

/// Tokens for each forward pass of decoding, over all answers.
pub fn tokens_per_step(answers: &[Answer]) -> Option<f64> {
    let (steps, tokens) = answers
        .iter()
        .fold((0, 0), |sum, it| (sum.0 + it.steps.0, sum.1 + it.steps.1));
    share(tokens as f64, steps)
}

/// Characters that both begin with.
pub(super) fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count()
}

/// 1 less the edit distance (Levenshtein 1966) as a share of the longer text, white space at the ends left out.
pub(super) fn similarity(a: &str, b: &str) -> f64 {
    strsim::normalized_levenshtein(a.trim_end(), b.trim_end())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(is_wanted: bool, confidence: f64, n_right: usize) -> Answer {
        let shown = Shown {
            confidence,
            is_exact: n_right == 4,
            n_right,
            similarity: 0.5,
        };
        Answer {
            language: "Rust",
            is_wanted,
            shown: [0.0, 0.6]
                .into_iter()
                .chain(THRESHOLDS)
                .map(|threshold| (threshold, (confidence >= threshold).then_some(shown)))
                .collect(),
            elapsed: Duration::from_millis(10),
            steps: (2, 5),
        }
    }

    #[test]
    fn thresholds_trade_quiet_for_shown() {
        let mut answers = vec![
            answer(true, 0.9, 4),
            answer(true, 0.8, 12),
            answer(true, 0.5, 3),
            answer(false, 0.4, 0),
            answer(false, 0.85, 0),
        ];
        answers.push(Answer {
            ..answer(true, -1.0, 0)
        });
        let all = judge(answers.iter(), 0.0);
        assert_eq!((all.show_rate, all.quiet), (Some(0.75), Some(0.0)));
        assert_eq!((all.precision, all.exact), (Some(2.0 / 3.0), Some(0.25)));
        let some = judge(answers.iter(), 0.6);
        assert_eq!((some.show_rate, some.quiet), (Some(0.5), Some(0.5)));
        assert_eq!(some.precision, Some(1.0));

        let judgements = THRESHOLDS.map(|threshold| judge(answers.iter(), threshold));
        assert_eq!(calibrate(&judgements).unwrap().min_confidence, 0.9);
        assert_eq!(precision_at(&answers, 0.5), Some(1.0));
        assert_eq!(tokens_per_step(&answers), Some(2.5));
        assert_eq!(latency(&answers, 0.5), 10.0);
    }

    #[test]
    fn without_holes_nothing_is_claimed() {
        let nothing = judge([].iter(), 0.3);
        assert_eq!(
            (nothing.precision, nothing.quiet, nothing.exact),
            (None, None, None)
        );
        assert_eq!(precision_at(&[], 0.2), None);
    }

    #[test]
    fn texts_are_compared_by_character() {
        assert_eq!(common_prefix("größer", "größe("), 5);
        assert_eq!(similarity("abcd \n", "abcd"), 1.0);
        assert_eq!(similarity("abcd", "abxd"), 0.75);
        assert_eq!(similarity("", ""), 1.0);
    }
}
