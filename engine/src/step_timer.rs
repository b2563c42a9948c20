//! Single forward passes under a stopwatch, without scheduling, drafts or sampling: what verifying n - 1 drafts costs.

use std::time::{Duration, Instant};

use crate::{
    EngineOptions, WeightSource,
    engine::n_threads,
    error::EngineError,
    kernels::Isa,
    kv_cache::{BLOCK_LEN, CachedSequence, KvCache},
    model::{Batch, Checkpoint, Model, Row, load_model, transformer::Transformer},
    weights::Gguf,
};

/// A model with one sequence in its KV cache, of which the last rows are run again and again.
pub struct StepTimer {
    model: Transformer,
    cache: KvCache,
    sequence: CachedSequence,
    n_threads: usize,
    step_bytes: usize,
    weight_bytes: usize,
    rows: Vec<Row>,
    logits: Vec<f32>,
}

impl StepTimer {
    /// Loads the model of a GGUF file and fills a sequence with `context_len` positions; steps may have `max_rows`
    /// rows. Of the options, those for threads and for the number format of the KV cache count.
    ///
    /// # Errors
    /// As [`Engine::load`](crate::Engine::load).
    pub fn load(
        source: WeightSource,
        options: &EngineOptions,
        context_len: usize,
        max_rows: usize,
    ) -> Result<Self, EngineError> {
        let gguf = Gguf::open(source)?;
        let n_threads = n_threads(options.threads);
        let model = load_model(&Checkpoint::from_gguf(&gguf)?, n_threads)?;
        let n_blocks = (context_len + max_rows).div_ceil(BLOCK_LEN);
        let mut cache = KvCache::with_type(model.config(), n_blocks, options.kv_cache_type);
        let mut sequence = CachedSequence::default();
        cache.reserve(&mut sequence, context_len + max_rows)?;
        let mut timer = Self {
            step_bytes: step_bytes(&gguf),
            weight_bytes: gguf.tensors().map(|tensor| tensor.n_bytes()).sum(),
            model,
            cache,
            sequence,
            n_threads,
            rows: Vec::new(),
            logits: Vec::new(),
        };
        timer.forward(0, context_len, false)?;
        let tokens: Vec<u32> = timer.rows.iter().map(|row| row.token).collect();
        timer.cache.commit(&mut timer.sequence, &tokens);
        Ok(timer)
    }

    /// Runs `n_rows` rows, each with logits, after what the sequence holds, and forgets them; returns how long it
    /// took. Allocates if there were fewer rows before.
    ///
    /// # Errors
    /// As [`Model::forward`].
    ///
    /// # Panics
    /// If there are more rows than were announced.
    pub fn step(&mut self, n_rows: usize) -> Result<Duration, EngineError> {
        self.forward(self.sequence.len(), n_rows, true)
    }

    /// Threads that run the model.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Name of the instructions that the kernels use.
    pub fn instructions(&self) -> &'static str {
        Isa::detect().name()
    }

    /// Bytes of weights that a step of one row reads.
    pub fn step_bytes(&self) -> usize {
        self.step_bytes
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    fn forward(&mut self, start: usize, n_rows: usize, wants_logits: bool) -> Result<Duration, EngineError> {
        let vocab = self.model.config().vocab;
        self.rows.clear();
        self.rows.extend((start..start + n_rows).map(|position| {
            // Any tokens do, as long as they differ.
            let token = (position * 7919 % vocab) as u32;
            Row::chain(token, position, 0, wants_logits)
        }));
        let batch = Batch {
            rows: &self.rows,
            sequences: &[&self.sequence],
        };
        let started = Instant::now();
        self.model.forward(batch, &mut self.cache, &mut self.logits)?;
        Ok(started.elapsed())
    }
}

/// All tensors, but for an embedding of its own: of that, a step reads one row.
fn step_bytes(gguf: &Gguf) -> usize {
    let is_tied = gguf.tensor("output.weight").is_none();
    gguf.tensors()
        .filter(|tensor| is_tied || tensor.name != "token_embd.weight")
        .map(|tensor| tensor.n_bytes())
        .sum()
}
