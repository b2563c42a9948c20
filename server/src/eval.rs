//! How good suggestions are on code that the model has not seen: holes are made in the files of a folder and filled by
//! the pipeline that editors use, with the gate of confidence open, so that any threshold can be judged afterwards.

pub mod action;
pub mod edit;
pub mod hole;
pub mod judge;

use std::{path::Path, time::Duration};

use surmise_engine::{Engine, request::SamplingParams};

use crate::{
    completion::{
        Completion, Query, Trace, complete,
        postprocess::{Candidate, confidence, postprocess},
        sources::Beside,
        trigger::Trigger,
    },
    config::{CompletionConfig, Config, ExtentConfig},
    repository::{self, FileList},
};
use hole::{Hole, Wanted};
use judge::{common_prefix, similarity};

/// What came of a hole.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Name of the language.
    pub language: &'static str,
    /// Whether something belongs in the hole.
    pub is_wanted: bool,
    /// What is shown at each threshold that was asked about, and at 0: the lowest first.
    pub shown: Vec<(f64, Option<Shown>)>,
    /// From the request to the answer.
    pub elapsed: Duration,
    /// Forward passes after the first token, and the tokens they gave.
    pub steps: (usize, usize),
}

/// A suggestion beside what stood there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shown {
    /// Probability that all of it is right, as the model has it.
    pub confidence: f64,
    /// Whether it is what stood there.
    pub is_exact: bool,
    /// Characters up to the first wrong one.
    pub n_right: usize,
    /// Edit similarity to what stood there, 0 to 1.
    pub similarity: f64,
}

/// Characters of a right beginning that make a suggestion worth accepting in part.
const WORTHWHILE: usize = 10;

impl Shown {
    /// Exact, or with a beginning that is right and long enough to accept.
    pub fn is_useful(&self) -> bool {
        self.is_exact || self.n_right >= WORTHWHILE
    }
}

impl Answer {
    /// What is shown where suggestions must be so sure.
    ///
    /// # Panics
    /// If the threshold was not asked about.
    pub fn shown_at(&self, min_confidence: f64) -> Option<&Shown> {
        let found = self
            .shown
            .iter()
            .find(|(threshold, _)| *threshold == min_confidence);
        found.expect("a threshold that was asked about").1.as_ref()
    }
}

/// Time in which any model reads its whole prompt.
const UNHURRIED_MS: u64 = 600_000;

/// Fills one hole, as while typing, and judges what would be shown at each of `thresholds`. `root` is the folder that the paths
/// in prompts are relative to, `files` are those in it.
pub async fn fill(
    engine: &Engine,
    config: &Config,
    root: &Path,
    files: &FileList,
    hole: &Hole,
    thresholds: &[f64],
) -> Answer {
    let nearby = if config.completion.nearby_files {
        repository::near(files, &hole.document, engine)
    } else {
        Vec::new()
    };
    let query = Query {
        document: hole.document.clone(),
        at: hole.at,
        trigger: Trigger::Automatic,
        root: Some(root.to_owned()),
        config: CompletionConfig {
            min_confidence: 0.0,
            // How good a model is should not depend on the machine.
            prompt_ms: UNHURRIED_MS,
            extent: match hole.wanted {
                Wanted::RestOfLine(_) => ExtentConfig::Line,
                Wanted::Nothing => config.completion.extent,
            },
            ..config.completion.clone()
        },
        sampling: SamplingParams::default(),
        speculation: config.engine.speculation(),
        beside: Beside {
            nearby,
            ..Beside::default()
        },
    };
    let Completion { trace, .. } = complete(engine, &query).await;
    let mut thresholds: Vec<f64> = [0.0].into_iter().chain(thresholds.iter().copied()).collect();
    thresholds.sort_by(f64::total_cmp);
    thresholds.dedup();
    let shown = thresholds
        .into_iter()
        .map(|threshold| (threshold, show(&query, &trace, hole, threshold)))
        .collect();
    Answer {
        language: hole.document.language().name(),
        is_wanted: matches!(hole.wanted, Wanted::RestOfLine(_)),
        shown,
        elapsed: trace.elapsed,
        steps: trace.finish.map_or((0, 0), |finish| {
            (finish.speculation.steps, finish.speculation.emitted)
        }),
    }
}

/// What is left of the model's text at a threshold, beside what belongs in the hole.
fn show(query: &Query, trace: &Trace, hole: &Hole, min_confidence: f64) -> Option<Shown> {
    let config = CompletionConfig {
        min_confidence,
        ..query.config.clone()
    };
    let candidate = Candidate {
        document: &query.document,
        at: query.at,
        extent: trace.extent?,
        config: &config,
        logprobs: &trace.logprobs,
        invoked: false,
    };
    let text = postprocess(&candidate, &trace.generated, &mut Vec::new()).ok()?;
    let truth = match &hole.wanted {
        Wanted::RestOfLine(truth) => truth.as_str(),
        Wanted::Nothing => "",
    };
    Some(Shown {
        confidence: confidence(&trace.logprobs, text.len()).unwrap_or(0.0),
        is_exact: text.trim_end() == truth,
        n_right: common_prefix(text, truth),
        similarity: similarity(text, truth),
    })
}
