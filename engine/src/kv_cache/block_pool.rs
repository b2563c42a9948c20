//! Which blocks of the KV cache are free.

/// A stack of free block ids.
#[derive(Debug)]
pub(super) struct BlockPool {
    free: Vec<u32>,
}

impl BlockPool {
    /// All of `n_blocks` blocks are free; the lowest is taken first.
    pub(super) fn new(n_blocks: usize) -> Self {
        Self {
            free: (0..n_blocks as u32).rev().collect(),
        }
    }

    /// Takes a block, if one is free.
    pub(super) fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Gives a block back.
    pub(super) fn give(&mut self, block: u32) {
        debug_assert!(!self.free.contains(&block), "block {block} was given back twice");
        self.free.push(block);
    }

    /// Free blocks.
    pub(super) fn n_free(&self) -> usize {
        self.free.len()
    }
}
