//! An EAGLE-3 head in a GGUF file, as llama.cpp's converter lays it out, drafts what the published files draft.

use std::{collections::HashMap, path::PathBuf};

use candle_core::{DType, Device, Tensor};
use gguf_builder::{Builder, Value};
use half::bf16;
use surmise_engine::{
    WeightSource,
    model::Checkpoint,
    speculative::{
        drafter::Draft,
        eagle3::{Eagle3, TreeShape},
        network::{DraftTask, NetworkDrafter},
    },
    weights::{GgmlType, safetensors},
};

mod gguf_builder;

const HEAD_DIM: usize = 16;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/references/eagle3")
        .join(name)
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture(name), &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn ints(tensor: &Tensor) -> Vec<i64> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The rows of each head in the order in which neighbours are rotated together, as Llama files are converted.
fn interleaved(weights: &[f32], n_inputs: usize) -> Vec<f32> {
    let heads = weights.chunks_exact(HEAD_DIM * n_inputs);
    let rows = heads.flat_map(|head| {
        let row = move |idx: usize| &head[idx * n_inputs..][..n_inputs];
        (0..HEAD_DIM / 2).flat_map(move |pair| [row(pair), row(pair + HEAD_DIM / 2)])
    });
    rows.flatten().copied().collect()
}

fn gguf() -> WeightSource {
    // candle reads no flags, which the published files have.
    let published = safetensors::open_file(&fixture("draft/model.safetensors")).unwrap();
    let published = |name: &str| published.iter().find(|it| it.name == name).unwrap();
    let mut file = Builder::new()
        .pair("general.architecture", Value::Str(b"eagle3".to_vec()))
        .pair("eagle3.embedding_length", Value::U32(64))
        .pair("eagle3.feed_forward_length", Value::U32(96))
        .pair("eagle3.attention.head_count", Value::U32(4))
        .pair("eagle3.attention.head_count_kv", Value::U32(2))
        .pair("eagle3.attention.layer_norm_rms_epsilon", Value::F32(1e-6))
        .pair("eagle3.rope.freq_base", Value::F32(1_000_000.0));
    for (name, published_name) in [
        ("fc", "fc"),
        ("blk.0.attn_norm", "midlayer.input_layernorm"),
        ("blk.0.attn_norm_2", "midlayer.hidden_norm"),
        ("blk.0.attn_q", "midlayer.self_attn.q_proj"),
        ("blk.0.attn_k", "midlayer.self_attn.k_proj"),
        ("blk.0.attn_v", "midlayer.self_attn.v_proj"),
        ("blk.0.attn_output", "midlayer.self_attn.o_proj"),
        ("blk.0.ffn_norm", "midlayer.post_attention_layernorm"),
        ("blk.0.ffn_gate", "midlayer.mlp.gate_proj"),
        ("blk.0.ffn_up", "midlayer.mlp.up_proj"),
        ("blk.0.ffn_down", "midlayer.mlp.down_proj"),
        ("output_norm", "norm"),
        ("output", "lm_head"),
    ] {
        let tensor = published(&format!("{published_name}.weight"));
        let extents: Vec<u64> = tensor.shape.iter().rev().map(|&it| it as u64).collect();
        let (halves, _) = tensor.bytes().as_chunks::<2>();
        let weights: Vec<f32> = halves
            .iter()
            .map(|it| bf16::from_le_bytes(*it).to_f32())
            .collect();
        let weights = match name {
            "blk.0.attn_q" | "blk.0.attn_k" => interleaved(&weights, extents[0] as usize),
            _ => weights,
        };
        let bytes: Vec<u8> = weights.iter().flat_map(|it| it.to_le_bytes()).collect();
        file = file.tensor(format!("{name}.weight"), &extents, GgmlType::F32, &bytes);
    }
    let (deltas, _) = published("d2t").bytes().as_chunks::<8>();
    let ids = deltas
        .iter()
        .zip(0..)
        .map(|(delta, id)| i64::from_le_bytes(*delta) + id);
    let ids: Vec<u8> = ids.flat_map(i64::to_le_bytes).collect();
    let file = file.tensor("d2t", &[96], GgmlType::I64, &ids);
    WeightSource::Embedded(Box::leak(file.build().into_boxed_slice()))
}

/// The draft after the fixture's prompt.
fn draft(source: WeightSource) -> Draft {
    let target = Checkpoint::from_folder(&fixture("target")).unwrap();
    assert!(Eagle3::recognises(&source));
    let mut drafter = Eagle3::load(source, &target, TreeShape::default(), 1000, 1).unwrap();
    let expected = tensors("expected.safetensors");
    let mut tokens: Vec<u32> = ints(&expected["input_ids"])
        .into_iter()
        .map(|it| it as u32)
        .collect();
    drafter.open(1, &tokens);
    tokens.push(ints(&expected["first"])[0] as u32);
    drafter
        .observe(1, &tokens, 0, &numbers(&expected["aux"]))
        .unwrap();
    let mut draft = Draft::default();
    let task = DraftTask {
        sequence: 1,
        tokens: &tokens,
        max_len: 100,
        min_reach: 0.0,
        draft: &mut draft,
    };
    drafter.draft(&mut [task]).unwrap();
    draft
}

#[test]
fn both_formats_give_the_same_tree() {
    let published = draft(WeightSource::File(fixture("draft")));
    let converted = draft(gguf());
    assert_eq!(published.len(), TreeShape::default().n_tokens - 1);
    let edges = |draft: &Draft| -> Vec<_> { draft.nodes().iter().map(|it| (it.token, it.parent)).collect() };
    assert_eq!(edges(&converted), edges(&published));
}
