//! EAGLE-3: a head of one layer drafts a tree from what the target thought (Li et al. 2025).
//!
//! A row of the head stands for a position of the sequence: it reads the target's feature there and the token after it,
//! and predicts the token after that. While it drafts, what it made of a row stands in for the feature that the target
//! has not computed yet. Rows made from true features stay in its own KV cache; those of a draft are dropped.
//!
//! ```text
//! tokens      a  b  c  d  e         the target has run a b c d, and picked e
//! features    1  2  3  4
//! rows        b1 c2 d3 e4           the last one's logits begin the tree
//! ```
//!
//! The tree grows as EAGLE-2's does (Li et al. 2024): each level follows the most probable paths so far, and at the end
//! the most probable nodes of all levels are kept.

mod config;
mod head;

use std::collections::HashMap;

use self::{config::HeadFile, head::Head};
use super::{
    drafter::{Draft, DrafterKind, Evidence},
    network::{DraftTask, NetworkDrafter},
};
use crate::{
    error::EngineError,
    kernels::pool::ThreadPool,
    kv_cache::{BLOCK_LEN, CacheType, CachedSequence, KvCache},
    model::{Batch, Checkpoint, MAX_TREE_NODES, Row},
    weights::WeightSource,
};

/// How a tree grows: SGLang's `num_steps`, `eagle_topk` and `num_draft_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeShape {
    /// Levels, one at least.
    pub n_levels: usize,
    /// Nodes of a level that are followed, and candidates after each.
    pub top_k: usize,
    /// Nodes kept, the sequence's last token counted as the root.
    pub n_tokens: usize,
}

impl Default for TreeShape {
    fn default() -> Self {
        Self {
            n_levels: 5,
            top_k: 8,
            n_tokens: 32,
        }
    }
}

impl TreeShape {
    /// Rows of a tree that the head runs: the last level is only scored.
    fn n_rows(self) -> usize {
        (self.n_levels - 1) * self.top_k
    }

    /// The shape within what rows and steps can hold.
    fn clamped(self) -> Self {
        let n_levels = self.n_levels.clamp(1, MAX_TREE_NODES + 1);
        Self {
            n_levels,
            top_k: self.top_k.clamp(1, MAX_TREE_NODES / (n_levels - 1).max(1)),
            n_tokens: self.n_tokens.clamp(2, MAX_TREE_NODES + 1),
        }
    }
}

/// Positions whose features may wait for a draft; more are run at once.
const MAX_WAITING: usize = 64;

/// A drafter that runs an EAGLE-3 head.
pub struct Eagle3 {
    head: Head,
    cache: KvCache,
    tree: TreeShape,
    sequences: HashMap<u64, Follower>,
    // Kept between passes for their memory.
    rows: Vec<Row>,
    rolled: Vec<f32>,
    logits: Vec<f32>,
}

/// One sequence as the head sees it.
#[derive(Default)]
struct Follower {
    /// Positions that the head has run. Their keys in the cache are the tokens that it read there: each the one after
    /// the position, so sequences that differ in their first token alone share rows.
    cached: CachedSequence,
    /// Features of the positions after those, `(positions, hidden)`.
    waiting: Vec<f32>,
    /// What the head made of its last row, `(hidden)`, and the scores after it, `(vocab)`.
    last_rolled: Vec<f32>,
    last_logits: Vec<f32>,
}

impl Follower {
    fn n_known(&self, hidden: usize) -> usize {
        self.cached.len() + self.waiting.len() / hidden
    }

    /// Appends the next `n_rows` waiting rows of a sequence.
    fn push_waiting(&self, tokens: &[u32], n_rows: usize, sequence_idx: usize, rows: &mut Vec<Row>) {
        let first = self.cached.len();
        rows.extend((first..first + n_rows).map(|position| {
            let is_last = position + 1 == first + n_rows;
            Row::chain(tokens[position + 1], position, sequence_idx, is_last)
        }));
    }
}

/// A tree in the making.
struct Tree {
    /// Index of its task.
    task: usize,
    /// All candidates so far, in the order in which they came up.
    nodes: Vec<Candidate>,
    /// The nodes that are followed.
    frontier: Vec<Followed>,
    /// Rows of the tree that were run.
    n_run: usize,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: u32,
    parent: Option<usize>,
    probability: f32,
    /// Logarithm of the probability of the path from the root.
    score: f32,
}

/// A node that is followed.
struct Followed {
    node: usize,
    /// What the head made of the row before.
    feature: Vec<f32>,
    /// Rows of the tree that it sees, before its own.
    ancestors: u64,
}

impl Eagle3 {
    /// Whether `source` is an EAGLE-3 head rather than a model: a folder as they are published, or a GGUF file.
    pub fn recognises(source: &WeightSource) -> bool {
        HeadFile::recognises(source)
    }

    /// Bytes that the head of `source` takes of memory for a target, with a KV cache of `n_positions` positions.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn planned_bytes(
        source: WeightSource,
        target: &Checkpoint,
        n_positions: usize,
    ) -> Result<usize, EngineError> {
        let file = HeadFile::open(source, target.config())?;
        let block_bytes = KvCache::block_bytes(&file.config.shape, CacheType::F16);
        let weight_bytes: usize = file.weights.iter().map(|(_, tensor)| tensor.n_bytes()).sum();
        Ok(weight_bytes + n_positions.div_ceil(BLOCK_LEN) * block_bytes)
    }

    /// Loads the head of `source` for a target. Its KV cache holds `n_positions` positions.
    ///
    /// # Errors
    /// [`EngineError::Io`], [`EngineError::BadFile`] and [`EngineError::Unsupported`] for files that cannot be used.
    pub fn load(
        source: WeightSource,
        target: &Checkpoint,
        tree: TreeShape,
        n_positions: usize,
        n_threads: usize,
    ) -> Result<Self, EngineError> {
        let file = HeadFile::open(source, target.config())?;
        let head = Head::new(file, target.config(), target.weights(), n_threads)?;
        let n_blocks = n_positions.div_ceil(BLOCK_LEN).max(1);
        Ok(Self {
            cache: KvCache::with_type(&head.config.shape, n_blocks, CacheType::F16),
            head,
            tree: tree.clamped(),
            sequences: HashMap::new(),
            rows: Vec::new(),
            rolled: Vec::new(),
            logits: Vec::new(),
        })
    }

    /// Runs on these threads from now on: those of the target.
    pub(crate) fn run_on(&mut self, threads: ThreadPool) {
        self.head.run_on(threads);
    }

    /// Runs the next `n_rows` waiting rows of each sequence, and makes room for a tree after them.
    fn run_waiting(&mut self, sequences: &[(u64, &[u32], usize)]) {
        let hidden = self.head.config.shape.hidden;
        let mut features = Vec::new();
        self.rows.clear();
        let mut cached = Vec::new();
        for (idx, (id, tokens, n_rows)) in sequences.iter().enumerate() {
            let follower = &self.sequences[id];
            follower.push_waiting(tokens, *n_rows, idx, &mut self.rows);
            features.extend_from_slice(&follower.waiting[..n_rows * hidden]);
            cached.push(&follower.cached);
        }
        let batch = Batch {
            rows: &self.rows,
            sequences: &cached,
        };
        let (rolled, logits) = (&mut self.rolled, &mut self.logits);
        self.head
            .forward(batch, &features, &mut self.cache, rolled, logits);
        let vocab = self.head.config.vocab;
        let mut end = 0;
        for ((id, tokens, n_rows), logits) in sequences.iter().zip(self.logits.chunks_exact(vocab)) {
            end += n_rows;
            let Some(follower) = self.sequences.get_mut(id) else {
                continue;
            };
            let first = follower.cached.len() + 1;
            self.cache
                .commit(&mut follower.cached, &tokens[first..first + n_rows]);
            follower.waiting.drain(..n_rows * hidden);
            follower.last_rolled.clear();
            follower
                .last_rolled
                .extend_from_slice(&self.rolled[(end - 1) * hidden..end * hidden]);
            follower.last_logits.clear();
            follower.last_logits.extend_from_slice(logits);
        }
    }

    /// The tasks whose sequences are known up to their last tokens, with room for a tree.
    fn ready(&mut self, tasks: &[DraftTask<'_>]) -> Vec<usize> {
        let hidden = self.head.config.shape.hidden;
        let n_tree_rows = self.tree.n_rows();
        let mut ready = Vec::new();
        for (idx, task) in tasks.iter().enumerate() {
            let Some(follower) = self.sequences.get_mut(&task.sequence) else {
                continue;
            };
            let n_waiting = follower.waiting.len() / hidden;
            let is_known = follower.n_known(hidden) + 1 == task.tokens.len();
            let has_rows = n_waiting > 0 || !follower.last_logits.is_empty();
            // Without room there is no draft for this one.
            let room = self.cache.reserve(&mut follower.cached, n_waiting + n_tree_rows);
            if is_known && has_rows && room.is_ok() && task.max_len > 0 {
                ready.push(idx);
            }
        }
        ready
    }

    /// Runs the rows of one level of all trees, and adds the candidates after them.
    fn grow(&mut self, tasks: &[DraftTask<'_>], trees: &mut [Tree]) {
        let HeadShape { hidden, vocab } = self.shape();
        self.rows.clear();
        let (mut features, mut cached) = (Vec::new(), Vec::new());
        for tree in trees.iter_mut() {
            let follower = &self.sequences[&tasks[tree.task].sequence];
            for followed in &mut tree.frontier {
                followed.ancestors |= 1 << tree.n_run;
                tree.n_run += 1;
                features.extend_from_slice(&followed.feature);
                self.rows.push(Row {
                    token: tree.nodes[followed.node].token,
                    sequence_idx: cached.len() as u32,
                    context_len: follower.cached.len() as u32,
                    ancestors: followed.ancestors,
                    wants_logits: true,
                });
            }
            cached.push(&follower.cached);
        }
        let batch = Batch {
            rows: &self.rows,
            sequences: &cached,
        };
        let (rolled, logits) = (&mut self.rolled, &mut self.logits);
        self.head
            .forward(batch, &features, &mut self.cache, rolled, logits);
        let mut results = self
            .rolled
            .chunks_exact(hidden)
            .zip(self.logits.chunks_exact(vocab));
        for tree in trees {
            let frontier = std::mem::take(&mut tree.frontier);
            let first = tree.nodes.len();
            let mut rows = Vec::new();
            for (followed, (rolled, logits)) in frontier.iter().zip(&mut results) {
                tree.add(Some(followed.node), &self.head, self.tree.top_k, logits);
                rows.push((tree.nodes.len(), rolled, followed.ancestors));
            }
            let mut best: Vec<usize> = (first..tree.nodes.len()).collect();
            best.sort_by(|a, b| tree.nodes[*b].score.total_cmp(&tree.nodes[*a].score));
            best.truncate(self.tree.top_k);
            tree.frontier.extend(best.into_iter().map(|node| {
                let row = rows.partition_point(|(end, ..)| *end <= node);
                let (_, rolled, ancestors) = rows[row];
                Followed {
                    node,
                    feature: rolled.to_vec(),
                    ancestors,
                }
            }));
        }
    }

    fn shape(&self) -> HeadShape {
        HeadShape {
            hidden: self.head.config.shape.hidden,
            vocab: self.head.config.vocab,
        }
    }
}

struct HeadShape {
    hidden: usize,
    vocab: usize,
}

impl Tree {
    /// Adds the `top_k` most probable tokens after `parent`, among equals the first.
    fn add(&mut self, parent: Option<usize>, head: &Head, top_k: usize, logits: &[f32]) {
        let path_score = parent.map_or(0.0, |parent| self.nodes[parent].score);
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = logits.iter().map(|logit| (logit - best).exp()).sum();
        let mut tokens: Vec<usize> = (0..logits.len()).collect();
        let by_logit = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        let top_k = top_k.min(tokens.len());
        tokens.select_nth_unstable_by(top_k - 1, by_logit);
        tokens.truncate(top_k);
        tokens.sort_unstable_by(by_logit);
        self.nodes.extend(tokens.into_iter().map(|token| {
            let score = logits[token] - best - total.ln();
            Candidate {
                token: head.target_token(token),
                parent,
                probability: score.exp(),
                score: path_score + score,
            }
        }));
    }

    /// Gives up paths that have become too improbable.
    fn prune(&mut self, min_reach: f32) {
        let nodes = &self.nodes;
        self.frontier
            .retain(|followed| nodes[followed.node].score.exp() >= min_reach);
    }

    /// Proposes the most probable nodes of all. Scores fall along a path, so a node's parent is among them if it is.
    fn propose(&self, most: usize, draft: &mut Draft) {
        let mut best: Vec<usize> = (0..self.nodes.len()).collect();
        best.sort_by(|a, b| self.nodes[*b].score.total_cmp(&self.nodes[*a].score));
        best.truncate(most);
        best.sort_unstable();
        for node in &best {
            let Candidate {
                token,
                parent,
                probability,
                ..
            } = self.nodes[*node];
            let parent = parent.and_then(|parent| best.binary_search(&parent).ok());
            draft.push_after(parent, token, Evidence::of_probability(probability));
        }
    }
}

impl NetworkDrafter for Eagle3 {
    fn kind(&self) -> DrafterKind {
        DrafterKind::Eagle3
    }

    fn settle_threads(&self) {
        self.head.settle_threads();
    }

    fn captured_layers(&self) -> &[usize] {
        &self.head.config.target_layers
    }

    fn open(&mut self, sequence: u64, tokens: &[u32]) -> usize {
        self.close(sequence);
        let cached = self.cache.open(&tokens[1..]);
        let n_known = cached.len();
        let follower = Follower {
            cached,
            ..Follower::default()
        };
        self.sequences.insert(sequence, follower);
        n_known
    }

    fn observe(
        &mut self,
        sequence: u64,
        tokens: &[u32],
        first: usize,
        captured: &[f32],
    ) -> Result<(), EngineError> {
        let hidden = self.head.config.shape.hidden;
        let Some(follower) = self.sequences.get_mut(&sequence) else {
            return Ok(());
        };
        // Positions that the target ran again are known already; after a gap there is nothing to go on from.
        let Some(n_repeated) = follower.n_known(hidden).checked_sub(first) else {
            self.close(sequence);
            return Ok(());
        };
        let start = n_repeated * self.head.captured_width();
        self.head
            .fuse(captured.get(start..).unwrap_or_default(), &mut follower.waiting);
        let n_waiting = follower.waiting.len() / hidden;
        // The token after the last position may not be known yet.
        let n_runnable = n_waiting.min(tokens.len() - 1 - follower.cached.len());
        if n_runnable > MAX_WAITING {
            if self.cache.reserve(&mut follower.cached, n_runnable).is_err() {
                self.close(sequence);
                return Ok(());
            }
            self.run_waiting(&[(sequence, tokens, n_runnable)]);
        }
        Ok(())
    }

    fn draft(&mut self, tasks: &mut [DraftTask<'_>]) -> Result<(), EngineError> {
        let hidden = self.head.config.shape.hidden;
        let ready = self.ready(tasks);
        let waiting: Vec<_> = ready
            .iter()
            .map(|&idx| {
                let task = &tasks[idx];
                let n_rows = self.sequences[&task.sequence].waiting.len() / hidden;
                (task.sequence, task.tokens, n_rows)
            })
            .filter(|(.., n_rows)| *n_rows > 0)
            .collect();
        if !waiting.is_empty() {
            self.run_waiting(&waiting);
        }
        let mut trees: Vec<Tree> = Vec::new();
        for &idx in &ready {
            let follower = &self.sequences[&tasks[idx].sequence];
            let mut tree = Tree {
                task: idx,
                nodes: Vec::new(),
                frontier: Vec::new(),
                n_run: 0,
            };
            tree.add(None, &self.head, self.tree.top_k, &follower.last_logits);
            tree.frontier.extend((0..tree.nodes.len()).map(|node| Followed {
                node,
                feature: follower.last_rolled.clone(),
                ancestors: 0,
            }));
            trees.push(tree);
        }
        for level in 1..self.tree.n_levels {
            let mut growing: Vec<Tree> = Vec::new();
            for mut tree in std::mem::take(&mut trees) {
                let task = &mut tasks[tree.task];
                tree.prune(task.min_reach);
                if level < task.max_len && !tree.frontier.is_empty() {
                    growing.push(tree);
                } else {
                    tree.propose(self.tree.n_tokens - 1, task.draft);
                }
            }
            if growing.is_empty() {
                return Ok(());
            }
            self.grow(tasks, &mut growing);
            trees = growing;
        }
        for tree in trees {
            tree.propose(self.tree.n_tokens - 1, tasks[tree.task].draft);
        }
        Ok(())
    }

    fn close(&mut self, sequence: u64) {
        if let Some(follower) = self.sequences.remove(&sequence) {
            self.cache.close(follower.cached);
        }
    }
}

#[cfg(test)]
mod tests;
