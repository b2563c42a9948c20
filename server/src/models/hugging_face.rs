//! The cache of Hugging Face's tools: `models--OWNER--NAME/snapshots/REVISION/`, with links to files by their hashes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    Found,
    places::{self, Place, cache, folder_of},
};

/// Folders within a snapshot that GGUF files may be in.
const GGUF_DEPTH: usize = 2;

/// Adds what the cache holds, wherever the environment says that it is.
pub(super) fn find(home: &Path, found: &mut Vec<Found>) {
    let hub = folder_of("HF_HUB_CACHE")
        .or_else(|| folder_of("HF_HOME").map(|folder| folder.join("hub")))
        .unwrap_or_else(|| cache(home).join("huggingface/hub"));
    for repository in folders(&hub) {
        let name = repository
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let Some(name) = name.strip_prefix("models--") else {
            continue;
        };
        for snapshot in folders(&repository.join("snapshots")) {
            let first = found.len();
            if places::is_model_folder(&snapshot) {
                found.push(Found::file(Place::HuggingFace, &snapshot));
            } else if !snapshot.join("model_index.json").exists() {
                // What that index describes makes pictures.
                places::scan(Place::HuggingFace, &snapshot, GGUF_DEPTH, found);
            }
            let title = name.replace("--", "/");
            for found in &mut found[first..] {
                found.title = Some(title.clone());
            }
        }
    }
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut folders: Vec<PathBuf> = paths.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}
