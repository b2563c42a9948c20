//! Weights whose scales are not numbers: nobody looks at them while they are mapped, so they show as scores that are no numbers,
//! and the generation fails with a sentence about the file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use surmise_engine::{
    Engine, EngineError, EngineOptions, WeightSource,
    request::{Prompt, Request},
    weights::{GgmlType, Gguf},
};

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/references")
        .join(path)
}

/// The error of a generation by the model at `path`.
fn error_of(path: &Path) -> String {
    let engine = Engine::load(WeightSource::File(path.into()), EngineOptions::default()).unwrap();
    let request = Request {
        prompt: Prompt::Text {
            text: "fn main() {".into(),
            parse_special: false,
        },
        ..Request::default()
    };
    let error = engine.generate(request).blocking_collect().unwrap_err();
    assert!(matches!(error, EngineError::BadLogits { .. }), "{error}");
    error.to_string()
}

#[test]
fn a_gguf_file() {
    let original = fixture("qwen2-k/q4_k_m.gguf");
    let mut bytes = fs::read(&original).unwrap();
    let gguf = Gguf::open(WeightSource::File(original)).unwrap();
    let tensor = gguf.tensors().find(|it| it.dtype == GgmlType::Q4K).unwrap();
    let tensor = gguf.require(&tensor.name).unwrap();
    let block = &tensor.bytes()[..144];
    let at = bytes.windows(144).position(|it| it == block).unwrap();
    // The scale of the first block, in half precision.
    bytes[at..at + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.gguf");
    fs::write(&path, bytes).unwrap();
    let error = error_of(&path);
    assert!(error.contains("weights may be damaged"), "{error}");
}

#[test]
fn fp8_in_safetensors() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("qwen3-fp8");
    let mut bytes = fs::read(model.join("model.safetensors")).unwrap();
    let header_bytes = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..header_bytes]).unwrap();
    let scales = &header["model.layers.0.mlp.up_proj.weight_scale_inv"]["data_offsets"];
    let offset = |idx: usize| header_bytes + scales[idx].as_u64().unwrap() as usize;
    // Not a number in every format of floating point.
    bytes[offset(0)..offset(1)].fill(0xff);
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    fs::copy(model.join("config.json"), folder.path().join("config.json")).unwrap();
    let spellings = (33..127).chain(161..173).chain(174..256).chain(256..324);
    let vocab: serde_json::Map<_, _> = spellings
        .filter_map(char::from_u32)
        .zip(0..)
        .map(|(it, id)| (it.to_string(), json!(id)))
        .collect();
    let tokenizer = json!({
        "pre_tokenizer": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let error = error_of(folder.path());
    assert!(error.contains("weights may be damaged"), "{error}");
}
