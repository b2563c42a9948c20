//! The fast forward pass against other people's: Hugging Face transformers, llama.cpp, candle.
//!
//! `tests/fixtures/references/<model>` holds small random-weight models with the logits that transformers gave
//! for them; `tests/references/` has the scripts that made both.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use surmise_engine::{
    EngineError,
    kernels::Isa,
    kv_cache::{CacheType, CachedSequence, KvCache},
    model::{Batch, Model, ModelConfig, Row, reference, transformer::Transformer},
    weights::{Gguf, WeightSource},
};

/// Weights in single precision, cache in single precision: only the order of additions differs.
const F32_TOLERANCE: f32 = 1e-4;

/// Both we and llama.cpp multiply quantised weights by 8-bit activations, which moves logits away from those of
/// the dequantised weights: we may be this much further away (root mean square), never another model.
const QUANTIZED_TOLERANCE: f32 = 1.25;

/// How far llama.cpp may be from the dequantised weights, for logits that spread over 1 to 11 nats.
const QUANTIZED_SANITY: f32 = 0.5;

fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/references")
        .join(model)
}

fn open(path: PathBuf) -> Gguf {
    Gguf::open(WeightSource::File(path)).unwrap()
}

fn expected(model: &str, name: &str) -> (Vec<u32>, Vec<f32>) {
    let tensors =
        candle_core::safetensors::load(fixture(model).join("expected.safetensors"), &Device::Cpu).unwrap();
    let tokens = tensors["input_ids"]
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

fn rows(tokens: &[u32], first_position: usize, sequence_idx: u32) -> Vec<Row> {
    let row = |(idx, &token): (usize, &u32)| Row {
        token,
        position: (first_position + idx) as u32,
        sequence_idx,
        wants_logits: true,
    };
    tokens.iter().enumerate().map(row).collect()
}

/// Runs `tokens` after what `sequence` holds, `chunk` at a time, and gives the logits of all.
fn run(
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
                    blocks: &[sequence.blocks()],
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

fn load(gguf: &Gguf, isa: Isa) -> Transformer {
    Transformer::load(gguf, ModelConfig::from_gguf(gguf).unwrap(), 2, isa).unwrap()
}

fn f32_logits(gguf: &Gguf, isa: Isa, tokens: &[u32]) -> Vec<f32> {
    let mut model = load(gguf, isa);
    let mut cache = KvCache::with_type(model.config(), 8, CacheType::F32);
    run(&mut model, &mut cache, &mut CachedSequence::default(), tokens, 17)
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn root_mean_square_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    (a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / a.len() as f32).sqrt()
}

#[test]
fn every_family_gives_the_logits_of_transformers() {
    for model in ["llama3", "qwen2", "r1-distill-qwen", "qwen3"] {
        let (tokens, expected) = expected(model, "logits");
        let gguf = open(fixture(model).join("bf16.gguf"));
        for isa in [Isa::detect(), Isa::Portable] {
            let worst = largest_difference(&f32_logits(&gguf, isa, &tokens), &expected);
            assert!(worst < F32_TOLERANCE, "{model} on {}: {worst:e} off", isa.name());
        }
        let config = ModelConfig::from_gguf(&gguf).unwrap();
        let worst = largest_difference(&reference::logits(&gguf, &config, &tokens).unwrap(), &expected);
        assert!(worst < F32_TOLERANCE, "{model} on candle: {worst:e} off");
    }
}

#[test]
fn quantized_files_are_as_close_to_their_dequantized_weights_as_llama_cpp_is() {
    for (model, dtypes) in [("llama3-k", ["q8_0", "q4_0"]), ("qwen2-k", ["q4_k_m", "q5_k_m"])] {
        for dtype in dtypes {
            let (tokens, witness) = expected(model, &format!("llama_cpp.{dtype}"));
            let gguf = open(fixture(model).join(format!("{dtype}.gguf")));
            let config = ModelConfig::from_gguf(&gguf).unwrap();
            let dequantized = reference::logits(&gguf, &config, &tokens).unwrap();
            let worst = largest_difference(&f32_logits(&gguf, Isa::Portable, &tokens), &dequantized);
            assert!(worst < F32_TOLERANCE, "{model} {dtype}, portable: {worst:e} off");
            let fast = root_mean_square_difference(&f32_logits(&gguf, Isa::detect(), &tokens), &dequantized);
            let llama_cpp = root_mean_square_difference(&witness, &dequantized);
            eprintln!("{model} {dtype}: {fast} from the dequantized weights, llama.cpp {llama_cpp}");
            assert!(
                fast < QUANTIZED_TOLERANCE * llama_cpp,
                "{model} {dtype}: {fast}, llama.cpp {llama_cpp}"
            );
            assert!(
                llama_cpp < QUANTIZED_SANITY,
                "{model} {dtype}: llama.cpp read another model, {llama_cpp}"
            );
        }
    }
}

#[test]
fn chunks_steps_batches_and_rollbacks_give_the_same_bits() {
    let gguf = open(fixture("qwen2-k").join("q4_k_m.gguf"));
    let mut model = load(&gguf, Isa::detect());
    let (tokens, _) = expected("qwen2-k", "logits");
    let vocab = model.config().vocab;
    let mut cache = KvCache::new(model.config(), 32);
    let mut sequence = CachedSequence::default();
    let whole = run(&mut model, &mut cache, &mut sequence, &tokens, tokens.len());
    for chunk in [1, 2, 5, 13, 31] {
        let mut sequence = CachedSequence::default();
        assert_eq!(
            run(&mut model, &mut cache, &mut sequence, &tokens, chunk),
            whole,
            "chunks of {chunk}"
        );
    }

    // A wrong draft leaves no trace.
    let mut sequence = CachedSequence::default();
    run(&mut model, &mut cache, &mut sequence, &tokens[..20], 20);
    cache.reserve(&mut sequence, 4).unwrap();
    let draft = rows(&[3, 1, 4, 1], 20, 0);
    let mut logits = Vec::new();
    model
        .forward(
            Batch {
                rows: &draft,
                blocks: &[sequence.blocks()],
            },
            &mut cache,
            &mut logits,
        )
        .unwrap();
    assert_eq!(
        run(&mut model, &mut cache, &mut sequence, &tokens[20..], 3),
        whole[20 * vocab..]
    );
    cache.truncate(&mut sequence, 7);
    assert_eq!(
        run(&mut model, &mut cache, &mut sequence, &tokens[7..], 11),
        whole[7 * vocab..]
    );

    // Two sequences at different positions in one batch.
    let (mut first, mut second) = (CachedSequence::default(), CachedSequence::default());
    run(&mut model, &mut cache, &mut first, &tokens[..11], 11);
    run(&mut model, &mut cache, &mut second, &tokens[..29], 29);
    cache.reserve(&mut first, 6).unwrap();
    cache.reserve(&mut second, 1).unwrap();
    let mut mixed = rows(&tokens[11..17], 11, 0);
    mixed.extend(rows(&tokens[29..30], 29, 1));
    let blocks = [first.blocks(), second.blocks()];
    model
        .forward(
            Batch {
                rows: &mixed,
                blocks: &blocks,
            },
            &mut cache,
            &mut logits,
        )
        .unwrap();
    assert_eq!(logits[..6 * vocab], whole[11 * vocab..17 * vocab]);
    assert_eq!(logits[6 * vocab..], whole[29 * vocab..30 * vocab]);
}

#[test]
fn a_half_precision_cache_moves_logits_only_a_little() {
    let gguf = open(fixture("qwen3").join("bf16.gguf"));
    let (tokens, expected) = expected("qwen3", "logits");
    let mut model = load(&gguf, Isa::detect());
    let mut cache = KvCache::new(model.config(), 8);
    let found = run(
        &mut model,
        &mut cache,
        &mut CachedSequence::default(),
        &tokens,
        40,
    );
    let worst = largest_difference(&found, &expected);
    assert!(worst < 0.05, "{worst} off");
}

#[test]
fn a_token_outside_the_vocabulary_is_refused() {
    let gguf = open(fixture("qwen3").join("bf16.gguf"));
    let mut model = load(&gguf, Isa::detect());
    let mut cache = KvCache::new(model.config(), 2);
    let mut sequence = CachedSequence::default();
    cache.reserve(&mut sequence, 1).unwrap();
    let rows = rows(&[u32::MAX], 0, 0);
    let batch = Batch {
        rows: &rows,
        blocks: &[sequence.blocks()],
    };
    let error = model.forward(batch, &mut cache, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, EngineError::BadRequest(_)), "{error}");
}
