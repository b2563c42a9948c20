//! Gemma 4: Gemma 3 with norms of values, wider heads in layers without a window, a bound for logits, and three additions that
//! only some sizes have: experts beside the dense layer, last layers that share keys and values, and a second embedding of each
//! token for every layer.

use super::{Activation, Family, RopePairing, Source, gemma3};

/// Width of a head in layers without a window, where a configuration does not say.
const GLOBAL_HEAD_DIM: usize = 512;

pub(super) const FAMILY: Family = Family {
    gguf: "gemma4",
    hugging_face: &["gemma4_text", "gemma4"],
    gguf_pairing: RopePairing::Halves,
    hugging_face_names: &[
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm_2", "pre_ffw_norm_2"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("layer_scalar", "layer_output_scale.weight"),
        ("router.proj", "ffn_gate_inp"),
        ("router.scale", "ffn_gate_inp.scale"),
        ("router.per_expert_scale", "ffn_down_exps.scale"),
        ("experts.gate_up_proj", "ffn_gate_up_exps"),
        ("experts.down_proj", "ffn_down_exps"),
        ("per_layer_input_gate", "inp_gate"),
        ("per_layer_projection", "proj"),
        ("post_per_layer_input_norm", "post_norm"),
    ],
    text_defaults: &text_defaults(131_072, 512),
    norms_values: true,
    experts_are_beside_dense: true,
    activation: Activation::GeGlu,
    has_window: gemma3::FAMILY.has_window,
    complete: |stated| {
        stated.embedding_scale = Some((stated.hidden as f32).sqrt());
        stated.attention_scale = Some(1.0);
        stated.rope_theta.get_or_insert(1_000_000.0);
        stated.window_rope_theta.get_or_insert(10_000.0);
        if stated.source == Source::HuggingFace {
            if stated.window_head_dim.is_none() {
                stated.window_head_dim = stated.head_dim.replace(GLOBAL_HEAD_DIM);
            }
            // The last layer sees everything, whatever the list says.
            if let Some(last) = stated.has_window.as_mut().and_then(|list| list.last_mut()) {
                *last = false;
            }
        }
    },
    ..Family::LLAMA
};

/// The size that hears and sees without halves of its own for that. It writes as the others do.
pub(super) const UNIFIED: Family = Family {
    gguf: "",
    hugging_face: &["gemma4_unified_text", "gemma4_unified"],
    text_defaults: &text_defaults(262_144, 1024),
    ..FAMILY
};

const fn text_defaults(context_length: usize, window: usize) -> [(&'static str, usize); 9] {
    [
        ("vocab_size", 262_144),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 30),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("head_dim", 256),
        ("max_position_embeddings", context_length),
        ("sliding_window", window),
    ]
}
