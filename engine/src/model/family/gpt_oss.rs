//! GPT-OSS: experts in MXFP4, biases everywhere, attention sinks, every other layer with a window, YaRN.
//!
//! Ollama converted it before llama.cpp had names for it, and people have those files still: same numbers, other spelling.
//! Source: Ollama's `convert/convert_gptoss.go` from August 2025 to May 2026, and `llama/compat` since then.

use super::{Activation, Family, RopePairing, Source};
use crate::model::rope::RopeScaling;

pub(super) const FAMILY: Family = Family {
    gguf: "gpt-oss",
    hugging_face: &["gpt_oss"],
    gguf_pairing: RopePairing::Halves,
    gguf_names: &[("post_attention_norm", "ffn_norm")],
    hugging_face_names: &[("mlp.router", "ffn_gate_inp")],
    activation: Activation::ClampedSwiGlu { limit: 7.0 },
    has_window: |layer_idx| layer_idx % 2 == 0,
    complete: |stated| {
        // Released models do not round; only `config.json` can say so.
        if let (Source::Gguf, RopeScaling::Yarn { truncate, .. }) = (stated.source, &mut stated.rope_scaling)
        {
            *truncate = false;
        }
    },
    ..Family::LLAMA
};

/// As Ollama wrote it. The first of these files hold queries, keys and values in one tensor, and gate and up in another.
pub(super) const OLLAMA: Family = Family {
    gguf: "gptoss",
    hugging_face: &[],
    gguf_names: &[
        ("attn_out", "attn_output"),
        // Ollama reads llama.cpp's names too.
        ("attn_sinks.weight", "attn_sinks.weight"),
        ("attn_sinks", "attn_sinks.weight"),
        ("post_attention_norm", "ffn_norm"),
    ],
    gguf_scaling: Some("yarn"),
    gguf_gate_and_up_alternate: true,
    ..FAMILY
};
