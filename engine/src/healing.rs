//! Token healing: a prompt that typing has cut off in mid-token goes on as if it had been cut a little earlier.
//!
//! Someone who has typed `return ` has, for the tokenizer, a token of one space at the end, where whole texts have the
//! token ` self`. What the model knows of whole texts serves there only if the last token is taken back: the answer then
//! begins with tokens that spell what was taken, and that part is not told again.
//!
//! Source: Lundberg 2023, "The Art of Prompt Design: Prompt Boundaries and Token Healing", and the library `guidance`. We
//! take back a whole word, not one token, as a word has other tokens once it is complete.

use crate::tokenizer::Tokenizer;

/// Most bytes that are taken back: longer words are left as they are cut.
const MAX_BYTES: usize = 24;

/// What was taken from the end of a prompt, and how an answer spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healing {
    taken: Vec<u8>,
    borders: Vec<u32>,
}

impl Healing {
    /// Takes the end of the last word from a prompt; none if it ends with a line, a digit or a token that is no text, where no
    /// token can be cut in two. Control tokens are no text, nor are `borders`, whose spelling the vocabulary may have as text.
    pub fn take(tokenizer: &Tokenizer, prompt: &mut Vec<u32>, borders: &[u32]) -> Option<Self> {
        let bytes = |token: &u32| tokenizer.token_bytes(*token);
        let mut first = prompt.len();
        let mut n_bytes = 0;
        for (idx, token) in prompt.iter().enumerate().rev() {
            let text = bytes(token);
            let next = prompt.get(idx + 1).map_or(&[][..], bytes);
            if n_bytes > 0 && !belongs_before(text, next) {
                break;
            }
            // A control token has no bytes.
            if text.is_empty() || borders.contains(token) || n_bytes + text.len() > MAX_BYTES {
                break;
            }
            n_bytes += text.len();
            first = idx;
        }
        let taken: Vec<u8> = prompt[first..].iter().flat_map(bytes).copied().collect();
        let last = *taken.last()?;
        if first == 0 || last == b'\n' || last == b'\r' || last.is_ascii_digit() {
            return None;
        }
        prompt.truncate(first);
        Some(Self {
            taken,
            borders: borders.to_vec(),
        })
    }

    /// What was taken.
    pub fn bytes(&self) -> &[u8] {
        &self.taken
    }

    /// Bytes that were taken.
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// Whether nothing was taken.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Whether a token can follow where `left` is still to be spelled.
    pub fn allows(&self, tokenizer: &Tokenizer, left: &[u8], token: u32) -> bool {
        spells(left, tokenizer.token_bytes(token)) && !self.borders.contains(&token)
    }

    /// What the next token still has to spell after the `generated` ones.
    pub fn left(&self, tokenizer: &Tokenizer, generated: &[u32]) -> &[u8] {
        let lens = generated.iter().map(|&token| tokenizer.token_bytes(token).len());
        // Each token is longer than nothing, so few of a long answer are looked at.
        let mut n_spelled = 0;
        for len in lens {
            n_spelled += len;
            if n_spelled >= self.taken.len() {
                return &[];
            }
        }
        &self.taken[n_spelled..]
    }
}

/// Whether a token of this text spells `left` or a part of it, and perhaps more.
fn spells(left: &[u8], text: &[u8]) -> bool {
    !text.is_empty() && (text.starts_with(left) || left.starts_with(text))
}

/// Whether the two texts may be one word in another cutting: letters go on, and one sign may stand before them.
fn belongs_before(text: &[u8], next: &[u8]) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_alphabetic() || !byte.is_ascii();
    let (Some(last), Some(first)) = (text.last(), next.first()) else {
        return false;
    };
    is_letter(first) && (is_letter(last) || (text.len() == 1 && !last.is_ascii_digit() && *last != b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is taken from a text whose tokens are its bytes, as text.
    fn taken(text: &str) -> Option<String> {
        let tokenizer = Tokenizer::bytes();
        let mut prompt: Vec<u32> = text.bytes().map(u32::from).collect();
        let healing = Healing::take(&tokenizer, &mut prompt, &[]);
        let taken = healing.map(|it| String::from_utf8(it.taken).unwrap());
        let rest = tokenizer.decode(&prompt);
        assert_eq!(rest + taken.as_deref().unwrap_or_default(), text);
        taken
    }

    #[test]
    fn the_last_word_is_taken_with_the_sign_before_it() {
        assert_eq!(taken("return self.coun").as_deref(), Some(".coun"));
        assert_eq!(taken("return self").as_deref(), Some(" self"));
        assert_eq!(taken("return ").as_deref(), Some(" "));
        assert_eq!(taken("f(x, ").as_deref(), Some(" "));
        assert_eq!(taken("a = b[").as_deref(), Some("["));
        assert_eq!(taken("größe").as_deref(), None, "nothing would be left");
        assert_eq!(taken("a größ").as_deref(), Some(" größ"));
    }

    #[test]
    fn lines_and_numbers_are_left_alone() {
        assert_eq!(taken("a\n"), None);
        assert_eq!(taken("a = 12"), None);
        assert_eq!(taken(""), None);
        let tokenizer = Tokenizer::bytes();
        let special = tokenizer.special_token("<|fim_prefix|>").unwrap();
        let mut prompt = vec![97, special];
        assert_eq!(Healing::take(&tokenizer, &mut prompt, &[]), None);
        assert_eq!(prompt, [97, special]);
    }

    /// Some vocabularies have the tokens of a template as text of their own.
    #[test]
    fn borders_are_neither_taken_nor_written() {
        let (tokenizer, borders) = (Tokenizer::bytes(), [u32::from(b'>')]);
        let mut prompt: Vec<u32> = b"a>".map(u32::from).into();
        assert_eq!(Healing::take(&tokenizer, &mut prompt, &borders), None);
        let mut prompt: Vec<u32> = b"a>b".map(u32::from).into();
        let healing = Healing::take(&tokenizer, &mut prompt, &borders).unwrap();
        assert_eq!((healing.bytes(), prompt.len()), (&b"b"[..], 2));
        assert!(healing.allows(&tokenizer, b"b", u32::from(b'b')));
        assert!(!healing.allows(&tokenizer, b">", u32::from(b'>')));
    }

    #[test]
    fn tokens_spell_what_was_taken_and_may_go_on() {
        let healing = Healing {
            taken: b"  se".to_vec(),
            borders: Vec::new(),
        };
        let tokenizer = Tokenizer::bytes();
        assert_eq!(healing.left(&tokenizer, &[]), b"  se");
        assert_eq!(healing.left(&tokenizer, &[32]), b" se");
        assert_eq!(healing.left(&tokenizer, &[32, 32, 115, 101, 108]), b"");
        for (text, allowed) in [
            (" ", true),
            ("  self", true),
            ("  s", true),
            ("  x", false),
            ("", false),
        ] {
            assert_eq!(spells(b"  se", text.as_bytes()), allowed, "{text:?}");
        }
    }
}
