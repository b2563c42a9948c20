//! Edit draft: an answer that rewrites a text mostly repeats it, so that text is the draft.
//!
//! The draft follows the original as long as the answer does. Where they part, the answer so far is aligned with the
//! original, and a few bytes that agree in a row anchor it again. What was replaced by what is remembered: in a rename, the
//! draft writes the new name itself from the second place on. So is how far a line was moved in or out: code that is wrapped
//! has all its lines moved, whatever their indentation is.
//!
//! All of it is about bytes: vocabularies cut a text into other tokens as soon as a sign in it is another one.

use std::{ops::Range, sync::Arc};

mod alignment;
mod changes;

use alignment::Alignment;
use changes::{Changes, is_blank};

use super::drafter::{Draft, Drafter, DrafterKind, Evidence};
use crate::tokenizer::{TextStart, Tokenizer};

/// Agreeing bytes in a row, white space not counted, that make a place certain.
const ANCHOR: usize = 3;
/// Bytes of code that are a token, about.
const TOKEN_BYTES: usize = 4;
/// How likely it is that a guessed place is right, before anything is measured: where nothing before it agrees, and where a few bytes do.
/// Less than for any match, so that guesses have classes of their own and spoil nothing that is measured where the place is certain.
const NOTHING_AGREES: f32 = 0.1;
const A_FEW_AGREE: f32 = 0.2;

/// Follows the original of one sequence.
pub struct EditDraft {
    tokenizer: Arc<Tokenizer>,
    /// Tokens that the model knows.
    vocab: usize,
    original: Vec<u8>,
    answer: Vec<u8>,
    /// Tokens of the sequence that were read; the answer starts after the prompt.
    n_read: usize,
    place: Place,
    changes: Changes,
}

/// Where in the original the answer is.
#[derive(Debug)]
enum Place {
    /// At this byte, after so many that agreed.
    Known { at: usize, n_agreed: usize },
    /// In the middle of something else that was expected.
    Expected {
        /// What is to come of it.
        rest: Vec<u8>,
        /// Where the original goes on after it.
        then: usize,
        /// Byte of the original and length of the answer where the two parted.
        from: usize,
        since: usize,
        n_agreed: usize,
    },
    /// Somewhere else since they parted.
    Lost(Alignment),
}

impl EditDraft {
    /// Follows `original`, a text that stands somewhere in the prompt, through an answer after `prompt_len` tokens. Drafts
    /// tokens below `vocab`.
    pub fn new(tokenizer: Arc<Tokenizer>, vocab: usize, original: &str, prompt_len: usize) -> Self {
        Self {
            tokenizer,
            vocab,
            original: original.as_bytes().to_vec(),
            answer: Vec::new(),
            n_read: prompt_len,
            place: Place::Known { at: 0, n_agreed: 0 },
            changes: Changes::default(),
        }
    }

    /// Takes in the answer's next token.
    fn read(&mut self, token: u32) {
        for &byte in Arc::clone(&self.tokenizer).token_bytes(token) {
            self.answer.push(byte);
            self.read_byte(byte);
        }
        let Place::Lost(alignment) = &self.place else {
            return;
        };
        let (at, n_agreed) = alignment.best_place();
        let agreed = &self.answer[self.answer.len() - n_agreed..];
        if agreed.iter().filter(|byte| !is_blank(**byte)).count() >= ANCHOR {
            let (from, since) = (alignment.from, alignment.since);
            self.place = Place::Known { at, n_agreed };
            if from <= at {
                let n_agreed = n_agreed.min(at - from);
                self.note_difference(from..at - n_agreed, since..self.answer.len() - n_agreed);
            }
        }
    }

    fn read_byte(&mut self, byte: u8) {
        match &mut self.place {
            Place::Known { at, n_agreed } if self.original.get(*at) == Some(&byte) => {
                self.changes.note_kept(&self.original, *at);
                *at += 1;
                *n_agreed += 1;
            }
            Place::Known { at, n_agreed } => {
                let (from, n_agreed) = (*at, *n_agreed);
                self.place = self.place_after_parting(from, n_agreed);
            }
            Place::Expected {
                rest,
                from,
                since,
                n_agreed,
                ..
            } => {
                if rest.first() == Some(&byte) {
                    rest.remove(0);
                    *n_agreed += 1;
                } else {
                    let (from, since) = (*from, *since);
                    self.place = Place::Lost(self.aligned(from, since));
                }
            }
            Place::Lost(alignment) => alignment.read(&self.original, byte),
        }
        if let Place::Expected {
            rest,
            then,
            from,
            since,
            n_agreed,
        } = &self.place
            && rest.is_empty()
        {
            let (at, n_agreed) = (*then, *n_agreed);
            let (old, new) = (*from..at, *since..self.answer.len());
            self.place = Place::Known { at, n_agreed };
            self.note_difference(old, new);
        }
    }

    /// The place after the answer's last byte, which is another one than at `from` of the original, where `n_agreed` agreed
    /// before.
    fn place_after_parting(&self, from: usize, n_agreed: usize) -> Place {
        let since = self.answer.len() - 1;
        // Something else may have been expected from a little earlier on that begins in the same way.
        let earliest = from - n_agreed.min(Changes::MAX_OLD).min(from);
        for start in earliest..=from {
            let Some(due) = self.changes.due(&self.original, start) else {
                continue;
            };
            let agreed = &self.answer[since - (from - start)..];
            if start + due.n_old >= from
                && let Some(rest) = due.new.strip_prefix(agreed)
            {
                return Place::Expected {
                    rest: rest.to_vec(),
                    then: start + due.n_old,
                    from,
                    since,
                    n_agreed: n_agreed + 1,
                };
            }
        }
        Place::Lost(self.aligned(from, since))
    }

    /// The answer since byte `since`, when it parted from the original at `from`, aligned with it.
    fn aligned(&self, from: usize, since: usize) -> Alignment {
        let mut alignment = Alignment::new(from, since, self.original.len());
        for &byte in &self.answer[since..] {
            alignment.read(&self.original, byte);
        }
        alignment
    }

    fn note_difference(&mut self, old: Range<usize>, new: Range<usize>) {
        self.changes
            .note_difference((&self.original, old), (&self.answer, new));
    }

    /// How the answer goes on, about `len` bytes of it, whether there is more, and how sure that is.
    fn continuation(&self, len: usize) -> (Vec<u8>, bool, Evidence) {
        let agreed = |n_bytes: usize| Evidence::of_match(n_bytes.div_ceil(TOKEN_BYTES));
        let (mut text, mut at, evidence) = match &self.place {
            Place::Known { at, n_agreed } => (Vec::new(), *at, agreed(*n_agreed)),
            Place::Expected {
                rest, then, n_agreed, ..
            } => (rest.clone(), *then, agreed(*n_agreed)),
            Place::Lost(alignment) => {
                let (at, n_agreed) = alignment.best_place();
                let guess = if n_agreed == 0 {
                    NOTHING_AGREES
                } else {
                    A_FEW_AGREE
                };
                (Vec::new(), at, Evidence::of_probability(guess))
            }
        };
        while text.len() < len && at < self.original.len() {
            match self.changes.due(&self.original, at) {
                Some(due) => {
                    text.extend_from_slice(&due.new);
                    at += due.n_old;
                }
                None => {
                    text.push(self.original[at]);
                    at += 1;
                }
            }
        }
        (text, at < self.original.len(), evidence)
    }
}

impl Drafter for EditDraft {
    fn kind(&self) -> DrafterKind {
        DrafterKind::Edit
    }

    fn draft(&mut self, tokens: &[u32], max_len: usize, draft: &mut Draft) {
        draft.clear();
        for &token in &tokens[self.n_read..] {
            self.read(token);
        }
        self.n_read = tokens.len();
        let (text, has_more, evidence) = self.continuation(max_len * TOKEN_BYTES);
        let mut text = text.utf8_chunks().next().map_or("", |it| it.valid());
        if has_more {
            // The last word may have been cut in two, and what comes before it may go together with it.
            text = text.trim_end_matches(|it: char| it.is_alphanumeric() || it == '_');
        }
        let start = if self.answer.is_empty() {
            TextStart::Fresh
        } else {
            TextStart::Continued
        };
        let Ok(mut next) = self.tokenizer.encode_from(text, false, start) else {
            return;
        };
        if has_more {
            next.pop();
        }
        let known = next.into_iter().take_while(|it| (*it as usize) < self.vocab);
        known.take(max_len).for_each(|token| draft.push(token, evidence));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::weights::{Gguf, WeightSource};

    fn tokenizer() -> Arc<Tokenizer> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/surmise.gguf");
        let gguf = Gguf::open(WeightSource::File(file)).unwrap();
        Arc::new(Tokenizer::from_gguf(&gguf).unwrap())
    }

    fn draft_by(tokenizer: Arc<Tokenizer>, original: &str, answer: &str, len: usize) -> String {
        let mut drafter = EditDraft::new(Arc::clone(&tokenizer), usize::MAX, original, 0);
        let mut draft = Draft::default();
        let answer = tokenizer.encode(answer, false).unwrap();
        for end in 0..=answer.len() {
            drafter.draft(&answer[..end], len, &mut draft);
        }
        tokenizer.decode(&draft.tokens().collect::<Vec<_>>())
    }

    /// What is drafted after each beginning of `answer`, up to `len` bytes, where every byte is a token.
    fn draft_after(original: &str, answer: &str, len: usize) -> String {
        draft_by(Arc::new(Tokenizer::bytes()), original, answer, len)
    }

    const ORIGINAL: &str = "fn area(width: u32, height: u32) -> u32 {\n    width * height\n}\n";

    #[test]
    fn the_original_is_the_draft() {
        assert_eq!(draft_after(ORIGINAL, "", 8), "fn area(");
        assert_eq!(draft_after(ORIGINAL, "fn a", 11), "rea(width: ");
        assert_eq!(draft_after(ORIGINAL, ORIGINAL, 10), "");
    }

    #[test]
    fn it_goes_on_after_an_insertion_a_removal_and_a_replacement() {
        assert_eq!(draft_after(ORIGINAL, "pub(crate) fn ar", 8), "ea(width");
        assert_eq!(draft_after(ORIGINAL, "fn area(heig", 8), "ht: u32)");
        assert_eq!(draft_after(ORIGINAL, "fn area(width: u8, hei", 5), "ght: ");
        assert_eq!(draft_after(ORIGINAL, "/// Of a window.\n", 7), "fn area");
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
    fn signs_that_are_parts_of_other_tokens_are_expected_again() {
        let original = "names = (\"Zed\", &[\"zed\", \"zeditor\"])\nmore = (\"Code\", [\"code\"])\n";
        let edited = original.replace('"', "'");
        let (answer, rest) = edited.split_at(edited.find(", 'zeditor").unwrap());
        assert_eq!(draft_by(tokenizer(), original, answer, 100), rest);
    }

    #[test]
    fn lines_are_expected_to_move_as_far_as_those_before() {
        let original = "  let a = b(c);\n      if a {\n          d(a);\n      }\n  e(a);\n";
        let moved = "      let a = b(c);\n          if a {\n              d(a);\n          }\n      e(a);\n";
        for tokenizer in [tokenizer(), Arc::new(Tokenizer::bytes())] {
            let draft_after = |answer: &str| draft_by(Arc::clone(&tokenizer), original, answer, 100);
            assert_eq!(draft_after(&moved[..20]), moved[20..]);
            // A line that stays where it was ends that.
            let stays = format!("{}{}", &moved[..20], &original[16..29]);
            assert!(draft_after(&stays).starts_with(&original[29..45]));
        }
    }

    #[test]
    fn a_guess_is_judged_apart() {
        let tokenizer = Arc::new(Tokenizer::bytes());
        let evidence_after = |answer: &str| {
            let mut drafter = EditDraft::new(Arc::clone(&tokenizer), usize::MAX, ORIGINAL, 0);
            let mut draft = Draft::default();
            drafter.draft(&tokenizer.encode(answer, false).unwrap(), 8, &mut draft);
            draft.nodes()[0].evidence
        };
        let guess = evidence_after("fn area(?");
        assert_eq!(guess, Evidence::of_probability(NOTHING_AGREES));
        assert_eq!(
            evidence_after("fn area(?w"),
            Evidence::of_probability(A_FEW_AGREE)
        );
        let least = [
            evidence_after(""),
            evidence_after("fn area(?width"),
            evidence_after("fn area("),
        ];
        assert!(
            least
                .iter()
                .all(|it| it.class() > Evidence::of_probability(A_FEW_AGREE).class())
        );
    }

    #[test]
    fn any_answer_will_do() {
        for (original, answer) in [
            ("", "x"),
            ("a", "aa"),
            ("abc", "cab"),
            ("aaaa", "aabaa"),
            ("ä", "ö\u{1f980}"),
        ] {
            draft_after(original, answer, 5);
            draft_by(tokenizer(), original, answer, 5);
        }
    }
}
