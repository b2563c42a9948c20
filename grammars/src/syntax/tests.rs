//! Incremental parsing: the same tree as a parse from scratch, for a fraction of the work.

use std::collections::BTreeMap;

use super::*;
use crate::test_support::{Random, code_in, long_rust};

fn fresh(language: Language, rope: &Rope) -> String {
    let syntax = Syntax::parse(language, rope);
    assert!(!syntax.is_stale());
    tree_text(&syntax)
}

/// Every node with its range, so that equal texts mean equal trees.
fn tree_text(syntax: &Syntax) -> String {
    let Some(tree) = syntax.tree() else {
        return String::new();
    };
    let mut text = tree.root_node().to_sexp();
    let mut cursor = tree.walk();
    loop {
        text.push_str(&format!(" {:?}", cursor.node().byte_range()));
        if cursor.goto_first_child() {
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return text;
            }
        }
    }
}

/// A rope, its tree and the same text as a plain string, edited in step.
struct Triple {
    rope: Rope,
    syntax: Syntax,
    plain: String,
}

impl Triple {
    fn new(language: Language, code: &str) -> Triple {
        let rope = Rope::from_str(code);
        Triple {
            syntax: Syntax::parse(language, &rope),
            rope,
            plain: code.to_owned(),
        }
    }

    /// Replaces a range and gives back what undoes it.
    fn replace(&mut self, range: Range<usize>, text: &str) -> (Range<usize>, String) {
        let old = self.plain[range.clone()].to_owned();
        self.plain.replace_range(range.clone(), text);
        let edit = TextEdit::apply(&mut self.rope, range.clone(), text);
        self.syntax.edit(&edit, &self.rope);
        // Without the limit, so that a busy machine gives the same trees.
        self.syntax.parsed(Duration::from_secs(60));
        assert_eq!(self.rope, self.plain.as_str());
        (range.start..range.start + text.len(), old)
    }

    /// Replaces a few characters somewhere.
    fn replace_at_random(&mut self, random: &mut Random) -> (Range<usize>, String) {
        const PIECES: [&str; 24] = [
            "", "", "x", "1", " ", "\n", "\r\n", "\t", "é", "😀", "e\u{301}", "(", ")", "{", "}", "\"", "'",
            ";", ":", "//", "#", "- a\n", " = ", "\u{2028}",
        ];
        let start = text::snap(&self.rope, random.below(self.plain.len() + 2));
        let end = match random.below(3) {
            0 => text::snap_up(&self.rope, start + random.below(12)),
            _ => start,
        };
        let piece = PIECES[random.below(PIECES.len())];
        self.replace(start..end, piece)
    }

    /// What holds after every edit, however broken the text.
    fn check_ranges(&self) {
        let Some(tree) = self.syntax.tree() else { return };
        let root = tree.root_node();
        assert!(root.end_byte() <= self.rope.len_bytes());
        assert_eq!(text::point_at(&self.rope, root.end_byte()), root.end_position());
        let rest = text::text(&self.rope, root.end_byte()..self.rope.len_bytes());
        if self.syntax.language() != Language::Yaml {
            assert!(rest.trim().is_empty(), "the tree misses {rest:?}");
        } else if !rest.trim().is_empty() {
            // Known: the YAML grammar ends its tree where it gives up on a broken document, however it got there.
            let fresh = Syntax::parse(Language::Yaml, &self.rope);
            assert_eq!(root.end_byte(), fresh.tree().unwrap().root_node().end_byte());
        }
    }
}

/// Tree-sitter promises the tree of a parse from scratch for text without errors. Among errors it may keep a
/// recovery that was found earlier and cost the same, so there we check ranges only, and that taking the
/// edits back brings back the first tree.
#[test]
fn random_edits_give_the_tree_of_a_parse_from_scratch() {
    const N_ROUNDS: u64 = 60;
    let mut differing: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let (mut n_edits, mut n_compared) = (0, 0);
    for &language in Language::all() {
        let code = match language {
            Language::PlainText => "Some words.\nNo code at all.\n".to_owned(),
            language => code_in(language),
        };
        let first_tree = fresh(language, &Rope::from_str(&code));
        let mut triple = Triple::new(language, &code);
        for round in 0..N_ROUNDS {
            let mut random = Random::new(round * 100 + language as u64);
            let mut undo = Vec::new();
            for _ in 0..1 + random.below(4) {
                undo.push(triple.replace_at_random(&mut random));
                triple.check_ranges();
                n_edits += 2;
                if triple.syntax.error_count() == 0 {
                    n_compared += 1;
                    if tree_text(&triple.syntax) != fresh(language, &triple.rope) {
                        differing
                            .entry(language.name())
                            .or_default()
                            .push(format!("round {round}"));
                    }
                }
            }
            for (range, text) in undo.into_iter().rev() {
                triple.replace(range, &text);
                triple.check_ranges();
            }
            assert_eq!(triple.plain, code);
            if tree_text(&triple.syntax) != first_tree {
                differing
                    .entry(language.name())
                    .or_default()
                    .push(format!("round {round} undone"));
                triple = Triple::new(language, &code);
            }
        }
    }
    println!("{n_edits} edits, {n_compared} trees without errors compared; differing: {differing:?}");
    assert!(n_edits > 5000 && n_compared > 500);
    assert!(differing.is_empty());
}

#[test]
fn edits_at_the_very_end_and_in_an_empty_text_are_followed() {
    let mut triple = Triple::new(Language::Rust, "");
    for (idx, piece) in ["fn f", "() {", "\n    'é'", "\n}", "\n", "fn g() {}"]
        .iter()
        .enumerate()
    {
        let end = triple.plain.len();
        triple.replace(end..end, piece);
        triple.check_ranges();
        if idx >= 3 {
            assert_eq!(tree_text(&triple.syntax), fresh(Language::Rust, &triple.rope));
        }
    }
    let all = triple.plain.len();
    triple.replace(0..all, "");
    assert_eq!(tree_text(&triple.syntax), fresh(Language::Rust, &triple.rope));
}

#[test]
fn several_edits_are_followed_at_once() {
    let mut rope = Rope::from_str("fn f() {}\nfn g() {}\n");
    let mut syntax = Syntax::parse(Language::Rust, &rope);
    for (range, text) in [(8..8, " a(); "), (0..0, "use x;\n"), (4..6, "y::z;")] {
        let edit = TextEdit::apply(&mut rope, range, text);
        syntax.edit(&edit, &rope);
    }
    assert_eq!(tree_text(&syntax), fresh(Language::Rust, &rope));
}

#[test]
fn a_clone_keeps_its_tree() {
    let mut triple = Triple::new(Language::Python, "def f():\n    pass\n");
    let snapshot = triple.syntax.clone();
    let before = tree_text(&snapshot);
    triple.replace(0..3, "class");
    assert_eq!(tree_text(&snapshot), before);
    assert_ne!(tree_text(&triple.syntax), before);
}

/// Types and deletes three characters at five places of a text, twice; gives the median and the longest duration of
/// following it, and the most bytes that were read for one edit.
fn type_here_and_there(language: Language, code: &str) -> (Duration, Duration, usize) {
    let mut rope = Rope::from_str(code);
    let mut syntax = Syntax::parse(language, &rope);
    let mut durations = Vec::new();
    let mut most_bytes = 0;
    let places = [0.01, 0.3, 0.5, 0.7, 0.98].map(|share| {
        // In the middle of a name.
        let at = (code.len() as f64 * share) as usize;
        at + code[at..].find("sum").unwrap() + 1
    });
    let keys = ["x", "y", "z", "", "", ""];
    let edits = places
        .iter()
        .flat_map(|&at| keys.iter().map(move |&key| (at, key)));
    for (at, text) in edits.clone().chain(edits) {
        let range = if text.is_empty() { at..at + 1 } else { at..at };
        let mut shadow = rope.clone();
        let edit = TextEdit::apply(&mut shadow, range.clone(), text);
        let mut tree = syntax.tree().unwrap().clone();
        tree.edit(&edit.as_input_edit());
        let mut n_bytes = 0;
        let read = |byte| {
            let chunk = text::chunk_from(&shadow, byte);
            n_bytes += chunk.len();
            chunk
        };
        run_parser(language, read, Some(&tree), Duration::from_secs(10)).unwrap();
        most_bytes = most_bytes.max(n_bytes);

        let started = Instant::now();
        let edit = TextEdit::apply(&mut rope, range, text);
        syntax.edit(&edit, &rope);
        syntax.parsed(Duration::from_secs(10));
        durations.push(started.elapsed());
    }
    assert_eq!(tree_text(&syntax), fresh(language, &rope));
    durations.sort();
    (
        durations[durations.len() / 2],
        durations[durations.len() - 1],
        most_bytes,
    )
}

/// Shows the durations with `--nocapture`; asserts only what does not depend on the machine.
#[test]
fn one_character_in_ten_thousand_lines_is_no_new_parse() {
    let documented = long_rust(10_000);
    let bare: String = documented
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("///"))
        .collect();
    let python = "def f(a):\n    sum = a + 1\n    return sum\n\n".repeat(2500);
    let (_, _, n_bytes) = type_here_and_there(Language::Rust, &bare);
    assert!(n_bytes < bare.len() / 4, "{n_bytes} bytes read again");
    for (name, language, code) in [
        ("Rust", Language::Rust, &bare),
        (
            "Rust with a comment before every function",
            Language::Rust,
            &documented,
        ),
        ("Python", Language::Python, &python),
    ] {
        let started = Instant::now();
        Syntax::parse(language, &Rope::from_str(code));
        let whole = started.elapsed();
        let (median, longest, n_bytes) = type_here_and_there(language, code);
        println!(
            "{name}, {} lines, {} bytes: parse {whole:?}; one character {median:?}, at most {longest:?}, {n_bytes} \
             bytes read",
            code.lines().count(),
            code.len(),
        );
    }
}

#[test]
fn a_parse_that_takes_too_long_is_put_off() {
    let mut rope = Rope::from_str(&long_rust(2000));
    let mut syntax = Syntax::parse_within(Language::Rust, &rope, Duration::ZERO);
    assert!(syntax.is_stale());
    assert_eq!(syntax.tree().unwrap().root_node().end_byte(), rope.len_bytes());

    let edit = TextEdit::apply(&mut rope, 0..0, "use a::c;\n");
    syntax.edit(&edit, &rope);
    syntax.parsed(Duration::ZERO);
    assert!(syntax.is_stale());
    assert_eq!(syntax.tree().unwrap().root_node().end_byte(), rope.len_bytes());

    let edit = TextEdit::apply(&mut rope, 0..0, "use a::b;\n");
    syntax.edit(&edit, &rope);
    syntax.parsed(Duration::from_secs(60));
    assert!(!syntax.is_stale());
    assert_eq!(tree_text(&syntax), fresh(Language::Rust, &rope));
}

#[test]
fn errors_are_counted_where_they_are() {
    let count = |code: &str| Syntax::parse(Language::Rust, &Rope::from_str(code)).error_count();
    assert_eq!(count("fn f() {}"), 0);
    assert_eq!(count("fn f() { let x = 1 }"), 1);
    assert!(count("fn f( {") > 0);
    assert_eq!(
        Syntax::parse(Language::PlainText, &Rope::from_str("fn f( {")).error_count(),
        0
    );
}
