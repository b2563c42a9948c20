//! Writes small GGUF files for the tests, right ones and wrong ones.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use surmise_engine::{
    EngineError,
    tokenizer::Tokenizer,
    weights::{GgmlType, Gguf, WeightSource},
};

/// A value in the file, with its type's id.
#[derive(Clone)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    /// The byte as it stands, so that a wrong one can be written.
    Bool(u8),
    Str(Vec<u8>),
    /// Type of the elements, the count to claim, the elements' bytes.
    Array(u32, u64, Vec<u8>),
}

/// Writes GGUF files, well formed unless told otherwise.
#[derive(Clone)]
pub struct Builder {
    pub version: u32,
    pub n_tensors: Option<u64>,
    pub n_pairs: Option<u64>,
    pub alignment: usize,
    pub pairs: Vec<(Vec<u8>, Value)>,
    /// Name, extents innermost first, id of the type, offset.
    pub tensors: Vec<(Vec<u8>, Vec<u64>, u32, u64)>,
    pub data: Vec<u8>,
}

impl Builder {
    pub fn new() -> Self {
        Self {
            version: 3,
            n_tensors: None,
            n_pairs: None,
            alignment: 32,
            pairs: vec![],
            tensors: vec![],
            data: vec![],
        }
    }

    pub fn pair(mut self, key: impl AsRef<[u8]>, value: Value) -> Self {
        self.pairs.push((key.as_ref().to_vec(), value));
        self
    }

    pub fn tensor(mut self, name: impl AsRef<[u8]>, extents: &[u64], dtype: GgmlType, data: &[u8]) -> Self {
        let offset = self.data.len() as u64;
        self.tensors
            .push((name.as_ref().to_vec(), extents.to_vec(), dtype.id(), offset));
        self.data.extend(data);
        self.data
            .resize(self.data.len().next_multiple_of(self.alignment), 0);
        self
    }

    /// An entry whose data is somewhere else, or nowhere.
    pub fn entry(mut self, name: &str, extents: &[u64], type_id: u32, offset: u64) -> Self {
        self.tensors
            .push((name.as_bytes().to_vec(), extents.to_vec(), type_id, offset));
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        file.extend(self.n_pairs.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            file.extend(string(key));
            let (type_id, bytes) = match value {
                Value::U8(value) => (0_u32, value.to_le_bytes().to_vec()),
                Value::I8(value) => (1, value.to_le_bytes().to_vec()),
                Value::U16(value) => (2, value.to_le_bytes().to_vec()),
                Value::U32(value) => (4, value.to_le_bytes().to_vec()),
                Value::I32(value) => (5, value.to_le_bytes().to_vec()),
                Value::F32(value) => (6, value.to_le_bytes().to_vec()),
                Value::Bool(value) => (7, vec![*value]),
                Value::Str(value) => (8, string(value)),
                Value::Array(element, len, bytes) => (
                    9,
                    [&element.to_le_bytes()[..], &len.to_le_bytes(), bytes].concat(),
                ),
                Value::U64(value) => (10, value.to_le_bytes().to_vec()),
                Value::I64(value) => (11, value.to_le_bytes().to_vec()),
                Value::F64(value) => (12, value.to_le_bytes().to_vec()),
            };
            file.extend(type_id.to_le_bytes());
            file.extend(bytes);
        }
        for (name, extents, type_id, offset) in &self.tensors {
            file.extend(string(name));
            file.extend((extents.len() as u32).to_le_bytes());
            file.extend(extents.iter().flat_map(|extent| extent.to_le_bytes()));
            file.extend(type_id.to_le_bytes());
            file.extend(offset.to_le_bytes());
        }
        if !self.data.is_empty() {
            file.resize(file.len().next_multiple_of(self.alignment), 0);
            file.extend(&self.data);
        }
        file
    }
}

pub fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

pub fn strings(texts: &[&str]) -> Value {
    Value::Array(
        8,
        texts.len() as u64,
        texts.iter().flat_map(|text| string(text.as_bytes())).collect(),
    )
}

/// Opens bytes as the model inside the program is opened. They stay in memory until the test ends.
pub fn open(bytes: &[u8]) -> Result<Gguf, EngineError> {
    Gguf::open(WeightSource::Embedded(Box::leak(
        bytes.to_vec().into_boxed_slice(),
    )))
}

/// A byte-level vocabulary: 256 single bytes as `bytes_to_unicode` spells them, then the given tokens with their kinds.
pub fn byte_level(pre: &str, tokens: &[(&str, u32)]) -> Builder {
    let mut texts: Vec<String> = byte_spellings().into_iter().map(String::from).collect();
    texts.extend(tokens.iter().map(|(text, _)| (*text).to_owned()));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let kinds = [1; 256].into_iter().chain(tokens.iter().map(|&(_, kind)| kind));
    Builder::new()
        .pair("tokenizer.ggml.model", Value::Str(b"gpt2".to_vec()))
        .pair("tokenizer.ggml.pre", Value::Str(pre.as_bytes().to_vec()))
        .pair("tokenizer.ggml.tokens", strings(&texts))
        .pair("tokenizer.ggml.token_type", u32s(kinds))
}

/// A byte-level vocabulary in which some pairs of characters are tokens too.
pub fn pairs() -> Tokenizer {
    const PAIRS: [&str; 12] = [
        "\"#", "$%", "()", "*+", ",-", "./", "\",", "[\"", "ma", "a,", "(a", "bc",
    ];
    let mut tokens: Vec<(&str, u32)> = PAIRS.iter().map(|it| (*it, 1)).collect();
    tokens.push(("<end>", 3));
    let merges: Vec<String> = PAIRS
        .iter()
        .map(|it| format!("{} {}", &it[..1], &it[1..]))
        .collect();
    let merges: Vec<&str> = merges.iter().map(String::as_str).collect();
    let end_token = Value::U32(256 + PAIRS.len() as u32);
    let file = byte_level("qwen2", &tokens)
        .pair("tokenizer.ggml.merges", strings(&merges))
        .pair("tokenizer.ggml.eos_token_id", end_token);
    Tokenizer::from_gguf(&open(&file.build()).unwrap()).unwrap()
}

/// The character that stands for each byte.
pub fn byte_spellings() -> Vec<char> {
    let mut others = '\u{100}'..;
    let spell = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => others.next().unwrap(),
    };
    (0..=u8::MAX).map(spell).collect()
}

pub fn u32s(values: impl Iterator<Item = u32>) -> Value {
    let bytes: Vec<u8> = values.flat_map(u32::to_le_bytes).collect();
    Value::Array(4, bytes.len() as u64 / 4, bytes)
}

/// A SentencePiece vocabulary: unknown, BOS, EOS, the bytes, then the given pieces with their scores.
pub fn sentencepiece(pieces: &[(&str, f32)]) -> Builder {
    let bytes: Vec<String> = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")).collect();
    let special = ["<unk>", "<s>", "</s>"];
    let texts: Vec<&str> = special
        .into_iter()
        .chain(bytes.iter().map(String::as_str))
        .chain(pieces.iter().map(|piece| piece.0))
        .collect();
    let kinds = [2, 3, 3].into_iter().chain([6; 256]).chain(vec![1; pieces.len()]);
    let scores = [0.0; 259].into_iter().chain(pieces.iter().map(|piece| piece.1));
    Builder::new()
        .pair("tokenizer.ggml.model", Value::Str(b"llama".to_vec()))
        .pair("tokenizer.ggml.tokens", strings(&texts))
        .pair("tokenizer.ggml.token_type", u32s(kinds))
        .pair("tokenizer.ggml.scores", f32s(scores))
}

pub fn f32s(values: impl Iterator<Item = f32>) -> Value {
    let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    Value::Array(6, bytes.len() as u64 / 4, bytes)
}
