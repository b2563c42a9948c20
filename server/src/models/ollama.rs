//! Ollama's store: a manifest for each model, `manifests/REGISTRY/OWNER/NAME/TAG`, that names the blobs it is made of.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use surmise_engine::WeightSource;

use super::{
    Found,
    places::{Place, folder_of},
    shown,
};

/// Kind of blob that is a GGUF file.
const MODEL_LAYER: &str = "application/vnd.ollama.image.model";

/// What goes without saying in the name of a model.
const DEFAULT_PREFIXES: [&str; 2] = ["registry.ollama.ai/library/", "registry.ollama.ai/"];

/// Adds what the store holds, wherever the environment says that it is.
pub(super) fn find(home: &Path, found: &mut Vec<Found>) {
    let stores = match folder_of("OLLAMA_MODELS") {
        Some(store) => vec![store],
        // The second is that of the system's service.
        None => vec![
            home.join(".ollama/models"),
            "/usr/share/ollama/.ollama/models".into(),
        ],
    };
    for store in stores {
        let manifests = store.join("manifests");
        let mut files = Vec::new();
        collect_files(&manifests, 4, &mut files);
        files.sort();
        for manifest in files {
            let Some(title) = title(&manifests, &manifest) else {
                continue;
            };
            let blob =
                read_manifest(&manifest).map(|digest| store.join("blobs").join(digest.replace(':', "-")));
            found.push(Found {
                place: Place::Ollama,
                setting: shown(blob.as_ref().unwrap_or(&manifest)),
                title: Some(title),
                source: blob.map(WeightSource::File),
            });
        }
    }
}

/// `registry.ollama.ai/library/qwen3/8b` as `qwen3:8b`.
fn title(manifests: &Path, manifest: &Path) -> Option<String> {
    let path = manifest.strip_prefix(manifests).ok()?;
    let parts: Vec<_> = path
        .components()
        .map(|it| it.as_os_str().to_string_lossy())
        .collect();
    let whole = parts.join("/");
    let (name, tag) = whole.rsplit_once('/')?;
    let short = DEFAULT_PREFIXES
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix));
    Some(format!("{}:{tag}", short.unwrap_or(name)))
}

/// The digest of the blob with the weights.
fn read_manifest(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|error| format!("cannot read the manifest: {error}"))?;
    let manifest: Value =
        serde_json::from_slice(&bytes).map_err(|error| format!("the manifest is not JSON: {error}"))?;
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let mut weights = layers.filter(|layer| layer["mediaType"] == MODEL_LAYER);
    let digest = weights.find_map(|layer| layer["digest"].as_str());
    let digest = digest.filter(|it| it.starts_with("sha256:") && !it.contains(['/', '\\']));
    digest
        .map(str::to_owned)
        .ok_or_else(|| "the manifest names no weights; a model that runs elsewhere?".to_owned())
}

fn collect_files(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).into_iter().flatten();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_file() {
            files.push(path);
        } else if depth > 0 && !path.is_symlink() {
            collect_files(&path, depth - 1, files);
        }
    }
}
