//! Qwen 3 Next and 3.5: three gated delta nets to one layer with gated attention, of whose heads a quarter is rotated.
//! Their mixtures of experts have one that all rows run, through a gate.

use super::{Family, RopePairing};

pub(super) const DENSE: Family = Family {
    gguf: "qwen35",
    hugging_face: &["qwen3_5_text", "qwen3_5"],
    gguf_pairing: RopePairing::Halves,
    gguf_names: &[("post_attention_norm", "ffn_norm")],
    hugging_face_names: &[
        ("linear_attn.in_proj_qkvz", "ssm_in"),
        ("linear_attn.in_proj_ba", "ssm_ba"),
        ("linear_attn.in_proj_qkv", "attn_qkv"),
        ("linear_attn.in_proj_z", "attn_gate"),
        ("linear_attn.in_proj_a", "ssm_alpha"),
        ("linear_attn.in_proj_b", "ssm_beta"),
        ("linear_attn.conv1d", "ssm_conv1d"),
        ("linear_attn.dt_bias", "ssm_dt.bias"),
        ("linear_attn.A_log", "ssm_a_log"),
        ("linear_attn.norm", "ssm_norm"),
        ("linear_attn.out_proj", "ssm_out"),
    ],
    norm_weight_offset: 1.0,
    gates_attention: true,
    complete: |stated| {
        let head_dim = *stated.head_dim.get_or_insert(256);
        stated.rope_dims.get_or_insert(head_dim / 4);
    },
    ..Family::LLAMA
};

pub(super) const MOE: Family = Family {
    gguf: "qwen35moe",
    hugging_face: &["qwen3_5_moe_text", "qwen3_5_moe"],
    ..DENSE
};

pub(super) const NEXT: Family = Family {
    gguf: "qwen3next",
    hugging_face: &["qwen3_next"],
    gguf_keeps_value_heads: true,
    ..DENSE
};
