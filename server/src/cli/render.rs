//! A completion as people read it: the suggestion in its place, and underneath what it cost.

use std::fmt::Write;

use crate::{
    cli::style::Style,
    completion::{Completion, Query, Suggestion, report::tokens_per_second},
    position::{Encoding, position_at},
};

/// Lines shown above and below.
const CONTEXT_LINES: usize = 4;

pub(super) fn completion(query: &Query, completion: &Completion, style: Style) -> String {
    let Style { faint, reset, .. } = style;
    let mut out = String::new();
    match &completion.outcome {
        Ok(suggestion) => out.push_str(&in_place(query, suggestion, style)),
        Err(withheld) => {
            out = format!(
                "{}no suggestion: {withheld}\n",
                in_place(query, &nothing(query), style)
            )
        }
    }
    if let Some(costs) = costs(completion) {
        // `write!` to a string cannot fail.
        let _ = writeln!(out, "\n{faint}{costs}{reset}");
    }
    out
}

fn nothing(query: &Query) -> Suggestion {
    Suggestion {
        range: query.at..query.at,
        text: String::new(),
    }
}

/// The lines around the cursor with the suggestion between them; `+` marks lines that are new.
fn in_place(query: &Query, suggestion: &Suggestion, style: Style) -> String {
    let Style {
        ghost, faint, reset, ..
    } = style;
    let document = &query.document;
    let cursor = position_at(&document.text, suggestion.range.start, Encoding::Utf8);
    let text = document.excerpt(0..document.text.len_bytes());
    let lines: Vec<&str> = text.split('\n').collect();
    let (before, after) = lines[cursor.line].split_at(cursor.column);
    let n_new = suggestion.text.matches('\n').count();
    let last = (cursor.line + CONTEXT_LINES).min(lines.len() - 1);
    let width = (last + n_new + 1).to_string().len();
    let mut out = String::new();
    let mut number = cursor.line.saturating_sub(CONTEXT_LINES);
    let mut line = |mark: char, text: &str| {
        number += 1;
        let _ = writeln!(out, "{faint}{number:>width$} {mark}{reset} {text}");
    };
    for text in &lines[cursor.line.saturating_sub(CONTEXT_LINES)..cursor.line] {
        line('│', text);
    }
    for (idx, ghost_line) in suggestion.text.split('\n').enumerate() {
        let before = if idx == 0 { before } else { "" };
        let after = if idx == n_new { after } else { "" };
        line(
            if idx == 0 { '>' } else { '+' },
            &format!("{before}{ghost}{ghost_line}{reset}{after}"),
        );
    }
    for text in &lines[cursor.line + 1..=last] {
        line('│', text);
    }
    out
}

/// One line: what it took.
fn costs(completion: &Completion) -> Option<String> {
    let finish = completion.trace.finish.as_ref()?;
    let mut parts = vec![format!(
        "first token {} ms",
        finish.timings.time_to_first_token.as_millis()
    )];
    if let Some(tokens_per_second) = tokens_per_second(finish) {
        parts.push(format!("{tokens_per_second:.0} tokens/s"));
    }
    parts.push(format!(
        "{:.2} tokens per step",
        finish.speculation.tokens_per_step()
    ));
    parts.push(format!("{} tokens written", finish.usage.generated_tokens));
    parts.push(format!("{} read", finish.usage.prompt_tokens));
    if let Some(confidence) = completion.trace.confidence {
        parts.push(format!("confidence {:.0} %", confidence * 100.0));
    }
    Some(parts.join(" · "))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::{completion::trigger::Trigger, document::Document};

    #[test]
    fn a_suggestion_stands_in_its_place() {
        let query = Query {
            document: Document::new(None, None, None, "a\r\nb\r\nc\r\nd\r\ne f\r\ng"),
            at: 14,
            trigger: Trigger::Invoked,
            root: None,
            config: Default::default(),
            sampling: Default::default(),
            speculation: Default::default(),
            beside: Default::default(),
        };
        let suggestion = Suggestion {
            range: 14..14,
            text: "x {\n  y\n}".to_owned(),
        };
        expect![[r#"
            1 │ a
            2 │ b
            3 │ c
            4 │ d
            5 > e x {
            6 +   y
            7 + }f
            8 │ g
        "#]]
        .assert_eq(&in_place(&query, &suggestion, Style::new(false)));
    }
}
