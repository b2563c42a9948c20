//! The files of the folders that an editor has open, but for those that are open themselves: which there are, and which of
//! them are worth copying from at a place.
//!
//! One thread of low priority keeps the list and reads what is near. It sleeps until somebody asks for a suggestion, and then
//! has nothing to do for a while again. No request waits for it: each takes what is there. Nothing is written anywhere.

mod files;
mod nearby;
mod nearness;
pub mod secrets;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use surmise_engine::{Engine, copy::CopySource};

use crate::{background::Background, document::Document};
pub use files::{FileList, Watch};
pub use nearby::Nearby;
use nearness::nearest;

/// Files that one document is given to copy from.
const MAX_NEAR: usize = 8;

/// The list of files, and the thread that keeps it.
#[derive(Debug)]
pub struct Repository {
    thread: Background,
    files: Arc<Mutex<FileList>>,
}

impl Default for Repository {
    fn default() -> Self {
        Self {
            thread: Background::new("repository"),
            files: Arc::default(),
        }
    }
}

/// What is to be looked for.
pub struct Look {
    /// Folders that the editor has open.
    pub roots: Vec<PathBuf>,
    /// Whether there are other files in them than at the last look.
    pub watch: Watch,
    /// The document that is being typed in.
    pub document: Document,
    /// Files that are open: what the editor has of them is newer.
    pub open: Vec<PathBuf>,
    /// What the files are prepared for.
    pub engine: Arc<Engine>,
    /// Where they go.
    pub nearby: Arc<Nearby>,
}

impl Repository {
    /// Looks for the files near a document, some time soon.
    pub fn look(&self, look: Look) {
        let files = Arc::clone(&self.files);
        self.thread.run(move || {
            // Only this thread holds it; what a job that failed left there is a list of files all the same.
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            files.refresh(&look.roots, look.watch);
            let near = nearest(&files.files, &look.document, &look.open, MAX_NEAR);
            look.nearby.update(&look.engine, &look.document, near);
        });
    }
}

/// The files near `document` among `files`, prepared for `engine`; for callers that would rather wait. What `engine` drafts from
/// is what they say then, and not what the document's own file does.
pub fn near(files: &FileList, document: &Document, engine: &Engine) -> Vec<Arc<CopySource>> {
    let Some(path) = &document.path else {
        return Vec::new();
    };
    engine.remove_reference(&path.to_string_lossy());
    let nearby = Nearby::default();
    nearby.take_turn(path);
    nearby.update(engine, document, nearest(&files.files, document, &[], MAX_NEAR));
    nearby.of(path, |_| false)
}
