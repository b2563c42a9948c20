//! Keys and values of every layer, in blocks that sequences share by common prefix.
//!
//! A sequence is a list of blocks of [`BLOCK_LEN`] positions. Full blocks are published in a prefix tree as
//! soon as they are committed, so a later request that starts with the same tokens reuses them without a
//! copy; of a block that agrees only in its beginning, that beginning is copied. Where layers have states, a sequence
//! begins after a block whose states were kept. Nothing here computes.

mod block_pool;
mod prefix_tree;
mod states;
mod storage;

pub use self::states::{LayerStates, StateId, StateSteps};
use self::{
    block_pool::BlockPool,
    prefix_tree::{FoundPrefix, NodeId, PrefixTree},
    states::{BLOCKS_PER_STATE, States},
    storage::{Orientation, RUN_LEN, Storage},
};
use crate::{
    error::EngineError,
    kernels::Isa,
    model::{CacheShape, ModelConfig},
};

/// Positions in a block: the unit of allocation and of sharing.
pub const BLOCK_LEN: usize = 32;

/// Positions between the states of a sequence that are kept at least, for others to begin with. Besides those, the ones at
/// the end of its prompt, and where it parts from others, as the next one will too.
const STATE_INTERVAL: usize = 16 * BLOCK_LEN;

/// Number format of the cached keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheType {
    /// Half precision: half the memory and the traffic of `F32`.
    #[default]
    F16,
    /// Single precision, for comparison with references.
    F32,
    /// 8-bit integers with a half-precision scale for each 32 of a head: 17/32 of the memory of `F16`.
    Q8_0,
}

impl CacheType {
    /// Bytes that the key, or the value, of one head and position takes.
    fn head_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::F16 => 2 * head_dim,
            Self::F32 => 4 * head_dim,
            Self::Q8_0 => head_dim + 2 * head_dim.div_ceil(RUN_LEN),
        }
    }
}

/// Keys and values of all sequences of one model.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<Layer>,
    n_blocks: usize,
    pool: BlockPool,
    tree: PrefixTree,
    states: States,
}

/// Head blocks of one layer, in order of block and head.
#[derive(Debug)]
struct Layer {
    shape: CacheShape,
    keys: Storage,
    /// Absent where values are the beginnings of keys.
    values: Option<Storage>,
}

/// Blocks and committed tokens of one sequence. Give it back with [`KvCache::close`].
#[derive(Debug, Default)]
pub struct CachedSequence {
    tokens: Vec<u32>,
    blocks: Vec<u32>,
    /// Nodes of the prefix tree that own the first `shared.len()` blocks; the other blocks are ours alone.
    shared: Vec<NodeId>,
    /// Its own state, if the model has such layers.
    state: Option<StateId>,
    /// Positions after which a state is worth keeping.
    state_places: [usize; 2],
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
        let layer = |&shape: &CacheShape| {
            let n_head_blocks = n_blocks * shape.n_heads;
            let storage = |orientation, width| Storage::new(cache_type, orientation, width, n_head_blocks);
            Layer {
                shape,
                keys: storage(Orientation::SlotsInside, shape.key_dim),
                values: (!shape.values_are_keys).then(|| storage(Orientation::SlotsOutside, shape.value_dim)),
            }
        };
        Self {
            layers: config.caches.iter().map(layer).collect(),
            n_blocks,
            pool: BlockPool::new(n_blocks),
            tree: PrefixTree::default(),
            states: States::new(config, n_blocks),
        }
    }

    /// Bytes that one block takes in all layers, with its share of the memory for states.
    pub fn block_bytes(config: &ModelConfig, cache_type: CacheType) -> usize {
        let head_bytes = |shape: &CacheShape| {
            let values = if shape.values_are_keys {
                0
            } else {
                cache_type.head_bytes(shape.value_dim)
            };
            shape.n_heads * (cache_type.head_bytes(shape.key_dim) + values)
        };
        let position_bytes: usize = config.caches.iter().map(head_bytes).sum();
        BLOCK_LEN * position_bytes + States::state_bytes(config) / BLOCKS_PER_STATE
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
        let mut found = self.tree.longest_prefix(reusable);
        if self.states.are_needed() {
            sequence.state_places = [found.path.len(), reusable.len() / BLOCK_LEN].map(|it| it * BLOCK_LEN);
            sequence.state = self.take_state_of(&mut found);
        }
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

    /// Makes sure that `len() + n_positions` positions have blocks, and the sequence a state where the model has such
    /// layers, evicting remembered prefixes that no running sequence uses, least recently used first.
    ///
    /// # Errors
    /// [`EngineError::CacheFull`] if running sequences hold the rest. Nothing is evicted then.
    pub fn reserve(&mut self, sequence: &mut CachedSequence, n_positions: usize) -> Result<(), EngineError> {
        let needed = (sequence.len() + n_positions).div_ceil(BLOCK_LEN);
        let lacking = needed.saturating_sub(sequence.blocks.len());
        // A node that nobody holds has no descendant that somebody holds: all of them can be evicted.
        let available = self.pool.n_free() + self.tree.n_unreferenced();
        let full = EngineError::CacheFull {
            needed_blocks: lacking,
            free_blocks: available,
        };
        if lacking > available {
            return Err(full);
        }
        if self.states.are_needed() && sequence.state.is_none() {
            let Some(state) = self.take_state() else {
                return Err(EngineError::CacheFull {
                    needed_blocks: BLOCKS_PER_STATE,
                    free_blocks: 0,
                });
            };
            self.states.clear(state);
            sequence.state = Some(state);
        }
        for _ in 0..lacking {
            let Some(block) = self.take_block() else {
                return Err(full);
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
        if let Some(state) = sequence.state {
            self.publish_states(sequence, state);
        }
    }

    /// Drops all committed positions from `len` on; a few before it too, where a block that is shared had to be
    /// copied and there was no room for it.
    /// Layers with states go back further, to one that was kept, where `len` lies before the sequence's own.
    pub fn truncate(&mut self, sequence: &mut CachedSequence, len: usize) {
        if len >= sequence.len() {
            return;
        }
        let len = self.roll_back_state(sequence, len);
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
        if let Some(state) = sequence.state {
            self.states.give(state);
        }
        for node in sequence.shared.drain(..).rev() {
            self.tree.release(node);
        }
    }

    /// Writes the key and the value of one slot of a block, `(n_heads, key_dim)` and `(n_heads, value_dim)`; `value` is
    /// not read where values are the beginnings of keys.
    pub fn write(&mut self, layer: usize, block: u32, slot: usize, key: &[f32], value: &[f32]) {
        let layer = &mut self.layers[layer];
        let first_head = block as usize * layer.shape.n_heads;
        for (head, key) in key.chunks_exact(layer.shape.key_dim).enumerate() {
            layer.keys.write(first_head + head, slot, key);
        }
        if let Some(values) = &mut layer.values {
            for (head, value) in value.chunks_exact(layer.shape.value_dim).enumerate() {
                values.write(first_head + head, slot, value);
            }
        }
    }

    /// Keys of one block and head as `(key_dim, BLOCK_LEN)`.
    #[inline(always)]
    pub fn load_keys(&self, isa: Isa, layer: usize, block: u32, head: usize, out: &mut [f32]) {
        let layer = &self.layers[layer];
        layer
            .keys
            .load(isa, layer.head_block(block, head), BLOCK_LEN, out);
    }

    /// The first `n_slots` values of one block and head as `(n_slots, value_dim)`. Leaves `out` as it is where values are
    /// the beginnings of keys.
    #[inline(always)]
    pub fn load_values(
        &self,
        isa: Isa,
        layer: usize,
        block: u32,
        head: usize,
        n_slots: usize,
        out: &mut [f32],
    ) {
        let layer = &self.layers[layer];
        if let Some(values) = &layer.values {
            values.load(isa, layer.head_block(block, head), n_slots, out);
        }
    }

    /// Key and value of one slot of a block and head, to slot `to` of `keys`, `(key_dim, BLOCK_LEN)`, and of
    /// `values`, `(BLOCK_LEN, value_dim)`; leaves `values` as [`load_values`](Self::load_values) does.
    #[inline(always)]
    pub fn load_slot(
        &self,
        layer: usize,
        (block, slot): (u32, usize),
        head: usize,
        to: usize,
        keys: &mut [f32],
        values: &mut [f32],
    ) {
        let layer = &self.layers[layer];
        let head_block = layer.head_block(block, head);
        layer.keys.load_slot(head_block, slot, keys, to);
        if let Some(cached) = &layer.values {
            cached.load_slot(head_block, slot, values, to);
        }
    }

    /// Brings the state of a sequence up to `to` positions, which have to be final, and says where copies of it are to be
    /// kept on the way. A pass calls this once, and takes the steps in every layer.
    ///
    /// # Panics
    /// If nothing was reserved for the sequence, or rows that were final have not been committed.
    pub fn advance_state(&mut self, sequence: &CachedSequence, to: usize) -> StateSteps {
        let state = sequence
            .state
            .expect("rows run only after a state was reserved for their sequence");
        let from = self.states.len(state);
        assert!(
            from <= sequence.len(),
            "a pass after rows that were final and are not committed"
        );
        let mut copies = Vec::new();
        for block_idx in from / BLOCK_LEN..to / BLOCK_LEN {
            let len = (block_idx + 1) * BLOCK_LEN;
            let is_wanted = len.is_multiple_of(STATE_INTERVAL) || sequence.state_places.contains(&len);
            let known = sequence
                .shared
                .get(block_idx)
                .and_then(|&node| self.tree.state(node));
            if is_wanted
                && known.is_none()
                && let Some(copy) = self.take_state()
            {
                copies.push((len, copy));
            }
        }
        self.states.advance(state, to, copies)
    }

    /// States of one of the layers that have them, counted without the others.
    pub fn states_mut(&mut self, layer: usize) -> &mut LayerStates {
        self.states.layer(layer)
    }

    /// Moves the rows of a path through a tree of drafts together: of the nodes whose slots follow position
    /// `context_len` (in order, each higher than the one before), the others are dropped. They can then be committed.
    ///
    /// # Panics
    /// If the slots were not reserved.
    pub fn keep_path(&mut self, sequence: &CachedSequence, context_len: usize, path: &[usize]) {
        let place = |slot: usize| (sequence.blocks[slot / BLOCK_LEN], slot % BLOCK_LEN);
        for (to_node, &node) in path.iter().enumerate().filter(|(to, node)| to != *node) {
            let (from, to) = (place(context_len + node), place(context_len + to_node));
            for layer in &mut self.layers {
                for head in 0..layer.shape.n_heads {
                    let from = (layer.head_block(from.0, head), from.1);
                    let to = (layer.head_block(to.0, head), to.1);
                    layer.storages().for_each(|storage| storage.copy_slot(from, to));
                }
            }
            if let Some(state) = sequence.state {
                self.states
                    .copy_input(state, context_len + node, context_len + to_node);
            }
        }
    }

    fn copy_rows(&mut self, from: u32, to: u32, n_rows: usize) {
        for layer in &mut self.layers {
            for head in 0..layer.shape.n_heads {
                // Keys that stand after the last row are overwritten before they are read.
                let (from, to) = (layer.head_block(from, head), layer.head_block(to, head));
                layer
                    .storages()
                    .for_each(|storage| storage.copy_slots(from, to, n_rows));
            }
        }
    }

    fn take_block(&mut self) -> Option<u32> {
        if let Some(block) = self.pool.take() {
            return Some(block);
        }
        let evicted = self.tree.evict_least_recent()?;
        if let Some(state) = evicted.state {
            self.states.give(state);
        }
        Some(evicted.block)
    }

    /// A state that may hold anything; one is taken from a remembered prefix if none is free.
    fn take_state(&mut self) -> Option<StateId> {
        self.states
            .take()
            .or_else(|| self.tree.evict_least_recent_state())
    }

    /// Gives the states that the last pass kept on the way to `state` to the blocks that end there.
    fn publish_states(&mut self, sequence: &CachedSequence, state: StateId) {
        for (len, copy) in self.states.take_copies(state) {
            match sequence.shared.get(len / BLOCK_LEN - 1) {
                Some(&node) if self.tree.state(node).is_none() => self.tree.set_state(node, Some(copy)),
                _ => self.states.give(copy),
            }
        }
    }

    /// Cuts what was found of a prompt down to where a state was kept, and gives a copy of that state, or an empty one.
    /// Without room for it, nothing is left of what was found.
    fn take_state_of(&mut self, found: &mut FoundPrefix) -> Option<StateId> {
        found.partial = None;
        while let Some(&node) = found.path.last() {
            if self.tree.state(node).is_some() {
                return Some(self.copy_state_of(node));
            }
            found.path.pop();
        }
        let state = self.take_state()?;
        self.states.clear(state);
        Some(state)
    }

    /// Takes the state of `node`, which has one, and leaves it a copy if there is room.
    fn copy_state_of(&mut self, node: NodeId) -> StateId {
        let state = self.tree.state(node).expect("the caller saw a state");
        self.tree.set_state(node, None);
        if let Some(copy) = self.take_state() {
            self.states.copy(state, copy);
            self.tree.set_state(node, Some(copy));
        }
        state
    }

    /// Brings the state of a sequence that is cut to `len` positions to where it can go on from, and returns how many
    /// positions that are.
    fn roll_back_state(&mut self, sequence: &mut CachedSequence, len: usize) -> usize {
        match sequence.state {
            // The inputs since then are kept, and those after `len` will be replaced.
            Some(state) if self.states.len(state) > len => {
                self.states.give(state);
                let mut found = FoundPrefix {
                    path: sequence.shared[..len / BLOCK_LEN].to_vec(),
                    partial: None,
                };
                sequence.state = self.take_state_of(&mut found);
                found.path.len() * BLOCK_LEN
            }
            _ => len,
        }
    }
}

impl Layer {
    fn head_block(&self, block: u32, head: usize) -> usize {
        block as usize * self.shape.n_heads + head
    }

    fn storages(&mut self) -> impl Iterator<Item = &mut Storage> {
        std::iter::once(&mut self.keys).chain(&mut self.values)
    }
}

#[cfg(test)]
mod tests;
