//! The `surmise` binary that the suites run: `SURMISE_BIN`, or built here once.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Path of the binary. Builds it on first use, which takes no time if it is up to date.
///
/// # Panics
/// If it cannot be built.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("SURMISE_BIN") {
        Some(path) => path.into(),
        None => build(),
    })
}

/// A command that runs the binary in the repository's root, with no settings but its defaults.
pub fn command() -> Command {
    let mut command = Command::new(path());
    command
        .current_dir(repository())
        .env("XDG_CONFIG_HOME", no_settings())
        .env("NO_COLOR", "1");
    command
}

/// Arguments that choose the model under test: `SURMISE_TEST_MODEL`, or what is embedded.
pub fn model_arguments() -> Vec<String> {
    match std::env::var("SURMISE_TEST_MODEL") {
        Ok(model) => vec!["--model".to_owned(), model],
        Err(_) => Vec::new(),
    }
}

/// Root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ has a parent")
}

/// A folder for settings that has none in it.
pub fn no_settings() -> PathBuf {
    target().join("no-settings")
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--quiet",
            "--package",
            "surmise",
            "--target-dir",
        ])
        .arg(target())
        .current_dir(repository())
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo build of surmise failed");
    target()
        .join("release")
        .join(format!("surmise{}", std::env::consts::EXE_SUFFIX))
}

/// The target folder this test was built in: `target/<profile>/deps/<test>`.
fn target() -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    test.ancestors()
        .nth(3)
        .expect("a test lies in target/<profile>/deps")
        .to_owned()
}
