//! How much copying is to be trusted, beside a network that has an opinion of its own.

use super::{CopyPrediction, NameMatch, Origin, Support};

/// Least evidence of each class.
const EVIDENCE: [usize; 8] = [4, 6, 8, 12, 16, 24, 32, 48];
/// Where classes of the network's certainty begin, after the first: the probability of its likeliest token.
const CERTAINTY: [f32; 5] = [0.2, 0.4, 0.6, 0.8, 0.95];
/// Where classes of its consent begin, after the first: the probability of the first vote over that of the likeliest token.
const CONSENT: [f32; 5] = [0.001, 0.01, 0.1, 0.4, 1.0];

/// Classes of a feature that has the most.
pub const MAX_CLASSES: usize = 8;

/// Names of the features, for people.
pub const FEATURES: [&str; 7] = [
    "evidence",
    "support",
    "certainty of the network",
    "its consent",
    "origin",
    "name",
    "line end",
];

/// The logarithm of the odds of copying is the sum of one number for each feature: maximum likelihood for the embedded
/// model at rests of lines and groups of lines in packages that it was not trained on, and that are not those it is
/// measured on. From `engine/`, with the `tuning` packages of `engine/training/corpus.toml` in a folder:
///
/// ```sh
/// cargo run --release --example infill -- weights/surmise.gguf TUNING --siblings 8 --fit --places 540
/// ```
///
/// On 19,575 tokens of 1,080 places it lowers the loss of the network from 1.263 to 1.083 nats per token.
const LOG_ODDS: [[f32; MAX_CLASSES]; FEATURES.len()] = [
    [-2.07, -1.41, -0.76, -0.14, -0.05, 0.0, 0.24, 0.92],
    [-0.48, 1.01, -0.75, -1.18, 0.0, 0.0, 0.0, 0.0],
    [0.90, 0.77, 0.66, 0.58, 0.24, -1.03, 0.0, 0.0],
    [-1.90, -0.71, -0.10, 0.14, 0.53, 0.10, 0.0, 0.0],
    [-0.84, 0.63, 0.62, 0.0, 0.0, 0.0, 0.0, 0.0],
    [-0.33, -0.09, -0.39, -0.21, -0.49, 0.68, 0.0, 0.0],
    [-0.22, 0.57, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
];

/// What the network says where something could be copied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Opinion {
    /// Probability of its likeliest token.
    pub best: f32,
    /// Probability that it gives to the first vote; if that is a line end, together with the end of a hole that it may mean.
    pub first_vote: f32,
}

impl CopyPrediction {
    /// The class of each feature, in the order of [`FEATURES`]; none if the evidence is too thin.
    pub fn classes(&self, network: Opinion) -> Option<[usize; FEATURES.len()]> {
        let class_of = |x: f32, begins: &[f32]| begins.iter().filter(|&&begin| x >= begin).count();
        Some([
            EVIDENCE.iter().rposition(|&least| self.evidence >= least)?,
            match self.support {
                Support::Single => 0,
                Support::Agreed => 1,
                Support::Majority => 2,
                Support::Split => 3,
            },
            class_of(network.best, &CERTAINTY),
            class_of(network.first_vote / network.best, &CONSENT),
            match self.origin {
                Origin::Prompt => 0,
                Origin::SameFile => 1,
                Origin::Elsewhere => 2,
            },
            usize::from(self.name_goes_on)
                + match self.name {
                    NameMatch::None => 0,
                    NameMatch::End => 2,
                    NameMatch::Whole => 4,
                },
            usize::from(self.line_ends),
        ])
    }

    /// Weight of copying in the mixture, from 0 to less than 1.
    pub fn weight(&self, network: Opinion) -> f32 {
        let Some(classes) = self.classes(network) else {
            return 0.0;
        };
        let log_odds: f32 = LOG_ODDS.iter().zip(classes).map(|(row, class)| row[class]).sum();
        1.0 / (1.0 + (-log_odds).exp())
    }
}
