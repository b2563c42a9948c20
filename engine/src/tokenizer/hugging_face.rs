//! A tokenizer from the files of a Hugging Face folder: `tokenizer.json`, and what two files beside it say about the
//! tokens at which texts begin and answers end.

use std::{collections::HashMap, path::Path};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Algorithm, Splitter, Tokenizer, collect_merges, collect_vocabulary, parse_byte_token,
    split::published_gpt2,
    split_merge, unmark_spaces,
    vocabulary::{ByteChars, TokenKind},
};
use crate::{error::EngineError, weights::WeightSource};

/// Largest id that a file may give a token.
const MAX_ID: u32 = 1 << 24;

#[derive(Deserialize)]
struct TokenizerJson {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    vocab: Value,
    #[serde(default)]
    merges: Option<Vec<Merge>>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    unk_token: Option<String>,
}

/// A merge in the older spelling and in the newer one.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a merge expected: two tokens with a space between, or a list of two"
)]
enum Merge {
    Line(String),
    Pair(String, String),
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

impl Tokenizer {
    /// Builds the tokenizer of a folder as Hugging Face lays it out.
    ///
    /// # Errors
    /// [`EngineError::Io`] if there is no `tokenizer.json`, [`EngineError::BadFile`] for one that does not hold together,
    /// [`EngineError::Unsupported`] for a kind of tokenizer that is not byte-pair encoding.
    pub fn from_folder(folder: &Path) -> Result<Self, EngineError> {
        let path = folder.join("tokenizer.json");
        let bad = |field: &str, reason: String| EngineError::BadFile {
            path: path.clone(),
            field: field.into(),
            reason,
        };
        let json: TokenizerJson = read_json(&path)?;
        let kind = json.model.kind.as_deref().unwrap_or("BPE");
        if kind != "BPE" {
            return Err(EngineError::Unsupported {
                what: "tokenizer",
                found: kind.into(),
                known: "BPE".into(),
            });
        }
        let vocab: HashMap<String, u32> =
            serde_json::from_value(json.model.vocab).map_err(|err| bad("model.vocab", err.to_string()))?;
        let tokens = tokens_by_id(
            &vocab,
            &json.added_tokens,
            json.model.byte_fallback,
            json.model.unk_token.as_deref(),
        )
        .map_err(|reason| bad("model.vocab", reason))?;
        let Some(merges) = &json.model.merges else {
            return Err(bad("model.merges", "the key is missing".into()));
        };
        let mut pairs = Vec::with_capacity(merges.len());
        for merge in merges {
            pairs.push(match merge {
                Merge::Pair(left, right) => (left.as_str(), right.as_str()),
                Merge::Line(line) => split_merge(line).ok_or_else(|| {
                    bad(
                        "model.merges",
                        format!("`{line}` is not two tokens with a space between"),
                    )
                })?,
            });
        }
        let is_byte_level = mentions(&json.pre_tokenizer, "ByteLevel");
        let characters = ByteChars::new();
        let from_characters = |text: &str, out: &mut Vec<u8>| characters.decode(text, out);
        let decode: &dyn Fn(&str, &mut Vec<u8>) = if is_byte_level {
            &from_characters
        } else {
            &unmark_spaces
        };
        let (vocabulary, spellings) =
            collect_vocabulary(&tokens, decode).map_err(|reason| bad("model.vocab", reason))?;
        let merges = collect_merges(&pairs, &vocabulary, decode);
        let algorithm = if is_byte_level {
            let mut patterns = Vec::new();
            collect_patterns(&json.pre_tokenizer, &mut patterns)
                .map_err(|reason| bad("pre_tokenizer", reason))?;
            let splitter = Splitter::from_published(&patterns, json.model.ignore_merges)
                .map_err(|reason| bad("pre_tokenizer", reason))?;
            Algorithm::ByteLevel { splitter, merges }
        } else {
            Algorithm::Characters {
                splitter: Splitter::none(),
                merges,
                adds_space: adds_space(&json.normalizer) || adds_space(&json.pre_tokenizer),
            }
        };
        let mut tokenizer = Self::new(vocabulary, spellings, algorithm);
        tokenizer.read_special_ids(folder, &json.post_processor, json.model.unk_token.as_deref())?;
        Ok(tokenizer)
    }

    fn read_special_ids(
        &mut self,
        folder: &Path,
        post_processor: &Value,
        unknown: Option<&str>,
    ) -> Result<(), EngineError> {
        let config: Value = read_optional_json(&folder.join("tokenizer_config.json"))?;
        let generation: Value = read_optional_json(&folder.join("generation_config.json"))?;
        let spelled = |key: &str| {
            let value = &config[key];
            let spelling = value.as_str().or(value["content"].as_str())?;
            self.special_token(spelling).map(|id| (spelling, id))
        };
        let bos = spelled("bos_token").filter(|(spelling, _)| {
            let by_template = post_processor
                .to_string()
                .contains(&Value::from(*spelling).to_string());
            config["add_bos_token"].as_bool().unwrap_or(by_template)
        });
        let in_vocabulary = |id: &Value| {
            let id = u32::try_from(id.as_u64()?).ok()?;
            ((id as usize) < self.vocab_size()).then_some(id)
        };
        let eos = &generation["eos_token_id"];
        let listed = eos.as_array().map_or(std::slice::from_ref(eos), Vec::as_slice);
        let ends: Vec<u32> = listed
            .iter()
            .filter_map(in_vocabulary)
            .chain(spelled("eos_token").map(|(_, id)| id))
            .collect();
        let bos = bos.map(|(_, id)| id);
        let unknown = unknown.and_then(|it| self.special_token(it));
        self.set_special_ids(bos, unknown, ends.into_iter());
        Ok(())
    }
}

/// Texts and kinds in order of ids; ids that nothing has are unused.
fn tokens_by_id<'a>(
    vocab: &'a HashMap<String, u32>,
    added: &'a [AddedToken],
    byte_fallback: bool,
    unknown: Option<&str>,
) -> Result<Vec<(&'a str, TokenKind)>, String> {
    let ids = vocab.values().copied().chain(added.iter().map(|token| token.id));
    let n_tokens = match ids.max() {
        None => return Err("the vocabulary is empty".into()),
        Some(id) if id >= MAX_ID => return Err(format!("token {id} found, ids below {MAX_ID} expected")),
        Some(id) => id as usize + 1,
    };
    let mut tokens = vec![("", TokenKind::Unused); n_tokens];
    for (text, id) in vocab {
        let token = &mut tokens[*id as usize];
        if token.1 != TokenKind::Unused {
            return Err(format!("`{}` and `{text}` have the id {id}", token.0));
        }
        let kind = if Some(text.as_str()) == unknown {
            TokenKind::Unknown
        } else if byte_fallback && parse_byte_token(text).is_some() {
            TokenKind::Byte
        } else {
            TokenKind::Normal
        };
        *token = (text, kind);
    }
    for token in added {
        let kind = match token.special {
            true if Some(token.content.as_str()) == unknown => TokenKind::Unknown,
            true => TokenKind::Control,
            false => TokenKind::UserDefined,
        };
        tokens[token.id as usize] = (&token.content, kind);
    }
    Ok(tokens)
}

/// The expressions that cut a text, in order.
fn collect_patterns(pre_tokenizer: &Value, patterns: &mut Vec<String>) -> Result<(), String> {
    match pre_tokenizer["type"].as_str() {
        Some("Sequence") => {
            for part in pre_tokenizer["pretokenizers"].as_array().into_iter().flatten() {
                collect_patterns(part, patterns)?;
            }
        }
        Some("ByteLevel") => {
            if pre_tokenizer["use_regex"].as_bool().unwrap_or(true) {
                patterns.push(published_gpt2());
            }
        }
        Some("Digits") => patterns.push(match pre_tokenizer["individual_digits"].as_bool() {
            Some(true) => r"\p{N}".into(),
            _ => r"\p{N}+".into(),
        }),
        Some("Punctuation") => {
            // What Unicode or ASCII calls so.
            let characters = r"[\p{P}\$\+<=>\^~\|`]";
            match pre_tokenizer["behavior"].as_str() {
                Some("Contiguous") => patterns.push(format!("{characters}+")),
                Some("Isolated") | None => patterns.push(characters.into()),
                Some(_) => return Err(format!("{pre_tokenizer} is not supported")),
            }
        }
        Some("Split") if matches!(pre_tokenizer["behavior"].as_str(), Some("Isolated" | "Removed")) => {
            let pattern = &pre_tokenizer["pattern"];
            match (pattern["Regex"].as_str(), pre_tokenizer["invert"].as_bool()) {
                (Some(regex), Some(false) | None) if pre_tokenizer["behavior"] == "Isolated" => {
                    patterns.push(regex.into());
                }
                // What does not match is removed, and every character matches: the pieces are the same.
                (Some(regex), Some(true)) => patterns.push(regex.into()),
                _ => return Err(format!("{pre_tokenizer} is not supported")),
            }
        }
        _ => return Err(format!("{pre_tokenizer} is not supported")),
    }
    Ok(())
}

/// Whether a step of this type is anywhere in a description.
fn mentions(value: &Value, kind: &str) -> bool {
    match value {
        Value::Object(object) => {
            object.get("type").and_then(Value::as_str) == Some(kind)
                || object.values().any(|value| mentions(value, kind))
        }
        Value::Array(list) => list.iter().any(|value| mentions(value, kind)),
        _ => false,
    }
}

/// Whether a description writes a space before a text.
fn adds_space(value: &Value) -> bool {
    match value {
        Value::Object(object) => match object.get("type").and_then(Value::as_str) {
            Some("Prepend") => true,
            Some("Metaspace") => match object.get("prepend_scheme").and_then(Value::as_str) {
                Some(scheme) => scheme != "never",
                None => object
                    .get("add_prefix_space")
                    .and_then(Value::as_bool)
                    .unwrap_or(true),
            },
            _ => object.values().any(adds_space),
        },
        Value::Array(list) => list.iter().any(adds_space),
        _ => false,
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, EngineError> {
    let bytes = WeightSource::File(path.into()).open()?;
    serde_json::from_slice(&bytes).map_err(|err| EngineError::BadFile {
        path: path.into(),
        field: "JSON".into(),
        reason: err.to_string(),
    })
}

/// Null where there is no such file.
fn read_optional_json(path: &Path) -> Result<Value, EngineError> {
    match path.is_file() {
        true => read_json(path),
        false => Ok(Value::Null),
    }
}
