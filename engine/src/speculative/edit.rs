//! Edit draft: an answer that rewrites a text mostly repeats it, so that text is the draft.
//!
//! The draft follows the original as long as the answer does. Where they part, the answer so far is aligned with the
//! original by edit distance (Needleman and Wunsch 1970, with the distance from where they parted as the start), and a
//! few tokens that agree in a row anchor it again. What was replaced by what is remembered: in a rename, the draft
//! writes the new name itself from the second place on. So is how far a line was moved in or out: code that is wrapped has
//! all its lines moved, whatever their indentation is.

use std::{borrow::Cow, ops::Range, sync::Arc};

use super::drafter::{Draft, Drafter, DrafterKind, Evidence};
use crate::tokenizer::Tokenizer;

/// Agreeing tokens in a row that make a place certain.
const ANCHOR: u32 = 4;
/// An original is followed this far.
const MAX_ORIGINAL: usize = 1 << 13;
/// Longer replacements, on either side, are not expected to come again.
const MAX_REPLACEMENT: usize = 8;
/// Longest texts, from where they parted to where they met again, that are compared token by token.
const MAX_DIFFERENCE: usize = 128;
/// Replacements remembered, the latest first.
const MAX_REPLACEMENTS: usize = 16;
/// A token for another costs as much as leaving one out and putting one in.
const SUBSTITUTION: u32 = 2;

/// Follows the original of one sequence.
pub struct EditDraft {
    tokenizer: Arc<Tokenizer>,
    original: Vec<u32>,
    /// Tokens of the sequence that were read; the answer starts after the prompt.
    n_read: usize,
    place: Place,
    replacements: Vec<Replacement>,
    shift: Option<Shift>,
}

/// Where in the original the answer is.
#[derive(Debug)]
enum Place {
    /// At this token, after so many that agreed.
    Known { at: usize, n_agreed: usize },
    /// Somewhere else since they parted.
    Lost(Alignment),
}

/// All places of the original weighed against the answer since the two parted.
#[derive(Debug)]
struct Alignment {
    /// Token of the original at which they parted.
    from: usize,
    /// Length of the sequence at that time.
    since: usize,
    /// For each prefix of the original, how badly the answer fits if it has got there.
    costs: Vec<u32>,
    /// For each prefix of the original, how many of its last tokens the answer ends with.
    n_agreed: Vec<u32>,
}

/// Tokens that stood in the original and those that came in their place.
#[derive(Debug, PartialEq, Eq)]
struct Replacement {
    old: Vec<u32>,
    new: Vec<u32>,
    n_seen: usize,
    /// How often the old tokens stayed.
    n_missed: usize,
}

/// How much further in lines have come to begin.
#[derive(Debug, PartialEq, Eq)]
struct Shift {
    /// A space or a tab.
    blank: u8,
    n_bytes: isize,
    n_seen: usize,
    /// How often a line stayed where it was.
    n_missed: usize,
}

impl EditDraft {
    /// Follows `original`, tokens that stand somewhere in the prompt, through an answer after `prompt_len` tokens.
    pub fn new(tokenizer: Arc<Tokenizer>, mut original: Vec<u32>, prompt_len: usize) -> Self {
        original.truncate(MAX_ORIGINAL);
        Self {
            tokenizer,
            original,
            n_read: prompt_len,
            place: Place::Known { at: 0, n_agreed: 0 },
            replacements: Vec::new(),
            shift: None,
        }
    }

    /// Takes in the last of `tokens`.
    fn read(&mut self, tokens: &[u32]) {
        let Some((&token, before)) = tokens.split_last() else {
            return;
        };
        match &mut self.place {
            Place::Known { at, n_agreed } => {
                let at_before = *at;
                if self.original.get(at_before) == Some(&token) {
                    *at += 1;
                    *n_agreed += 1;
                    self.note_misses(at_before);
                    return;
                }
                let mut alignment = Alignment::new(at_before, before.len(), self.original.len());
                alignment.read(&self.original, token);
                self.place = Place::Lost(alignment);
            }
            Place::Lost(alignment) => {
                alignment.read(&self.original, token);
                let (from, since) = (alignment.from, alignment.since);
                if let Some((at, n_agreed, _)) = alignment.best_place(ANCHOR) {
                    self.place = Place::Known { at, n_agreed };
                    if from <= at - n_agreed && since <= tokens.len() - n_agreed {
                        self.note_difference(from..at - n_agreed, &tokens[..tokens.len() - n_agreed], since);
                    }
                } else if let Some(at) = self.moved_line(from, &tokens[since..]) {
                    self.place = Place::Known { at, n_agreed: 1 };
                } else if self.are_inserted_lines(from, &tokens[since..]) {
                    self.place = Place::Known {
                        at: from,
                        n_agreed: 0,
                    };
                }
            }
        }
    }

    /// The answer, which ends with `tokens`, has something else since token `since` than the original in `old`.
    fn note_difference(&mut self, old: Range<usize>, tokens: &[u32], since: usize) {
        let moved = |range: Range<usize>, by: usize| range.start + by..range.end + by;
        let parts = differences(&self.original[old.clone()], &tokens[since..]);
        let parts = parts
            .into_iter()
            .map(|(in_old, in_new)| (moved(in_old, old.start), moved(in_new, since)));
        for (old, new) in parts {
            let (old, new) = (&self.original[old], &tokens[new]);
            if !note_shift(&self.tokenizer, &mut self.shift, old, new) {
                note_replacement(&mut self.replacements, old, new);
            }
        }
        // What was replaced as a whole comes first, as the latest. What was put in or left out is known by the token before.
        let is_one_sided = old.is_empty() || since == tokens.len();
        let n_before = usize::from(is_one_sided).min(old.start).min(since);
        let old = &self.original[old.start - n_before..old.end];
        note_replacement(&mut self.replacements, old, &tokens[since - n_before..]);
    }

    /// Where the original is after `new`, if that is the white space before a line, with its first word or without, of another
    /// length.
    fn moved_line(&mut self, from: usize, new: &[u32]) -> Option<usize> {
        if !self.begins_line(from) || new.len() > MAX_REPLACEMENT {
            return None;
        }
        let rest = &self.original[from..];
        let mut lengths = 1..=rest.len().min(MAX_REPLACEMENT);
        let n_old =
            lengths.find(|n_old| note_shift(&self.tokenizer, &mut self.shift, &rest[..*n_old], new))?;
        Some(from + n_old)
    }

    /// Whether `new` are whole lines that were put before the one that begins at `from` of the original.
    fn are_inserted_lines(&self, from: usize, new: &[u32]) -> bool {
        let ends_line = |token: &u32| self.tokenizer.token_bytes(*token).ends_with(b"\n");
        let Place::Lost(alignment) = &self.place else {
            return false;
        };
        new.last().is_some_and(ends_line)
            && self.begins_line(from)
            && alignment
                .best_place(1)
                .is_none_or(|(_, _, cost)| cost > new.len() as u32)
    }

    /// The answer kept the original's token at `at`: replacements that begin there did not happen.
    fn note_misses(&mut self, at: usize) {
        for Replacement {
            old, new, n_missed, ..
        } in &mut self.replacements
        {
            // Those that are known by the token before them begin with it.
            let n_before = usize::from(old.first() == new.first());
            let rest = at.checked_sub(n_before).map(|start| &self.original[start..]);
            let was_due =
                rest.is_some_and(|it| it.starts_with(old)) && new.get(n_before) != self.original.get(at);
            *n_missed += usize::from(was_due);
        }
        let begins_line = self.begins_line(at);
        if let Some(shift) = self.shift.as_mut().filter(|_| begins_line) {
            shift.n_missed += 1;
        }
    }

    /// Whether a line begins at `at` of the original, and is not empty.
    fn begins_line(&self, at: usize) -> bool {
        let bytes = |at: usize| {
            self.original
                .get(at)
                .map(|token| self.tokenizer.token_bytes(*token))
        };
        let is_first = at == 0 || bytes(at - 1).is_some_and(|it| it.ends_with(b"\n"));
        is_first && bytes(at).is_some_and(|it| !it.starts_with(b"\n"))
    }

    /// How the answer goes on: the rest of a replacement, the place in the original after it, and in how many tokens the
    /// two agree before.
    fn place(&self, tokens: &[u32]) -> (Cow<'_, [u32]>, usize, usize) {
        let alignment = match &self.place {
            Place::Known { at, n_agreed } => return (Cow::default(), *at, *n_agreed),
            Place::Lost(alignment) => alignment,
        };
        let new = &tokens[alignment.since..];
        if let Some((n_old, due)) = self.due(alignment.from)
            && due.starts_with(new)
        {
            let rest = match due {
                Cow::Borrowed(due) => Cow::Borrowed(&due[new.len()..]),
                Cow::Owned(due) => Cow::Owned(due[new.len()..].to_vec()),
            };
            return (rest, alignment.from + n_old, new.len());
        }
        match alignment.best_place(1) {
            Some((at, n_agreed, _)) => (Cow::default(), at, n_agreed),
            // Nothing fits yet: as many tokens may have been replaced as have come.
            None => (Cow::default(), alignment.from + new.len(), 0),
        }
    }

    /// What to expect at token `at` of the original in the place of how many tokens, if something else than they.
    fn due(&self, at: usize) -> Option<(usize, Cow<'_, [u32]>)> {
        let rest = self.original.get(at..)?;
        let mut replacements = self.replacements.iter();
        let replacement = replacements.find(|it| it.n_seen > it.n_missed && rest.starts_with(&it.old));
        if let Some(it) = replacement {
            return Some((it.old.len(), Cow::Borrowed(&it.new)));
        }
        let shift = self.shift.as_ref().filter(|it| it.n_seen > it.n_missed)?;
        if !self.begins_line(at) {
            return None;
        }
        // With the word after the white space: vocabularies cut between the two in their own ways.
        let bytes = |token: &u32| self.tokenizer.token_bytes(*token);
        let n_blank = rest
            .iter()
            .take_while(|token| n_blanks(bytes(token), shift.blank) == bytes(token).len())
            .count();
        let old = &rest[..rest.len().min(n_blank + 1)];
        let old_bytes: Vec<u8> = old.iter().flat_map(bytes).copied().collect();
        let text = std::str::from_utf8(&old_bytes).ok()?;
        let n_old = n_blanks(&old_bytes, shift.blank);
        let n_new = n_old.checked_add_signed(shift.n_bytes)?;
        let moved = char::from(shift.blank).to_string().repeat(n_new) + &text[n_old..];
        Some((old.len(), Cow::Owned(self.tokenizer.encode(&moved, false).ok()?)))
    }
}

/// How many bytes at the start are `blank`.
fn n_blanks(bytes: &[u8], blank: u8) -> usize {
    bytes.iter().take_while(|byte| **byte == blank).count()
}

/// The runs of tokens in which two texts differ, in order, by a longest common subsequence. None in texts longer than
/// an alignment of a few lines needs.
fn differences(old: &[u32], new: &[u32]) -> Vec<(Range<usize>, Range<usize>)> {
    if old.len() > MAX_DIFFERENCE || new.len() > MAX_DIFFERENCE {
        return Vec::new();
    }
    // Tokens in common between the rests of both texts.
    let width = new.len() + 1;
    let mut common = vec![0u8; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = if old[i] == new[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut runs = Vec::new();
    while i < old.len() || j < new.len() {
        let (from_old, from_new) = (i, j);
        while i < old.len() || j < new.len() {
            if i < old.len() && j < new.len() && old[i] == new[j] {
                break;
            }
            let without_old = (i < old.len()).then(|| common[(i + 1) * width + j]);
            let without_new = (j < new.len()).then(|| common[i * width + j + 1]);
            if without_old >= without_new {
                i += 1;
            } else {
                j += 1;
            }
        }
        let n_agreed = old[i..].iter().zip(&new[j..]).take_while(|(a, b)| a == b).count();
        if (from_old, from_new) != (i, j) {
            runs.push((from_old..i, from_new..j));
        }
        (i, j) = (i + n_agreed, j + n_agreed);
    }
    runs
}

/// Remembers that `old` has become `new`; the latest comes first.
fn note_replacement(replacements: &mut Vec<Replacement>, old: &[u32], new: &[u32]) {
    let lengths = 1..=MAX_REPLACEMENT;
    if !lengths.contains(&old.len()) || !lengths.contains(&new.len()) {
        return;
    }
    let known = replacements.iter().position(|it| it.old == old && it.new == new);
    let mut replacement = match known {
        Some(idx) => replacements.remove(idx),
        None => Replacement {
            old: old.to_vec(),
            new: new.to_vec(),
            n_seen: 0,
            n_missed: 0,
        },
    };
    replacement.n_seen += 1;
    replacements.insert(0, replacement);
    replacements.truncate(MAX_REPLACEMENTS);
}

/// Whether `old` and `new` are the same but for the white space that they begin with; remembers how much more that is.
fn note_shift(tokenizer: &Tokenizer, shift: &mut Option<Shift>, old: &[u32], new: &[u32]) -> bool {
    let bytes = |tokens: &[u32]| -> Vec<u8> {
        tokens
            .iter()
            .flat_map(|token| tokenizer.token_bytes(*token))
            .copied()
            .collect()
    };
    let (old, new) = (bytes(old), bytes(new));
    let blank = if old.starts_with(b"\t") || new.starts_with(b"\t") {
        b'\t'
    } else {
        b' '
    };
    let (n_old, n_new) = (n_blanks(&old, blank), n_blanks(&new, blank));
    if n_old == n_new || old[n_old..] != new[n_new..] {
        return false;
    }
    let n_bytes = n_new as isize - n_old as isize;
    match shift {
        Some(shift) if (shift.blank, shift.n_bytes) == (blank, n_bytes) => shift.n_seen += 1,
        _ => {
            *shift = Some(Shift {
                blank,
                n_bytes,
                n_seen: 1,
                n_missed: 0,
            });
        }
    }
    true
}

impl Alignment {
    fn new(from: usize, since: usize, original_len: usize) -> Self {
        Self {
            from,
            since,
            costs: (0..=original_len).map(|at| at.abs_diff(from) as u32).collect(),
            n_agreed: vec![0; original_len + 1],
        }
    }

    /// Takes in the answer's next token.
    fn read(&mut self, original: &[u32], token: u32) {
        let mut diagonal = self.costs[0];
        self.costs[0] += 1;
        let mut agreed_before = std::mem::take(&mut self.n_agreed[0]);
        for (idx, &other) in original.iter().enumerate() {
            let agrees = other == token;
            let replaced = diagonal + if agrees { 0 } else { SUBSTITUTION };
            diagonal = self.costs[idx + 1];
            self.costs[idx + 1] = replaced.min(diagonal + 1).min(self.costs[idx] + 1);
            let n_agreed = if agrees { agreed_before + 1 } else { 0 };
            agreed_before = std::mem::replace(&mut self.n_agreed[idx + 1], n_agreed);
        }
    }

    /// The place that fits best among those before which `least` tokens agree, how many do, and how badly it fits.
    fn best_place(&self, least: u32) -> Option<(usize, usize, u32)> {
        let places = self.costs.iter().zip(&self.n_agreed).enumerate();
        let agreeing = places.filter(|(_, (_, n_agreed))| **n_agreed >= least);
        let best = agreeing.min_by_key(|(_, (cost, _))| **cost);
        best.map(|(at, (cost, n_agreed))| (at, *n_agreed as usize, *cost))
    }
}

impl Drafter for EditDraft {
    fn kind(&self) -> DrafterKind {
        DrafterKind::Edit
    }

    fn draft(&mut self, tokens: &[u32], max_len: usize, draft: &mut Draft) {
        draft.clear();
        while self.n_read < tokens.len() {
            self.n_read += 1;
            self.read(&tokens[..self.n_read]);
        }
        let (rest, mut at, n_agreed) = self.place(tokens);
        let evidence = Evidence::of_match(n_agreed);
        for &token in &rest[..rest.len().min(max_len)] {
            draft.push(token, evidence);
        }
        while draft.len() < max_len && at < self.original.len() {
            let due = self.due(at);
            let (n_old, new) = due.unwrap_or((1, Cow::Borrowed(&self.original[at..=at])));
            for &token in &new[..new.len().min(max_len - draft.len())] {
                draft.push(token, evidence);
            }
            at += n_old;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::weights::{Gguf, WeightSource};

    /// What is drafted after each beginning of `answer`, as text, up to `len` bytes.
    fn draft_after(original: &str, answer: &str, len: usize) -> String {
        let tokens = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
        let mut drafter = EditDraft::new(Arc::new(Tokenizer::bytes()), tokens(original), 0);
        let mut draft = Draft::default();
        let answer = tokens(answer);
        for end in 1..=answer.len() {
            drafter.draft(&answer[..end], len, &mut draft);
        }
        Tokenizer::bytes().decode(&draft.tokens().collect::<Vec<_>>())
    }

    const ORIGINAL: &str = "fn area(width: u32, height: u32) -> u32 {\n    width * height\n}\n";

    #[test]
    fn the_original_is_the_draft() {
        assert_eq!(draft_after(ORIGINAL, "fn a", 11), "rea(width: ");
        assert_eq!(draft_after(ORIGINAL, ORIGINAL, 10), "");
    }

    #[test]
    fn it_goes_on_after_an_insertion_a_removal_and_a_replacement() {
        assert_eq!(draft_after(ORIGINAL, "pub(crate) fn ar", 8), "ea(width");
        assert_eq!(draft_after(ORIGINAL, "fn area(heig", 8), "ht: u32)");
        assert_eq!(draft_after(ORIGINAL, "fn area(width: u8, hei", 5), "ght: ");
    }

    #[test]
    fn what_moved_is_found_again() {
        assert_eq!(
            draft_after("one\ntwo\nthree\nfour\n", "three\nfour\none\ntw", 4),
            "o\nth"
        );
    }

    #[test]
    fn a_replacement_is_expected_again() {
        let original = "let count = 1; count += 2; print(count);";
        let draft = draft_after(original, "let total = 1; t", 100);
        assert_eq!(draft, "otal += 2; print(total);");
        // Where the old text stays, the replacement is given up.
        let draft = draft_after(original, "let total = 1; count += 2; p", 100);
        assert_eq!(draft, "rint(count);");
    }

    #[test]
    fn several_replacements_before_an_anchor_are_told_apart() {
        let pairs = |old: &'static str, new: &'static str| {
            let tokens = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
            let text = |tokens: &[u32]| Tokenizer::bytes().decode(tokens);
            let (old, new) = (tokens(old), tokens(new));
            let runs = differences(&old, &new);
            runs.iter()
                .map(|(in_old, in_new)| (text(&old[in_old.clone()]), text(&new[in_new.clone()])))
                .collect::<Vec<_>>()
        };
        let of = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                .collect()
        };
        assert_eq!(pairs("2}3}", "4}5}"), of(&[("2", "4"), ("3", "5")]));
        assert_eq!(pairs("ab", "ab"), of(&[]));
        assert_eq!(pairs("xab", "ab"), of(&[("x", "")]));
        assert_eq!(pairs("ab", "aby"), of(&[("", "y")]));
        assert_eq!(pairs("", "y"), of(&[("", "y")]));
        // Lines moved in by one level, each too short to be an anchor.
        let draft = draft_after("1a;2b;then1c;2d;1e;2f;", "3a;4b;then3", 11);
        assert_eq!(draft, "c;4d;3e;4f;");
    }

    /// With tokens for runs of spaces, as vocabularies for code have them.
    #[test]
    fn lines_are_expected_to_move_as_far_as_those_before() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/surmise.gguf");
        let gguf = Gguf::open(WeightSource::File(file)).unwrap();
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).unwrap());
        let draft_after = |original: &str, answer: &str| {
            let tokens = |text: &str| tokenizer.encode(text, false).unwrap();
            let mut drafter = EditDraft::new(Arc::clone(&tokenizer), tokens(original), 0);
            let (mut draft, answer) = (Draft::default(), tokens(answer));
            for end in 1..=answer.len() {
                drafter.draft(&answer[..end], 40, &mut draft);
            }
            tokenizer.decode(&draft.tokens().collect::<Vec<_>>())
        };
        let original = "  let a = b(c);\n      if a {\n          d(a);\n      }\n  e(a);\n";
        let moved = "      let a = b(c);\n          if a {\n              d(a);\n          }\n      e(a);\n";
        assert_eq!(draft_after(original, &moved[..20]), moved[20..]);
        // A line that stays where it was ends that.
        let (moved, kept) = (&moved[..20], &original[16..]);
        let stays = format!("{moved}{}", &kept[..13]);
        assert!(draft_after(original, &stays).starts_with(&kept[13..36]));
    }

    #[test]
    fn any_answer_will_do() {
        for (original, answer) in [("", "x"), ("a", "aa"), ("abc", "cab"), ("aaaa", "aabaa")] {
            draft_after(original, answer, 5);
        }
    }
}
