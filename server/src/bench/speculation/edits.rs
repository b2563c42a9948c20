//! Edits of any code by plain rules, and an answer that quotes it: texts such as a capable model would write.

use std::{cmp::Reverse, collections::BTreeMap};

use surmise_grammars::{Language, ListPlace, calls_in, parameter_place};

use super::functions::Function;
use crate::actions::{Promise, strings_in_either_quote};

/// One sort of edit.
pub(super) struct Edit {
    /// What it is called.
    pub(super) name: &'static str,
    /// The edited text; none where there is nothing to do.
    pub(super) apply: fn(&Function) -> Option<String>,
    /// What somebody would say to have it done.
    pub(super) instruction: fn(&Function) -> Option<String>,
    /// Whether `text` of a model is the edit: what `apply` gives, or another way to do it.
    pub(super) is_right: fn(&Function, text: &str) -> bool,
}

/// All of them.
pub(super) const ALL: [Edit; 4] = [
    Edit {
        name: "rename",
        apply: rename,
        instruction: |function| {
            let text = function.text();
            let name = most_frequent(&text)?;
            Some(format!("rename {name} to {}", new_name(name)))
        },
        is_right: |function, text| is_what(rename, function, text),
    },
    Edit {
        name: "add parameter",
        apply: add_parameter,
        instruction: |function| {
            let name = function.document.excerpt(function.name_range.clone());
            Some(format!(
                "add a parameter {} to {name} and pass it on",
                parameter(function)
            ))
        },
        is_right: |function, text| is_what(add_own_parameter, function, text),
    },
    Edit {
        name: "wrap",
        apply: wrap,
        instruction: |_| Some("wrap the body in error handling".to_owned()),
        is_right: |function, text| keeps(Promise::RaisesAgain, function, text),
    },
    Edit {
        name: "quotes",
        apply: translate_quotes,
        instruction: |function| {
            let (_, to) = quotes(function)?;
            let name = if to == '"' { "double" } else { "single" };
            Some(format!("use {name} quotes"))
        },
        is_right: |function, text| {
            let are_gone = quotes(function).is_some_and(|(from, _)| !text.contains(from));
            is_what(translate_quotes, function, text)
                || are_gone && keeps(Promise::OnlyQuotes, function, text)
        },
    },
];

fn is_what(apply: fn(&Function) -> Option<String>, function: &Function, text: &str) -> bool {
    apply(function).is_some_and(|wanted| wanted.trim_end() == text.trim_end())
}

fn keeps(promise: Promise, function: &Function, text: &str) -> bool {
    let (before, after) = (function.text(), text.trim_end());
    let before = before.trim_end();
    before != after && promise.is_kept(function.document.language(), before, after)
}

/// Gives the name that occurs most often another one.
fn rename(function: &Function) -> Option<String> {
    let text = function.text();
    let name = most_frequent(&text)?;
    Some(replace_words(&text, name, &new_name(name)))
}

/// In the style of the old one.
fn new_name(name: &str) -> String {
    let is_camel = !name.contains('_') && name.contains(char::is_uppercase);
    format!("{name}{}", if is_camel { "OfOrder" } else { "_of_order" })
}

/// Gives the function one more parameter, and passes it on to the function that it calls most often and to itself.
fn add_parameter(function: &Function) -> Option<String> {
    let own_name = function.document.excerpt(function.name_range.clone());
    let calls = calls_in(
        &function.document.syntax,
        &function.document.text,
        function.range.clone(),
    );
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for call in calls.iter().filter(|it| it.name != own_name) {
        *counts.entry(&call.name).or_default() += 1;
    }
    let most = counts
        .into_iter()
        .max_by_key(|&(name, count)| (count, Reverse(name)));
    with_parameter(function, most.map(|(name, _)| name))
}

/// The same, but passed on to itself only.
fn add_own_parameter(function: &Function) -> Option<String> {
    with_parameter(function, None)
}

fn with_parameter(function: &Function, also_to: Option<&str>) -> Option<String> {
    let Function {
        document,
        range,
        name_range,
    } = function;
    let argument = argument(function);
    let parameter = parameter(function);
    let own = parameter_place(&document.syntax, &document.text, name_range.clone())?;
    let own_name = document.excerpt(name_range.clone());
    let calls = calls_in(&document.syntax, &document.text, range.clone());
    let passes_on = |name: &str| name == own_name || also_to == Some(name);
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

fn argument(function: &Function) -> &'static str {
    match function.document.language() {
        Language::Php => "$context",
        _ => "context",
    }
}

/// How it is declared.
fn parameter(function: &Function) -> &'static str {
    match function.document.language() {
        Language::Rust => "context: &Context",
        Language::TypeScript | Language::Tsx => "context: Context",
        Language::Go => "context Context",
        Language::C | Language::Cpp | Language::Java | Language::CSharp => "Context context",
        _ => argument(function),
    }
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

/// The quotes of most of the strings that could be in either, and the others.
fn quotes(function: &Function) -> Option<(char, char)> {
    let n_strings = |quote| strings_in_either_quote(&function.document, function.range.clone(), quote).len();
    match (n_strings('\''), n_strings('"')) {
        (0, 0) => None,
        (n_single, n_double) if n_single >= n_double => Some(('\'', '"')),
        _ => Some(('"', '\'')),
    }
}

/// Writes the other quotes, where strings mean the same in both.
fn translate_quotes(function: &Function) -> Option<String> {
    let (from, to) = quotes(function)?;
    let mut text = function.text();
    for string in strings_in_either_quote(&function.document, function.range.clone(), from) {
        for at in [string.start, string.end - 1] {
            let at = at.checked_sub(function.range.start)?;
            text.replace_range(at..=at, to.encode_utf8(&mut [0; 4]));
        }
    }
    Some(text)
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

/// The name of four characters or more that occurs most often; among equals the first in the alphabet.
fn most_frequent(span: &str) -> Option<&str> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, word) in words(span).filter(|(_, word)| word.len() >= 4) {
        *counts.entry(word).or_default() += 1;
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
        named(text, "rust")
    }

    /// The first function of a file in this language.
    fn named(text: &str, language: &str) -> Function {
        let document = Document::new(None, Some(language), None, text);
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

    fn edit(name: &str) -> &'static Edit {
        ALL.iter().find(|it| it.name == name).unwrap()
    }

    const TEXT: &str = "use a::b;\n\nfn total(items: &[u32]) -> u32 {\n    let sum = add(items, rest());\n    \
                        println!(\"sum\", sum);\n    add(&[sum], Some(total(&[])))\n}\n";

    #[test]
    fn edits_do_what_they_say() {
        let function = function(TEXT);
        let edited = |name: &str| (edit(name).apply)(&function).unwrap();
        assert_eq!(
            edited("add parameter"),
            "fn total(items: &[u32], context: &Context) -> u32 {\n    let sum = add(items, rest(), context);\n    \
             println!(\"sum\", sum);\n    add(&[sum], Some(total(&[], context)), context)\n}\n"
        );
        assert!(edited("rename").contains("fn total(items_of_order: "));
        assert!(edited("wrap").starts_with("try {\n    fn total"));
        assert_eq!((edit("quotes").apply)(&function), None, "a character in Rust");
        let said: Vec<_> = ALL.iter().filter_map(|it| (it.instruction)(&function)).collect();
        assert_eq!(
            said,
            [
                "rename items to items_of_order",
                "add a parameter context: &Context to total and pass it on",
                "wrap the body in error handling"
            ]
        );
        assert!(quote(TEXT).contains("```\n"));
    }

    #[test]
    fn quotes_change_where_strings_mean_the_same() {
        let text = "def f(a):\n    \"\"\"Doc.\"\"\"\n    return a[\"b\"] + f\"{a}\" + \"it's\" + 'c'\n";
        let wanted = "def f(a):\n    \"\"\"Doc.\"\"\"\n    return a['b'] + f'{a}' + \"it's\" + 'c'\n";
        assert_eq!(translate_quotes(&named(text, "python")).as_deref(), Some(wanted));
        let single = named("def f(a):\n    return a['b'] + 'c' + \"d\"\n", "python");
        assert_eq!(
            (edit("quotes").instruction)(&single).unwrap(),
            "use double quotes"
        );
        assert_eq!(
            translate_quotes(&single).as_deref(),
            Some("def f(a):\n    return a[\"b\"] + \"c\" + \"d\"\n")
        );
        assert_eq!(translate_quotes(&named("def f():\n    pass\n", "python")), None);
    }

    #[test]
    fn what_a_model_writes_is_judged() {
        let function = function(TEXT);
        let right = |name: &str, text: &str| (edit(name).is_right)(&function, text);
        let own = TEXT["use a::b;\n\n".len()..].trim_end();
        assert!(ALL.iter().all(|it| !(it.is_right)(&function, own)));
        assert!(right("rename", &own.replace("items", "items_of_order")));
        assert!(!right("rename", &own.replacen("items", "items_of_order", 1)));
        let passed = own
            .replace("&[u32])", "&[u32], context: &Context)")
            .replace("&[])", "&[], context)");
        assert!(right("add parameter", &passed));
        let python = "def f(a):\n    return a + \"b\" + \"c\"\n";
        let function = named(python, "python");
        let right = |name: &str, text: &str| (edit(name).is_right)(&function, text);
        assert!(right("quotes", "def f(a):\n    return a + 'b' + 'c'\n"));
        assert!(!right("quotes", "def f(a):\n    return a + 'b' + \"c\"") && !right("quotes", python));
        let wrapped = "def f(a):\n    try:\n        return a + \"b\" + \"c\"\n    except Exception as error:\n        \
                       raise RuntimeError(\"f failed\") from error";
        assert!(right("wrap", wrapped));
        assert!(!right(
            "wrap",
            &wrapped.replace("raise RuntimeError(\"f failed\") from error", "pass")
        ));
    }
}
