//! Text to tokens and back, from the vocabulary inside the model file.
//!
//! Byte-level BPE (GPT-2's kind: Qwen, Llama 3, StarCoder, DeepSeek, gpt-oss and most others) and SentencePiece BPE
//! (Llama 2, CodeLlama, Gemma, Phi 3). There is no normaliser: none of these models has one that code would notice.
//! The `tokenizers` crate brings the regular expressions, and is what the tests compare with. The merge loop and its
//! tables are ours: the crate takes more than twice as long to build them, and that is what a user waits for.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::{
    error::EngineError,
    weights::{Gguf, Metadata},
};

mod hugging_face;
mod line_counts;
mod merge;
mod repeats;
mod special;
mod split;
mod utf8_stream;
mod vocabulary;

pub(crate) use line_counts::LineCounts;
use merge::{MergeTable, Merger, NO_TOKEN, ScoreRule};
use repeats::Repeats;
use special::SpellingMatcher;
use split::Splitter;
pub use utf8_stream::Utf8Stream;
use vocabulary::{ByteChars, TokenKind, Vocabulary};

/// What SentencePiece writes for a space. Vocabularies are read with spaces in its place, and texts too.
const SPACE_MARK: &str = "▁";

/// Marks what must not become a special token: a code point that Unicode promises never to use for a character.
const GUARD: char = '\u{fdd0}';

/// A model's tokenizer. It is not changed by use; share it in an `Arc`.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    /// Text of every token that is not ordinary text, and its id.
    spellings: Vec<(String, u32)>,
    /// Finds all of them, for trusted prompts.
    special: SpellingMatcher,
    /// Finds those that are pieces of ordinary text.
    plain: SpellingMatcher,
    /// Token of each byte, where there is one.
    byte_ids: [Option<u32>; 256],
    algorithm: Algorithm,
    /// For each token, whether merging its own bytes gives it; found out when it is first needed.
    is_whole: Vec<AtomicU8>,
    unknown: Option<u32>,
    bos: Option<u32>,
    end_tokens: Vec<u32>,
}

enum Algorithm {
    /// BPE over bytes, within pieces of the text.
    ByteLevel { splitter: Splitter, merges: MergeTable },
    /// BPE over characters, within lines or the whole text; bytes where a character has no token.
    Characters {
        splitter: Splitter,
        merges: MergeTable,
        adds_space: bool,
    },
    /// SentencePiece's BPE over the whole text; `ranks` follows the scores.
    Scores { ranks: Vec<u32>, adds_space: bool },
}

/// What the pieces of one text have in common.
struct Memory<'t> {
    merger: Merger,
    repeats: Repeats<'t>,
}

/// Whether the text goes on from what was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextStart {
    /// A SentencePiece tokenizer that writes a space before a text does so.
    Fresh,
    /// It does not.
    Continued,
}

impl Tokenizer {
    /// Builds the tokenizer that the file describes.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] for a vocabulary that does not hold together, [`EngineError::Unsupported`] for another
    /// kind of tokenizer or pre-tokenizer, with the names that are known.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, EngineError> {
        let metadata = gguf.metadata();
        match metadata.require_str("tokenizer.ggml.model")? {
            "gpt2" => Self::byte_level(metadata),
            "gemma4" => Self::characters(metadata),
            "llama" => Self::scores(metadata),
            other => Err(EngineError::Unsupported {
                what: "tokenizer",
                found: other.to_owned(),
                known: "gpt2, llama, gemma4".to_owned(),
            }),
        }
    }

    /// A tokenizer of 256 single bytes, whose ids are the bytes, and after them `<|endoftext|>`, `<|fim_prefix|>`,
    /// `<|fim_suffix|>`, `<|fim_middle|>`, `<|fim_pad|>`, `<|repo_name|>` and `<|file_sep|>`: for tests without weights.
    pub fn bytes() -> Self {
        const SPECIAL: [&str; 7] = [
            "<|endoftext|>",
            "<|fim_prefix|>",
            "<|fim_suffix|>",
            "<|fim_middle|>",
            "<|fim_pad|>",
            "<|repo_name|>",
            "<|file_sep|>",
        ];
        let mut vocabulary = Vocabulary::with_capacity(256 + SPECIAL.len(), 256);
        for byte in 0..=u8::MAX {
            vocabulary.push(TokenKind::Normal, |out| out.push(byte));
        }
        let mut spellings = Vec::new();
        for spelling in SPECIAL {
            spellings.push((spelling.to_owned(), vocabulary.len() as u32));
            vocabulary.push(TokenKind::Control, |_| ());
        }
        let algorithm = Algorithm::ByteLevel {
            splitter: Splitter::none(),
            merges: MergeTable::with_capacity(0),
        };
        let mut tokenizer = Self::new(vocabulary, spellings, algorithm);
        tokenizer.end_tokens = vec![256];
        tokenizer
    }

    fn byte_level(metadata: &Metadata) -> Result<Self, EngineError> {
        let pre = match metadata.get_str("general.architecture")? {
            // Ollama's files of GPT-OSS say `default`, whatever that was for Ollama.
            Some("gptoss") => "gpt-4o",
            _ => metadata.get_str("tokenizer.ggml.pre")?.unwrap_or("(none)"),
        };
        let splitter = Splitter::by_name(pre)?;
        let adds_bos = splitter.adds_bos;
        let characters = ByteChars::new();
        let (vocabulary, spellings) = read_vocabulary(metadata, &|text, out| characters.decode(text, out))?;
        let merges = read_merges(metadata, &vocabulary, &|text, out| characters.decode(text, out))?;
        let tokenizer = Self::new(vocabulary, spellings, Algorithm::ByteLevel { splitter, merges });
        tokenizer.with_special_ids(metadata, adds_bos, None)
    }

    fn characters(metadata: &Metadata) -> Result<Self, EngineError> {
        let (vocabulary, spellings) = read_vocabulary(metadata, &unmark_spaces)?;
        let merges = read_merges(metadata, &vocabulary, &unmark_spaces)?;
        let splitter = Splitter::lines();
        let algorithm = Algorithm::Characters {
            splitter,
            merges,
            adds_space: false,
        };
        Self::new(vocabulary, spellings, algorithm).with_special_ids(metadata, true, None)
    }

    fn scores(metadata: &Metadata) -> Result<Self, EngineError> {
        const KEY: &str = "tokenizer.ggml.scores";
        let (vocabulary, spellings) = read_vocabulary(metadata, &unmark_spaces)?;
        let scores = metadata
            .get_f32_array(KEY)?
            .ok_or_else(|| metadata.bad(KEY, "the key is missing"))?;
        if scores.len() != vocabulary.len() {
            return Err(metadata.bad(
                KEY,
                format!("expected {} scores, found {}", vocabulary.len(), scores.len()),
            ));
        }
        let adds_space = metadata
            .get_bool("tokenizer.ggml.add_space_prefix")?
            .unwrap_or(true);
        let algorithm = Algorithm::Scores {
            ranks: rank_scores(&scores),
            adds_space,
        };
        // Llama 2's ids, for files that do not name them.
        Self::new(vocabulary, spellings, algorithm).with_special_ids(metadata, true, Some((1, 2)))
    }

    fn new(vocabulary: Vocabulary, spellings: Vec<(String, u32)>, algorithm: Algorithm) -> Self {
        let (mut special, mut plain) = (SpellingMatcher::default(), SpellingMatcher::default());
        let is_byte_level = matches!(algorithm, Algorithm::ByteLevel { .. });
        for (spelling, id) in &spellings {
            special.insert(spelling, *id);
            let is_text = vocabulary.kind(*id) == Some(TokenKind::UserDefined);
            if is_text && !special::is_marker(spelling, is_byte_level) {
                plain.insert(spelling, *id);
            }
        }
        let byte_ids = std::array::from_fn(|byte| {
            let byte = byte as u8;
            if is_byte_level {
                vocabulary.id(&[byte])
            } else {
                vocabulary.byte_token(byte)
            }
        });
        let is_whole = std::iter::repeat_with(AtomicU8::default)
            .take(vocabulary.len())
            .collect();
        Self {
            vocabulary,
            spellings,
            special,
            plain,
            byte_ids,
            algorithm,
            is_whole,
            unknown: None,
            bos: None,
            end_tokens: Vec::new(),
        }
    }

    /// Takes BOS, the unknown token and the end tokens from the metadata; `default_ids` are those of BOS and EOS.
    fn with_special_ids(
        mut self,
        metadata: &Metadata,
        adds_bos: bool,
        default_ids: Option<(u32, u32)>,
    ) -> Result<Self, EngineError> {
        let id_of = |name: &str| self.special_id(metadata, name);
        let default = |pick: fn((u32, u32)) -> u32| {
            default_ids
                .map(pick)
                .filter(|&id| (id as usize) < self.vocab_size())
        };
        let bos = id_of("bos_token_id")?.or_else(|| default(|ids| ids.0));
        let unknown = id_of("unknown_token_id")?;
        let eos = id_of("eos_token_id")?.or_else(|| default(|ids| ids.1));
        let ends = [eos, id_of("eot_token_id")?, id_of("eom_token_id")?];
        let adds_bos = metadata
            .get_bool("tokenizer.ggml.add_bos_token")?
            .unwrap_or(adds_bos);
        self.set_special_ids(bos.filter(|_| adds_bos), unknown, ends.into_iter().flatten());
        Ok(self)
    }

    /// `ends` are the end tokens that the file names; those that are known by their spelling come to them.
    fn set_special_ids(&mut self, bos: Option<u32>, unknown: Option<u32>, ends: impl Iterator<Item = u32>) {
        let mut end_tokens: Vec<u32> = ends.collect();
        // Harmony ends a message with `<|end|>`, and an answer with one of the other two.
        let is_harmony = self.token_id("<|return|>").is_some() && self.token_id("<|call|>").is_some();
        for (spelling, id) in &self.spellings {
            if special::is_end_spelling(spelling) && !(is_harmony && spelling == "<|end|>") {
                end_tokens.push(*id);
            }
        }
        end_tokens.sort_unstable();
        end_tokens.dedup();
        self.bos = bos;
        self.unknown = unknown;
        self.end_tokens = end_tokens;
    }

    /// The id under `tokenizer.ggml.<name>`.
    fn special_id(&self, metadata: &Metadata, name: &str) -> Result<Option<u32>, EngineError> {
        let key = format!("tokenizer.ggml.{name}");
        match metadata.get_u32(&key)? {
            Some(id) if id as usize >= self.vocab_size() => Err(metadata.bad(
                &key,
                format!("token {id} is outside the vocabulary of {}", self.vocab_size()),
            )),
            id => Ok(id),
        }
    }

    /// Tokens of `text`, without BOS.
    ///
    /// With `parse_special`, spellings such as `<|fim_middle|>` become their special tokens; only for texts that this
    /// program wrote. Without it no text can become a control token.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] for a text of 4 GiB or more, or with a character that the vocabulary cannot spell.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, EngineError> {
        self.encode_from(text, parse_special, TextStart::Fresh)
    }

    /// Like [`Self::encode`], for a text that may go on from another.
    pub(crate) fn encode_from(
        &self,
        text: &str,
        parse_special: bool,
        start: TextStart,
    ) -> Result<Vec<u32>, EngineError> {
        if u32::try_from(text.len()).is_err() {
            return Err(EngineError::BadRequest("the text has 4 GiB or more".to_owned()));
        }
        let matcher = if parse_special { &self.special } else { &self.plain };
        self.encode_with(text, start, |from| matcher.find(text, from))
    }

    /// Tokens of a text that this program wrote around texts of others, in which [`guard`](Self::guard) has marked what
    /// looks like a special token. The marks go; what they stand in becomes ordinary text, everything else is parsed.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub(crate) fn encode_guarded(&self, guarded: &str) -> Result<Vec<u32>, EngineError> {
        let mut text = String::with_capacity(guarded.len());
        let mut marks = Vec::new();
        for (idx, part) in guarded.split(GUARD).enumerate() {
            if idx > 0 {
                marks.push(text.len());
            }
            text.push_str(part);
        }
        let is_trusted = |start: usize, end: usize| {
            let first_after = marks.partition_point(|mark| *mark <= start);
            marks.get(first_after).is_none_or(|mark| *mark >= end)
        };
        self.encode_with(&text, TextStart::Fresh, |mut from| {
            while let Some((start, end, id)) = self.special.find(&text, from) {
                if is_trusted(start, end) {
                    return Some((start, end, id));
                }
                from = start + 1;
            }
            None
        })
    }

    /// Marks each spelling of a special token in a text of others, whole or begun at its end, so that [`encode_guarded`](Self::encode_guarded) takes
    /// it for text. With `only_control`, tokens that stand for text are let through.
    pub(crate) fn guard(&self, text: &str, only_control: bool) -> String {
        let mut guarded = String::with_capacity(text.len());
        // The mark itself stands for no character, so nobody misses it.
        let text = text.replace(GUARD, "");
        let (mut done, mut from) = (0, 0);
        while let Some((start, _, id)) = self.special.find(&text, from) {
            // A longer spelling may begin within this one.
            from = start + 1;
            if only_control && !self.is_control(id) {
                continue;
            }
            let first = text[start..].chars().next().map_or(1, char::len_utf8);
            guarded.push_str(&text[done..start + first]);
            guarded.push(GUARD);
            done = start + first;
        }
        // Another text may follow, and go on with a spelling that is cut off here, or by the blanks that a template takes away.
        for start in self.special.cut_off(text.trim_end(), done) {
            let first = text[start..].chars().next().map_or(1, char::len_utf8);
            guarded.push_str(&text[done..start + first]);
            guarded.push(GUARD);
            done = start + first;
        }
        guarded.push_str(&text[done..]);
        guarded
    }

    /// `find` gives the next special token at or after a byte: start, end, token.
    fn encode_with(
        &self,
        text: &str,
        mut start: TextStart,
        find: impl Fn(usize) -> Option<(usize, usize, u32)>,
    ) -> Result<Vec<u32>, EngineError> {
        // Code has about three bytes to a token.
        let mut tokens = Vec::with_capacity(text.len() / 3 + 1);
        let mut memory = Memory {
            merger: Merger::default(),
            repeats: Repeats::new(text.len()),
        };
        let mut position = 0;
        while let Some((spelling_start, spelling_end, id)) = find(position) {
            self.encode_text(&text[position..spelling_start], start, &mut memory, &mut tokens)?;
            tokens.push(id);
            // As llama.cpp does: text after a control token is fresh, after a piece of text it is not.
            start = if self.is_control(id) {
                TextStart::Fresh
            } else {
                TextStart::Continued
            };
            position = spelling_end;
        }
        self.encode_text(&text[position..], start, &mut memory, &mut tokens)?;
        Ok(tokens)
    }

    /// Appends the tokens of a text without special tokens.
    fn encode_text<'t>(
        &self,
        text: &'t str,
        start: TextStart,
        memory: &mut Memory<'t>,
        tokens: &mut Vec<u32>,
    ) -> Result<(), EngineError> {
        if text.is_empty() {
            return Ok(());
        }
        let mut result = Ok(());
        match &self.algorithm {
            Algorithm::ByteLevel { splitter, merges } => {
                splitter.split(text, &mut |piece| {
                    if result.is_ok() {
                        result = self.encode_bytes(piece.as_bytes(), splitter, merges, memory, tokens);
                    }
                });
            }
            Algorithm::Characters {
                splitter,
                merges,
                adds_space,
            } => {
                let merger = &mut memory.merger;
                let text = with_first_space(text, *adds_space && start == TextStart::Fresh);
                splitter.split(&text, &mut |piece| {
                    if result.is_err() {
                        return;
                    }
                    // Gemma 4 has tokens for runs of line breaks that no merges lead to.
                    match self
                        .vocabulary
                        .id(piece.as_bytes())
                        .filter(|_| piece.starts_with('\n'))
                    {
                        Some(id) => tokens.push(id),
                        None => {
                            self.push_characters(piece, merger);
                            result =
                                self.emit(piece.as_bytes(), merger.run(piece.as_bytes(), merges), tokens);
                        }
                    }
                });
            }
            Algorithm::Scores { ranks, adds_space } => {
                let merger = &mut memory.merger;
                let text = with_first_space(text, *adds_space && start == TextStart::Fresh);
                self.push_characters(&text, merger);
                let rule = ScoreRule {
                    vocabulary: &self.vocabulary,
                    ranks,
                };
                result = self.emit(text.as_bytes(), merger.run(text.as_bytes(), &rule), tokens);
            }
        }
        result
    }

    /// Appends the tokens of one piece of byte-level BPE.
    fn encode_bytes<'t>(
        &self,
        piece: &'t [u8],
        splitter: &Splitter,
        merges: &MergeTable,
        memory: &mut Memory<'t>,
        tokens: &mut Vec<u32>,
    ) -> Result<(), EngineError> {
        if let [byte] = *piece
            && let Some(id) = self.byte_ids[usize::from(byte)]
        {
            tokens.push(id);
            return Ok(());
        }
        let hash = self.vocabulary.hash(piece);
        if memory.repeats.copy(hash, piece, tokens) {
            return Ok(());
        }
        let n_before = tokens.len();
        self.merge_bytes(piece, hash, splitter, merges, &mut memory.merger, tokens)?;
        memory.repeats.insert(hash, piece, n_before..tokens.len());
        Ok(())
    }

    /// Appends the tokens of one piece of byte-level BPE that did not come before.
    fn merge_bytes(
        &self,
        piece: &[u8],
        hash: u64,
        splitter: &Splitter,
        merges: &MergeTable,
        merger: &mut Merger,
        tokens: &mut Vec<u32>,
    ) -> Result<(), EngineError> {
        const WHOLE: u8 = 1;
        const IN_PARTS: u8 = 2;
        // Most pieces of code are one token. Merging nearly always agrees, but not always, so it is asked once.
        let whole = self.vocabulary.id_by_hash(hash, piece);
        if let Some(id) = whole
            && (splitter.ignores_merges || self.is_whole[id as usize].load(Ordering::Relaxed) == WHOLE)
        {
            tokens.push(id);
            return Ok(());
        }
        merger.clear();
        for (idx, &byte) in piece.iter().enumerate() {
            merger.push(self.byte_ids[usize::from(byte)].unwrap_or(NO_TOKEN), idx, idx + 1);
        }
        let n_before = tokens.len();
        self.emit(piece, merger.run(piece, merges), tokens)?;
        if let Some(id) = whole {
            let verdict = if tokens[n_before..] == [id] {
                WHOLE
            } else {
                IN_PARTS
            };
            self.is_whole[id as usize].store(verdict, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Starts a merge with the characters of `text`.
    fn push_characters(&self, text: &str, merger: &mut Merger) {
        merger.clear();
        for (start, character) in text.char_indices() {
            let end = start + character.len_utf8();
            let id = self
                .vocabulary
                .id(&text.as_bytes()[start..end])
                .unwrap_or(NO_TOKEN);
            merger.push(id, start, end);
        }
    }

    /// Appends what merging has left; symbols that are no tokens become the tokens of their bytes.
    fn emit<'a>(
        &self,
        text: &[u8],
        symbols: impl Iterator<Item = &'a merge::Symbol>,
        tokens: &mut Vec<u32>,
    ) -> Result<(), EngineError> {
        for symbol in symbols {
            if symbol.id != NO_TOKEN {
                tokens.push(symbol.id);
                continue;
            }
            for &byte in &text[symbol.start as usize..symbol.end as usize] {
                let id = self.byte_ids[usize::from(byte)].or(self.unknown);
                tokens.push(id.ok_or_else(|| {
                    EngineError::BadRequest(format!(
                        "the model's vocabulary has no token for the byte 0x{byte:02x}"
                    ))
                })?);
            }
        }
        Ok(())
    }

    /// Text of the tokens. Control tokens are left out, invalid UTF-8 becomes U+FFFD. A space that a SentencePiece
    /// tokenizer put before the text is kept.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|&id| self.token_bytes(id))
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Bytes that a token stands for, perhaps a part of a character; none for control tokens and for ids outside the
    /// vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocabulary.bytes(id)
    }

    /// The token with this text: a special token's spelling, or else the text of an ordinary token.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.special_token(text)
            .or_else(|| self.vocabulary.id(text.as_bytes()))
    }

    /// The token that stands for exactly these bytes.
    pub(crate) fn token_of_bytes(&self, bytes: &[u8]) -> Option<u32> {
        self.vocabulary.id(bytes)
    }

    /// The control or user-defined token with this spelling.
    pub(crate) fn special_token(&self, spelling: &str) -> Option<u32> {
        self.spellings
            .iter()
            .find(|(existing, _)| existing == spelling)
            .map(|&(_, id)| id)
    }

    /// Whether the token stands for no text.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocabulary.kind(id).is_some_and(TokenKind::is_control)
    }

    /// Whether a space is written before a text that starts afresh.
    pub(crate) fn adds_space(&self) -> bool {
        match &self.algorithm {
            Algorithm::ByteLevel { .. } => false,
            Algorithm::Characters { adds_space, .. } | Algorithm::Scores { adds_space, .. } => *adds_space,
        }
    }

    /// Whether an id means the same in both: they have the same tokens, and what one has beyond the other is no text.
    /// Models of one family pad their vocabularies to different lengths.
    pub(crate) fn shares_ids(&self, other: &Self) -> bool {
        let (n_own, n_others) = (self.vocab_size() as u32, other.vocab_size() as u32);
        let n_both = n_own.min(n_others);
        (0..n_both).all(|id| self.token_bytes(id) == other.token_bytes(id))
            && (n_both..n_own).all(|id| self.is_padding(id))
            && (n_both..n_others).all(|id| other.is_padding(id))
    }

    /// Whether the token stands for no text, or is one that llama.cpp's converters write where a vocabulary is padded.
    fn is_padding(&self, id: u32) -> bool {
        let bytes = self.token_bytes(id);
        bytes.is_empty() || bytes.starts_with(b"[PAD") || self.vocabulary.kind(id) == Some(TokenKind::Unused)
    }

    /// Number of tokens; ids are below it.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// Tokens after which nothing more is to be generated: end of text, of turn, of message. Sorted.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// Token that every prompt begins with, if the model wants one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }
}

/// The text as SentencePiece sees it.
fn with_first_space(text: &str, adds_space: bool) -> String {
    let space = if adds_space { " " } else { "" };
    format!("{space}{}", text.replace(SPACE_MARK, " "))
}

fn unmark_spaces(text: &str, out: &mut Vec<u8>) {
    let mut parts = text.split(SPACE_MARK);
    out.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        out.push(b' ');
        out.extend_from_slice(part.as_bytes());
    }
}

/// Reads tokens and their kinds; `decode` appends the bytes that a token's text stands for. Gives the vocabulary, and
/// the spellings of control and user-defined tokens.
fn read_vocabulary(
    metadata: &Metadata,
    decode: &dyn Fn(&str, &mut Vec<u8>),
) -> Result<(Vocabulary, Vec<(String, u32)>), EngineError> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    const KINDS: &str = "tokenizer.ggml.token_type";
    let texts = metadata.require_str_array(TOKENS)?;
    if texts.is_empty() {
        return Err(metadata.bad(TOKENS, "the vocabulary is empty"));
    }
    let kinds = metadata.get_u32_array(KINDS)?;
    if let Some(kinds) = &kinds
        && kinds.len() != texts.len()
    {
        return Err(metadata.bad(
            KINDS,
            format!("expected {} kinds, found {}", texts.len(), kinds.len()),
        ));
    }
    let kind = |id: usize| {
        kinds
            .as_ref()
            .map_or(TokenKind::Normal, |kinds| TokenKind::from_id(kinds[id]))
    };
    let tokens: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(id, text)| (*text, kind(id)))
        .collect();
    collect_vocabulary(&tokens, decode).map_err(|reason| metadata.bad(TOKENS, reason))
}

/// Tokens and their kinds, in order of ids; `decode` appends the bytes that a token's text stands for.
fn collect_vocabulary(
    tokens: &[(&str, TokenKind)],
    decode: &dyn Fn(&str, &mut Vec<u8>),
) -> Result<(Vocabulary, Vec<(String, u32)>), String> {
    let n_bytes = tokens.iter().map(|(text, _)| text.len()).sum();
    if u32::try_from(n_bytes).is_err() || u32::try_from(tokens.len()).is_err() {
        return Err("the vocabulary has 4 GiB or more".into());
    }
    let mut vocabulary = Vocabulary::with_capacity(tokens.len(), n_bytes);
    let mut spellings = Vec::new();
    for (id, &(text, kind)) in tokens.iter().enumerate() {
        let id = id as u32;
        if matches!(
            kind,
            TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined
        ) {
            spellings.push((text.to_owned(), id));
        }
        let duplicate = vocabulary.push(kind, |out| match kind {
            TokenKind::UserDefined => out.extend_from_slice(text.as_bytes()),
            TokenKind::Byte => out.extend(parse_byte_token(text)),
            _ => decode(text, out),
        });
        if let Some(first) = duplicate {
            return Err(format!("tokens {first} and {id} have the same text"));
        }
    }
    Ok((vocabulary, spellings))
}

/// The byte of a token such as `<0x0A>`.
fn parse_byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok()
}

fn read_merges(
    metadata: &Metadata,
    vocabulary: &Vocabulary,
    decode: &dyn Fn(&str, &mut Vec<u8>),
) -> Result<MergeTable, EngineError> {
    const KEY: &str = "tokenizer.ggml.merges";
    let lines = metadata.require_str_array(KEY)?;
    let mut pairs = Vec::with_capacity(lines.len());
    for (rank, line) in lines.iter().enumerate() {
        pairs.push(split_merge(line).ok_or_else(|| {
            let reason = format!("merge {rank}, `{line}`, is not two tokens with a space between");
            metadata.bad(KEY, reason)
        })?);
    }
    Ok(collect_merges(&pairs, vocabulary, decode))
}

/// The two tokens of a merge with a space between. The first character is part of the left token even if it is a space.
fn split_merge(line: &str) -> Option<(&str, &str)> {
    let mut characters = line.char_indices().skip(1);
    let (split, _) = characters.find(|&(_, character)| character == ' ')?;
    Some((&line[..split], &line[split + 1..]))
}

/// Merges in order of rank.
fn collect_merges(
    pairs: &[(&str, &str)],
    vocabulary: &Vocabulary,
    decode: &dyn Fn(&str, &mut Vec<u8>),
) -> MergeTable {
    let mut merges = MergeTable::with_capacity(pairs.len());
    let mut bytes = Vec::new();
    // Merges mostly stand in the order of their results, which spares a look-up.
    let mut last = 0;
    for (rank, (left, right)) in pairs.iter().enumerate() {
        bytes.clear();
        decode(left, &mut bytes);
        let left_bytes = bytes.len();
        decode(right, &mut bytes);
        let in_order = [last, last + 1]
            .into_iter()
            .find(|&id| vocabulary.is_normal(id, &bytes));
        let id = in_order.or_else(|| vocabulary.id(&bytes));
        // A merge of or into a special token can never happen in a text.
        if let (Some(left), Some(right), Some(id)) = (
            vocabulary.id(&bytes[..left_bytes]),
            vocabulary.id(&bytes[left_bytes..]),
            id,
        ) {
            merges.insert(left, right, rank as u32, id);
            last = id;
        }
    }
    merges
}

/// Ranks of scores: 0 for the highest, equal for equal ones. Not-a-number comes last.
fn rank_scores(scores: &[f32]) -> Vec<u32> {
    let key = |id: &u32| {
        let score = scores[*id as usize];
        if score.is_nan() { f32::NEG_INFINITY } else { score }
    };
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_by(|a, b| key(b).total_cmp(&key(a)));
    let mut ranks = vec![0; scores.len()];
    let mut rank = 0;
    for pair in order.windows(2) {
        rank += u32::from(key(&pair[0]) != key(&pair[1]));
        ranks[pair[1] as usize] = rank;
    }
    ranks
}

#[cfg(test)]
mod tests;
