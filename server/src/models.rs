//! The models of this machine: where they lie, and what their headers say about running them here.

mod hugging_face;
mod ollama;
mod places;

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

use serde::Serialize;
use surmise_engine::{EngineOptions, FimSupport, ModelSummary, WeightSource, memory::SystemMemory};

pub use self::places::{Place, in_paths, in_usual_places};
use crate::{config::Config, model};

/// Something that may be a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it was found.
    pub place: Place,
    /// What the setting `model` calls it.
    pub setting: String,
    /// Its name in the program that keeps it, if that is not its path.
    pub title: Option<String>,
    /// Its files, or what is wrong with the place.
    pub source: Result<WeightSource, String>,
}

impl Found {
    fn file(place: Place, path: &Path) -> Self {
        Self {
            place,
            setting: shown(path),
            title: None,
            source: Ok(WeightSource::File(path.into())),
        }
    }
}

/// A model as a list shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// What the setting `model` calls it.
    pub model: String,
    /// Where it was found.
    pub place: Place,
    /// Its name in the program that keeps it, if it has one.
    pub title: Option<String>,
    /// Whether it is the one that the settings name.
    pub is_configured: bool,
    /// What its headers say, if it can be run.
    #[serde(flatten)]
    pub facts: Option<Facts>,
    /// Why it cannot be run, or not in this machine's memory.
    pub problem: Option<String>,
}

/// What the headers of a model say.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// Architecture, as GGUF names it.
    pub architecture: String,
    /// Numbers in all tensors.
    pub parameters: usize,
    /// Kind of files, and the type that most parameters are in.
    pub format: String,
    /// How it fills in the middle: `trained`, `in words` or `no`.
    pub fills_in_the_middle: &'static str,
    /// Bytes of weights in memory.
    pub weight_bytes: usize,
    /// Bytes of keys and values for 1,000 tokens.
    pub kv_bytes_per_1000_tokens: usize,
    /// Bytes of everything, with as many keys and values as the settings allow.
    pub total_bytes: usize,
    /// Tokens that the model was trained for.
    pub context_length: usize,
    /// Tokens of one sequence under the settings.
    pub allowed_context: usize,
    /// Tokens for which memory has room, up to those that it was trained for; none where the system does not say.
    pub fitting_context: Option<usize>,
}

/// Reads the headers of what was found, side by side.
pub fn list(found: Vec<Found>, config: &Config) -> Vec<Listed> {
    let options = model::options(&config.engine);
    let memory = SystemMemory::now();
    let n_threads = thread::available_parallelism().map_or(1, |n| n.get());
    let queue = Mutex::new(found.into_iter().enumerate());
    let listed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some((idx, found)) = next else { break };
                    let row = describe(found, config, &options, memory);
                    if let Ok(mut listed) = listed.lock() {
                        listed.push((idx, row));
                    }
                }
            });
        }
    });
    let mut listed = listed.into_inner().unwrap_or_default();
    listed.sort_by_key(|(idx, _)| *idx);
    listed.into_iter().map(|(_, row)| row).collect()
}

/// Reads the headers of one of them.
pub fn describe(
    found: Found,
    config: &Config,
    options: &EngineOptions,
    memory: Option<SystemMemory>,
) -> Listed {
    let is_configured = found.setting == config.model || is_same_file(&found, config);
    // What drafts for the configured model was made for no other.
    let options = EngineOptions {
        draft_model: options.draft_model.clone().filter(|_| is_configured),
        ..options.clone()
    };
    let summary = found.source.and_then(|source| {
        let summary = ModelSummary::read(&source, &options).map_err(|error| error.to_string())?;
        Ok(Facts::new(&summary, &source, memory))
    });
    let (facts, problem) = match summary {
        Ok((facts, problem)) => (Some(facts), problem),
        Err(problem) => (None, Some(problem)),
    };
    Listed {
        model: found.setting,
        place: found.place,
        title: found.title,
        is_configured,
        facts,
        problem,
    }
}

impl Facts {
    /// The facts, and what keeps the model out of memory, if anything does.
    fn new(
        summary: &ModelSummary,
        source: &WeightSource,
        memory: Option<SystemMemory>,
    ) -> (Self, Option<String>) {
        let ModelSummary {
            context_length, plan, ..
        } = *summary;
        let container = if source.path().is_dir() {
            "safetensors"
        } else {
            "GGUF"
        };
        let facts = Self {
            architecture: summary.architecture.clone(),
            parameters: summary.n_parameters,
            format: format!("{container} {}", summary.number_format),
            fills_in_the_middle: match summary.fim {
                FimSupport::Trained => "trained",
                FimSupport::Conversation => "in words",
                FimSupport::None => "no",
            },
            weight_bytes: plan.weight_bytes,
            kv_bytes_per_1000_tokens: plan.kv_bytes_per_token * 1000,
            total_bytes: plan.total_bytes(),
            context_length,
            allowed_context: plan.context_length,
            fitting_context: memory.map(|it| plan.fitting_context(it.available_bytes, context_length)),
        };
        let misfit = memory.and_then(|it| plan.check(it.available_bytes).err());
        (facts, misfit.map(|misfit| format!("needs {misfit}")))
    }
}

fn is_same_file(found: &Found, config: &Config) -> bool {
    let canonical = |source: &WeightSource| source.path().canonicalize().ok();
    let configured = model::source(config).ok().as_ref().and_then(canonical);
    let own = found.source.as_ref().ok().and_then(canonical);
    configured.is_some() && configured == own
}

/// A path as people write it: with `~` for their own folder.
pub fn shown(path: &Path) -> String {
    let in_home = model::home().and_then(|home| path.strip_prefix(home).ok().map(PathBuf::from));
    match in_home {
        Some(rest) => format!("~/{}", rest.display()),
        None => path.display().to_string(),
    }
}
