//! The small models of `tests/fixtures/references/`, and the logits that other people's programs gave for them.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use surmise_engine::{
    kernels::Isa,
    kv_cache::{BLOCK_LEN, CacheType, CachedSequence, KvCache},
    model::{Batch, Checkpoint, Model, Row, transformer::Transformer},
    weights::{GgmlType, Gguf, Tensor, WeightSource, Weights},
};

/// Weights in single precision, cache in single precision: only the order of additions differs, which is each instruction set's own
/// and moves no logit of these models by more than 1.5e-4.
pub const F32_TOLERANCE: f32 = 2e-4;

pub fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/references")
        .join(model)
}

/// The model of a GGUF file or of a folder.
pub fn open(path: PathBuf) -> Checkpoint {
    if path.is_dir() {
        return Checkpoint::from_folder(&path).unwrap();
    }
    let gguf = Gguf::open(WeightSource::File(path)).unwrap();
    Checkpoint::from_gguf(&gguf).unwrap()
}

pub fn expected(model: &str, name: &str) -> (Vec<u32>, Vec<f32>) {
    let tensors =
        candle_core::safetensors::load(fixture(model).join("expected.safetensors"), &Device::Cpu).unwrap();
    // Logits of another prompt than the usual one are named after it.
    let prompt = name.strip_suffix("logits").unwrap_or_default();
    let tokens = tensors[&format!("{prompt}input_ids")]
        .to_dtype(DType::U32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    let logits = tensors[name]
        .to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    (tokens, logits)
}

pub fn rows(tokens: &[u32], first_position: usize, sequence_idx: usize) -> Vec<Row> {
    let row = |(idx, &token): (usize, &u32)| Row::chain(token, first_position + idx, sequence_idx, true);
    tokens.iter().enumerate().map(row).collect()
}

/// Runs `tokens` after what `sequence` holds, `chunk` at a time, and gives the logits of all.
pub fn run(
    model: &mut Transformer,
    cache: &mut KvCache,
    sequence: &mut CachedSequence,
    tokens: &[u32],
    chunk: usize,
) -> Vec<f32> {
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    for chunk in tokens.chunks(chunk) {
        cache.reserve(sequence, chunk.len()).unwrap();
        let rows = rows(chunk, sequence.len(), 0);
        model
            .forward(
                Batch {
                    rows: &rows,
                    sequences: &[&*sequence],
                },
                cache,
                &mut logits,
            )
            .unwrap();
        cache.commit(sequence, chunk);
        all.extend_from_slice(&logits);
    }
    all
}

pub fn load(checkpoint: &Checkpoint, isa: Isa) -> Transformer {
    let config = checkpoint.config().clone();
    Transformer::load(checkpoint.weights(), config, 2, isa).unwrap()
}

pub fn f32_logits(checkpoint: &Checkpoint, isa: Isa, tokens: &[u32]) -> Vec<f32> {
    let mut model = load(checkpoint, isa);
    let mut cache = KvCache::with_type(model.config(), tokens.len().div_ceil(BLOCK_LEN), CacheType::F32);
    run(&mut model, &mut cache, &mut CachedSequence::default(), tokens, 17)
}

pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

pub fn root_mean_square_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    (a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / a.len() as f32).sqrt()
}

/// Models that both formats of files hold.
pub const FAMILIES: [&str; 21] = [
    "llama3",
    "ministral3",
    "qwen2",
    "qwen3",
    "qwen3-moe",
    "granite",
    "phi3",
    "phi3-long",
    "gemma",
    "gemma2",
    "gemma3",
    "qwen3.5",
    "qwen3.5-moe",
    "qwen3-next",
    "deepseek-v2-lite",
    "deepseek-v2",
    "deepseek-v3",
    "glm4-lite",
    "gemma4",
    "gemma4-moe",
    "gemma4-e",
];

/// The same weights, those in MXFP4 and FP8 in single precision.
pub fn widened(weights: &Weights) -> Weights {
    let mut widened = weights.clone();
    for (name, tensor) in weights.iter() {
        if matches!(tensor.source_type(), "MXFP4" | "FP8") {
            let numbers = tensor.numbers().unwrap();
            let bytes = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
            let tensor = Tensor::from_bytes(name, GgmlType::F32, &tensor.shape, bytes).unwrap();
            widened.take(name);
            widened.insert(name.into(), tensor).unwrap();
        }
    }
    widened
}

/// A copy of a fixture with some bytes changed.
pub fn damaged(
    model: &str,
    file: &str,
    damage: impl FnOnce(&mut Vec<u8>),
) -> (tempfile::NamedTempFile, Checkpoint) {
    let mut bytes = std::fs::read(fixture(model).join(file)).unwrap();
    damage(&mut bytes);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let checkpoint = open(file.path().into());
    (file, checkpoint)
}
