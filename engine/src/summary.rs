//! What a model's files say about it: enough to list models, and to know which of them fit. No weight is read.

use crate::{
    engine::{EngineOptions, FimSupport, ModelFiles},
    error::EngineError,
    memory::MemoryPlan,
    quant,
    weights::{WeightSource, Weights},
};

/// A model by the headers of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSummary {
    /// Its name; empty if the files do not give it.
    pub name: String,
    /// Architecture, as GGUF names it.
    pub architecture: String,
    /// Numbers in all tensors.
    pub n_parameters: usize,
    /// What the weights are in: the mixture that a GGUF file names, such as `Q4_K_M`, else the type of the tensors that most
    /// parameters are in, such as `FP8`.
    pub number_format: String,
    /// Positions that the model was trained for.
    pub context_length: usize,
    /// How it fills in the middle.
    pub fim: FimSupport,
    /// What it takes of memory under the options.
    pub plan: MemoryPlan,
}

impl ModelSummary {
    /// Reads the headers of the model of `source`, which is to run with `options`.
    ///
    /// # Errors
    /// Those of [`Engine::load`](crate::Engine::load) that can be known from headers; that the model does not fit is none.
    pub fn read(source: &WeightSource, options: &EngineOptions) -> Result<Self, EngineError> {
        let files = ModelFiles::open(source.clone())?;
        let weights = files.checkpoint.weights();
        for (_, tensor) in weights.iter() {
            quant::require_known(tensor)?;
        }
        let config = files.checkpoint.config();
        Ok(Self {
            architecture: config.architecture.clone(),
            n_parameters: weights.iter().map(|(_, tensor)| tensor.n_elements()).sum(),
            number_format: files
                .file_type
                .unwrap_or_else(|| most_common_type(weights))
                .to_owned(),
            context_length: config.context_length,
            fim: files.fim_support(),
            plan: files.memory_plan(options)?,
            name: files.name,
        })
    }
}

/// The type that most numbers are in.
fn most_common_type(weights: &Weights) -> &'static str {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for (_, tensor) in weights.iter() {
        let source_type = tensor.source_type();
        match counts.iter_mut().find(|(name, _)| *name == source_type) {
            Some((_, count)) => *count += tensor.n_elements(),
            None => counts.push((source_type, tensor.n_elements())),
        }
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map_or("", |(name, _)| name)
}
