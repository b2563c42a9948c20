//! The files near some documents as texts that an engine has prepared.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use surmise_engine::{
    Engine,
    copy::{CopySource, Origin},
};

use crate::document::{Document, with_lf};

/// Documents whose near files are kept: as many megabytes as there are files, at the most.
const MAX_DOCUMENTS: usize = 4;
/// Bytes of a file that are taken, from its beginning.
const MAX_BYTES: usize = 32 * 1024;
/// How long what was found for a document stands.
const STANDS_FOR: Duration = Duration::from_secs(5);

/// Files near the documents that were worked on last, prepared for one engine.
#[derive(Debug, Default)]
pub struct Nearby {
    /// Most recently looked for last.
    documents: Mutex<Vec<Near>>,
}

#[derive(Debug)]
struct Near {
    document: PathBuf,
    looked_for: Instant,
    /// The nearest first.
    files: Vec<NearFile>,
}

#[derive(Debug, Clone)]
struct NearFile {
    path: PathBuf,
    /// When it changed, and its bytes: while these are the same, so is the text.
    stamp: (SystemTime, u64),
    /// None if the engine's model does not copy.
    source: Option<Arc<CopySource>>,
}

impl Nearby {
    /// The files near the document at `path`, the nearest first, less those that have been opened since.
    pub fn of(&self, path: &Path, is_open: impl Fn(&Path) -> bool) -> Vec<Arc<CopySource>> {
        let documents = self.lock();
        let near = documents.iter().find(|it| it.document == path);
        let files = near.into_iter().flat_map(|it| &it.files);
        let files = files.filter(|file| !is_open(&file.path));
        files.filter_map(|file| file.source.clone()).collect()
    }

    /// Whether it is time to look for what is near the document at `path`. If so, it is taken as done.
    pub fn take_turn(&self, path: &Path) -> bool {
        let mut documents = self.lock();
        let known = documents.iter().position(|it| it.document == path);
        let files = match known {
            Some(idx) if documents[idx].looked_for.elapsed() < STANDS_FOR => return false,
            Some(idx) => documents.remove(idx).files,
            None => Vec::new(),
        };
        documents.push(Near {
            document: path.to_owned(),
            looked_for: Instant::now(),
            files,
        });
        let n_old = documents.len().saturating_sub(MAX_DOCUMENTS);
        documents.drain(..n_old);
        true
    }

    /// Makes the files at `paths` those near `document`. What has changed of them is read and prepared here, and given to
    /// `engine` to draft from.
    pub fn update(&self, engine: &Engine, document: &Document, paths: Vec<&Path>) {
        let Some(path) = &document.path else {
            return;
        };
        let known: Vec<NearFile> = self.lock().iter().flat_map(|it| it.files.clone()).collect();
        // The nearest last: what is given to the engine first is forgotten first.
        let files = paths.into_iter().rev();
        let mut files: Vec<NearFile> = files.filter_map(|path| read(engine, path, &known)).collect();
        files.reverse();
        let mut documents = self.lock();
        let near = documents.iter_mut().find(|it| it.document == *path);
        let replaced = near.map(|it| std::mem::replace(&mut it.files, files));
        // Freeing large texts takes a while, on a thread that may have to wait for its core: not while others wait for the lock.
        drop(documents);
        drop(replaced);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Near>> {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first [`MAX_BYTES`] of a text.
fn beginning(file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64).read_to_end(&mut bytes)?;
    let whole = match std::str::from_utf8(&bytes) {
        // A character that the end cuts in two.
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    };
    bytes.truncate(whole);
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The file as it is known, or as it is now; none if it is no text or cannot be read.
fn read(engine: &Engine, path: &Path, known: &[NearFile]) -> Option<NearFile> {
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let stamp = (metadata.modified().ok()?, metadata.len());
    if let Some(known) = known.iter().find(|it| it.path == path && it.stamp == stamp) {
        return Some(known.clone());
    }
    let text = with_lf(&beginning(file).ok()?).into_owned();
    if let Err(error) = engine.set_reference(&path.to_string_lossy(), &text) {
        tracing::debug!("no drafts from {}: {error}", path.display());
    }
    let source = engine.copy_source(text, Origin::Elsewhere);
    source.iter().for_each(|source| source.prepare());
    Some(NearFile {
        path: path.to_owned(),
        stamp,
        source,
    })
}
