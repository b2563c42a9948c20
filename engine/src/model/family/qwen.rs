//! Qwen 2 and 2.5 (biases of queries, keys and values), Qwen 3 (norms of queries and keys) and its mixture of experts.

use super::{Family, RopePairing};

pub(super) const QWEN2: Family = Family {
    gguf: "qwen2",
    hugging_face: &["qwen2"],
    gguf_pairing: RopePairing::Halves,
    ..Family::LLAMA
};

pub(super) const QWEN3: Family = Family {
    gguf: "qwen3",
    hugging_face: &["qwen3"],
    ..QWEN2
};

pub(super) const QWEN3_MOE: Family = Family {
    gguf: "qwen3moe",
    hugging_face: &["qwen3_moe"],
    ..QWEN2
};
