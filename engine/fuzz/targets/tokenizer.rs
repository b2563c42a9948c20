//! Tokenizers, from the metadata of a GGUF file or from a `tokenizer.json`, and texts that go through them.
//!
//! An input that begins with a brace is a `tokenizer.json`, any other a GGUF file.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use surmise_engine::{WeightSource, tokenizer::Tokenizer, weights::Gguf};

/// Length to which a file is filled up, so that the seeds need no tensor data. The file system keeps it as a hole.
const FILLED_BYTES: u64 = 4 << 20;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let tokenizer = if bytes.first() == Some(&b'{') {
        fs::write(folder.path().join("tokenizer.json"), bytes).expect("a temporary file");
        Tokenizer::from_folder(folder.path())
    } else {
        let path = folder.path().join("model.gguf");
        fs::write(&path, bytes).expect("a temporary file");
        let file = fs::File::options()
            .write(true)
            .open(&path)
            .expect("the file just written");
        file.set_len(FILLED_BYTES).expect("a longer file");
        Gguf::open(WeightSource::File(path)).and_then(|gguf| Tokenizer::from_gguf(&gguf))
    };
    let Ok(tokenizer) = tokenizer else { return };
    let in_vocabulary = |id: &u32| (*id as usize) < tokenizer.vocab_size();
    assert!(tokenizer.end_tokens().iter().all(in_vocabulary));
    assert!(tokenizer.bos().iter().all(in_vocabulary));
    // Spellings of special tokens are somewhere in the input.
    let own = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]);
    for text in ["fn main() {\n    println!(\"héllo 🚀 {}\", 12345);\n}\n", &own] {
        for parse_special in [false, true] {
            let Ok(tokens) = tokenizer.encode(text, parse_special) else {
                continue;
            };
            assert!(tokens.iter().all(in_vocabulary));
            let is_text = |id: &u32| !tokenizer.is_control(*id) || tokenizer.token_bytes(*id).is_empty();
            assert!(tokens.iter().all(is_text));
            let _ = tokenizer.decode(&tokens);
        }
    }
});
