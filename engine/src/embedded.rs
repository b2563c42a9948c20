//! The model inside the program, which this project trained: see `engine/weights/MODEL_CARD.md`.

use crate::weights::WeightSource;

/// The model inside the program, or none if it was built without the feature `embedded-model`.
pub fn embedded_model() -> Option<WeightSource> {
    #[cfg(feature = "embedded-model")]
    return Some(WeightSource::Embedded(include_bytes!("../weights/surmise.gguf")));
    #[cfg(not(feature = "embedded-model"))]
    None
}
