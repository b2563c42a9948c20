//! `surmise bench --latency`: how long a user waits, from a keystroke at the server's door to the answer.
//!
//! A trace of somebody typing is replayed through the real server over a pipe, message by message: the document
//! changes, a suggestion is asked for, and when the answer is there the next key is pressed.

mod client;
mod trace;

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Value, json};

use self::{
    client::Client,
    trace::{Keystroke, Kind, keystrokes},
};
use super::spread::quantile;
use crate::config::{Config, ExtentConfig};

/// The document: code of this repository, real and with many comments, repeated as often as it takes.
const CODE: &str = concat!(
    include_str!("../../../grammars/src/extent.rs"),
    include_str!("../../../grammars/src/excerpt.rs"),
);
/// Longest suggestion, in tokens.
const MAX_TOKENS: usize = 24;
/// Requests before those that count.
const WARM_UP: usize = 5;

/// What is done for a request, in order, and where `surmise/explain` has its time.
const STAGES: [(&str, &str); 8] = [
    ("apply the change", "/stages_ms/change"),
    ("decide", "/stages_ms/trigger"),
    ("gather context", "/stages_ms/context"),
    ("tokenise", "/stages_ms/prompt"),
    ("wait for the engine", "/engine/timings/queued_ms"),
    ("prefill", "/engine/timings/prefill_ms"),
    ("decode", "/engine/timings/decode_ms"),
    ("postprocess", "/stages_ms/postprocess"),
];

/// What a trace took.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// Lines of the document.
    pub n_lines: usize,
    /// Requests that ran the model: those that are measured.
    pub n_requests: usize,
    /// Requests between them that were answered with the rest of an earlier suggestion.
    pub n_reused: usize,
    /// From the keystroke to its answer.
    pub total_ms: Percentiles,
    /// The same without what the engine spent.
    pub without_model_ms: Percentiles,
    /// Where the time went, in order.
    pub stages: Vec<Stage>,
    /// By what the user did.
    pub kinds: Vec<KindOfRequest>,
}

/// Part of a request.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    /// What was done.
    pub name: &'static str,
    /// How long it took.
    pub ms: Percentiles,
}

/// Requests after the same sort of keystroke; numbers of tokens are means.
#[derive(Debug, Clone, Serialize)]
pub struct KindOfRequest {
    /// What the user did.
    pub name: &'static str,
    /// Requests of this kind.
    pub n_requests: usize,
    /// From the keystroke to its answer.
    pub total_ms: Percentiles,
    /// Tokens of the prompt whose keys and values were there.
    pub reused_tokens: f64,
    /// Tokens of the prompt that were computed.
    pub computed_tokens: f64,
    /// Tokens written.
    pub generated_tokens: f64,
}

/// How many of a hundred are no slower.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// 50 of them.
    pub p50: f64,
    /// 95 of them.
    pub p95: f64,
    /// 99 of them.
    pub p99: f64,
}

impl Percentiles {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Self {
            p50: quantile(&values, 0.5),
            p95: quantile(&values, 0.95),
            p99: quantile(&values, 0.99),
        }
    }
}

/// Replays keystrokes in a document of about `n_lines` lines until `n_requests` of them have run the model, or everything in it
/// was typed. `config` names the model. The document seems to lie in `folder`, if there is one; files there are near it.
///
/// # Errors
/// What the server answers that is not what it should, and a model that cannot be loaded.
pub fn measure(
    config: &Config,
    folder: Option<&Path>,
    n_lines: usize,
    n_requests: usize,
    progress: &dyn Fn(usize),
) -> io::Result<Latency> {
    // As the server has it when an editor starts it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let latency = runtime.block_on(replay(config, folder, n_lines, n_requests, progress));
    runtime.shutdown_background();
    latency
}

async fn replay(
    config: &Config,
    folder: Option<&Path>,
    n_lines: usize,
    n_requests: usize,
    progress: &dyn Fn(usize),
) -> io::Result<Latency> {
    // A grave accent for the few characters that are not ASCII: the trace counts bytes.
    let ascii = CODE.replace(|it: char| !it.is_ascii(), "`");
    let text = ascii.repeat(n_lines.div_ceil(ascii.lines().count()).max(1));
    let mut config = config.clone();
    config.completion.max_tokens = MAX_TOKENS;
    config.completion.extent = ExtentConfig::Block;
    let mut client = Client::start(&config, folder).await?;
    let document = json!({ "uri": client.uri, "languageId": "rust", "version": 0, "text": text });
    client
        .notify("textDocument/didOpen", json!({ "textDocument": document }))
        .await?;
    wait_for_model(&mut client).await?;

    let (mut samples, mut n_reused) = (Vec::new(), 0);
    for (idx, keystroke) in keystrokes(&text).enumerate() {
        let sample = press(&mut client, idx + 1, &keystroke).await?;
        if idx < WARM_UP {
            continue;
        }
        if sample.report["reused"] == true {
            n_reused += 1;
            continue;
        }
        samples.push(sample);
        progress(samples.len());
        if samples.len() == n_requests {
            break;
        }
    }
    Ok(summary(text.lines().count(), n_reused, &samples))
}

async fn wait_for_model(client: &mut Client) -> io::Result<()> {
    loop {
        let explained = explain(client).await?;
        match explained["model"].as_str() {
            Some("ready") => return Ok(()),
            Some("failed") => {
                return Err(io::Error::other(
                    "the model cannot be loaded; `surmise complete` says why",
                ));
            }
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn explain(client: &mut Client) -> io::Result<Value> {
    client
        .request(
            "surmise/explain",
            json!({ "textDocument": { "uri": client.uri } }),
        )
        .await
}

/// One request, measured from outside, and what the server says about it.
struct Sample {
    kind: Kind,
    total_ms: f64,
    report: Value,
}

impl Sample {
    fn number(&self, pointer: &str) -> f64 {
        self.report
            .pointer(pointer)
            .and_then(Value::as_f64)
            .unwrap_or(0.0)
    }

    /// Milliseconds that the engine had the request.
    fn model_ms(&self) -> f64 {
        ["queued_ms", "prefill_ms", "decode_ms"]
            .iter()
            .map(|stage| self.number(&format!("/engine/timings/{stage}")))
            .sum()
    }

    /// Milliseconds that no stage accounts for: messages, threads that wake up, and looking while the model writes
    /// whether it has written enough.
    fn rest_ms(&self) -> f64 {
        let stages: f64 = STAGES.iter().map(|(_, pointer)| self.number(pointer)).sum();
        self.total_ms - stages
    }
}

async fn press(client: &mut Client, version: usize, keystroke: &Keystroke) -> io::Result<Sample> {
    let place = |place: trace::Place| json!({ "line": place.line, "character": place.column });
    let changes: Vec<Value> = keystroke
        .changes
        .iter()
        .map(|it| json!({ "range": { "start": place(it.start), "end": place(it.end) }, "text": it.text }))
        .collect();
    let change = json!({
        "textDocument": { "uri": client.uri, "version": version },
        "contentChanges": changes,
    });
    // Invoked, so that no setting withholds a suggestion before the model has run.
    let question = json!({
        "textDocument": { "uri": client.uri },
        "position": place(keystroke.cursor),
        "context": { "triggerKind": 1 },
    });
    let started = Instant::now();
    client.notify("textDocument/didChange", change).await?;
    client.request("textDocument/inlineCompletion", question).await?;
    let total_ms = started.elapsed().as_secs_f64() * 1e3;
    let report = explain(client).await?["last"].take();
    Ok(Sample {
        kind: keystroke.kind,
        total_ms,
        report,
    })
}

fn summary(n_lines: usize, n_reused: usize, samples: &[Sample]) -> Latency {
    let over = |value: &dyn Fn(&Sample) -> f64| Percentiles::of(samples.iter().map(value));
    let rest = Stage {
        name: "everything else",
        ms: over(&Sample::rest_ms),
    };
    let stages = STAGES.iter().map(|(name, pointer)| Stage {
        name,
        ms: over(&|sample| sample.number(pointer)),
    });
    let stages = stages.chain([rest]);
    let kinds = [
        (Kind::Typing, "typing on"),
        (Kind::EditAbove, "an edit above the cursor"),
        (Kind::Jump, "a jump elsewhere"),
    ];
    Latency {
        n_lines,
        n_requests: samples.len(),
        n_reused,
        total_ms: over(&|sample| sample.total_ms),
        without_model_ms: over(&|sample| sample.total_ms - sample.model_ms()),
        stages: stages.collect(),
        kinds: kinds
            .into_iter()
            .map(|(kind, name)| kind_of_request(name, samples.iter().filter(|it| it.kind == kind)))
            .collect(),
    }
}

fn kind_of_request<'a>(name: &'static str, samples: impl Iterator<Item = &'a Sample>) -> KindOfRequest {
    let samples: Vec<&Sample> = samples.collect();
    let mean = |value: &dyn Fn(&Sample) -> f64| {
        let sum: f64 = samples.iter().map(|sample| value(sample)).sum();
        sum / samples.len().max(1) as f64
    };
    let usage = |sample: &Sample, name: &str| sample.number(&format!("/engine/usage/{name}"));
    KindOfRequest {
        name,
        n_requests: samples.len(),
        total_ms: Percentiles::of(samples.iter().map(|sample| sample.total_ms)),
        reused_tokens: mean(&|sample| usage(sample, "reused_tokens")),
        computed_tokens: mean(&|sample| usage(sample, "prompt_tokens") - usage(sample, "reused_tokens")),
        generated_tokens: mean(&|sample| usage(sample, "generated_tokens")),
    }
}
