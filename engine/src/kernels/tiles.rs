//! Quantised weights laid out for products: panels of as many rows as a vector register has lanes, their blocks word by
//! word side by side.
//!
//! ```text
//! file     row 0: h w w w w  h w w w w ...       tiles    h h h h  h h h h ...        heads of block 0, 1, ...
//!          row 1: h w w w w  h w w w w ...                w w w w  w w w w ...        word 0 of the panel's rows, word 1, ...
//! ```
//!
//! A block is a head, if its bytes are no whole number of words (its scale, or nothing), and words of four bytes. One
//! aligned load then gives the same place in every row, and a product reads memory from start to end. Taking the rows apart
//! where they stand in the file costs more than multiplying them; this copy is made once, and the pages of the file are given
//! back.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{formats::with_format, pool::ThreadPool};
use crate::{
    error::EngineError,
    quant::has_number_scales,
    weights::{GgmlType, Tensor},
};

/// What a block is made of. Without a head `head_bytes` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BlockShape {
    bytes: usize,
    head_at: usize,
    head_bytes: usize,
}

impl BlockShape {
    fn of(dtype: GgmlType) -> Self {
        use super::formats::Format;
        with_format!(dtype, F => Self {
            bytes: F::BYTES,
            head_at: F::HEAD_AT,
            head_bytes: F::HEAD_BYTES,
        })
    }

    /// Byte of a block at which its words begin.
    fn words_at(self) -> usize {
        if self.head_at == 0 { self.head_bytes } else { 0 }
    }

    fn n_words(self) -> usize {
        (self.bytes - self.head_bytes) / 4
    }
}

/// A cache line: keeps loads of whole registers within one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE_BYTES]);

const LINE_BYTES: usize = 64;

/// Bytes of the largest block, a Q6_K's.
const MAX_BLOCK_BYTES: usize = 210;

/// Matrices smaller than this are laid out on the caller's thread.
const MIN_PARALLEL_BYTES: usize = 1 << 18;

/// Bytes of a matrix that are laid out before the file's pages they came from are given back: what loading takes beside the
/// result.
pub(crate) const STRIPE_BYTES: usize = 32 << 20;

/// A quantised matrix in tiles. A clone shares them.
#[derive(Clone)]
pub(super) struct Tiles {
    chunk: Arc<Chunk>,
    /// Index of the first line in the chunk.
    first_line: usize,
    shape: BlockShape,
    n_lanes: usize,
    n_panels: usize,
    n_blocks: usize,
}

/// Gives tiles their memory, many matrices in one piece: large pieces come, and are read, in large pages.
#[derive(Default)]
pub(crate) struct TileArena {
    chunk: Option<Arc<Chunk>>,
    n_used: usize,
}

/// Lines of one piece.
const CHUNK_LINES: usize = (32 << 20) / LINE_BYTES;

/// Memory for lines, each written once before it is read. Whoever got lines from the arena is the only one to write them.
struct Chunk {
    start: *mut Line,
    n_lines: usize,
}

// SAFETY: plain memory, and see above about who writes it.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn new(n_lines: usize) -> Self {
        let mut lines = std::mem::ManuallyDrop::new(Vec::<Line>::with_capacity(n_lines));
        advise_huge_pages(lines.spare_capacity_mut());
        Self {
            start: lines.as_mut_ptr(),
            n_lines: lines.capacity(),
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: pointer and capacity are those of the vector that was taken apart in `new`.
        drop(unsafe { Vec::from_raw_parts(self.start, 0, self.n_lines) });
    }
}

impl TileArena {
    /// Lines that nobody else gets: their chunk, and the index of the first.
    fn take(&mut self, n_lines: usize) -> (Arc<Chunk>, usize) {
        let chunk = match &self.chunk {
            Some(chunk) if self.n_used + n_lines <= chunk.n_lines => Arc::clone(chunk),
            _ => {
                let chunk = Arc::new(Chunk::new(n_lines.max(CHUNK_LINES)));
                self.chunk = Some(Arc::clone(&chunk));
                self.n_used = 0;
                chunk
            }
        };
        let first = self.n_used;
        self.n_used += n_lines;
        (chunk, first)
    }
}

/// One panel's tiles.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    /// `(n_blocks, n_lanes)` heads.
    pub(super) heads: *const u8,
    /// `(n_blocks, n_words, n_lanes)` words.
    pub(super) words: *const u8,
}

impl Tiles {
    /// Lays out a matrix for registers of `n_lanes` words, and gives back the memory that its bytes take in a mapped
    /// file. The last panel is filled up with its last row.
    ///
    /// # Errors
    /// [`EngineError::BadWeight`] if a block has a scale that is not a number.
    pub(super) fn lay_out(
        tensor: &Tensor,
        n_lanes: usize,
        pool: &mut ThreadPool,
        arena: &mut TileArena,
    ) -> Result<Self, EngineError> {
        let shape = BlockShape::of(tensor.dtype);
        let (n_rows, n_bytes) = (tensor.shape[0], tensor.n_bytes());
        let row_bytes = n_bytes / n_rows;
        let n_blocks = row_bytes / shape.bytes;
        let n_panels = n_rows.div_ceil(n_lanes);
        let mut tiles = Self {
            chunk: Arc::new(Chunk::new(0)),
            first_line: 0,
            shape,
            n_lanes,
            n_panels,
            n_blocks,
        };
        (tiles.chunk, tiles.first_line) = arena.take(n_panels * tiles.panel_lines());
        let are_numbers = AtomicBool::new(true);
        let lay_out_panel = |panel_idx: usize| {
            // SAFETY: nobody reads these lines yet, and each panel has its own.
            let (heads, words) = unsafe { tiles.begin_panel(panel_idx) };
            let first_row = panel_idx * n_lanes;
            let last_row = n_rows.min(first_row + n_lanes) - 1;
            let rows = tensor.read_rows(first_row..last_row + 1);
            // All rows of a block before the next one, so that what is written stays in the first-level cache.
            for block_idx in 0..n_blocks {
                for lane in 0..n_lanes {
                    let row = (first_row + lane).min(last_row) - first_row;
                    let block = &rows[row * row_bytes + block_idx * shape.bytes..][..shape.bytes];
                    tiles.place(block, block_idx, lane, heads, words);
                    if !has_number_scales(tensor.dtype, block) {
                        are_numbers.store(false, Ordering::Relaxed);
                    }
                }
            }
        };
        let outcome = |tiles: Self| {
            if are_numbers.load(Ordering::Relaxed) {
                return Ok(tiles);
            }
            Err(EngineError::BadWeight {
                tensor: tensor.name.clone(),
            })
        };
        if n_bytes < MIN_PARALLEL_BYTES {
            (0..n_panels).for_each(lay_out_panel);
            tensor.release();
            return outcome(tiles);
        }
        let stripe_panels = (STRIPE_BYTES / (n_lanes * row_bytes)).max(1);
        for first_panel in (0..n_panels).step_by(stripe_panels) {
            let end = n_panels.min(first_panel + stripe_panels);
            pool.run(end - first_panel, &|idx| lay_out_panel(first_panel + idx));
            tensor
                .rows(first_panel * n_lanes..n_rows.min(end * n_lanes))
                .release();
        }
        outcome(tiles)
    }

    /// The lines of a panel that is to be written, heads and words, with zeros where rounding up to whole lines has added some.
    ///
    /// # Safety
    /// Nobody else has these lines.
    #[expect(clippy::mut_from_ref, reason = "the lines belong to nobody yet")]
    unsafe fn begin_panel(&self, panel_idx: usize) -> (&mut [u8], &mut [[u8; 4]]) {
        let (n_heads, n_lines) = (self.head_lines(), self.panel_lines());
        // SAFETY: the arena gave us lines for all panels.
        let start = unsafe { self.chunk.start.add(self.first_line + panel_idx * n_lines) };
        for last in [n_heads, n_lines].into_iter().filter_map(|it| it.checked_sub(1)) {
            // SAFETY: a line of this panel.
            unsafe { start.add(last).write(Line([0; LINE_BYTES])) };
        }
        // SAFETY: plain bytes of this panel. They are only written, and all that are not zero already are.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), n_lines * LINE_BYTES) };
        let (heads, words) = bytes.split_at_mut(n_heads * LINE_BYTES);
        (heads, words.as_chunks_mut().0)
    }

    /// Puts one row's block into the panel's heads and words.
    fn place(&self, block: &[u8], block_idx: usize, lane: usize, heads: &mut [u8], words: &mut [[u8; 4]]) {
        let BlockShape {
            head_at, head_bytes, ..
        } = self.shape;
        let n_words = self.shape.n_words();
        // Byte by byte: a call would take longer.
        let head = &mut heads[(block_idx * self.n_lanes + lane) * head_bytes..];
        for (place, byte) in head.iter_mut().zip(&block[head_at..head_at + head_bytes]) {
            *place = *byte;
        }
        let own = block[self.shape.words_at()..][..4 * n_words].as_chunks::<4>().0;
        let out = &mut words[block_idx * n_words * self.n_lanes + lane..];
        for (word, place) in own.iter().zip(out.iter_mut().step_by(self.n_lanes)) {
            *place = *word;
        }
    }

    /// Calls `read` with each block of row `row` as the file had it, and its index.
    pub(super) fn read_row(&self, row: usize, mut read: impl FnMut(usize, &[u8])) {
        let (panel, lane) = (self.panel(row / self.n_lanes), row % self.n_lanes);
        let BlockShape {
            bytes,
            head_at,
            head_bytes,
        } = self.shape;
        let n_words = self.shape.n_words();
        let mut block = [0; MAX_BLOCK_BYTES];
        let block = &mut block[..bytes];
        // SAFETY: the panel has as many heads and words as it has blocks and lanes.
        let place = |start: *const u8, at: usize, len: usize| unsafe {
            std::slice::from_raw_parts(start.add(at), len)
        };
        for block_idx in 0..self.n_blocks {
            let at = (block_idx * self.n_lanes + lane) * head_bytes;
            block[head_at..head_at + head_bytes].copy_from_slice(place(panel.heads, at, head_bytes));
            let own = &mut block[self.shape.words_at()..][..4 * n_words];
            for (word_idx, word) in own.chunks_exact_mut(4).enumerate() {
                let at = ((block_idx * n_words + word_idx) * self.n_lanes + lane) * 4;
                word.copy_from_slice(place(panel.words, at, 4));
            }
            read(block_idx, block);
        }
    }

    fn head_lines(&self) -> usize {
        (self.n_blocks * self.n_lanes * self.shape.head_bytes).div_ceil(LINE_BYTES)
    }

    fn panel_lines(&self) -> usize {
        let words = self.n_blocks * self.shape.n_words() * self.n_lanes * 4;
        self.head_lines() + words.div_ceil(LINE_BYTES)
    }

    /// Panel `panel_idx`: rows `panel_idx * n_lanes` and those after it.
    ///
    /// # Panics
    /// If there are not so many.
    pub(super) fn panel(&self, panel_idx: usize) -> Panel {
        assert!(panel_idx < self.n_panels);
        // SAFETY: lines of this panel, which were written before anybody got the tiles.
        unsafe {
            let start = self
                .chunk
                .start
                .add(self.first_line + panel_idx * self.panel_lines());
            Panel {
                heads: start.cast(),
                words: start.add(self.head_lines()).cast(),
            }
        }
    }

    /// Blocks in a row.
    pub(super) fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    /// Rows of a panel.
    pub(super) fn n_lanes(&self) -> usize {
        self.n_lanes
    }
}

/// Asks for large pages where the memory has room for some: they are faster to get, and to read.
fn advise_huge_pages<T>(memory: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        const HUGE_PAGE_BYTES: usize = 2 << 20;
        let range = memory.as_mut_ptr_range();
        let start = (range.start as usize).next_multiple_of(HUGE_PAGE_BYTES);
        let end = range.end as usize / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        if start < end {
            // SAFETY: whole pages of memory that is ours; a refusal changes nothing.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}
