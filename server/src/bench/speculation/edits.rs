//! Edits of any code by plain rules, and an answer that quotes it: texts such as a capable model would write.

use std::collections::HashMap;

/// An edit of a span; none where there is nothing to do.
pub(super) type Edit = fn(&str) -> Option<String>;

/// The edits by name.
pub(super) const ALL: [(&str, Edit); 4] = [
    ("rename", rename),
    ("add parameter", add_parameter),
    ("wrap", wrap),
    ("quotes", translate_quotes),
];

/// Gives the name that occurs most often another one.
fn rename(span: &str) -> Option<String> {
    let name = most_frequent(span, |_| true)?;
    Some(replace_words(span, name, &format!("{name}_of_order")))
}

/// Gives the function that is called most often one more argument, everywhere.
fn add_parameter(span: &str) -> Option<String> {
    let name = most_frequent(span, |rest| rest.starts_with('('))?;
    let call = format!("{name}(");
    Some(span.replace(&call, &format!("{call}context, ")))
}

/// Puts all of it into a block that handles errors, one level deeper.
fn wrap(span: &str) -> Option<String> {
    let mut out = "try {\n".to_owned();
    for line in span.lines() {
        let indent = if line.is_empty() { "" } else { "    " };
        out.push_str(indent);
        out.push_str(line);
        out.push('\n');
    }
    out.push_str("} catch (error) {\n    report(error);\n}\n");
    Some(out)
}

/// Writes single quotes for double ones.
fn translate_quotes(span: &str) -> Option<String> {
    span.contains('"').then(|| span.replace('"', "'"))
}

/// What somebody would say to have the same done: the edits in turn.
pub(super) fn instruction(span: &str, turn: usize) -> Option<String> {
    Some(match turn % 3 {
        0 => {
            let name = most_frequent(span, |_| true)?;
            format!("rename {name} to {name}_of_order")
        }
        1 => {
            let name = most_frequent(span, |rest| rest.starts_with('('))?;
            format!("add the parameter context to {name} and pass it on")
        }
        _ => "use single quotes".to_owned(),
    })
}

/// A few sentences with two excerpts of the code between them, as an assistant answers a question about it.
pub(super) fn quote(span: &str) -> String {
    let lines: Vec<&str> = span.lines().collect();
    let excerpt = |from: usize| {
        lines[from..]
            .iter()
            .take(9)
            .copied()
            .collect::<Vec<_>>()
            .join("\n")
    };
    format!(
        "The part that matters here is this one, where the work begins:\n\n```\n{}\n```\n\nIt runs once for each item, so the \
         cost grows with the number of items. What follows depends on its result:\n\n```\n{}\n```\n\nIf you only need the \
         first match, return early instead of collecting everything.\n",
        excerpt(lines.len() / 4),
        excerpt(lines.len() / 2)
    )
}

/// The name of four characters or more that occurs most often where `is_wanted` likes what follows it; among equals the
/// first in the alphabet.
fn most_frequent(span: &str, is_wanted: fn(&str) -> bool) -> Option<&str> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for (at, word) in words(span) {
        if word.len() >= 4 && is_wanted(&span[at + word.len()..]) {
            *counts.entry(word).or_default() += 1;
        }
    }
    let most = counts.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(a.0)));
    most.map(|(word, _)| word)
}

/// The names in a text with the bytes at which they start.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |char: char| char.is_alphanumeric() || char == '_';
    let words = text.split(move |char| !is_part(char));
    words
        .filter(|word| word.starts_with(|char: char| char.is_alphabetic() || char == '_'))
        .map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}

fn replace_words(text: &str, name: &str, replacement: &str) -> String {
    let mut out = String::new();
    let mut done = 0;
    for (at, word) in words(text).filter(|(_, word)| *word == name) {
        out.push_str(&text[done..at]);
        out.push_str(replacement);
        done = at + word.len();
    }
    out.push_str(&text[done..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_do_what_they_say() {
        let span = "let total = sum(item);\nprint(\"total\", total);\nsum(other);\n";
        let edited = |edit: Edit| edit(span).unwrap();
        assert_eq!(
            edited(rename),
            "let total_of_order = sum(item);\nprint(\"total_of_order\", total_of_order);\nsum(other);\n"
        );
        assert!(edited(add_parameter).contains("print(context, \"total\""));
        assert!(edited(wrap).starts_with("try {\n    let total"));
        assert!(edited(translate_quotes).contains("'total'"));
        assert_eq!(translate_quotes("none"), None);
        let said: Vec<_> = (0..3).filter_map(|turn| instruction(span, turn)).collect();
        assert_eq!(
            said,
            [
                "rename total to total_of_order",
                "add the parameter context to print and pass it on",
                "use single quotes"
            ]
        );
        assert!(quote(span).contains("```\nprint(\"total\", total);"));
    }
}
