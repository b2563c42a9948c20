//! Phi-3, 3.5 and 4: one matrix for queries, keys and values, one for gate and up, parts of heads rotated.

use super::{Family, RopePairing};

pub(super) const FAMILY: Family = Family {
    gguf: "phi3",
    hugging_face: &["phi3"],
    gguf_pairing: RopePairing::Halves,
    ..Family::LLAMA
};
