//! Why there is no suggestion. That is a value like any other: users can read it, tests can compare it.

use serde::Serialize;

/// The reason why nothing is suggested.
#[derive(Debug, Clone, PartialEq, Serialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Withheld {
    /// `completion.enabled` is false.
    #[error("suggestions are off (`completion.enabled`)")]
    Disabled,
    /// `completion.automatic` is false and nobody asked.
    #[error("suggestions come only when asked for (`completion.automatic`)")]
    OnlyWhenInvoked,
    /// The language is in `completion.disabled_languages`.
    #[error("suggestions are off for {language} (`completion.disabled_languages`)")]
    LanguageDisabled {
        /// Name of the language.
        language: &'static str,
    },
    /// A word goes on right of the cursor.
    #[error("the cursor is inside a word")]
    InsideWord,
    /// There is more than punctuation between the cursor and the end of the line.
    #[error("the line goes on after the cursor")]
    TextAfterCursor,
    /// The model has nothing to add.
    #[error("the model suggests nothing here")]
    Empty,
    /// What the model wrote stands right of the cursor already.
    #[error("the suggestion is what follows the cursor already")]
    RepeatsSuffix,
    /// What the model wrote stands above the cursor already.
    #[error("the suggestion repeats the lines above")]
    RepeatsPrefix,
    /// The model is not sure enough.
    #[error("confidence {confidence:.2} is below {least:.2} (`completion.min_confidence`)")]
    LowConfidence {
        /// Probability that all of the suggestion is right.
        confidence: f64,
        /// The threshold.
        least: f64,
    },
    /// The file would parse worse with the suggestion in it.
    #[error("the suggestion would break the syntax")]
    BreaksSyntax,
    /// The engine could not run the request.
    #[error("{message}")]
    EngineFailed {
        /// What the engine said.
        message: String,
    },
}
