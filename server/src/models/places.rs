//! The usual places of models, and looking through a folder for them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde::{Serialize, Serializer};

use super::{Found, hugging_face, ollama};
use crate::{config::Config, model};

/// Folders within folders that are looked through: publisher, repository, and some of one's own.
const MAX_DEPTH: usize = 5;
/// Folders that one search looks into: more are somebody's whole disk.
const MAX_FOLDERS: usize = 10_000;

/// Where a model was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Inside the program.
    Embedded,
    /// The settings name it, or it lies beside the file that they name.
    Configured,
    /// The user named it, or a folder that it is in.
    Given,
    /// `~/models`.
    Models,
    /// The cache of Hugging Face's tools.
    HuggingFace,
    /// Ollama's store.
    Ollama,
    /// LM Studio's folder.
    LmStudio,
    /// llama.cpp's cache.
    LlamaCpp,
}

impl Place {
    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "inside the program",
            Self::Configured => "where the settings point",
            Self::Given => "named on the command line",
            Self::Models => "~/models",
            Self::HuggingFace => "Hugging Face's cache",
            Self::Ollama => "Ollama's store",
            Self::LmStudio => "LM Studio's models",
            Self::LlamaCpp => "llama.cpp's cache",
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What lies at `paths`, each a file or a folder.
pub fn in_paths(paths: &[PathBuf]) -> Vec<Found> {
    let mut found = Vec::new();
    for path in paths {
        // An editor starts the server in another folder.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let first = found.len();
        if path.is_dir() {
            scan(Place::Given, &path, MAX_DEPTH, &mut found);
        }
        if found.len() == first {
            let mut none = Found::file(Place::Given, &path);
            if path.is_dir() && !path.join("config.json").exists() {
                none.source = Err("no models in this folder: neither GGUF files nor folders with config.json and safetensors".into());
            }
            found.push(none);
        }
    }
    once_each(found)
}

/// All that can be run without a download: the model inside, the one that the settings name, and what other programs keep.
pub fn in_usual_places(config: &Config) -> Vec<Found> {
    let mut found = Vec::new();
    if let Some(source) = surmise_engine::embedded_model() {
        found.push(Found {
            place: Place::Embedded,
            setting: "embedded".to_owned(),
            title: None,
            source: Ok(source),
        });
    }
    if config.model != "embedded" {
        let source = model::source(config).map_err(|error| error.to_string());
        let folder = source
            .as_ref()
            .ok()
            .and_then(|it| it.path().parent().map(PathBuf::from));
        found.push(Found {
            place: Place::Configured,
            setting: config.model.clone(),
            title: None,
            source,
        });
        // Only that folder: it may be anything, such as the home folder.
        if let Some(folder) = folder.filter(|it| !it.as_os_str().is_empty()) {
            scan(Place::Configured, &folder, 0, &mut found);
        }
    }
    let Some(home) = model::home() else {
        return once_each(found);
    };
    scan(Place::Models, &home.join("models"), MAX_DEPTH, &mut found);
    hugging_face::find(&home, &mut found);
    ollama::find(&home, &mut found);
    for folder in [".lmstudio/models", ".cache/lm-studio/models"] {
        scan(Place::LmStudio, &home.join(folder), MAX_DEPTH, &mut found);
    }
    let cache = folder_of("LLAMA_CACHE").unwrap_or_else(|| cache(&home).join("llama.cpp"));
    scan(Place::LlamaCpp, &cache, 1, &mut found);
    once_each(found)
}

/// The folder that an environment variable names.
pub(super) fn folder_of(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    folder.filter(|folder| folder.is_absolute())
}

/// The user's folder for what programs can get again.
pub(super) fn cache(home: &Path) -> PathBuf {
    folder_of("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"))
}

/// Adds the models in a folder: GGUF files, and folders with weights in safetensors. A folder that cannot be read has none.
pub(super) fn scan(place: Place, folder: &Path, depth: usize, found: &mut Vec<Found>) {
    scan_once(place, folder, depth, &mut BTreeSet::new(), found);
}

/// The same but for the folders that were seen: links may lead back to them.
fn scan_once(
    place: Place,
    folder: &Path,
    depth: usize,
    seen: &mut BTreeSet<PathBuf>,
    found: &mut Vec<Found>,
) {
    let is_new = folder.canonicalize().is_ok_and(|it| seen.insert(it));
    if !is_new || seen.len() > MAX_FOLDERS {
        return;
    }
    if is_model_folder(folder) {
        return found.push(Found::file(place, folder));
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if depth > 0 || is_model_folder(&path) {
                scan_once(place, &path, depth.saturating_sub(1), seen, found);
            }
        } else if is_model_file(&path) && path.is_file() {
            found.push(Found::file(place, &path));
        }
    }
}

/// A configuration, and weights.
pub(super) fn is_model_folder(folder: &Path) -> bool {
    let weights = ["model.safetensors", "model.safetensors.index.json"];
    folder.join("config.json").is_file() && weights.iter().any(|name| folder.join(name).is_file())
}

/// A whole GGUF file or the first part of one, and no encoder of pictures.
fn is_model_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some((stem, extension)) = name.rsplit_once('.') else {
        return false;
    };
    extension.eq_ignore_ascii_case("gguf")
        && !stem.starts_with("mmproj")
        && part_of(stem).is_none_or(|part| part == 1)
}

/// The number of a part in a name that ends in `-00002-of-00005`.
fn part_of(stem: &str) -> Option<u32> {
    let (rest, n_parts) = stem.rsplit_once("-of-")?;
    let (_, part) = rest.rsplit_once('-')?;
    let is_number = |it: &str| it.len() == 5 && it.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(part) && is_number(n_parts)).then(|| part.parse().ok())?
}

/// Leaves out what was found before under another name.
fn once_each(found: Vec<Found>) -> Vec<Found> {
    let mut seen = BTreeSet::new();
    let mut is_new = |found: &Found| match &found.source {
        Ok(source) => seen.insert(
            source
                .path()
                .canonicalize()
                .unwrap_or_else(|_| source.path().into()),
        ),
        Err(_) => true,
    };
    found.into_iter().filter(|it| is_new(it)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_and_of_encoders_are_known() {
        for (name, expected) in [
            ("a.gguf", true),
            ("A.GGUF", true),
            ("gguf", false),
            ("a-00001-of-00003.gguf", true),
            ("a-00002-of-00003.gguf", false),
            ("best-of-00003.gguf", true),
            ("mmproj-a.gguf", false),
            ("a.bin", false),
        ] {
            assert_eq!(is_model_file(Path::new(name)), expected, "{name}");
        }
    }
}
