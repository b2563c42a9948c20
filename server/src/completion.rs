//! From a place in a document to a suggestion: the whole pipeline, in the order in which it runs.

pub mod context;
pub mod postprocess;
pub mod prompt;
pub mod report;
pub mod reuse;
pub mod sources;
pub mod trigger;
pub mod withheld;

use std::{
    ops::Range,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::{Serialize, Serializer};
use surmise_engine::{
    Engine, Generation,
    request::{Event, Finish, GeneratedToken, Prompt, Request, SamplingParams, Speculation, StopCondition},
    speculative::drafter::DrafterKind,
};
use surmise_grammars::Extent;

use crate::{config::CompletionConfig, document::Document};
use postprocess::{Candidate, StepTrace, postprocess};
use sources::Beside;
use trigger::Trigger;
use withheld::Withheld;

/// A suggestion wanted at a place.
#[derive(Debug, Clone)]
pub struct Query {
    /// The document as it is now.
    pub document: Document,
    /// Byte at which text would be inserted.
    pub at: usize,
    /// Why it is wanted.
    pub trigger: Trigger,
    /// Folder that paths in the prompt are relative to.
    pub root: Option<PathBuf>,
    /// The settings.
    pub config: CompletionConfig,
    /// How tokens are picked.
    pub sampling: SamplingParams,
    /// How drafts are made.
    pub speculation: Speculation,
    /// What other texts say may be said again.
    pub beside: Beside,
}

/// Text to insert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suggestion {
    /// Bytes that it replaces.
    pub range: Range<usize>,
    /// The text, with `\n` for a line break whatever the document has.
    pub text: String,
}

/// What came of a query.
#[derive(Debug, Clone)]
pub struct Completion {
    /// The suggestion, or why there is none.
    pub outcome: Result<Suggestion, Withheld>,
    /// How it came about.
    pub trace: Trace,
}

/// How a completion came about.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// How far the suggestion was to reach; none if it was decided before that.
    pub extent: Option<Extent>,
    /// What the model wrote.
    pub generated: String,
    /// What was done to that.
    pub steps: Vec<StepTrace>,
    /// Probability that all tokens shown are right, from 0 to 1.
    pub confidence: Option<f64>,
    /// Logarithms of the tokens' probabilities, each with the byte of `generated` at which the token's text ends.
    pub logprobs: Vec<(usize, f32)>,
    /// The model's text token by token.
    pub tokens: Vec<TracedToken>,
    /// Whether it was the rest of an earlier suggestion, which took no model.
    pub reused: bool,
    /// What the engine says about its part; none if it did not run to an end.
    pub finish: Option<Finish>,
    /// Where the rest of the time went.
    pub stages: Stages,
    /// All of it.
    pub elapsed: Duration,
}

/// A token that the model wrote.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TracedToken {
    /// Its text; U+FFFD stands for parts of a character.
    pub text: String,
    /// Probability that the model gave it.
    pub probability: f64,
    /// Who drafted it; none if the model wrote it without a draft.
    #[serde(serialize_with = "drafter_name")]
    pub drafter: Option<DrafterKind>,
}

impl TracedToken {
    pub(crate) fn new(engine: &Engine, token: &GeneratedToken) -> Self {
        Self {
            text: engine.tokenizer().decode(&[token.id]),
            probability: f64::from(token.logprob).exp(),
            drafter: token.drafter,
        }
    }
}

fn drafter_name<S: Serializer>(drafter: &Option<DrafterKind>, serializer: S) -> Result<S::Ok, S::Error> {
    drafter.map(DrafterKind::name).serialize(serializer)
}

/// How long each stage of a completion took, the engine's own apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stages {
    /// Applying the change before it to the text; zero where there was none.
    pub change: Duration,
    /// Deciding whether and how far to suggest.
    pub trigger: Duration,
    /// Gathering the context.
    pub context: Duration,
    /// Laying the prompt out and handing it to the engine as tokens.
    pub prompt: Duration,
    /// Making a suggestion of what the model wrote.
    pub postprocess: Duration,
}

/// Runs a query from start to end. Dropping the future stops the generation.
pub async fn complete(engine: &Engine, query: &Query) -> Completion {
    let started = Instant::now();
    let mut trace = Trace::default();
    let outcome = run(engine, query, &mut trace).await;
    trace.elapsed = started.elapsed();
    if let Err(withheld) = &outcome {
        tracing::debug!("no suggestion: {withheld}");
    }
    Completion { outcome, trace }
}

async fn run(engine: &Engine, query: &Query, trace: &mut Trace) -> Result<Suggestion, Withheld> {
    let Query {
        document,
        at,
        trigger,
        config,
        ..
    } = query;
    let mut lap = Lap::begin();
    let extent = trigger::decide(document, *at, *trigger, config);
    trace.stages.trigger = lap.end();
    let extent = extent?;
    trace.extent = Some(extent);
    let context = context::gather(query, prompt::budget(engine, config), &|text| {
        prompt::cost(engine, text)
    });
    let copy_sources = sources::gather(engine, query, context.excerpt.clone());
    trace.stages.context = lap.end();
    let request = Request {
        prompt: Prompt::Fim(prompt::build(context)),
        copy_sources: copy_sources.clone(),
        sampling: query.sampling.clone(),
        stop: stop_condition(extent, config),
        speculation: query.speculation,
        ..Request::default()
    };
    let mut candidate = Candidate {
        document,
        at: *at,
        extent,
        config,
        logprobs: &[],
        invoked: *trigger == Trigger::Invoked,
    };
    let generation = engine.generate(request);
    trace.stages.prompt = lap.end();
    // While the model reads.
    sources::prepare(&copy_sources);
    document.syntax.prepare(&document.text, *at);
    read(engine, generation, &candidate, trace).await?;
    candidate.logprobs = &trace.logprobs;
    let mut lap = Lap::begin();
    let text = postprocess(&candidate, &trace.generated, &mut trace.steps).map(str::to_owned);
    trace.stages.postprocess = lap.end();
    let text = text?;
    trace.confidence = postprocess::confidence(&trace.logprobs, text.len());
    Ok(Suggestion {
        range: *at..*at,
        text,
    })
}

/// A line ends at its end; nothing that we suggest goes past a blank line.
fn stop_condition(extent: Extent, config: &CompletionConfig) -> StopCondition {
    let end = match extent {
        Extent::Line => "\n",
        Extent::Statement | Extent::Block => "\n\n",
    };
    StopCondition {
        max_tokens: config.max_tokens,
        strings: vec![end.to_owned()],
        ..StopCondition::default()
    }
}

/// Reads the model's text into `trace` until it ends or reaches far enough.
async fn read(
    engine: &Engine,
    mut generation: Generation,
    candidate: &Candidate<'_>,
    trace: &mut Trace,
) -> Result<(), Withheld> {
    let mut enough = false;
    while let Some(event) = generation.next().await {
        match event {
            Event::Started { .. } => {}
            Event::Text { text, tokens } if !enough => {
                trace.generated.push_str(&text);
                for token in tokens {
                    trace.logprobs.push((token.text_end, token.logprob));
                    trace.tokens.push(TracedToken::new(engine, &token));
                }
                if text.contains('\n') && postprocess::is_complete(candidate, &trace.generated) {
                    enough = true;
                    generation.cancel();
                }
            }
            Event::Text { .. } => {}
            Event::Finished(finish) => {
                trace.finish = Some(*finish);
                break;
            }
            Event::Failed(error) => {
                return Err(Withheld::EngineFailed {
                    message: error.to_string(),
                });
            }
        }
    }
    Ok(())
}

/// A stopwatch for one stage after another.
struct Lap(Instant);

impl Lap {
    fn begin() -> Self {
        Self(Instant::now())
    }

    /// The time since the last one ended.
    fn end(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}
