//! Keys and values of every layer, in blocks that sequences share by common prefix.
//!
//! A sequence is a list of blocks of [`BLOCK_LEN`] positions. Full blocks are published in a prefix tree as
//! soon as they are committed, so a later request that starts with the same tokens reuses them without a
//! copy; of a block that agrees only in its beginning, that beginning is copied. Nothing here computes.

mod block_pool;
mod prefix_tree;

use half::{f16, vec::HalfBitsVecExt};

use self::{
    block_pool::BlockPool,
    prefix_tree::{NodeId, PrefixTree},
};
use crate::{error::EngineError, model::ModelConfig};

/// Positions in a block: the unit of allocation and of sharing.
pub const BLOCK_LEN: usize = 32;

/// Number format of the cached keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheType {
    /// Half precision: half the memory and the traffic of `F32`.
    #[default]
    F16,
    /// Single precision, for comparison with references.
    F32,
}

impl CacheType {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Keys or values of all layers, in the cache's number format.
#[derive(Debug)]
enum Storage {
    F16(Vec<f16>),
    F32(Vec<f32>),
}

impl Storage {
    fn new(cache_type: CacheType, len: usize) -> Self {
        match cache_type {
            // Zeroed as integers: only then does the system lend the pages one by one.
            CacheType::F16 => Self::F16(vec![0u16; len].reinterpret_into()),
            CacheType::F32 => Self::F32(vec![0.0; len]),
        }
    }

    fn write(&mut self, at: usize, row: &[f32]) {
        match self {
            Self::F16(data) => {
                for (cached, value) in data[at..at + row.len()].iter_mut().zip(row) {
                    *cached = f16::from_f32(*value);
                }
            }
            Self::F32(data) => data[at..at + row.len()].copy_from_slice(row),
        }
    }

    /// Writes the numbers of `row` every `stride` places.
    fn write_strided(&mut self, at: usize, stride: usize, row: &[f32]) {
        match self {
            Self::F16(data) => {
                for (cached, value) in data[at..].iter_mut().step_by(stride).zip(row) {
                    *cached = f16::from_f32(*value);
                }
            }
            Self::F32(data) => {
                for (cached, value) in data[at..].iter_mut().step_by(stride).zip(row) {
                    *cached = *value;
                }
            }
        }
    }

    fn slice(&self, at: usize, len: usize) -> CacheSlice<'_> {
        match self {
            Self::F16(data) => CacheSlice::F16(&data[at..at + len]),
            Self::F32(data) => CacheSlice::F32(&data[at..at + len]),
        }
    }

    fn copy_within(&mut self, from: usize, to: usize, len: usize) {
        match self {
            Self::F16(data) => data.copy_within(from..from + len, to),
            Self::F32(data) => data.copy_within(from..from + len, to),
        }
    }
}

/// A run of cached numbers, as stored.
#[derive(Debug, Clone, Copy)]
pub enum CacheSlice<'a> {
    /// Half precision.
    F16(&'a [f16]),
    /// Single precision.
    F32(&'a [f32]),
}

/// Keys and values of all sequences of one model.
#[derive(Debug)]
pub struct KvCache {
    /// `(n_layers, n_blocks, n_kv_heads, head_dim, BLOCK_LEN)`: the scores of a whole block come out side by side.
    keys: Storage,
    /// `(n_layers, n_blocks, n_kv_heads, BLOCK_LEN, head_dim)`.
    values: Storage,
    n_blocks: usize,
    n_layers: usize,
    n_kv_heads: usize,
    head_dim: usize,
    pool: BlockPool,
    tree: PrefixTree,
}

/// Blocks and committed tokens of one sequence. Give it back with [`KvCache::close`].
#[derive(Debug, Default)]
pub struct CachedSequence {
    tokens: Vec<u32>,
    blocks: Vec<u32>,
    /// Nodes of the prefix tree that own the first `shared.len()` blocks; the other blocks are ours alone.
    shared: Vec<NodeId>,
}

impl CachedSequence {
    /// Committed positions.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether nothing is committed yet.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Tokens of the committed positions.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Blocks in order of position; reserved positions after [`len`](Self::len) included.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }
}

impl KvCache {
    /// Makes an empty cache of `n_blocks` blocks in half precision.
    pub fn new(config: &ModelConfig, n_blocks: usize) -> Self {
        Self::with_type(config, n_blocks, CacheType::F16)
    }

    /// Makes an empty cache of `n_blocks` blocks. Memory is taken from the system as blocks are first used.
    pub fn with_type(config: &ModelConfig, n_blocks: usize, cache_type: CacheType) -> Self {
        let len = config.n_layers * n_blocks * config.n_kv_heads * BLOCK_LEN * config.head_dim;
        Self {
            keys: Storage::new(cache_type, len),
            values: Storage::new(cache_type, len),
            n_blocks,
            n_layers: config.n_layers,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            pool: BlockPool::new(n_blocks),
            tree: PrefixTree::default(),
        }
    }

    /// Bytes that one block takes in all layers.
    pub fn block_bytes(config: &ModelConfig, cache_type: CacheType) -> usize {
        2 * config.n_layers * config.n_kv_heads * BLOCK_LEN * config.head_dim * cache_type.bytes()
    }

    /// Blocks of the cache, used or not.
    pub fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    /// Blocks that hold nothing: neither a running sequence's nor a remembered prefix's.
    pub fn n_free_blocks(&self) -> usize {
        self.pool.n_free()
    }

    /// Blocks that running sequences hold; what is left can be given to new ones.
    pub fn n_held_blocks(&self) -> usize {
        self.n_blocks - self.pool.n_free() - self.tree.n_unreferenced()
    }

    /// Starts a sequence with the longest prefix of `prompt` that the cache holds.
    ///
    /// `len()` of the result is the hit length: at most `prompt.len() - 1`, so that at least one row is run
    /// and gives logits.
    pub fn open(&mut self, prompt: &[u32]) -> CachedSequence {
        let mut sequence = CachedSequence::default();
        let reusable = &prompt[..prompt.len().saturating_sub(1)];
        let found = self.tree.longest_prefix(reusable);
        for node in found.path {
            self.tree.acquire(node);
            sequence.blocks.push(self.tree.block(node));
            sequence.shared.push(node);
        }
        sequence
            .tokens
            .extend_from_slice(&reusable[..sequence.shared.len() * BLOCK_LEN]);
        if let Some((node, n_rows)) = found.partial {
            // Holding the node keeps its block from being evicted to make room for the copy.
            self.tree.acquire(node);
            let copy = self.take_block();
            let source = self.tree.block(node);
            self.tree.release(node);
            if let Some(copy) = copy {
                self.copy_rows(source, copy, n_rows);
                let start = sequence.tokens.len();
                sequence.blocks.push(copy);
                sequence
                    .tokens
                    .extend_from_slice(&reusable[start..start + n_rows]);
            }
        }
        sequence
    }

    /// Makes sure that `len() + n_positions` positions have blocks, evicting remembered prefixes that no
    /// running sequence uses, least recently used first.
    ///
    /// # Errors
    /// [`EngineError::CacheFull`] if running sequences hold the rest; blocks already given stay with the
    /// sequence.
    pub fn reserve(&mut self, sequence: &mut CachedSequence, n_positions: usize) -> Result<(), EngineError> {
        let needed = (sequence.len() + n_positions).div_ceil(BLOCK_LEN);
        while sequence.blocks.len() < needed {
            let Some(block) = self.take_block() else {
                return Err(EngineError::CacheFull {
                    needed_blocks: needed - sequence.blocks.len(),
                    free_blocks: self.pool.n_free(),
                });
            };
            sequence.blocks.push(block);
        }
        Ok(())
    }

    /// Makes the rows just run for `tokens` final; blocks that are full become shareable.
    ///
    /// # Panics
    /// If the positions were not reserved.
    pub fn commit(&mut self, sequence: &mut CachedSequence, tokens: &[u32]) {
        sequence.tokens.extend_from_slice(tokens);
        assert!(
            sequence.len() <= sequence.blocks.len() * BLOCK_LEN,
            "commit of positions that were not reserved"
        );
        while (sequence.shared.len() + 1) * BLOCK_LEN <= sequence.len() {
            let block_idx = sequence.shared.len();
            let tokens = &sequence.tokens[block_idx * BLOCK_LEN..(block_idx + 1) * BLOCK_LEN];
            let parent = sequence.shared.last().copied();
            let published = self.tree.publish(parent, tokens, sequence.blocks[block_idx]);
            self.tree.acquire(published.node);
            if let Some(spare) = published.spare_block {
                self.pool.give(spare);
            }
            sequence.blocks[block_idx] = self.tree.block(published.node);
            sequence.shared.push(published.node);
        }
    }

    /// Drops all committed positions from `len` on; a few before it too, where a block that is shared had to be
    /// copied and there was no room for it.
    pub fn truncate(&mut self, sequence: &mut CachedSequence, len: usize) {
        if len >= sequence.len() {
            return;
        }
        sequence.tokens.truncate(len);
        let n_full = len / BLOCK_LEN;
        let n_shared = sequence.shared.len();
        if n_shared == n_full {
            return;
        }
        // A shared block that would be written again has to be ours first.
        let n_rows = len % BLOCK_LEN;
        let copy = if n_rows > 0 { self.take_block() } else { None };
        if let Some(copy) = copy {
            self.copy_rows(sequence.blocks[n_full], copy, n_rows);
        } else {
            // No room for the copy: those rows are run again.
            sequence.tokens.truncate(n_full * BLOCK_LEN);
        }
        for block in sequence.blocks.drain(n_shared..) {
            self.pool.give(block);
        }
        for node in sequence.shared.drain(n_full..).rev() {
            self.tree.release(node);
        }
        sequence.blocks.truncate(n_full);
        sequence.blocks.extend(copy);
    }

    /// Ends a sequence. What it committed stays in the cache until the room is needed.
    pub fn close(&mut self, mut sequence: CachedSequence) {
        let n_shared = sequence.shared.len();
        let tail = &sequence.tokens[n_shared * BLOCK_LEN..];
        let mut own_blocks = sequence.blocks.drain(n_shared..);
        if !tail.is_empty() {
            let block = own_blocks.next().expect("committed tokens have a block");
            let published = self.tree.publish(sequence.shared.last().copied(), tail, block);
            if let Some(spare) = published.spare_block {
                self.pool.give(spare);
            }
        }
        for block in own_blocks {
            self.pool.give(block);
        }
        for node in sequence.shared.drain(..).rev() {
            self.tree.release(node);
        }
    }

    /// Writes the key and the value of one position, each `(n_kv_heads, head_dim)`.
    pub fn write(&mut self, layer: usize, block: u32, slot: usize, key: &[f32], value: &[f32]) {
        for head in 0..self.n_kv_heads {
            let start = self.start(layer, block, head);
            let columns = head * self.head_dim..(head + 1) * self.head_dim;
            self.keys
                .write_strided(start + slot, BLOCK_LEN, &key[columns.clone()]);
            self.values.write(start + slot * self.head_dim, &value[columns]);
        }
    }

    /// Keys of one block and head, `(head_dim, BLOCK_LEN)`.
    pub fn keys(&self, layer: usize, block: u32, head: usize) -> CacheSlice<'_> {
        self.keys
            .slice(self.start(layer, block, head), BLOCK_LEN * self.head_dim)
    }

    /// Values of one block and head, `(BLOCK_LEN, head_dim)`.
    pub fn values(&self, layer: usize, block: u32, head: usize) -> CacheSlice<'_> {
        self.values
            .slice(self.start(layer, block, head), BLOCK_LEN * self.head_dim)
    }

    /// Where the numbers of one block and head start, in `keys` and in `values`.
    fn start(&self, layer: usize, block: u32, head: usize) -> usize {
        ((layer * self.n_blocks + block as usize) * self.n_kv_heads + head) * BLOCK_LEN * self.head_dim
    }

    fn copy_rows(&mut self, from: u32, to: u32, n_rows: usize) {
        for layer in 0..self.n_layers {
            for head in 0..self.n_kv_heads {
                let (source, target) = (self.start(layer, from, head), self.start(layer, to, head));
                // Columns of keys that stand after the last row are overwritten before they are read.
                self.keys.copy_within(source, target, BLOCK_LEN * self.head_dim);
                self.values.copy_within(source, target, n_rows * self.head_dim);
            }
        }
    }

    fn take_block(&mut self) -> Option<u32> {
        self.pool.take().or_else(|| self.tree.evict_least_recent())
    }
}

#[cfg(test)]
mod tests;
