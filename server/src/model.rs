//! Which model the settings name, and how it is loaded.

use std::path::PathBuf;

use surmise_engine::{
    Engine, EngineError, EngineOptions, FimSupport, LoadProgress, WeightSource, kv_cache::CacheType,
    speculative::eagle3::TreeShape, weights::GgmlType,
};

use crate::config::{Config, EngineConfig, KvCacheType, Quantize};

/// Loads the model that `config` names. Blocks until it can be used.
pub fn load(config: &Config) -> Result<Engine, EngineError> {
    load_with_progress(config, &|_| {})
}

/// As [`load`]; `progress` is told before weights are read, and often while they are.
pub fn load_with_progress(config: &Config, progress: &dyn Fn(LoadProgress)) -> Result<Engine, EngineError> {
    Engine::load_with_progress(source(config)?, options(&config.engine), progress)
}

/// What there is to say about a model that was not trained to fill in the middle.
pub fn fim_note(engine: &Engine) -> Option<&'static str> {
    match engine.info().fim {
        FimSupport::Trained => None,
        FimSupport::Conversation => Some("a chat model that is asked in words; a code model suggests better"),
        FimSupport::None => Some("which gives no suggestions; choose a code model"),
    }
}

/// The model that `config` names.
///
/// # Errors
/// [`EngineError::Unsupported`] for the embedded model in a program that was built without one.
pub fn source(config: &Config) -> Result<WeightSource, EngineError> {
    Ok(match config.model.as_str() {
        "embedded" => surmise_engine::embedded_model().ok_or_else(|| EngineError::Unsupported {
            what: "model",
            found: config.model.clone(),
            known: "the path of a .gguf file, for this program was built without a model inside".to_owned(),
        })?,
        path => WeightSource::File(in_home(path)),
    })
}

/// How `config` wants an engine to run.
pub fn options(config: &EngineConfig) -> EngineOptions {
    let EngineConfig {
        threads,
        context_length,
        kv_cache_bytes,
        kv_cache_type,
        ref draft_model,
        eagle_steps,
        eagle_top_k,
        eagle_draft_tokens,
        quantize,
        ..
    } = *config;
    let default = EngineOptions::default();
    let given = |n: usize| (n > 0).then_some(n);
    EngineOptions {
        threads: given(threads),
        context_length: given(context_length),
        kv_cache_bytes: given(kv_cache_bytes),
        kv_cache_type: match kv_cache_type {
            KvCacheType::F16 => CacheType::F16,
            KvCacheType::Q8_0 => CacheType::Q8_0,
        },
        quantize: match quantize {
            Quantize::None => None,
            Quantize::Q8_0 => Some(GgmlType::Q8_0),
            Quantize::Q6K => Some(GgmlType::Q6K),
            Quantize::Q5K => Some(GgmlType::Q5K),
            Quantize::Q4K => Some(GgmlType::Q4K),
            Quantize::Q4_0 => Some(GgmlType::Q4_0),
        },
        draft_model: (!draft_model.is_empty()).then(|| WeightSource::File(in_home(draft_model))),
        tree: TreeShape {
            n_levels: eagle_steps,
            top_k: eagle_top_k,
            n_tokens: eagle_draft_tokens,
        },
        ..default
    }
}

/// `~/x` as shells read it; settings files have no shell.
fn in_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), home()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

/// The user's own folder.
pub(crate) fn home() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").or_else(|| std::env::var_os("USERPROFILE"));
    home.map(PathBuf::from).filter(|home| home.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_shape_the_trees_of_drafts() {
        let config = EngineConfig::default();
        assert_eq!(options(&config).tree, TreeShape::default());
        let config = EngineConfig {
            eagle_steps: 3,
            eagle_top_k: 2,
            eagle_draft_tokens: 6,
            ..config
        };
        let tree = TreeShape {
            n_levels: 3,
            top_k: 2,
            n_tokens: 6,
        };
        assert_eq!(options(&config).tree, tree);
    }
}
