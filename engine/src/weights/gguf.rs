//! Reads GGUF files, versions 2 and 3, little endian.
//!
//! A file comes from anywhere, so nothing in it is believed: each count is held against the bytes that are
//! left before it is used, and the memory taken here is bounded by a small multiple of the file's header.
//! Source: the GGUF specification, ggml's `docs/gguf.md`.

use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    PANEL_ROWS, SharedBytes, Tensor, WeightSource, Weights, file_type::file_type_name, panels::PanelShape,
};
pub use super::{ggml_type::GgmlType, metadata::Metadata};
use crate::error::EngineError;

const MAGIC: &[u8; 4] = b"GGUF";
/// Alignment of tensor data where the file does not say.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Most dimensions a ggml tensor has.
const MAX_DIMENSIONS: u32 = 4;
/// Longest key or tensor name in bytes, as the specification limits keys.
const MAX_NAME_BYTES: usize = 65_535;
/// Least bytes of a metadata pair: length of the key, type, a one-byte value.
const MIN_PAIR_BYTES: usize = 8 + 4 + 1;
/// Least bytes of a tensor's entry: length of the name, number of dimensions, one dimension, type, offset.
const MIN_TENSOR_BYTES: usize = 8 + 4 + 8 + 4 + 8;

/// An open GGUF file: its metadata, and its tensors where they stand.
pub struct Gguf {
    path: PathBuf,
    version: u32,
    alignment: u64,
    /// The file, or all parts of the model.
    files: Vec<SharedBytes>,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    /// Whether matrices lie in panels, where those take no more.
    in_panels: bool,
}

/// A tensor's entry in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, such as `token_embd.weight`.
    pub name: String,
    /// Type of its blocks.
    pub dtype: GgmlType,
    /// Extents, outermost first: a matrix is `[n_rows, n_cols]`, GGUF's own order reversed.
    pub shape: Vec<usize>,
    /// Which part of the model it is in.
    file_idx: usize,
    /// Where its blocks stand, in bytes from the start of the file.
    range: Range<usize>,
}

impl TensorInfo {
    /// Bytes of its blocks.
    pub fn n_bytes(&self) -> usize {
        self.range.len()
    }
}

impl Gguf {
    /// Opens a file and checks its header, metadata and tensor entries. Tensor data is mapped, not read, and its
    /// values are not checked. Of a model split over several files, the first one opens all.
    ///
    /// # Errors
    /// [`EngineError::Io`] if a file cannot be opened, [`EngineError::BadFile`] naming the field if it is truncated or
    /// malformed, [`EngineError::Unsupported`] for an unknown tensor type or a part that is not the first.
    pub fn open(source: WeightSource) -> Result<Self, EngineError> {
        let mut first = Self::open_part(&source)?;
        let n_parts = first.metadata.get_u32("split.count")?.unwrap_or(1);
        if n_parts <= 1 {
            return Ok(first);
        }
        let path = first.path.clone();
        let siblings = first.metadata.get_u32("split.no")?.filter(|idx| *idx == 0);
        let siblings = siblings.and_then(|_| part_paths(&path, n_parts));
        let Some(siblings) = siblings else {
            return Err(EngineError::Unsupported {
                what: "GGUF file",
                found: format!("one of {n_parts} parts, {}", path.display()),
                known: format!(
                    "whole files, and first parts with a name that ends in `-00001-of-{n_parts:05}.gguf`"
                ),
            });
        };
        for (part_idx, sibling) in (1u32..).zip(siblings) {
            let part = Self::open_part(&WeightSource::File(sibling))?;
            if part.metadata.get_u32("split.no")? != Some(part_idx) {
                let reason = format!("part {part_idx} of {n_parts}, counted from 0, expected");
                return Err(part.metadata.bad("split.no", reason));
            }
            first.append(part)?;
        }
        let n_tensors = first.metadata.get_u64("split.tensors.count")?;
        match n_tensors.filter(|it| *it != first.tensors.len() as u64) {
            None => Ok(first),
            Some(expected) => {
                let found = first.tensors.len();
                let reason = format!("{expected} tensors expected in all parts, {found} found");
                Err(first.metadata.bad("split.tensors.count", reason))
            }
        }
    }

    fn open_part(source: &WeightSource) -> Result<Self, EngineError> {
        let file = source.open()?;
        let bytes: &[u8] = &file;
        let mut reader = Reader {
            path: source.path(),
            bytes,
            position: 0,
        };
        let (version, n_tensors, n_pairs) = read_header(&mut reader)?;
        let metadata = Metadata::read(&mut reader, file.clone(), n_pairs)?;
        let alignment = read_alignment(&metadata)?;
        // Both grow with what is read, not with what the header claims.
        let mut tensors = Vec::new();
        let mut by_name = HashMap::new();
        for idx in 0..n_tensors {
            let tensor = read_tensor(&mut reader, idx, alignment)?;
            if by_name.insert(tensor.name.clone(), idx).is_some() {
                return Err(reader.bad(&format!("tensor `{}`", tensor.name), "the name is there twice"));
            }
            tensors.push(tensor);
        }
        place_tensors(&reader, alignment, &mut tensors)?;
        Ok(Self {
            path: source.path().to_owned(),
            version,
            alignment,
            files: vec![file],
            metadata,
            tensors,
            by_name,
            in_panels: matches!(source, WeightSource::Panels(_)),
        })
    }

    /// Takes in the tensors of another part.
    fn append(&mut self, part: Self) -> Result<(), EngineError> {
        let file_idx = self.files.len();
        for tensor in part.tensors {
            if self
                .by_name
                .insert(tensor.name.clone(), self.tensors.len())
                .is_some()
            {
                return Err(EngineError::BadFile {
                    path: part.path,
                    field: format!("tensor `{}`", tensor.name),
                    reason: "the name is there twice, in two parts".into(),
                });
            }
            self.tensors.push(TensorInfo { file_idx, ..tensor });
        }
        self.files.extend(part.files);
        Ok(())
    }

    /// The key-value section.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// A tensor by name; it shares the file's bytes.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        let info = &self.tensors[*self.by_name.get(name)?];
        let bytes = self.files[info.file_idx].slice(info.range.clone());
        if let [n_rows, n_cols] = info.shape[..]
            && self.in_panels
            && info.dtype == GgmlType::Q8_0
            && let Some(panel) = PanelShape::of_embedded(n_rows, n_cols, PANEL_ROWS)
        {
            return Some(Tensor::in_panels(
                &info.name,
                info.dtype,
                &info.shape,
                panel,
                bytes,
            ));
        }
        Some(Tensor {
            name: info.name.clone(),
            dtype: info.dtype,
            shape: info.shape.clone(),
            data: bytes.into(),
        })
    }

    /// A tensor that must be there.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] that names the tensor if it is not.
    pub fn require(&self, name: &str) -> Result<Tensor, EngineError> {
        self.tensor(name).ok_or_else(|| EngineError::BadFile {
            path: self.path.clone(),
            field: format!("tensor `{name}`"),
            reason: "the tensor is missing".to_owned(),
        })
    }

    /// All tensors; they share the file's bytes.
    pub fn weights(&self) -> Weights {
        let tensors = self.tensors.iter().filter_map(|info| self.tensor(&info.name));
        let tensors = tensors.map(|tensor| (tensor.name.clone(), tensor));
        Weights {
            path: self.path.clone(),
            // No name is there twice: `open` saw to it.
            tensors: tensors.collect(),
        }
    }

    /// Name of the mixture of types that the file's tensors are in, such as `Q4_K_M`; `None` if the file does not say, or
    /// nothing that is known.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] if what it says is no number.
    pub fn file_type(&self) -> Result<Option<&'static str>, EngineError> {
        let file_type = self.metadata.get_u32("general.file_type")?;
        Ok(file_type.and_then(file_type_name))
    }

    /// Entries of all tensors, in the file's order.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// File that was opened; `<embedded>` for the one inside the program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of every tensor's offset in bytes, counted from the start of the tensor data.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }
}

/// Gives version, number of tensors, number of metadata pairs.
fn read_header(reader: &mut Reader<'_>) -> Result<(u32, usize, usize), EngineError> {
    let magic = reader.take("magic", MAGIC.len())?;
    if magic != MAGIC {
        return Err(reader.bad(
            "magic",
            format!(
                "expected `GGUF`, found {}; this is not a GGUF file",
                magic.escape_ascii()
            ),
        ));
    }
    let version = reader.u32("version")?;
    match version {
        2 | 3 => {}
        _ if version.swap_bytes() <= 3 => {
            return Err(reader.bad("version", "the file is big endian; convert it to little endian"));
        }
        _ => {
            return Err(reader.bad(
                "version",
                format!("expected 2 or 3, found {version}; convert the model again"),
            ));
        }
    }
    let n_tensors = reader.u64("number of tensors")?;
    let n_pairs = reader.u64("number of metadata pairs")?;
    let n_tensors = reader.count("number of tensors", "tensors", n_tensors, MIN_TENSOR_BYTES)?;
    let n_pairs = reader.count("number of metadata pairs", "pairs", n_pairs, MIN_PAIR_BYTES)?;
    Ok((version, n_tensors, n_pairs))
}

/// Paths of the parts after the first, whose path is given; `None` if its name is not that of a first part.
fn part_paths(first: &Path, n_parts: u32) -> Option<Vec<PathBuf>> {
    // Names have five digits.
    let n_parts = Some(n_parts).filter(|it| *it <= 99_999)?;
    let name = first.file_name()?.to_str()?;
    let stem = name.strip_suffix(&format!("-00001-of-{n_parts:05}.gguf"))?;
    let path = |part: u32| first.with_file_name(format!("{stem}-{part:05}-of-{n_parts:05}.gguf"));
    Some((2..=n_parts).map(path).collect())
}

fn read_alignment(metadata: &Metadata) -> Result<u64, EngineError> {
    const KEY: &str = "general.alignment";
    let alignment = metadata.get_u32(KEY)?.map_or(DEFAULT_ALIGNMENT, u64::from);
    if !alignment.is_power_of_two() || !alignment.is_multiple_of(8) {
        return Err(metadata.bad(KEY, format!("expected a power of two from 8, found {alignment}")));
    }
    Ok(alignment)
}

/// Reads one entry. Its range is still counted from the start of the tensor data.
fn read_tensor(reader: &mut Reader<'_>, idx: usize, alignment: u64) -> Result<TensorInfo, EngineError> {
    let name = reader.name(&format!("name of tensor {idx}"))?.to_owned();
    let field = format!("tensor `{name}`");
    let n_dimensions = reader.u32(&field)?;
    if !(1..=MAX_DIMENSIONS).contains(&n_dimensions) {
        return Err(reader.bad(
            &field,
            format!("expected 1 to {MAX_DIMENSIONS} dimensions, found {n_dimensions}"),
        ));
    }
    let mut shape = Vec::with_capacity(n_dimensions as usize);
    for _ in 0..n_dimensions {
        let extent = reader.u64(&field)?;
        shape.push(
            usize::try_from(extent)
                .map_err(|_| reader.bad(&field, format!("extent {extent} is too large")))?,
        );
    }
    shape.reverse();
    let type_id = reader.u32(&field)?;
    let dtype = GgmlType::from_id(type_id).ok_or_else(|| EngineError::Unsupported {
        what: "tensor type",
        found: format!("id {type_id} of {field}"),
        known: "ggml's types up to NVFP4 (40), without those it removed".to_owned(),
    })?;
    let n_bytes = dtype
        .tensor_bytes(&shape)
        .map_err(|reason| reader.bad(&field, reason))?;
    let offset = reader.u64(&field)?;
    if !offset.is_multiple_of(alignment) {
        return Err(reader.bad(
            &field,
            format!("offset {offset} is not a multiple of the alignment, {alignment}"),
        ));
    }
    let range = usize::try_from(offset)
        .ok()
        .and_then(|start| Some(start..start.checked_add(n_bytes)?));
    let range = range.ok_or_else(|| reader.bad(&field, format!("offset {offset} is too large")))?;
    Ok(TensorInfo {
        name,
        dtype,
        shape,
        file_idx: 0,
        range,
    })
}

/// Moves the tensors' ranges to where the data begins, and refuses any that leave the file or overlap.
fn place_tensors(reader: &Reader<'_>, alignment: u64, tensors: &mut [TensorInfo]) -> Result<(), EngineError> {
    let data_start = usize::try_from(alignment)
        .ok()
        .and_then(|to| reader.position().checked_next_multiple_of(to));
    let data_start =
        data_start.ok_or_else(|| reader.bad("tensor data", "its start is too large to address"))?;
    let data_bytes = reader.bytes.len().saturating_sub(data_start);
    for tensor in tensors.iter_mut() {
        if tensor.range.end > data_bytes {
            return Err(reader.bad(
                &format!("tensor `{}`", tensor.name),
                format!(
                    "it ends at byte {} of the tensor data, which has {data_bytes}; the file is truncated",
                    tensor.range.end
                ),
            ));
        }
        tensor.range = data_start + tensor.range.start..data_start + tensor.range.end;
    }
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.range.start);
    for pair in by_offset.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            let field = format!("tensor `{}`", pair[1].name);
            return Err(reader.bad(&field, format!("it overlaps tensor `{}`", pair[0].name)));
        }
    }
    Ok(())
}

/// Reads little-endian fields one after another; every error names the field.
pub(crate) struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    /// Bytes read so far.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// File that is read, to show to people.
    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    /// The next `n_bytes`.
    pub(crate) fn take(&mut self, field: &str, n_bytes: usize) -> Result<&'a [u8], EngineError> {
        let rest = &self.bytes[self.position..];
        let Some(taken) = rest.get(..n_bytes) else {
            return Err(self.bad(
                field,
                format!(
                    "{n_bytes} bytes expected at byte {}, {} left; the file is truncated",
                    self.position,
                    rest.len()
                ),
            ));
        };
        self.position += n_bytes;
        Ok(taken)
    }

    pub(crate) fn u32(&mut self, field: &str) -> Result<u32, EngineError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &str) -> Result<u64, EngineError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A string's bytes, which may be anything.
    pub(crate) fn string(&mut self, field: &str) -> Result<&'a [u8], EngineError> {
        let length = self.u64(field)?;
        let length = self.count(field, "bytes", length, 1)?;
        self.take(field, length)
    }

    /// A key or a tensor's name.
    pub(crate) fn name(&mut self, field: &str) -> Result<&'a str, EngineError> {
        let bytes = self.string(field)?;
        if bytes.len() > MAX_NAME_BYTES {
            return Err(self.bad(
                field,
                format!("{} bytes; names have at most {MAX_NAME_BYTES}", bytes.len()),
            ));
        }
        std::str::from_utf8(bytes).map_err(|err| self.bad(field, format!("not UTF-8: {err}")))
    }

    /// `count` as an index, if that many `things` of at least `least_bytes` each can follow.
    pub(crate) fn count(
        &self,
        field: &str,
        things: &str,
        count: u64,
        least_bytes: usize,
    ) -> Result<usize, EngineError> {
        let left = self.bytes.len() - self.position;
        match usize::try_from(count) {
            Ok(count) if count <= left / least_bytes => Ok(count),
            _ => Err(self.bad(
                field,
                format!(
                    "{count} {things} do not fit in the {left} bytes left; the file is truncated or malformed"
                ),
            )),
        }
    }

    /// An error about `field`.
    pub(crate) fn bad(&self, field: &str, reason: impl Into<String>) -> EngineError {
        EngineError::BadFile {
            path: self.path.to_owned(),
            field: field.to_owned(),
            reason: reason.into(),
        }
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], EngineError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(field, N)?);
        Ok(array)
    }
}
