//! Whether a suggestion is wanted here, and how far it should reach.

use serde::Serialize;
use surmise_grammars::Extent;

use crate::{
    completion::withheld::Withheld,
    config::{CompletionConfig, ExtentConfig},
    document::Document,
    position::line_at,
};

/// Why an editor asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// The user is typing; silence is better than noise.
    Automatic,
    /// The user asked for a suggestion.
    Invoked,
}

/// Decides whether to suggest something at byte `at`, and how far.
///
/// A request that the user made is refused only by the settings. While typing, nothing is suggested inside
/// a word, or where the line goes on after the cursor with more than closing brackets and punctuation: the
/// text there is being edited, not written.
pub fn decide(
    document: &Document,
    at: usize,
    trigger: Trigger,
    config: &CompletionConfig,
) -> Result<Extent, Withheld> {
    check_settings(document, trigger, config)?;
    let line = line_at(&document.text, at);
    // Between "\r" and "\n" is no place.
    let at = at.min(line.end);
    let before = document.text.byte_slice(line.start..at).to_string();
    let after = document.text.byte_slice(at..line.end).to_string();
    if trigger == Trigger::Automatic {
        if after.starts_with(is_word) {
            return Err(Withheld::InsideWord);
        }
        if !after.chars().all(may_follow) {
            return Err(Withheld::TextAfterCursor);
        }
    }
    Ok(match config.extent {
        ExtentConfig::Line => Extent::Line,
        ExtentConfig::Statement => Extent::Statement,
        ExtentConfig::Block => Extent::Block,
        ExtentConfig::Auto => natural_extent(document, line.start, &before, &after, trigger),
    })
}

/// Whether the settings allow a suggestion in `document` at all.
fn check_settings(document: &Document, trigger: Trigger, config: &CompletionConfig) -> Result<(), Withheld> {
    if !config.enabled {
        return Err(Withheld::Disabled);
    }
    let language = document.language().name();
    if config
        .disabled_languages
        .iter()
        .any(|disabled| disabled.eq_ignore_ascii_case(language))
    {
        return Err(Withheld::LanguageDisabled { language });
    }
    if trigger == Trigger::Automatic && !config.automatic {
        return Err(Withheld::OnlyWhenInvoked);
    }
    Ok(())
}

/// A block where one begins, a statement where a line begins, the rest of the line elsewhere.
fn natural_extent(
    document: &Document,
    line_start: usize,
    before: &str,
    after: &str,
    trigger: Trigger,
) -> Extent {
    let opens_block = |line: &str| line.trim_end().ends_with(['{', ':', '(', '[']);
    if !after.chars().all(may_follow) {
        Extent::Line
    } else if before.trim().is_empty() {
        let above = document.text.byte_slice(..line_start).to_string();
        let above = above
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default();
        if opens_block(above) || above.is_empty() {
            Extent::Block
        } else {
            Extent::Statement
        }
    } else if opens_block(before) && after.trim().is_empty() {
        Extent::Block
    } else if trigger == Trigger::Invoked {
        Extent::Statement
    } else {
        Extent::Line
    }
}

/// Whether `c` belongs to words, as names in programs are made of them.
pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// What may stand between the cursor and the end of the line while a line is being written.
fn may_follow(c: char) -> bool {
    c.is_whitespace() || ")]}>\"'`;:,{".contains(c)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// `ˇ` is the cursor.
    fn check(fixture: &str, trigger: Trigger, expect: Expect) {
        let at = fixture.find('ˇ').expect("a cursor");
        let document = Document::new(None, Some("rust"), None, &fixture.replace('ˇ', ""));
        let decision = decide(&document, at, trigger, &CompletionConfig::default());
        expect.assert_eq(&match decision {
            Ok(extent) => format!("{extent:?}"),
            Err(withheld) => withheld.to_string(),
        });
    }

    #[test]
    fn extent_follows_from_the_place() {
        check("fn f() {\n    ˇ\n}", Trigger::Automatic, expect!["Block"]);
        check("fn f() {ˇ", Trigger::Automatic, expect!["Block"]);
        check(
            "fn f() {\n    a();\n    ˇ\n}",
            Trigger::Automatic,
            expect!["Statement"],
        );
        check("let a = ˇ", Trigger::Automatic, expect!["Line"]);
        check("let a = ˇ", Trigger::Invoked, expect!["Statement"]);
        check("f(ˇ);", Trigger::Automatic, expect!["Line"]);
        check("ˇ", Trigger::Automatic, expect!["Block"]);
    }

    #[test]
    fn inside_a_line_break_is_the_end_of_its_line() {
        check("let a = \rˇ\n", Trigger::Automatic, expect!["Line"]);
    }

    #[test]
    fn typing_inside_a_line_gets_no_answer_but_asking_does() {
        check(
            "let aˇb = 1;",
            Trigger::Automatic,
            expect!["the cursor is inside a word"],
        );
        check(
            "f(ˇ, b);",
            Trigger::Automatic,
            expect!["the line goes on after the cursor"],
        );
        check("f(ˇ, b);", Trigger::Invoked, expect!["Line"]);
    }

    #[test]
    fn settings_decide_first() {
        let document = Document::new(None, Some("rust"), None, "");
        let refusal = |config: &CompletionConfig, trigger| decide(&document, 0, trigger, config).err();
        let off = CompletionConfig {
            enabled: false,
            ..Default::default()
        };
        assert_eq!(refusal(&off, Trigger::Invoked), Some(Withheld::Disabled));
        let manual = CompletionConfig {
            automatic: false,
            ..Default::default()
        };
        assert_eq!(
            refusal(&manual, Trigger::Automatic),
            Some(Withheld::OnlyWhenInvoked)
        );
        assert_eq!(refusal(&manual, Trigger::Invoked), None);
        let quiet = CompletionConfig {
            disabled_languages: vec!["Rust".to_owned()],
            ..Default::default()
        };
        assert_eq!(
            refusal(&quiet, Trigger::Invoked),
            Some(Withheld::LanguageDisabled { language: "rust" })
        );
    }
}
