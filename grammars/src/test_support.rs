//! What several tests share: code in every language, and numbers that are random but always the same.

use std::path::PathBuf;

use crate::Language;

/// Where the query fixture of a language is.
pub(crate) fn fixture_path(language: Language) -> PathBuf {
    let file = format!("tests/queries/{}.txt", language.name());
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// The code in the query fixture of a language, without the lines of carets; empty for plain text.
pub(crate) fn code_in(language: Language) -> String {
    let fixture = std::fs::read_to_string(fixture_path(language)).unwrap_or_default();
    fixture
        .split_inclusive('\n')
        .filter(|line| !is_caret_line(line))
        .collect()
}

fn is_caret_line(line: &str) -> bool {
    let carets = line.trim_start();
    let rest = carets
        .trim_start_matches('^')
        .trim_start_matches(|c: char| c == '+' || c.is_ascii_digit());
    let names_a_query = ["outline", "imports", "scopes"]
        .iter()
        .any(|file| rest.starts_with(&format!(" {file}.")));
    carets.starts_with('^') && names_a_query
}

/// A Rust file of about `n_lines` lines.
pub(crate) fn long_rust(n_lines: usize) -> String {
    (0..n_lines / 10)
        .map(|idx| {
            format!(
                "/// Adds {idx}.\npub fn add_{idx}(left: u64, right: &[u64]) -> u64 {{\n    let mut sum = left;\n    \
                 for (idx, value) in right.iter().enumerate() {{\n        if idx % 2 == 0 {{\n            \
                 sum += value.wrapping_mul({idx});\n        }}\n    }}\n    sum\n}}\n"
            )
        })
        .collect()
}

/// Marsaglia's xorshift64 (2003): good enough to vary tests, and the same on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        if n == 0 { 0 } else { (self.0 >> 11) as usize % n }
    }
}
