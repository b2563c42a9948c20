//! DeepSeek V2, V3, and models built like them, such as GLM 4.7 Flash: latent attention, experts that some or all rows run, YaRN that scales scores.
//! GGUF files call all of them `deepseek2`.

use super::{Family, RopePairing};
use crate::model::{Gate, config::Stated, rope::RopeScaling};

pub(super) const V2: Family = Family {
    gguf: "deepseek2",
    hugging_face: &["deepseek_v2"],
    hugging_face_pairing: RopePairing::Adjacent,
    hugging_face_names: &[
        ("self_attn.q_a_proj", "attn_q_a"),
        ("self_attn.q_a_layernorm", "attn_q_a_norm"),
        ("self_attn.q_b_proj", "attn_q_b"),
        ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
        ("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
        ("self_attn.kv_b_proj", "attn_kv_b"),
        ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
        ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
        ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
        ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
    ],
    complete: |stated| {
        scale_scores(stated);
        stated.experts_are_normalized.get_or_insert(false);
    },
    ..Family::LLAMA
};

pub(super) const V3: Family = Family {
    gguf: "",
    hugging_face: &["deepseek_v3"],
    complete: |stated| {
        scale_scores(stated);
        stated.expert_gate.get_or_insert(Gate::Sigmoid);
        stated.experts_are_normalized.get_or_insert(true);
    },
    ..V2
};

pub(super) const GLM_LITE: Family = Family {
    hugging_face: &["glm4_moe_lite"],
    complete: |stated| {
        (V3.complete)(stated);
        stated.n_dense_layers.get_or_insert(1);
    },
    ..V3
};

/// The scale of scores goes by the width of a whole key, and by the stretch of the context.
fn scale_scores(stated: &mut Stated) {
    let Some(latent) = stated.latent else {
        return;
    };
    let head_dim = (latent.plain_dim + latent.rotated_dim) as f32;
    let stretch = match (&stated.rope_scaling, stated.yarn_score_scale) {
        (&RopeScaling::Yarn { factor, .. }, Some(scale)) if factor > 1.0 => 1.0 + 0.1 * scale * factor.ln(),
        _ => 1.0,
    };
    stated
        .attention_scale
        .get_or_insert(stretch * stretch / head_dim.sqrt());
}
