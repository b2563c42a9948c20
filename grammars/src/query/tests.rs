//! Every query loads, and captures what the carets in `tests/queries/` say.

use std::fmt::Write;
use std::path::Path;

use expect_test::expect_file;

use super::*;
use crate::test_support::{code_in, fixture_path};

#[test]
fn every_query_of_every_language_loads() {
    let mut wrong = Vec::new();
    for &language in Language::all() {
        for purpose in Purpose::ALL {
            if let Err(error) = LoadedQuery::load(language, purpose) {
                wrong.push(error.to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_query_file_is_embedded() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("queries");
    let mut on_disk = Vec::new();
    for folder in std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if folder.is_dir() {
            for file in std::fs::read_dir(&folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
            {
                let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
                on_disk.push((name(&folder), name(&file)));
            }
        }
    }
    on_disk.sort();
    let mut embedded: Vec<_> = SOURCES
        .iter()
        .map(|(folder, file, _)| (folder.to_string(), file.to_string()))
        .collect();
    embedded.sort();
    assert_eq!(on_disk, embedded);
}

#[test]
fn every_query_says_what_it_inherits_on_line_one_only() {
    for (folder, file, source) in SOURCES {
        for line in source.lines().skip(1) {
            assert!(!line.contains("inherits:"), "queries/{folder}/{file}.scm: {line}");
        }
    }
}

#[test]
fn captures_outside_the_list_are_refused() {
    let grammar = Language::Rust.grammar().unwrap();
    let load = |source| LoadedQuery::compile("rust", grammar, Purpose::Imports, source);
    assert!(load("(use_declaration) @import").is_ok());
    assert!(load("(use_declaration) @_private").is_ok());
    let refused = [
        "(use_declaration) @imprt",
        "(use_declaration) @definition.function",
    ];
    for source in refused {
        let error = load(source).err().expect(source);
        assert!(matches!(error, QueryError::UnknownCapture { .. }), "{error}");
    }
    let error = load("(use_declaratio) @import").err().unwrap();
    assert!(matches!(error, QueryError::DoesNotCompile { .. }), "{error}");
}

#[test]
fn the_readme_lists_every_capture() {
    let readme = include_str!("../../queries/README.md");
    let mut names = vec![
        "name".to_owned(),
        "body".into(),
        "import".into(),
        "module".into(),
        "header".into(),
    ];
    names.extend(
        DefinitionKind::ALL
            .iter()
            .map(|kind| format!("definition.{}", kind.name())),
    );
    names.extend(ScopeKind::ALL.iter().map(|kind| format!("scope.{}", kind.name())));
    for name in names {
        assert!(
            readme.contains(&format!("`@{name}`")),
            "queries/README.md does not mention @{name}"
        );
    }
}

/// The fixture of a language is code with a line of carets under it for everything its queries capture, such as
/// `   ^^^^ outline.name scopes.name`; `+2` says that the node ends two lines further down. The test writes the
/// carets anew and compares, so nothing may be captured that the fixture does not show, nor the reverse.
/// `UPDATE_EXPECT=1` rewrites the fixtures; read the diff.
#[test]
fn captures_stand_where_the_carets_say() {
    let mut problems = Vec::new();
    for &language in Language::all() {
        if language == Language::PlainText {
            continue;
        }
        let code = code_in(language);
        let rope = Rope::from_str(&code);
        let syntax = Syntax::parse(language, &rope);
        let root = syntax.tree().unwrap().root_node();
        if root.has_error() {
            problems.push(format!(
                "tests/queries/{}.txt does not parse: {root:#}",
                language.name()
            ));
        } else {
            expect_file![fixture_path(language)].assert_eq(&with_carets(
                language,
                &rope,
                root,
                &mut problems,
            ));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The code with carets under it; patterns that match nothing in it become problems.
fn with_carets(language: Language, rope: &Rope, root: Node<'_>, problems: &mut Vec<String>) -> String {
    // (row, column, bytes on that row, further rows, capture)
    let mut found: Vec<(usize, usize, usize, usize, String)> = Vec::new();
    for purpose in Purpose::ALL {
        let Some(loaded) = LoadedQuery::get(language, purpose) else {
            continue;
        };
        let mut unmatched: Vec<usize> = (0..loaded.query.pattern_count()).collect();
        let mut cursor = QueryCursor::new();
        let text = rope.to_string();
        let mut matches = cursor.matches(&loaded.query, root, text.as_bytes());
        while let Some(one) = matches.next() {
            unmatched.retain(|&pattern| pattern != one.pattern_index);
            for capture in one.captures() {
                if loaded.captures[capture.index as usize] == Capture::Private {
                    continue;
                }
                let (start, end) = (capture.node.start_position(), capture.node.end_position());
                let row_end = text::line_end(rope, capture.node.start_byte()) - capture.node.start_byte();
                let width = row_end
                    .min(capture.node.end_byte() - capture.node.start_byte())
                    .max(1);
                let name = format!(
                    "{}.{}",
                    purpose.file(),
                    loaded.query.capture_names()[capture.index as usize]
                );
                found.push((start.row, start.column, width, end.row - start.row, name));
            }
        }
        let whole = resolve(language.name(), purpose, &mut Vec::new())
            .unwrap()
            .unwrap();
        for pattern in unmatched {
            let range =
                loaded.query.start_byte_for_pattern(pattern)..loaded.query.end_byte_for_pattern(pattern);
            let pattern = whole[range].trim();
            problems.push(format!(
                "tests/queries/{}.txt has nothing for {pattern}",
                language.name()
            ));
        }
    }
    found.sort();
    found.dedup();
    let mut out = String::new();
    for (row, line) in rope.to_string().split_inclusive('\n').enumerate() {
        out.push_str(line);
        let mut here = found.iter().filter(|capture| capture.0 == row).peekable();
        while let Some((_, column, width, rows, name)) = here.next() {
            let more = if *rows > 0 {
                format!("+{rows}")
            } else {
                String::new()
            };
            write!(
                out,
                "{}{}{more} {name}",
                padding(line, *column),
                "^".repeat(*width)
            )
            .unwrap();
            while let Some(same) = here.next_if(|next| (next.1, next.2, next.3) == (*column, *width, *rows)) {
                write!(out, " {}", same.4).unwrap();
            }
            out.push('\n');
        }
    }
    out
}

/// White space as wide as the first bytes of a line, wherever tabs stop.
fn padding(line: &str, n_bytes: usize) -> String {
    line.bytes()
        .take(n_bytes)
        .map(|byte| if byte == b'\t' { '\t' } else { ' ' })
        .collect()
}
