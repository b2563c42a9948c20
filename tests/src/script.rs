//! Scripts that test what needs more than Rust, where that is installed.

use std::{
    env,
    io::{Write, stderr},
    process::Command,
};

use crate::binary;

/// What such a script exits with when something is not installed.
const NOT_INSTALLED: i32 = 77;

/// Runs a script of the repository with `--installed` and `args` against the binary of this build. Where something is not
/// installed it says so and passes, except in CI, where everything must be there.
///
/// # Panics
/// If the script fails.
pub fn run_if_installed(script: &str, args: &[&str]) {
    let output = Command::new(binary::repository().join(script))
        .arg("--installed")
        .args(args)
        .env("SURMISE_BIN", binary::path())
        .output()
        .unwrap_or_else(|error| panic!("{script} starts, it needs bash: {error}"));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => println!("{said}"),
        Some(NOT_INSTALLED) if env::var_os("CI").is_none() => {
            // Not `eprintln!`: the test harness keeps that of tests that pass to itself.
            drop(writeln!(stderr(), "skipped {script} {args:?}: {said}"));
        }
        code => panic!("{script} {args:?}: exit status {code:?}\n{said}"),
    }
}
