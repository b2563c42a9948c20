//! The families that the shared forward pass runs: each file says how one of them differs from Llama.

mod deepseek;
mod gemma;
mod gemma3;
mod gemma4;
mod gpt_oss;
mod granite;
mod llama;
mod mistral;
mod phi3;
mod qwen;
mod qwen35;
mod starcoder;
mod starcoder2;

use super::{Activation, RopePairing, config::Stated};
use crate::error::EngineError;

/// Every family, under each name that files give it.
const ARCHITECTURES: [&Family; 23] = [
    &llama::FAMILY,
    &mistral::FAMILY,
    &mistral::MINISTRAL,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &qwen::QWEN3_MOE,
    &qwen35::NEXT,
    &qwen35::DENSE,
    &qwen35::MOE,
    &deepseek::V2,
    &deepseek::V3,
    &deepseek::GLM_LITE,
    &gemma::ONE,
    &gemma::TWO,
    &gemma3::FAMILY,
    &gemma4::FAMILY,
    &gemma4::UNIFIED,
    &gpt_oss::FAMILY,
    &gpt_oss::OLLAMA,
    &granite::FAMILY,
    &phi3::FAMILY,
    &starcoder::FAMILY,
    &starcoder2::FAMILY,
];

/// Which kind of file a model comes from: they name and store some things differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Gguf,
    HuggingFace,
}

/// What sets a family apart.
pub(super) struct Family {
    /// `general.architecture` of a GGUF file.
    pub(super) gguf: &'static str,
    /// `model_type` of a `config.json`.
    pub(super) hugging_face: &'static [&'static str],
    /// Pairs of the rotary embedding in GGUF files.
    pub(super) gguf_pairing: RopePairing,
    /// Pairs of the rotary embedding in safetensors files.
    pub(super) hugging_face_pairing: RopePairing,
    /// Parts of tensor names in GGUF files that mean something else in other families: (found, meant).
    pub(super) gguf_names: &'static [(&'static str, &'static str)],
    /// Parts of tensor names in safetensors files, where they are not Llama's: (found, meant).
    pub(super) hugging_face_names: &'static [(&'static str, &'static str)],
    /// Kind of RoPE scaling in GGUF files that give its factor alone.
    pub(super) gguf_scaling: Option<&'static str>,
    /// Whether rows of gate and up alternate where a GGUF file holds both in one tensor, rather than one after the other.
    pub(super) gguf_gate_and_up_alternate: bool,
    /// What the `text_config` of checkpoints that also see pictures leaves out where it is as transformers' class for it has it.
    pub(super) text_defaults: &'static [(&'static str, usize)],
    pub(super) norm_subtracts_mean: bool,
    /// Whether each position has an embedding of its own, which is added to that of the token.
    pub(super) learns_positions: bool,
    /// What safetensors files leave out of the norms' weights.
    pub(super) norm_weight_offset: f32,
    /// Whether values are normed as keys are, and can be made by the keys' matrix.
    pub(super) norms_values: bool,
    /// Whether experts run beside a dense feed-forward layer.
    pub(super) experts_are_beside_dense: bool,
    pub(super) activation: Activation,
    /// Whether the matrix of queries also gives gates for what is attended to.
    pub(super) gates_attention: bool,
    /// Whether value heads that share a key head are neighbours in GGUF files too. Most are sorted, so that llama.cpp can
    /// repeat all key heads one after the other.
    pub(super) gguf_keeps_value_heads: bool,
    /// Layers with a window, where the file gives a window but not its layers.
    pub(super) has_window: fn(usize) -> bool,
    /// Adds the constants that files leave out.
    pub(super) complete: fn(&mut Stated),
}

impl Family {
    const LLAMA: Self = Self {
        gguf: "llama",
        hugging_face: &["llama"],
        gguf_pairing: RopePairing::Adjacent,
        hugging_face_pairing: RopePairing::Halves,
        gguf_names: &[],
        hugging_face_names: &[],
        gguf_scaling: None,
        gguf_gate_and_up_alternate: false,
        text_defaults: &[],
        norm_subtracts_mean: false,
        learns_positions: false,
        norm_weight_offset: 0.0,
        norms_values: false,
        experts_are_beside_dense: false,
        activation: Activation::SwiGlu,
        gates_attention: false,
        gguf_keeps_value_heads: false,
        has_window: |_| true,
        complete: |_| {},
    };

    /// The family of a GGUF file.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] with the names that are known.
    pub(super) fn of_gguf(architecture: &str) -> Result<&'static Self, EngineError> {
        let known = ARCHITECTURES.into_iter().filter(|it| !it.gguf.is_empty());
        find(architecture, known, |it| std::slice::from_ref(&it.gguf))
    }

    /// The family of a `config.json`.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] with the names that are known.
    pub(super) fn of_hugging_face(model_type: &str) -> Result<&'static Self, EngineError> {
        find(model_type, ARCHITECTURES.into_iter(), |it| it.hugging_face)
    }
}

fn find(
    name: &str,
    families: impl Iterator<Item = &'static Family>,
    names: fn(&'static Family) -> &'static [&'static str],
) -> Result<&'static Family, EngineError> {
    let mut known = Vec::new();
    for family in families {
        if names(family).contains(&name) {
            return Ok(family);
        }
        known.extend_from_slice(names(family));
    }
    Err(EngineError::Unsupported {
        what: "architecture",
        found: name.into(),
        known: known.join(", "),
    })
}
