//! A user's home with settings and models in it, for programs that know no other.

use std::{fs, path::PathBuf, process::Command};

use serde_json::{Value, json};

use crate::{binary, fixtures};

/// A user's home, gone at the end of the test.
pub struct Home(pub PathBuf);

impl Home {
    /// An empty one; `name` tells it from those of other tests.
    ///
    /// # Panics
    /// If it cannot be made, as all of these.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("surmise-home-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    /// Writes a file of it, and returns its path.
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// Copies a fixture of `references`.
    pub fn copy(&self, fixture: &str, path: &str) -> PathBuf {
        let fixture = fixtures::path(&format!("references/{fixture}"));
        self.write(path, fs::read(fixture).expect("a fixture"))
    }

    /// A folder with a model and a vocabulary of bytes.
    pub fn copy_folder(&self, fixture: &str, folder: &str) {
        for name in ["config.json", "model.safetensors"] {
            self.copy(&format!("{fixture}/{name}"), &format!("{folder}/{name}"));
        }
        let bytes = (33..127).chain(161..173).chain(174..256).chain(256..324);
        let vocab: serde_json::Map<_, _> = bytes
            .filter_map(char::from_u32)
            .enumerate()
            .map(|(id, it)| (it.to_string(), json!(id)))
            .collect();
        let tokenizer = json!({
            "pre_tokenizer": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        });
        self.write(&format!("{folder}/tokenizer.json"), tokenizer.to_string());
    }

    /// The program, which knows no other home.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = binary::command();
        command
            .args(args)
            .env("HOME", &self.0)
            .env("XDG_CONFIG_HOME", self.0.join(".config"));
        for variable in [
            "HF_HOME",
            "HF_HUB_CACHE",
            "OLLAMA_MODELS",
            "XDG_CACHE_HOME",
            "LLAMA_CACHE",
        ] {
            command.env_remove(variable);
        }
        command
    }

    /// The JSON that it prints, and its exit code.
    pub fn json(&self, args: &[&str], change: impl FnOnce(&mut Command)) -> (Value, i32) {
        let mut command = self.command(args);
        command.arg("--json");
        change(&mut command);
        let output = command.output().expect("the binary runs");
        let error = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {error}"));
        (report, output.status.code().expect("an exit code"))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
