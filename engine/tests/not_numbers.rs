//! Weights that are not numbers. Scales are looked at while quantised matrices are laid out, and a file with such a one is
//! refused; plain numbers are not looked at, show as scores that are no numbers, and the generation fails.

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

/// What loading the model at `path` says.
fn refusal_of(path: &Path) -> String {
    match Engine::load(WeightSource::File(path.into()), EngineOptions::default()) {
        Err(error @ EngineError::BadScale { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("{} was loaded", path.display()),
    }
}

/// A copy of a fixture with other bytes `at` a place of the first matrix of a type, and the tensor's name.
fn damaged(folder: &Path, original: &str, dtype: GgmlType, at: usize, with: &[u8]) -> (PathBuf, String) {
    let original = fixture(original);
    let mut bytes = fs::read(&original).unwrap();
    let gguf = Gguf::open(WeightSource::File(original)).unwrap();
    let tensor = gguf
        .tensors()
        .find(|it| it.dtype == dtype && it.name.starts_with("blk.") && it.shape.len() > 1)
        .unwrap();
    let name = tensor.name.clone();
    let tensor = gguf.require(&name).unwrap();
    let beginning = &tensor.bytes()[..64];
    let start = bytes.windows(64).position(|it| it == beginning).unwrap();
    bytes[start + at..start + at + with.len()].copy_from_slice(with);
    let path = folder.join("damaged.gguf");
    fs::write(&path, bytes).unwrap();
    (path, name)
}

#[test]
fn scales_of_a_gguf_file() {
    let folder = tempfile::tempdir().unwrap();
    let nan = 0x7e00u16.to_le_bytes();
    for (original, dtype, at, with) in [
        ("qwen2-k/q4_k_m.gguf", GgmlType::Q4K, 0, &nan[..]),
        ("qwen2-k/q4_k_m.gguf", GgmlType::Q4K, 2, &nan),
        ("qwen2-k/q4_k_m.gguf", GgmlType::Q6K, 208, &nan),
        ("llama3-types/q5_1.gguf", GgmlType::Q5_1, 2, &nan),
        ("gpt-oss/bf16.gguf", GgmlType::MXFP4, 0, &[0xff]),
    ] {
        let (path, tensor) = damaged(folder.path(), original, dtype, at, with);
        let error = refusal_of(&path);
        assert!(
            error.contains(&tensor) && error.contains("row 0"),
            "{original}: {error}"
        );
    }
}

#[test]
fn plain_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let nan = 0x7fc0u16.to_le_bytes();
    let (path, _) = damaged(folder.path(), "qwen2/bf16.gguf", GgmlType::BF16, 0, &nan);
    let engine = Engine::load(WeightSource::File(path), EngineOptions::default()).unwrap();
    let request = Request {
        prompt: Prompt::Text {
            text: "fn main() {".into(),
            parse_special: false,
        },
        ..Request::default()
    };
    let error = engine.generate(request).blocking_collect().unwrap_err();
    assert!(matches!(error, EngineError::BadLogits { .. }), "{error}");
    assert!(error.to_string().contains("weights may be damaged"), "{error}");
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
    let error = refusal_of(folder.path());
    assert!(error.contains("up_proj") || error.contains("ffn_up"), "{error}");
}
