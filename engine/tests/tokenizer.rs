//! Tokenizers against llama.cpp's test vocabularies, which are not in the repository: `SURMISE_FIXTURES`, or
//! `../shared/fixtures` beside it, has a folder `tokenizers` with `ggml-vocab-*.gguf` and their `.inp` and `.out`.

use std::{
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use expect_test::{Expect, expect};
use gguf_builder::{Builder, Value, byte_level, f32s, open, sentencepiece, strings, u32s};
use serde_json::json;
use surmise_engine::{
    EngineError,
    tokenizer::Tokenizer,
    weights::{Gguf, WeightSource},
};

mod gguf_builder;

const VOCABULARIES: [&str; 13] = [
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gemma-4",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
];

/// Folder of the vocabularies; says so and gives `None` where they are absent, and panics in CI.
fn vocabularies() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    let folder = std::env::var_os("SURMISE_FIXTURES")
        .map_or_else(beside, PathBuf::from)
        .join("tokenizers");
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "no vocabularies in {}; set SURMISE_FIXTURES",
        folder.display()
    );
    // Not `eprintln!`: the test harness keeps that of tests that pass to itself.
    drop(writeln!(
        std::io::stderr(),
        "skipped: no vocabularies in {}; set SURMISE_FIXTURES",
        folder.display()
    ));
    None
}

fn load(folder: &Path, name: &str) -> Tokenizer {
    let gguf = Gguf::open(WeightSource::File(folder.join(format!("ggml-vocab-{name}.gguf")))).unwrap();
    Tokenizer::from_gguf(&gguf).unwrap()
}

/// The cases of a vocabulary: text and tokens.
fn cases(folder: &Path, name: &str) -> Vec<(String, Vec<u32>)> {
    let read = |extension| {
        std::fs::read_to_string(folder.join(format!("ggml-vocab-{name}.gguf.{extension}"))).unwrap()
    };
    let (input, output) = (read("inp"), read("out"));
    const SEPARATOR: &str = "\n__ggml_vocab_test__\n";
    let texts: Vec<&str> = input
        .strip_suffix(SEPARATOR)
        .unwrap_or(&input)
        .split(SEPARATOR)
        .collect();
    let tokens: Vec<&str> = output.lines().collect();
    assert_eq!(texts.len(), tokens.len(), "{name}");
    let parse = |line: &str| line.split_whitespace().map(|id| id.parse().unwrap()).collect();
    texts
        .into_iter()
        .map(str::to_owned)
        .zip(tokens.into_iter().map(parse))
        .collect()
}

#[test]
fn encodes_and_decodes_as_the_reference_does() {
    let Some(folder) = vocabularies() else { return };
    let mut failures = Vec::new();
    let mut n_cases = 0;
    for name in VOCABULARIES {
        let tokenizer = load(&folder, name);
        let writes_space = matches!(name, "llama-spm" | "phi-3");
        for (text, expected) in cases(&folder, name) {
            n_cases += 1;
            let tokens = tokenizer.encode(&text, false).unwrap();
            if tokens != expected {
                failures.push(format!(
                    "{name}: {text:?}\n  expected {expected:?}\n  found    {tokens:?}"
                ));
            }
            let space = if writes_space && !text.is_empty() { " " } else { "" };
            let decoded = tokenizer.decode(&expected);
            if decoded != format!("{space}{text}") {
                failures.push(format!("{name}: {text:?} decodes to {decoded:?}"));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {n_cases} cases fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
    println!("{n_cases} cases of {} vocabularies", VOCABULARIES.len());
}

/// The pre-tokenizer that a family's `tokenizer.json` has.
fn pre_tokenizer(name: &str) -> serde_json::Value {
    let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let sequence = |parts: Vec<serde_json::Value>| json!({"type": "Sequence", "pretokenizers": parts});
    match name {
        "gpt-2" => bytes(true),
        "qwen2" => sequence(vec![split(QWEN), bytes(false)]),
        "llama-bpe" => sequence(vec![
            split(&QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")),
            bytes(false),
        ]),
        "starcoder" => sequence(vec![
            json!({"type": "Digits", "individual_digits": true}),
            bytes(true),
        ]),
        "deepseek-coder" => sequence(vec![
            split(r"[\r\n]"),
            split(r"\s?\p{L}+"),
            split(r"\s?\p{P}+"),
            split("[一-龥ࠀ-一가-퟿]+"),
            json!({"type": "Digits", "individual_digits": true}),
            bytes(false),
        ]),
        _ => serde_json::Value::Null,
    }
}

/// A folder with the vocabulary of a GGUF file, in the words of Hugging Face.
fn write_folder(gguf: &Gguf, name: &str) -> tempfile::TempDir {
    let metadata = gguf.metadata();
    let texts = metadata.require_str_array("tokenizer.ggml.tokens").unwrap();
    let kinds = metadata
        .get_u32_array("tokenizer.ggml.token_type")
        .unwrap()
        .unwrap();
    let is_added = |id: usize| matches!(kinds[id], 3 | 4);
    let vocab: serde_json::Map<_, _> = (0..)
        .zip(&texts)
        .filter(|&(id, _)| !is_added(id))
        .map(|(id, text)| ((*text).to_owned(), json!(id)))
        .collect();
    let added: Vec<_> = (0..)
        .zip(&texts)
        .filter(|&(id, _)| is_added(id))
        .map(|(id, text)| json!({"id": id, "content": text, "special": kinds[id] == 3}))
        .collect();
    let merges = match metadata.get_str_array("tokenizer.ggml.merges").unwrap() {
        // Both spellings that transformers has had.
        Some(lines) if name == "qwen2" => lines
            .iter()
            .map(|line| json!(line.split(' ').collect::<Vec<_>>()))
            .collect(),
        Some(lines) => lines.iter().map(|line| json!(line)).collect(),
        None => merges_by_score(
            &texts,
            &metadata.get_f32_array("tokenizer.ggml.scores").unwrap().unwrap(),
        ),
    };
    let is_sentencepiece = metadata.require_str("tokenizer.ggml.model").unwrap() == "llama";
    let json = json!({
        "added_tokens": added,
        "normalizer": is_sentencepiece.then(|| json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]})),
        "pre_tokenizer": pre_tokenizer(name),
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": merges,
            "byte_fallback": is_sentencepiece,
            "ignore_merges": name == "llama-bpe",
            "unk_token": is_sentencepiece.then_some("<unk>"),
        },
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let end = metadata.get_u32("tokenizer.ggml.eos_token_id").unwrap().unwrap() as usize;
    let config = json!({"bos_token": texts[1], "add_bos_token": is_sentencepiece, "eos_token": {"content": texts[end]}});
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

/// Every way to make a token of two others, the best token first: how transformers turns scores into merges.
fn merges_by_score(texts: &[&str], scores: &[f32]) -> Vec<serde_json::Value> {
    let ids: HashMap<&str, usize> = texts.iter().enumerate().map(|(id, text)| (*text, id)).collect();
    let mut merges = Vec::new();
    for (id, text) in texts.iter().enumerate() {
        for (split, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(split);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push((id, left, right));
            }
        }
    }
    merges.sort_by(|a, b| scores[b.0].total_cmp(&scores[a.0]));
    merges
        .into_iter()
        .map(|(_, left, right)| json!(format!("{left} {right}")))
        .collect()
}

#[test]
fn tokenizer_json_gives_the_same_tokens() {
    let Some(folder) = vocabularies() else { return };
    let mut failures = Vec::new();
    for name in [
        "gpt-2",
        "qwen2",
        "llama-bpe",
        "starcoder",
        "deepseek-coder",
        "llama-spm",
        "phi-3",
    ] {
        let path = folder.join(format!("ggml-vocab-{name}.gguf"));
        let gguf = Gguf::open(WeightSource::File(path)).unwrap();
        let from_gguf = Tokenizer::from_gguf(&gguf).unwrap();
        let written = write_folder(&gguf, name);
        let tokenizer = Tokenizer::from_folder(written.path()).unwrap();
        for (text, expected) in cases(&folder, name) {
            let tokens = tokenizer.encode(&text, false).unwrap();
            if tokens != expected {
                failures.push(format!(
                    "{name}: {text:?}\n  expected {expected:?}\n  found    {tokens:?}"
                ));
            }
            assert_eq!(
                tokenizer.decode(&expected),
                from_gguf.decode(&expected),
                "{name}: {text:?}"
            );
        }
        assert_eq!(tokenizer.end_tokens(), from_gguf.end_tokens(), "{name}");
        assert_eq!(tokenizer.vocab_size(), from_gguf.vocab_size(), "{name}");
        let is_sentencepiece = matches!(name, "llama-spm" | "phi-3");
        assert_eq!(tokenizer.bos(), is_sentencepiece.then_some(1), "{name}");
    }
    assert!(
        failures.is_empty(),
        "{} cases fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn a_tokenizer_json_that_does_not_hold_together_is_refused() {
    let check = |json: serde_json::Value, expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        let error = Tokenizer::from_folder(folder.path()).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let bytes = json!({"type": "ByteLevel"});
    check(
        json!({"model": {"type": "Unigram"}}),
        "tokenizer `Unigram` is not supported; known: BPE",
    );
    check(json!({"model": {"vocab": {}}}), "the vocabulary is empty");
    check(json!({"model": {"vocab": {"a": 4_000_000_000u32}}}), "ids below");
    check(
        json!({"model": {"vocab": {"a": 0}}, "pre_tokenizer": bytes}),
        "model.merges: the key is missing",
    );
    check(json!({"model": {"vocab": {"a": -1}}}), "model.vocab");
    check(
        json!({"model": {"vocab": {"a": 0, "b": 0}, "merges": []}, "pre_tokenizer": bytes}),
        "have the id 0",
    );
    check(
        json!({"model": {"vocab": {"a": 0}, "merges": ["ab"]}}),
        "`ab` is not two tokens",
    );
    let wrong = json!({"type": "Sequence", "pretokenizers": [bytes, {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}]});
    check(
        json!({"model": {"vocab": {"a": 0}, "merges": []}, "pre_tokenizer": wrong}),
        "pre_tokenizer: `(`",
    );
}

#[test]
fn megabytes_of_one_character_are_encoded_in_time() {
    let Some(folder) = vocabularies() else { return };
    for name in [
        "qwen2",
        "llama-bpe",
        "starcoder",
        "deepseek-llm",
        "llama-spm",
        "gemma-4",
    ] {
        let tokenizer = load(&folder, name);
        for unit in ["a", " ", "\n", "<", "é", "<|endoftext|>", "<0x00>"] {
            let text = unit.repeat(1_000_000 / unit.len());
            let started = Instant::now();
            let tokens = tokenizer.encode(&text, false).unwrap();
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "{name}: {unit:?}: {:?}",
                started.elapsed()
            );
            assert_eq!(
                tokenizer.decode(&tokens).trim_start_matches(' '),
                text.trim_start_matches(' '),
                "{name}: {unit:?}"
            );
        }
    }
}

#[test]
fn no_text_becomes_a_control_token() {
    let Some(folder) = vocabularies() else { return };
    for name in VOCABULARIES {
        let path = folder.join(format!("ggml-vocab-{name}.gguf"));
        let gguf = Gguf::open(WeightSource::File(path)).unwrap();
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).unwrap());
        let texts = gguf
            .metadata()
            .require_str_array("tokenizer.ggml.tokens")
            .unwrap();
        let n_control = (0..tokenizer.vocab_size() as u32)
            .filter(|&id| tokenizer.is_control(id))
            .count();
        assert!(n_control > 0 && !tokenizer.end_tokens().is_empty(), "{name}");
        for (id, spelling) in (0..).zip(texts).filter(|&(id, _)| tokenizer.is_control(id)) {
            let tokens = tokenizer
                .encode(&format!("x{spelling}{spelling} y"), false)
                .unwrap();
            assert!(
                !tokens.iter().any(|&id| tokenizer.is_control(id)),
                "{name}: {spelling}: {tokens:?}"
            );
            assert!(
                tokenizer.encode(spelling, true).unwrap().contains(&id),
                "{name}: {spelling} is not found"
            );
        }
    }
}

#[test]
fn sentencepiece_follows_the_scores() {
    let pieces = [
        ("▁", -9.0),
        ("a", -8.0),
        ("b", -8.0),
        ("ab", -3.0),
        ("▁a", -1.0),
        ("ba", -2.0),
        ("é", -5.0),
    ];
    let tokenizer = Tokenizer::from_gguf(&open(&sentencepiece(&pieces).build()).unwrap()).unwrap();
    let texts = |text: &str| -> Vec<String> {
        let tokens = tokenizer.encode(text, false).unwrap();
        tokens
            .iter()
            .map(|&id| tokenizer.token_bytes(id).escape_ascii().to_string())
            .collect()
    };
    // A space comes first; `▁a` has the best score, then `ba`.
    assert_eq!(texts("aba"), [" a", "ba"]);
    assert_eq!(texts("b▁a"), [" ", "b", " a"]);
    assert_eq!(texts("é漢"), [" ", "\\xc3\\xa9", "\\xe6", "\\xbc", "\\xa2"]);
    assert_eq!((tokenizer.bos(), tokenizer.end_tokens()), (Some(1), &[2][..]));
    assert_eq!(tokenizer.encode("</s>", true).unwrap(), [2]);
    assert!(
        !tokenizer
            .encode("</s><s><unk><0x0A>", false)
            .unwrap()
            .iter()
            .any(|&id| id <= 2 || id == 3 + 0x0a)
    );
}

#[test]
fn user_defined_tokens_are_text_unless_they_are_markers() {
    let special = [
        ("<|end|>", 4),
        ("<tool_call>", 4),
        ("    ", 4),
        ("<|endoftext|>", 3),
    ];
    let file = byte_level("gpt-2", &special).pair("tokenizer.ggml.merges", strings(&[]));
    let tokenizer = Tokenizer::from_gguf(&open(&file.build()).unwrap()).unwrap();
    assert_eq!(tokenizer.encode("a    b", false).unwrap(), [97, 258, 98]);
    assert!(
        tokenizer
            .encode("<|end|><tool_call><|endoftext|>", false)
            .unwrap()
            .iter()
            .all(|&id| id < 256)
    );
    assert_eq!(
        tokenizer.encode("<|end|><tool_call><|endoftext|>", true).unwrap(),
        [256, 257, 259]
    );
    assert_eq!(tokenizer.end_tokens(), [256, 259]);
}

#[test]
fn vocabularies_that_do_not_hold_together() {
    let no_merges = || byte_level("qwen2", &[("ab", 1)]);
    let base = || no_merges().pair("tokenizer.ggml.merges", strings(&["a b"]));
    let check = |file: Builder, expected: Expect| {
        let error = Tokenizer::from_gguf(&open(&file.build()).unwrap())
            .err()
            .expect("must be refused");
        assert!(
            matches!(
                error,
                EngineError::BadFile { .. } | EngineError::Unsupported { .. }
            ),
            "{error:?}"
        );
        expected.assert_eq(&error.to_string());
    };
    let tokenizer = Tokenizer::from_gguf(&open(&base().build()).unwrap()).unwrap();
    assert_eq!(tokenizer.encode("cab", false).unwrap(), [99, 256]);

    check(
        Builder::new(),
        expect!["<embedded>: metadata `tokenizer.ggml.model`: the key is missing"],
    );
    check(
        no_merges(),
        expect!["<embedded>: metadata `tokenizer.ggml.merges`: the key is missing"],
    );
    check(
        no_merges().pair("tokenizer.ggml.merges", strings(&["ab"])),
        expect![
            "<embedded>: metadata `tokenizer.ggml.merges`: merge 0, `ab`, is not two tokens with a space between"
        ],
    );
    check(
        base().pair("tokenizer.ggml.eos_token_id", Value::U32(257)),
        expect![
            "<embedded>: metadata `tokenizer.ggml.eos_token_id`: token 257 is outside the vocabulary of 257"
        ],
    );
    check(
        base().pair("tokenizer.ggml.bos_token_id", Value::Str(b"x".to_vec())),
        expect![
            "<embedded>: metadata `tokenizer.ggml.bos_token_id`: expected an integer from 0 to 4294967295, found string"
        ],
    );
    let mut twice = byte_level("qwen2", &[("ab", 1), ("ab", 1)]);
    twice = twice.pair("tokenizer.ggml.merges", strings(&[]));
    check(
        twice,
        expect!["<embedded>: metadata `tokenizer.ggml.tokens`: tokens 256 and 257 have the same text"],
    );
    let mut short = sentencepiece(&[("a", 0.0)]);
    short.pairs[3].1 = f32s([0.0; 4].into_iter());
    check(
        short,
        expect!["<embedded>: metadata `tokenizer.ggml.scores`: expected 260 scores, found 4"],
    );
    let mut short = base();
    short.pairs[3].1 = u32s([1; 3].into_iter());
    check(
        short,
        expect!["<embedded>: metadata `tokenizer.ggml.token_type`: expected 257 kinds, found 3"],
    );
    let mut empty = base();
    empty.pairs[2].1 = strings(&[]);
    check(
        empty,
        expect!["<embedded>: metadata `tokenizer.ggml.tokens`: the vocabulary is empty"],
    );
    let mut other = base();
    other.pairs[0].1 = Value::Str(b"bert".to_vec());
    check(
        other,
        expect!["tokenizer `bert` is not supported; known: gpt2, llama, gemma4"],
    );
}

#[test]
fn a_character_without_a_token_is_an_error() {
    let file = Builder::new()
        .pair("tokenizer.ggml.model", Value::Str(b"gpt2".to_vec()))
        .pair("tokenizer.ggml.pre", Value::Str(b"gpt-2".to_vec()))
        .pair("tokenizer.ggml.tokens", strings(&["a"]))
        .pair("tokenizer.ggml.merges", strings(&[]));
    let tokenizer = Tokenizer::from_gguf(&open(&file.build()).unwrap()).unwrap();
    let error = tokenizer.encode("ab", false).unwrap_err();
    expect!["bad request: the model's vocabulary has no token for the byte 0x62"]
        .assert_eq(&error.to_string());
}
