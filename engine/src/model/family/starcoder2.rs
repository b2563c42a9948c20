//! StarCoder2: layer norms, biases everywhere, a feed-forward layer without a gate.

use super::{Activation, Family, RopePairing, Source};

/// The window of all released models; their GGUF files do not give it.
const WINDOW: usize = 4096;

pub(super) const FAMILY: Family = Family {
    gguf: "starcoder2",
    hugging_face: &["starcoder2"],
    gguf_pairing: RopePairing::Halves,
    hugging_face_names: &[("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down")],
    norm_subtracts_mean: true,
    activation: Activation::Gelu,
    complete: |stated| {
        if stated.source == Source::Gguf {
            stated.window.get_or_insert(WINDOW);
        }
    },
    ..Family::LLAMA
};
