//! GGUF files: header, metadata and tensor entries, and the model's configuration that is taken from them.

#![no_main]

use std::{fs, path::Path};

use libfuzzer_sys::fuzz_target;
use surmise_engine::{WeightSource, chat_template::ChatTemplate, model::Checkpoint, weights::Gguf};

/// Length to which a file is filled up, so that the seeds need no tensor data. The file system keeps it as a hole.
const FILLED_BYTES: u64 = 4 << 20;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).expect("a temporary file");
    read(&path);
    let file = fs::File::options()
        .write(true)
        .open(&path)
        .expect("the file just written");
    file.set_len(FILLED_BYTES).expect("a longer file");
    read(&path);
});

fn read(path: &Path) {
    let Ok(gguf) = Gguf::open(WeightSource::File(path.into())) else {
        return;
    };
    for tensor in gguf.tensors() {
        let found = gguf.tensor(&tensor.name).expect("a tensor that is listed");
        assert_eq!(found.bytes().len(), tensor.n_bytes(), "{}", tensor.name);
    }
    let metadata = gguf.metadata();
    for key in metadata.keys() {
        // A value has one type; all the others are refused.
        let _ = (
            metadata.get_str(key),
            metadata.get_u64(key),
            metadata.get_f32(key),
        );
        let _ = (
            metadata.get_str_array(key),
            metadata.get_u32_array(key),
            metadata.get_f32_array(key),
        );
    }
    let _ = ChatTemplate::from_gguf(&gguf);
    let _ = Checkpoint::from_gguf(&gguf);
}
