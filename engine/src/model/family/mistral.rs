//! Mistral, Codestral, Devstral: Llama with a window in its first version. GGUF files call it `llama`.

use super::Family;

pub(super) const FAMILY: Family = Family {
    gguf: "",
    hugging_face: &["mistral"],
    ..Family::LLAMA
};
