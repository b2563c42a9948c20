//! The engine thread: it alone owns the model and the KV cache, takes in commands and runs step after step.
//!
//! A step: notice cancellations, admit, share out rows, draft, reserve blocks, one forward pass over the rows of all
//! sequences, then verify, emit and commit for each. Without work the thread first measures what steps cost, and then
//! sleeps on the channel.

use std::{
    cell::OnceCell,
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use crate::{
    engine::EngineStatus,
    error::EngineError,
    kv_cache::{CachedSequence, KvCache},
    model::{Batch, Model, Row},
    read_speed::{self, ReadSpeed},
    scheduler::{Pending, StepLimits, share_rows},
    sequence::Sequence,
    speculative::{
        network::{NetworkDrafter, USUAL_RUNNING},
        policy::{Balance, Experience, StepCosts, StepLoad},
    },
};

/// What the engine thread can be told. A cancellation is a flag that its sequence carries.
pub(crate) enum Command {
    Generate(Box<Sequence>),
    Stop,
}

pub(crate) struct EngineLoop {
    model: Box<dyn Model>,
    cache: KvCache,
    limits: StepLimits,
    max_running: usize,
    /// Urgent ones start first, and each kind in order of arrival.
    waiting: VecDeque<Sequence>,
    /// In order of admission.
    running: Vec<Sequence>,
    /// The first one waiting that is not urgent had no room; it is tried again when somebody is through.
    is_full: bool,
    costs: StepCosts,
    read_speed: ReadSpeed,
    /// Whether a forward pass has run: the first one takes what is not repeated, such as pages from the system.
    is_warm: bool,
    /// How long it has to be quiet before steps are run only to measure them.
    quiet: Duration,
    clock: Box<dyn Fn() -> Instant + Send>,
    network: Option<Network>,
    /// What a look through all weights has found, once one was needed.
    numbers: OnceCell<Result<(), EngineError>>,
    /// Sequences submitted so far.
    n_submitted: u64,
    n_steps: u64,
    status: Arc<Mutex<EngineStatus>>,
    // Kept between steps for their memory.
    rows: Vec<Row>,
    row_shares: Vec<usize>,
    pending: Vec<Pending>,
    kept: Vec<usize>,
    logits: Vec<f32>,
}

/// A drafter with a network, and how long it takes.
struct Network {
    drafter: Box<dyn NetworkDrafter>,
    /// Decayed mean of seconds that one call for drafts takes.
    draft_seconds: f64,
    /// What the last sequence to end knew of its drafts.
    experience: Experience,
    balance: Balance,
    /// Of one sequence, kept between steps for its memory.
    captured: Vec<f32>,
}

/// Weight of a new measurement of it.
const NETWORK_RECENCY: f64 = 0.2;

/// Whoever starts a process for one request has asked for it by then.
const QUIET: Duration = Duration::from_millis(500);

impl EngineLoop {
    pub(crate) fn new(
        model: Box<dyn Model>,
        network: Option<Box<dyn NetworkDrafter>>,
        cache: KvCache,
        limits: StepLimits,
        max_running: usize,
        status: Arc<Mutex<EngineStatus>>,
    ) -> Self {
        let engine_loop = Self {
            model,
            cache,
            limits: StepLimits {
                prefill_rows: limits.prefill_rows.max(1),
                prefill_rows_beside_decode: limits.prefill_rows_beside_decode.max(1),
            },
            max_running,
            waiting: VecDeque::new(),
            running: Vec::new(),
            is_full: false,
            costs: StepCosts::default(),
            read_speed: ReadSpeed::default(),
            is_warm: false,
            quiet: QUIET,
            clock: Box::new(Instant::now),
            network: network.map(|drafter| Network {
                drafter,
                draft_seconds: 0.0,
                experience: Experience::default(),
                balance: Balance::default(),
                captured: Vec::new(),
            }),
            numbers: OnceCell::new(),
            n_submitted: 0,
            n_steps: 0,
            status,
            rows: Vec::new(),
            row_shares: Vec::new(),
            pending: Vec::new(),
            kept: Vec::new(),
            logits: Vec::new(),
        };
        engine_loop.publish_status();
        engine_loop
    }

    /// Runs until told to stop, and then cancels what is left.
    pub(crate) fn run(&mut self, commands: &Receiver<Command>) {
        loop {
            let command = if self.is_idle() {
                self.wait(commands)
            } else {
                commands.try_recv()
            };
            match command {
                Ok(Command::Generate(sequence)) => self.submit(*sequence),
                Err(TryRecvError::Empty) => self.step(),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return self.cancel_all(),
            }
        }
    }

    /// Waits for the next command. What is still to be measured is measured meanwhile, a step at a time.
    fn wait(&mut self, commands: &Receiver<Command>) -> Result<Command, TryRecvError> {
        let mut quiet = self.quiet;
        while let Some(width) = self.costs.unmeasured_width() {
            match commands.recv_timeout(quiet) {
                Ok(command) => return Ok(command),
                Err(RecvTimeoutError::Disconnected) => return Err(TryRecvError::Disconnected),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Err(error) = self.measure_step(width) {
                tracing::debug!("steps of {width} rows are not measured beforehand: {error}");
                break;
            }
            quiet = Duration::ZERO;
        }
        commands.recv().map_err(|_| TryRecvError::Disconnected)
    }

    /// Runs a step of `n_rows` rows that belong to no sequence, and records what it costs. The very first one is only run.
    ///
    /// # Errors
    /// [`EngineError::CacheFull`] where the KV cache has no room for them, and those of the model.
    fn measure_step(&mut self, n_rows: usize) -> Result<(), EngineError> {
        let vocab = self.model.config().vocab;
        let mut cached = CachedSequence::default();
        let outcome = self.cache.reserve(&mut cached, n_rows).and_then(|()| {
            // Any tokens do, as long as they differ.
            let rows =
                (0..n_rows).map(|position| Row::chain((position * 7919 % vocab) as u32, position, 0, true));
            let rows: Vec<Row> = rows.collect();
            let batch = Batch {
                rows: &rows,
                sequences: &[&cached],
            };
            // Taken from the system before the clock runs, and given back after it.
            let mut logits = vec![f32::NAN; n_rows * vocab];
            let start = (self.clock)();
            self.model.forward(batch, &mut self.cache, &mut logits)?;
            Ok((self.clock)() - start)
        });
        self.cache.close(cached);
        let duration = outcome?;
        if self.is_warm {
            self.costs.record(n_rows, duration);
            // With logits wide steps take longer than those that read.
            if n_rows < read_speed::WIDE {
                self.read_speed.record(n_rows, duration);
                self.publish_status();
            }
        }
        self.is_warm = true;
        Ok(())
    }

    /// Queues a sequence.
    pub(crate) fn submit(&mut self, mut sequence: Sequence) {
        self.n_submitted += 1;
        sequence.number = self.n_submitted;
        if let Some(network) = &mut self.network
            && (!sequence.speculator.is_automatic() || network.balance.is_worth_using())
        {
            let kind = network.drafter.kind();
            sequence.speculator.add_network(kind, network.experience.clone());
        }
        self.waiting.push_back(sequence);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// One forward pass with all that belongs to it.
    pub(crate) fn step(&mut self) {
        for sequence in self.running.iter_mut().chain(&mut self.waiting) {
            sequence.notice_cancellation();
        }
        self.retire();
        self.admit();
        self.share_step();
        self.reserve_blocks();
        if let Err(error) = self.forward() {
            for sequence in &mut self.running {
                sequence.fail(error.clone());
            }
        }
        self.retire();
    }

    fn cancel_all(&mut self) {
        for sequence in self.running.iter_mut().chain(&mut self.waiting) {
            sequence.cancel();
        }
        self.retire();
    }

    /// Starts waiting sequences while there is room for their prompts: first those that somebody waits for at each key, then
    /// by order of arrival. For the former, the youngest of the others make way.
    fn admit(&mut self) {
        while let Some(mut sequence) = self.take_next_waiting() {
            let has_place = self.running.len() < self.max_running || sequence.is_urgent && self.make_way();
            if !has_place || self.is_full && !sequence.is_urgent && !self.running.is_empty() {
                self.waiting.push_front(sequence);
                break;
            }
            sequence.cached = self.cache.open(&sequence.tokens);
            let is_drafted_for = sequence.speculator.network_experience().is_some();
            if let Some(network) = self.network.as_mut().filter(|_| is_drafted_for) {
                let n_known = network.drafter.open(sequence.number, &sequence.tokens);
                self.cache.truncate(&mut sequence.cached, n_known);
            }
            let n_pending = sequence.n_pending();
            if let Err(error) = self.cache.reserve(&mut sequence.cached, n_pending) {
                self.give_back(&mut sequence);
                let goes_on = sequence.is_urgent && self.make_way();
                self.is_full = true;
                if self.running.is_empty() && !goes_on {
                    sequence.fail(error);
                    self.is_full = false;
                }
                self.waiting.push_front(sequence);
                if goes_on {
                    continue;
                }
                break;
            }
            sequence.start();
            self.running.push(sequence);
        }
    }

    /// Sends the youngest sequence that is not urgent back to the queue, if there is one.
    fn make_way(&mut self) -> bool {
        self.preempt(|it| !it.is_urgent).is_some()
    }

    /// Takes who is to be started next from the queue.
    fn take_next_waiting(&mut self) -> Option<Sequence> {
        let urgent = self.waiting.iter().position(|it| it.is_urgent);
        self.waiting.remove(urgent.unwrap_or(0))
    }

    /// Decides which pending tokens run in this step, and drafts.
    fn share_step(&mut self) {
        self.pending.clear();
        self.pending.extend(self.running.iter().map(|it| Pending {
            n_tokens: it.n_pending(),
            is_urgent: it.is_urgent,
        }));
        share_rows(&self.pending, self.limits, &mut self.row_shares);
        for (sequence, &share) in self.running.iter_mut().zip(&self.row_shares) {
            sequence.n_step_tokens = share;
        }
        let mut load = StepLoad {
            n_rows: self.row_shares.iter().sum(),
            n_tokens: self.running.iter().filter(|it| it.reaches_end()).count() as f64,
        };
        for sequence in &mut self.running {
            load = sequence.look_up_draft(load, &self.costs);
        }
        self.draft_by_network(load);
    }

    /// Lets the network draft where nothing was found. If it fails, the step and all later ones go on without it.
    fn draft_by_network(&mut self, mut load: StepLoad) {
        let Some(network) = &mut self.network else {
            return;
        };
        let seconds = network.draft_seconds;
        let running = self.running.iter_mut();
        let mut asking: SmallVec<[_; USUAL_RUNNING]> = running
            .filter_map(|it| it.wants_network(load, &self.costs, seconds).then_some(it))
            .collect();
        let tasks = asking.iter_mut().filter_map(|it| it.network_task());
        let mut tasks: SmallVec<[_; USUAL_RUNNING]> = tasks.collect();
        if tasks.is_empty() {
            return;
        }
        let start = Instant::now();
        let outcome = network.drafter.draft(&mut tasks);
        let has_drafted = tasks.iter().any(|it| !it.draft.is_empty());
        drop(tasks);
        let duration = start.elapsed();
        if let Err(error) = outcome {
            tracing::error!("no more drafts from the {}: {error}", network.drafter.kind());
            self.network = None;
            return;
        }
        let seconds = duration.as_secs_f64();
        // It may only have read a part of a prompt.
        if has_drafted {
            network.draft_seconds = match network.draft_seconds {
                0.0 => seconds,
                mean => mean + NETWORK_RECENCY * (seconds.min(4.0 * mean) - mean),
            };
        }
        let share = seconds / asking.len() as f64;
        for sequence in asking {
            sequence.network_seconds += share;
            load = sequence.speculator.propose_network(load, &self.costs, duration);
        }
    }

    /// Lets the network see what the target has just run for a sequence: `rows` of the forward pass.
    fn observe(
        network: &mut Option<Network>,
        model: &dyn Model,
        sequence: &Sequence,
        first_row: usize,
        kept: &[usize],
    ) {
        let Some(Network {
            drafter, captured, ..
        }) = network
        else {
            return;
        };
        let n_layers = drafter.captured_layers().len();
        if n_layers == 0 || sequence.speculator.network_experience().is_none() {
            return;
        }
        let width = n_layers * model.config().hidden;
        let row = |row: usize| &model.captured()[(first_row + row) * width..][..width];
        let nodes = kept.iter().map(|node| sequence.n_step_tokens + node);
        captured.clear();
        for idx in (0..sequence.n_step_tokens).chain(nodes) {
            captured.extend_from_slice(row(idx));
        }
        let first = sequence.cached.len();
        if let Err(error) = drafter.observe(sequence.number, &sequence.tokens, first, captured) {
            tracing::error!("no more drafts from the {}: {error}", drafter.kind());
            *network = None;
        }
    }

    /// Takes the blocks of a sequence that does not run any more, here and in the network's cache.
    fn give_back(&mut self, sequence: &mut Sequence) {
        self.cache.close(std::mem::take(&mut sequence.cached));
        if let Some(network) = &mut self.network {
            network.drafter.close(sequence.number);
        }
    }

    /// Gives the step's rows their blocks. Where there are not enough, drafts are dropped first; then the youngest
    /// sequence goes back to the queue, an urgent one only if there is no other, where it keeps its tokens and runs them again later.
    fn reserve_blocks(&mut self) {
        let mut sequence_idx = 0;
        while sequence_idx < self.running.len() {
            let is_alone = self.running.len() == 1;
            let sequence = &mut self.running[sequence_idx];
            let n_rows = sequence.n_step_rows();
            let Err(error) = self.cache.reserve(&mut sequence.cached, n_rows) else {
                sequence_idx += 1;
                continue;
            };
            if !sequence.speculator.proposed().is_empty() {
                sequence.speculator.withdraw();
            } else if !is_alone {
                let preempted = self.preempt(|_| true);
                sequence_idx -= usize::from(preempted.is_some_and(|it| it < sequence_idx));
            } else {
                sequence.fail(error);
                return self.retire();
            }
        }
    }

    /// Sends the youngest sequence that `may_go` back to the queue, if there is one; those that nobody waits for at each key go
    /// first. Returns its index.
    fn preempt(&mut self, may_go: impl Fn(&Sequence) -> bool) -> Option<usize> {
        let running = self.running.iter().enumerate().filter(|(_, it)| may_go(it));
        let (idx, _) = running.max_by_key(|(idx, it)| (!it.is_urgent, *idx))?;
        let mut sequence = self.running.remove(idx);
        self.give_back(&mut sequence);
        self.waiting.push_front(sequence);
        self.is_full = true;
        Some(idx)
    }

    /// Runs the step's rows, and gives each sequence its logits.
    fn forward(&mut self) -> Result<(), EngineError> {
        self.rows.clear();
        for (sequence_idx, sequence) in self.running.iter().enumerate() {
            sequence.push_rows(sequence_idx, &mut self.rows);
        }
        if self.rows.is_empty() {
            return Ok(());
        }
        let sequences: SmallVec<[_; USUAL_RUNNING]> = self.running.iter().map(|it| &it.cached).collect();
        let batch = Batch {
            rows: &self.rows,
            sequences: &sequences,
        };
        let start = (self.clock)();
        self.model.forward(batch, &mut self.cache, &mut self.logits)?;
        let duration = (self.clock)() - start;
        drop(sequences);
        self.n_steps += 1;
        let was_warm = std::mem::replace(&mut self.is_warm, true);
        // Rows of a prompt cost less: they have no logits.
        let n_with_logits = self.rows.iter().filter(|row| row.wants_logits).count();
        if n_with_logits == self.rows.len() {
            self.costs.record(self.rows.len(), duration);
        } else if was_warm && 2 * n_with_logits < self.rows.len() {
            self.read_speed.record(self.rows.len(), duration);
        }

        let vocab = self.model.config().vocab;
        let mut logits = self.logits.as_slice();
        let mut first_row = 0;
        for sequence in &mut self.running {
            let n_rows = sequence.n_step_rows();
            let (own, others) = logits.split_at(sequence.n_wanted_rows() * vocab);
            logits = others;
            let start = Instant::now();
            sequence.advance(own, duration, &mut self.kept);
            let kept = self.kept.as_slice();
            let observing = Instant::now();
            Self::observe(&mut self.network, &*self.model, sequence, first_row, kept);
            sequence.network_seconds += observing.elapsed().as_secs_f64();
            first_row += n_rows;
            let cached_len = sequence.cached.len();
            let n_run = cached_len + sequence.n_step_tokens;
            self.cache.keep_path(&sequence.cached, n_run, kept);
            let committed = &sequence.tokens[cached_len..n_run + kept.len()];
            self.cache.commit(&mut sequence.cached, committed);
            sequence.speculator.stats.commit_nanos += start.elapsed().as_nanos() as u64;
        }
        Ok(())
    }

    /// Gives back the blocks of all sequences that are over, and sends their last events after that.
    fn retire(&mut self) {
        let mut over: Vec<_> = self.running.extract_if(.., |it| it.is_over()).collect();
        for sequence in &mut over {
            let look = || self.numbers.get_or_init(|| self.model.require_numbers()).clone();
            sequence.explain_failure(look);
            self.give_back(sequence);
            self.is_full = false;
            let experience = sequence.speculator.network_experience();
            if let (Some(network), Some(experience)) = (&mut self.network, experience) {
                network.experience = experience.clone();
                let stats = sequence.speculator.stats.of(network.drafter.kind());
                let (n_steps, n_proposed, n_accepted) = (stats.steps, stats.proposed, stats.accepted);
                let seconds = sequence.network_seconds;
                let balance = &mut network.balance;
                balance.note(n_steps, n_proposed, n_accepted, seconds, &self.costs);
            }
        }
        if self.waiting.iter().any(|it| it.is_over()) {
            let (called_off, waiting) = self
                .waiting
                .drain(..)
                .partition::<VecDeque<_>, _>(|it| it.is_over());
            over.extend(called_off);
            self.waiting = waiting;
        }
        self.publish_status();
        for sequence in over {
            sequence.report();
        }
    }

    fn publish_status(&self) {
        // A poisoned lock only means that a reader panicked.
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = EngineStatus {
            n_running: self.running.len(),
            n_waiting: self.waiting.len(),
            n_steps: self.n_steps,
            n_blocks: self.cache.n_blocks(),
            n_held_blocks: self.cache.n_held_blocks(),
            n_used_blocks: self.cache.n_blocks() - self.cache.n_free_blocks(),
            read_speed: self.read_speed.tokens_per_second(),
        };
    }
}

#[cfg(test)]
mod tests;
