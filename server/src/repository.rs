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
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use surmise_engine::{Engine, copy::CopySource};

use crate::document::Document;
pub use files::{FileList, Watch};
pub use nearby::Nearby;
use nearness::nearest;

/// Files that one document is given to copy from.
const MAX_NEAR: usize = 8;

/// Where the thread is asked; it starts with the first question.
#[derive(Debug, Default)]
pub struct Repository {
    looks: OnceLock<Sender<Look>>,
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
        let looks = self.looks.get_or_init(|| {
            let (sender, looks) = channel();
            let named = thread::Builder::new().name("repository".to_owned());
            if let Err(error) = named.spawn(|| work(looks)) {
                tracing::warn!("nothing is copied from files that are not open: {error}");
            }
            sender
        });
        // Fails only if there is no thread.
        let _ = looks.send(look);
    }
}

fn work(looks: Receiver<Look>) {
    lower_priority();
    let mut files = FileList::default();
    for look in looks {
        files.refresh(&look.roots, look.watch);
        let near = nearest(&files.files, &look.document, &look.open, MAX_NEAR);
        look.nearby.update(&look.engine, &look.document, near);
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

/// On Linux the priority is that of the calling thread.
#[cfg(target_os = "linux")]
fn lower_priority() {
    if let Err(error) = rustix::process::setpriority_process(None, 10) {
        tracing::debug!("the thread that reads files keeps its priority: {error}");
    }
}

#[cfg(not(target_os = "linux"))]
fn lower_priority() {}
