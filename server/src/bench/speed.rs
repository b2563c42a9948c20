//! `surmise bench`: prefill, decode, wide steps, batches and memory, beside what the machine can do.
//!
//! Measurements of different things take turns, round after round, so that a busy moment of the machine touches all
//! of them alike; of each, the median counts.

use std::time::{Duration, Instant};

use serde::Serialize;
use surmise_engine::{
    Engine, EngineError, EngineOptions, ModelSummary, WeightSource,
    request::{CopyMixing, Finish, Prompt, Request, SamplingParams, Speculation, StopCondition},
    step_timer::StepTimer,
};

use super::{
    bandwidth::Bandwidth,
    chart::{Chart, Line},
    resident_memory::resident_bytes,
    spread::Spread,
};

/// Prompt lengths, in tokens.
const PREFILL_TOKENS: [usize; 5] = [32, 64, 128, 256, 512];
/// Tokens that a sequence decodes.
const DECODE_TOKENS: usize = 64;
/// Rows of a step.
const STEP_ROWS: [usize; 9] = [1, 2, 4, 8, 12, 16, 24, 32, 64];
/// Positions that the steps' sequence holds.
const STEP_CONTEXT: usize = 128;
/// A step is repeated for about so long, and then its median counts for the round.
const STEP_TIME: Duration = Duration::from_millis(40);
/// Fewest steps of each number of rows.
const MIN_STEPS: usize = 5;
/// Sequences that decode together.
const BATCHES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Prompt and answer of each of them, in tokens.
const BATCH_TOKENS: usize = 32;
/// Memory that no cache holds.
const LARGE_BYTES: usize = 512 << 20;
/// Bandwidth is measured over so much, in several passes if need be.
const BANDWIDTH_BYTES: usize = 1 << 30;

/// Tokens/s of one sequence and of 32 that SGLang gave on a DGX Spark in the published review (Llama 3.1 8B, FP8). What batching is
/// measured against here, on another machine and another model.
pub const SGLANG_RATES: [f64; 2] = [20.5, 368.0];

/// How much to measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// Rounds, one at least.
    pub n_rounds: usize,
    /// Time after which no new round begins.
    pub time: Duration,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Speed {
    /// The model.
    pub model: ModelFacts,
    /// The machine.
    pub machine: MachineFacts,
    /// Rounds that there was time for.
    pub n_rounds: usize,
    /// By length of the prompt.
    pub prefill: Vec<Prefill>,
    /// One sequence, a token a step.
    pub decode: Decode,
    /// By number of rows.
    pub steps: Vec<Step>,
    /// By number of sequences.
    pub batches: Vec<Batch>,
    /// None where the system does not say.
    pub memory: Option<Memory>,
}

/// What is run.
#[derive(Debug, Clone, Serialize)]
pub struct ModelFacts {
    /// Its name.
    pub name: String,
    /// Its architecture, as its file has it.
    pub architecture: String,
    /// Bytes of weights that a step of one row reads.
    pub step_bytes: usize,
}

/// What it is run on.
#[derive(Debug, Clone, Serialize)]
pub struct MachineFacts {
    /// Threads that compute.
    pub n_threads: usize,
    /// Instructions that the kernels use.
    pub instructions: &'static str,
    /// Reading memory that no cache holds.
    pub read_large: ReadBandwidth,
    /// Reading as much as a step reads, over and over.
    pub read_model: ReadBandwidth,
}

/// How fast memory is read by all threads together.
#[derive(Debug, Clone, Serialize)]
pub struct ReadBandwidth {
    /// Bytes read over and over.
    pub working_set_bytes: usize,
    /// Bytes per second.
    pub bytes_per_second: Spread,
}

/// Reading a prompt.
#[derive(Debug, Clone, Serialize)]
pub struct Prefill {
    /// Tokens in the prompt.
    pub n_tokens: usize,
    /// Speed.
    pub tokens_per_second: Spread,
}

/// Writing an answer, a token a step.
#[derive(Debug, Clone, Serialize)]
pub struct Decode {
    /// Speed.
    pub tokens_per_second: Spread,
    /// Bytes of weights read per second.
    pub bytes_per_second: f64,
    /// Those bytes as a share of what the machine can read from a working set of that size.
    pub share_of_bandwidth: f64,
}

/// One forward pass over some rows of one sequence, all with logits.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Rows.
    pub n_rows: usize,
    /// How long it takes.
    pub milliseconds: Spread,
    /// Against a step of one row.
    pub relative: f64,
}

/// Sequences that decode together.
#[derive(Debug, Clone, Serialize)]
pub struct Batch {
    /// How many.
    pub n_sequences: usize,
    /// Speed of all of them together.
    pub tokens_per_second: Spread,
    /// Against one sequence.
    pub scaling: f64,
}

/// What the model takes of the process's memory once it has run.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    /// What came to the process when the model was loaded and had run.
    pub resident_bytes: u64,
    /// All weights.
    pub weight_bytes: usize,
    /// Keys and values that were held then.
    pub kv_bytes: usize,
    /// What was to be expected by the headers of the model's files, with these keys and values.
    pub planned_bytes: usize,
}

impl Memory {
    /// Memory taken over what has to be there.
    pub fn relative(&self) -> f64 {
        self.resident_bytes as f64 / (self.weight_bytes + self.kv_bytes) as f64
    }
}

/// Measures the model of a GGUF file. `progress` is told the rounds done.
///
/// # Errors
/// As [`Engine::load`], and what the engine says of a request.
pub fn measure(
    source: &WeightSource,
    options: EngineOptions,
    effort: Effort,
    progress: &dyn Fn(usize),
) -> Result<Speed, EngineError> {
    let resident_before = resident_bytes();
    let engine = Engine::load(source.clone(), options.clone())?;
    let mut runner = Runner { engine, n_prompts: 0 };
    runner.decode(DECODE_TOKENS)?;
    let resident_after = resident_bytes();
    let kv_bytes = runner.engine.status().n_used_blocks * runner.engine.info().block_bytes;

    let max_rows = STEP_ROWS[STEP_ROWS.len() - 1];
    let mut timer = StepTimer::load(source.clone(), &options, STEP_CONTEXT, max_rows)?;
    let n_threads = timer.n_threads();
    let plan = ModelSummary::read(source, &options)?.plan;
    let memory = resident_before.zip(resident_after).map(|(before, after)| Memory {
        resident_bytes: after.saturating_sub(before),
        weight_bytes: timer.weight_bytes(),
        kv_bytes,
        planned_bytes: plan.total_bytes() - plan.kv_bytes + kv_bytes,
    });
    let to_read = |n_bytes: usize| {
        Bandwidth::new(n_bytes, n_threads).map_err(|error| EngineError::NoMemory {
            what: "memory to be read".into(),
            n_bytes,
            reason: error.to_string(),
        })
    };
    let large = to_read(LARGE_BYTES)?;
    let like_model = to_read(timer.step_bytes().clamp(n_threads << 12, LARGE_BYTES))?;

    let mut rounds = Vec::new();
    let started = Instant::now();
    while rounds.is_empty() || rounds.len() < effort.n_rounds && started.elapsed() < effort.time {
        rounds.push(Round::run(&mut runner, &mut timer, [&large, &like_model])?);
        progress(rounds.len());
    }
    let info = runner.engine.info();
    Ok(Speed::new(
        ModelFacts {
            name: info.model_name.clone(),
            architecture: info.architecture.clone(),
            step_bytes: timer.step_bytes(),
        },
        &timer,
        [large.n_bytes(), like_model.n_bytes()],
        memory,
        &rounds,
    ))
}

/// Everything once.
struct Round {
    /// Bytes per second from both working sets.
    read: [f64; 2],
    /// Tokens per second, by prompt length.
    prefill: Vec<f64>,
    /// Tokens per second.
    decode: f64,
    /// Milliseconds, by number of rows.
    steps: Vec<f64>,
    /// Tokens per second, by number of sequences.
    batches: Vec<f64>,
}

impl Round {
    fn run(runner: &mut Runner, timer: &mut StepTimer, memory: [&Bandwidth; 2]) -> Result<Self, EngineError> {
        let read = memory.map(|it| it.measure((BANDWIDTH_BYTES / it.n_bytes().max(1)).clamp(1, 1 << 12)));
        // Whatever read memory before has taken the caches and left the engine's threads asleep.
        runner.decode(DECODE_TOKENS / 4)?;
        let decode = runner.decode(DECODE_TOKENS)?;
        let steps = step_millis(timer)?;
        let batches = BATCHES
            .iter()
            .map(|&n_sequences| runner.batch(n_sequences))
            .collect::<Result<_, _>>()?;
        let context_length = runner.engine.info().context_length;
        let lengths = PREFILL_TOKENS.iter().filter(|&&it| it < context_length);
        let prefill = lengths
            .map(|&n_tokens| runner.prefill(n_tokens))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            read,
            prefill,
            decode,
            steps,
            batches,
        })
    }
}

/// The medians of some steps of each number of rows, in turns: whatever else the machine does meets all of them alike.
fn step_millis(timer: &mut StepTimer) -> Result<Vec<f64>, EngineError> {
    let mut millis = vec![Vec::new(); STEP_ROWS.len()];
    for n_rows in STEP_ROWS {
        timer.step(n_rows)?;
    }
    let started = Instant::now();
    while millis[0].len() < MIN_STEPS || started.elapsed() < STEP_TIME * STEP_ROWS.len() as u32 {
        for (millis, n_rows) in millis.iter_mut().zip(STEP_ROWS) {
            millis.push(timer.step(n_rows)?.as_secs_f64() * 1e3);
        }
    }
    Ok(millis.into_iter().map(|it| Spread::of(it).median).collect())
}

/// The engine, and prompts that it has not seen.
struct Runner {
    engine: Engine,
    n_prompts: usize,
}

impl Runner {
    /// Tokens per second of reading a new prompt.
    fn prefill(&mut self, n_tokens: usize) -> Result<f64, EngineError> {
        let request = self.request(n_tokens, 1);
        let finish = self.engine.generate(request).blocking_collect()?.finish;
        Ok(n_tokens as f64 / finish.timings.prefill.as_secs_f64())
    }

    /// Tokens per second of writing `n_tokens` after the first one.
    fn decode(&mut self, n_tokens: usize) -> Result<f64, EngineError> {
        let request = self.request(BATCH_TOKENS, n_tokens + 1);
        let Finish { usage, timings, .. } = self.engine.generate(request).blocking_collect()?.finish;
        Ok((usage.generated_tokens - 1) as f64 / timings.decode.as_secs_f64())
    }

    /// Tokens per second of `n_sequences` that decode together, their prompts read before.
    fn batch(&mut self, n_sequences: usize) -> Result<f64, EngineError> {
        let requests: Vec<Request> = (0..n_sequences)
            .map(|_| self.request(BATCH_TOKENS, BATCH_TOKENS))
            .collect();
        for request in &requests {
            let mut warm_up = request.clone();
            warm_up.stop.max_tokens = 0;
            self.engine.generate(warm_up).blocking_collect()?;
        }
        let started = Instant::now();
        let generations: Vec<_> = requests
            .into_iter()
            .map(|request| self.engine.generate(request))
            .collect();
        let mut n_tokens = 0;
        for generation in generations {
            n_tokens += generation.blocking_collect()?.finish.usage.generated_tokens;
        }
        Ok(n_tokens as f64 / started.elapsed().as_secs_f64())
    }

    /// A request that gives `max_tokens` tokens, one a step and whatever the model thinks of it.
    fn request(&mut self, prompt_len: usize, max_tokens: usize) -> Request {
        self.n_prompts += 1;
        let vocab = self.engine.info().vocab;
        // The first token tells the prompts apart, so none finds another one's keys and values.
        let token = |idx: usize| ((self.n_prompts + idx * 7919) % vocab) as u32;
        Request {
            prompt: Prompt::Tokens((0..prompt_len).map(token).collect()),
            sampling: SamplingParams {
                copy: CopyMixing::Off,
                ..SamplingParams::default()
            },
            stop: StopCondition {
                max_tokens,
                ignore_end_tokens: true,
                ..StopCondition::default()
            },
            speculation: Speculation::Off,
            ..Request::default()
        }
    }
}

impl Speed {
    fn new(
        model: ModelFacts,
        timer: &StepTimer,
        working_sets: [usize; 2],
        memory: Option<Memory>,
        rounds: &[Round],
    ) -> Self {
        let spread = |value: &dyn Fn(&Round) -> f64| Spread::of(rounds.iter().map(value).collect());
        let [read_large, read_model] = [0, 1].map(|idx| ReadBandwidth {
            working_set_bytes: working_sets[idx],
            bytes_per_second: spread(&|round| round.read[idx]),
        });
        let tokens_per_second = spread(&|round| round.decode);
        let bytes_per_second = tokens_per_second.median * model.step_bytes as f64;
        let decode = Decode {
            tokens_per_second,
            bytes_per_second,
            share_of_bandwidth: bytes_per_second / read_model.bytes_per_second.median,
        };
        let prefill = (0..rounds[0].prefill.len()).map(|idx| Prefill {
            n_tokens: PREFILL_TOKENS[idx],
            tokens_per_second: spread(&|round| round.prefill[idx]),
        });
        let steps = STEP_ROWS.iter().enumerate().map(|(idx, &n_rows)| Step {
            n_rows,
            milliseconds: spread(&|round| round.steps[idx]),
            relative: spread(&|round| round.steps[idx] / round.steps[0]).median,
        });
        let batches = BATCHES.iter().enumerate().map(|(idx, &n_sequences)| Batch {
            n_sequences,
            tokens_per_second: spread(&|round| round.batches[idx]),
            scaling: spread(&|round| round.batches[idx] / round.batches[0]).median,
        });
        Self {
            prefill: prefill.collect(),
            decode,
            steps: steps.collect(),
            batches: batches.collect(),
            memory,
            n_rounds: rounds.len(),
            machine: MachineFacts {
                n_threads: timer.n_threads(),
                instructions: timer.instructions(),
                read_large,
                read_model,
            },
            model,
        }
    }

    /// Two charts: what a step costs by its rows, and what a batch gives by its sequences.
    pub fn charts(&self) -> Vec<Chart> {
        let widest = self.steps.last().map_or(1.0, |step| step.n_rows as f64);
        let largest = self.batches.last().map_or(1.0, |batch| batch.n_sequences as f64);
        vec![
            Chart {
                title: "What a step costs".to_owned(),
                x_label: "rows".to_owned(),
                y_label: "times a step of one row".to_owned(),
                lines: vec![
                    Line::solid(
                        &self.model.name,
                        self.steps.iter().map(|it| (it.n_rows as f64, it.relative)),
                    ),
                    Line::dashed("each row as dear as the first", [(1.0, 1.0), (widest, widest)]),
                ],
            },
            Chart {
                title: "What decoding together gives".to_owned(),
                x_label: "sequences".to_owned(),
                y_label: "times the tokens/s of one".to_owned(),
                lines: vec![
                    Line::solid(
                        &self.model.name,
                        self.batches.iter().map(|it| (it.n_sequences as f64, it.scaling)),
                    ),
                    Line::dashed(
                        "SGLang on a DGX Spark",
                        [(1.0, 1.0), (largest, SGLANG_RATES[1] / SGLANG_RATES[0])],
                    ),
                ],
            },
        ]
    }
}
