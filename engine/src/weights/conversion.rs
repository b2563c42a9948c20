//! Tensors whose blocks no file holds: they are made, row by row, from what a file holds in another form.
//!
//! Nothing is made before somebody asks: a model can be looked at by its headers alone, and loading needs no second copy.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use super::{GgmlType, SharedBytes, Tensor, panels::PanelShape};
use crate::{error::EngineError, quant};

/// Makes the rows of a tensor. Rows are counted over all dimensions but the last.
pub(crate) trait Conversion: Send + Sync {
    /// Name of the form that the file holds, such as `FP8`.
    fn source_type(&self) -> &'static str;

    /// Writes the blocks of some rows; `out` has room for just these.
    fn write_rows(&self, rows: Range<usize>, out: &mut [u8]);

    /// Writes the numbers of some rows as the file has them, before any rounding to the tensor's own type.
    fn read_numbers(&self, rows: Range<usize>, out: &mut [f32]);

    /// Gives back the memory that some rows take in mapped files.
    fn release(&self, rows: Range<usize>);

    /// All rows, if panels are the form in which they lie.
    fn panels(&self) -> Option<(PanelShape, &SharedBytes)> {
        None
    }
}

/// Rows of a conversion, from the first one on.
#[derive(Clone)]
pub(super) struct Converted {
    shared: Arc<Shared>,
    pub(super) first_row: usize,
}

struct Shared {
    conversion: Box<dyn Conversion>,
    n_bytes: usize,
    n_rows: usize,
    /// All blocks, for those who ask for them in one piece.
    made: OnceLock<Vec<u8>>,
}

impl Converted {
    /// All rows of `conversion`, `n_rows` of them that take `n_bytes` together.
    pub(super) fn new(conversion: Box<dyn Conversion>, n_rows: usize, n_bytes: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                conversion,
                n_bytes,
                n_rows,
                made: OnceLock::new(),
            }),
            first_row: 0,
        }
    }

    pub(super) fn conversion(&self) -> &dyn Conversion {
        &*self.shared.conversion
    }

    /// `n_rows` rows in panels, if they lie so, and fill them.
    pub(super) fn panels(&self, n_rows: usize) -> Option<(PanelShape, SharedBytes)> {
        let (shape, bytes) = self.shared.conversion.panels()?;
        let is_whole = |row: usize| row.is_multiple_of(shape.n_rows);
        let at = |row: usize| row / shape.n_rows * shape.n_bytes();
        (is_whole(self.first_row) && is_whole(n_rows)).then(|| {
            (
                shape,
                bytes.slice(at(self.first_row)..at(self.first_row + n_rows)),
            )
        })
    }

    /// The blocks of `n_rows` rows; all are made at the first call, and kept.
    pub(super) fn bytes(&self, n_rows: usize) -> &[u8] {
        let Shared {
            conversion,
            n_bytes,
            n_rows: n_all_rows,
            made,
        } = &*self.shared;
        let all = made.get_or_init(|| {
            let mut bytes = vec![0; *n_bytes];
            conversion.write_rows(0..*n_all_rows, &mut bytes);
            bytes
        });
        let row_bytes = n_bytes / n_all_rows;
        &all[self.first_row * row_bytes..(self.first_row + n_rows) * row_bytes]
    }
}

/// Blocks in panels: of a matrix of the model inside the program.
pub(super) struct InPanels {
    pub(super) dtype: GgmlType,
    pub(super) shape: PanelShape,
    pub(super) bytes: SharedBytes,
}

impl Conversion for InPanels {
    fn source_type(&self) -> &'static str {
        self.dtype.name()
    }

    fn write_rows(&self, rows: Range<usize>, out: &mut [u8]) {
        let PanelShape {
            block,
            n_rows,
            n_blocks,
        } = self.shape;
        let panels = self.bytes.chunks_exact(self.shape.n_bytes());
        for (row, out) in rows.zip(out.chunks_exact_mut(n_blocks * block.bytes)) {
            let panel = panels.clone().nth(row / n_rows).expect("panels of all rows");
            for (block_idx, block) in out.chunks_exact_mut(block.bytes).enumerate() {
                self.shape.read_block(panel, block_idx, row % n_rows, block);
            }
        }
    }

    fn read_numbers(&self, rows: Range<usize>, out: &mut [f32]) {
        let row_bytes = self.shape.n_blocks * self.shape.block.bytes;
        let mut blocks = vec![0; rows.len() * row_bytes];
        self.write_rows(rows, &mut blocks);
        quant::dequantize_row(self.dtype, &blocks, out);
    }

    fn release(&self, _: Range<usize>) {}

    fn panels(&self) -> Option<(PanelShape, &SharedBytes)> {
        Some((self.shape, &self.bytes))
    }
}

/// Numbers that are read before they are quantised: some sources make several rows as quickly as one.
const NUMBERS_AT_ONCE: usize = 1 << 16;

/// Numbers of another tensor in blocks of another type.
struct Requantized {
    source: Tensor,
    dtype: GgmlType,
}

impl Conversion for Requantized {
    fn source_type(&self) -> &'static str {
        self.source.source_type()
    }

    fn write_rows(&self, rows: Range<usize>, out: &mut [u8]) {
        let n_cols = self.source.n_cols();
        let n_rows_at_once = (NUMBERS_AT_ONCE / n_cols).clamp(1, rows.len().max(1));
        let mut numbers = vec![0.0; n_rows_at_once * n_cols];
        let row_bytes = out.len() / rows.len().max(1);
        let firsts = rows.clone().step_by(n_rows_at_once);
        for (first, out) in firsts.zip(out.chunks_mut(n_rows_at_once * row_bytes)) {
            let end = rows.end.min(first + n_rows_at_once);
            let numbers = &mut numbers[..(end - first) * n_cols];
            self.source.read_numbers(first..end, numbers);
            for (numbers, out) in numbers.chunks_exact(n_cols).zip(out.chunks_exact_mut(row_bytes)) {
                quant::quantize_row(self.dtype, numbers, out);
            }
        }
    }

    fn read_numbers(&self, rows: Range<usize>, out: &mut [f32]) {
        self.source.read_numbers(rows, out);
    }

    fn release(&self, rows: Range<usize>) {
        self.source.rows(rows).release();
    }
}

impl Tensor {
    /// The same numbers in blocks of type `dtype`, which are made as they are read.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for a tensor whose numbers cannot be read, or a type that [`quant::quantize_row`] does
    /// not write; [`EngineError::BadRequest`] for rows that are no whole number of blocks.
    pub(crate) fn requantized(&self, dtype: GgmlType) -> Result<Self, EngineError> {
        quant::require_known(self)?;
        quant::require_writable(dtype)?;
        let source = self.clone();
        Self::converted(&self.name, dtype, &self.shape, Requantized { source, dtype })
    }
}
