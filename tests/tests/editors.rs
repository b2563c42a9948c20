//! The editor clients in the real editors: `tests/editors/run` does the work, these run it.
//!
//! They download nothing. Where an editor is not installed they say so and pass, except in CI, where
//! everything must be there; `tests/editors/run` installs what is lacking.

use std::{
    env,
    io::{Write, stderr},
    process::Command,
    sync::{Mutex, PoisonError},
};

use surmise_tests::binary;

/// What `tests/editors/run --installed` exits with when something is not installed.
const NOT_INSTALLED: i32 = 77;

/// The drivers type like people and wait like people: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs one driver against the binary of this build.
fn check(editor: &str) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(binary::repository().join("tests/editors/run"))
        .args(["--installed", editor])
        .env("SURMISE_BIN", binary::path())
        .output()
        .expect("tests/editors/run starts: it needs bash");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => println!("{said}"),
        Some(NOT_INSTALLED) if env::var_os("CI").is_none() => {
            // Not `eprintln!`: the test harness keeps that of tests that pass to itself.
            drop(writeln!(stderr(), "skipped {editor}: {said}"));
        }
        code => panic!("{editor}: exit status {code:?}\n{said}"),
    }
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
