//! Loading: what a model's files hold, whether it fits, and the engine that comes of it.

use std::{sync::Arc, thread};

use super::{Engine, EngineOptions, FimSupport};
use crate::{
    chat_template::ChatTemplate,
    error::EngineError,
    fim::FimTemplate,
    kernels::{Isa, affinity, pool::ThreadPool},
    kv_cache::{BLOCK_LEN, KvCache},
    memory::{KvRoom, MemoryPlan, SystemMemory},
    model::{
        Checkpoint, Model, ModelConfig, load_model,
        transformer::{LoadOptions, Transformer},
    },
    speculative::{draft_model::DraftModel, eagle3::Eagle3, network::NetworkDrafter},
    tokenizer::Tokenizer,
    weights::{Gguf, WeightSource},
};

/// Most memory that a draft model's KV cache takes, in bytes.
const DRAFT_KV_CACHE_BYTES: usize = 256 << 20;

/// Most positions that the KV cache of an EAGLE-3 head holds: one layer of them, in memory taken as it is used.
const MAX_DRAFT_POSITIONS: usize = 1 << 17;

/// What loading a model is about to take, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Memory of the model.
    pub plan: MemoryPlan,
    /// Bytes of weights that are in memory, of `plan.weight_bytes`; 0 before anything is read.
    pub loaded_bytes: usize,
}

/// What a model's files hold, in either format.
pub(crate) struct ModelFiles {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) tokenizer: Tokenizer,
    fim: Option<FimTemplate>,
    chat: Result<Option<Arc<ChatTemplate>>, EngineError>,
    /// Empty if the files do not give it.
    pub(crate) name: String,
    /// The mixture of types that the weights are in, if the files name one.
    pub(crate) file_type: Option<&'static str>,
    copies: bool,
}

impl ModelFiles {
    /// Opens them; weights are not read.
    pub(crate) fn open(source: WeightSource) -> Result<Self, EngineError> {
        let files = Self::open_unchecked(source)?;
        let (n_tokens, vocab) = (files.tokenizer.vocab_size(), files.checkpoint.config().vocab);
        if n_tokens > vocab {
            return Err(EngineError::BadFile {
                path: files.checkpoint.weights().path().into(),
                field: "vocabulary".into(),
                reason: format!(
                    "{n_tokens} tokens found, at most the {vocab} rows of token_embd.weight expected"
                ),
            });
        }
        Ok(files)
    }

    /// How the model fills in the middle.
    pub(crate) fn fim_support(&self) -> FimSupport {
        match (&self.fim, &self.chat) {
            (Some(_), _) => FimSupport::Trained,
            (None, Ok(Some(_))) => FimSupport::Conversation,
            (None, _) => FimSupport::None,
        }
    }

    /// What the model takes of memory, and what drafts for it.
    pub(crate) fn memory_plan(&self, options: &EngineOptions) -> Result<MemoryPlan, EngineError> {
        let drafter_bytes = match &options.draft_model {
            Some(source) => drafter_bytes(source, &self.checkpoint, options)?,
            None => 0,
        };
        let n_tokens = self.tokenizer.vocab_size();
        Ok(MemoryPlan::new(
            &self.checkpoint,
            n_tokens,
            drafter_bytes,
            options,
        ))
    }

    fn open_unchecked(source: WeightSource) -> Result<Self, EngineError> {
        if let WeightSource::File(folder) = &source
            && folder.is_dir()
        {
            let tokenizer = Tokenizer::from_folder(folder)?;
            let name = folder.file_name().unwrap_or_default();
            return Ok(Self {
                checkpoint: Checkpoint::from_folder(folder)?,
                fim: FimTemplate::from_vocabulary(&tokenizer),
                chat: ChatTemplate::from_folder(folder).map(|it| it.map(Arc::new)),
                tokenizer,
                name: name.to_string_lossy().into_owned(),
                file_type: None,
                copies: false,
            });
        }
        let gguf = Gguf::open(source)?;
        let metadata = gguf.metadata();
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        Ok(Self {
            checkpoint: Checkpoint::from_gguf(&gguf)?,
            fim: FimTemplate::from_gguf(&gguf, &tokenizer),
            chat: ChatTemplate::from_gguf(&gguf).map(|it| it.map(Arc::new)),
            tokenizer,
            name: metadata.get_str("general.name")?.unwrap_or_default().to_owned(),
            file_type: gguf.file_type()?,
            copies: metadata.get_bool("surmise.copy")?.unwrap_or(false),
        })
    }
}

impl Engine {
    /// Loads the model of a GGUF file, or of a folder as Hugging Face lays it out, its tokenizer and its FIM template, and
    /// starts a thread that runs it. Files are mapped; weights are read as they are used.
    ///
    /// # Errors
    /// [`EngineError::Io`], [`EngineError::BadFile`] and [`EngineError::Unsupported`] for a file that cannot be used,
    /// with what was found and what would do; [`EngineError::TooLarge`] for one that does not fit in memory.
    pub fn load(source: WeightSource, options: EngineOptions) -> Result<Self, EngineError> {
        Self::load_with_progress(source, options, &|_| {})
    }

    /// As [`load`](Self::load); `progress` is told before weights are read, and often while they are.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with_progress(
        source: WeightSource,
        options: EngineOptions,
        progress: &dyn Fn(LoadProgress),
    ) -> Result<Self, EngineError> {
        Self::load_as(source, options, progress, |model| model)
    }

    /// As [`load`](Self::load), with what `wrap` makes of the model in its place.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_wrapped(
        source: WeightSource,
        options: EngineOptions,
        wrap: impl FnOnce(Box<dyn Model>) -> Box<dyn Model>,
    ) -> Result<Self, EngineError> {
        Self::load_as(source, options, &|_| {}, wrap)
    }

    fn load_as(
        source: WeightSource,
        mut options: EngineOptions,
        progress: &dyn Fn(LoadProgress),
        wrap: impl FnOnce(Box<dyn Model>) -> Box<dyn Model>,
    ) -> Result<Self, EngineError> {
        let mut files = ModelFiles::open(source)?;
        let plan = files.memory_plan(&options)?;
        let path = files.checkpoint.weights().path();
        let of_system = || SystemMemory::now().map(|it| it.available_bytes);
        if let Some(available_bytes) = options.available_bytes.or_else(of_system) {
            options.kv_cache_bytes = Some(plan.fit(path, available_bytes)?);
        }
        tracing::info!("loading {}: {}", path.display(), plan.summary());
        let context_length = KvRoom::new(files.checkpoint.config(), &options).context_length;
        files.checkpoint.run_within(context_length);
        progress(LoadProgress {
            plan,
            loaded_bytes: 0,
        });
        if options.model_name.is_empty() {
            options.model_name = files.name;
        }
        let model = Transformer::load_with(
            files.checkpoint.weights(),
            files.checkpoint.config().clone(),
            LoadOptions {
                n_threads: n_threads(options.threads),
                isa: Isa::detect(),
                quantize: options.quantize,
                progress: &|loaded_bytes| progress(LoadProgress { plan, loaded_bytes }),
            },
        )?;
        let tokenizer = files.tokenizer;
        let tokenizer = Arc::new(tokenizer);
        let drafter = match options.draft_model.take() {
            Some(source) => {
                let target = Target {
                    checkpoint: &files.checkpoint,
                    tokenizer: &tokenizer,
                    threads: model.threads(),
                };
                Some(load_drafter(source, target, &options)?)
            }
            None => None,
        };
        let model = wrap(Box::new(model));
        let mut engine = Self::start_with_drafter(model, drafter, tokenizer, files.fim, options)?;
        engine.info.copies = files.copies;
        engine.follow(files.chat);
        Ok(engine)
    }
}

/// Memory that the drafter of `source` takes beside its target.
fn drafter_bytes(
    source: &WeightSource,
    target: &Checkpoint,
    options: &EngineOptions,
) -> Result<usize, EngineError> {
    if Eagle3::recognises(source) {
        let n_positions = draft_positions(target, options);
        return Eagle3::planned_bytes(source.clone(), target, n_positions);
    }
    let files = ModelFiles::open(source.clone())?;
    let options = EngineOptions {
        quantize: None,
        draft_model: None,
        kv_cache_bytes: Some(draft_blocks(files.checkpoint.config(), options).1),
        ..options.clone()
    };
    Ok(files.memory_plan(&options)?.total_bytes())
}

/// Positions that the KV cache of an EAGLE-3 head holds.
fn draft_positions(target: &Checkpoint, options: &EngineOptions) -> usize {
    let asked_for = options.context_length.unwrap_or(usize::MAX);
    let context_length = target.config().context_length.min(asked_for);
    context_length
        .saturating_mul(options.max_running)
        .min(MAX_DRAFT_POSITIONS)
}

/// Blocks that the KV cache of a draft model holds, and their bytes.
fn draft_blocks(config: &ModelConfig, options: &EngineOptions) -> (usize, usize) {
    let block_bytes = KvCache::block_bytes(config, options.kv_cache_type).max(1);
    let context_blocks = config.context_length.div_ceil(BLOCK_LEN) + 1;
    let n_blocks = (DRAFT_KV_CACHE_BYTES / block_bytes).clamp(1, options.max_running * context_blocks);
    (n_blocks, n_blocks * block_bytes)
}

/// What a drafter drafts for.
struct Target<'a> {
    checkpoint: &'a Checkpoint,
    tokenizer: &'a Arc<Tokenizer>,
    threads: ThreadPool,
}

/// A drafter that runs the head or the model of `source` for a target, on its threads.
fn load_drafter(
    source: WeightSource,
    target: Target<'_>,
    options: &EngineOptions,
) -> Result<Box<dyn NetworkDrafter>, EngineError> {
    let Target {
        checkpoint,
        tokenizer: target_tokenizer,
        threads,
    } = target;
    let n_threads = n_threads(options.threads);
    if Eagle3::recognises(&source) {
        let n_positions = draft_positions(checkpoint, options);
        let mut head = Eagle3::load(source, checkpoint, options.tree, n_positions, n_threads)?;
        head.run_on(threads);
        return Ok(Box::new(head));
    }
    let mut files = ModelFiles::open(source)?;
    let context_length = KvRoom::new(checkpoint.config(), options).context_length;
    files.checkpoint.run_within(context_length);
    let tokenizer = Arc::new(files.tokenizer);
    let mut model = load_model(&files.checkpoint, n_threads)?;
    model.run_on(threads);
    let config = model.config();
    let (n_blocks, _) = draft_blocks(config, options);
    let cache = KvCache::with_type(config, n_blocks, options.kv_cache_type);
    let vocab = checkpoint.config().vocab;
    let target_tokenizer = Arc::clone(target_tokenizer);
    let drafter = DraftModel::new(Box::new(model), tokenizer, cache, target_tokenizer, vocab);
    Ok(Box::new(drafter))
}

/// Threads to run a model on, if `asked_for` of them are.
///
/// One thread for each physical core that this process may use, as two on one core would share its arithmetic, and spin. Of more than
/// [`MOST_USED_WHOLLY`] cores one is left to the editor and its other servers: the memory is busy without it.
pub(crate) fn n_threads(asked_for: Option<usize>) -> usize {
    asked_for
        .unwrap_or_else(|| {
            // The first knows of quotas, the second of processors that share a core.
            let usable = thread::available_parallelism().map_or(1, |n| n.get());
            of_cores(usable.min(affinity::n_cores()))
        })
        .max(1)
}

/// Cores that are all used; of more, one is left over.
const MOST_USED_WHOLLY: usize = 4;

fn of_cores(n_cores: usize) -> usize {
    n_cores - usize::from(n_cores > MOST_USED_WHOLLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_cores_leave_one_to_the_editor() {
        assert_eq!([1, 2, 4, 5, 8, 20].map(of_cores), [1, 2, 4, 4, 7, 19]);
        assert_eq!([Some(3), Some(0)].map(n_threads), [3, 1]);
        assert!(n_threads(None) >= 1);
    }
}
