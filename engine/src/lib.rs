//! Tokens and logits to text: a local speculative-decoding engine.
//!
//! [`Engine`] is the only public door to generation: load a model, hand in a [`Request`], read a stream
//! of [`Event`]s. It knows no editor and no files but weights.

pub mod error;
pub mod kv_cache;
pub mod model;
pub mod request;
pub mod weights;

pub use error::EngineError;
