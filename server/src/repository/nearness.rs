//! Which files are near a document: those that say what it is likely to say again.

use std::{
    cmp::Reverse,
    collections::HashSet,
    path::{Path, PathBuf},
};

use surmise_grammars::Language;

use super::files::ListedFile;
use crate::document::Document;

/// Bytes of a document that are searched for names of files.
const MAX_READ: usize = 1 << 20;

/// The `n` files that are nearest to `document`, the nearest first: first those that it mentions, then those that are fewest
/// folders away, then those that changed last. They are in the same language, and none of them is `open`.
pub(super) fn nearest<'f>(
    files: &'f [ListedFile],
    document: &Document,
    open: &[PathBuf],
    n: usize,
) -> Vec<&'f Path> {
    let Some(path) = &document.path else {
        return Vec::new();
    };
    let text = document
        .text
        .byte_slice(..document.text.len_bytes().min(MAX_READ))
        .to_string();
    let words: HashSet<&str> = text.split(|it: char| !belongs_to_word(it)).collect();
    let distance = |file: &ListedFile| {
        let is_mentioned = name_elsewhere(&file.path).is_some_and(|name| words.contains(name));
        (
            !is_mentioned,
            folders_between(path, &file.path),
            Reverse(file.modified),
        )
    };
    let family = family(document.language());
    let mut near: Vec<_> = files
        .iter()
        .filter(|file| {
            self::family(file.language) == family && file.path != *path && !open.contains(&file.path)
        })
        .map(|file| (distance(file), file.path.as_path()))
        .collect();
    if near.len() > n {
        near.select_nth_unstable(n);
        near.truncate(n);
    }
    near.sort_unstable();
    near.into_iter().map(|(_, path)| path).collect()
}

/// Languages whose files import each other count as one.
fn family(language: Language) -> Language {
    match language {
        Language::JavaScript | Language::Tsx => Language::TypeScript,
        Language::C => Language::Cpp,
        other => other,
    }
}

/// What other files call a file: its own name, or that of its folder where it stands for the folder.
fn name_elsewhere(path: &Path) -> Option<&str> {
    let stem = path.file_stem()?.to_str()?;
    match stem {
        "mod" | "lib" | "index" | "__init__" => path.parent()?.file_name()?.to_str(),
        _ => Some(stem),
    }
}

/// Letters of names, and the hyphens that names of files have besides.
fn belongs_to_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_' || letter == '-'
}

/// Folders that one leaves and enters on the way from one file to the other.
fn folders_between(from: &Path, to: &Path) -> usize {
    let shared = from
        .components()
        .zip(to.components())
        .take_while(|(a, b)| a == b)
        .count();
    from.components().count() + to.components().count() - 2 * shared
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn files(paths: &[&str]) -> Vec<ListedFile> {
        let file = |(idx, path): (usize, &&str)| ListedFile {
            path: PathBuf::from(path),
            language: Language::from_path(Path::new(path)).unwrap(),
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(idx as u64),
        };
        paths.iter().enumerate().map(file).collect()
    }

    #[test]
    fn what_is_mentioned_comes_first_then_what_is_close_then_what_is_new() {
        let files = files(&[
            "/p/src/other/far.ts",
            "/p/src/old.ts",
            "/p/src/new.tsx",
            "/p/lib/date-format.js",
            "/p/src/open.ts",
            "/p/src/main.ts",
            "/p/src/style.css",
            "/p/src/shapes/index.ts",
        ]);
        let text = "import { format } from '../lib/date-format';\nimport * as shapes from './shapes';\n";
        let document = Document::new(Some(Path::new("/p/src/main.ts")), None, None, text);
        let near = |n| nearest(&files, &document, &["/p/src/open.ts".into()], n);
        let expected = [
            "/p/src/shapes/index.ts",
            "/p/lib/date-format.js",
            "/p/src/new.tsx",
            "/p/src/old.ts",
            "/p/src/other/far.ts",
        ];
        assert_eq!(near(9), expected.map(Path::new));
        assert_eq!(near(3), expected[..3].iter().map(Path::new).collect::<Vec<_>>());
        assert!(
            nearest(
                &files,
                &Document::new(None, Some("typescript"), None, text),
                &[],
                9
            )
            .is_empty()
        );
    }

    #[test]
    fn folders_between_files() {
        let between = |from: &str, to: &str| folders_between(Path::new(from), Path::new(to));
        assert_eq!(between("/a/b/x", "/a/b/y"), 2);
        assert_eq!(between("/a/b/x", "/a/c/y"), 4);
        assert_eq!(between("/a/b/x", "/a/y"), 3);
    }
}
