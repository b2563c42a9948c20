//! A hole as models of edits see it: some lines around the cursor between marks, which the model writes anew. The beginning of what
//! it writes, up to the cursor, is written for it, so what it generates goes on there; where it comes to the end of the cursor's
//! line, the middle is complete.

use super::conversation::last_lines;
use crate::{request::FimPrompt, weights::Metadata};

/// Where the cursor stands, as text. In an answer it says where the cursor is to go after the edit: no further text is the middle.
const CURSOR: &str = "<|user_cursor|>";

/// Tag of models of edits, which `general.tags` has from the model card.
const EDIT_TAG: &str = "edit-prediction";

/// Marks around the lines, as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    start: &'static str,
    end: &'static str,
    /// What stands around them in the answer.
    answer_start: &'static str,
    answer_end: &'static str,
}

/// Zeta 2. Source: the module `seed_coder` of Zed's `zeta_prompt`, format `V0211SeedCoder`.
pub(super) const ZETA_2: Region = Region {
    start: "<<<<<<< CURRENT\n",
    end: "\n=======\n",
    answer_start: "",
    answer_end: "\n>>>>>>> UPDATED",
};

/// Zeta 2.1, as it marks lines that are few. Source: the modules `seed_coder` and `multi_region` of the same, format
/// `V0318SeedMultiRegions`, and the model card.
pub(super) const ZETA_2_1: Region = Region {
    start: "<|marker_1|>",
    end: "<|marker_2|>\n",
    answer_start: "<|marker_1|>",
    answer_end: "<|marker_2|>",
};

impl Region {
    /// The marks of a model of edits that was made of Seed-Coder; `None` if the file does not say that it is one.
    ///
    /// llama.cpp's converter writes the keys from the model card and from the name of the repository or folder.
    pub(super) fn from_metadata(metadata: &Metadata) -> Option<Self> {
        let text = |key: &str| metadata.get_str(key).ok().flatten();
        let tags = metadata.get_str_array("general.tags").ok().flatten();
        let is_tagged = tags.is_some_and(|tags| tags.contains(&EDIT_TAG));
        let is_zeta = text("general.basename").is_some_and(|it| it.eq_ignore_ascii_case("zeta"));
        match text("general.version") {
            Some("2") if is_tagged || is_zeta => Some(ZETA_2),
            Some("2.1") if is_tagged || is_zeta => Some(ZETA_2_1),
            _ => None,
        }
    }

    /// The lines in the prompt, with what stands before them.
    pub(super) fn marked(self, prompt: &FimPrompt) -> String {
        let lines = Lines::around(prompt);
        let Self { start, end, .. } = self;
        let Lines {
            before, begun, ended, ..
        } = lines;
        format!("{before}{start}{begun}{CURSOR}{ended}{end}")
    }

    /// What stands after the lines.
    pub(super) fn after(prompt: &FimPrompt) -> &str {
        Lines::around(prompt).after
    }

    /// The beginning of the answer, up to the cursor.
    pub(super) fn answer(self, prompt: &FimPrompt) -> String {
        format!("{}{}", self.answer_start, Lines::around(prompt).begun)
    }

    /// What ends the middle.
    pub(super) fn ends(self, prompt: &FimPrompt) -> [String; 3] {
        let ended = Lines::around(prompt).ended;
        [
            format!("{ended}{}", self.answer_end),
            self.answer_end.to_owned(),
            CURSOR.to_owned(),
        ]
    }
}

/// The text around a cursor, in order.
struct Lines<'a> {
    before: &'a str,
    /// Of the lines to be written anew, what stands before the cursor.
    begun: &'a str,
    /// The rest of the cursor's line, without its end.
    ended: &'a str,
    after: &'a str,
}

impl<'a> Lines<'a> {
    fn around(prompt: &'a FimPrompt) -> Self {
        let begun = last_lines(&prompt.prefix);
        let before = &prompt.prefix[..prompt.prefix.len() - begun.len()];
        let line_end = prompt.suffix.find('\n').unwrap_or(prompt.suffix.len());
        let (ended, after) = prompt.suffix.split_at(line_end);
        Self {
            before,
            begun,
            ended,
            after,
        }
    }
}
