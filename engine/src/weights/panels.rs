//! Quantised weights in panels: as many rows as a vector register has lanes, their blocks word by word side by side.
//!
//! ```text
//! rows     row 0: h w w w w  h w w w w ...       panel    h h h h  h h h h ...        heads of block 0, 1, ...
//!          row 1: h w w w w  h w w w w ...                w w w w  w w w w ...        word 0 of the rows, word 1, ...
//! ```
//!
//! A block is a head, if its bytes are no whole number of words (its scale, or nothing), and words of four bytes. One
//! aligned load then gives the same place in every row, and a product reads memory from start to end. Heads and words begin
//! with a cache line each; what is left of the last one is zeros.
//!
//! The build script has this file too, to lay out the model that is inside the program: nothing here knows the crate.

/// Keeps loads of whole registers within one.
pub(crate) const LINE_BYTES: usize = 64;

/// Rows of a panel on a processor architecture, by Rust's name: those of its widest register. Narrower ones take a panel in parts.
pub(crate) const fn rows_of_panel(arch: &str) -> usize {
    match arch.as_bytes() {
        b"aarch64" => 4,
        _ => 16,
    }
}

/// What a block is made of. Without a head `head_bytes` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockShape {
    pub(crate) bytes: usize,
    /// Where the head stands: at the block's start or its end.
    pub(crate) head_at: usize,
    pub(crate) head_bytes: usize,
}

impl BlockShape {
    /// A scale and 32 bytes: the only type of matrix in the model inside the program.
    pub(crate) const Q8_0: Self = Self {
        bytes: 34,
        head_at: 0,
        head_bytes: 2,
    };

    /// Byte of a block at which its words begin.
    const fn words_at(self) -> usize {
        if self.head_at == 0 { self.head_bytes } else { 0 }
    }

    const fn n_words(self) -> usize {
        (self.bytes - self.head_bytes) / 4
    }
}

/// Rows of a panel, and what they are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PanelShape {
    pub(crate) block: BlockShape,
    pub(crate) n_rows: usize,
    /// Blocks of a row.
    pub(crate) n_blocks: usize,
}

impl PanelShape {
    /// Panels of a matrix in the model inside the program; none if its rows lie one after the other, since panels would take more.
    pub(crate) fn of_embedded(n_matrix_rows: usize, n_cols: usize, n_rows: usize) -> Option<Self> {
        let shape = Self {
            block: BlockShape::Q8_0,
            n_rows,
            n_blocks: n_cols / 32,
        };
        let is_snug = shape.n_bytes() == n_rows * shape.n_blocks * shape.block.bytes;
        (is_snug && n_matrix_rows.is_multiple_of(n_rows)).then_some(shape)
    }

    /// Where the words begin.
    pub(crate) const fn words_at(self) -> usize {
        self.head_bytes().next_multiple_of(LINE_BYTES)
    }

    /// What a panel takes, in whole lines.
    pub(crate) const fn n_bytes(self) -> usize {
        self.words_at() + self.word_bytes().next_multiple_of(LINE_BYTES)
    }

    const fn head_bytes(self) -> usize {
        self.n_blocks * self.n_rows * self.block.head_bytes
    }

    const fn word_bytes(self) -> usize {
        self.n_blocks * self.n_rows * self.block.n_words() * 4
    }

    /// Lays out rows of blocks, one after the other; those that are missing are like the last. Shows each block to `look`.
    pub(crate) fn lay_out(self, rows: &[u8], panel: &mut [u8], mut look: impl FnMut(&[u8])) {
        let block_bytes = self.block.bytes;
        let row_bytes = self.n_blocks * block_bytes;
        let last_row = rows.len() / row_bytes - 1;
        let (heads, words) = panel.split_at_mut(self.words_at());
        heads[self.head_bytes()..].fill(0);
        words[self.word_bytes()..].fill(0);
        let words = words.as_chunks_mut().0;
        // All rows of a block before the next one, so that what is written stays in the first-level cache.
        for block_idx in 0..self.n_blocks {
            for lane in 0..self.n_rows {
                let block = &rows[lane.min(last_row) * row_bytes + block_idx * block_bytes..][..block_bytes];
                self.place(block, block_idx, lane, heads, words);
                look(block);
            }
        }
    }

    fn place(self, block: &[u8], block_idx: usize, lane: usize, heads: &mut [u8], words: &mut [[u8; 4]]) {
        let BlockShape {
            head_at, head_bytes, ..
        } = self.block;
        let n_words = self.block.n_words();
        // Byte by byte: a call would take longer.
        let head = &mut heads[(block_idx * self.n_rows + lane) * head_bytes..];
        for (place, byte) in head.iter_mut().zip(&block[head_at..head_at + head_bytes]) {
            *place = *byte;
        }
        let own = block[self.block.words_at()..][..4 * n_words].as_chunks::<4>().0;
        let out = &mut words[block_idx * n_words * self.n_rows + lane..];
        for (word, place) in own.iter().zip(out.iter_mut().step_by(self.n_rows)) {
            *place = *word;
        }
    }

    /// Writes a block of row `lane` as it was.
    pub(crate) fn read_block(self, panel: &[u8], block_idx: usize, lane: usize, block: &mut [u8]) {
        let BlockShape {
            head_at, head_bytes, ..
        } = self.block;
        let n_words = self.block.n_words();
        let (heads, words) = panel.split_at(self.words_at());
        let at = (block_idx * self.n_rows + lane) * head_bytes;
        block[head_at..head_at + head_bytes].copy_from_slice(&heads[at..at + head_bytes]);
        let own = &mut block[self.block.words_at()..][..4 * n_words];
        for (word_idx, word) in own.chunks_exact_mut(4).enumerate() {
            let at = ((block_idx * n_words + word_idx) * self.n_rows + lane) * 4;
            word.copy_from_slice(&words[at..at + 4]);
        }
    }
}
