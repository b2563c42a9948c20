//! Weights, keys and values in fewer bits than a model has them in: near the same models in full, and as near as llama.cpp.

use references::{
    F32_TOLERANCE, FAMILIES, damaged, expected, f32_logits, fixture, largest_difference, load, open,
    root_mean_square_difference, run, widened,
};
use surmise_engine::{
    EngineError,
    kernels::Isa,
    kv_cache::{CacheType, CachedSequence, KvCache},
    model::{
        Checkpoint, Model, ModelConfig, reference,
        transformer::{LoadOptions, Transformer},
    },
    quant::dequantize_row,
    weights::{GgmlType, Gguf, Tensor, WeightSource, Weights},
};

mod references;

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

/// Root mean square that fewer bits may move the logits of a position, as a share of the spread of all.
#[derive(Clone, Copy)]
struct Tolerance {
    /// At most positions.
    median: f32,
    /// At any, unless a row chose another expert.
    most: f32,
}

/// 8-bit weights and activations in place of FP8: random models make five times as much of what moves their weights. The most
/// is 0.11.
const FP8_TOLERANCE: Tolerance = Tolerance {
    median: 0.07,
    most: 0.15,
};

/// The same of a gated delta net, whose state adds up what moves its rows, and forgets slowly: 0.6 at the most.
const FP8_STATE_TOLERANCE: Tolerance = Tolerance {
    median: 0.15,
    most: 0.8,
};

/// Keys and values in half precision. Most families are 0.0007 off, and 0.007 at the most.
const F16_CACHE_TOLERANCE: Tolerance = Tolerance {
    median: 6e-3,
    most: 0.01,
};

/// The same of keys and values in 8 bits, where most families are 0.015 off, and 0.18 at the most.
const Q8_0_CACHE_TOLERANCE: Tolerance = Tolerance {
    median: 0.07,
    most: 0.25,
};

/// How far off a row may be that chose another expert, or looks at one that did: 0.8 at the most. Logits of another model would be
/// 1.4 off.
const OTHER_EXPERT_TOLERANCE: f32 = 1.0;

/// Root mean square that 8-bit integers may be off, as a share of that of weights with a normal distribution; that of FP8
/// itself is 2.6 %.
const Q8_0_ERROR: f32 = 0.006;

/// Compares the logits of each position.
fn check_rows(at: &str, config: &ModelConfig, found: &[f32], expected: &[f32], tolerance: Tolerance) {
    assert_eq!(found.len(), expected.len());
    let spread = root_mean_square_difference(expected, &vec![0.0; expected.len()]);
    let rows = found.chunks(config.vocab).zip(expected.chunks(config.vocab));
    let mut shares: Vec<f32> = rows
        .map(|(found, expected)| root_mean_square_difference(found, expected) / spread)
        .collect();
    shares.sort_by(f32::total_cmp);
    let (median, most) = (shares[shares.len() / 2], shares[shares.len() - 1]);
    eprintln!("{at}: {median} of the spread off, {most} at most");
    assert!(median < tolerance.median, "{at}: {median} off");
    let may_be_off = match config.experts {
        None => tolerance.most,
        Some(_) => OTHER_EXPERT_TOLERANCE,
    };
    assert!(most < may_be_off, "{at}: {most} off at the most");
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
            let tolerance = match model {
                "qwen3.5-fp8" => FP8_STATE_TOLERANCE,
                _ => FP8_TOLERANCE,
            };
            let at = format!("{model} in Q8_0 on {}", isa.name());
            check_rows(&at, checkpoint.config(), &found, &expected, tolerance);
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

/// How far logits are off those of transformers with keys and values in fewer bits.
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
        let mut model_of = load(&checkpoint, Isa::detect());
        let vocab = model_of.config().vocab;
        for (cache_type, tolerance) in [
            (CacheType::F16, F16_CACHE_TOLERANCE),
            (CacheType::Q8_0, Q8_0_CACHE_TOLERANCE),
        ] {
            let mut cache = KvCache::with_type(model_of.config(), 64, cache_type);
            let mut sequence = CachedSequence::default();
            let found = run(&mut model_of, &mut cache, &mut sequence, &tokens, 40);
            let at = format!("{model}, {cache_type:?}");
            check_rows(&at, checkpoint.config(), &found, &expected, tolerance);

            // Rows that are shared and copied keep their bits.
            cache.truncate(&mut sequence, 19);
            let left = sequence.len();
            let again = run(&mut model_of, &mut cache, &mut sequence, &tokens[left..], 40);
            assert_eq!(again, found[left * vocab..], "{model}, {cache_type:?}");
        }
    }
}

/// MXFP4 by the words of "OCP Microscaling Formats (MX) Specification 1.0", sections 5.3.3 and 5.4.1: E2M1 numbers, of which two
/// share a byte, and a power of two for 32 of them. The exponent of all ones stands for no number: `not_numbers.rs` has what becomes
/// of a file with it.
#[test]
fn mxfp4_stands_for_the_numbers_of_its_specification() {
    let element = |bits: u8| -> f64 {
        let sign = if bits & 8 == 0 { 1.0 } else { -1.0 };
        let (exponent, mantissa) = (i32::from(bits >> 1 & 3), f64::from(bits & 1));
        sign * match exponent {
            0 => mantissa / 2.0,
            _ => (1.0 + mantissa / 2.0) * 2_f64.powi(exponent - 1),
        }
    };
    assert_eq!([0, 1, 2, 7, 9, 15].map(element), [0.0, 0.5, 1.0, 6.0, -0.5, -6.0]);
    for exponent in 0..u8::MAX {
        let scale = 2_f64.powi(i32::from(exponent) - 127);
        for first in (0..=u8::MAX).step_by(16) {
            let mut block = [exponent; 17];
            for (byte, value) in block[1..].iter_mut().zip(first..) {
                *byte = value;
            }
            let mut found = [0.0; 32];
            dequantize_row(GgmlType::MXFP4, &block, &mut found);
            for (idx, found) in found.into_iter().enumerate() {
                // In ggml's blocks the low halves of the bytes come first.
                let bits = block[1 + idx % 16] >> (idx / 16 * 4) & 15;
                // What is beyond single precision is infinite.
                let expected = (element(bits) * scale) as f32;
                assert_eq!(found, expected, "{bits:#x} with the scale {exponent}");
            }
        }
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
