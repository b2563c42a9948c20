//! The recipe of the embedded model at toy size: `tests/training/run` does the work, this runs it.
//!
//! It downloads nothing. Without PyTorch it says so and passes, except in CI, where everything must be there.

use std::{
    env,
    io::{Write, stderr},
    process::Command,
};

use surmise_tests::binary;

/// What `tests/training/run --installed` exits with when something is not installed.
const NOT_INSTALLED: i32 = 77;

#[test]
fn the_recipe_works_at_toy_size() {
    let output = Command::new(binary::repository().join("tests/training/run"))
        .arg("--installed")
        .output()
        .expect("tests/training/run starts: it needs bash");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => println!("{said}"),
        Some(NOT_INSTALLED) if env::var_os("CI").is_none() => {
            // Not `eprintln!`: the test harness keeps that of tests that pass to itself.
            drop(writeln!(stderr(), "{said}"));
        }
        code => panic!("exit status {code:?}\n{said}"),
    }
}
