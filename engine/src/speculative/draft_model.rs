//! Draft model: a smaller model writes ahead, greedily, and the target verifies (Leviathan et al. 2023; Chen et al. 2023).
//!
//! It has its own KV cache, which follows the sequence: rows that it ran for a draft are kept as far as the draft was
//! right, and dropped from there on. A model with another vocabulary reads and writes through text.

use std::{collections::HashMap, sync::Arc};

use smallvec::SmallVec;

use super::{
    drafter::{Draft, DrafterKind, Evidence},
    network::{DraftTask, NetworkDrafter, USUAL_RUNNING},
};
use crate::{
    error::EngineError,
    kv_cache::{CachedSequence, KvCache},
    model::{Batch, Model, Row},
    tokenizer::{TextStart, Tokenizer},
};

/// Rows of a prompt that one pass runs, and one call at most for each sequence: all others wait meanwhile.
const PREFILL_ROWS: usize = 256;
/// Tokens at the end of a sequence that are always translated anew: a later one may change how text is cut.
const UNSETTLED: usize = 16;

/// A drafter that asks a smaller model.
pub struct DraftModel {
    model: Box<dyn Model>,
    cache: KvCache,
    /// How to write for the target, if its vocabulary is another one.
    translation: Option<Translation>,
    sequences: HashMap<u64, Follower>,
    /// Tokens that the target knows.
    target_vocab: usize,
    // Kept between passes for their memory.
    paths: Vec<Path>,
    rows: Vec<Row>,
    logits: Vec<f32>,
}

/// A draft in the making.
#[derive(Default)]
struct Path {
    /// Index of its task, and the number of the sequence.
    task: usize,
    sequence: u64,
    tokens: Vec<u32>,
    /// Of each token, and of all together.
    probabilities: Vec<f32>,
    reach: f32,
    is_done: bool,
}

impl Path {
    fn restart(&mut self, task: usize, sequence: u64) {
        (self.task, self.sequence) = (task, sequence);
        self.tokens.clear();
        self.probabilities.clear();
        (self.reach, self.is_done) = (1.0, false);
    }
}

struct Translation {
    own: Arc<Tokenizer>,
    target: Arc<Tokenizer>,
}

/// One sequence as the draft model sees it.
#[derive(Default)]
struct Follower {
    /// The sequence in the model's own tokens.
    tokens: Vec<u32>,
    /// Of those, how many are settled, and how many of the target's they stand for.
    n_settled: usize,
    n_settled_target: usize,
    /// Whether the target has a token among them that the model does not have.
    has_unknown: bool,
    cached: CachedSequence,
    /// Tokens whose rows stand in the cache after the committed ones: an earlier draft.
    ahead: Vec<u32>,
}

impl DraftModel {
    /// A drafter for a target whose tokens are `target`'s. `cache` is made for `model`.
    pub fn new(
        model: Box<dyn Model>,
        own: Arc<Tokenizer>,
        cache: KvCache,
        target: Arc<Tokenizer>,
        target_vocab: usize,
    ) -> Self {
        let has_same_ids = own.shares_ids(&target);
        Self {
            model,
            cache,
            translation: (!has_same_ids).then_some(Translation { own, target }),
            sequences: HashMap::new(),
            target_vocab,
            paths: Vec::new(),
            rows: Vec::new(),
            logits: Vec::new(),
        }
    }

    /// Runs a chunk of what the model has not seen of a sequence, if that is more than a chunk. Returns whether no more than one is
    /// left; then there is room for it and `max_len` tokens more.
    fn catch_up(&mut self, sequence: u64, max_len: usize) -> Result<bool, EngineError> {
        let Some(follower) = self.sequences.get_mut(&sequence) else {
            return Ok(false);
        };
        if follower.n_pending() > PREFILL_ROWS {
            self.cache.reserve(&mut follower.cached, PREFILL_ROWS)?;
            self.rows.clear();
            follower.push_pending(0, PREFILL_ROWS, &mut self.rows);
            let batch = Batch {
                rows: &self.rows,
                sequences: &[&follower.cached],
            };
            self.model.forward(batch, &mut self.cache, &mut self.logits)?;
            follower.commit(PREFILL_ROWS, &mut self.cache);
            return Ok(false);
        }
        let n_rows = follower.n_pending() + max_len;
        self.cache.reserve(&mut follower.cached, n_rows)?;
        Ok(true)
    }

    /// Runs `rows`, which were pushed for those of the first `n_paths` paths that are not done, in order.
    fn forward(&mut self, n_paths: usize) -> Result<(), EngineError> {
        let running = self.paths[..n_paths].iter().filter(|it| !it.is_done);
        let sequences: SmallVec<[_; USUAL_RUNNING]> =
            running.map(|it| &self.sequences[&it.sequence].cached).collect();
        let batch = Batch {
            rows: &self.rows,
            sequences: &sequences,
        };
        self.model.forward(batch, &mut self.cache, &mut self.logits)
    }
}

impl NetworkDrafter for DraftModel {
    fn kind(&self) -> DrafterKind {
        DrafterKind::DraftModel
    }

    fn settle_threads(&self) {
        self.model.settle_threads();
    }

    fn draft(&mut self, tasks: &mut [DraftTask<'_>]) -> Result<(), EngineError> {
        let mut n_paths = 0;
        for (idx, task) in tasks.iter().enumerate() {
            let follower = self.sequences.entry(task.sequence).or_default();
            let config = self.model.config();
            let translation = self.translation.as_ref();
            follower.follow(task.tokens, translation, config.vocab, &mut self.cache)?;
            let len = follower.tokens.len() + task.max_len;
            let is_readable = !follower.tokens.is_empty() && !follower.has_unknown;
            if !is_readable || task.max_len == 0 || len > config.context_length {
                continue;
            }
            match self.catch_up(task.sequence, task.max_len) {
                Ok(false) => {}
                Ok(true) => {
                    if n_paths == self.paths.len() {
                        self.paths.push(Path::default());
                    }
                    self.paths[n_paths].restart(idx, task.sequence);
                    n_paths += 1;
                }
                // Without room there is no draft for this one.
                Err(EngineError::CacheFull { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.rows.clear();
        for (idx, path) in self.paths[..n_paths].iter().enumerate() {
            let follower = &self.sequences[&path.sequence];
            follower.push_pending(idx, follower.n_pending(), &mut self.rows);
        }
        let mut is_first = true;
        while !self.rows.is_empty() {
            self.forward(n_paths)?;
            self.rows.clear();
            let vocab = self.model.config().vocab;
            let running = self.paths[..n_paths].iter_mut().filter(|it| !it.is_done);
            let mut n_going_on = 0;
            for (path, logits) in running.zip(self.logits.chunks_exact(vocab)) {
                let task = &tasks[path.task];
                let follower = self.sequences.entry(path.sequence).or_default();
                match path.tokens.last() {
                    _ if is_first => follower.commit(follower.n_pending(), &mut self.cache),
                    Some(&token) => follower.ahead.push(token),
                    None => {}
                }
                let (token, probability) = most_probable(logits);
                path.reach *= probability;
                path.tokens.push(token);
                path.probabilities.push(probability);
                let goes_on = path.tokens.len() < task.max_len && path.reach >= task.min_reach;
                path.is_done = !goes_on;
                if goes_on {
                    let position = follower.cached.len() + follower.ahead.len();
                    self.rows.push(Row::chain(token, position, n_going_on, true));
                    n_going_on += 1;
                }
            }
            is_first = false;
        }
        for path in &self.paths[..n_paths] {
            let task = &mut tasks[path.task];
            match &self.translation {
                None => {
                    let known = path.tokens.iter().zip(&path.probabilities);
                    for (&token, &probability) in known.take_while(|it| (*it.0 as usize) < self.target_vocab)
                    {
                        task.draft.push(token, Evidence::of_probability(probability));
                    }
                }
                Some(translation) => {
                    let mean = path.reach.powf(1.0 / path.tokens.len() as f32);
                    let tokens = translation.to_target(&path.tokens)?;
                    push_all(&tokens, self.target_vocab, mean, task.max_len, task.draft);
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, sequence: u64) {
        if let Some(follower) = self.sequences.remove(&sequence) {
            self.cache.close(follower.cached);
        }
    }
}

fn push_all(tokens: &[u32], vocab: usize, probability: f32, max_len: usize, draft: &mut Draft) {
    let known = tokens
        .iter()
        .take(max_len)
        .take_while(|it| (**it as usize) < vocab);
    for &token in known {
        draft.push(token, Evidence::of_probability(probability));
    }
}

impl Follower {
    /// Follows the target's tokens: what the cache holds beyond them is dropped, what an earlier draft ran of them is kept.
    /// The model has `vocab` tokens.
    fn follow(
        &mut self,
        target: &[u32],
        translation: Option<&Translation>,
        vocab: usize,
        cache: &mut KvCache,
    ) -> Result<(), EngineError> {
        match translation {
            None => {
                let new = &target[self.n_settled..];
                self.has_unknown |= new.iter().any(|&it| it as usize >= vocab);
                self.tokens.extend_from_slice(new);
                self.n_settled = self.tokens.len();
            }
            Some(translation) => self.translate(target, translation)?,
        }
        if self.cached.is_empty() {
            cache.close(std::mem::take(&mut self.cached));
            self.cached = cache.open(&self.tokens);
        }
        // One row at least is run, for its logits.
        let most = self.tokens.len().saturating_sub(1);
        let n_known = common_prefix(self.cached.tokens(), &self.tokens[..most]);
        if n_known < self.cached.len() {
            cache.truncate(&mut self.cached, n_known);
        } else {
            let n_right = common_prefix(&self.ahead, &self.tokens[n_known..most]);
            self.commit(n_right, cache);
        }
        self.ahead.clear();
        Ok(())
    }

    /// Appends the translation of what is new. All but the last tokens settle at the ends of lines.
    fn translate(&mut self, target: &[u32], translation: &Translation) -> Result<(), EngineError> {
        self.tokens.truncate(self.n_settled);
        let new = &target[self.n_settled_target..];
        let ends_line = |token: &u32| translation.target.token_bytes(*token).ends_with(b"\n");
        let n_settling = new[..new.len().saturating_sub(UNSETTLED)]
            .iter()
            .rposition(ends_line);
        if let Some(last) = n_settling {
            translation.extend(&mut self.tokens, &new[..=last])?;
            self.n_settled = self.tokens.len();
            self.n_settled_target += last + 1;
        }
        translation.extend(&mut self.tokens, &target[self.n_settled_target..])
    }

    fn n_pending(&self) -> usize {
        self.tokens.len() - self.cached.len()
    }

    /// Appends the next `n_rows` rows; the logits after the sequence's last token are wanted.
    fn push_pending(&self, sequence_idx: usize, n_rows: usize, rows: &mut Vec<Row>) {
        let start = self.cached.len();
        let tokens = self.tokens[start..start + n_rows].iter().zip(start..);
        let is_last = |position| position + 1 == self.tokens.len();
        rows.extend(
            tokens.map(|(&token, position)| Row::chain(token, position, sequence_idx, is_last(position))),
        );
    }

    /// The next `n_rows` rows were run.
    fn commit(&mut self, n_rows: usize, cache: &mut KvCache) {
        let start = self.cached.len();
        cache.commit(&mut self.cached, &self.tokens[start..start + n_rows]);
    }
}

impl Translation {
    /// Appends to the model's tokens what goes on with `target`, tokens of the target's.
    fn extend(&self, own: &mut Vec<u32>, target: &[u32]) -> Result<(), EngineError> {
        let text = self.target.decode(target);
        if !own.is_empty() {
            own.extend(self.own.encode_from(&text, false, TextStart::Continued)?);
            return Ok(());
        }
        // A space that the target's tokenizer wrote before the text is not part of it.
        let first_space = if self.target.adds_space() { " " } else { "" };
        let text = text.strip_prefix(first_space).unwrap_or(&text);
        own.extend(self.own.bos());
        own.extend(self.own.encode(text, false)?);
        Ok(())
    }

    /// The target's tokens for a draft, which goes on from a text.
    fn to_target(&self, tokens: &[u32]) -> Result<Vec<u32>, EngineError> {
        let text = self.own.decode(tokens);
        // A character that is not complete yet says nothing.
        let text = text.trim_end_matches('\u{fffd}');
        self.target.encode_from(text, false, TextStart::Continued)
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The most probable token, and its probability.
fn most_probable(logits: &[f32]) -> (u32, f32) {
    let mut best = 0;
    for (idx, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = idx;
        }
    }
    let total: f32 = logits.iter().map(|logit| (logit - logits[best]).exp()).sum();
    (best as u32, 1.0 / total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            ModelConfig,
            scripted::{HashedScript, ScriptedModel},
        },
        speculative::drafter::Draft,
    };

    /// Fails where a pass has more rows than one may have.
    struct Narrow(ScriptedModel);

    impl Model for Narrow {
        fn config(&self) -> &ModelConfig {
            self.0.config()
        }

        fn forward(
            &mut self,
            batch: Batch<'_>,
            cache: &mut KvCache,
            logits: &mut Vec<f32>,
        ) -> Result<(), EngineError> {
            assert!(batch.rows.len() <= PREFILL_ROWS, "{} rows", batch.rows.len());
            self.0.forward(batch, cache, logits)
        }
    }

    #[test]
    fn a_long_prompt_is_read_a_chunk_at_a_time() {
        let model = ScriptedModel::hashed(HashedScript {
            vocab: 40,
            order: 2,
            surprise: 9,
            spread: 8,
            seed: 1,
        });
        let cache = KvCache::new(model.config(), 100);
        let tokenizer = Arc::new(Tokenizer::bytes());
        let model = Box::new(Narrow(model));
        let mut drafter = DraftModel::new(model, Arc::clone(&tokenizer), cache, tokenizer, 40);
        let tokens: Vec<u32> = (0..3 * PREFILL_ROWS as u32 + 10).map(|it| it * 7 % 40).collect();
        let mut draft = Draft::default();
        let n_calls = (1..10).find(|_| {
            let mut tasks = [DraftTask {
                sequence: 1,
                tokens: &tokens,
                max_len: 4,
                min_reach: 0.0,
                draft: &mut draft,
            }];
            drafter.draft(&mut tasks).unwrap();
            !draft.is_empty()
        });
        assert_eq!((n_calls, draft.len()), (Some(4), 4));
    }
}
