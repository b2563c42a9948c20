//! The fast forward pass against other people's: Hugging Face transformers, llama.cpp, candle.
//!
//! The embedded model is compared with what llama.cpp wrote with the same file (`tests/fixtures/embedded`).
//! `tests/fixtures/references/<model>` holds small random-weight models with the logits that transformers gave
//! for them; `tests/references/` has the scripts that made both.

use std::path::Path;

use candle_core::{DType, Device};
use references::{
    F32_TOLERANCE, FAMILIES, damaged, expected, f32_logits, fixture, largest_difference, load, open,
    root_mean_square_difference, rows, run, widened,
};
use sha2::{Digest, Sha256};
use surmise_engine::{
    Engine, EngineError, EngineOptions,
    kernels::Isa,
    kv_cache::{CacheType, CachedSequence, KvCache},
    model::{Batch, Checkpoint, Model, Row, reference, transformer::Transformer},
    request::{Prompt, Request, StopCondition},
    weights::{Gguf, Tensor, WeightSource},
};

mod references;

/// Root mean square that 8-bit activations may move logits, which spread by 1.5, of a model with MXFP4 experts: a row
/// whose scores for two experts are close may choose another one.
const MXFP4_TOLERANCE: f32 = 0.3;

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
