//! One set of tensor names for all formats: those of GGUF, as most families use them.

use super::family::Family;

/// Parts of names in safetensors files, as Llama and most others have them, and GGUF's words for them.
const LAYER_PARTS: [(&str, &str); 22] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.sinks", "attn_sinks.weight"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
    // Both at once, and one apart from the other: the rest of the name follows.
    ("mlp.experts.gate_up_proj", "ffn_gate_up_exps"),
    ("mlp.experts.down_proj", "ffn_down_exps"),
    ("mlp.experts", "expert"),
];

/// Where the text model of a checkpoint that also sees pictures starts.
const TEXT_PREFIXES: [&str; 3] = ["model.language_model.", "language_model.model.", "model."];

/// What checkpoints hold besides the text model: the halves that see and hear, layers that draft, and numbers that follow
/// from the configuration.
const OTHER_PARTS: [&str; 9] = [
    "vision_tower",
    "audio_tower",
    "embed_vision",
    "embed_audio",
    "vision_model",
    "multi_modal_projector",
    "visual.",
    "mtp.",
    "rotary_emb.inv_freq",
];

/// What GGUF files hold besides the text model where they hold it all, as Ollama's do: the half that sees, and what joins the two.
const OTHER_GGUF_PARTS: [&str; 2] = ["v.", "mm."];

/// The name that this engine uses for a tensor of a GGUF file; `None` for one that is not part of the text model.
pub(super) fn canonical_gguf_name(family: &Family, name: &str) -> Option<String> {
    if OTHER_GGUF_PARTS.iter().any(|part| name.starts_with(part)) {
        return None;
    }
    for (found, meant) in family.gguf_names {
        if let Some((layer, part)) = split_layer(name, "blk.")
            && let Some(rest) = strip_part(part, found)
        {
            return Some(format!("blk.{layer}.{meant}{rest}"));
        }
    }
    Some(name.into())
}

/// The name that this engine uses for a tensor of a safetensors file; `None` for one that is not part of the text model.
/// A name that is not known stays as it is, for an error that says so.
pub(super) fn canonical_hugging_face_name(family: &Family, name: &str) -> Option<String> {
    if OTHER_PARTS.iter().any(|part| name.contains(part)) {
        return None;
    }
    let bare = TEXT_PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
    let Some(bare) = bare else {
        let head = name.strip_prefix("language_model.").unwrap_or(name);
        return Some(match head {
            "lm_head.weight" => "output.weight".into(),
            _ => name.into(),
        });
    };
    match bare {
        "embed_tokens.weight" => return Some("token_embd.weight".into()),
        "embed_tokens_per_layer.weight" => return Some("per_layer_token_embd.weight".into()),
        "per_layer_model_projection.weight" => return Some("per_layer_model_proj.weight".into()),
        "per_layer_projection_norm.weight" => return Some("per_layer_proj_norm.weight".into()),
        "norm.weight" => return Some("output_norm.weight".into()),
        "norm.bias" => return Some("output_norm.bias".into()),
        _ => {}
    }
    let canonical = split_layer(bare, "layers.").and_then(|(layer, part)| {
        let parts = family.hugging_face_names.iter().chain(&LAYER_PARTS);
        let (meant, rest) = parts
            .filter_map(|(found, meant)| Some((meant, strip_part(part, found)?)))
            .next()?;
        Some(format!("blk.{layer}.{}", expert_part(meant, rest)?))
    });
    Some(canonical.unwrap_or_else(|| name.into()))
}

/// `blk.7.attn_q.weight` as `7` and `attn_q.weight`.
pub(super) fn split_layer<'a>(name: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    name.strip_prefix(prefix)?.split_once('.')
}

/// What follows a part of a name, such as `.weight`, if that part ends there.
fn strip_part<'a>(name: &'a str, part: &str) -> Option<&'a str> {
    name.strip_prefix(part)
        .filter(|rest| rest.is_empty() || rest.starts_with(['.', '_']))
}

/// The canonical rest of a name: `.5.gate_proj.weight` of the experts becomes `ffn_gate_exps.5.weight`.
fn expert_part(meant: &str, rest: &str) -> Option<String> {
    match (meant, rest) {
        ("expert", _) => {}
        // A parameter that holds all experts is no layer of its own with a weight.
        ("ffn_gate_up_exps" | "ffn_down_exps", "") => return Some(format!("{meant}.weight")),
        _ => return Some(format!("{meant}{rest}")),
    }
    let (expert, part) = rest.strip_prefix('.')?.split_once('.')?;
    let (projection, kind) = part.split_once('.')?;
    let matrix = match projection {
        "gate_proj" => "ffn_gate_exps",
        "up_proj" => "ffn_up_exps",
        "down_proj" => "ffn_down_exps",
        _ => return None,
    };
    Some(format!("{matrix}.{expert}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_checkpoints_become_those_of_gguf() {
        let name = |model_type: &str, name: &str| {
            canonical_hugging_face_name(Family::of_hugging_face(model_type).unwrap(), name)
        };
        for (model_type, found, expected) in [
            ("llama", "model.embed_tokens.weight", "token_embd.weight"),
            ("llama", "lm_head.weight", "output.weight"),
            (
                "qwen2",
                "model.layers.3.self_attn.q_proj.bias",
                "blk.3.attn_q.bias",
            ),
            (
                "llama",
                "model.layers.3.post_attention_layernorm.weight",
                "blk.3.ffn_norm.weight",
            ),
            (
                "gemma3",
                "language_model.model.layers.3.post_attention_layernorm.weight",
                "blk.3.post_attention_norm.weight",
            ),
            (
                "gemma3",
                "model.language_model.layers.30.pre_feedforward_layernorm.weight",
                "blk.30.ffn_norm.weight",
            ),
            (
                "qwen3_moe",
                "model.layers.0.mlp.gate.weight",
                "blk.0.ffn_gate_inp.weight",
            ),
            (
                "qwen3_moe",
                "model.layers.0.mlp.experts.17.up_proj.weight",
                "blk.0.ffn_up_exps.17.weight",
            ),
            (
                "gpt_oss",
                "model.layers.0.mlp.experts.gate_up_proj_blocks",
                "blk.0.ffn_gate_up_exps_blocks",
            ),
            (
                "gpt_oss",
                "model.layers.0.mlp.router.bias",
                "blk.0.ffn_gate_inp.bias",
            ),
            (
                "gpt_oss",
                "model.layers.0.self_attn.sinks",
                "blk.0.attn_sinks.weight",
            ),
            (
                "deepseek_v2",
                "model.layers.1.mlp.shared_experts.up_proj.weight",
                "blk.1.ffn_up_shexp.weight",
            ),
            (
                "deepseek_v3",
                "model.layers.1.mlp.gate.e_score_correction_bias",
                "blk.1.exp_probs_b.bias",
            ),
            (
                "gemma4",
                "model.language_model.layers.1.pre_feedforward_layernorm_2.weight",
                "blk.1.pre_ffw_norm_2.weight",
            ),
            (
                "gemma4",
                "model.language_model.layers.1.experts.down_proj",
                "blk.1.ffn_down_exps.weight",
            ),
            (
                "gemma4",
                "model.language_model.embed_tokens_per_layer.weight",
                "per_layer_token_embd.weight",
            ),
            ("starcoder2", "model.layers.0.mlp.c_fc.bias", "blk.0.ffn_up.bias"),
            (
                "qwen3_5_text",
                "model.language_model.layers.0.linear_attn.dt_bias",
                "blk.0.ssm_dt.bias",
            ),
            (
                "qwen3_5_moe_text",
                "model.layers.0.mlp.experts.gate_up_proj",
                "blk.0.ffn_gate_up_exps.weight",
            ),
            (
                "qwen3_5_moe_text",
                "model.layers.0.mlp.shared_expert.up_proj.weight",
                "blk.0.ffn_up_shexp.weight",
            ),
            (
                "qwen3_5_text",
                "model.layers.0.linear_attn.norm.weight",
                "blk.0.ssm_norm.weight",
            ),
            (
                "llama",
                "model.layers.0.mlp.c_fc.bias",
                "model.layers.0.mlp.c_fc.bias",
            ),
        ] {
            assert_eq!(name(model_type, found).as_deref(), Some(expected), "{model_type}");
        }
        assert_eq!(name("gemma3", "vision_tower.vision_model.head.weight"), None);
        assert_eq!(name("qwen3_5", "mtp.layers.0.mlp.up_proj.weight"), None);
        assert_eq!(name("qwen3_5", "model.visual.blocks.0.norm1.weight"), None);
        let gpt_oss = Family::of_gguf("gpt-oss").unwrap();
        let name = |name| canonical_gguf_name(gpt_oss, name);
        assert_eq!(
            name("blk.2.post_attention_norm.weight").as_deref(),
            Some("blk.2.ffn_norm.weight")
        );
        assert_eq!(name("output.weight").as_deref(), Some("output.weight"));
        for other in ["v.blk.2.attn_q.weight", "mm.mm_input_projection.weight"] {
            assert_eq!(name(other), None);
        }
    }
}
