//! A model as it lies on disk: its configuration and its tensors, whatever the format.

use std::path::Path;

use serde_json::Value;

use super::{
    ModelConfig,
    config::Stated,
    family::Family,
    head_groups::ungroup_heads,
    latent::split_joined,
    mxfp4::{part_gate_and_up, unpack_experts, unpair_numbers},
    names::{canonical_gguf_name, canonical_hugging_face_name, split_layer},
    quantization::fp8_block,
};
use crate::{
    error::EngineError,
    weights::{Gguf, WeightSource, Weights, safetensors},
};

/// A configuration and the tensors that belong to it.
pub struct Checkpoint {
    config: ModelConfig,
    weights: Weights,
}

impl Checkpoint {
    /// Takes the model of a GGUF file.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for an architecture or a RoPE scaling without a forward pass,
    /// [`EngineError::BadFile`] for a key that is missing or contradicts another.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, EngineError> {
        let family = Family::of_gguf(gguf.metadata().require_str("general.architecture")?)?;
        let stated = Stated::from_gguf(gguf, family)?;
        let n_prediction_layers = stated.n_prediction_layers;
        let config = stated
            .into_config(family)
            .map_err(|fault| fault.of(gguf.path()))?;
        let mut weights = gguf.weights();
        // The configuration has them already.
        for name in [
            "rope_freqs.weight",
            "rope_factors_long.weight",
            "rope_factors_short.weight",
        ] {
            weights.take(name);
        }
        drop_layers(&mut weights, "blk.", (config.n_layers, n_prediction_layers))?;
        weights.rename(|name| canonical_gguf_name(family, name))?;
        unpair_numbers(&mut weights)?;
        if family.gguf_gate_and_up_alternate {
            part_gate_and_up(&mut weights, config.n_layers)?;
        }
        split_joined(&mut weights, &config)?;
        ungroup_heads(&mut weights, &config)?;
        Ok(Self { config, weights })
    }

    /// Opens a folder as Hugging Face lays it out: `config.json` and safetensors files.
    ///
    /// # Errors
    /// As [`from_gguf`](Self::from_gguf), and those of the safetensors files.
    pub fn from_folder(folder: &Path) -> Result<Self, EngineError> {
        let path = folder.join("config.json");
        let bytes = WeightSource::File(path.clone()).open()?;
        let config: Value = serde_json::from_slice(&bytes).map_err(|err| EngineError::BadFile {
            path: path.clone(),
            field: "JSON".into(),
            reason: err.to_string(),
        })?;
        let fp8_block = fp8_block(folder, &config)?;
        // Models that see pictures too keep what describes their text apart.
        let mut text_config = config.get("text_config").unwrap_or(&config).clone();
        let model_type = text_config.get("model_type").or(config.get("model_type"));
        let Some(model_type) = model_type.and_then(Value::as_str) else {
            return Err(EngineError::BadFile {
                path,
                field: "model_type".into(),
                reason: "the key is missing".into(),
            });
        };
        let family = Family::of_hugging_face(model_type)?;
        if let (true, Some(keys)) = (config.get("text_config").is_some(), text_config.as_object_mut()) {
            for (key, value) in family.text_defaults {
                keys.entry(*key).or_insert((*value).into());
            }
        }
        let stated = Stated::from_hugging_face(&text_config).map_err(|fault| fault.of(&path))?;
        let n_prediction_layers = stated.n_prediction_layers;
        let config = stated.into_config(family).map_err(|fault| fault.of(&path))?;
        let mut weights = safetensors::open_folder(folder, fp8_block)?;
        drop_layers(
            &mut weights,
            "model.layers.",
            (config.n_layers, n_prediction_layers),
        )?;
        weights.rename(|name| canonical_hugging_face_name(family, name))?;
        unpack_experts(&mut weights, config.n_layers)?;
        split_joined(&mut weights, &config)?;
        ungroup_heads(&mut weights, &config)?;
        Ok(Self { config, weights })
    }

    /// Takes the rotary embeddings for sequences of at most `n_positions`: some models are stretched only beyond the context of
    /// their first training.
    pub fn run_within(&mut self, n_positions: usize) {
        self.config.run_within(n_positions);
    }

    /// Shape and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Tensors, under the names that GGUF has for them.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }
}

/// Drops the tensors of `n_layers` layers from `first` on, whose names start with `prefix` and the layer.
fn drop_layers(
    weights: &mut Weights,
    prefix: &str,
    (first, n_layers): (usize, usize),
) -> Result<(), EngineError> {
    if n_layers == 0 {
        return Ok(());
    }
    let is_dropped = |name: &str| {
        let layer_idx = split_layer(name, prefix).and_then(|(layer, _)| layer.parse().ok());
        layer_idx.is_some_and(|it: usize| it >= first && it - first < n_layers)
    };
    weights.rename(|name| (!is_dropped(name)).then(|| name.into()))
}
