//! Reads safetensors files, alone or as the shards of a folder, where they stand.
//!
//! The header is checked by the crate `safetensors`: offsets without gaps or overlaps, sizes that agree with shapes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use ::safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::{GgmlType, Tensor, WeightSource, Weights};
use crate::error::EngineError;

/// Bytes of the header's length, before the header.
const LENGTH_BYTES: usize = 8;

/// Opens the tensors of a folder as Hugging Face lays it out: `model.safetensors`, or shards with their index.
///
/// # Errors
/// [`EngineError::Io`] for a file that is missing, [`EngineError::BadFile`] for a header that is malformed or an index
/// that names what is not there, [`EngineError::Unsupported`] for numbers that the engine does not read.
pub fn open_folder(folder: &Path) -> Result<Weights, EngineError> {
    let index = folder.join("model.safetensors.index.json");
    if !index.is_file() {
        let tensors = open_file(&folder.join("model.safetensors"))?;
        return Weights::new(folder, tensors);
    }
    let shard_of = read_index(&index)?;
    let mut shards: Vec<&str> = shard_of.values().map(String::as_str).collect();
    shards.sort_unstable();
    shards.dedup();
    let mut tensors = Vec::new();
    for shard in shards {
        tensors.extend(open_file(&folder.join(shard))?);
    }
    let weights = Weights::new(folder, tensors)?;
    match shard_of.iter().find(|(name, _)| weights.get(name).is_none()) {
        None => Ok(weights),
        Some((name, shard)) => {
            Err(weights.bad(name, format!("the index has it in `{shard}`, which does not")))
        }
    }
}

/// Opens the tensors of one file, in no order.
///
/// # Errors
/// As [`open_folder`].
pub fn open_file(path: &Path) -> Result<Vec<Tensor>, EngineError> {
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
            Ok(Tensor {
                dtype: ggml_type(&name, info.dtype)?,
                name,
                shape,
                data: file.slice(data_start + start..data_start + end),
            })
        })
        .collect()
}

fn ggml_type(name: &str, dtype: Dtype) -> Result<GgmlType, EngineError> {
    Ok(match dtype {
        Dtype::F32 => GgmlType::F32,
        Dtype::F16 => GgmlType::F16,
        Dtype::BF16 => GgmlType::BF16,
        // Packed blocks and flags, whatever they mean.
        Dtype::U8 | Dtype::I8 | Dtype::BOOL => GgmlType::I8,
        Dtype::I32 => GgmlType::I32,
        Dtype::I64 => GgmlType::I64,
        other => {
            return Err(EngineError::Unsupported {
                what: "tensor type",
                found: format!("{other:?} of {name}"),
                known: "F32, F16, BF16, and the U8 of MXFP4".into(),
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
