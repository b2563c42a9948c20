//! What `surmise models` and `surmise doctor` say of a model of 1.5 billion parameters is what the system measures.
//!
//! Alone in its program: resident memory is that of the whole process.

use std::{
    fs,
    path::{Path, PathBuf},
};

use gguf_builder::{Value as Pair, byte_level, byte_spellings, strings};
use serde_json::Value;
use surmise::{config::EngineConfig, model};
use surmise_engine::{
    Engine, ModelSummary, WeightSource,
    request::{CopyMixing, Prompt, Request, SamplingParams, Speculation, StopCondition},
    weights::GgmlType,
};
use surmise_tests::binary;

#[path = "../../engine/tests/gguf_builder/mod.rs"]
mod gguf_builder;

// The shape of Qwen2.5-Coder 1.5B.
const N_LAYERS: u32 = 28;
const HIDDEN: u32 = 1536;
const FEED_FORWARD: u32 = 8960;
const N_HEADS: u32 = 12;
const N_KV_HEADS: u32 = 2;
const VOCAB: usize = 151_936;
const CONTEXT_LENGTH: u32 = 32_768;

/// llama.cpp's number for Q4_K_M.
const Q4_K_M: u32 = 15;

/// How far what is measured may be from what was said.
const TOLERANCE: f64 = 0.1;

/// A folder that is gone at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("memory-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// As llama.cpp mixes types in Q4_K_M: more bits for values and for what leaves a layer, in the first and the last eighth of the
/// layers and in every third of the others.
fn type_of(tensor: &str, layer: u32) -> GgmlType {
    let eighth = N_LAYERS / 8;
    let is_better = layer < eighth || layer >= 7 * N_LAYERS / 8 || (layer - eighth) % 3 == 2;
    match tensor {
        "attn_v" | "ffn_down" if is_better => GgmlType::Q6K,
        _ => GgmlType::Q4K,
    }
}

/// Writes the model. Every weight is 0, in a hole of the file: where the file system knows holes it takes a few megabytes, and
/// is as long as any other.
fn write_model(path: &Path) {
    let mut file = byte_level("qwen2", &[]);
    file.pairs.clear();
    let bytes: Vec<String> = byte_spellings().into_iter().map(String::from).collect();
    // Two bytes, then three, each with the merge that makes it.
    let (mut tokens, mut merges) = (bytes.clone(), Vec::new());
    for shorter in 0.. {
        if tokens.len() >= VOCAB {
            break;
        }
        for byte in &bytes {
            merges.push(format!("{} {byte}", tokens[shorter]));
            tokens.push(format!("{}{byte}", tokens[shorter]));
        }
    }
    tokens.truncate(VOCAB);
    merges.truncate(VOCAB - bytes.len());
    let list = |texts: &[String]| strings(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    let text = |text: &str| Pair::Str(text.as_bytes().to_vec());
    for (key, value) in [
        ("general.architecture", text("qwen2")),
        ("general.file_type", Pair::U32(Q4_K_M)),
        ("qwen2.block_count", Pair::U32(N_LAYERS)),
        ("qwen2.context_length", Pair::U32(CONTEXT_LENGTH)),
        ("qwen2.embedding_length", Pair::U32(HIDDEN)),
        ("qwen2.feed_forward_length", Pair::U32(FEED_FORWARD)),
        ("qwen2.attention.head_count", Pair::U32(N_HEADS)),
        ("qwen2.attention.head_count_kv", Pair::U32(N_KV_HEADS)),
        ("qwen2.attention.layer_norm_rms_epsilon", Pair::F32(1e-6)),
        ("qwen2.rope.freq_base", Pair::F32(1e6)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("qwen2")),
        ("tokenizer.ggml.tokens", list(&tokens)),
        ("tokenizer.ggml.merges", list(&merges)),
    ] {
        file = file.pair(key, value);
    }

    let mut n_bytes = 0u64;
    let mut add = |name: &str, shape: &[u32], dtype: GgmlType| {
        let shape: Vec<usize> = shape.iter().map(|&it| it as usize).collect();
        let innermost_first: Vec<u64> = shape.iter().rev().map(|&it| it as u64).collect();
        file.tensors
            .push((name.as_bytes().to_vec(), innermost_first, dtype.id(), n_bytes));
        let of_tensor = dtype.tensor_bytes(&shape).expect("a shape in whole blocks");
        n_bytes = (n_bytes + of_tensor as u64).next_multiple_of(file.alignment as u64);
    };
    let kv_width = HIDDEN / N_HEADS * N_KV_HEADS;
    add("token_embd.weight", &[VOCAB as u32, HIDDEN], GgmlType::Q6K);
    add("output_norm.weight", &[HIDDEN], GgmlType::F32);
    for layer in 0..N_LAYERS {
        for norm in ["attn_norm", "ffn_norm"] {
            add(&format!("blk.{layer}.{norm}.weight"), &[HIDDEN], GgmlType::F32);
        }
        for (tensor, n_outputs, n_inputs) in [
            ("attn_q", HIDDEN, HIDDEN),
            ("attn_k", kv_width, HIDDEN),
            ("attn_v", kv_width, HIDDEN),
            ("attn_output", HIDDEN, HIDDEN),
            ("ffn_gate", FEED_FORWARD, HIDDEN),
            ("ffn_up", FEED_FORWARD, HIDDEN),
            ("ffn_down", HIDDEN, FEED_FORWARD),
        ] {
            let dtype = type_of(tensor, layer);
            add(
                &format!("blk.{layer}.{tensor}.weight"),
                &[n_outputs, n_inputs],
                dtype,
            );
        }
        for (tensor, width) in [("attn_q", HIDDEN), ("attn_k", kv_width), ("attn_v", kv_width)] {
            add(&format!("blk.{layer}.{tensor}.bias"), &[width], GgmlType::F32);
        }
    }
    let header = file.build();
    let len = (header.len() as u64).next_multiple_of(file.alignment as u64) + n_bytes;
    fs::write(path, header)
        .and_then(|()| fs::File::options().write(true).open(path)?.set_len(len))
        .unwrap_or_else(|error| {
            panic!(
                "no room for a model of {len} bytes, which is a few megabytes where files can have holes: {}: {error}",
                path.display()
            )
        });
}

/// A number of bytes in the system's account of this process, such as `VmRSS`; `None` where there is none.
fn of_process(key: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let rest = status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kibibytes: f64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

#[test]
fn a_large_model_takes_what_is_said() {
    let home = Folder::new();
    let path = home.0.join("models/1.5b-q4_k_m.gguf");
    fs::create_dir_all(home.0.join("models")).expect("a folder");
    write_model(&path);
    let options = model::options(&EngineConfig::default());
    let source = WeightSource::File(path);
    let summary = ModelSummary::read(&source, &options).expect("a model");
    assert_eq!(summary.number_format, "Q4_K_M");
    assert!((1.5e9..1.6e9).contains(&(summary.n_parameters as f64)));

    // Both commands say what the plan does.
    for (command, list) in [("models", "models"), ("doctor", "other_models")] {
        let output = binary::command()
            .args([command, "--json"])
            .env("HOME", &home.0)
            .output()
            .expect("the binary runs");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let rows = report[list].as_array().expect("a list");
        let row = rows
            .iter()
            .find(|row| row["model"] == "~/models/1.5b-q4_k_m.gguf");
        let row = row.unwrap_or_else(|| panic!("{command}: {report}"));
        assert_eq!(row["weight_bytes"], summary.plan.weight_bytes, "{command}");
        assert_eq!(row["total_bytes"], summary.plan.total_bytes(), "{command}");
        // 28 layers, 2 heads of 128, keys and values, 2 bytes each.
        assert_eq!(
            row["kv_bytes_per_1000_tokens"],
            28 * 2 * 128 * 2 * 2 * 1000,
            "{command}"
        );
    }

    let before = of_process("VmRSS");
    let engine = Engine::load(source, options).expect("the model loads");
    let request = Request {
        prompt: Prompt::Tokens((1..100).collect()),
        sampling: SamplingParams {
            copy: CopyMixing::Off,
            ..SamplingParams::default()
        },
        stop: StopCondition {
            max_tokens: 4,
            ignore_end_tokens: true,
            ..StopCondition::default()
        },
        speculation: Speculation::Off,
        ..Request::default()
    };
    let answer = engine.generate(request).blocking_collect().expect("an answer");
    assert_eq!(answer.finish.usage.generated_tokens, 4);
    let kv_bytes = engine.status().n_used_blocks * engine.info().block_bytes;
    let (resident, peak) = (of_process("VmRSS"), of_process("VmHWM"));
    // Not every system says what is resident.
    let (Some(before), Some(resident), Some(peak)) = (before, resident, peak) else {
        return;
    };
    let plan = summary.plan;
    let planned = plan.total_bytes() - plan.kv_bytes + kv_bytes;
    let loading = planned - kv_bytes + plan.loading_bytes;
    for (what, measured, said) in [
        ("after an answer", resident - before, planned),
        ("at most", peak - before, loading.max(planned)),
    ] {
        let off = measured / said as f64 - 1.0;
        eprintln!("{what}: {measured} bytes, {said} were planned");
        assert!(
            off.abs() < TOLERANCE,
            "{what}: {measured} bytes, {said} were planned"
        );
    }
}
