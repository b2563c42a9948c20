//! What an answer has changed so far and may change again: words and signs for others, and how far lines are moved in.

use std::{borrow::Cow, ops::Range};

use super::alignment::differences;

/// Longer replacements, in bytes on either side, are not expected to come again.
const MAX_REPLACEMENT: usize = 48;
/// Replacements remembered, the latest first.
const MAX_REPLACEMENTS: usize = 16;
/// Signs between what was put in or left out and the word by which the place is known.
const MAX_SIGNS: usize = 2;

/// What was changed, the latest first.
#[derive(Debug, Default)]
pub(super) struct Changes {
    replacements: Vec<Replacement>,
    shift: Option<Shift>,
}

/// Whole words or signs that stood in the original and those that came in their place.
#[derive(Debug, PartialEq, Eq)]
struct Replacement {
    old: Vec<u8>,
    new: Vec<u8>,
    n_seen: usize,
    /// How often the old ones stayed.
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

/// What is expected at some place: that so many bytes of the original, at least one, are replaced by others.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due<'a> {
    pub(super) n_old: usize,
    pub(super) new: Cow<'a, [u8]>,
}

impl Changes {
    /// Longest text of the original that something is expected in place of.
    pub(super) const MAX_OLD: usize = MAX_REPLACEMENT;

    /// What to expect at byte `at` of the original, if something else than it.
    pub(super) fn due(&self, original: &[u8], at: usize) -> Option<Due<'_>> {
        let replacements = self.replacements.iter().filter(|it| it.n_seen > it.n_missed);
        let shift = self.shift.iter().filter(|it| it.n_seen > it.n_missed);
        let replaced = replacements
            .filter(|it| it.stands_at(original, at))
            .map(|it| Due {
                n_old: it.old.len(),
                new: Cow::Borrowed(&*it.new),
            });
        shift.filter_map(|it| it.due(original, at)).chain(replaced).next()
    }

    /// The answer has the byte at `at` of the original: what was expected to differ there has not happened.
    pub(super) fn note_kept(&mut self, original: &[u8], at: usize) {
        for it in &mut self.replacements {
            let n_common = common_prefix(&it.old, &it.new);
            let is_due = |start| it.stands_at(original, start);
            if it.new.get(n_common) != Some(&original[at]) && at.checked_sub(n_common).is_some_and(is_due) {
                it.n_missed += 1;
            }
        }
        if let Some(shift) = &mut self.shift {
            let before = original[..at].iter().rev();
            let n_kept = before.take_while(|it| **it == shift.blank).count();
            let line = at - n_kept;
            let due = shift.due(original, line);
            let is_missed = |it: Due<'_>| n_kept == common_prefix(&original[line..line + it.n_old], &it.new);
            shift.n_missed += usize::from(due.is_some_and(is_missed));
        }
    }

    /// The answer has `new` in place of `old`: ranges of both texts, which agree before and after them.
    pub(super) fn note_difference(
        &mut self,
        (original, old): (&[u8], Range<usize>),
        (answer, new): (&[u8], Range<usize>),
    ) {
        self.note_shift(
            &original[line_start(original, old.end)..],
            &answer[line_start(answer, new.end)..],
        );
        // Outwards to whole words; what is passed over agrees.
        let n_before = original[..old.start]
            .iter()
            .rev()
            .take_while(|it| is_word(**it))
            .count();
        let n_before = n_before.min(new.start);
        let after = original[old.end..].iter().zip(&answer[new.end..]);
        let n_after = after.take_while(|(a, b)| a == b && is_word(**a)).count();
        let (old, new) = (
            old.start - n_before..old.end + n_after,
            new.start - n_before..new.end + n_after,
        );
        let (old_units, new_units) = (units(&original[old.clone()]), units(&answer[new.clone()]));
        let place = |units: &[&[u8]]| units.iter().map(|it| it.len()).sum::<usize>();
        for (in_old, in_new) in differences(&old_units, &new_units) {
            let old_at = old.start + place(&old_units[..in_old.start]);
            let new_at = new.start + place(&new_units[..in_new.start]);
            let old_end = old_at + place(&old_units[in_old]);
            let new = &answer[new_at..new_at + place(&new_units[in_new])];
            if original[old_at..old_end]
                .iter()
                .chain(new)
                .all(|it| is_blank(*it))
            {
                continue;
            }
            if old_at < old_end && !new.is_empty() {
                self.note_replacement(&original[old_at..old_end], new);
                continue;
            }
            // What was put in or left out is known by the word before it, or else by the one after it.
            if let Some(start) = word_before(original, old_at) {
                let new = [&original[start..old_at], new].concat();
                self.note_replacement(&original[start..old_end], &new);
            } else if let Some(end) = word_after(original, old_end) {
                let new = [new, &original[old_end..end]].concat();
                self.note_replacement(&original[old_at..end], &new);
            }
        }
    }

    fn note_replacement(&mut self, old: &[u8], new: &[u8]) {
        if old.is_empty() || old.len().max(new.len()) > MAX_REPLACEMENT || new.contains(&b'\n') {
            return;
        }
        let known = self
            .replacements
            .iter()
            .position(|it| it.old == old && it.new == new);
        let mut replacement = match known {
            Some(idx) => self.replacements.remove(idx),
            None => Replacement {
                old: old.to_vec(),
                new: new.to_vec(),
                n_seen: 0,
                n_missed: 0,
            },
        };
        replacement.n_seen += 1;
        self.replacements.insert(0, replacement);
        self.replacements.truncate(MAX_REPLACEMENTS);
    }

    /// Remembers how much further in `new` begins than `old`, if the two are the beginnings of a line.
    fn note_shift(&mut self, old: &[u8], new: &[u8]) {
        let blank = if old.starts_with(b"\t") || new.starts_with(b"\t") {
            b'\t'
        } else {
            b' '
        };
        let (n_old, n_new) = (n_blanks(old, blank), n_blanks(new, blank));
        if n_old == n_new || old.get(n_old) != new.get(n_new) {
            return;
        }
        let n_bytes = n_new as isize - n_old as isize;
        match &mut self.shift {
            Some(shift) if (shift.blank, shift.n_bytes) == (blank, n_bytes) => shift.n_seen += 1,
            shift => {
                *shift = Some(Shift {
                    blank,
                    n_bytes,
                    n_seen: 1,
                    n_missed: 0,
                });
            }
        }
    }
}

impl Replacement {
    /// Whether the old words stand at `at`, whole.
    fn stands_at(&self, original: &[u8], at: usize) -> bool {
        let Some(after) = original[at..].strip_prefix(&*self.old) else {
            return false;
        };
        let splits = |before: Option<&u8>, after: Option<&u8>| {
            before.is_some_and(|it| is_word(*it)) && after.is_some_and(|it| is_word(*it))
        };
        !splits(original[..at].last(), self.old.first()) && !splits(self.old.last(), after.first())
    }
}

impl Shift {
    /// What comes in place of the white space at `at`, and of the first byte after it, if a line begins there that is not empty.
    fn due(&self, original: &[u8], at: usize) -> Option<Due<'static>> {
        if original[..at].last().is_some_and(|it| *it != b'\n') {
            return None;
        }
        let rest = &original[at..];
        let n_old = n_blanks(rest, self.blank);
        let first = *rest.get(n_old).filter(|it| **it != b'\n')?;
        let n_new = n_old.checked_add_signed(self.n_bytes)?;
        let mut new = vec![self.blank; n_new];
        new.push(first);
        Some(Due {
            n_old: n_old + 1,
            new: Cow::Owned(new),
        })
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

pub(super) fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace()
}

/// How many bytes at the start are `blank`.
fn n_blanks(bytes: &[u8], blank: u8) -> usize {
    bytes.iter().take_while(|byte| **byte == blank).count()
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Where the line begins that `at` is in.
fn line_start(text: &[u8], at: usize) -> usize {
    let line_break = text[..at].iter().rposition(|it| *it == b'\n');
    line_break.map_or(0, |it| it + 1)
}

/// Words, runs of white space, and signs one by one.
fn units(text: &[u8]) -> Vec<&[u8]> {
    let together = |a: &u8, b: &u8| is_word(*a) && is_word(*b) || is_blank(*a) && is_blank(*b);
    text.chunk_by(together).collect()
}

/// Where the word begins that stands before `at`, signs between them allowed.
fn word_before(text: &[u8], at: usize) -> Option<usize> {
    let before = text[..at].iter().rev();
    let n_signs = before.clone().take_while(|it| !is_word(**it)).count();
    let n_word = before.skip(n_signs).take_while(|it| is_word(**it)).count();
    let signs = &text[at - n_signs..at];
    (n_signs <= MAX_SIGNS && n_word > 0 && !signs.contains(&b'\n')).then(|| at - n_signs - n_word)
}

/// Where the word ends that stands after `at`, likewise.
fn word_after(text: &[u8], at: usize) -> Option<usize> {
    let after = text[at..].iter();
    let n_signs = after.clone().take_while(|it| !is_word(**it)).count();
    let n_word = after.skip(n_signs).take_while(|it| is_word(**it)).count();
    let signs = &text[at..at + n_signs];
    (n_signs <= MAX_SIGNS && n_word > 0 && !signs.contains(&b'\n')).then(|| at + n_signs + n_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The original with all changes that are due after `old` in it became `new`.
    fn applied(original: &str, old: &str, new: &str) -> String {
        let (start, end) = (
            original.find(old).unwrap(),
            original.find(old).unwrap() + old.len(),
        );
        let answer = format!("{}{new}{}", &original[..start], &original[end..]);
        let mut changes = Changes::default();
        changes.note_difference(
            (original.as_bytes(), start..end),
            (answer.as_bytes(), start..start + new.len()),
        );
        let (mut out, mut at) = (Vec::new(), 0);
        while at < original.len() {
            let due = changes.due(original.as_bytes(), at);
            let due = due.unwrap_or(Due {
                n_old: 1,
                new: Cow::Borrowed(&original.as_bytes()[at..=at]),
            });
            out.extend_from_slice(&due.new);
            at += due.n_old;
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn words_are_replaced_as_a_whole() {
        assert_eq!(
            applied("count + counter; count", "count", "counts"),
            "counts + counter; counts"
        );
        assert_eq!(applied("old = older(old)", "ld", "ther"), "other = older(other)");
    }

    #[test]
    fn signs_are_replaced_wherever_they_stand() {
        assert_eq!(applied("a(\"b\", \"c\")", "\"b\"", "'b'"), "a('b', 'c')");
    }

    #[test]
    fn what_was_put_in_or_left_out_is_known_by_the_words_around() {
        assert_eq!(
            applied("sum(a); b(c); sum(d)", "a)", "x, a)"),
            "sum(x, a); b(c); sum(x, d)"
        );
        assert_eq!(
            applied("fn a() {}\nfn b() {}", "fn a", "pub fn a"),
            "pub fn a() {}\npub fn b() {}"
        );
        assert_eq!(applied("self.a + self.b", "self.a", "a"), "a + self.b");
    }

    #[test]
    fn lines_are_moved_in() {
        assert_eq!(
            applied("a\n  b\n\n    c\n", "  b", "    b"),
            "  a\n    b\n\n      c\n"
        );
        assert_eq!(applied("\ta\n\tb\n", "\ta", "a"), "a\nb\n");
    }

    #[test]
    fn what_does_not_happen_is_given_up() {
        let original = b"a = b; b = c;";
        let mut changes = Changes::default();
        changes.note_replacement(b"b", b"x");
        assert!(changes.due(original, 4).is_some());
        changes.note_kept(original, 7);
        assert!(changes.due(original, 4).is_none());
        changes.note_replacement(b"b", b"x");
        assert!(changes.due(original, 4).is_some());
    }
}
