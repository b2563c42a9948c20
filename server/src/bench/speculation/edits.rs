//! Edits of any code by plain rules, and an answer that quotes it: texts such as a capable model would write.

use std::{cmp::Reverse, collections::BTreeMap};

use surmise_grammars::{Language, ListPlace, calls_in, parameter_place};

use super::functions::Function;

/// An edit of a function; none where there is nothing to do.
pub(super) type Edit = fn(&Function) -> Option<String>;

/// The edits by name.
pub(super) const ALL: [(&str, Edit); 4] = [
    ("rename", rename),
    ("add parameter", add_parameter),
    ("wrap", wrap),
    ("quotes", translate_quotes),
];

/// Gives the name that occurs most often another one.
fn rename(function: &Function) -> Option<String> {
    let text = function.text();
    let name = most_frequent(&text, |_| true)?;
    Some(replace_words(&text, name, &format!("{name}_of_order")))
}

/// Gives the function one more parameter, and passes it on to the function that it calls most often and to itself.
fn add_parameter(function: &Function) -> Option<String> {
    let Function {
        document,
        range,
        name_range,
    } = function;
    let argument = match document.language() {
        Language::Php => "$context",
        _ => "context",
    };
    let parameter = match document.language() {
        Language::Rust => "context: &Context",
        Language::TypeScript | Language::Tsx => "context: Context",
        Language::Go => "context Context",
        Language::C | Language::Cpp | Language::Java | Language::CSharp => "Context context",
        _ => argument,
    };
    let own = parameter_place(&document.syntax, &document.text, name_range.clone())?;
    let own_name = document.excerpt(name_range.clone());
    let calls = calls_in(&document.syntax, &document.text, range.clone());
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for call in calls.iter().filter(|it| it.name != own_name) {
        *counts.entry(&call.name).or_default() += 1;
    }
    let most = counts
        .into_iter()
        .max_by_key(|&(name, count)| (count, Reverse(name)));
    let passes_on = |name: &str| name == own_name || most.is_some_and(|(most, _)| name == most);
    let mut insertions: Vec<_> = calls
        .iter()
        .filter(|call| passes_on(&call.name))
        .map(|call| (call.place, argument))
        .collect();
    insertions.push((own, parameter));
    insertions.sort_by_key(|(place, _)| Reverse(place.at));
    let mut text = function.text();
    for (ListPlace { at, before, after }, inserted) in insertions {
        text.insert_str(
            at.checked_sub(range.start)?,
            &format!("{before}{inserted}{after}"),
        );
    }
    Some(text)
}

/// Puts all of it into a block that handles errors, one level deeper.
fn wrap(function: &Function) -> Option<String> {
    let mut out = "try {\n".to_owned();
    for line in function.text().lines() {
        let indent = if line.is_empty() { "" } else { "    " };
        out.push_str(indent);
        out.push_str(line);
        out.push('\n');
    }
    out.push_str("} catch (error) {\n    report(error);\n}\n");
    Some(out)
}

/// Writes single quotes for double ones.
fn translate_quotes(function: &Function) -> Option<String> {
    let text = function.text();
    text.contains('"').then(|| text.replace('"', "'"))
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
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
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
    use surmise_grammars::outline;

    use super::*;
    use crate::document::Document;

    /// The first function of a Rust file.
    fn function(text: &str) -> Function {
        let document = Document::new(None, Some("rust"), None, text);
        let definition = outline(&document.syntax, &document.text).remove(0);
        let start = text[..definition.range.start]
            .rfind('\n')
            .map_or(0, |end| end + 1);
        Function {
            range: start..definition.range.end + 1,
            name_range: definition.name_range,
            document,
        }
    }

    const TEXT: &str = "use a::b;\n\nfn total(items: &[u32]) -> u32 {\n    let sum = add(items, rest());\n    \
                        println!(\"sum\", sum);\n    add(&[sum], Some(total(&[])))\n}\n";

    #[test]
    fn edits_do_what_they_say() {
        let function = function(TEXT);
        let edited = |edit: Edit| edit(&function).unwrap();
        assert_eq!(
            edited(add_parameter),
            "fn total(items: &[u32], context: &Context) -> u32 {\n    let sum = add(items, rest(), context);\n    \
             println!(\"sum\", sum);\n    add(&[sum], Some(total(&[], context)), context)\n}\n"
        );
        assert!(edited(rename).contains("fn total(items_of_order: "));
        assert!(edited(wrap).starts_with("try {\n    fn total"));
        assert!(edited(translate_quotes).contains("'sum'"));
        let said: Vec<_> = (0..3).filter_map(|turn| instruction(TEXT, turn)).collect();
        assert_eq!(
            said,
            [
                "rename items to items_of_order",
                "add the parameter context to total and pass it on",
                "use single quotes"
            ]
        );
        assert!(quote(TEXT).contains("```\n"));
    }

    #[test]
    fn there_may_be_nothing_to_do() {
        assert_eq!(translate_quotes(&function("fn a() {}\n")), None);
    }
}
