//! The key-value section of a GGUF file, with typed getters whose errors name the key.
//!
//! Strings and arrays stay where they are in the file: a vocabulary of 150,000 tokens costs nothing until it
//! is asked for.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use super::{SharedBytes, gguf::Reader};
use crate::error::EngineError;

/// Arrays within arrays that are followed at most; no known file has any.
const MAX_ARRAY_DEPTH: usize = 4;

/// Type of a value or of an array's elements; the numbers are those in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    fn from_id(id: u32) -> Option<Self> {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, Str, Array, U64, I64, F64]
            .into_iter()
            .find(|&kind| kind as u32 == id)
    }

    fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::Str => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }

    /// Bytes of a number; `None` for strings and arrays.
    fn fixed_bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Str | Self::Array => None,
        }
    }

    /// The integer in `bytes`, which are as many as the type has; `None` if it is no integer type.
    fn integer(self, bytes: &[u8]) -> Option<i128> {
        Some(match self {
            Self::U8 => bytes[0].into(),
            Self::I8 => (bytes[0] as i8).into(),
            Self::U16 => u16::from_le_bytes(bytes.try_into().ok()?).into(),
            Self::I16 => i16::from_le_bytes(bytes.try_into().ok()?).into(),
            Self::U32 => u32::from_le_bytes(bytes.try_into().ok()?).into(),
            Self::I32 => i32::from_le_bytes(bytes.try_into().ok()?).into(),
            Self::U64 => u64::from_le_bytes(bytes.try_into().ok()?).into(),
            Self::I64 => i64::from_le_bytes(bytes.try_into().ok()?).into(),
            Self::F32 | Self::F64 | Self::Bool | Self::Str | Self::Array => return None,
        })
    }

    /// The number in `bytes` as f32; `None` if the type is not f32 or f64.
    fn float(self, bytes: &[u8]) -> Option<f32> {
        match self {
            Self::F32 => Some(f32::from_le_bytes(bytes.try_into().ok()?)),
            Self::F64 => Some(f64::from_le_bytes(bytes.try_into().ok()?) as f32),
            _ => None,
        }
    }
}

/// Where a value stands in the file.
#[derive(Debug, Clone)]
struct Value {
    kind: ValueType,
    /// For arrays, the type of the elements and their number.
    elements: Option<(ValueType, usize)>,
    /// The value's bytes: without the length of a string, without type and count of an array.
    bytes: Range<usize>,
}

impl Value {
    fn describe(&self) -> String {
        match self.elements {
            None => self.kind.name().to_owned(),
            Some((element, len)) => format!("array of {len} {}", element.name()),
        }
    }
}

/// The metadata of a file: values by key.
///
/// Getters are lenient about the width of integers (converters differ) and about f32 against f64, and about
/// nothing else. `get_*` gives `None` for an absent key; `require_*` makes that an error.
///
/// # Errors
/// All getters: [`EngineError::BadFile`] that names the key, the type or range expected and what was found.
pub struct Metadata {
    path: PathBuf,
    file: SharedBytes,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// Reads `n_values` pairs at the reader's position.
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        file: SharedBytes,
        n_values: usize,
    ) -> Result<Self, EngineError> {
        let mut values = BTreeMap::new();
        for idx in 0..n_values {
            let field = format!("metadata key {idx}");
            let key = reader.name(&field)?.to_owned();
            let field = format!("metadata `{key}`");
            let kind = read_type(reader, &field)?;
            let value = read_value(reader, &field, kind, 0)?;
            if values.insert(key, value).is_some() {
                return Err(reader.bad(&field, "the key is there twice"));
            }
        }
        Ok(Self {
            path: reader.path().to_owned(),
            file,
            values,
        })
    }

    /// File that was read, to show to people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Whether the key is there, with whatever type.
    pub fn contains(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Whether the key is there with an array.
    pub fn is_array(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(|value| value.elements.is_some())
    }

    /// An integer of any width that fits into u32.
    pub fn get_u32(&self, key: &str) -> Result<Option<u32>, EngineError> {
        self.get_integer(key, "an integer from 0 to 4294967295")
    }

    /// An integer of any width that fits into u64.
    pub fn get_u64(&self, key: &str) -> Result<Option<u64>, EngineError> {
        self.get_integer(key, "an integer from 0 to 18446744073709551615")
    }

    /// An f32, or an f64 rounded to f32.
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>, EngineError> {
        self.get(key, "f32", |value, bytes| value.kind.float(bytes))
    }

    /// A truth value.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>, EngineError> {
        self.get(key, "bool", |value, bytes| {
            (value.kind == ValueType::Bool).then(|| bytes[0] == 1)
        })
    }

    /// A string, borrowed from the file.
    pub fn get_str(&self, key: &str) -> Result<Option<&str>, EngineError> {
        let bytes = self.get(key, "string", |value, bytes| {
            (value.kind == ValueType::Str).then_some(bytes)
        })?;
        // Checked when the file was opened.
        bytes.map(|bytes| self.utf8(key, bytes)).transpose()
    }

    /// An array of integers of any width that all fit into u32.
    pub fn get_u32_array(&self, key: &str) -> Result<Option<Vec<u32>>, EngineError> {
        self.get_fixed_array(key, "array of integers from 0 to 4294967295", |kind, bytes| {
            u32::try_from(kind.integer(bytes)?).ok()
        })
    }

    /// An array of f32, or of f64 rounded to f32.
    pub fn get_f32_array(&self, key: &str) -> Result<Option<Vec<f32>>, EngineError> {
        self.get_fixed_array(key, "array of f32", ValueType::float)
    }

    /// An array of truth values.
    pub fn get_bool_array(&self, key: &str) -> Result<Option<Vec<bool>>, EngineError> {
        self.get_fixed_array(key, "array of bool", |kind, bytes| {
            (kind == ValueType::Bool).then(|| bytes[0] == 1)
        })
    }

    /// An array of strings, borrowed from the file.
    pub fn get_str_array(&self, key: &str) -> Result<Option<Vec<&str>>, EngineError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        let Some((ValueType::Str, len)) = value.elements else {
            return Err(self.mismatch(key, "array of strings", value));
        };
        // Each string takes at least the 8 bytes of its length, so `len` is bounded by the file's size.
        let mut strings = Vec::with_capacity(len);
        let mut rest = &self.file[value.bytes.clone()];
        while let Some((length, tail)) = rest.split_first_chunk() {
            // The lengths were checked when the file was opened.
            let (string, tail) = tail.split_at(u64::from_le_bytes(*length) as usize);
            strings.push(self.utf8(key, string)?);
            rest = tail;
        }
        Ok(Some(strings))
    }

    /// Like [`Self::get_u32`]; the key must be there.
    pub fn require_u32(&self, key: &str) -> Result<u32, EngineError> {
        self.require(key, self.get_u32(key)?)
    }

    /// Like [`Self::get_u64`]; the key must be there.
    pub fn require_u64(&self, key: &str) -> Result<u64, EngineError> {
        self.require(key, self.get_u64(key)?)
    }

    /// Like [`Self::get_f32`]; the key must be there.
    pub fn require_f32(&self, key: &str) -> Result<f32, EngineError> {
        self.require(key, self.get_f32(key)?)
    }

    /// Like [`Self::get_bool`]; the key must be there.
    pub fn require_bool(&self, key: &str) -> Result<bool, EngineError> {
        self.require(key, self.get_bool(key)?)
    }

    /// Like [`Self::get_str`]; the key must be there.
    pub fn require_str(&self, key: &str) -> Result<&str, EngineError> {
        self.require(key, self.get_str(key)?)
    }

    /// Like [`Self::get_str_array`]; the key must be there.
    pub fn require_str_array(&self, key: &str) -> Result<Vec<&str>, EngineError> {
        self.require(key, self.get_str_array(key)?)
    }

    /// An error about the value of `key`, for callers that check more than the type.
    pub fn bad(&self, key: &str, reason: impl Into<String>) -> EngineError {
        EngineError::BadFile {
            path: self.path.clone(),
            field: format!("metadata `{key}`"),
            reason: reason.into(),
        }
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&Value, &'a [u8]) -> Option<T>,
    ) -> Result<Option<T>, EngineError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        match convert(value, &self.file[value.bytes.clone()]) {
            Some(converted) => Ok(Some(converted)),
            None => Err(self.mismatch(key, expected, value)),
        }
    }

    fn get_integer<T: TryFrom<i128>>(&self, key: &str, expected: &str) -> Result<Option<T>, EngineError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        let Some(integer) = value.kind.integer(&self.file[value.bytes.clone()]) else {
            return Err(self.mismatch(key, expected, value));
        };
        match T::try_from(integer) {
            Ok(converted) => Ok(Some(converted)),
            Err(_) => Err(self.bad(key, format!("expected {expected}, found {integer}"))),
        }
    }

    fn get_fixed_array<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl Fn(ValueType, &[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, EngineError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        let Some((kind, size)) = value
            .elements
            .and_then(|(kind, _)| Some((kind, kind.fixed_bytes()?)))
        else {
            return Err(self.mismatch(key, expected, value));
        };
        let elements: Option<Vec<T>> = self.file[value.bytes.clone()]
            .chunks_exact(size)
            .map(|bytes| convert(kind, bytes))
            .collect();
        elements
            .map(Some)
            .ok_or_else(|| self.mismatch(key, expected, value))
    }

    fn require<T>(&self, key: &str, value: Option<T>) -> Result<T, EngineError> {
        value.ok_or_else(|| self.bad(key, "the key is missing"))
    }

    fn utf8<'a>(&self, key: &str, bytes: &'a [u8]) -> Result<&'a str, EngineError> {
        std::str::from_utf8(bytes).map_err(|err| self.bad(key, format!("a string is not UTF-8: {err}")))
    }

    fn mismatch(&self, key: &str, expected: &str, found: &Value) -> EngineError {
        self.bad(key, format!("expected {expected}, found {}", found.describe()))
    }
}

fn read_type(reader: &mut Reader<'_>, field: &str) -> Result<ValueType, EngineError> {
    let id = reader.u32(field)?;
    ValueType::from_id(id).ok_or_else(|| {
        reader.bad(
            field,
            format!("value type {id} is unknown; types go from 0 to 12"),
        )
    })
}

/// Steps over a value, checking that it is whole.
fn read_value(
    reader: &mut Reader<'_>,
    field: &str,
    kind: ValueType,
    depth: usize,
) -> Result<Value, EngineError> {
    match kind {
        ValueType::Str => {
            let bytes = reader.string(field)?;
            if let Err(err) = std::str::from_utf8(bytes) {
                return Err(reader.bad(field, format!("the string is not UTF-8: {err}")));
            }
            let end = reader.position();
            Ok(Value {
                kind,
                elements: None,
                bytes: end - bytes.len()..end,
            })
        }
        ValueType::Array => {
            if depth == MAX_ARRAY_DEPTH {
                return Err(reader.bad(
                    field,
                    format!("arrays are nested more than {MAX_ARRAY_DEPTH} deep"),
                ));
            }
            let element = read_type(reader, field)?;
            let len = reader.u64(field)?;
            let start = reader.position();
            // The least that an element can take bounds the count before anything is walked.
            let least = match element {
                ValueType::Str => 8,
                ValueType::Array => 12,
                _ => element.fixed_bytes().unwrap_or(1),
            };
            let len = reader.count(field, "elements", len, least)?;
            match element {
                ValueType::Str => {
                    for _ in 0..len {
                        reader.string(field)?;
                    }
                }
                ValueType::Array => {
                    for _ in 0..len {
                        read_value(reader, field, element, depth + 1)?;
                    }
                }
                _ => {
                    let bytes = reader.take(field, len * least)?;
                    if element == ValueType::Bool {
                        check_bools(reader, field, bytes)?;
                    }
                }
            }
            Ok(Value {
                kind,
                elements: Some((element, len)),
                bytes: start..reader.position(),
            })
        }
        _ => {
            let bytes = reader.take(field, kind.fixed_bytes().unwrap_or(1))?;
            if kind == ValueType::Bool {
                check_bools(reader, field, bytes)?;
            }
            let end = reader.position();
            Ok(Value {
                kind,
                elements: None,
                bytes: end - bytes.len()..end,
            })
        }
    }
}

fn check_bools(reader: &Reader<'_>, field: &str, bytes: &[u8]) -> Result<(), EngineError> {
    match bytes.iter().find(|&&byte| byte > 1) {
        Some(byte) => Err(reader.bad(field, format!("a bool is {byte}, not 0 or 1"))),
        None => Ok(()),
    }
}
