//! Safetensors: the header of a file, and the index of a folder.
//!
//! An input that begins with a brace is an index up to the first NUL, and the shard `a.safetensors` after it; any other is
//! the one file of a folder.

#![no_main]

use std::{fs, path::Path};

use libfuzzer_sys::fuzz_target;
use surmise_engine::weights::safetensors::open_folder;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let write = |name: &str, bytes: &[u8]| {
        fs::write(folder.path().join(name), bytes).expect("a temporary file");
    };
    let file = if bytes.first() == Some(&b'{') {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let (index, shard) = bytes.split_at(end);
        write("model.safetensors.index.json", index);
        write("a.safetensors", shard.get(1..).unwrap_or_default());
        "a.safetensors"
    } else {
        write("model.safetensors", bytes);
        "model.safetensors"
    };
    read(folder.path());
    fill_up(&folder.path().join(file));
    read(folder.path());
});

/// Makes the file as long as the header wants it if that is not much, so that the seeds need no tensor data.
fn fill_up(path: &Path) {
    const FILLED_BYTES: u64 = 4 << 20;
    let bytes = fs::read(path).expect("the file just written");
    // The last tensor ends where the file does.
    let text = String::from_utf8_lossy(&bytes);
    let ends = text.split("\"data_offsets\":[").skip(1);
    let ends = ends.filter_map(|it| it.split([',', ']']).nth(1)?.trim().parse::<u64>().ok());
    let header = bytes.first_chunk().map_or(0, |it| u64::from_le_bytes(*it));
    let Some(len) = ends.max().and_then(|end| end.checked_add(8)?.checked_add(header)) else {
        return;
    };
    if len <= FILLED_BYTES {
        let file = fs::File::options()
            .write(true)
            .open(path)
            .expect("the file just written");
        file.set_len(len).expect("another length");
    }
}

fn read(folder: &Path) {
    let Ok(weights) = open_folder(folder, [32; 2]) else {
        return;
    };
    for name in weights.names() {
        let tensor = weights.get(name).expect("a tensor that is listed");
        assert!(!tensor.shape.contains(&0), "{name}");
    }
}
