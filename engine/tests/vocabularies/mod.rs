//! llama.cpp's test vocabularies, which are not in the repository: `SURMISE_FIXTURES`, or `../shared/fixtures` beside it, has a
//! folder `tokenizers` with `ggml-vocab-*.gguf` and their `.inp` and `.out`.

use std::{
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::json;
use surmise_engine::weights::{Gguf, WeightSource};

pub(crate) const VOCABULARIES: [&str; 13] = [
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
pub(crate) fn vocabularies() -> Option<PathBuf> {
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

/// The file with a vocabulary.
pub(crate) fn open(folder: &Path, name: &str) -> Gguf {
    Gguf::open(WeightSource::File(folder.join(format!("ggml-vocab-{name}.gguf")))).unwrap()
}

const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";

/// The pre-tokenizer that a family's `tokenizer.json` has.
fn pre_tokenizer(name: &str) -> serde_json::Value {
    let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let sequence = |parts: Vec<serde_json::Value>| json!({"type": "Sequence", "pretokenizers": parts});
    match name {
        "gpt-2" | "mpt" => bytes(true),
        "qwen2" => sequence(vec![split(QWEN), bytes(false)]),
        "llama-bpe" => sequence(vec![
            split(&QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")),
            bytes(false),
        ]),
        "qwen35" => sequence(vec![
            split(
                &QWEN
                    .replace(r"\p{L}+", r"[\p{L}\p{M}]+")
                    .replace(r"[^\s\p{L}", r"[^\s\p{L}\p{M}"),
            ),
            bytes(false),
        ]),
        "falcon" => sequence(vec![
            json!({"type": "Punctuation", "behavior": "Contiguous"}),
            bytes(true),
            split("[0-9][0-9][0-9]"),
        ]),
        "starcoder" | "refact" => sequence(vec![
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
        "deepseek-llm" => sequence(vec![
            split(r"[\r\n]"),
            split(DEEPSEEK_LETTERS),
            split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            split(r"\s+$"),
            split("[一-龥ࠀ-一가-퟿]+"),
            json!({"type": "Digits", "individual_digits": true}),
            bytes(false),
        ]),
        // No text has spaces once they are replaced.
        "gemma-4" => {
            json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false})
        }
        _ => serde_json::Value::Null,
    }
}

/// A folder with the vocabulary of a GGUF file, in the words of Hugging Face.
pub(crate) fn write_folder(gguf: &Gguf, name: &str) -> tempfile::TempDir {
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
    let is_sentencepiece = matches!(name, "llama-spm" | "phi-3");
    let is_byte_level = !is_sentencepiece && name != "gemma-4";
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prefix = json!({"type": "Prepend", "prepend": "▁"});
    let normalizers = if is_sentencepiece {
        vec![prefix, space]
    } else {
        vec![space]
    };
    let json = json!({
        "added_tokens": added,
        "normalizer": (!is_byte_level).then(|| json!({"type": "Sequence", "normalizers": normalizers})),
        "pre_tokenizer": pre_tokenizer(name),
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": merges,
            "byte_fallback": !is_byte_level,
            "ignore_merges": name == "llama-bpe",
            "unk_token": (!is_byte_level).then_some("<unk>"),
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
