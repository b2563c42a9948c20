//! Where to ask: places in the files of a folder, the same for the same seed.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use surmise_grammars::Language;

use crate::document::Document;

/// A document with a cursor where something was taken away, or where nothing is missing.
#[derive(Debug, Clone)]
pub struct Hole {
    /// The document without what was taken away.
    pub document: Document,
    /// Byte of the cursor.
    pub at: usize,
    /// What belongs there.
    pub wanted: Wanted,
}

/// What belongs in a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The rest of the line, white space at its end left out.
    RestOfLine(String),
    /// Nothing: the author left the line as it is.
    Nothing,
}

/// Larger files are seldom written by hand.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Fewest characters that are worth asking for.
const LEAST_TRUTH: usize = 3;
/// Tries for a place before a language is given up.
const TRIES: usize = 50;

/// `n_holes` holes in the files below `folder`, as many for each language, every other one without anything missing.
/// Folders whose name begins with a dot, `target` and `node_modules` are passed over.
///
/// # Errors
/// If the folder cannot be read. Files that cannot be read, or are no text, are passed over.
pub fn holes(folder: &Path, n_holes: usize, seed: u64) -> io::Result<Vec<Hole>> {
    let files = source_files(folder)?;
    let mut random = Random(seed);
    let mut holes = Vec::new();
    let n_languages = files.len();
    for (idx, mut files) in files.into_values().enumerate() {
        files.sort();
        let n_wanted = n_holes * (idx + 1) / n_languages;
        let mut tries = TRIES * n_holes.div_ceil(n_languages);
        while holes.len() < n_wanted && tries > 0 {
            tries -= 1;
            let path = &files[random.below(files.len())];
            let Ok(text) = std::fs::read_to_string(path) else {
                continue;
            };
            holes.extend(if holes.len() % 2 == 0 {
                rest_of_line(path, &text, &mut random)
            } else {
                nothing(path, &text, &mut random)
            });
        }
    }
    Ok(holes)
}

/// The files below `folder` by the names of their languages, in no order. Passed over is what [`holes`] passes over.
///
/// # Errors
/// If the folder cannot be read.
pub(crate) fn source_files(folder: &Path) -> io::Result<BTreeMap<&'static str, Vec<PathBuf>>> {
    let mut files = BTreeMap::new();
    collect_files(folder, &mut files)?;
    Ok(files)
}

/// The rest of a line, from a random column on.
fn rest_of_line(path: &Path, text: &str, random: &mut Random) -> Option<Hole> {
    let (line_start, line) = line(text, random)?;
    let start = line_start + line.len() - line.trim_start().len();
    let end = line_start + line.trim_end().len();
    let span = end.checked_sub(start + LEAST_TRUTH)?;
    let at = text.floor_char_boundary(start + random.below(span + 1));
    let truth = &text[at..end];
    let before_and_after = [&text[..at], &text[line_start + line.len()..]].concat();
    Some(Hole {
        document: Document::new(Some(path), None, None, &before_and_after),
        at,
        wanted: Wanted::RestOfLine(truth.to_owned()),
    })
}

/// The end of a line that goes on with the next one.
fn nothing(path: &Path, text: &str, random: &mut Random) -> Option<Hole> {
    let (line_start, line) = line(text, random)?;
    Some(Hole {
        document: Document::new(Some(path), None, None, text),
        at: line_start + line.trim_end().len(),
        wanted: Wanted::Nothing,
    })
}

/// A random line that is not blank, with the byte at which it begins.
fn line<'t>(text: &'t str, random: &mut Random) -> Option<(usize, &'t str)> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let line = *lines.get(random.below(lines.len().max(1)))?;
    Some((line.as_ptr() as usize - text.as_ptr() as usize, line))
}

fn collect_files(folder: &Path, files: &mut BTreeMap<&'static str, Vec<PathBuf>>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type()?;
        let is_passed_over =
            name.to_string_lossy().starts_with('.') || name == "target" || name == "node_modules";
        if kind.is_dir() && !is_passed_over {
            // A folder below that may not be read is like one that is not there.
            let _ = collect_files(&path, files);
        } else if kind.is_file()
            && let Some(language) = Language::from_path(&path)
            && entry.metadata().is_ok_and(|file| file.len() <= MAX_FILE_BYTES)
        {
            files.entry(language.name()).or_default().push(path);
        }
    }
    Ok(())
}

/// SplitMix64.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `n`, which must not be 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) % n as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "fn größe() {\r\n    let a = 1;\r\n\r\n    a + b\r\n}\r\n";

    #[test]
    fn what_is_taken_away_and_what_is_left_make_the_file() {
        let mut random = Random(7);
        let mut truths = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let Some(hole) = rest_of_line(Path::new("a.rs"), TEXT, &mut random) else {
                continue;
            };
            let Wanted::RestOfLine(truth) = hole.wanted else {
                panic!("something is missing");
            };
            let mut text = hole.document.text.to_string();
            text.insert_str(hole.at, &truth);
            assert_eq!(text, TEXT);
            truths.insert(truth);
        }
        assert!(
            truths.contains("fn größe() {") && truths.contains("= 1;"),
            "{truths:?}"
        );
    }

    #[test]
    fn nothing_is_missing_at_the_end_of_a_line() {
        let mut random = Random(7);
        for _ in 0..50 {
            let hole = nothing(Path::new("a.rs"), TEXT, &mut random).unwrap();
            assert_eq!(hole.document.text.to_string(), TEXT);
            assert!(TEXT[hole.at..].starts_with("\r\n"));
        }
        assert!(nothing(Path::new("a.rs"), "\n\n", &mut random).is_none());
    }

    #[test]
    fn a_seed_gives_the_same_holes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/completion");
        let places = |seed| -> Vec<(usize, Wanted)> {
            let holes = holes(&folder, 10, seed).unwrap();
            holes.into_iter().map(|hole| (hole.at, hole.wanted)).collect()
        };
        assert_eq!(places(1).len(), 10);
        assert_eq!(places(1), places(1));
        assert_ne!(places(1), places(2));
    }
}
