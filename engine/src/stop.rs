//! Stop strings, wherever the token borders fall. Stop tokens are a list of ids in the sequence.

/// Finds stop strings in text that arrives in pieces, and holds text back while it could be the beginning of one.
///
/// The outcome depends on the text alone, not on how it is cut: of all occurrences the one that ends first
/// counts, and among those the longest. Empty strings are ignored.
#[derive(Debug, Default)]
pub struct StopStrings {
    strings: Vec<String>,
    /// Text that may not be shown yet: a proper prefix of a stop string.
    held: String,
}

impl StopStrings {
    /// Looks for `strings`.
    pub fn new(strings: &[String]) -> Self {
        let strings = strings.iter().filter(|it| !it.is_empty()).cloned().collect();
        Self {
            strings,
            held: String::new(),
        }
    }

    /// Takes the next piece of text and appends to `released` what is now certain not to be part of a stop string.
    ///
    /// Returns the stop string that appeared, if one did; the text before it is released, the rest dropped.
    pub fn push(&mut self, text: &str, released: &mut String) -> Option<&str> {
        if self.strings.is_empty() {
            released.push_str(text);
            return None;
        }
        self.held.push_str(text);
        let found = self
            .strings
            .iter()
            .filter_map(|string| Some((self.held.find(string)?, string)))
            .min_by_key(|(start, string)| (start + string.len(), *start));
        if let Some((start, string)) = found {
            released.push_str(&self.held[..start]);
            self.held.clear();
            return Some(string);
        }
        let n_held = self
            .strings
            .iter()
            .map(|string| overlap(&self.held, string))
            .max();
        let certain = self.held.len() - n_held.unwrap_or(0);
        released.extend(self.held.drain(..certain));
        None
    }

    /// Releases what was held back, because nothing follows.
    pub fn finish(&mut self, released: &mut String) {
        released.push_str(&std::mem::take(&mut self.held));
    }
}

/// Bytes of the longest end of `text` that is a proper prefix of `string`.
pub(crate) fn overlap(text: &str, string: &str) -> usize {
    let longest = text.len().min(string.len() - 1);
    (1..=longest)
        .rev()
        .find(|&n| string.is_char_boundary(n) && text.ends_with(&string[..n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(strings: &[&str]) -> StopStrings {
        StopStrings::new(&strings.iter().map(|&it| it.into()).collect::<Vec<_>>())
    }

    /// What comes out if `text` arrives in `pieces`, and the stop string that ended it.
    fn run<'a>(stops: &[&str], pieces: impl IntoIterator<Item = &'a str>) -> (String, Option<String>) {
        let mut stop = strings(stops);
        let mut released = String::new();
        for piece in pieces {
            let found = stop.push(piece, &mut released).map(String::from);
            if found.is_some() {
                return (released, found);
            }
        }
        stop.finish(&mut released);
        (released, None)
    }

    /// Every way to cut `text` at character borders, given as bits.
    fn all_cuts(text: &str) -> impl Iterator<Item = Vec<&str>> {
        let borders: Vec<usize> = text.char_indices().map(|(at, _)| at).skip(1).collect();
        (0..1u32 << borders.len()).map(move |bits| {
            let mut pieces = Vec::new();
            let mut start = 0;
            for (i, &border) in borders.iter().enumerate() {
                if bits & (1 << i) != 0 {
                    pieces.push(&text[start..border]);
                    start = border;
                }
            }
            pieces.push(&text[start..]);
            pieces
        })
    }

    #[track_caller]
    fn check(stops: &[&str], text: &str, expected: &str, expected_stop: Option<&str>) {
        for pieces in all_cuts(text) {
            let (released, stop) = run(stops, pieces.iter().copied());
            assert_eq!(
                (released.as_str(), stop.as_deref()),
                (expected, expected_stop),
                "{pieces:?}"
            );
        }
    }

    #[test]
    fn every_cut_gives_the_same() {
        check(&["\n\n"], "let a;\n\nfn b", "let a;", Some("\n\n"));
        check(&["END"], "a EN ENEND x", "a EN EN", Some("END"));
        check(&["aab"], "aaaaabaa", "aaa", Some("aab"));
        check(&["世界"], "你好世界!", "你好", Some("世界"));
        check(&["x"], "no stop", "no stop", None);
        check(&["stopped"], "no stop", "no stop", None);
    }

    #[test]
    fn several_strings_the_first_to_end_counts() {
        check(&["abcd", "bc"], "xabcdx", "xa", Some("bc"));
        check(&["c", "abc"], "xabcd", "x", Some("abc"));
        check(&["aa", "a"], "baab", "b", Some("a"));
        check(&["}\n", "\n}"], "a\n}\n", "a", Some("\n}"));
    }

    #[test]
    fn empty_strings_are_ignored() {
        check(&[""], "text", "text", None);
        check(&["", "x"], "text", "te", Some("x"));
    }

    #[test]
    fn text_is_held_only_while_it_may_be_a_stop_string() {
        let mut stop = strings(&["</a>"]);
        let mut released = String::new();
        assert_eq!(stop.push("1 <", &mut released), None);
        assert_eq!(released, "1 ");
        assert_eq!(stop.push("/b", &mut released), None);
        assert_eq!(released, "1 </b");
    }
}
