//! Model weights: tensors by name, read in place from a mapped file or from the program itself.
//!
//! [`gguf`] and [`safetensors`] read the files; what the numbers in a block mean is the kernels' business.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
    fmt, io,
    ops::{Deref, Range},
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;

use self::{
    conversion::{Converted, InPanels},
    panels::PanelShape,
};
use crate::{error::EngineError, quant};

mod conversion;
mod file_type;
pub(crate) mod fp8;
pub mod ggml_type;
pub mod gguf;
pub mod metadata;
pub(crate) mod panels;
pub mod safetensors;

pub(crate) use conversion::Conversion;
pub use ggml_type::GgmlType;
pub use gguf::Gguf;
pub use metadata::Metadata;

/// Rows of a panel on this machine.
pub(crate) const PANEL_ROWS: usize = panels::rows_of_panel(std::env::consts::ARCH);

/// Where a model file comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightSource {
    /// A file on disk; it is mapped, not read.
    ///
    /// The file must not shrink while it is mapped: no check can make that safe, and the operating system
    /// ends a program that reads past the new end. Replace a model file by renaming, not by truncating it.
    File(PathBuf),
    /// A file that is part of the program, used where it stands, at whatever alignment it has.
    Embedded(&'static [u8]),
    /// A GGUF file that is part of the program, its matrices in panels, as the build script lays them out.
    Panels(&'static [u8]),
}

impl WeightSource {
    /// Path to show to people; `<embedded>` for the file inside the program.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Embedded(_) | Self::Panels(_) => Path::new("<embedded>"),
        }
    }

    /// Makes the whole file addressable, without reading it.
    ///
    /// # Errors
    /// [`EngineError::Io`] if the file cannot be opened or mapped.
    pub(crate) fn open(&self) -> Result<SharedBytes, EngineError> {
        let storage = match self {
            Self::Embedded(bytes) | Self::Panels(bytes) => Storage::Embedded(bytes),
            Self::File(path) => Storage::Mapped(map(path).map_err(|err| EngineError::Io {
                path: path.clone(),
                reason: err.to_string(),
            })?),
        };
        Ok(SharedBytes::new(storage))
    }
}

fn map(path: &Path) -> io::Result<Mmap> {
    // Before it is opened: that of a named pipe waits for somebody to write.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let file = std::fs::File::open(path)?;
    // SAFETY: the mapping is read-only and lives as long as every slice of it (`SharedBytes` holds it). Another
    // process that writes into the file or truncates it while it is mapped breaks the promise that a slice does
    // not change; `WeightSource::File` documents that this must not happen.
    unsafe { Mmap::map(&file) }
}

/// A range of bytes that several owners share; a clone copies a pointer and the range.
#[derive(Clone)]
pub(crate) struct SharedBytes {
    storage: Arc<Storage>,
    range: Range<usize>,
}

enum Storage {
    Mapped(Mmap),
    Embedded(&'static [u8]),
    Owned(Vec<u8>),
}

impl Storage {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl SharedBytes {
    fn new(storage: Storage) -> Self {
        let range = 0..storage.as_slice().len();
        Self {
            storage: Arc::new(storage),
            range,
        }
    }

    /// The bytes in `range`, counted from the start of `self`.
    ///
    /// # Panics
    /// If `range` is not within `self`.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "{range:?} is not within {} bytes",
            self.len()
        );
        let start = self.range.start;
        Self {
            storage: Arc::clone(&self.storage),
            range: start + range.start..start + range.end,
        }
    }
}

impl SharedBytes {
    /// Gives back the pages of a mapped file that lie within; they are read from it again when somebody looks. Bytes that are no
    /// file's own mapping stay: nobody could bring them back.
    fn release(&self) {
        if !matches!(*self.storage, Storage::Mapped(_)) {
            return;
        }
        #[cfg(unix)]
        {
            // Pages are larger on some machines, but never smaller.
            const PAGE_BYTES: usize = 4096;
            let page_bytes = usize::try_from(
                // SAFETY: asks for a number.
                unsafe { libc::sysconf(libc::_SC_PAGESIZE) },
            )
            .unwrap_or(PAGE_BYTES);
            let range = self.as_ptr_range();
            let start = (range.start as usize).next_multiple_of(page_bytes);
            let end = range.end as usize / page_bytes * page_bytes;
            if start < end {
                // SAFETY: whole pages of a read-only mapping of a file that nobody writes to: their contents come back from the
                // file. A refusal only means that the memory stays taken.
                unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
            }
        }
    }
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(Storage::Owned(bytes))
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage.as_slice()[self.range.clone()]
    }
}

/// Blocks of one type, row-major, as a file holds them or made of what it holds. A clone shares them.
#[derive(Clone)]
pub struct Tensor {
    /// Name in the file, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Type of its blocks.
    pub dtype: GgmlType,
    /// Extents, outermost first: a matrix is `[n_rows, n_cols]`, GGUF's own order reversed. Never empty, no zeros,
    /// and the last one is a multiple of [`GgmlType::block_len`].
    pub shape: Vec<usize>,
    data: Data,
}

/// Where a tensor's blocks are.
#[derive(Clone)]
enum Data {
    Stored(SharedBytes),
    Converted(Converted),
}

impl From<SharedBytes> for Data {
    fn from(bytes: SharedBytes) -> Self {
        Self::Stored(bytes)
    }
}

impl Tensor {
    /// Wraps blocks made by the program, for tests and converted weights.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] if `bytes` is not as long as `shape` and `dtype` say.
    pub fn from_bytes(
        name: &str,
        dtype: GgmlType,
        shape: &[usize],
        bytes: Vec<u8>,
    ) -> Result<Self, EngineError> {
        let expected = tensor_bytes(name, dtype, shape)?;
        if bytes.len() != expected {
            return Err(EngineError::BadRequest(format!(
                "tensor `{name}`: {} of shape {shape:?} takes {expected} bytes, found {}",
                dtype.name(),
                bytes.len()
            )));
        }
        Ok(Self {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            data: SharedBytes::from(bytes).into(),
        })
    }

    /// A tensor whose blocks `conversion` makes.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] if there cannot be a tensor of this shape and type.
    pub(crate) fn converted(
        name: &str,
        dtype: GgmlType,
        shape: &[usize],
        conversion: impl Conversion + 'static,
    ) -> Result<Self, EngineError> {
        let n_bytes = tensor_bytes(name, dtype, shape)?;
        let n_rows = shape[..shape.len() - 1].iter().product();
        Ok(Self {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            data: Data::Converted(Converted::new(Box::new(conversion), n_rows, n_bytes)),
        })
    }

    /// A matrix whose blocks lie in panels, which are all of `bytes`.
    pub(crate) fn in_panels(
        name: &str,
        dtype: GgmlType,
        shape: &[usize],
        panel: PanelShape,
        bytes: SharedBytes,
    ) -> Self {
        let (n_rows, n_bytes) = (shape[0], bytes.len());
        let in_panels = InPanels {
            dtype,
            shape: panel,
            bytes,
        };
        Self {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            data: Data::Converted(Converted::new(Box::new(in_panels), n_rows, n_bytes)),
        }
    }

    /// The blocks, row after row, with no gaps. A file's own alignment applies (32 bytes from the start of the
    /// data section, by default), an embedded file's start may be anywhere: read numbers with `from_le_bytes`.
    /// Blocks that no file holds are made at the first call, and kept as long as the tensor or a clone of it.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Stored(bytes) => bytes,
            Data::Converted(converted) => converted.bytes(self.n_rows()),
        }
    }

    /// Bytes of the blocks.
    pub fn n_bytes(&self) -> usize {
        self.n_elements() / self.dtype.block_len() * self.dtype.block_bytes()
    }

    /// The blocks of some rows, counted over all dimensions but the last; those that no file holds are made anew.
    ///
    /// # Panics
    /// If there are not so many.
    pub(crate) fn read_rows(&self, rows: Range<usize>) -> Cow<'_, [u8]> {
        assert!(rows.end <= self.n_rows());
        let row_bytes = self.n_bytes() / self.n_rows();
        match &self.data {
            Data::Stored(bytes) => Cow::Borrowed(&bytes[rows.start * row_bytes..rows.end * row_bytes]),
            Data::Converted(converted) => {
                let mut out = vec![0; rows.len() * row_bytes];
                let first = converted.first_row;
                let rows = first + rows.start..first + rows.end;
                converted.conversion().write_rows(rows, &mut out);
                Cow::Owned(out)
            }
        }
    }

    /// Writes the numbers of some rows as single precision, as exactly as the file has them.
    ///
    /// # Panics
    /// If there are not so many rows, or [`quant::is_known`] is false for the type of the blocks.
    pub(crate) fn read_numbers(&self, rows: Range<usize>, out: &mut [f32]) {
        match &self.data {
            Data::Stored(_) => quant::dequantize_row(self.dtype, &self.read_rows(rows), out),
            Data::Converted(converted) => {
                let first = converted.first_row;
                converted
                    .conversion()
                    .read_numbers(first + rows.start..first + rows.end, out);
            }
        }
    }

    /// All numbers as single precision, as exactly as the file has them: before any rounding to [`dtype`](Self::dtype).
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for a type that is not known, [`EngineError::BadWeight`] for what is no number.
    pub fn numbers(&self) -> Result<Vec<f32>, EngineError> {
        quant::require_known(self)?;
        quant::require_numbers(self)?;
        let mut numbers = vec![0.0; self.n_elements()];
        self.read_numbers(0..self.n_rows(), &mut numbers);
        Ok(numbers)
    }

    /// Whether a file holds the blocks as they are.
    pub(crate) fn is_stored(&self) -> bool {
        matches!(self.data, Data::Stored(_))
    }

    /// The blocks in panels, if that is how they lie.
    pub(crate) fn panels(&self) -> Option<(PanelShape, SharedBytes)> {
        match &self.data {
            Data::Stored(_) => None,
            Data::Converted(converted) => converted.panels(self.n_rows()),
        }
    }

    /// Name of the form in which the file holds the numbers: that of the blocks, unless they are made of another.
    pub fn source_type(&self) -> &'static str {
        match &self.data {
            Data::Stored(_) => self.dtype.name(),
            Data::Converted(converted) => converted.conversion().source_type(),
        }
    }

    /// Says that the blocks will hardly be read again: what they take of memory in a mapped file is given back until then.
    pub(crate) fn release(&self) {
        match &self.data {
            Data::Stored(bytes) => bytes.release(),
            Data::Converted(converted) => {
                let first = converted.first_row;
                converted.conversion().release(first..first + self.n_rows());
            }
        }
    }

    /// Rows `rows`, counted over all dimensions but the last, as a matrix.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.n_rows());
        let row_bytes = self.n_bytes() / self.n_rows();
        let data = match &self.data {
            Data::Stored(bytes) => bytes.slice(rows.start * row_bytes..rows.end * row_bytes).into(),
            Data::Converted(converted) => {
                let mut converted = converted.clone();
                converted.first_row += rows.start;
                Data::Converted(converted)
            }
        };
        Self {
            name: self.name.clone(),
            dtype: self.dtype,
            shape: vec![rows.len(), self.n_cols()],
            data,
        }
    }

    /// Rows, counted over all dimensions but the last.
    pub(crate) fn n_rows(&self) -> usize {
        self.n_elements() / self.n_cols()
    }

    /// Elements of a row.
    pub(crate) fn n_cols(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// Number of elements: the product of the shape.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

fn tensor_bytes(name: &str, dtype: GgmlType, shape: &[usize]) -> Result<usize, EngineError> {
    dtype
        .tensor_bytes(shape)
        .map_err(|reason| EngineError::BadRequest(format!("tensor `{name}`: {reason}")))
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}: {} {:?})", self.name, self.dtype.name(), self.shape)
    }
}

/// The tensors of a model by name. A clone shares their bytes.
#[derive(Debug, Clone)]
pub struct Weights {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    /// Collects tensors under their own names.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] for a name that is there twice.
    pub fn new(path: &Path, tensors: impl IntoIterator<Item = Tensor>) -> Result<Self, EngineError> {
        let mut weights = Self {
            path: path.into(),
            tensors: BTreeMap::new(),
        };
        for tensor in tensors {
            weights.insert(tensor.name.clone(), tensor)?;
        }
        Ok(weights)
    }

    /// File or folder that they come from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors with their names, which need not be those in their files, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// A tensor that must be there.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] that names the tensor if it is not.
    pub fn require(&self, name: &str) -> Result<&Tensor, EngineError> {
        self.get(name)
            .ok_or_else(|| self.bad(name, "the tensor is missing".into()))
    }

    /// Takes a tensor out.
    pub fn take(&mut self, name: &str) -> Option<Tensor> {
        self.tensors.remove(name)
    }

    /// Puts a tensor in.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] if the name is taken.
    pub fn insert(&mut self, name: String, tensor: Tensor) -> Result<(), EngineError> {
        match self.tensors.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(tensor);
                Ok(())
            }
            Entry::Occupied(entry) => {
                let name = entry.key().clone();
                Err(self.bad(&name, "the name is there twice".into()))
            }
        }
    }

    /// Gives every tensor the name that `rename` has for it, and drops those without one.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] if two get the same name.
    pub fn rename(&mut self, rename: impl Fn(&str) -> Option<String>) -> Result<(), EngineError> {
        for (name, tensor) in std::mem::take(&mut self.tensors) {
            if let Some(name) = rename(&name) {
                self.insert(name, tensor)?;
            }
        }
        Ok(())
    }

    /// An error about the tensor `name`.
    pub(crate) fn bad(&self, name: &str, reason: String) -> EngineError {
        EngineError::BadFile {
            path: self.path.clone(),
            field: format!("tensor `{name}`"),
            reason,
        }
    }
}
