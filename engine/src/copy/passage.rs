//! Text that can be copied from: bytes, the tokens that they came from, and where each stretch of them occurred before.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::{BORDER, MIN_MATCH, Origin};
use crate::{suffix_index::SuffixIndex, tokenizer::Tokenizer};

/// Bytes of some pieces of text with borders between them.
#[derive(Clone, Default)]
pub(super) struct Passage {
    pub(super) symbols: Vec<u16>,
    /// For each symbol, its token and its index within the token.
    origins: Vec<(u32, u32)>,
    index: SuffixIndex<MIN_MATCH>,
}

impl Passage {
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, token: u32) {
        let bytes = tokenizer.token_bytes(token);
        self.symbols.extend(bytes.iter().map(|byte| u16::from(*byte)));
        self.origins
            .extend((0..bytes.len()).map(|offset| (token, offset as u32)));
    }

    pub(super) fn push_border(&mut self) {
        self.symbols.push(BORDER);
        self.origins.push((0, 0));
    }

    /// Makes what was pushed known to the searches.
    pub(super) fn update_index(&mut self) {
        self.index.extend(&self.symbols);
    }

    /// Ends of places that may read like the end of this passage, most recent first: the index after each.
    pub(super) fn candidates(&self) -> impl Iterator<Item = usize> {
        self.index.candidates()
    }

    /// Ends of places that may read like the end of `symbols`.
    pub(super) fn ends_like(&self, symbols: &[u16]) -> impl Iterator<Item = usize> {
        self.index.ends_like(symbols)
    }

    /// The token that goes on at `place`. Within a token of the text, it is the longest token that begins its rest.
    pub(super) fn token_at(&self, tokenizer: &Tokenizer, place: usize) -> u32 {
        let (token, offset) = self.origins[place];
        if offset == 0 {
            return token;
        }
        let rest = &tokenizer.token_bytes(token)[offset as usize..];
        let mut beginnings = (1..=rest.len()).rev().map(|len| &rest[..len]);
        beginnings
            .find_map(|bytes| tokenizer.token_of_bytes(bytes))
            .unwrap_or(token)
    }
}

/// A text beside the prompt that copying may draw from, such as the rest of the file or another open one. It is prepared
/// once, by whoever needs it first, and takes about 30 bytes of memory for each of its own; requests share it.
pub struct CopySource {
    text: String,
    origin: Origin,
    tokenizer: Arc<Tokenizer>,
    /// Ids from here on are none of the model's.
    n_vocab: usize,
    passage: OnceLock<Passage>,
}

impl CopySource {
    /// A text, for a model that reads the first `n_vocab` tokens.
    pub fn new(tokenizer: Arc<Tokenizer>, n_vocab: usize, text: String, origin: Origin) -> Self {
        Self {
            text,
            origin,
            tokenizer,
            n_vocab,
            passage: OnceLock::new(),
        }
    }

    /// Does what the first token that might be copied from here would wait for, unless that is done: about a millisecond for
    /// each 30 kB.
    pub fn prepare(&self) {
        self.passage();
    }

    /// Whether nobody waits for it any more.
    pub fn is_prepared(&self) -> bool {
        self.passage.get().is_some()
    }

    /// Where the text is.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    pub(super) fn passage(&self) -> &Passage {
        self.passage.get_or_init(|| {
            let tokens = self.tokenizer.encode(&self.text, false).unwrap_or_else(|error| {
                tracing::debug!("nothing is copied from a text: {error}");
                Vec::new()
            });
            let mut passage = Passage::default();
            passage.symbols.reserve_exact(self.text.len() + 1);
            passage.origins.reserve_exact(self.text.len() + 1);
            for token in tokens
                .into_iter()
                .filter(|&token| (token as usize) < self.n_vocab)
            {
                passage.push(&self.tokenizer, token);
            }
            // Nothing goes on at the end of the text.
            passage.push_border();
            passage.update_index();
            passage
        })
    }
}

impl fmt::Debug for CopySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CopySource({} bytes)", self.text.len())
    }
}
