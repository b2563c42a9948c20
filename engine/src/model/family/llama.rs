//! Llama 2 and 3, the DeepSeek-R1 distills of them, Code Llama, and all that took their shape.

use super::Family;

pub(super) const FAMILY: Family = Family::LLAMA;
