//! Everything that can go wrong in the engine, grouped by theme.

use std::path::PathBuf;

/// Why the engine could not load a model or run a request.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The file could not be opened or mapped.
    #[error("cannot read {path}: {reason}")]
    Io {
        /// File that was asked for.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The file is truncated, oversized or malformed.
    #[error("{path}: {field}: {reason}")]
    BadFile {
        /// File that was read; `<embedded>` for the model inside the binary.
        path: PathBuf,
        /// Header field, metadata key or tensor name at fault.
        field: String,
        /// What was expected, what was found, what to try.
        reason: String,
    },
    /// A weight, or the scale of some, is infinite or not a number.
    #[error(
        "tensor `{tensor}`: expected numbers, found some that are infinite or none; the model's file is damaged, get it again"
    )]
    BadWeight {
        /// Name of the tensor in its file.
        tensor: String,
    },
    /// The file is well formed, but holds something this engine does not run.
    #[error("{what} `{found}` is not supported; known: {known}")]
    Unsupported {
        /// What kind of thing it is, such as `architecture` or `tensor type`.
        what: &'static str,
        /// The name found in the file.
        found: String,
        /// The names that would have been accepted.
        known: String,
    },
    /// The model does not fit in this machine's memory.
    #[error("{path} needs {misfit}")]
    TooLarge {
        /// File or folder of the model; `<embedded>` for the one inside the binary.
        path: PathBuf,
        /// How much it needs and how much there is, and what to try.
        misfit: String,
    },
    /// The system has no memory left for a matrix.
    #[error(
        "no memory for the {n_bytes} bytes of {what}: {reason}; close other programs or choose a smaller model"
    )]
    NoMemory {
        /// Name of the tensor.
        what: String,
        /// Bytes of its blocks.
        n_bytes: usize,
        /// What the operating system said.
        reason: String,
    },
    /// The request cannot be run as it stands.
    #[error("bad request: {0}")]
    BadRequest(String),
    /// The prompt and the tokens to generate do not fit.
    #[error(
        "prompt of {prompt_tokens} tokens does not fit in the context of {context_length}; shorten it or choose a model with a longer context"
    )]
    PromptTooLong {
        /// Tokens in the prompt.
        prompt_tokens: usize,
        /// Positions that the model or the KV cache offers.
        context_length: usize,
    },
    /// The KV cache has no free block, even after eviction.
    #[error(
        "KV cache is full: {needed_blocks} blocks needed, {free_blocks} free; run fewer requests at once or raise `engine.kv_cache_bytes`"
    )]
    CacheFull {
        /// Blocks the sequence asked for.
        needed_blocks: usize,
        /// Blocks that could be given.
        free_blocks: usize,
    },
    /// The model computed something that is not a number.
    #[error(
        "the model's scores at position {position} are not numbers; its weights may be damaged, get them again"
    )]
    BadLogits {
        /// Index in the sequence of the token that was to be picked.
        position: usize,
    },
    /// A grammar cannot be followed to the end of the answer.
    #[error("the answer cannot go on by its grammar: {0}; a simpler one may do")]
    Grammar(String),
    /// The engine thread has ended.
    #[error("the engine has stopped: {0}")]
    Stopped(String),
}
