//! Quantised weights laid out for products, in [`panels`](crate::weights::panels). Taking the rows apart where they stand in a
//! file costs more than multiplying them; this copy is made once, and the pages of the file are given back. The model inside
//! the program lies in panels already, and is read where it stands.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use memmap2::MmapMut;

use super::{formats::with_format, pool::ThreadPool};
use crate::{
    error::EngineError,
    quant::has_number_scales,
    weights::{
        GgmlType, PANEL_ROWS, SharedBytes, Tensor,
        panels::{BlockShape, LINE_BYTES, PanelShape},
    },
};

fn block_shape(dtype: GgmlType) -> BlockShape {
    use super::formats::Format;
    with_format!(dtype, F => BlockShape {
        bytes: F::BYTES,
        head_at: F::HEAD_AT,
        head_bytes: F::HEAD_BYTES,
    })
}

/// Memory for panels begins with one of these.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE_BYTES]);

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
    memory: Memory,
    shape: PanelShape,
    n_panels: usize,
}

/// Where the panels are, one after the other from the start of a line.
#[derive(Clone)]
enum Memory {
    /// From this line of a chunk on.
    Chunk(Arc<Chunk>, usize),
    Program(SharedBytes),
}

/// Gives tiles their memory, many matrices in one piece: large pieces come, and are read, in large pages.
#[derive(Default)]
pub(crate) struct TileArena {
    chunk: Option<Arc<Chunk>>,
    n_used: usize,
}

/// Lines of one piece.
const CHUNK_LINES: usize = (32 << 20) / LINE_BYTES;

/// Memory for lines. Whoever got lines from the arena is the only one to write them, before anybody reads them.
struct Chunk {
    start: *mut Line,
    n_lines: usize,
    /// Where they are.
    _memory: MmapMut,
}

// SAFETY: plain memory, and see above about who writes it.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// Zeros, which take no memory before they are written.
    fn new(n_lines: usize) -> io::Result<Self> {
        let mut memory = MmapMut::map_anon(n_lines * LINE_BYTES)?;
        // Large pages are faster to get, and to read; without them it goes as well.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        Ok(Self {
            start: memory.as_mut_ptr().cast(),
            n_lines,
            _memory: memory,
        })
    }
}

impl TileArena {
    /// Lines that nobody else gets: their chunk, and the index of the first.
    fn take(&mut self, n_lines: usize) -> io::Result<(Arc<Chunk>, usize)> {
        let chunk = match &self.chunk {
            Some(chunk) if self.n_used + n_lines <= chunk.n_lines => Arc::clone(chunk),
            _ => {
                let chunk = Arc::new(Chunk::new(n_lines.max(CHUNK_LINES))?);
                self.chunk = Some(Arc::clone(&chunk));
                self.n_used = 0;
                chunk
            }
        };
        let first = self.n_used;
        self.n_used += n_lines;
        Ok((chunk, first))
    }
}

/// One panel's tiles.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    /// `(n_blocks, PANEL_ROWS)` heads.
    pub(super) heads: *const u8,
    /// `(n_blocks, n_words, PANEL_ROWS)` words.
    pub(super) words: *const u8,
}

impl Tiles {
    /// Lays out a matrix, and gives back the memory that its bytes take in a mapped file. The last panel is filled up with its
    /// last row. What lies in panels already is left where it is, unread.
    ///
    /// # Errors
    /// [`EngineError::NoMemory`], and [`EngineError::BadWeight`] if a block that is read has a scale that is not a number.
    pub(super) fn lay_out(
        tensor: &Tensor,
        pool: &mut ThreadPool,
        arena: &mut TileArena,
    ) -> Result<Self, EngineError> {
        let (n_rows, n_bytes) = (tensor.shape[0], tensor.n_bytes());
        let row_bytes = n_bytes / n_rows;
        let n_panels = n_rows.div_ceil(PANEL_ROWS);
        let block = block_shape(tensor.dtype);
        let shape = PanelShape {
            block,
            n_rows: PANEL_ROWS,
            n_blocks: row_bytes / block.bytes,
        };
        if let Some((found, bytes)) = tensor.panels()
            && found == shape
            && bytes.as_ptr().cast::<Line>().is_aligned()
        {
            return Ok(Self {
                memory: Memory::Program(bytes),
                shape,
                n_panels,
            });
        }
        let taken = arena.take(n_panels * shape.n_bytes() / LINE_BYTES);
        let (chunk, first_line) = taken.map_err(|err| EngineError::NoMemory {
            what: tensor.name.clone(),
            n_bytes,
            reason: err.to_string(),
        })?;
        let tiles = Self {
            memory: Memory::Chunk(chunk, first_line),
            shape,
            n_panels,
        };
        let are_numbers = AtomicBool::new(true);
        let lay_out_panel = |panel_idx: usize| {
            // SAFETY: zeros so far, nobody else has these lines yet, and each panel has its own.
            let panel = unsafe {
                std::slice::from_raw_parts_mut(tiles.start_of(panel_idx).cast_mut(), shape.n_bytes())
            };
            let first_row = panel_idx * PANEL_ROWS;
            let rows = tensor.read_rows(first_row..n_rows.min(first_row + PANEL_ROWS));
            shape.lay_out(&rows, panel, |block| {
                if !has_number_scales(tensor.dtype, block) {
                    are_numbers.store(false, Ordering::Relaxed);
                }
            });
        };
        if n_bytes < MIN_PARALLEL_BYTES {
            (0..n_panels).for_each(lay_out_panel);
            tensor.release();
        } else {
            let stripe_panels = (STRIPE_BYTES / (PANEL_ROWS * row_bytes)).max(1);
            for first_panel in (0..n_panels).step_by(stripe_panels) {
                let end = n_panels.min(first_panel + stripe_panels);
                pool.run(end - first_panel, &|idx| lay_out_panel(first_panel + idx));
                let rows = first_panel * PANEL_ROWS..n_rows.min(end * PANEL_ROWS);
                tensor.rows(rows).release();
            }
        }
        if !are_numbers.into_inner() {
            return Err(EngineError::BadWeight {
                tensor: tensor.name.clone(),
            });
        }
        Ok(tiles)
    }

    /// Calls `read` with each block of row `row` as the file had it, and its index.
    pub(super) fn read_row(&self, row: usize, mut read: impl FnMut(usize, &[u8])) {
        // SAFETY: a panel that was written before anybody got the tiles.
        let panel =
            unsafe { std::slice::from_raw_parts(self.start_of(row / PANEL_ROWS), self.shape.n_bytes()) };
        let mut block = [0; MAX_BLOCK_BYTES];
        let block = &mut block[..self.shape.block.bytes];
        for block_idx in 0..self.shape.n_blocks {
            self.shape.read_block(panel, block_idx, row % PANEL_ROWS, block);
            read(block_idx, block);
        }
    }

    /// First byte of panel `panel_idx`.
    ///
    /// # Panics
    /// If there are not so many.
    fn start_of(&self, panel_idx: usize) -> *const u8 {
        assert!(panel_idx < self.n_panels);
        let at = panel_idx * self.shape.n_bytes();
        match &self.memory {
            // SAFETY: the arena gave us lines for all panels.
            Memory::Chunk(chunk, first_line) => unsafe { chunk.start.add(*first_line).cast::<u8>().add(at) },
            Memory::Program(bytes) => bytes[at..].as_ptr(),
        }
    }

    /// Panel `panel_idx`: rows `panel_idx * PANEL_ROWS` and those after it.
    ///
    /// # Panics
    /// If there are not so many.
    pub(super) fn panel(&self, panel_idx: usize) -> Panel {
        let heads = self.start_of(panel_idx);
        Panel {
            heads,
            // SAFETY: within the panel.
            words: unsafe { heads.add(self.shape.words_at()) },
        }
    }

    /// Whether the panels are read where the program has them.
    #[cfg(test)]
    pub(super) fn is_in_program(&self) -> bool {
        matches!(self.memory, Memory::Program(_))
    }

    /// Blocks in a row.
    pub(super) fn n_blocks(&self) -> usize {
        self.shape.n_blocks
    }
}
