//! The tokens of a vocabulary: the bytes of each, and the id of given bytes.

use std::hash::{BuildHasher, RandomState};

/// What a token is for; the numbers are those of `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl TokenKind {
    pub(crate) fn from_id(id: u32) -> Self {
        match id {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }

    /// Whether the token stands for no text.
    pub(crate) fn is_control(self) -> bool {
        matches!(self, Self::Control | Self::Unknown)
    }
}

/// Bytes by id and id by bytes.
///
/// The index is a hash table with open addressing over one arena of bytes: a vocabulary of 150,000 tokens has to be
/// there within some tens of milliseconds, and a string allocated for each of them costs more than all the rest.
pub(crate) struct Vocabulary {
    kinds: Vec<TokenKind>,
    /// All tokens' bytes, one after the other; control tokens have none.
    arena: Vec<u8>,
    /// Token `id` is `arena[ends[id - 1]..ends[id]]`.
    ends: Vec<u32>,
    /// Slots of the upper half of a hash and an id, or `EMPTY`.
    slots: Vec<(u32, u32)>,
    hasher: BytesHasher,
    max_bytes: usize,
    byte_tokens: [Option<u32>; 256],
}

const EMPTY: u32 = u32::MAX;

impl Vocabulary {
    pub(crate) fn with_capacity(n_tokens: usize, n_bytes: usize) -> Self {
        let n_slots = (n_tokens + n_tokens / 2 + 1).next_power_of_two();
        Self {
            kinds: Vec::with_capacity(n_tokens),
            arena: Vec::with_capacity(n_bytes),
            ends: Vec::with_capacity(n_tokens),
            slots: vec![(0, EMPTY); n_slots],
            hasher: BytesHasher::new(),
            max_bytes: 0,
            byte_tokens: [None; 256],
        }
    }

    /// Adds the next token; `write` appends its bytes. Control and byte tokens cannot be found by their bytes, and a
    /// normal token goes before any other with the same bytes. At most as many tokens as the capacity may be added.
    ///
    /// Gives the normal token that already has these bytes, if the new one is normal too.
    pub(crate) fn push(&mut self, kind: TokenKind, write: impl FnOnce(&mut Vec<u8>)) -> Option<u32> {
        let id = self.kinds.len() as u32;
        let start = self.arena.len();
        if !kind.is_control() {
            write(&mut self.arena);
        }
        self.kinds.push(kind);
        self.ends.push(self.arena.len() as u32);
        let bytes = &self.arena[start..];
        if let (TokenKind::Byte, &[byte]) = (kind, bytes) {
            self.byte_tokens[usize::from(byte)].get_or_insert(id);
        }
        if kind.is_control() || kind == TokenKind::Byte || bytes.is_empty() {
            return None;
        }
        self.max_bytes = self.max_bytes.max(bytes.len());
        let hash = self.hasher.hash(bytes);
        let slot_idx = self.find_slot(hash, bytes);
        let existing = self.slots[slot_idx].1;
        if existing != EMPTY && self.kinds[existing as usize] == TokenKind::Normal {
            return (kind == TokenKind::Normal).then_some(existing);
        }
        if existing == EMPTY || kind == TokenKind::Normal {
            self.slots[slot_idx] = ((hash >> 32) as u32, id);
        }
        None
    }

    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(crate) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// Bytes of a token; none for control tokens and ids outside the vocabulary.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        let idx = id as usize;
        let Some(&end) = self.ends.get(idx) else {
            return &[];
        };
        let start = if idx == 0 { 0 } else { self.ends[idx - 1] };
        &self.arena[start as usize..end as usize]
    }

    /// Whether `id` is the normal token with these bytes.
    pub(crate) fn is_normal(&self, id: u32, bytes: &[u8]) -> bool {
        self.kind(id) == Some(TokenKind::Normal) && self.bytes(id) == bytes
    }

    /// Id of exactly these bytes.
    pub(crate) fn id(&self, bytes: &[u8]) -> Option<u32> {
        if bytes.len() > self.max_bytes {
            return None;
        }
        self.id_by_hash(self.hash(bytes), bytes)
    }

    /// Id of exactly these bytes, given their hash.
    pub(crate) fn id_by_hash(&self, hash: u64, bytes: &[u8]) -> Option<u32> {
        if bytes.len() > self.max_bytes || bytes.is_empty() {
            return None;
        }
        let id = self.slots[self.find_slot(hash, bytes)].1;
        (id != EMPTY).then_some(id)
    }

    /// What the table knows bytes by.
    pub(crate) fn hash(&self, bytes: &[u8]) -> u64 {
        self.hasher.hash(bytes)
    }

    /// The first token of kind `Byte` for this byte.
    pub(crate) fn byte_token(&self, byte: u8) -> Option<u32> {
        self.byte_tokens[usize::from(byte)]
    }

    /// The slot of the token with these bytes, or the empty one where it would go.
    fn find_slot(&self, hash: u64, bytes: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot_idx = hash as usize & mask;
        loop {
            let (upper, id) = self.slots[slot_idx];
            if id == EMPTY || (upper == (hash >> 32) as u32 && self.bytes(id) == bytes) {
                return slot_idx;
            }
            slot_idx = (slot_idx + 1) & mask;
        }
    }
}

/// A quick hash, seeded so that no file can be made to collide.
#[derive(Clone, Copy)]
struct BytesHasher {
    seed: u64,
}

impl BytesHasher {
    fn new() -> Self {
        Self {
            seed: RandomState::new().hash_one(0),
        }
    }

    fn hash(self, bytes: &[u8]) -> u64 {
        let mut hash = self.seed ^ bytes.len() as u64;
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            hash = fold(hash ^ u64::from_le_bytes(*chunk), self.seed);
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        fold(hash ^ u64::from_le_bytes(last), self.seed)
    }
}

/// Both halves of a wide product, mixed.
pub(super) fn fold(value: u64, seed: u64) -> u64 {
    let product = u128::from(value ^ 0x9e37_79b9_7f4a_7c15) * u128::from(seed | 1);
    product as u64 ^ (product >> 64) as u64
}

/// GPT-2's spelling of bytes as printable characters, the other way round: the byte of a character.
///
/// Printable Latin-1 characters stand for themselves, the other 68 bytes for U+0100 and up, in order. Source: OpenAI's
/// GPT-2, `encoder.py`, `bytes_to_unicode`.
pub(crate) struct ByteChars {
    bytes: [Option<u8>; 0x144],
}

impl ByteChars {
    pub(crate) fn new() -> Self {
        let mut bytes = [None; 0x144];
        let mut next = 0x100;
        for byte in 0..=u8::MAX {
            match byte {
                b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => bytes[usize::from(byte)] = Some(byte),
                _ => {
                    bytes[next] = Some(byte);
                    next += 1;
                }
            }
        }
        Self { bytes }
    }

    /// Appends the bytes that `text` spells. A text with characters that stand for no byte is taken as it is.
    pub(crate) fn decode(&self, text: &str, out: &mut Vec<u8>) {
        let start = out.len();
        for character in text.chars() {
            match self.bytes.get(character as usize) {
                Some(Some(byte)) => out.push(*byte),
                _ => {
                    out.truncate(start);
                    out.extend_from_slice(text.as_bytes());
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let table = ByteChars::new();
        let mut found: Vec<u8> = table.bytes.iter().flatten().copied().collect();
        found.sort_unstable();
        assert_eq!(found, (0..=u8::MAX).collect::<Vec<_>>());
        let mut out = Vec::new();
        table.decode("ĠHelloĊ", &mut out);
        table.decode("▁raw", &mut out);
        assert_eq!(out, " Hello\n▁raw".as_bytes());
    }

    #[test]
    fn tokens_are_found_by_their_bytes() {
        let mut vocabulary = Vocabulary::with_capacity(5000, 0);
        for id in 0..5000_u32 {
            assert_eq!(
                vocabulary.push(TokenKind::Normal, |out| out.extend(format!("token{id}").bytes())),
                None
            );
        }
        for id in 0..5000_u32 {
            assert_eq!(vocabulary.id(format!("token{id}").as_bytes()), Some(id));
        }
        assert_eq!(vocabulary.id(b"token5000"), None);
        assert_eq!(vocabulary.id(b""), None);
        assert_eq!(vocabulary.bytes(5000), b"");
    }
}
