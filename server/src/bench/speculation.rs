//! `surmise bench --speculation`: plain decoding against speculative decoding, task by task in turns.
//!
//! Completions are the model's own, and so are edits if it has tokens for rewriting, in functions where it does them right. Edits are dictated
//! to a model that does them nowhere, and so are quotations: its passes are run and their results replaced by a given text. What is measured
//! there is what drafts of such a text gain with a model of this cost, not whether the model could write it.

mod edits;
mod functions;

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;
use surmise_engine::{
    Answer, Engine, EngineError, EngineOptions, FimSupport, RewriteSupport, WeightSource,
    model::dictated::{Dictated, Dictation},
    request::{
        CopyMixing, DrafterStats, FimPrompt, Prompt, Request, RewritePrompt, RewriteTask, SamplingParams,
        Speculation, StopCondition,
    },
    speculative::drafter::DrafterKind,
};

use self::{
    edits::Edit,
    functions::{Function, functions},
};

use super::{
    chart::{Chart, Line},
    spread::Spread,
};
use crate::{
    document::with_lf,
    eval::hole::{Hole, holes},
    rewrite::idioms,
};

/// Bytes of a file that a completion's prompt shows before and after the cursor.
const CONTEXT_BYTES: (usize, usize) = (1100, 500);
/// Most tokens of a completion.
const COMPLETION_TOKENS: usize = 64;
/// Functions that are read for each task: some are too long for the model, and some edits find nothing to do.
const FUNCTIONS_PER_TASK: usize = 8;
/// Most files that drafts may be drawn from.
const MAX_OPEN_FILES: usize = 32;
/// Draft lengths that the chart compares.
const FIXED_LENGTHS: [usize; 6] = [1, 3, 7, 15, 31, 63];

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct SpeculationReport {
    /// Name of the model.
    pub model: String,
    /// Rounds, each with all tasks.
    pub n_rounds: usize,
    /// By workload.
    pub workloads: Vec<Workload>,
}

/// Tasks of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct Workload {
    /// What is asked for.
    pub name: &'static str,
    /// Whether the answers are given, rather than the model's own.
    pub is_dictated: bool,
    /// Tasks.
    pub n_tasks: usize,
    /// One token a step.
    pub plain_tokens_per_second: Spread,
    /// With drafts.
    pub tokens_per_second: Spread,
    /// The second over the first, round by round.
    pub gain: Spread,
    /// With drafts of a fixed length, if that was asked for.
    pub fixed: Vec<FixedLength>,
    /// What was drafted in all rounds.
    pub counts: Counts,
    /// The tasks as another engine can be given them, if that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<TaskTokens>,
}

/// A task in tokens of the model.
#[derive(Debug, Clone, Serialize)]
pub struct TaskTokens {
    /// What the model reads.
    pub prompt: Vec<u32>,
    /// Most tokens of the answer.
    pub max_tokens: usize,
    /// The answer, if it is given rather than the model's own.
    pub dictated: Option<Vec<u32>>,
}

/// Drafts of a fixed length.
#[derive(Debug, Clone, Serialize)]
pub struct FixedLength {
    /// Tokens asked for.
    pub draft_len: usize,
    /// Speed over that of plain decoding.
    pub gain: Spread,
    /// What was drafted in all rounds.
    pub counts: Counts,
}

/// What the drafters did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Counts {
    /// Forward passes.
    pub steps: usize,
    /// Tokens that they gave.
    pub emitted: usize,
    /// Milliseconds in drafting, verifying and committing.
    pub draft_ms: f64,
    /// As above.
    pub verify_ms: f64,
    /// As above.
    pub commit_ms: f64,
    /// Those that proposed anything.
    pub drafters: Vec<DrafterCounts>,
}

/// What one drafter did.
#[derive(Debug, Clone, Serialize)]
pub struct DrafterCounts {
    /// The drafter.
    pub name: &'static str,
    /// Forward passes that verified its drafts.
    pub steps: usize,
    /// Tokens proposed.
    pub proposed: usize,
    /// Tokens kept.
    pub accepted: usize,
    /// Tokens that the model put in place of the first wrong one.
    pub recovered: usize,
    /// Tokens gained after a whole draft was kept.
    pub bonus: usize,
    /// Tokens that each of those passes gave.
    pub tokens_per_step: f64,
}

impl Counts {
    fn add(&mut self, answer: &Answer) {
        let stats = &answer.finish.speculation;
        self.steps += stats.steps;
        self.emitted += stats.emitted;
        self.draft_ms += stats.draft_nanos as f64 / 1e6;
        self.verify_ms += stats.verify_nanos as f64 / 1e6;
        self.commit_ms += stats.commit_nanos as f64 / 1e6;
        for kind in DrafterKind::ALL {
            let DrafterStats {
                steps,
                proposed,
                accepted,
                recovered,
                bonus,
            } = *stats.of(kind);
            if steps == 0 {
                continue;
            }
            let known = self.drafters.iter().position(|it| it.name == kind.name());
            let idx = known.unwrap_or_else(|| {
                self.drafters.push(DrafterCounts {
                    name: kind.name(),
                    steps: 0,
                    proposed: 0,
                    accepted: 0,
                    recovered: 0,
                    bonus: 0,
                    tokens_per_step: 1.0,
                });
                self.drafters.len() - 1
            });
            let counts = &mut self.drafters[idx];
            counts.steps += steps;
            counts.proposed += proposed;
            counts.accepted += accepted;
            counts.recovered += recovered;
            counts.bonus += bonus;
            let gained = counts.accepted + counts.recovered + counts.bonus;
            counts.tokens_per_step = gained as f64 / counts.steps as f64;
        }
    }
}

/// Something to write.
struct Task {
    /// The file that it is about.
    path: PathBuf,
    prompt: Prompt,
    original: Option<String>,
    max_tokens: usize,
    /// The prompt's tokens and the answer's, if it is dictated.
    dictated: Option<(Vec<u32>, Vec<u32>)>,
}

/// Tokens and seconds of decoding.
#[derive(Clone, Copy, Default)]
struct Sum {
    tokens: usize,
    seconds: f64,
}

impl Sum {
    fn speed(self) -> f64 {
        self.tokens as f64 / self.seconds
    }
}

/// How much to measure.
#[derive(Debug, Clone)]
pub struct Effort {
    /// Names of the workloads to measure; all, if there are none.
    pub workloads: Vec<String>,
    /// Rounds with all tasks.
    pub n_rounds: usize,
    /// Tasks of each workload.
    pub n_tasks: usize,
    /// Whether drafts of fixed lengths are compared too.
    pub with_fixed_lengths: bool,
    /// Whether the report has the tokens of the tasks.
    pub with_tokens: bool,
}

/// Measures on the code of `folder`. `progress` is told of every task that is done.
///
/// # Errors
/// [`io::Error`] for a folder without code in it and for a model that cannot be loaded or run.
pub fn measure(
    source: &WeightSource,
    options: &EngineOptions,
    folder: &Path,
    effort: Effort,
    progress: &dyn Fn(&str),
) -> io::Result<SpeculationReport> {
    let holes = holes(folder, effort.n_tasks, 1)?;
    let functions = functions(folder, FUNCTIONS_PER_TASK * effort.n_tasks)?;
    let engine = Engine::load(source.clone(), options.clone()).map_err(io::Error::other)?;
    let (dictated, dictation) = dictated(source, options).map_err(io::Error::other)?;
    let mut names = vec!["complete"];
    names.extend(edits::ALL.iter().map(|it| it.name));
    names.push("quote");
    if let Some(unknown) = effort.workloads.iter().find(|it| !names.contains(&it.as_str())) {
        return Err(io::Error::other(format!(
            "expected a workload of {}, found `{unknown}`",
            names.join(", ")
        )));
    }
    let is_wanted = |name: &str| effort.workloads.is_empty() || effort.workloads.iter().any(|it| it == name);
    let mut workloads = Vec::new();
    if engine.info().fim != FimSupport::None && is_wanted("complete") {
        workloads.push(("complete", &engine, holes.iter().map(completion).collect()));
    }
    for edit in edits::ALL.iter().filter(|it| is_wanted(it.name)) {
        let own = own_edits(&engine, &functions, edit, effort.n_tasks).map_err(io::Error::other)?;
        if !own.is_empty() {
            workloads.push((edit.name, &engine, own));
            continue;
        }
        let tasks = functions.iter().filter_map(|function| {
            let edited = (edit.apply)(function)?;
            dictated_task(&dictated, function, &edited, true).transpose()
        });
        let tasks = tasks.take(effort.n_tasks).collect::<Result<_, _>>();
        workloads.push((edit.name, &dictated, tasks.map_err(io::Error::other)?));
    }
    let quotes = functions.iter().filter_map(|function| {
        let quote = edits::quote(&function.text());
        dictated_task(&dictated, function, &quote, false).transpose()
    });
    let quotes = quotes.take(effort.n_tasks).collect::<Result<_, _>>();
    workloads.push(("quote", &dictated, quotes.map_err(io::Error::other)?));
    workloads.retain(|(name, _, tasks): &(&str, _, Vec<Task>)| !tasks.is_empty() && is_wanted(name));
    if workloads.is_empty() {
        return Err(io::Error::other(format!(
            "no source files in {}",
            folder.display()
        )));
    }
    let tasks = workloads.iter().flat_map(|(.., tasks)| tasks);
    let open_files = OpenFiles::read(tasks.map(|it| it.path.as_path()));
    for engine in [&engine, &dictated] {
        idioms::show(engine);
        open_files.show(engine).map_err(io::Error::other)?;
    }
    let mut report = SpeculationReport {
        model: engine.info().model_name.clone(),
        n_rounds: effort.n_rounds,
        workloads: Vec::new(),
    };
    for (name, engine, tasks) in workloads {
        progress(name);
        let workload = run(engine, &dictation, &open_files, name, &tasks, &effort);
        let workload = workload.map_err(io::Error::other)?;
        report.workloads.push(workload);
    }
    Ok(report)
}

/// An engine that writes what it is told, at the price of the model of `source`.
fn dictated(source: &WeightSource, options: &EngineOptions) -> Result<(Engine, Dictation), EngineError> {
    let dictation = Dictation::default();
    let engine = Engine::load_wrapped(source.clone(), options.clone(), |model| {
        Box::new(Dictated::new(model, dictation.clone()))
    })?;
    Ok((engine, dictation))
}

/// The files that an editor would have open: drafts are drawn from all but the one that a task is about.
struct OpenFiles(Vec<(PathBuf, String)>);

impl OpenFiles {
    fn read<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        let mut paths: Vec<&Path> = paths.collect();
        paths.sort_unstable();
        paths.dedup();
        paths.truncate(MAX_OPEN_FILES);
        let files = paths.into_iter().filter_map(|path| {
            let text = std::fs::read_to_string(path).ok()?;
            Some((path.to_owned(), with_lf(&text).into_owned()))
        });
        Self(files.collect())
    }

    fn show(&self, engine: &Engine) -> Result<(), EngineError> {
        self.0
            .iter()
            .try_for_each(|(path, text)| show(engine, path, text))
    }

    /// Does `work` as if the file were closed.
    fn without<T>(
        &self,
        engine: &Engine,
        path: &Path,
        work: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        engine.remove_reference(&path.to_string_lossy());
        let outcome = work()?;
        let file = self.0.iter().find(|(known, _)| known == path);
        file.map_or(Ok(()), |(path, text)| show(engine, path, text))?;
        Ok(outcome)
    }
}

fn show(engine: &Engine, path: &Path, text: &str) -> Result<(), EngineError> {
    engine.set_reference(&path.to_string_lossy(), text)
}

fn completion(hole: &Hole) -> Task {
    let text = hole.document.excerpt(0..hole.document.text.len_bytes());
    let mut start = hole.at.saturating_sub(CONTEXT_BYTES.0);
    let mut end = (hole.at + CONTEXT_BYTES.1).min(text.len());
    while !text.is_char_boundary(start) {
        start += 1;
    }
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let at = hole.at.clamp(start, end);
    Task {
        path: hole.document.path.clone().unwrap_or_default(),
        prompt: Prompt::Fim(FimPrompt {
            prefix: text[start..at].to_owned(),
            suffix: text[at..end].to_owned(),
            ..FimPrompt::default()
        }),
        original: None,
        max_tokens: COMPLETION_TOKENS,
        dictated: None,
    }
}

/// Edits that the model was trained for and does right by itself: at most `n_tasks`, of functions that are short enough for it.
fn own_edits(
    engine: &Engine,
    functions: &[Function],
    edit: &Edit,
    n_tasks: usize,
) -> Result<Vec<Task>, EngineError> {
    let mut found = Vec::new();
    if engine.info().rewrite != RewriteSupport::Trained {
        return Ok(found);
    }
    let able = functions.iter().filter(|it| (edit.apply)(it).is_some());
    for function in able.take(FUNCTIONS_PER_TASK * n_tasks / 2) {
        let Some(task) = own_edit(engine, function, edit)? else {
            continue;
        };
        let answer = engine
            .generate(task.request(Speculation::Auto))
            .blocking_collect()?;
        if (edit.is_right)(function, &answer.text) {
            found.push(task);
        }
        if found.len() == n_tasks {
            break;
        }
    }
    Ok(found)
}

/// None for a function too long for the model.
fn own_edit(engine: &Engine, function: &Function, edit: &Edit) -> Result<Option<Task>, EngineError> {
    let text = function.text();
    let region = text.trim_end_matches('\n');
    let n_tokens = engine.tokenizer().encode(region, false)?.len();
    let max_tokens = n_tokens + n_tokens / 2;
    let fits = 2 * n_tokens + max_tokens < engine.info().context_length;
    let instruction = (edit.instruction)(function).filter(|_| fits);
    Ok(instruction.map(|instruction| Task {
        path: function.path().to_owned(),
        prompt: Prompt::Rewrite(RewritePrompt {
            task: RewriteTask::Instruction(instruction),
            region: region.to_owned(),
            path: None,
        }),
        original: None,
        max_tokens,
        dictated: None,
    }))
}

/// An answer about a function that is given; none where the two are too long for the model.
fn dictated_task(
    engine: &Engine,
    function: &Function,
    answer: &str,
    is_edit: bool,
) -> Result<Option<Task>, EngineError> {
    let text = function.text();
    let prompt = engine.tokenizer().encode(&text, false)?;
    let answer = engine.tokenizer().encode(answer, false)?;
    let fits = prompt.len() + answer.len() < engine.info().context_length;
    Ok(fits.then(|| Task {
        path: function.path().to_owned(),
        prompt: Prompt::Tokens(prompt.clone()),
        original: is_edit.then_some(text),
        max_tokens: answer.len(),
        dictated: Some((prompt, answer)),
    }))
}

fn run(
    engine: &Engine,
    dictation: &Dictation,
    open_files: &OpenFiles,
    name: &'static str,
    tasks: &[Task],
    effort: &Effort,
) -> Result<Workload, EngineError> {
    let fixed_lengths: &[usize] = if effort.with_fixed_lengths {
        &FIXED_LENGTHS
    } else {
        &[]
    };
    let mut policies = vec![Speculation::Off, Speculation::Auto];
    policies.extend(fixed_lengths.iter().map(|&len| Speculation::Fixed(len)));
    let mut counts = vec![Counts::default(); policies.len()];
    let mut speeds = vec![Vec::new(); policies.len()];
    let mut tokens = Vec::new();
    // The first round finds out what steps cost, and fills the caches.
    for round in 0..=effort.n_rounds {
        let mut sums = vec![Sum::default(); policies.len()];
        for task in tasks {
            if let Some((prompt, answer)) = &task.dictated {
                dictation.set(prompt, answer);
            }
            let answers: Vec<Answer> = open_files.without(engine, &task.path, || {
                let answers = policies
                    .iter()
                    .map(|&it| engine.generate(task.request(it)).blocking_collect());
                answers.collect()
            })?;
            for (idx, answer) in answers.iter().enumerate() {
                sums[idx].tokens += answer.finish.speculation.emitted;
                sums[idx].seconds += answer.finish.timings.decode.as_secs_f64();
                if round > 0 {
                    counts[idx].add(answer);
                }
            }
            if round == 0 && effort.with_tokens {
                tokens.push(task.tokens(engine, &answers[0])?);
            }
        }
        if round > 0 && sums[0].tokens > 0 {
            for (speeds, sum) in speeds.iter_mut().zip(sums) {
                speeds.push(sum.speed());
            }
        }
    }
    let gain = |idx: usize| {
        let pairs = speeds[idx].iter().zip(&speeds[0]);
        Spread::of(pairs.map(|(speed, plain): (&f64, &f64)| speed / plain).collect())
    };
    let mut counts = counts.into_iter().skip(1);
    Ok(Workload {
        name,
        is_dictated: tasks.iter().any(|it| it.dictated.is_some()),
        n_tasks: tasks.len(),
        plain_tokens_per_second: Spread::of(speeds[0].clone()),
        tokens_per_second: Spread::of(speeds[1].clone()),
        gain: gain(1),
        counts: counts.next().unwrap_or_default(),
        fixed: (2..policies.len())
            .zip(counts)
            .map(|(idx, counts)| FixedLength {
                draft_len: fixed_lengths[idx - 2],
                gain: gain(idx),
                counts,
            })
            .collect(),
        tokens,
    })
}

impl Task {
    fn request(&self, speculation: Speculation) -> Request {
        let is_dictated = self.dictated.is_some();
        Request {
            prompt: self.prompt.clone(),
            sampling: SamplingParams {
                copy: if is_dictated {
                    CopyMixing::Off
                } else {
                    CopyMixing::Auto
                },
                ..SamplingParams::default()
            },
            stop: StopCondition {
                max_tokens: self.max_tokens,
                ignore_end_tokens: is_dictated,
                ..StopCondition::default()
            },
            speculation,
            original: self.original.clone(),
            ..Request::default()
        }
    }

    /// The task in tokens; `answer` is one to it.
    fn tokens(&self, engine: &Engine, answer: &Answer) -> Result<TaskTokens, EngineError> {
        let mut prompt = engine.prompt_tokens(&self.prompt)?.into_owned();
        // The end of a completion's prompt may have been taken away to be written anew.
        prompt.truncate(answer.finish.usage.prompt_tokens);
        Ok(TaskTokens {
            prompt,
            max_tokens: self.max_tokens,
            dictated: self.dictated.as_ref().map(|(_, answer)| answer.clone()),
        })
    }
}

impl SpeculationReport {
    /// How many times as fast all edits were, one after the other; none where there were fewer than two kinds.
    pub fn gain_on_edits(&self) -> Option<f64> {
        let is_edit = |workload: &&Workload| edits::ALL.iter().any(|edit| edit.name == workload.name);
        let edits: Vec<&Workload> = self.workloads.iter().filter(is_edit).collect();
        let seconds = |speed: fn(&Workload) -> f64| -> f64 {
            let of_each = edits.iter().map(|it| it.counts.emitted as f64 / speed(it));
            of_each.sum()
        };
        let plain = seconds(|it| it.plain_tokens_per_second.median);
        (edits.len() > 1).then(|| plain / seconds(|it| it.tokens_per_second.median))
    }

    /// By length of drafts: the gain in each workload, and what each drafter gave in all of them.
    pub fn charts(&self) -> Vec<Chart> {
        let chart = |title: &str, y_label: &str, lines| Chart {
            title: title.to_owned(),
            x_label: "rows in a step".to_owned(),
            y_label: y_label.to_owned(),
            lines,
        };
        let gains = self.workloads.iter().filter(|it| !it.fixed.is_empty());
        let gains = gains.map(|workload| {
            let points = workload.fixed.iter();
            let points = points.map(|it| ((it.draft_len + 1) as f64, it.gain.median));
            Line::solid(workload.name, points)
        });
        vec![
            chart(
                "Drafts of a fixed length",
                "speed over plain decoding",
                gains.collect(),
            ),
            chart(
                "What each drafter gives",
                "tokens in a step",
                self.by_drafter(|it| it.accepted + it.recovered + it.bonus, |it| it.steps),
            ),
            chart(
                "What is accepted of it",
                "% of the tokens proposed",
                self.by_drafter(|it| 100 * it.accepted, |it| it.proposed),
            ),
        ]
    }

    /// A line for each drafter: `part` of all workloads together over `whole`, by length of drafts.
    fn by_drafter(&self, part: fn(&DrafterCounts) -> usize, whole: fn(&DrafterCounts) -> usize) -> Vec<Line> {
        let line = |kind: DrafterKind| {
            let points = FIXED_LENGTHS.iter().enumerate().filter_map(|(idx, len)| {
                let counts = self.workloads.iter().filter_map(|it| it.fixed.get(idx));
                let own = counts.flat_map(|it| &it.counts.drafters);
                let own = own.filter(|it| it.name == kind.name());
                let (part, whole) = own.fold((0, 0), |sum, it| (sum.0 + part(it), sum.1 + whole(it)));
                (part > 0).then(|| ((len + 1) as f64, part as f64 / whole as f64))
            });
            let points: Vec<_> = points.collect();
            (!points.is_empty()).then(|| Line::solid(&kind.name().replace('_', " "), points))
        };
        DrafterKind::ALL.into_iter().filter_map(line).collect()
    }
}
