//! The chat templates of `SURMISE_FIXTURES`, or `../shared/fixtures` beside the repository, which are not in it.

#![allow(unreachable_pub, reason = "each test program has its own copy")]

use std::{
    io::Write,
    path::{Path, PathBuf},
};

/// Folder of the templates; says so and gives `None` where they are absent, and panics in CI.
pub fn folder() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    let folder = std::env::var_os("SURMISE_FIXTURES")
        .map_or_else(beside, PathBuf::from)
        .join("chat-templates");
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "no templates in {}; set SURMISE_FIXTURES",
        folder.display()
    );
    // Not `eprintln!`: the test harness keeps that of tests that pass to itself.
    drop(writeln!(
        std::io::stderr(),
        "skipped: no templates in {}; set SURMISE_FIXTURES",
        folder.display()
    ));
    None
}
