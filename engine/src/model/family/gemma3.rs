//! Gemma 3: norms before and after each half of a layer, five layers with a window and their own rotary base to one
//! without, a scaled embedding.

use super::{Activation, Family, RopePairing, Source};

/// One layer in so many sees everything.
const PATTERN: usize = 6;

const LAYERS_OF_27B: usize = 62;

pub(super) const FAMILY: Family = Family {
    gguf: "gemma3",
    hugging_face: &["gemma3_text", "gemma3"],
    gguf_pairing: RopePairing::Halves,
    hugging_face_names: &[
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ],
    // Of the 12B the file says hidden and intermediate size, layers, heads and window only, of the 4B not even heads.
    text_defaults: &[
        ("vocab_size", 262_208),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("head_dim", 256),
        ("max_position_embeddings", 131_072),
        ("query_pre_attn_scalar", 256),
        ("sliding_window", 4096),
    ],
    norm_weight_offset: 1.0,
    activation: Activation::GeGlu,
    has_window: |layer_idx| (layer_idx + 1) % PATTERN != 0,
    complete: |stated| {
        stated.embedding_scale = Some((stated.hidden as f32).sqrt());
        stated.rope_theta.get_or_insert(1_000_000.0);
        stated.window_rope_theta.get_or_insert(10_000.0);
        // The largest one scales its scores by another width than the head's, which GGUF files do not say.
        if stated.source == Source::Gguf && stated.n_layers == LAYERS_OF_27B {
            stated.attention_scale = Some(1.0 / (stated.hidden as f32 / stated.n_heads as f32).sqrt());
        }
    },
    ..Family::LLAMA
};
