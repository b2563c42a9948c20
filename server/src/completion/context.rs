//! What the model should know about a place: an excerpt around it, and what the excerpt would be lost
//! without.

use std::{ops::Range, path::Path};

use surmise_grammars::{imports_above, prefix, scopes_above, suffix};

use crate::{
    completion::{Query, prompt::Budget},
    document::Document,
};

/// What the model gets to read, in parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// Path of the file as the model should see it.
    pub path: Option<String>,
    /// Imports that stand above the excerpt.
    pub imports: Vec<String>,
    /// First lines of the scopes that begin above the excerpt, outermost first.
    pub scopes: Vec<String>,
    /// The excerpt up to the cursor.
    pub prefix: String,
    /// The excerpt from the cursor on.
    pub suffix: String,
    /// Where in the document the excerpt stands.
    pub excerpt: Range<usize>,
}

/// Gathers the context of a query; `cost` measures text in the unit of `budget`.
pub fn gather(query: &Query, budget: Budget, cost: &dyn Fn(&str) -> usize) -> Context {
    let document = &query.document;
    let before = |budget| prefix(&document.syntax, &document.text, query.at, budget, cost);
    let mut prefix = before(budget.prefix);
    let suffix = suffix(&document.text, query.at, budget.suffix, cost);
    let (mut imports, mut scopes) = (Vec::new(), Vec::new());
    if prefix.start > 0 {
        // What was cut off costs part of the prefix; what is not needed then is cut off with the shorter one.
        let mut left = budget.prefix / 4;
        scopes = affordable(
            signatures_above(document, query.at, prefix.start),
            &mut left,
            cost,
        );
        imports = affordable(import_statements_above(document, prefix.start), &mut left, cost);
        let spent = budget.prefix / 4 - left;
        prefix = before(budget.prefix - spent);
    }
    Context {
        path: path_for_prompt(&query.document, query.root.as_deref()),
        imports,
        scopes,
        excerpt: prefix.start..suffix.end,
        prefix: document.excerpt(prefix),
        suffix: document.excerpt(suffix),
    }
}

/// Imports that end before byte `start`, each statement once.
fn import_statements_above(document: &Document, start: usize) -> Vec<String> {
    let mut ranges: Vec<_> = imports_above(&document.syntax, &document.text, start)
        .into_iter()
        .map(|import| import.range)
        .collect();
    ranges.dedup();
    ranges
        .into_iter()
        .map(|range| document.excerpt(range).trim_end().to_owned())
        .collect()
}

/// Signatures, indented as they are, of the scopes around byte `at` that begin before byte `start`.
fn signatures_above(document: &Document, at: usize, start: usize) -> Vec<String> {
    let text = &document.text;
    let mut scopes = scopes_above(&document.syntax, text, at, start);
    scopes.reverse();
    let with_indent = |signature: std::ops::Range<usize>| {
        let line = text.line_to_byte(text.byte_to_line(signature.start));
        let is_indent = document.excerpt(line..signature.start).trim().is_empty();
        document.excerpt(if is_indent { line } else { signature.start }..signature.end)
    };
    scopes
        .into_iter()
        .map(|scope| with_indent(scope.signature))
        .collect()
}

/// The last of `parts` that cost no more than `left` together; takes their cost from it.
fn affordable(parts: Vec<String>, left: &mut usize, cost: &dyn Fn(&str) -> usize) -> Vec<String> {
    let mut kept: Vec<String> = parts
        .into_iter()
        .rev()
        .take_while(|part| {
            let rest = left.checked_sub(cost(part) + 1);
            *left = rest.unwrap_or(*left);
            rest.is_some()
        })
        .collect();
    kept.reverse();
    kept
}

/// The path relative to the root, or the file's name alone; always with `/`.
pub(crate) fn path_for_prompt(document: &Document, root: Option<&Path>) -> Option<String> {
    let path = document.path.as_ref()?;
    let inside = root.and_then(|root| path.strip_prefix(root).ok());
    let shown = match inside {
        Some(inside) => inside.to_string_lossy(),
        None => path.file_name()?.to_string_lossy(),
    };
    Some(shown.replace('\\', "/"))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::completion::trigger::Trigger;

    #[test]
    fn an_excerpt_keeps_the_imports_and_scopes_that_it_cuts_off() {
        let filler = "        self.count += 1;\n".repeat(40);
        let text = format!(
            "use std::fmt;\nuse std::io;\n\nimpl Counter {{\n    fn count(&mut self) {{\n{filler}        ˇ\n    }}\n}}\n"
        );
        let at = text.find('ˇ').expect("a cursor");
        let document = Document::new(
            Some("/repo/src/counter.rs".as_ref()),
            None,
            None,
            &text.replace('ˇ', ""),
        );
        let query = Query {
            document,
            at,
            trigger: Trigger::Invoked,
            root: Some("/repo".into()),
            config: Default::default(),
            sampling: Default::default(),
            speculation: Default::default(),
            beside: Default::default(),
        };
        let words = |text: &str| text.split_whitespace().count();
        let context = gather(
            &query,
            Budget {
                prefix: 40,
                suffix: 10,
            },
            &words,
        );
        expect![[r#"
            Some("src/counter.rs")
            ["use std::io;"]
            ["impl Counter", "    fn count(&mut self)"]"#]]
        .assert_eq(&format!(
            "{:?}\n{:?}\n{:?}",
            context.path, context.imports, context.scopes
        ));
        assert!(
            context.prefix.ends_with("self.count += 1;\n        "),
            "{:?}",
            context.prefix
        );
        assert!(words(&context.prefix) <= 40);
        assert_eq!(context.suffix, "\n    }\n}\n");
    }
}
