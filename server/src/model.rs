//! Which model the settings name, and how it is loaded.

use std::path::PathBuf;

use surmise_engine::{Engine, EngineError, EngineOptions, FimSupport, WeightSource, kv_cache::CacheType};

use crate::config::{Config, EngineConfig, KvCacheType};

/// Loads the model that `config` names. Blocks until it can be used.
pub fn load(config: &Config) -> Result<Engine, EngineError> {
    Engine::load(source(config)?, options(&config.engine))
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
        draft_model: (!draft_model.is_empty()).then(|| WeightSource::File(in_home(draft_model))),
        ..default
    }
}

/// `~/x` as shells read it; settings files have no shell.
fn in_home(path: &str) -> PathBuf {
    let home = || std::env::var_os("HOME").or_else(|| std::env::var_os("USERPROFILE"));
    match (path.strip_prefix("~/"), home()) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}
