//! The committed source files that suggestions are asked for in, with `ˇ` marks where tests need places.

use std::path::PathBuf;

use crate::binary::repository;

/// Path of a fixture, relative to the repository's root: what a user would type there.
pub fn relative(name: &str) -> String {
    format!("tests/fixtures/{name}")
}

/// Path of a fixture.
pub fn path(name: &str) -> PathBuf {
    repository().join(relative(name))
}

/// Text of a fixture.
///
/// # Panics
/// If there is no such fixture.
pub fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Takes the one `ˇ` out of a text; returns the text, and the line and column (UTF-16, from 0) it stood at.
///
/// # Panics
/// If there is no `ˇ`.
pub fn cursor(text: &str) -> (String, usize, usize) {
    let at = text.find('ˇ').expect("a cursor");
    let text = text.replacen('ˇ', "", 1);
    let (line, column) = crate::random::position(&text, at, true);
    (text, line, column)
}
