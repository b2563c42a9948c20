//! Gemma 1 (CodeGemma) and 2: a scaled embedding, GeGLU; since 2 norms before and after each half of a layer, bounded scores
//! and logits, a window in every other layer.

use super::{Activation, Family, RopePairing, Source, gemma3};

const LAYERS_OF_27B: usize = 46;

/// The window of all released models of Gemma 2; old GGUF files do not give it.
const WINDOW: usize = 4096;

pub(super) const ONE: Family = Family {
    gguf: "gemma",
    hugging_face: &["gemma"],
    gguf_pairing: RopePairing::Halves,
    norm_weight_offset: 1.0,
    activation: Activation::GeGlu,
    complete: |stated| stated.embedding_scale = Some((stated.hidden as f32).sqrt()),
    ..Family::LLAMA
};

pub(super) const TWO: Family = Family {
    gguf: "gemma2",
    hugging_face: &["gemma2"],
    hugging_face_names: gemma3::FAMILY.hugging_face_names,
    has_window: |layer_idx| layer_idx % 2 == 0,
    complete: |stated| {
        (ONE.complete)(stated);
        stated.window.get_or_insert(WINDOW);
        stated.score_cap.get_or_insert(50.0);
        stated.logit_cap.get_or_insert(30.0);
        // As in Gemma 3.
        if stated.source == Source::Gguf && stated.n_layers == LAYERS_OF_27B {
            stated.attention_scale = Some(1.0 / (stated.hidden as f32 / stated.n_heads as f32).sqrt());
        }
    },
    ..ONE
};
