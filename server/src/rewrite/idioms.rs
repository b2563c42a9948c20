//! What is written again and again where errors are handled, in one language or another: texts to draft from, like files that are open.

use surmise_engine::Engine;

/// As a function has it, and as the model inside the program was trained to write it (`engine/training/edits.py`).
const IN_FUNCTIONS: &str = include_str!("idioms.txt");
/// Methods stand further in.
const METHOD_INDENT: &str = "    ";

/// Lets `engine` draft from it, whoever asks for what. It changes how fast answers come, never what they say.
pub(crate) fn show(engine: &Engine) {
    let lines = IN_FUNCTIONS.lines();
    let in_methods: String = lines.map(|line| format!("{METHOD_INDENT}{line}\n")).collect();
    if let Err(error) = engine.set_reference("idioms", &format!("{IN_FUNCTIONS}\n{in_methods}")) {
        tracing::debug!("no drafts from idioms: {error}");
    }
}
