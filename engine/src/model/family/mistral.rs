//! Mistral, Codestral, Devstral: Llama with a window in its first version. GGUF files call it `llama`; since Mistral Small 3.1
//! they call it `mistral3`, with YaRN and queries that grow since Ministral 3.

use super::Family;

pub(super) const FAMILY: Family = Family {
    gguf: "",
    hugging_face: &["mistral"],
    ..Family::LLAMA
};

pub(super) const MINISTRAL: Family = Family {
    gguf: "mistral3",
    hugging_face: &["ministral3"],
    ..Family::LLAMA
};
