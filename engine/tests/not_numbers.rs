//! Weights that are not numbers. What is read when a model is loaded is looked at, and a file with such a one is refused: scales
//! of quantised matrices, vectors, plain numbers that are quantised. Plain matrices are not read then; their weights show as
//! scores that are no numbers, and the generation fails with the tensor's name. All that within the limits of other damage.

use std::{
    fs,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
};

use limits::within_limits;
use serde_json::{Value, json};
use surmise_engine::{
    Engine, EngineError, EngineOptions, WeightSource,
    request::{Prompt, Request},
    weights::{GgmlType, Gguf},
};

mod limits;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/references")
        .join(path)
}

/// What loading the model at `path`, which has one in `tensor`, says.
fn refusal_of(path: &Path, tensor: &str, options: &EngineOptions) -> String {
    let options = AssertUnwindSafe(options);
    let outcome = within_limits(tensor, || {
        let options: &EngineOptions = *options;
        Engine::load(WeightSource::File(path.into()), options.clone())
    });
    match outcome {
        Err(error @ EngineError::BadWeight { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("{} was loaded", path.display()),
    }
}

/// A copy of a fixture with other bytes `at` a place of the first matrix of a type, and the tensor's name.
fn damaged(folder: &Path, original: &str, dtype: GgmlType, at: usize, with: &[u8]) -> (PathBuf, String) {
    let gguf = Gguf::open(WeightSource::File(fixture(original))).unwrap();
    let tensor = gguf
        .tensors()
        .find(|it| it.dtype == dtype && it.name.starts_with("blk.") && it.shape.len() > 1)
        .unwrap();
    let name = tensor.name.clone();
    (damaged_in(folder, original, &name, at, with), name)
}

/// A copy of a fixture with other bytes `at` a place of a tensor.
fn damaged_in(folder: &Path, original: &str, tensor: &str, at: usize, with: &[u8]) -> PathBuf {
    let original = fixture(original);
    let mut bytes = fs::read(&original).unwrap();
    let gguf = Gguf::open(WeightSource::File(original)).unwrap();
    let tensor = gguf.require(tensor).unwrap();
    let blocks = tensor.bytes();
    let start = bytes.windows(blocks.len()).position(|it| it == blocks).unwrap();
    bytes[start + at..start + at + with.len()].copy_from_slice(with);
    let path = folder.join("damaged.gguf");
    fs::write(&path, bytes).unwrap();
    path
}

// One test, so that nothing else allocates meanwhile.
#[test]
fn weights_that_are_no_numbers_are_named_in_time() {
    scales_of_a_gguf_file();
    vectors();
    plain_matrices();
    fp8_in_safetensors();
}

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
        let error = refusal_of(&path, &tensor, &EngineOptions::default());
        assert!(error.contains(&tensor), "{original}: {error}");
    }
}

fn vectors() {
    let folder = tempfile::tempdir().unwrap();
    for (original, tensor, number) in [
        ("qwen2-k/q4_k_m.gguf", "blk.1.attn_norm.weight", f32::NAN),
        ("qwen2/bf16.gguf", "blk.0.attn_q.bias", f32::INFINITY),
        ("llama3/bf16.gguf", "rope_freqs.weight", f32::NAN),
    ] {
        let path = damaged_in(folder.path(), original, tensor, 4, &number.to_le_bytes());
        let error = refusal_of(&path, tensor, &EngineOptions::default());
        assert!(error.contains(tensor), "{original}: {error}");
    }
}

fn plain_matrices() {
    let folder = tempfile::tempdir().unwrap();
    let model = "qwen2/bf16.gguf";
    for (tensor, bits) in [
        ("blk.0.ffn_up.weight", 0x7fc0u16),
        ("blk.1.attn_output.weight", 0xff80),
        ("token_embd.weight", 0x7f80),
    ] {
        let path = damaged_in(folder.path(), model, tensor, 34, &bits.to_le_bytes());
        let engine = Engine::load(WeightSource::File(path.clone()), EngineOptions::default()).unwrap();
        let engine = AssertUnwindSafe(&engine);
        for _ in 0..2 {
            let outcome = within_limits(tensor, || {
                let engine: &Engine = *engine;
                let request = Request {
                    prompt: Prompt::Text {
                        text: "fn main() {".into(),
                        parse_special: false,
                    },
                    ..Request::default()
                };
                engine.generate(request).blocking_collect()
            });
            let error = outcome.unwrap_err();
            let names = matches!(&error, EngineError::BadWeight { tensor: found } if found == tensor);
            assert!(names, "{tensor}: {error}");
        }
        // To be quantised they are read.
        let quantize = Some(GgmlType::Q8_0);
        let options = EngineOptions {
            quantize,
            ..EngineOptions::default()
        };
        let error = refusal_of(&path, tensor, &options);
        assert!(error.contains(tensor), "{error}");
    }
}

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
    let error = refusal_of(folder.path(), "up_proj", &EngineOptions::default());
    assert!(error.contains("up_proj") || error.contains("ffn_up"), "{error}");
}
