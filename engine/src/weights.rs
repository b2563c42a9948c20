//! Model weights: tensors by name, read in place from a mapped file or from the program itself.
//!
//! [`gguf`] and [`safetensors`] read the files; what the numbers in a block mean is the kernels' business.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt, io,
    ops::{Deref, Range},
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;

use crate::error::EngineError;

pub mod ggml_type;
pub mod gguf;
pub mod metadata;
pub mod safetensors;

pub use ggml_type::GgmlType;
pub use gguf::Gguf;
pub use metadata::Metadata;

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
}

impl WeightSource {
    /// Path to show to people; `<embedded>` for the file inside the program.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Embedded(_) => Path::new("<embedded>"),
        }
    }

    /// Makes the whole file addressable, without reading it.
    ///
    /// # Errors
    /// [`EngineError::Io`] if the file cannot be opened or mapped.
    pub(crate) fn open(&self) -> Result<SharedBytes, EngineError> {
        let storage = match self {
            Self::Embedded(bytes) => Storage::Embedded(bytes),
            Self::File(path) => Storage::Mapped(map(path).map_err(|err| EngineError::Io {
                path: path.clone(),
                reason: err.to_string(),
            })?),
        };
        Ok(SharedBytes::new(storage))
    }
}

fn map(path: &Path) -> io::Result<Mmap> {
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
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
    /// Gives back the pages that lie within; they are read from the file again when somebody looks.
    fn release(&self) {
        if matches!(*self.storage, Storage::Owned(_)) {
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
                // SAFETY: whole pages of a private or read-only mapping of a file that nobody writes to: their contents come back
                // from the file. A refusal only means that the memory stays taken.
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

/// A tensor as the file holds it: blocks of one type, row-major. A clone shares the bytes.
#[derive(Clone)]
pub struct Tensor {
    /// Name in the file, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Type of its blocks.
    pub dtype: GgmlType,
    /// Extents, outermost first: a matrix is `[n_rows, n_cols]`, GGUF's own order reversed. Never empty, no zeros,
    /// and the last one is a multiple of [`GgmlType::block_len`].
    pub shape: Vec<usize>,
    data: SharedBytes,
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
        let expected = dtype
            .tensor_bytes(shape)
            .map_err(|reason| EngineError::BadRequest(format!("tensor `{name}`: {reason}")))?;
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
            data: bytes.into(),
        })
    }

    /// The blocks, row after row, with no gaps. A file's own alignment applies (32 bytes from the start of the
    /// data section, by default), an embedded file's start may be anywhere: read numbers with `from_le_bytes`.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Says that the blocks will hardly be read again: what they take of memory in a mapped file is given back until then.
    pub(crate) fn release(&self) {
        self.data.release();
    }

    /// Rows `rows`, counted over all dimensions but the last, as a matrix.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        let n_cols = self.shape[self.shape.len() - 1];
        let n_rows = self.n_elements() / n_cols;
        let row_bytes = self.data.len() / n_rows;
        Self {
            name: self.name.clone(),
            dtype: self.dtype,
            shape: vec![rows.len(), n_cols],
            data: self.data.slice(rows.start * row_bytes..rows.end * row_bytes),
        }
    }

    /// Number of elements: the product of the shape.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }
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
