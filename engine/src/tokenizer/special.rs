//! Special tokens: finding their spellings in a text, and telling which of them end a generation.

use std::collections::HashMap;

/// Finds the longest of a set of spellings at each place, from left to right.
#[derive(Default)]
pub(super) struct SpellingMatcher {
    /// Child of a node by byte; node 0 is the root.
    children: HashMap<(u32, u8), u32>,
    /// Token that ends at a node.
    tokens: Vec<Option<u32>>,
    /// Whether any spelling begins with a byte.
    first: Vec<bool>,
    /// Bytes of the longest spelling.
    longest: usize,
}

impl SpellingMatcher {
    pub(super) fn insert(&mut self, spelling: &str, id: u32) {
        let Some(&first) = spelling.as_bytes().first() else {
            return;
        };
        self.first.resize(256, false);
        self.first[usize::from(first)] = true;
        if self.tokens.is_empty() {
            self.tokens.push(None);
        }
        let mut node = 0;
        for &byte in spelling.as_bytes() {
            let next_node = self.tokens.len() as u32;
            node = *self.children.entry((node, byte)).or_insert(next_node);
            if node == next_node {
                self.tokens.push(None);
            }
        }
        self.tokens[node as usize].get_or_insert(id);
        self.longest = self.longest.max(spelling.len());
    }

    /// Where in `text` a spelling begins that the text's end cuts off, from `from` on, first to last.
    pub(super) fn cut_off(&self, text: &str, from: usize) -> impl Iterator<Item = usize> {
        let bytes = text.as_bytes();
        let first = from.max(bytes.len().saturating_sub(self.longest));
        (first..bytes.len()).filter(move |&start| {
            let mut rest = bytes[start..].iter();
            let end = rest.try_fold(0, |node, byte| self.children.get(&(node, *byte)).copied());
            text.is_char_boundary(start) && end.is_some()
        })
    }

    /// The first spelling in `text` at or after `from`: start, end, token.
    pub(super) fn find(&self, text: &str, from: usize) -> Option<(usize, usize, u32)> {
        if self.first.is_empty() {
            return None;
        }
        let bytes = text.as_bytes();
        (from..bytes.len())
            .filter(|&start| self.first[usize::from(bytes[start])])
            .find_map(|start| self.longest_at(bytes, start).map(|(end, id)| (start, end, id)))
    }

    fn longest_at(&self, bytes: &[u8], start: usize) -> Option<(usize, u32)> {
        let (mut node, mut longest) = (0, None);
        for (idx, &byte) in bytes.iter().enumerate().skip(start) {
            let Some(&child) = self.children.get(&(node, byte)) else {
                break;
            };
            node = child;
            if let Some(id) = self.tokens[node as usize] {
                longest = Some((idx + 1, id));
            }
        }
        longest
    }
}

/// Spellings of tokens that end an answer, beside those that the file's metadata names.
///
/// Source: llama.cpp, `llama-vocab.cpp`, the list of end-of-generation tokens.
const END_SPELLINGS: [&str; 18] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
    "<EOT>",
    "_<EOT>",
    "▁<EOT>",
    "<|EOT|>",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
    "</s>",
];

/// Whether a token with this spelling ends an answer.
pub(super) fn is_end_spelling(spelling: &str) -> bool {
    END_SPELLINGS.contains(&spelling)
}

/// Whether a user-defined token is a marker of a prompt format rather than a piece of ordinary text: such a token is
/// never made from a user's text, however the file declares it.
///
/// Gemma declares HTML tags and runs of blanks as user-defined tokens; those are ordinary text. Byte-level
/// vocabularies declare markers such as `<tool_call>` that way.
pub(super) fn is_marker(spelling: &str, is_byte_level: bool) -> bool {
    let enclosed = |open: &str, close: &str| spelling.starts_with(open) && spelling.ends_with(close);
    enclosed("<|", ">")
        || enclosed("<", "|>")
        || enclosed("<｜", "｜>")
        || is_end_spelling(spelling)
        || [
            "<s>",
            "<unk>",
            "<pad>",
            "<bos>",
            "<eos>",
            "<mask>",
            "<start_of_turn>",
        ]
        .contains(&spelling)
        || (is_byte_level && (enclosed("<", ">") || enclosed("[", "]")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_spelling_wins_and_the_first_place() {
        let mut matcher = SpellingMatcher::default();
        assert_eq!(matcher.find("<|a|>", 0), None);
        for (id, spelling) in ["<|a|>", "<|a", "<|a|><|b|>", "é"].into_iter().enumerate() {
            matcher.insert(spelling, id as u32);
        }
        assert_eq!(matcher.find("x<|a|>", 0), Some((1, 6, 0)));
        assert_eq!(matcher.find("<|a|><|b|>", 0), Some((0, 10, 2)));
        assert_eq!(matcher.find("<|a|", 0), Some((0, 3, 1)));
        assert_eq!(matcher.find("<<<|è é", 0), Some((7, 9, 3)));
        assert_eq!(matcher.find("<|a|>", 1), None);
    }
}
