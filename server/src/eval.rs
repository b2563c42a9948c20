//! How good suggestions are on code that the model has not seen: holes are made in the files of a folder and filled by
//! the pipeline that editors use, with the gate of confidence open, so that any threshold can be judged afterwards.

pub mod hole;
pub mod judge;

use std::{path::Path, time::Duration};

use surmise_engine::{Engine, request::SamplingParams};

use crate::{
    completion::{Completion, Query, complete, trigger::Trigger},
    config::{CompletionConfig, Config, ExtentConfig},
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
    /// The suggestion, however unsure; none if another gate withheld it.
    pub shown: Option<Shown>,
    /// From the request to the answer.
    pub elapsed: Duration,
    /// Forward passes after the first token, and the tokens they gave.
    pub steps: (usize, usize),
}

/// A suggestion beside what stood there.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Geometric mean of the probabilities of its tokens.
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

/// Fills one hole, as while typing. `root` is the folder that the paths in prompts are relative to.
pub async fn fill(engine: &Engine, config: &Config, root: &Path, hole: &Hole) -> Answer {
    let query = Query {
        document: hole.document.clone(),
        at: hole.at,
        trigger: Trigger::Automatic,
        root: Some(root.to_owned()),
        config: CompletionConfig {
            min_confidence: 0.0,
            extent: match hole.wanted {
                Wanted::RestOfLine(_) => ExtentConfig::Line,
                Wanted::Nothing => config.completion.extent,
            },
            ..config.completion.clone()
        },
        sampling: SamplingParams::default(),
        speculation: config.engine.speculation(),
        neighbours: Vec::new(),
        sources: Default::default(),
    };
    let Completion { outcome, trace } = complete(engine, &query).await;
    let shown = outcome.ok().map(|suggestion| {
        let truth = match &hole.wanted {
            Wanted::RestOfLine(truth) => truth.as_str(),
            Wanted::Nothing => "",
        };
        Shown {
            confidence: trace.confidence.unwrap_or(0.0),
            is_exact: suggestion.text.trim_end() == truth,
            n_right: common_prefix(&suggestion.text, truth),
            similarity: similarity(&suggestion.text, truth),
        }
    });
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
