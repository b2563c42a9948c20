//! GPT-OSS as Ollama's converter wrote it from August 2025 on, in the three spellings that people have: the same numbers as in
//! llama.cpp's file, so the same logits, bit by bit.

use gguf_builder::{Builder, Value, byte_level, strings, u32s};
use references::{expected, f32_logits, fixture};
use surmise_engine::{
    Engine, EngineOptions, FimSupport, ModelSummary,
    kernels::Isa,
    model::{Checkpoint, reference, transformer::Transformer},
    request::{Prompt, Request, StopCondition},
    tokenizer::Tokenizer,
    weights::{GgmlType, Gguf, Tensor, WeightSource},
};

mod gguf_builder;
mod references;

/// What a spelling holds in one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fused {
    /// Queries, keys and values; gate and up, row by row in turn; and in MXFP4 a byte holds two neighbours. From 5 August 2025.
    All,
    /// Gate and up. From 26 August.
    GateAndUp,
    /// Nothing. From 10 October.
    Nothing,
}

/// ggml's block as OpenAI's files have it: a byte holds two neighbours, the first in its low half.
fn paired(block: &[u8]) -> Vec<u8> {
    let number = |idx: usize| block[1 + idx % 16] >> (idx / 16 * 4) & 15;
    let bytes = (0..16).map(|idx| number(2 * idx) | number(2 * idx + 1) << 4);
    [block[0]].into_iter().chain(bytes).collect()
}

/// Rows of two tensors in turn, `row_bytes` each.
fn in_turn(first: &[u8], second: &[u8], row_bytes: usize) -> Vec<u8> {
    let rows = first.chunks_exact(row_bytes).zip(second.chunks_exact(row_bytes));
    rows.flat_map(|(first, second)| [first, second].concat())
        .collect()
}

/// Single precision as BF16, which holds the fixture's numbers as well.
fn in_bf16(bytes: &[u8]) -> Vec<u8> {
    let numbers = bytes.as_chunks::<4>().0.iter();
    numbers
        .flat_map(|&[low, lower, high, higher]| {
            assert_eq!([low, lower], [0, 0]);
            [high, higher]
        })
        .collect()
}

fn llama_cpp_file() -> Gguf {
    Gguf::open(WeightSource::File(fixture("gpt-oss").join("bf16.gguf"))).unwrap()
}

/// The metadata that Ollama writes, which lacks the kind of RoPE scaling and the width of an expert.
fn metadata(original: &Gguf) -> Builder {
    let mut builder = Builder::new()
        .pair("general.architecture", Value::Str(b"gptoss".to_vec()))
        .pair("general.file_type", Value::U32(4));
    let known = original.metadata();
    for key in [
        "context_length",
        "block_count",
        "embedding_length",
        "feed_forward_length",
        "expert_count",
        "expert_used_count",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.sliding_window",
        "rope.scaling.original_context_length",
    ] {
        let value = known.require_u32(&format!("gpt-oss.{key}")).unwrap();
        builder = builder.pair(format!("gptoss.{key}"), Value::U32(value));
    }
    for key in [
        "attention.layer_norm_rms_epsilon",
        "rope.freq_base",
        "rope.scaling.factor",
    ] {
        let value = known.require_f32(&format!("gpt-oss.{key}")).unwrap();
        builder = builder.pair(format!("gptoss.{key}"), Value::F32(value));
    }
    builder
}

/// The fixture's model in one of Ollama's spellings, without a vocabulary.
fn ollama_file(fused: Fused) -> Vec<u8> {
    ollama_model(fused).build()
}

fn ollama_model(fused: Fused) -> Builder {
    let original = llama_cpp_file();
    let mut builder = metadata(&original);
    let mut add = |name: &str, shape: &[usize], dtype: GgmlType, data: &[u8]| {
        let extents: Vec<u64> = shape.iter().rev().map(|it| *it as u64).collect();
        builder = std::mem::replace(&mut builder, Builder::new()).tensor(name, &extents, dtype, data);
    };
    let tensor = |name: &str| original.require(name).unwrap();
    for info in original.tensors() {
        let tensor_of = |part: &str, other: &str| tensor(&info.name.replace(part, other));
        let (found, name) = (tensor(&info.name), info.name.clone());
        if fused == Fused::All && name.contains(".attn_q.") {
            let parts = ["attn_q", "attn_k", "attn_v"].map(|it| tensor_of("attn_q", it));
            let mut shape = found.shape.clone();
            shape[0] = parts.iter().map(|it| it.shape[0]).sum();
            let bytes = parts.iter().flat_map(Tensor::bytes).copied().collect::<Vec<_>>();
            add(&name.replace("attn_q", "attn_qkv"), &shape, found.dtype, &bytes);
        } else if fused == Fused::All && (name.contains(".attn_k.") || name.contains(".attn_v.")) {
            // It is in the one for queries.
        } else if fused != Fused::Nothing && name.contains(".ffn_up_exps.") {
            // It is in the one for the gate.
        } else if let Some(layer) = name.strip_suffix(".ffn_down_exps.bias") {
            // The first files have biases of experts as OpenAI has them.
            let (dtype, bytes) = match fused {
                Fused::All => (GgmlType::BF16, in_bf16(found.bytes())),
                _ => (GgmlType::F32, found.bytes().to_vec()),
            };
            add(
                &format!("{layer}.ffn_down_exps.bias"),
                &found.shape,
                dtype,
                &bytes,
            );
        } else if fused != Fused::Nothing && name.contains(".ffn_gate_exps.") {
            let up = tensor_of("ffn_gate_exps", "ffn_up_exps");
            let name = name.replace("ffn_gate_exps", "ffn_gate_up_exps");
            let (dtype, bytes) = match (found.dtype, fused) {
                (GgmlType::F32, Fused::All) => {
                    let bytes = in_turn(&in_bf16(found.bytes()), &in_bf16(up.bytes()), 2);
                    (GgmlType::BF16, bytes)
                }
                (GgmlType::F32, _) => (GgmlType::F32, in_turn(found.bytes(), up.bytes(), 4)),
                (dtype, fused) => {
                    let row_bytes = dtype.row_bytes(found.shape[2]).unwrap();
                    let bytes = in_turn(found.bytes(), up.bytes(), row_bytes);
                    match fused {
                        Fused::All => (GgmlType::MXFP4Pairs, bytes.chunks(17).flat_map(paired).collect()),
                        _ => (dtype, bytes),
                    }
                }
            };
            let mut shape = found.shape;
            shape[1] *= 2;
            add(&name, &shape, dtype, &bytes);
        } else if fused == Fused::All && found.dtype == GgmlType::MXFP4 {
            let bytes: Vec<u8> = found.bytes().chunks(17).flat_map(paired).collect();
            add(&name, &found.shape, GgmlType::MXFP4Pairs, &bytes);
        } else {
            let name = name
                .replace("attn_output", "attn_out")
                .replace("attn_sinks.weight", "attn_sinks")
                .replace("post_attention_norm", "ffn_norm");
            add(&name, &found.shape, found.dtype, found.bytes());
        }
    }
    builder
}

#[test]
fn ollamas_files_of_gpt_oss_give_the_logits_of_llama_cpps_file() {
    let original = Checkpoint::from_gguf(&llama_cpp_file()).unwrap();
    for fused in [Fused::All, Fused::GateAndUp, Fused::Nothing] {
        let gguf = gguf_builder::open(&ollama_file(fused)).unwrap();
        let checkpoint = Checkpoint::from_gguf(&gguf).unwrap();
        for name in ["logits", "long.logits"] {
            let (tokens, _) = expected("gpt-oss", name);
            let logits = |checkpoint: &Checkpoint| reference::logits(checkpoint, &tokens).unwrap();
            assert!(
                logits(&checkpoint) == logits(&original),
                "{fused:?} on candle, {name}"
            );
            for isa in Isa::all() {
                let found = f32_logits(&checkpoint, isa, &tokens);
                let expected = f32_logits(&original, isa, &tokens);
                assert!(found == expected, "{fused:?} on {}, {name}", isa.name());
            }
        }
    }
}

#[test]
fn names_of_llama_cpp_will_do_in_ollamas_files() {
    let original = llama_cpp_file();
    let builder = original.tensors().fold(metadata(&original), |builder, info| {
        let extents: Vec<u64> = info.shape.iter().rev().map(|it| *it as u64).collect();
        let tensor = original.require(&info.name).unwrap();
        builder.tensor(&info.name, &extents, info.dtype, tensor.bytes())
    });
    let renamed = Checkpoint::from_gguf(&gguf_builder::open(&builder.build()).unwrap()).unwrap();
    let original = Checkpoint::from_gguf(&original).unwrap();
    let (tokens, _) = expected("gpt-oss", "logits");
    let logits = |checkpoint| f32_logits(checkpoint, Isa::detect(), &tokens);
    assert!(logits(&renamed) == logits(&original));
}

/// A whole file, as the program opens it: the vocabulary's pre-tokenizer is called `default`, and there is no chat template.
#[test]
fn a_whole_file_is_loaded_and_asked_in_words() {
    let original = llama_cpp_file();
    let known = original.metadata();
    let texts = |key: &str| strings(&known.require_str_array(key).unwrap());
    let kinds = known.get_u32_array("tokenizer.ggml.token_type").unwrap().unwrap();
    for fused in [Fused::All, Fused::GateAndUp, Fused::Nothing] {
        let file = ollama_model(fused)
            .pair("tokenizer.ggml.model", Value::Str(b"gpt2".to_vec()))
            .pair("tokenizer.ggml.pre", Value::Str(b"default".to_vec()))
            .pair("tokenizer.ggml.tokens", texts("tokenizer.ggml.tokens"))
            .pair("tokenizer.ggml.token_type", u32s(kinds.iter().copied()))
            .pair("tokenizer.ggml.merges", texts("tokenizer.ggml.merges"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sha256-0123");
        std::fs::write(&path, file.build()).unwrap();
        let source = WeightSource::File(path);
        let options = EngineOptions {
            threads: Some(2),
            ..EngineOptions::default()
        };
        let summary = ModelSummary::read(&source, &options).unwrap();
        assert_eq!(summary.number_format, "MXFP4", "{fused:?}");
        let engine = Engine::load(source, options).unwrap();
        assert_eq!(engine.info().fim, FimSupport::Conversation, "{fused:?}");
        let request = Request {
            prompt: Prompt::Tokens(vec![1, 2, 3]),
            stop: StopCondition {
                max_tokens: 4,
                ignore_end_tokens: true,
                ..StopCondition::default()
            },
            ..Request::default()
        };
        let answer = engine.generate(request).blocking_collect().unwrap();
        assert_eq!(answer.tokens.len(), 4, "{fused:?}");
    }
}

/// Bytes of a header that are others: refused, or harmless.
#[test]
fn damaged_files_do_no_harm() {
    for fused in [Fused::All, Fused::GateAndUp] {
        let bytes = ollama_file(fused);
        let data = gguf_builder::open(&bytes).unwrap();
        let header_bytes = bytes.len() - data.tensors().map(|it| it.n_bytes()).sum::<usize>();
        for at in (0..header_bytes).step_by(11) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), damaged).unwrap();
            let outcome = Gguf::open(WeightSource::File(file.path().into()))
                .and_then(|gguf| Checkpoint::from_gguf(&gguf))
                .and_then(|it| Transformer::load(it.weights(), it.config().clone(), 1, Isa::PORTABLE));
            if let Err(error) = outcome {
                assert!(error.to_string().len() > 15, "byte {at}: {error}");
            }
        }
    }
}

/// Nothing in the file says that its RoPE scaling is YaRN. Without a factor there is none.
#[test]
fn a_factor_alone_is_one_of_yarn() {
    let (tokens, _) = expected("gpt-oss", "logits");
    let plain = Checkpoint::from_gguf(&gguf_builder::open(&ollama_file(Fused::Nothing)).unwrap()).unwrap();
    let mut bytes = ollama_file(Fused::Nothing);
    let key = b"gptoss.rope.scaling.factor";
    let at = bytes.windows(key.len()).position(|it| it == key).unwrap();
    bytes[at + key.len() + 4..][..4].copy_from_slice(&0.0_f32.to_le_bytes());
    let unscaled = Checkpoint::from_gguf(&gguf_builder::open(&bytes).unwrap()).unwrap();
    let logits = |checkpoint| f32_logits(checkpoint, Isa::detect(), &tokens);
    assert!(logits(&plain) != logits(&unscaled));
}

#[test]
fn gate_and_up_that_are_not_as_many_are_refused() {
    for (name, extents, expected) in [
        (
            "blk.0.ffn_gate_up_exps.weight",
            &[64, 3, 4][..],
            "3 rows of gate and up found, as many of each expected",
        ),
        (
            "blk.1.ffn_gate_up_exps.weight",
            &[64, 8],
            "shape [8, 64] found, 3 dimensions expected",
        ),
    ] {
        let n_bytes = extents.iter().product::<u64>() * 2;
        let original = llama_cpp_file();
        let embedding = original.require("token_embd.weight").unwrap();
        let file = metadata(&original)
            .tensor(
                "token_embd.weight",
                &[64, 256],
                embedding.dtype,
                embedding.bytes(),
            )
            .tensor(name, extents, GgmlType::BF16, &vec![0; n_bytes as usize]);
        let error = Checkpoint::from_gguf(&gguf_builder::open(&file.build()).unwrap());
        let error = error.err().unwrap().to_string();
        assert!(
            error.ends_with(&format!("tensor `{name}`: {expected}")),
            "{error}"
        );
    }
}

/// Ollama had no name for o200k's pre-tokenizer and called it `default`.
#[test]
fn texts_are_cut_as_for_gpt_oss() {
    let file = |architecture: &str, pre: &str| {
        let tokens = ["12", "123", "1234"].map(|it| (it, 1));
        let file = byte_level(pre, &tokens)
            .pair(
                "general.architecture",
                Value::Str(architecture.as_bytes().to_vec()),
            )
            .pair("tokenizer.ggml.merges", strings(&["1 2", "12 3", "123 4"]));
        Tokenizer::from_gguf(&gguf_builder::open(&file.build()).unwrap()).unwrap()
    };
    let n_tokens = |tokenizer: Tokenizer| tokenizer.encode("1234", false).unwrap().len();
    assert_eq!(n_tokens(file("gptoss", "default")), 2);
    assert_eq!(n_tokens(file("gpt-oss", "gpt-4o")), 2);
    assert_eq!(n_tokens(file("gpt2", "gpt-2")), 1);
}
