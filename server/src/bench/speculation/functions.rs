//! Whole functions of the files in a folder: what an edit could be about.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use surmise_grammars::{Definition, DefinitionKind, outline};

use crate::{
    document::{Document, with_lf},
    eval::hole::source_files,
};

/// Lines of such a function, the fewest and the most.
const LINES: (usize, usize) = (30, 150);
/// Functions that are taken from one file.
const PER_FILE: usize = 2;

/// A function in its file.
pub(super) struct Function {
    /// The whole file.
    pub(super) document: Document,
    /// Bytes of the function, whole lines.
    pub(super) range: Range<usize>,
    /// Where its name stands.
    pub(super) name_range: Range<usize>,
}

impl Function {
    /// Its lines.
    pub(super) fn text(&self) -> String {
        self.document.excerpt(self.range.clone())
    }

    /// The file that it stands in.
    pub(super) fn path(&self) -> &Path {
        self.document.path.as_deref().unwrap_or(Path::new(""))
    }
}

/// At most `n_functions` functions of the files below `folder`, from each language in turn.
///
/// # Errors
/// If the folder cannot be read.
pub(super) fn functions(folder: &Path, n_functions: usize) -> io::Result<Vec<Function>> {
    let languages = source_files(folder)?.into_values();
    let mut languages: Vec<_> = languages
        .map(|mut files| {
            files.sort();
            files.into_iter().flat_map(functions_of)
        })
        .collect();
    let mut found = Vec::new();
    while !languages.is_empty() && found.len() < n_functions {
        languages.retain_mut(|functions| {
            let function = functions.next();
            let goes_on = function.is_some();
            found.extend(function);
            goes_on
        });
    }
    found.truncate(n_functions);
    Ok(found)
}

fn functions_of(path: PathBuf) -> Vec<Function> {
    let Ok(text) = std::fs::read_to_string(&path) else {
        return Vec::new();
    };
    let text = with_lf(&text);
    let document = Document::new(Some(&path), None, None, &text);
    let definitions = outline(&document.syntax, &document.text);
    let functions = definitions.into_iter().filter_map(|definition| {
        let Definition {
            kind: DefinitionKind::Function | DefinitionKind::Method,
            body: Some(_),
            range,
            name_range,
            ..
        } = definition
        else {
            return None;
        };
        let start = text[..range.start].rfind('\n').map_or(0, |end| end + 1);
        let end = text[range.end..]
            .find('\n')
            .map_or(text.len(), |end| range.end + end + 1);
        let n_lines = text[start..end].lines().count();
        ((LINES.0..=LINES.1).contains(&n_lines)).then(|| Function {
            document: document.clone(),
            range: start..end,
            name_range,
        })
    });
    functions.take(PER_FILE).collect()
}
