//! The editor clients in the real editors: `tests/editors/run` does the work, these run it.
//!
//! They download nothing. Where an editor is not installed they say so and pass, except in CI, where
//! everything must be there; `tests/editors/run` installs what is lacking.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

/// What `tests/editors/run --installed` exits with when something is not installed.
const NOT_INSTALLED: i32 = 77;

/// The drivers type like people and wait like people: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs one driver against the binary of this build.
fn check(editor: &str) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("editors/run");
    let output = Command::new(driver)
        .args(["--installed", editor])
        .env("SURMISE", surmise())
        .output()
        .expect("tests/editors/run starts: it needs bash");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => println!("{said}"),
        Some(NOT_INSTALLED) if env::var_os("CI").is_none() => println!("skipped: {said}"),
        code => panic!("{editor}: exit status {code:?}\n{said}"),
    }
}

/// The `surmise` binary beside this test, built if need be.
fn surmise() -> PathBuf {
    let test = env::current_exe().expect("a test knows its own path");
    let profile = test.ancestors().nth(2).expect("tests lie in target/<profile>/deps");
    let binary = profile.join(format!("surmise{}", env::consts::EXE_SUFFIX));
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--workspace", "--bin", "surmise"]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo starts");
    assert!(status.success(), "the binary does not build");
    binary
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
