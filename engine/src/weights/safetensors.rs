//! Reads safetensors files, alone or as the shards of a folder, where they stand.
//!
//! The header is checked by the crate `safetensors`: offsets without gaps or overlaps, sizes that agree with shapes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use ::safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::{GgmlType, Tensor, WeightSource, Weights, fp8};
use crate::error::EngineError;

/// Bytes of the header's length, before the header.
const LENGTH_BYTES: usize = 8;

/// Opens the tensors of a folder as Hugging Face lays it out: `model.safetensors`, or shards with their index. Matrices
/// in FP8 come with their scales applied; `fp8_block` outputs and inputs share one where scales are those of blocks.
///
/// # Errors
/// [`EngineError::Io`] for a file that is missing, [`EngineError::BadFile`] for a header that is malformed or an index
/// that names what is not there, [`EngineError::Unsupported`] for numbers that the engine does not read.
pub fn open_folder(folder: &Path, fp8_block: [usize; 2]) -> Result<Weights, EngineError> {
    let index = folder.join("model.safetensors.index.json");
    let shard_of = match index.is_file() {
        true => read_index(&index)?,
        false => BTreeMap::new(),
    };
    let mut shards: Vec<&str> = shard_of.values().map(String::as_str).collect();
    shards.sort_unstable();
    shards.dedup();
    if shards.is_empty() {
        shards.push("model.safetensors");
    }
    let (mut tensors, mut fp8_matrices) = (Vec::new(), Vec::new());
    for shard in shards {
        for (tensor, dtype) in read_entries(&folder.join(shard))? {
            match dtype {
                Dtype::F8_E4M3 => fp8_matrices.push(tensor),
                _ => tensors.push(tensor),
            }
        }
    }
    let is_there: BTreeSet<&str> = tensors
        .iter()
        .chain(&fp8_matrices)
        .map(|it| it.name.as_str())
        .collect();
    let missing = shard_of
        .iter()
        .find(|(name, _)| !is_there.contains(name.as_str()));
    if let Some((name, shard)) = missing {
        return Err(EngineError::BadFile {
            path: folder.into(),
            field: format!("tensor `{name}`"),
            reason: format!("the index has it in `{shard}`, which does not"),
        });
    }
    let mut weights = Weights::new(folder, tensors)?;
    fp8::add_matrices(&mut weights, fp8_matrices, fp8_block)?;
    Ok(weights)
}

/// Opens the tensors of one file, in no order; FP8 as bytes.
///
/// # Errors
/// As [`open_folder`].
pub fn open_file(path: &Path) -> Result<Vec<Tensor>, EngineError> {
    let entries = read_entries(path)?;
    Ok(entries.into_iter().map(|(tensor, _)| tensor).collect())
}

/// The tensors of one file, and the types that it gives them.
fn read_entries(path: &Path) -> Result<Vec<(Tensor, Dtype)>, EngineError> {
    let file = WeightSource::File(path.into()).open()?;
    let (header_bytes, metadata) = SafeTensors::read_metadata(&file).map_err(|err| EngineError::BadFile {
        path: path.into(),
        field: "header".into(),
        reason: err.to_string(),
    })?;
    let data_start = LENGTH_BYTES + header_bytes;
    let tensors = metadata.tensors();
    tensors
        .into_iter()
        .map(|(name, info)| {
            // Scalars have no dimensions; tensors have at least one.
            let shape = if info.shape.is_empty() {
                vec![1]
            } else {
                info.shape.clone()
            };
            let (start, end) = info.data_offsets;
            if shape.contains(&0) {
                return Err(EngineError::BadFile {
                    path: path.into(),
                    field: format!("tensor `{name}`"),
                    reason: format!("shape {shape:?} holds a zero"),
                });
            }
            let tensor = Tensor {
                dtype: ggml_type(&name, info.dtype)?,
                name,
                shape,
                data: file.slice(data_start + start..data_start + end).into(),
            };
            Ok((tensor, info.dtype))
        })
        .collect()
}

fn ggml_type(name: &str, dtype: Dtype) -> Result<GgmlType, EngineError> {
    Ok(match dtype {
        Dtype::F32 => GgmlType::F32,
        Dtype::F16 => GgmlType::F16,
        Dtype::BF16 => GgmlType::BF16,
        // Bytes, whatever they mean.
        Dtype::U8 | Dtype::I8 | Dtype::BOOL | Dtype::F8_E4M3 => GgmlType::I8,
        Dtype::I32 => GgmlType::I32,
        Dtype::I64 => GgmlType::I64,
        other => {
            return Err(EngineError::Unsupported {
                what: "tensor type",
                found: format!("{other:?} of {name}"),
                known: "F32, F16, BF16, F8_E4M3, and the U8 of MXFP4".into(),
            });
        }
    })
}

/// The shard of each tensor. Shards stand beside the index.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, EngineError> {
    let bad = |field: &str, reason: String| EngineError::BadFile {
        path: PathBuf::from(path),
        field: field.into(),
        reason,
    };
    let bytes = WeightSource::File(path.into()).open()?;
    let index: Value = serde_json::from_slice(&bytes).map_err(|err| bad("JSON", err.to_string()))?;
    let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
        return Err(bad("weight_map", "an object with tensor names expected".into()));
    };
    let shards = map.iter().map(|(name, shard)| match shard.as_str() {
        Some(shard) if Path::new(shard).file_name().is_some_and(|it| it == shard) => {
            Ok((name.clone(), shard.to_owned()))
        }
        _ => Err(bad(
            name,
            format!("{shard} found, the name of a file beside the index expected"),
        )),
    });
    shards.collect()
}
