//! Tokens and logits to text: a local speculative-decoding engine.
//!
//! [`Engine`] is the only public door to generation: load a model, hand in a [`Request`](request::Request), read a stream
//! of [`Event`](request::Event)s. It knows no editor and no files but weights.

pub mod answer;
pub mod chat_template;
pub mod copy;
mod embedded;
pub mod engine;
mod engine_loop;
pub mod error;
pub mod fim;
pub mod grammar;
pub mod healing;
pub mod kernels;
pub mod kv_cache;
pub mod logits;
pub mod memory;
pub mod model;
pub mod product_timer;
pub mod quant;
mod read_speed;
pub mod request;
pub mod rewrite;
pub mod sampler;
pub mod scheduler;
mod sequence;
pub mod speculative;
pub mod step_timer;
pub mod stop;
mod suffix_index;
pub mod summary;
pub mod tokenizer;
pub mod weights;

pub use embedded::embedded_model;
pub use engine::{
    Answer, Engine, EngineInfo, EngineOptions, EngineStatus, FimSupport, Generation, LoadProgress,
    RewriteSupport,
};
pub use error::EngineError;
pub use summary::ModelSummary;
pub use weights::WeightSource;
