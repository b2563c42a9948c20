//! The editor clients in the real editors: `tests/editors/run` does the work, these run it.
//!
//! They download nothing. Where an editor is not installed they say so and pass, except in CI, where
//! everything must be there; `tests/editors/run` installs what is lacking.

use std::sync::{Mutex, PoisonError};

use surmise_tests::script::run_if_installed;

/// The drivers type like people and wait like people: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs one driver against the binary of this build.
fn check(editor: &str) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    run_if_installed("tests/editors/run", &[editor]);
}

#[test]
fn neovim_shows_and_accepts_a_suggestion() {
    check("neovim");
}

#[test]
fn the_vscode_extension_compiles_and_packages() {
    check("vscode");
}

#[test]
fn the_zed_extension_answers_zed() {
    check("zed");
}
