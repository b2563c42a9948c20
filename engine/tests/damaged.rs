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

use surmise_engine::{
    EngineError,
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
        let config = checkpoint.config().clone();
        Transformer::load(checkpoint.weights(), config, 1, Isa::PORTABLE).map(|_| ())
    });
    let outcome = outcome.unwrap_or_else(|_| panic!("{at}: panicked"));
    let (elapsed, n_bytes) = (
        started.elapsed(),
        PEAK.load(Ordering::Relaxed).saturating_sub(before),
    );
    assert!(elapsed < MAX_TIME, "{at}: took {elapsed:?}");
    assert!(n_bytes < MAX_BYTES, "{at}: took {n_bytes} bytes");
    if let Err(error) = &outcome {
        let text = error.to_string();
        assert!(text.len() > 15 && text.len() < 2000, "{at}: {text}");
    }
    outcome
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
    }
    for model in [
        "llama3",
        "qwen3-moe",
        "gemma3",
        "phi3",
        "starcoder2",
        "mistral",
        "qwen3.5",
        "deepseek-v3",
        "gemma4-e",
    ] {
        let read = |file: &str| fs::read(fixtures().join(model).join(file)).unwrap();
        let (config, tensors) = (read("config.json"), read("model.safetensors"));
        let header_bytes = 8 + u64::from_le_bytes(tensors[..8].try_into().unwrap()) as usize;
        let copy = tempfile::tempdir().unwrap();
        let write = |file: &str, bytes: &[u8]| fs::write(copy.path().join(file), bytes).unwrap();
        write("config.json", &config);
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
    }
    eprintln!("{n_refused} refused, {n_loaded} loaded");
    assert!(n_refused > 2500, "{n_refused} refused, {n_loaded} loaded");
}
