//! The fast forward pass against other people's: Hugging Face transformers, llama.cpp, candle.
//!
//! The embedded model is compared with what llama.cpp wrote with the same file (`tests/fixtures/embedded`).
//! `tests/fixtures/references/<model>` holds small random-weight models with the logits that transformers gave
//! for them; `tests/references/` has the scripts that made both.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use sha2::{Digest, Sha256};
use surmise_engine::{
    Engine, EngineError, EngineOptions,
    kernels::Isa,
    kv_cache::{BLOCK_LEN, CacheType, CachedSequence, KvCache},
    model::{
        Batch, Checkpoint, Model, Row, reference,
        transformer::{LoadOptions, Transformer},
    },
    quant::dequantize_row,
    request::{Prompt, Request, StopCondition},
    weights::{GgmlType, Gguf, Tensor, WeightSource, Weights},
};

/// Weights in single precision, cache in single precision: only the order of additions differs.
const F32_TOLERANCE: f32 = 1e-4;

/// Both we and llama.cpp multiply quantised weights by 8-bit activations, which moves logits away from those of
/// the dequantised weights: we may be this much further away (root mean square), never another model.
const QUANTIZED_TOLERANCE: f32 = 1.25;

/// Root mean square that quantising a small random model while it is loaded may move its logits, as a share of their spread.
const QUANTIZED_SHARES: [(GgmlType, f32); 5] = [
    (GgmlType::Q8_0, 0.04),
    (GgmlType::Q6K, 0.12),
    (GgmlType::Q5K, 0.25),
    (GgmlType::Q4K, 0.5),
    (GgmlType::Q4_0, 0.6),
];

/// How far llama.cpp may be from the dequantised weights, for logits that spread over 1 to 11 nats.
const QUANTIZED_SANITY: f32 = 0.5;

/// Root mean square that 8-bit activations may move logits, which spread by 1.5, of a model with MXFP4 experts: a row
/// whose scores for two experts are close may choose another one.
const MXFP4_TOLERANCE: f32 = 0.3;

/// Root mean square that 8-bit weights and activations may move the logits of a model in FP8, at most positions, as a share
/// of their spread: random models make five times as much of what moves their weights.
const FP8_TOLERANCE: f32 = 0.07;

/// The same of a gated delta net, whose state adds up what moves its rows, and forgets slowly.
const FP8_STATE_TOLERANCE: f32 = 0.15;

/// Root mean square that keys and values in half precision may move logits, as a share of their spread. Most families are
/// 0.0007 off; where a row chooses another expert, the rows after it see that.
const F16_CACHE_TOLERANCE: f32 = 6e-3;

/// The same of keys and values in 8 bits, where most families are 0.015 off.
const Q8_0_CACHE_TOLERANCE: f32 = 0.07;

/// Root mean square that 8-bit integers may be off, as a share of that of weights with a normal distribution; that of FP8
/// itself is 2.6 %.
const Q8_0_ERROR: f32 = 0.006;

fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/references")
        .join(model)
}

/// The model of a GGUF file or of a folder.
fn open(path: PathBuf) -> Checkpoint {
    if path.is_dir() {
        return Checkpoint::from_folder(&path).unwrap();
    }
    let gguf = Gguf::open(WeightSource::File(path)).unwrap();
    Checkpoint::from_gguf(&gguf).unwrap()
}

fn expected(model: &str, name: &str) -> (Vec<u32>, Vec<f32>) {
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

fn rows(tokens: &[u32], first_position: usize, sequence_idx: usize) -> Vec<Row> {
    let row = |(idx, &token): (usize, &u32)| Row::chain(token, first_position + idx, sequence_idx, true);
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

fn load(checkpoint: &Checkpoint, isa: Isa) -> Transformer {
    let config = checkpoint.config().clone();
    Transformer::load(checkpoint.weights(), config, 2, isa).unwrap()
}

fn f32_logits(checkpoint: &Checkpoint, isa: Isa, tokens: &[u32]) -> Vec<f32> {
    let mut model = load(checkpoint, isa);
    let mut cache = KvCache::with_type(model.config(), tokens.len().div_ceil(BLOCK_LEN), CacheType::F32);
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

/// Compares a family's logits from a GGUF file or a folder with those that transformers gave, under `name`, for a prompt or
/// for the end of it.
fn check_logits(at: &str, checkpoint: &Checkpoint, model: &str, name: &str) {
    let (tokens, expected) = expected(model, name);
    let check = |found: Vec<f32>, by: &str| {
        let worst = largest_difference(&found[found.len() - expected.len()..], &expected);
        assert!(worst < F32_TOLERANCE, "{at} on {by}, {name}: {worst:e} off");
    };
    for isa in Isa::all() {
        check(f32_logits(checkpoint, isa, &tokens), isa.name());
    }
    check(reference::logits(checkpoint, &tokens).unwrap(), "candle");
}

/// Models that both formats of files hold.
const FAMILIES: [&str; 21] = [
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

#[test]
fn every_family_gives_the_logits_of_transformers_from_gguf() {
    for model in FAMILIES.into_iter().chain([
        "mistral-nowindow",
        "r1-distill-qwen",
        "starcoder",
        "starcoder2-nowindow",
    ]) {
        let checkpoint = open(fixture(model).join("bf16.gguf"));
        check_logits(&format!("{model}, GGUF"), &checkpoint, model, "logits");
        check_logits(&format!("{model}, GGUF"), &checkpoint, model, "long.logits");
    }
}

#[test]
fn every_family_gives_the_logits_of_transformers_from_safetensors() {
    for model in FAMILIES
        .into_iter()
        .chain(["mistral", "starcoder2", "gemma4-unified"])
    {
        let checkpoint = Checkpoint::from_folder(&fixture(model)).unwrap();
        check_logits(&format!("{model}, safetensors"), &checkpoint, model, "logits");
        check_logits(
            &format!("{model}, safetensors"),
            &checkpoint,
            model,
            "long.logits",
        );
    }
}

/// The fixtures are in BF16; the other two plain types hold the same numbers.
#[test]
fn plain_types_of_safetensors_give_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("llama3");
    std::fs::copy(source.join("config.json"), folder.path().join("config.json")).unwrap();
    let tensors = candle_core::safetensors::load(source.join("model.safetensors"), &Device::Cpu).unwrap();
    for dtype in [DType::F16, DType::F32] {
        let tensors = tensors.iter().map(|(name, tensor)| {
            assert_eq!(tensor.dtype(), DType::BF16, "{name}");
            (name.clone(), tensor.to_dtype(dtype).unwrap())
        });
        let tensors = tensors.collect();
        candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
        let checkpoint = Checkpoint::from_folder(folder.path()).unwrap();
        check_logits(dtype.as_str(), &checkpoint, "llama3", "logits");
    }
}

/// A GGUF file with a part of the tensors, and of what is said about the model nothing but `pairs`.
fn part(pairs: (u64, &[u8]), idx: u16, n_all: i32, tensors: &[Tensor]) -> Vec<u8> {
    const ALIGNMENT: usize = 32;
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let u16_pair =
        |key: &str, value: u16| [&string(key)[..], &2_u32.to_le_bytes(), &value.to_le_bytes()].concat();
    let mut file = [b"GGUF", &3_u32.to_le_bytes()[..]].concat();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((pairs.0 + 3).to_le_bytes());
    file.extend(pairs.1);
    file.extend(u16_pair("split.no", idx));
    file.extend(u16_pair("split.count", 2));
    file.extend(string("split.tensors.count"));
    file.extend([5_u32.to_le_bytes(), n_all.to_le_bytes()].concat());
    let mut data = Vec::new();
    for tensor in tensors {
        file.extend(string(&tensor.name));
        file.extend((tensor.shape.len() as u32).to_le_bytes());
        let extents = tensor.shape.iter().rev();
        file.extend(extents.flat_map(|extent| (*extent as u64).to_le_bytes()));
        file.extend(tensor.dtype.id().to_le_bytes());
        file.extend((data.len() as u64).to_le_bytes());
        data.extend(tensor.bytes());
        data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
    }
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    [file, data].concat()
}

#[test]
fn a_model_in_two_files_gives_the_same_logits() {
    for (model, file) in [("llama3", "bf16.gguf"), ("qwen2-k", "q4_k_m.gguf")] {
        let path = fixture(model).join(file);
        let bytes = std::fs::read(&path).unwrap();
        let gguf = Gguf::open(WeightSource::File(path.clone())).unwrap();
        let tensors: Vec<Tensor> = gguf.tensors().map(|it| gguf.tensor(&it.name).unwrap()).collect();
        // Magic, version and two counts; the pairs; the first tensor's name.
        let name = [
            &(tensors[0].name.len() as u64).to_le_bytes()[..],
            tensors[0].name.as_bytes(),
        ]
        .concat();
        let end = bytes.windows(name.len()).position(|it| it == name).unwrap();
        let n_pairs = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
        let (first, second) = tensors.split_at(tensors.len() / 2);
        let folder = tempfile::tempdir().unwrap();
        let at = |idx: u16| folder.path().join(format!("model-{:05}-of-00002.gguf", idx + 1));
        let n_all = tensors.len() as i32;
        std::fs::write(at(0), part((n_pairs, &bytes[24..end]), 0, n_all, first)).unwrap();
        std::fs::write(at(1), part((0, &[]), 1, n_all, second)).unwrap();
        let (tokens, _) = expected(model, "logits");
        let logits = |path| f32_logits(&open(path), Isa::detect(), &tokens);
        assert!(logits(at(0)) == logits(path), "{model}");
    }
}

/// LongRoPE has factors for sequences within the context of the first training, and others for longer ones. Transformers
/// chooses by each prompt, which would turn keys that are cached already; here, as in llama.cpp, the longest sequence that
/// can come decides.
#[test]
fn a_context_within_the_first_training_is_not_stretched() {
    const ORIGINAL: usize = 32;
    for file in [".", "bf16.gguf"] {
        let mut checkpoint = open(fixture("phi3-long").join(file));
        checkpoint.run_within(ORIGINAL + 1);
        check_logits(file, &checkpoint, "phi3-long", "logits");
        checkpoint.run_within(ORIGINAL);
        check_logits(file, &checkpoint, "phi3-long", "within.logits");
    }

    let (prompt, expected) = expected("phi3-long", "within.logits");
    let last = &expected[expected.len() - expected.len() / prompt.len()..];
    let sum: f32 = last.iter().map(|it| it.exp()).sum();
    for (context_length, is_stretched) in [(Some(ORIGINAL), false), (Some(ORIGINAL + 1), true), (None, true)]
    {
        let options = EngineOptions {
            context_length,
            kv_cache_type: CacheType::F32,
            threads: Some(2),
            ..EngineOptions::default()
        };
        let source = WeightSource::File(fixture("phi3-long").join("bf16.gguf"));
        let engine = Engine::load(source, options).unwrap();
        let request = Request {
            prompt: Prompt::Tokens(prompt.clone()),
            stop: StopCondition {
                max_tokens: 1,
                ignore_end_tokens: true,
                ..StopCondition::default()
            },
            ..Request::default()
        };
        let answer = engine.generate(request).blocking_collect().unwrap();
        let expected = last[answer.tokens[0].id as usize] - sum.ln();
        let difference = (answer.tokens[0].logprob - expected).abs();
        assert_eq!(
            difference > F32_TOLERANCE,
            is_stretched,
            "context of {context_length:?}: {difference} off"
        );
    }
}

/// The experts of GPT-OSS are quantised, and so are the activations that they read. With both in single precision the
/// logits are those of transformers; as they are, they stay near.
#[test]
fn gpt_oss_gives_the_logits_of_transformers() {
    let (tokens, expected) = expected("gpt-oss", "logits");
    let (long_tokens, long_expected) = self::expected("gpt-oss", "long.logits");
    for (format, checkpoint) in [
        ("GGUF", open(fixture("gpt-oss").join("bf16.gguf"))),
        (
            "safetensors",
            Checkpoint::from_folder(&fixture("gpt-oss")).unwrap(),
        ),
    ] {
        let worst = largest_difference(&reference::logits(&checkpoint, &tokens).unwrap(), &expected);
        assert!(worst < F32_TOLERANCE, "{format} on candle: {worst:e} off");
        let widened = widened(checkpoint.weights());
        for isa in Isa::all() {
            let mut model = Transformer::load(&widened, checkpoint.config().clone(), 2, isa).unwrap();
            let mut cache = KvCache::with_type(model.config(), 16, CacheType::F32);
            let found = run(
                &mut model,
                &mut cache,
                &mut CachedSequence::default(),
                &tokens,
                17,
            );
            let worst = largest_difference(&found, &expected);
            assert!(worst < F32_TOLERANCE, "{format} on {}: {worst:e} off", isa.name());
            let found = run(
                &mut model,
                &mut cache,
                &mut CachedSequence::default(),
                &long_tokens,
                17,
            );
            let worst = largest_difference(&found[found.len() - long_expected.len()..], &long_expected);
            assert!(
                worst < F32_TOLERANCE,
                "{format} on {}, long: {worst:e} off",
                isa.name()
            );

            let found = f32_logits(&checkpoint, isa, &tokens);
            let distance = root_mean_square_difference(&found, &expected);
            eprintln!(
                "{format} on {}: {distance} off with 8-bit activations",
                isa.name()
            );
            assert!(
                distance < MXFP4_TOLERANCE,
                "{format} on {}: {distance} off",
                isa.name()
            );
        }
    }
}

/// The same weights, those in MXFP4 and FP8 in single precision.
fn widened(weights: &Weights) -> Weights {
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

/// FP8 with a scale for each block, row and matrix. With its numbers in single precision the logits are those of
/// transformers; in 8-bit integers, as it is run, they stay near.
#[test]
fn fp8_checkpoints_give_the_logits_of_transformers() {
    for model in [
        "qwen3-fp8",
        "llama3-fp8-channel",
        "qwen2-fp8-tensor",
        "deepseek-v3-fp8",
        "ministral3-fp8",
        "qwen3.5-fp8",
    ] {
        let (tokens, expected) = expected(model, "logits");
        let checkpoint = Checkpoint::from_folder(&fixture(model)).unwrap();
        let worst = largest_difference(&reference::logits(&checkpoint, &tokens).unwrap(), &expected);
        let spread = root_mean_square_difference(&expected, &vec![0.0; expected.len()]);
        assert!(worst < F32_TOLERANCE * spread, "{model} on candle: {worst:e} off");
        let widened = widened(checkpoint.weights());
        for isa in Isa::all() {
            let mut exact = Transformer::load(&widened, checkpoint.config().clone(), 2, isa).unwrap();
            let mut cache = KvCache::with_type(exact.config(), 8, CacheType::F32);
            let sequence = &mut CachedSequence::default();
            let found = run(&mut exact, &mut cache, sequence, &tokens, 17);
            let worst = largest_difference(&found, &expected);
            assert!(
                worst < F32_TOLERANCE * spread,
                "{model} on {}: {worst:e} off",
                isa.name()
            );

            let found = f32_logits(&checkpoint, isa, &tokens);
            // Where a row chooses another expert, it is far off.
            let rows = found
                .chunks(found.len() / tokens.len())
                .zip(expected.chunks(found.len() / tokens.len()));
            let mut shares: Vec<f32> = rows
                .map(|(found, expected)| root_mean_square_difference(found, expected) / spread)
                .collect();
            shares.sort_by(f32::total_cmp);
            let share = shares[shares.len() / 2];
            eprintln!(
                "{model} on {}: {share} of the spread off in Q8_0, {} at most",
                isa.name(),
                shares[shares.len() - 1]
            );
            let tolerance = match model {
                "qwen3.5-fp8" => FP8_STATE_TOLERANCE,
                _ => FP8_TOLERANCE,
            };
            assert!(share < tolerance, "{model} on {}: {share}", isa.name());
        }
        let (mut error, mut whole) = (0.0, 0.0);
        for (_, tensor) in checkpoint
            .weights()
            .iter()
            .filter(|(_, it)| it.source_type() == "FP8")
        {
            let numbers = tensor.numbers().unwrap();
            let mut rounded = vec![0.0; numbers.len()];
            dequantize_row(tensor.dtype, tensor.bytes(), &mut rounded);
            error += numbers
                .iter()
                .zip(&rounded)
                .map(|(a, b)| (a - b).powi(2))
                .sum::<f32>();
            whole += numbers.iter().map(|it| it.powi(2)).sum::<f32>();
        }
        let share = (error / whole).sqrt();
        eprintln!("{model}: weights {share} off in Q8_0");
        assert!(0.0 < share && share < Q8_0_ERROR, "{model}: {share}");
    }
}

/// Matrices that are quantised as they are loaded are those that a quantiser writes into a file.
#[test]
fn quantising_while_loading_is_quantising_beforehand() {
    let (tokens, _) = expected("llama3-k", "logits");
    let checkpoint = open(fixture("llama3-k").join("q8_0.gguf"));
    let mut plain = checkpoint.weights().clone();
    for (name, tensor) in checkpoint.weights().iter() {
        if tensor.dtype == GgmlType::Q8_0 {
            let numbers = tensor.numbers().unwrap();
            let bytes = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
            let tensor = Tensor::from_bytes(name, GgmlType::F32, &tensor.shape, bytes).unwrap();
            plain.take(name);
            plain.insert(name.into(), tensor).unwrap();
        }
    }
    let logits = |weights: &Weights, quantize: Option<GgmlType>| {
        let options = LoadOptions {
            n_threads: 2,
            isa: Isa::detect(),
            quantize,
            progress: &|_| {},
        };
        let mut model = Transformer::load_with(weights, checkpoint.config().clone(), options).unwrap();
        let mut cache = KvCache::with_type(model.config(), 8, CacheType::F32);
        run(
            &mut model,
            &mut cache,
            &mut CachedSequence::default(),
            &tokens,
            17,
        )
    };
    let exact = logits(&plain, None);
    let share = |found: &[f32]| {
        let spread = root_mean_square_difference(&exact, &vec![0.0; exact.len()]);
        root_mean_square_difference(found, &exact) / spread
    };
    // What blocks of 8 bits stand for is what their quantiser makes of it again.
    let quantized = logits(&plain, Some(GgmlType::Q8_0));
    assert_eq!(quantized, logits(checkpoint.weights(), None));
    assert_eq!(quantized, logits(checkpoint.weights(), Some(GgmlType::Q4K)));
    for (dtype, most) in QUANTIZED_SHARES {
        let share = share(&logits(&plain, Some(dtype)));
        eprintln!("{dtype}: {share} of the spread off");
        assert!(share < most, "{dtype}: {share}");
    }
}

/// What is quantised while a model is loaded is what its numbers stand for, whatever they come in: from BF16 and FP8 the
/// same bits come out as from single precision.
#[test]
fn bf16_and_fp8_are_quantised_from_the_numbers_that_they_stand_for() {
    let (tokens, expected) = expected("llama3-fp8-k", "logits");
    let spread = root_mean_square_difference(&expected, &vec![0.0; expected.len()]);
    let fp8 = Checkpoint::from_folder(&fixture("llama3-fp8-k")).unwrap();
    let is_matrix = |tensor: &Tensor| tensor.shape.len() > 1;
    let remade = |dtype: GgmlType, bytes_of: &dyn Fn(f32) -> Vec<u8>| {
        let mut remade = fp8.weights().clone();
        for (name, tensor) in fp8.weights().iter().filter(|(_, it)| is_matrix(it)) {
            let bytes = tensor.numbers().unwrap().into_iter().flat_map(bytes_of).collect();
            let tensor = Tensor::from_bytes(name, dtype, &tensor.shape, bytes).unwrap();
            remade.take(name);
            remade.insert(name.into(), tensor).unwrap();
        }
        remade
    };
    let exact = remade(GgmlType::F32, &|it| it.to_le_bytes().to_vec());
    // BF16 is the first half of single precision.
    let bf16 = remade(GgmlType::BF16, &|it| it.to_le_bytes()[2..].to_vec());
    let cut = remade(GgmlType::F32, &|it| {
        f32::from_bits(it.to_bits() & 0xffff_0000).to_le_bytes().to_vec()
    });
    for (dtype, most) in QUANTIZED_SHARES {
        let logits = |weights: &Weights| {
            let options = LoadOptions {
                n_threads: 2,
                isa: Isa::detect(),
                quantize: Some(dtype),
                progress: &|_| {},
            };
            let mut model = Transformer::load_with(weights, fp8.config().clone(), options).unwrap();
            let mut cache = KvCache::with_type(model.config(), 8, CacheType::F32);
            let sequence = &mut CachedSequence::default();
            run(&mut model, &mut cache, sequence, &tokens, 17)
        };
        let found = logits(fp8.weights());
        assert_eq!(found, logits(&exact), "{dtype} from FP8");
        assert_eq!(logits(&bf16), logits(&cut), "{dtype} from BF16");
        let share = root_mean_square_difference(&found, &expected) / spread;
        eprintln!("{dtype}: {share} of the spread off");
        assert!(share < most, "{dtype}: {share}");
    }
}

#[test]
fn quantized_files_are_as_close_to_their_dequantized_weights_as_llama_cpp_is() {
    for (model, dtypes) in [
        ("llama3-k", &["q8_0", "q4_0"][..]),
        (
            "llama3-types",
            &[
                "q4_1", "q5_0", "q5_1", "q2_k", "q3_k_m", "q6_k", "iq4_nl", "iq4_xs",
            ],
        ),
        ("qwen2-k", &["q4_k_m", "q5_k_m"]),
        ("qwen3-moe-k", &["q4_k_m"]),
        ("deepseek-v2-k", &["q4_k_m", "joined-q4_k_m"]),
        ("qwen3.5-k", &["q4_k_m"]),
    ] {
        for dtype in dtypes {
            let (tokens, witness) = expected(model, &format!("llama_cpp.{dtype}"));
            let checkpoint = open(fixture(model).join(format!("{dtype}.gguf")));
            let dequantized = reference::logits(&checkpoint, &tokens).unwrap();
            let llama_cpp = root_mean_square_difference(&witness, &dequantized);
            for isa in Isa::all() {
                let ours = root_mean_square_difference(&f32_logits(&checkpoint, isa, &tokens), &dequantized);
                let case = format!("{model} {dtype} on {}", isa.name());
                eprintln!("{case}: {ours} from the dequantized weights, llama.cpp {llama_cpp}");
                assert!(
                    ours < QUANTIZED_TOLERANCE * llama_cpp,
                    "{case}: {ours}, llama.cpp {llama_cpp}"
                );
            }
            assert!(
                llama_cpp < QUANTIZED_SANITY,
                "{model} {dtype}: llama.cpp read another model, {llama_cpp}"
            );
        }
    }
}

/// Every family, and quantised rows of each way to multiply them.
const BIT_MODELS: [(&str, &str); 42] = [
    ("llama3", "bf16.gguf"),
    ("mistral", "."),
    ("ministral3", "bf16.gguf"),
    ("qwen2", "bf16.gguf"),
    ("qwen3", "bf16.gguf"),
    ("qwen3-moe", "bf16.gguf"),
    ("qwen3-next", "bf16.gguf"),
    ("qwen3.5", "bf16.gguf"),
    ("qwen3.5-moe", "bf16.gguf"),
    ("deepseek-v2", "bf16.gguf"),
    ("deepseek-v2-lite", "bf16.gguf"),
    ("deepseek-v3", "bf16.gguf"),
    ("glm4-lite", "bf16.gguf"),
    ("gemma", "bf16.gguf"),
    ("gemma2", "bf16.gguf"),
    ("gemma3", "bf16.gguf"),
    ("gemma4", "bf16.gguf"),
    ("gemma4-moe", "bf16.gguf"),
    ("gemma4-e", "bf16.gguf"),
    ("gpt-oss", "bf16.gguf"),
    ("granite", "bf16.gguf"),
    ("phi3", "bf16.gguf"),
    ("phi3-long", "bf16.gguf"),
    ("starcoder", "bf16.gguf"),
    ("starcoder2", "."),
    ("llama3-k", "q4_0.gguf"),
    ("llama3-k", "q8_0.gguf"),
    ("llama3-types", "iq4_nl.gguf"),
    ("llama3-types", "iq4_xs.gguf"),
    ("llama3-types", "q2_k.gguf"),
    ("llama3-types", "q3_k_m.gguf"),
    ("llama3-types", "q4_1.gguf"),
    ("llama3-types", "q5_0.gguf"),
    ("llama3-types", "q5_1.gguf"),
    ("llama3-types", "q6_k.gguf"),
    ("llama3-fp8-channel", "."),
    ("qwen2-k", "q4_k_m.gguf"),
    ("qwen2-k", "q5_k_m.gguf"),
    ("qwen3-moe-k", "q4_k_m.gguf"),
    ("qwen3.5-k", "q4_k_m.gguf"),
    ("qwen3.5-fp8", "."),
    ("deepseek-v2-k", "q4_k_m.gguf"),
];

#[test]
fn chunks_steps_batches_and_rollbacks_give_the_same_bits() {
    for (name, file) in BIT_MODELS {
        check_chunks_steps_batches_and_rollbacks(name, file);
    }
}

fn check_chunks_steps_batches_and_rollbacks(name: &str, file: &str) {
    let checkpoint = open(fixture(name).join(file));
    for isa in Isa::all() {
        check_bits(name, load(&checkpoint, isa));
    }
}

fn check_bits(name: &str, mut model: Transformer) {
    let (tokens, _) = expected(name, "logits");
    let vocab = model.config().vocab;
    let mut cache = KvCache::new(model.config(), 512);
    let mut sequence = CachedSequence::default();
    let whole = run(&mut model, &mut cache, &mut sequence, &tokens, tokens.len());
    for chunk in [1, 2, 5, 13, 31] {
        let mut sequence = CachedSequence::default();
        assert_eq!(
            run(&mut model, &mut cache, &mut sequence, &tokens, chunk),
            whole,
            "{name}: chunks of {chunk}"
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
                sequences: &[&sequence],
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
    // Of a state that is ahead of it nothing is left.
    let left = sequence.len();
    assert!(
        left == 7 || left == 0 && model.config().delta_net.is_some(),
        "{name}"
    );
    assert_eq!(
        run(&mut model, &mut cache, &mut sequence, &tokens[left..], 11),
        whole[left * vocab..]
    );

    // Two sequences at different positions in one batch.
    let (mut first, mut second) = (CachedSequence::default(), CachedSequence::default());
    run(&mut model, &mut cache, &mut first, &tokens[..11], 11);
    run(&mut model, &mut cache, &mut second, &tokens[..29], 29);
    cache.reserve(&mut first, 6).unwrap();
    cache.reserve(&mut second, 1).unwrap();
    let mut mixed = rows(&tokens[11..17], 11, 0);
    mixed.extend(rows(&tokens[29..30], 29, 1));
    let sequences = [&first, &second];
    model
        .forward(
            Batch {
                rows: &mixed,
                sequences: &sequences,
            },
            &mut cache,
            &mut logits,
        )
        .unwrap();
    assert_eq!(logits[..6 * vocab], whole[11 * vocab..17 * vocab]);
    assert_eq!(logits[6 * vocab..], whole[29 * vocab..30 * vocab]);
}

#[test]
fn a_path_through_a_tree_has_the_bits_of_the_chain() {
    for (name, file) in BIT_MODELS {
        check_tree(name, file);
    }
}

fn check_tree(name: &str, file: &str) {
    // The parent of each node; the path of nodes 1, 3, 4, 6 is right, 0, 2 and 5 are wrong guesses.
    const PARENTS: [Option<usize>; 7] = [None, None, Some(0), Some(1), Some(3), Some(3), Some(4)];
    const PATH: [usize; 4] = [1, 3, 4, 6];
    let checkpoint = open(fixture(name).join(file));
    let (tokens, _) = expected(name, "logits");
    for isa in Isa::all() {
        let mut model = load(&checkpoint, isa);
        let vocab = model.config().vocab;
        for cache_type in [CacheType::F32, CacheType::F16, CacheType::Q8_0] {
            let mut cache = KvCache::with_type(model.config(), 64, cache_type);
            let mut plain = CachedSequence::default();
            let whole = run(&mut model, &mut cache, &mut plain, &tokens, 7);
            // Contexts that end within a block, at its end, and so that the tree crosses it.
            for context_len in [1, 17, 29, 31, 32] {
                let mut sequence = CachedSequence::default();
                run(&mut model, &mut cache, &mut sequence, &tokens[..context_len], 32);
                cache.reserve(&mut sequence, 1 + PARENTS.len()).unwrap();
                let root = Row::chain(tokens[context_len], context_len, 0, true);
                let wrong = (tokens[context_len + 1] + 1) % vocab as u32;
                let mut tree = vec![root];
                for (node, parent) in PARENTS.iter().enumerate() {
                    let place_on_path = PATH.iter().position(|it| *it == node);
                    tree.push(Row {
                        token: place_on_path.map_or(wrong, |depth| tokens[context_len + 1 + depth]),
                        ancestors: parent.map_or(0, |parent| tree[1 + parent].ancestors) | 1 << node,
                        ..root
                    });
                }
                let mut logits = Vec::new();
                let batch = Batch {
                    rows: &tree,
                    sequences: &[&sequence],
                };
                model.forward(batch, &mut cache, &mut logits).unwrap();
                let row = |row: usize| &logits[row * vocab..(row + 1) * vocab];
                let expected = |position: usize| &whole[position * vocab..(position + 1) * vocab];
                let at = format!("{name}, {cache_type:?}, {}, context of {context_len}", isa.name());
                assert_eq!(row(0), expected(context_len), "{at}: root");
                for (depth, node) in PATH.into_iter().enumerate() {
                    assert_eq!(
                        row(1 + node),
                        expected(context_len + 1 + depth),
                        "{at}: node {node}"
                    );
                }
                assert_ne!(row(1), expected(context_len + 1), "{at}: a wrong guess");

                cache.keep_path(&sequence, context_len + 1, &PATH);
                let n_kept = context_len + 1 + PATH.len();
                cache.commit(&mut sequence, &tokens[context_len..n_kept]);
                let rest = run(&mut model, &mut cache, &mut sequence, &tokens[n_kept..], 3);
                assert_eq!(rest, whole[n_kept * vocab..], "{at}: after the tree");
                cache.close(sequence);
            }
        }
    }
}

#[test]
fn windows_hide_what_is_far_behind() {
    for model in ["gemma2", "gemma3", "gemma4", "mistral", "phi3", "starcoder2"] {
        let checkpoint = Checkpoint::from_folder(&fixture(model)).unwrap();
        let tokens: Vec<u32> = (0..120).map(|idx| (idx * idx * 7 + 3) % 256).collect();
        let expected = reference::logits(&checkpoint, &tokens).unwrap();
        let mut model_of = load(&checkpoint, Isa::detect());
        let mut cache = KvCache::with_type(model_of.config(), 8, CacheType::F32);
        let mut sequence = CachedSequence::default();
        let found = run(&mut model_of, &mut cache, &mut sequence, &tokens, 13);
        let worst = largest_difference(&found, &expected);
        assert!(worst < F32_TOLERANCE, "{model}: {worst:e} off");
    }
}

#[test]
fn captured_states_are_the_residual_streams_of_transformers() {
    let checkpoint = open(fixture("qwen3").join("bf16.gguf"));
    let mut model = load(&checkpoint, Isa::detect());
    let hidden = model.config().hidden;
    let n_layers = model.config().n_layers;
    let mut cache = KvCache::with_type(model.config(), 8, CacheType::F32);
    let layers = [n_layers, 0, 2];
    model.capture(&layers).unwrap();
    let (tokens, _) = expected("qwen3", "logits");
    let mut sequence = CachedSequence::default();
    run(&mut model, &mut cache, &mut sequence, &tokens, tokens.len());
    let norm: Vec<f32> = checkpoint
        .weights()
        .require("output_norm.weight")
        .unwrap()
        .bytes()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    for (place, layer) in layers.into_iter().enumerate() {
        let (_, expected) = expected("qwen3", &format!("hidden.{layer}"));
        let mut found = Vec::new();
        for row in model.captured().chunks_exact(layers.len() * hidden) {
            let state = &row[place * hidden..][..hidden];
            if layer == n_layers {
                // Transformers gives the last one after the output norm.
                let mean_square = state.iter().map(|x| x * x).sum::<f32>() / hidden as f32;
                let scale = (mean_square + model.config().norm.epsilon).sqrt();
                found.extend(state.iter().zip(&norm).map(|(x, weight)| x / scale * weight));
            } else {
                found.extend_from_slice(state);
            }
        }
        let worst = largest_difference(&found, &expected);
        assert!(worst < F32_TOLERANCE, "layer {layer}: {worst:e} off");
    }
    let error = model.capture(&[n_layers + 1]).unwrap_err().to_string();
    assert!(error.contains(&format!("0 to {n_layers}")), "{error}");
}

/// How far logits are off those of transformers with keys and values in fewer bits, at a position and as a share of the
/// logits' spread: at most positions, since a row may choose another expert.
#[test]
fn a_smaller_cache_moves_logits_only_a_little() {
    let others = [
        ("mistral", "."),
        ("starcoder2", "."),
        ("gemma4-unified", "."),
        ("starcoder", "bf16.gguf"),
    ];
    for (model, file) in FAMILIES.map(|model| (model, ".")).into_iter().chain(others) {
        let checkpoint = open(fixture(model).join(file));
        let (tokens, expected) = expected(model, "logits");
        let spread = root_mean_square_difference(&expected, &vec![0.0; expected.len()]);
        let mut model_of = load(&checkpoint, Isa::detect());
        let vocab = model_of.config().vocab;
        for (cache_type, tolerance) in [
            (CacheType::F16, F16_CACHE_TOLERANCE),
            (CacheType::Q8_0, Q8_0_CACHE_TOLERANCE),
        ] {
            let mut cache = KvCache::with_type(model_of.config(), 64, cache_type);
            let mut sequence = CachedSequence::default();
            let found = run(&mut model_of, &mut cache, &mut sequence, &tokens, 40);
            let rows = found.chunks(vocab).zip(expected.chunks(vocab));
            let mut shares: Vec<f32> = rows
                .map(|(found, expected)| root_mean_square_difference(found, expected) / spread)
                .collect();
            shares.sort_by(f32::total_cmp);
            let share = shares[shares.len() / 2];
            eprintln!(
                "{model}, {cache_type:?}: {share} off, {} at most",
                shares[shares.len() - 1]
            );
            assert!(share < tolerance, "{model}, {cache_type:?}: {share} off");

            // Rows that are shared and copied keep their bits.
            cache.truncate(&mut sequence, 19);
            let left = sequence.len();
            let again = run(&mut model_of, &mut cache, &mut sequence, &tokens[left..], 40);
            assert_eq!(again, found[left * vocab..], "{model}, {cache_type:?}");
        }
    }
}

/// A copy of a fixture with some bytes changed.
fn damaged(
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

#[test]
fn a_weight_that_is_no_number_shows_in_the_logits() {
    let (_file, checkpoint) = damaged("qwen2", "bf16.gguf", |bytes| {
        let whole = open(fixture("qwen2").join("bf16.gguf"));
        let numbers = whole
            .weights()
            .require("blk.0.ffn_up.weight")
            .unwrap()
            .bytes()
            .to_vec();
        let at = bytes
            .windows(numbers.len())
            .position(|window| window == numbers)
            .unwrap();
        bytes[at..at + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    });
    for isa in Isa::all() {
        let logits = f32_logits(&checkpoint, isa, &[1, 2, 3]);
        assert!(
            logits.iter().any(|logit| logit.is_nan()),
            "{}: NaN went lost",
            isa.name()
        );
    }
}

/// A block whose scale is no number, in what each kind of layer reads: refused where blocks are read to be laid out, else it
/// shows.
#[test]
fn a_scale_that_is_no_number_is_refused_or_shows_in_the_logits() {
    for (model, file, name) in [
        ("qwen3.5-k", "q4_k_m.gguf", "blk.0.attn_qkv.weight"),
        ("qwen3.5-k", "q4_k_m.gguf", "blk.0.ssm_out.weight"),
        ("qwen3.5-k", "q4_k_m.gguf", "blk.1.attn_k.weight"),
        ("deepseek-v2-k", "q4_k_m.gguf", "blk.0.attn_kv_a_mqa.weight"),
        ("deepseek-v2-k", "q4_k_m.gguf", "blk.0.attn_k_b.weight"),
        ("deepseek-v2-k", "q4_k_m.gguf", "blk.0.ffn_down_shexp.weight"),
        ("deepseek-v2-k", "joined-q4_k_m.gguf", "blk.0.attn_kv_b.weight"),
    ] {
        let (_file, checkpoint) = damaged(model, file, |bytes| {
            let gguf = Gguf::open(WeightSource::File(fixture(model).join(file))).unwrap();
            let tensor = gguf.require(name).unwrap();
            let blocks = tensor.bytes();
            let at = bytes
                .windows(blocks.len())
                .position(|window| window == blocks)
                .unwrap();
            // Wherever the scale is, it becomes one.
            bytes[at..at + tensor.dtype.block_bytes()].fill(0xff);
        });
        for isa in Isa::all() {
            let at = format!("{model}, {name} on {}", isa.name());
            match Transformer::load(checkpoint.weights(), checkpoint.config().clone(), 2, isa) {
                Err(EngineError::BadWeight { tensor }) => assert_eq!(tensor, name, "{at}"),
                Err(error) => panic!("{at}: {error}"),
                Ok(_) => {
                    let logits = f32_logits(&checkpoint, isa, &[1, 2, 3]);
                    assert!(logits.iter().any(|logit| logit.is_nan()), "{at}: NaN went lost");
                }
            }
        }
    }
}

#[test]
fn weights_that_nothing_would_read_are_refused() {
    let (_file, checkpoint) = damaged("qwen2-k", "q4_k_m.gguf", |bytes| {
        let name = b"blk.0.attn_q.bias";
        let at = bytes
            .windows(name.len())
            .position(|window| window == name)
            .unwrap();
        bytes[at + name.len() - 4..at + name.len()].copy_from_slice(b"mask");
    });
    let config = checkpoint.config().clone();
    let error = Transformer::load(checkpoint.weights(), config, 1, Isa::PORTABLE)
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .starts_with("tensor `blk.0.attn_q.mask` is not supported"),
        "{error}"
    );
}

#[test]
fn a_token_outside_the_vocabulary_is_refused() {
    let checkpoint = open(fixture("qwen3").join("bf16.gguf"));
    let mut model = load(&checkpoint, Isa::detect());
    let mut cache = KvCache::new(model.config(), 2);
    let mut sequence = CachedSequence::default();
    cache.reserve(&mut sequence, 1).unwrap();
    let rows = rows(&[u32::MAX], 0, 0);
    let batch = Batch {
        rows: &rows,
        sequences: &[&sequence],
    };
    let error = model.forward(batch, &mut cache, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, EngineError::BadRequest(_)), "{error}");
}

/// Both products of 8-bit integers, with scales rounded differently, and either up to this far from the logits of
/// single precision: closer ones may change places.
const NEAR_TIE: f64 = 0.3;

#[test]
fn the_embedded_model_writes_what_it_writes_in_llama_cpp() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let fixture = std::fs::read_to_string(root.join("tests/fixtures/embedded/greedy.json")).unwrap();
    let fixture: serde_json::Value = serde_json::from_str(&fixture).unwrap();
    let weights = std::fs::read(root.join("engine/weights/surmise.gguf")).unwrap();
    let digest: String = Sha256::digest(&weights)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        fixture["model_sha256"], digest,
        "made with another model: run tests/references/embedded_greedy.py"
    );

    let checkpoint = open(root.join("engine/weights/surmise.gguf"));
    let (mut n_compared, mut n_ties) = (0, 0);
    for case in fixture["cases"].as_array().unwrap() {
        let ids = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
        let (prompt, greedy) = (ids("prompt"), ids("greedy"));
        let gaps: Vec<f64> = serde_json::from_value(case["gap"].clone()).unwrap();
        // llama.cpp's own tokens are fed back, so that a near tie does not end the comparison.
        let tokens: Vec<u32> = prompt.iter().chain(&greedy).copied().collect();
        let mut model = load(&checkpoint, Isa::detect());
        let mut cache = KvCache::with_type(model.config(), 64, CacheType::F32);
        let logits = run(
            &mut model,
            &mut cache,
            &mut CachedSequence::default(),
            &tokens,
            64,
        );
        for (step, (expected, gap)) in greedy.iter().zip(gaps).enumerate() {
            let logits = logits
                .chunks_exact(model.config().vocab)
                .nth(prompt.len() - 1 + step)
                .unwrap();
            let found = logits
                .iter()
                .enumerate()
                .max_by(|a, b| a.1.total_cmp(b.1))
                .unwrap()
                .0;
            n_compared += 1;
            if found != *expected as usize {
                assert!(
                    gap < NEAR_TIE,
                    "{}, step {step}: {found} for {expected}, gap {gap}",
                    case["name"]
                );
                n_ties += 1;
            }
        }
    }
    assert!(
        n_compared >= 384 && n_ties * 50 <= n_compared,
        "{n_ties} near ties in {n_compared} tokens"
    );
}
