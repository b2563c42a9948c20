//! Granite: Llama with scales, all of them in the file.

use super::Family;

pub(super) const FAMILY: Family = Family {
    gguf: "granite",
    hugging_face: &["granite"],
    ..Family::LLAMA
};
