//! Tokenizers against llama.cpp's test vocabularies, which `vocabularies` finds, and against the `tokenizers` crate.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use expect_test::{Expect, expect};
use gguf_builder::{Builder, Value, byte_level, f32s, open, sentencepiece, strings, u32s};
use serde_json::json;
use surmise_engine::{EngineError, tokenizer::Tokenizer};
use vocabularies::{VOCABULARIES, vocabularies, write_folder};

mod gguf_builder;
mod vocabularies;

fn load(folder: &Path, name: &str) -> Tokenizer {
    Tokenizer::from_gguf(&vocabularies::open(folder, name)).unwrap()
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

#[test]
fn tokenizer_json_gives_the_same_tokens() {
    let Some(folder) = vocabularies() else { return };
    let mut failures = Vec::new();
    for name in VOCABULARIES {
        let gguf = vocabularies::open(&folder, name);
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

/// Texts of random characters of the kinds that expressions tell apart.
fn random_texts(n_texts: usize) -> Vec<String> {
    const PARTS: [&str; 36] = [
        " ", " ", "  ", "\t", "\n", "\r\n", "a", "b", "XML", "é", "É", "ǅ", "ʰ", "\u{301}", "漢", "字", "か",
        "カ", "한", "א", "1", "23", "٣", "Ⅷ", "½", ".", ",", "//", "#", "_", "$", "+", "。", "'s", "'LL",
        "🦀",
    ];
    // Marsaglia's xorshift, the same in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % bound
    };
    let mut text = || -> String {
        let n_parts = 1 + below(24);
        (0..n_parts).map(|_| PARTS[below(PARTS.len())]).collect()
    };
    (0..n_texts).map(|_| text()).collect()
}

/// GPT-OSS has a vocabulary of its own, o200k, and llama.cpp's fixtures do not: its expression, its special tokens and
/// another vocabulary's merges stand in, and the `tokenizers` crate says what they give. So they do for other pre-tokenizers
/// without a fixture: the expressions are those that their models' `tokenizer.json` has.
#[test]
fn pre_tokenizers_without_a_fixture_give_the_tokens_of_the_reference() {
    const WORDS: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|";
    let kimi = WORDS.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]");
    const BLANKS: &str = r"\s*[\r\n]+|\s+(?!\S)|\s+";
    const CONTRACTED: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    let patterns = [
        (
            "gpt-4o",
            vec![format!(
                r"{WORDS}\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{BLANKS}"
            )],
        ),
        (
            "kimi-k2",
            vec![format!(
                r"[\p{{Han}}]+|{kimi}\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{BLANKS}"
            )],
        ),
        (
            "seed-coder",
            vec![format!(
                r"{CONTRACTED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{BLANKS}"
            )],
        ),
        (
            "tekken",
            vec![format!(
                r"{}\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{BLANKS}",
                WORDS.replace(&format!("{CONTRACTED}?"), "")
            )],
        ),
        (
            "dbrx",
            vec![format!(
                r"{CONTRACTED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{BLANKS}"
            )],
        ),
        (
            "deepseek-v3",
            vec![
                r"\p{N}{1,3}".to_owned(),
                "[一-龥぀-ゟ゠-ヿ]+".to_owned(),
                format!(
                    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{{|}}~][A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{BLANKS}"##
                ),
            ],
        ),
    ];
    const HARMONY: [&str; 7] = [
        "<|startoftext|>",
        "<|start|>",
        "<|channel|>",
        "<|message|>",
        "<|call|>",
        "<|return|>",
        "<|end|>",
    ];
    let Some(folder) = vocabularies() else { return };
    let gguf = vocabularies::open(&folder, "gpt-2");
    let metadata = gguf.metadata();
    let texts = metadata.require_str_array("tokenizer.ggml.tokens").unwrap();
    let merges = metadata.require_str_array("tokenizer.ggml.merges").unwrap();
    let n_plain = texts.len() - 1;
    let vocab: serde_json::Map<_, _> = texts[..n_plain]
        .iter()
        .zip(0..)
        .map(|(text, id)| ((*text).to_owned(), json!(id)))
        .collect();
    let added: Vec<_> = HARMONY
        .iter()
        .zip(n_plain..)
        .map(|(text, id)| json!({
            "id": id, "content": text, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        }))
        .collect();
    let mut inputs: Vec<String> = cases(&folder, "qwen35")
        .into_iter()
        .map(|(text, _)| text)
        .collect();
    inputs.extend(
        [
            "HTTPServerError's CamelCase/paths//\n\n x",
            "东京ABC東京 漢字かな交じり's",
            "a\u{301}É\u{300}ǅ ʰʲ ١٢٣٤",
        ]
        .map(str::to_owned),
    );
    inputs.extend(random_texts(400));
    for (name, patterns) in patterns {
        let split = |pattern| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let bytes =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let pre_tokenizers: Vec<_> = patterns.iter().map(split).chain([bytes.clone()]).collect();
        let json = json!({
            "version": "1.0",
            "added_tokens": added,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
            "decoder": bytes,
            "model": {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": name == "tekken"},
        });
        let written = tempfile::tempdir().unwrap();
        let path = written.path().join("tokenizer.json");
        std::fs::write(&path, json.to_string()).unwrap();
        let reference = tokenizers::Tokenizer::from_file(&path).unwrap();
        let from_folder = Tokenizer::from_folder(written.path()).unwrap();
        let tokens = texts[..n_plain]
            .iter()
            .chain(&HARMONY)
            .copied()
            .collect::<Vec<_>>();
        let kinds = (0..tokens.len()).map(|id| if id < n_plain { 1 } else { 3 });
        let file = Builder::new()
            .pair("tokenizer.ggml.model", Value::Str(b"gpt2".to_vec()))
            .pair("tokenizer.ggml.pre", Value::Str(name.as_bytes().to_vec()))
            .pair("tokenizer.ggml.tokens", strings(&tokens))
            .pair("tokenizer.ggml.token_type", u32s(kinds))
            .pair("tokenizer.ggml.merges", strings(&merges));
        let from_gguf = Tokenizer::from_gguf(&open(&file.build()).unwrap()).unwrap();
        for text in &inputs {
            let expected = reference.encode_fast(text.as_str(), false).unwrap();
            for tokenizer in [&from_gguf, &from_folder] {
                assert_eq!(
                    tokenizer.encode(text, false).unwrap(),
                    expected.get_ids(),
                    "{name}: {text:?}"
                );
                assert_eq!(tokenizer.decode(expected.get_ids()), *text, "{name}");
            }
        }
        let harmony = "<|start|>assistant<|channel|>analysis<|message|>It's 12345.<|end|>\n<|return|>";
        let expected = reference.encode_fast(harmony, false).unwrap();
        for tokenizer in [&from_gguf, &from_folder] {
            assert_eq!(
                tokenizer.encode(harmony, true).unwrap(),
                expected.get_ids(),
                "{name}"
            );
            let as_text = tokenizer.encode(harmony, false).unwrap();
            assert!(as_text.iter().all(|id| (*id as usize) < n_plain), "{name}");
            assert_eq!(tokenizer.decode(&as_text), harmony, "{name}");
        }
    }
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
        let gguf = vocabularies::open(&folder, name);
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
