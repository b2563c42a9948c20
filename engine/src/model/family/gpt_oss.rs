//! GPT-OSS: experts in MXFP4, biases everywhere, attention sinks, every other layer with a window, YaRN.

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
