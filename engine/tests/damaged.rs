//! Model files that are broken: each is refused with a sentence that names the file, quickly and in little memory, or it
//! loads because the damage hit only numbers.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use surmise_engine::{
    EngineError, EngineOptions, ModelSummary,
    kernels::Isa,
    model::{Checkpoint, transformer::Transformer},
    tokenizer::Tokenizer,
    weights::{Gguf, WeightSource},
};

/// Most time and memory that a broken file may take.
const MAX_TIME: Duration = Duration::from_secs(1);
const MAX_BYTES: usize = 100 << 20;

/// Counts what is allocated: live bytes, and their peak.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed on to the system's allocator; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/references")
}

/// Pseudo-random numbers, the same in every run (Marsaglia's xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % bound
    }
}

/// Loads what is at `path`; `at` tells the damage.
fn load(path: &Path, at: &str) -> Result<(), EngineError> {
    let (mut outcome, mut elapsed) = load_once(path, at);
    if elapsed > MAX_TIME {
        // Somebody else may have had the processor.
        (outcome, elapsed) = load_once(path, at);
    }
    assert!(elapsed < MAX_TIME, "{at}: took {elapsed:?}");
    outcome
}

fn load_once(path: &Path, at: &str) -> (Result<(), EngineError>, Duration) {
    PEAK.store(LIVE.load(Ordering::Relaxed), Ordering::Relaxed);
    let (before, started) = (LIVE.load(Ordering::Relaxed), Instant::now());
    let outcome = catch_unwind(|| -> Result<(), EngineError> {
        let checkpoint = if path.is_dir() {
            Checkpoint::from_folder(path)?
        } else {
            let gguf = Gguf::open(WeightSource::File(path.into()))?;
            Tokenizer::from_gguf(&gguf)?;
            Checkpoint::from_gguf(&gguf)?
        };
        ModelSummary::read(&WeightSource::File(path.into()), &EngineOptions::default())?;
        let config = checkpoint.config().clone();
        Transformer::load(checkpoint.weights(), config, 1, Isa::PORTABLE).map(|_| ())
    });
    let outcome = outcome.unwrap_or_else(|_| panic!("{at}: panicked"));
    let (elapsed, n_bytes) = (
        started.elapsed(),
        PEAK.load(Ordering::Relaxed).saturating_sub(before),
    );
    assert!(n_bytes < MAX_BYTES, "{at}: took {n_bytes} bytes");
    if let Err(error) = &outcome {
        let text = error.to_string();
        assert!(text.len() > 15 && text.len() < 2000, "{at}: {text}");
    }
    (outcome, elapsed)
}

/// Loads a file that was cut short.
fn must_fail(path: &Path, at: &str) -> Result<(), EngineError> {
    let outcome = load(path, at);
    assert!(outcome.is_err(), "{at}: loaded");
    outcome
}

/// Lengths all over the file, most of them in the header.
fn lengths(n_bytes: usize, header_bytes: usize) -> impl Iterator<Item = usize> {
    let in_header = (0..header_bytes).step_by(header_bytes.div_ceil(150));
    in_header.chain((header_bytes..n_bytes).step_by((n_bytes - header_bytes).div_ceil(20)))
}

/// One damage of a copy of `bytes`, within the header.
fn damage(bytes: &[u8], header_bytes: usize, random: &mut Random) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    let at = random.below(header_bytes - 8);
    match random.below(4) {
        0 => damaged[at] ^= 1 << random.below(8),
        1 => damaged[at] = random.below(256) as u8,
        2 => damaged[at..at + 8].fill(0xff),
        _ => damaged[at..at + 4].fill(0),
    }
    damaged
}

/// Copies of a GGUF file with each number of its metadata replaced by numbers that no model has, and what was done.
fn absurd_metadata(path: &Path, bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let gguf = Gguf::open(WeightSource::File(path.into())).unwrap();
    let mut copies = Vec::new();
    for key in gguf.metadata().keys() {
        let entry = [&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat();
        let at = bytes.windows(entry.len()).position(|it| it == entry).unwrap() + entry.len();
        let type_id = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        // Numbers of 4 and 8 bytes, whole and single-precision ones, and the first one of a list.
        let (width, at) = match type_id {
            4..=6 => (4, at + 4),
            10 | 11 => (8, at + 4),
            9 if matches!(bytes[at + 4], 4..=6) => (4, at + 4 + 4 + 8),
            _ => continue,
        };
        let not_a_number = u64::from(f32::NAN.to_bits());
        for number in [0, 3, 1 << 16, 0x7fff_ffff, not_a_number, u64::MAX] {
            let mut copy = bytes.to_vec();
            copy[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
            copies.push((format!("{key} = {number}"), copy));
        }
    }
    assert!(copies.len() > 50, "{}: {} copies", path.display(), copies.len());
    copies
}

/// As [`absurd_metadata`], for a `config.json`.
fn absurd_configurations(config: &Value) -> Vec<(String, Value)> {
    let mut copies = Vec::new();
    let mut paths = vec![String::new()];
    while let Some(path) = paths.pop() {
        let value = config.pointer(&path).unwrap();
        match value {
            Value::Object(object) => paths.extend(object.keys().map(|key| format!("{path}/{key}"))),
            Value::Array(list) => paths.extend((0..list.len()).map(|idx| format!("{path}/{idx}"))),
            _ => {}
        }
        for absurd in [
            json!(0),
            json!(3),
            json!(-1),
            json!(1 << 16),
            json!(0x7fff_ffff),
            json!(0.5),
            json!(1e300),
            json!("x"),
            json!(null),
        ] {
            let mut copy = config.clone();
            *copy.pointer_mut(&path).unwrap() = absurd.clone();
            copies.push((format!("{path} = {absurd}"), copy));
        }
    }
    copies
}

/// A vocabulary of bytes.
fn tokenizer_json() -> String {
    let bytes = (33..127).chain(161..173).chain(174..256).chain(256..324);
    let characters = bytes.filter_map(char::from_u32).enumerate();
    let vocab: serde_json::Map<_, _> = characters.map(|(id, it)| (it.to_string(), json!(id))).collect();
    json!({
        "pre_tokenizer": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
    .to_string()
}

// One test, so that nothing else allocates meanwhile.
#[test]
fn broken_files_are_refused_in_time() {
    let mut random = Random(0x5eed);
    let folder = tempfile::tempdir().unwrap();
    let (mut n_refused, mut n_loaded) = (0, 0);
    let mut count = |outcome: Result<(), EngineError>| match outcome {
        Ok(()) => n_loaded += 1,
        Err(_) => n_refused += 1,
    };
    for (model, file) in [
        ("llama3", "bf16.gguf"),
        ("qwen2-k", "q4_k_m.gguf"),
        ("qwen3-moe", "bf16.gguf"),
        ("gemma3", "bf16.gguf"),
        ("phi3-long", "bf16.gguf"),
        ("starcoder2-nowindow", "bf16.gguf"),
        ("qwen3.5", "bf16.gguf"),
        ("deepseek-v2-lite", "bf16.gguf"),
        ("deepseek-v3", "bf16.gguf"),
        ("gemma4-moe", "bf16.gguf"),
        ("gemma4-e", "bf16.gguf"),
        ("deepseek-v2-k", "joined-q4_k_m.gguf"),
    ] {
        let bytes = fs::read(fixtures().join(model).join(file)).unwrap();
        let data = Gguf::open(WeightSource::File(fixtures().join(model).join(file))).unwrap();
        let header_bytes = bytes.len() - data.tensors().map(|tensor| tensor.n_bytes()).sum::<usize>();
        let path = folder.path().join("damaged.gguf");
        for length in lengths(bytes.len(), header_bytes) {
            let at = format!("{model}, first {length} bytes");
            fs::write(&path, &bytes[..length]).unwrap();
            count(must_fail(&path, &at));
        }
        for round in 0..100 {
            fs::write(&path, damage(&bytes, header_bytes, &mut random)).unwrap();
            count(load(&path, &format!("{model}, damage {round}")));
        }
        for (change, copy) in absurd_metadata(&fixtures().join(model).join(file), &bytes) {
            fs::write(&path, copy).unwrap();
            count(load(&path, &format!("{model}, {change}")));
        }
    }
    for model in [
        "llama3",
        "qwen3-moe",
        "gemma3",
        "phi3",
        "starcoder2",
        "mistral",
        "qwen3.5",
        "qwen3.5-moe",
        "deepseek-v2",
        "deepseek-v3",
        "deepseek-v3-fp8",
        "glm4-lite",
        "gemma4-moe",
        "gemma4-e",
    ] {
        let read = |file: &str| fs::read(fixtures().join(model).join(file)).unwrap();
        let (config, tensors) = (read("config.json"), read("model.safetensors"));
        let header_bytes = 8 + u64::from_le_bytes(tensors[..8].try_into().unwrap()) as usize;
        let copy = tempfile::tempdir().unwrap();
        let write = |file: &str, bytes: &[u8]| fs::write(copy.path().join(file), bytes).unwrap();
        write("config.json", &config);
        write("model.safetensors", &tensors);
        write("tokenizer.json", tokenizer_json().as_bytes());
        load(copy.path(), model).unwrap();
        let tokenizer = tokenizer_json();
        for length in (0..tokenizer.len()).step_by(211) {
            let at = format!("{model}, first {length} bytes of the tokenizer");
            write("tokenizer.json", &tokenizer.as_bytes()[..length]);
            count(must_fail(copy.path(), &at));
        }
        write("tokenizer.json", tokenizer.as_bytes());
        for length in lengths(tensors.len(), header_bytes) {
            let at = format!("{model}, first {length} bytes of tensors");
            write("model.safetensors", &tensors[..length]);
            count(must_fail(copy.path(), &at));
        }
        for round in 0..100 {
            write("model.safetensors", &damage(&tensors, header_bytes, &mut random));
            count(load(copy.path(), &format!("{model}, damage {round} of tensors")));
        }
        write("model.safetensors", &tensors);
        for length in (0..config.len() - 2).step_by(7) {
            let at = format!("{model}, first {length} bytes of the configuration");
            write("config.json", &config[..length]);
            count(must_fail(copy.path(), &at));
        }
        for round in 0..100 {
            write("config.json", &damage(&config, config.len(), &mut random));
            count(load(
                copy.path(),
                &format!("{model}, damage {round} of the configuration"),
            ));
        }
        for (change, copied) in absurd_configurations(&serde_json::from_slice(&config).unwrap()) {
            write("config.json", copied.to_string().as_bytes());
            count(load(copy.path(), &format!("{model}, {change}")));
        }
        // A name that is there twice: the first of two that are as long becomes the other.
        write("config.json", &config);
        let twice = String::from_utf8_lossy(&tensors[8..header_bytes]).replacen("q_proj", "k_proj", 1);
        if twice.as_bytes() != &tensors[8..header_bytes] {
            let copied = [&tensors[..8], twice.as_bytes(), &tensors[header_bytes..]].concat();
            write("model.safetensors", &copied);
            count(must_fail(copy.path(), &format!("{model}, a name twice")));
            // Numbers of a type that matrices do not have.
            let header =
                String::from_utf8_lossy(&tensors[8..header_bytes]).replacen("\"BF16\"", "\"U16\" ", 1);
            let copied = [&tensors[..8], header.as_bytes(), &tensors[header_bytes..]].concat();
            write("model.safetensors", &copied);
            count(must_fail(copy.path(), &format!("{model}, another type")));
        }
    }
    eprintln!("{n_refused} refused, {n_loaded} loaded");
    assert!(n_refused > 10_000, "{n_refused} refused, {n_loaded} loaded");
}
