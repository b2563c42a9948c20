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

use smallvec::SmallVec;

use self::{config::HeadFile, head::Head};
use super::{
    drafter::{Draft, DrafterKind, Evidence},
    network::{DraftTask, NetworkDrafter, USUAL_RUNNING},
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
    trees: Vec<Tree>,
    rows: Vec<Row>,
    features: Vec<f32>,
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
#[derive(Default)]
struct Tree {
    /// Index of its task, and the number of the sequence.
    task: usize,
    sequence: u64,
    /// All candidates so far, in the order in which they came up.
    nodes: Vec<Candidate>,
    /// The nodes that are followed, and what the head made of the row before each, `(followed, hidden)`.
    frontier: Vec<Followed>,
    features: Vec<f32>,
    /// Rows of the tree that were run.
    n_run: usize,
    is_done: bool,
    // Kept between levels for their memory.
    next_frontier: Vec<Followed>,
    next_features: Vec<f32>,
    order: Vec<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: u32,
    parent: Option<usize>,
    probability: f32,
    /// Logarithm of the probability of the path from the root.
    score: f32,
    /// Index of the row that it comes after, among those of the level before.
    row: usize,
}

/// A node that is followed.
#[derive(Debug, Clone, Copy)]
struct Followed {
    node: usize,
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
            trees: Vec::new(),
            rows: Vec::new(),
            features: Vec::new(),
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
        self.rows.clear();
        self.features.clear();
        let mut cached = SmallVec::<[_; USUAL_RUNNING]>::new();
        for (idx, (id, tokens, n_rows)) in sequences.iter().enumerate() {
            let follower = &self.sequences[id];
            follower.push_waiting(tokens, *n_rows, idx, &mut self.rows);
            self.features
                .extend_from_slice(&follower.waiting[..n_rows * hidden]);
            cached.push(&follower.cached);
        }
        let batch = Batch {
            rows: &self.rows,
            sequences: &cached,
        };
        let (rolled, logits) = (&mut self.rolled, &mut self.logits);
        self.head
            .forward(batch, &self.features, &mut self.cache, rolled, logits);
        drop(cached);
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
    fn ready(&mut self, tasks: &[DraftTask<'_>]) -> SmallVec<[usize; USUAL_RUNNING]> {
        let hidden = self.head.config.shape.hidden;
        let n_tree_rows = self.tree.n_rows();
        let mut ready = SmallVec::new();
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

    /// Plants trees for the tasks of these indices, in the first places of `trees`.
    fn plant(&mut self, tasks: &[DraftTask<'_>], ready: &[usize]) {
        if self.trees.len() < ready.len() {
            self.trees.resize_with(ready.len(), Tree::default);
        }
        for (tree, &idx) in self.trees.iter_mut().zip(ready) {
            let follower = &self.sequences[&tasks[idx].sequence];
            tree.restart(idx, tasks[idx].sequence);
            tree.add(None, 0, &self.head, self.tree.top_k, &follower.last_logits);
            for node in 0..tree.nodes.len() {
                tree.frontier.push(Followed { node, ancestors: 0 });
                tree.features.extend_from_slice(&follower.last_rolled);
            }
        }
    }

    /// Runs the rows of one level of those of the first `n_trees` trees that are not done, and adds the candidates after them.
    fn grow(&mut self, n_trees: usize) {
        let (hidden, vocab) = (self.head.config.shape.hidden, self.head.config.vocab);
        self.rows.clear();
        self.features.clear();
        let mut cached = SmallVec::<[_; USUAL_RUNNING]>::new();
        for tree in self.trees[..n_trees].iter_mut().filter(|it| !it.is_done) {
            let follower = &self.sequences[&tree.sequence];
            self.features.extend_from_slice(&tree.features);
            for followed in &mut tree.frontier {
                followed.ancestors |= 1 << tree.n_run;
                tree.n_run += 1;
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
            .forward(batch, &self.features, &mut self.cache, rolled, logits);
        let mut start = 0;
        for tree in self.trees[..n_trees].iter_mut().filter(|it| !it.is_done) {
            let end = start + tree.frontier.len();
            let rolled = &self.rolled[start * hidden..end * hidden];
            let logits = &self.logits[start * vocab..end * vocab];
            tree.grow(&self.head, self.tree.top_k, rolled, logits);
            start = end;
        }
    }
}

impl Tree {
    fn restart(&mut self, task: usize, sequence: u64) {
        (self.task, self.sequence) = (task, sequence);
        self.nodes.clear();
        self.frontier.clear();
        self.features.clear();
        (self.n_run, self.is_done) = (0, false);
    }

    /// Adds the candidates after each node that was followed, and follows the `top_k` most probable of them.
    /// `rolled`, `(followed, hidden)`, and `logits`, `(followed, vocab)`, are what the head makes of their rows.
    fn grow(&mut self, head: &Head, top_k: usize, rolled: &[f32], logits: &[f32]) {
        let (hidden, vocab) = (head.config.shape.hidden, head.config.vocab);
        let first = self.nodes.len();
        for (row, logits) in logits.chunks_exact(vocab).enumerate() {
            self.add(Some(self.frontier[row].node), row, head, top_k, logits);
        }
        self.rank(first, top_k);
        self.next_frontier.clear();
        self.next_features.clear();
        for &node in &self.order {
            let row = self.nodes[node].row;
            let ancestors = self.frontier[row].ancestors;
            self.next_frontier.push(Followed { node, ancestors });
            self.next_features
                .extend_from_slice(&rolled[row * hidden..][..hidden]);
        }
        std::mem::swap(&mut self.frontier, &mut self.next_frontier);
        std::mem::swap(&mut self.features, &mut self.next_features);
    }

    /// Leaves in `order` the most probable of the nodes from `first` on, at most `most`; among equals the first.
    fn rank(&mut self, first: usize, most: usize) {
        let nodes = &self.nodes;
        self.order.clear();
        self.order.extend(first..nodes.len());
        self.order
            .sort_unstable_by(|a, b| nodes[*b].score.total_cmp(&nodes[*a].score).then(a.cmp(b)));
        self.order.truncate(most);
    }

    /// Adds the `top_k` most probable tokens after `parent`, among equals the first. `row` is that of `parent`.
    fn add(&mut self, parent: Option<usize>, row: usize, head: &Head, top_k: usize, logits: &[f32]) {
        let path_score = parent.map_or(0.0, |parent| self.nodes[parent].score);
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = logits.iter().map(|logit| (logit - best).exp()).sum();
        let is_before = |a: usize, b: usize| logits[a].total_cmp(&logits[b]).is_gt();
        self.order.clear();
        for token in 0..logits.len() {
            let is_full = self.order.len() == top_k;
            if is_full && !is_before(token, self.order[top_k - 1]) {
                continue;
            }
            if is_full {
                self.order.pop();
            }
            let at = self.order.partition_point(|&other| !is_before(token, other));
            self.order.insert(at, token);
        }
        self.nodes.extend(self.order.iter().map(|&token| {
            let score = logits[token] - best - total.ln();
            Candidate {
                token: head.target_token(token),
                parent,
                probability: score.exp(),
                score: path_score + score,
                row,
            }
        }));
    }

    /// Gives up paths that have become too improbable.
    fn prune(&mut self, min_reach: f32) {
        let nodes = &self.nodes;
        let hidden = self.features.len() / self.frontier.len().max(1);
        let mut n_kept = 0;
        for idx in 0..self.frontier.len() {
            if nodes[self.frontier[idx].node].score.exp() >= min_reach {
                self.frontier[n_kept] = self.frontier[idx];
                self.features
                    .copy_within(idx * hidden..(idx + 1) * hidden, n_kept * hidden);
                n_kept += 1;
            }
        }
        self.frontier.truncate(n_kept);
        self.features.truncate(n_kept * hidden);
    }

    /// Proposes the most probable nodes of all. Scores fall along a path, so a node's parent is among them if it is.
    fn propose(&mut self, most: usize, draft: &mut Draft) {
        self.rank(0, most);
        self.order.sort_unstable();
        for node in &self.order {
            let node = &self.nodes[*node];
            let parent = node
                .parent
                .and_then(|parent| self.order.binary_search(&parent).ok());
            draft.push_after(parent, node.token, Evidence::of_probability(node.probability));
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
        let waiting = ready.iter().map(|&idx| {
            let task = &tasks[idx];
            let n_rows = self.sequences[&task.sequence].waiting.len() / hidden;
            (task.sequence, task.tokens, n_rows)
        });
        let waiting: SmallVec<[_; USUAL_RUNNING]> = waiting.filter(|(.., n_rows)| *n_rows > 0).collect();
        if !waiting.is_empty() {
            self.run_waiting(&waiting);
        }
        self.plant(tasks, &ready);
        for level in 1..self.tree.n_levels {
            for tree in self.trees[..ready.len()].iter_mut().filter(|it| !it.is_done) {
                let task = &tasks[tree.task];
                tree.prune(task.min_reach);
                tree.is_done = level >= task.max_len || tree.frontier.is_empty();
            }
            if self.trees[..ready.len()].iter().all(|it| it.is_done) {
                break;
            }
            self.grow(ready.len());
        }
        for tree in &mut self.trees[..ready.len()] {
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
