//! Model files that are broken: each is refused with a sentence that names the file, quickly and in little memory, or it
//! loads because the damage hit only numbers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use limits::within_limits;
use serde_json::{Value, json};
use surmise_engine::{
    EngineError, EngineOptions, ModelSummary,
    kernels::Isa,
    model::{Checkpoint, transformer::Transformer},
    tokenizer::Tokenizer,
    weights::{Gguf, WeightSource},
};

mod limits;

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
    let outcome = within_limits(at, || -> Result<(), EngineError> {
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

/// Copies of a GGUF file with a norm of a type that norms do not have, or that cannot be run here.
fn other_types(gguf: &Gguf, bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let tensor = gguf.require("output_norm.weight").unwrap();
    let name = [
        &(tensor.name.len() as u64).to_le_bytes()[..],
        tensor.name.as_bytes(),
    ]
    .concat();
    let at = bytes.windows(name.len()).position(|it| it == name).unwrap() + name.len();
    // A number of dimensions, and one extent.
    let at = at + 4 + 8;
    // Q4_0, Q8_0, Q2_K; IQ2_XXS, I8, I32, F64, TQ1_0, and one that there is not.
    let weights = [2u32, 8, 10].map(|type_id| (type_id, "a norm of weights of type"));
    let others = [16, 24, 26, 28, 34, 99].map(|type_id| (type_id, "a norm of type"));
    weights
        .into_iter()
        .chain(others)
        .map(|(type_id, change)| {
            let mut copy = bytes.to_vec();
            copy[at..at + 4].copy_from_slice(&type_id.to_le_bytes());
            (format!("{change} {type_id}"), copy)
        })
        .collect()
}

/// A GGUF file in two parts, the second with no tensors, each of them cut and changed.
fn damaged_parts(random: &mut Random) -> Vec<(String, Result<(), EngineError>)> {
    let folder = tempfile::tempdir().unwrap();
    let path = |part: usize| folder.path().join(format!("model-0000{part}-of-00002.gguf"));
    let pair = |key: &str, type_id: u32, value: &[u8]| {
        let key_bytes = (key.len() as u64).to_le_bytes();
        [&key_bytes[..], key.as_bytes(), &type_id.to_le_bytes(), value].concat()
    };
    let (u16_id, string_id) = (2, 8);
    let whole = fs::read(fixtures().join("llama3/bf16.gguf")).unwrap();
    let mut pairs = [
        pair("split.count", u16_id, &2u16.to_le_bytes()),
        pair("split.no", u16_id, &0u16.to_le_bytes()),
    ]
    .concat();
    // As many bytes as leave the tensors where they are after alignment.
    let n_filling = 32 - (pairs.len() + pair("filling", string_id, &[0; 8]).len()) % 32;
    let filling = [&(n_filling as u64).to_le_bytes()[..], &b"-".repeat(n_filling)].concat();
    pairs.extend(pair("filling", string_id, &filling));
    let mut first = [&whole[..24], &pairs, &whole[24..]].concat();
    let n_pairs = u64::from_le_bytes(first[16..24].try_into().unwrap()) + 3;
    first[16..24].copy_from_slice(&n_pairs.to_le_bytes());
    // No tensors, one pair.
    let head = [&whole[..8], &0u64.to_le_bytes(), &1u64.to_le_bytes()].concat();
    let second = [head, pair("split.no", u16_id, &1u16.to_le_bytes())].concat();
    let write = |parts: [&[u8]; 2]| {
        fs::write(path(1), parts[0]).unwrap();
        fs::write(path(2), parts[1]).unwrap();
    };
    write([&first, &second]);
    load(&path(1), "two parts").unwrap();
    let mut outcomes = Vec::new();
    for length in 0..second.len() {
        let at = format!("first {length} bytes of a second part");
        write([&first, &second[..length]]);
        outcomes.push((at.clone(), load(&path(1), &at)));
    }
    for length in (0..first.len()).step_by(first.len() / 50) {
        let at = format!("first {length} bytes of a first part");
        write([&first[..length], &second]);
        outcomes.push((at.clone(), load(&path(1), &at)));
    }
    for round in 0..100 {
        let at = format!("damage {round} of parts");
        match round % 2 {
            0 => write([&damage(&first, 24 + pairs.len(), random), &second]),
            _ => write([&first, &damage(&second, second.len(), random)]),
        }
        outcomes.push((at.clone(), load(&path(1), &at)));
    }
    write([&first, &first]);
    outcomes.push((
        "the first part twice".into(),
        load(&path(1), "the first part twice"),
    ));
    fs::remove_file(path(2)).unwrap();
    outcomes.push((
        "a part that is missing".into(),
        load(&path(1), "a part that is missing"),
    ));
    outcomes
}

/// A folder with one shard and its index, which is cut and changed.
fn damaged_index(random: &mut Random) -> Vec<(String, Result<(), EngineError>)> {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, bytes: &[u8]| fs::write(folder.path().join(file), bytes).unwrap();
    let shard = "model-00001-of-00001.safetensors";
    let tensors = fs::read(fixtures().join("llama3/model.safetensors")).unwrap();
    let header_bytes = u64::from_le_bytes(tensors[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Value> =
        serde_json::from_slice(&tensors[8..8 + header_bytes]).unwrap();
    let names = header.keys().filter(|name| *name != "__metadata__");
    let map: serde_json::Map<_, _> = names.map(|name| (name.clone(), json!(shard))).collect();
    let index = json!({"metadata": {"total_size": tensors.len()}, "weight_map": map}).to_string();
    write(
        "config.json",
        &fs::read(fixtures().join("llama3/config.json")).unwrap(),
    );
    write("tokenizer.json", tokenizer_json().as_bytes());
    write(shard, &tensors);
    let mut outcomes = Vec::new();
    let mut try_index = |at: String, bytes: &[u8]| {
        write("model.safetensors.index.json", bytes);
        outcomes.push((at.clone(), load(folder.path(), &at)));
    };
    try_index("an index, no damage".into(), index.as_bytes());
    for length in (0..index.len()).step_by(17) {
        try_index(
            format!("first {length} bytes of the index"),
            &index.as_bytes()[..length],
        );
    }
    for round in 0..200 {
        let at = format!("damage {round} of the index");
        try_index(at, &damage(index.as_bytes(), index.len(), random));
    }
    for other in [
        "",
        ".",
        "..",
        "/",
        "../model.safetensors",
        "/dev/zero",
        "config.json",
        "model.safetensors.index.json",
        "x\\u0000",
    ] {
        try_index(
            format!("tensors in {other:?}"),
            index.replace(shard, other).as_bytes(),
        );
    }
    for (at, json) in [
        ("no map", json!({})),
        ("an empty map", json!({"weight_map": {}})),
        (
            "a map of numbers",
            json!({"weight_map": {"model.norm.weight": 7}}),
        ),
        ("a list for a map", json!({"weight_map": [shard]})),
    ] {
        try_index(at.into(), json.to_string().as_bytes());
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    try_index("an index nested deeply".into(), deep.as_bytes());
    assert!(outcomes[0].1.is_ok(), "{:?}", outcomes[0].1);
    outcomes
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

/// A tokenizer without merges, in both formats, or with some that are no pairs.
fn damaged_merges() -> Vec<(String, Result<(), EngineError>)> {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixtures().join("llama3").join(file), folder.path().join(file)).unwrap();
    }
    let tokenizer: Value = serde_json::from_str(&tokenizer_json()).unwrap();
    let wrong = [
        json!(null),
        json!("a b"),
        json!(["ab"]),
        json!([["a"]]),
        json!([["a", 1]]),
    ];
    let of_folder = wrong.map(|merges| {
        let at = format!("llama3, merges {merges}");
        let mut tokenizer = tokenizer.clone();
        tokenizer["model"]["merges"] = merges;
        fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        (at.clone(), must_fail(folder.path(), &at))
    });

    let mut bytes = fs::read(fixtures().join("llama3/bf16.gguf")).unwrap();
    let key = b"tokenizer.ggml.merges";
    let start = bytes.windows(key.len()).position(|it| it == key).unwrap();
    bytes[start + key.len() - 1] = b'_';
    let path = folder.path().join("damaged.gguf");
    fs::write(&path, bytes).unwrap();
    let at = "llama3, no merges".to_owned();
    let of_file = (at.clone(), must_fail(&path, &at));

    let all: Vec<_> = of_folder.into_iter().chain([of_file]).collect();
    for (at, outcome) in &all {
        let error = outcome.as_ref().unwrap_err().to_string();
        let is_named = error.contains("merge") || error.contains("expected a sequence");
        assert!(is_named, "{at}: {error}");
    }
    all
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
        ("gpt-oss", "bf16.gguf"),
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
        for (change, copy) in other_types(&data, &bytes) {
            fs::write(&path, copy).unwrap();
            let at = format!("{model}, {change}");
            // Any type of weights will do for a norm, if its bytes are there.
            let outcome = load(&path, &at);
            assert!(outcome.is_err() || change.contains("weights"), "{at}: loaded");
            count(outcome);
        }
    }
    for (at, outcome) in damaged_parts(&mut random)
        .into_iter()
        .chain(damaged_index(&mut random))
        .chain(damaged_merges())
    {
        assert!(outcome.is_err() || at.contains("damage"), "{at}: loaded");
        count(outcome);
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
        "gpt-oss",
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
