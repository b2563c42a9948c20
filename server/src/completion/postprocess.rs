//! From what the model wrote to what is shown: a list of small steps, each of which shortens or refuses.

mod check_syntax;
mod cut_at_doubt;
mod cut_at_extent;
mod drop_repetition;
mod pauses;
mod trim_blank_end;
mod trim_suffix_overlap;

use serde::Serialize;
use surmise_grammars::Extent;

use crate::{completion::withheld::Withheld, config::CompletionConfig, document::Document};

pub(crate) use cut_at_doubt::confidence;
pub(crate) use cut_at_extent::is_complete;

/// What the model wrote, and where it would go.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The document as it was when the suggestion was asked for.
    pub document: &'a Document,
    /// Byte at which the text would be inserted.
    pub at: usize,
    /// How far it should reach.
    pub extent: Extent,
    /// The settings.
    pub config: &'a CompletionConfig,
    /// Confidence in each byte of the text, at most as long as the text: natural logarithms of the tokens'
    /// probabilities, with the byte at which each token's text ends.
    pub logprobs: &'a [(usize, f32)],
    /// Whether the user asked for it; then the gates that only keep things quiet stay open.
    pub invoked: bool,
}

/// A step sees the candidate and the text that is left of it, and says how many bytes of that to keep.
type Step = fn(&Candidate<'_>, &str) -> Result<usize, Withheld>;

/// The steps, in order.
const STEPS: [(&str, Step); 6] = [
    ("cut_at_extent", cut_at_extent::run),
    ("trim_suffix_overlap", trim_suffix_overlap::run),
    ("drop_repetition", drop_repetition::run),
    ("trim_blank_end", trim_blank_end::run),
    ("cut_at_doubt", cut_at_doubt::run),
    ("check_syntax", check_syntax::run),
];

/// What one step did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepTrace {
    /// Name of the step.
    pub step: &'static str,
    /// Bytes it was given.
    pub given: usize,
    /// Bytes it kept; none if it refused.
    pub kept: usize,
}

/// Runs the steps over `text`; returns what is left of it. `trace` gets a line for each step that did
/// something.
pub fn postprocess<'t>(
    candidate: &Candidate<'_>,
    mut text: &'t str,
    trace: &mut Vec<StepTrace>,
) -> Result<&'t str, Withheld> {
    for (step, run) in STEPS {
        let kept = run(candidate, text);
        let n_kept = kept.as_ref().map_or(0, |kept| *kept);
        if n_kept != text.len() {
            trace.push(StepTrace {
                step,
                given: text.len(),
                kept: n_kept,
            });
        }
        text = &text[..kept?];
    }
    Ok(text)
}

/// The text after the cursor: the rest of its line, and the lines below.
fn suffix_lines(candidate: &Candidate<'_>) -> (String, Vec<String>) {
    /// More than any suggestion has.
    const MAX_SUFFIX_BYTES: usize = 4096;
    let text = &candidate.document.text;
    let end = text.len_bytes().min(candidate.at + MAX_SUFFIX_BYTES);
    let end = text.char_to_byte(text.byte_to_char(end));
    let suffix = candidate.document.excerpt(candidate.at..end);
    let mut lines = suffix.split('\n').map(str::to_owned);
    (lines.next().unwrap_or_default(), lines.collect())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// `├ ┤` enclose what the model wrote; the answer is what is left of it, or why nothing is.
    fn check(language: &str, extent: Extent, fixture: &str, expect: Expect) {
        let start = fixture.find('├').expect("├");
        let end = fixture.find('┤').expect("┤");
        let text = &fixture[start + '├'.len_utf8()..end];
        let document = Document::new(
            None,
            Some(language),
            None,
            &format!("{}{}", &fixture[..start], &fixture[end + '┤'.len_utf8()..]),
        );
        let config = CompletionConfig::default();
        let candidate = Candidate {
            document: &document,
            at: start,
            extent,
            config: &config,
            logprobs: &[(text.len(), -0.1)],
            invoked: false,
        };
        let mut trace = Vec::new();
        expect.assert_eq(&match postprocess(&candidate, text, &mut trace) {
            Ok(text) => format!("{text:?}"),
            Err(withheld) => withheld.to_string(),
        });
    }

    #[test]
    fn brackets_that_follow_already_are_not_suggested_again() {
        check(
            "rust",
            Extent::Line,
            "fn f() { g(├a, b)┤); }",
            expect![[r#""a, b""#]],
        );
        check(
            "rust",
            Extent::Line,
            "fn f() { g(├a, b);┤) }",
            expect![[r#""a, b""#]],
        );
        check(
            "rust",
            Extent::Line,
            "fn f() { g(├h(a))┤); }",
            expect![[r#""h(a)""#]],
        );
        check(
            "rust",
            Extent::Line,
            "fn f() { let a = ├[b]┤; }",
            expect![[r#""[b]""#]],
        );
        check(
            "rust",
            Extent::Line,
            "fn f() { g(├)┤) }",
            expect!["the model suggests nothing here"],
        );
    }

    #[test]
    fn lines_that_follow_already_are_not_suggested_again() {
        check(
            "rust",
            Extent::Block,
            "fn f() {\n    ├g();\n    h();\n}┤\n    h();\n}\n",
            expect![[r#""g();""#]],
        );
        check(
            "python",
            Extent::Block,
            "def f():\n    ├return 1┤\n    return 1\n",
            expect!["the suggestion is what follows the cursor already"],
        );
    }

    #[test]
    fn loops_end_after_one_turn() {
        check(
            "python",
            Extent::Block,
            "def f():\n    ├a = 1\n    b = 2\n    a = 1\n    b = 2┤\n",
            expect![[r#""a = 1\n    b = 2""#]],
        );
        check(
            "python",
            Extent::Statement,
            "x = one()\n├x = one()┤\n",
            expect!["the suggestion repeats the lines above"],
        );
    }

    #[test]
    fn a_line_is_a_line() {
        check(
            "rust",
            Extent::Line,
            "fn f() {\n    let a = ├1;\n    let b = 2;┤\n}",
            expect![[r#""1;""#]],
        );
        check(
            "rust",
            Extent::Line,
            "fn f() {\n    g();├\n    h();┤\n}",
            expect!["the model suggests nothing here"],
        );
    }

    #[test]
    fn text_that_breaks_the_syntax_is_not_shown() {
        check(
            "rust",
            Extent::Line,
            "fn f() {\n    ├g((1;┤\n}\n",
            expect!["the suggestion would break the syntax"],
        );
    }

    #[test]
    fn what_is_whole_of_a_text_that_breaks_off_is_shown() {
        check(
            "python",
            Extent::Statement,
            "def f(sensor):\n    return ├sensor_drift_estimate(0.0, 0.0, 0.0, 0┤\n",
            expect![[r#""sensor_drift_estimate""#]],
        );
        check(
            "rust",
            Extent::Block,
            "fn f() {\n    ├let first = 1;\n    let second = g(first,┤\n}\n",
            expect![[r#""let first = 1;""#]],
        );
        check(
            "rust",
            Extent::Line,
            "fn f() {\n    ├go(the_first_of((1;┤\n}\n",
            expect!["the suggestion would break the syntax"],
        );
    }
}
