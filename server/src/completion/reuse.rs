//! The last suggestion, kept while the user types it: no key that agrees with it waits for the model.

use ropey::Rope;

use crate::document::Document;

/// A suggestion, and the text it was made for.
#[derive(Debug, Clone)]
pub struct Remembered {
    text: Rope,
    at: usize,
    suggestion: String,
}

impl Remembered {
    /// Remembers `suggestion`, made for inserting at byte `at` of `document`.
    pub fn new(document: &Document, at: usize, suggestion: &str) -> Self {
        Self {
            text: document.text.clone(),
            at,
            suggestion: suggestion.to_owned(),
        }
    }

    /// What is left to suggest at byte `at`, if the user has typed the suggestion so far and nothing else.
    pub fn rest(&self, document: &Document, at: usize) -> Option<&str> {
        let text = &document.text;
        let typed_bytes = at.checked_sub(self.at)?;
        if text.len_bytes() != self.text.len_bytes() + typed_bytes {
            return None;
        }
        // Where other text stands now, `self.at` may be inside a character.
        if text.get_byte_slice(..self.at)? != self.text.byte_slice(..self.at)
            || text.byte_slice(at..) != self.text.byte_slice(self.at..)
        {
            return None;
        }
        let rest = self.suggestion.strip_prefix(&*document.excerpt(self.at..at))?;
        (!rest.trim().is_empty()).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Suggests `suggestion` at `ˇ` in `before`, then asks for what is left at `ˇ` in `after`.
    fn rest(before: &str, suggestion: &str, after: &str) -> Option<String> {
        let read = |fixture: &str| {
            let at = fixture.find('ˇ').expect("a cursor");
            (Document::new(None, None, None, &fixture.replace('ˇ', "")), at)
        };
        let (document, at) = read(before);
        let remembered = Remembered::new(&document, at, suggestion);
        let (document, at) = read(after);
        remembered.rest(&document, at).map(str::to_owned)
    }

    #[test]
    fn typing_along_leaves_the_rest() {
        assert_eq!(rest("a ˇ)", "+ bcd", "a ˇ)").as_deref(), Some("+ bcd"));
        assert_eq!(rest("a ˇ)", "+ bcd", "a + bˇ)").as_deref(), Some("cd"));
        assert_eq!(rest("{ˇ\r\n}", "\nüx", "{\r\nüˇ\r\n}").as_deref(), Some("x"));
    }

    #[test]
    fn anything_else_leaves_nothing() {
        assert_eq!(rest("a ˇ)", "+ b", "a + bˇ)"), None, "all typed");
        assert_eq!(rest("a ˇ)", "+ b", "a -ˇ)"), None, "typed something else");
        assert_eq!(rest("a ˇ)", "+ b", "aˇ)"), None, "deleted");
        assert_eq!(rest("a ˇ)", "+ b", "b +ˇ)"), None, "changed above");
        assert_eq!(rest("aˇ)", "+ b", "éˇ)"), None, "another character above");
        assert_eq!(rest("a ˇ)", "+ b", "a +ˇ)x"), None, "changed below");
        assert_eq!(
            rest("a ˇ)", "+ b", "a +ˇ]"),
            None,
            "changed below at equal length"
        );
    }
}
