//! The engine thread: it alone owns the model and the KV cache, takes in commands and runs step after step.
//!
//! A step: notice cancellations, admit, share out rows, draft, reserve blocks, one forward pass over the rows of all
//! sequences, then verify, emit and commit for each. Without work the thread sleeps on the channel.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, TryRecvError},
    },
    time::Instant,
};

use crate::{
    engine::EngineStatus,
    error::EngineError,
    kv_cache::KvCache,
    model::{Batch, Model, Row},
    scheduler::{StepLimits, share_rows},
    sequence::Sequence,
    speculative::policy::{StepCosts, StepLoad},
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
    /// In order of arrival.
    waiting: VecDeque<Sequence>,
    /// In order of admission.
    running: Vec<Sequence>,
    /// The first one waiting did not fit into the KV cache; it is tried again when blocks are given back.
    is_full: bool,
    costs: StepCosts,
    n_steps: u64,
    status: Arc<Mutex<EngineStatus>>,
    // Kept between steps for their memory.
    rows: Vec<Row>,
    row_shares: Vec<usize>,
    pending: Vec<usize>,
    logits: Vec<f32>,
}

impl EngineLoop {
    pub(crate) fn new(
        model: Box<dyn Model>,
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
            n_steps: 0,
            status,
            rows: Vec::new(),
            row_shares: Vec::new(),
            pending: Vec::new(),
            logits: Vec::new(),
        };
        engine_loop.publish_status();
        engine_loop
    }

    /// Runs until told to stop, and then cancels what is left.
    pub(crate) fn run(&mut self, commands: &Receiver<Command>) {
        loop {
            let command = if self.is_idle() {
                commands.recv().map_err(|_| TryRecvError::Disconnected)
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

    /// Queues a sequence.
    pub(crate) fn submit(&mut self, sequence: Sequence) {
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

    /// Starts waiting sequences, first come, first served, while there is room for their prompts.
    fn admit(&mut self) {
        while self.running.len() < self.max_running && !self.is_full {
            let Some(mut sequence) = self.waiting.pop_front() else {
                break;
            };
            sequence.cached = self.cache.open(&sequence.tokens);
            let n_pending = sequence.n_pending();
            match self.cache.reserve(&mut sequence.cached, n_pending) {
                Ok(()) => {
                    sequence.start();
                    self.running.push(sequence);
                }
                Err(error) => {
                    self.cache.close(std::mem::take(&mut sequence.cached));
                    if self.running.is_empty() {
                        sequence.fail(error);
                    } else {
                        self.is_full = true;
                    }
                    self.waiting.push_front(sequence);
                    break;
                }
            }
        }
    }

    /// Decides which pending tokens run in this step, and drafts.
    fn share_step(&mut self) {
        self.pending.clear();
        self.pending.extend(self.running.iter().map(|it| it.n_pending()));
        share_rows(&self.pending, self.limits, &mut self.row_shares);
        for (sequence, &share) in self.running.iter_mut().zip(&self.row_shares) {
            sequence.n_step_tokens = share;
        }
        let mut load = StepLoad {
            n_rows: self.row_shares.iter().sum(),
            n_tokens: self.running.iter().filter(|it| it.reaches_end()).count() as f64,
        };
        for sequence in &mut self.running {
            load = sequence.draft(load, &self.costs);
        }
    }

    /// Gives the step's rows their blocks. Where there are not enough, drafts are dropped first; then the youngest
    /// sequence goes back to the queue, where it keeps its tokens and runs them again later.
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
                self.preempt_youngest();
            } else {
                sequence.fail(error);
                return self.retire();
            }
        }
    }

    fn preempt_youngest(&mut self) {
        let Some(mut sequence) = self.running.pop() else {
            return;
        };
        self.cache.close(std::mem::take(&mut sequence.cached));
        self.waiting.push_front(sequence);
        self.is_full = true;
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
        let blocks: Vec<&[u32]> = self.running.iter().map(|it| it.cached.blocks()).collect();
        let batch = Batch {
            rows: &self.rows,
            blocks: &blocks,
        };
        let start = Instant::now();
        self.model.forward(batch, &mut self.cache, &mut self.logits)?;
        let duration = start.elapsed();
        self.n_steps += 1;
        self.costs.record(self.rows.len(), duration);

        let vocab = self.model.config().vocab;
        let mut logits = self.logits.as_slice();
        for sequence in &mut self.running {
            let (own, others) = logits.split_at(sequence.n_wanted_rows() * vocab);
            logits = others;
            let start = Instant::now();
            let kept = sequence.advance(own, duration);
            let cached_len = sequence.cached.len();
            let n_run = cached_len + sequence.n_step_tokens;
            self.cache.keep_path(&sequence.cached, n_run, &kept);
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
            self.cache.close(std::mem::take(&mut sequence.cached));
            self.is_full = false;
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
        };
    }
}

#[cfg(test)]
mod tests;
