//! The part of a text that a change in it can be judged by, without parsing the rest.
//!
//! After an edit the parser passes over everything of the top level that follows, and where brackets do not match it looks
//! through all of it for a way out: in ten thousand lines that takes from one millisecond to dozens. What a suggestion
//! does to the code shows in the function that it stands in and the ones beside it. A tree that has missed the
//! last edits still knows where those begin and end; where there is none, and none to be had in a moment, what stands around has to do.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ropey::Rope;
use tree_sitter::{Node, Tree, TreeCursor};

use super::{Damage, EDIT_PARSE_LIMIT, Parsed, Syntax};
use crate::{Language, TextEdit, text};

/// Least text on each side of a change: something for an unclosed bracket to swallow.
const MARGIN_BYTES: usize = 512;
/// Longest text that is looked at as a whole.
const MAX_WHOLE_BYTES: usize = 12 * 1024;
/// Text on each side of a change where there are no nodes to go by.
const MAKESHIFT_BYTES: usize = 4 * 1024;
/// Most text that is taken for a part: a long `impl` or test module, in a few milliseconds.
const MAX_BYTES: usize = 32 * 1024;

/// Previews that are kept, each some nodes that the others have not: those of a suggestion's lines, and of where it may be cut.
const MAX_PREVIEWS: usize = 64;
/// Line breaks of a text that is put in line by line: a suggestion has fewer.
const MAX_LINES: usize = 32;

/// Whole nodes of the top level around a place, and their tree; the whole text where that is short, or has no such nodes.
#[derive(Debug)]
pub(crate) struct Neighbourhood {
    /// The place, in bytes of the whole text.
    pub(super) change: Range<usize>,
    /// The byte of the whole text at which it begins: its own offsets count from there.
    pub(crate) start: usize,
    pub(crate) rope: Rope,
    pub(crate) syntax: Syntax,
    /// The latest, and what for: as a text grows, and is cut again, the same beginnings of it are asked for.
    previews: Mutex<Vec<(Range<usize>, String, Preview)>>,
}

/// A neighbourhood as it would be after a change.
#[derive(Clone, Debug)]
pub(crate) struct Preview {
    pub(crate) rope: Rope,
    pub(crate) syntax: Syntax,
    pub(crate) edit: TextEdit,
    /// How broken the neighbourhood is without the change.
    pub(crate) damage_before: Damage,
}

impl Neighbourhood {
    /// What is around `change`.
    pub(super) fn of(syntax: &Syntax, rope: &Rope, change: Range<usize>) -> Self {
        let part = Part::known(syntax, rope, &change)
            .or_else(|| Part::around(syntax, syntax.rough(), rope, &change))
            // What was typed last may have changed the nodes beside it.
            .or_else(|| match syntax.parsed_soon() {
                Some(whole) => Part::around(syntax, whole, rope, &change),
                None => Part::makeshift(syntax, rope, &change),
            });
        if let Some(part) = &part {
            *syntax.lock_part() = Some(part.clone());
        }
        let (start, rope, syntax) = match part {
            Some(part) => (part.start, part.rope, part.syntax),
            None => (0, rope.clone(), syntax.clone()),
        };
        Self {
            change,
            start,
            rope,
            syntax,
            previews: Mutex::default(),
        }
    }

    /// The neighbourhood with `text` in the place of `range`, which counts from its start. It depends on nothing else: some lines that
    /// replace nothing are put in one by one, and each is parsed from the tree with those before it, whether or not somebody asked
    /// for that.
    pub(crate) fn preview(&self, range: Range<usize>, text: &str) -> Preview {
        let range = text::snap_range(&self.rope, range);
        if let Some(known) = self.known_preview(&range, text) {
            return known;
        }
        let grows = range.is_empty() && text.matches('\n').count() <= MAX_LINES;
        let preview = match text.rfind('\n').filter(|_| grows) {
            Some(end) => self.preview(range.clone(), &text[..end]).with_more(&text[end..]),
            None => Preview::new(self, range.clone(), text),
        };
        let mut previews = self.lock_previews();
        if previews.len() == MAX_PREVIEWS {
            previews.remove(0);
        }
        previews.push((range, text.to_owned(), preview.clone()));
        preview
    }

    fn known_preview(&self, range: &Range<usize>, text: &str) -> Option<Preview> {
        let previews = self.lock_previews();
        let mut known = previews.iter();
        let known = known.find(|(known_range, known_text, _)| known_range == range && known_text == text);
        known.map(|(_, _, preview)| preview.clone())
    }

    fn lock_previews(&self) -> MutexGuard<'_, Vec<(Range<usize>, String, Preview)>> {
        // Poisoned or not, what is in there is whole.
        self.previews.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Preview {
    fn new(around: &Neighbourhood, range: Range<usize>, text: &str) -> Self {
        let (mut syntax, mut rope) = (around.syntax.clone(), around.rope.clone());
        let damage_before = syntax.damage();
        let edit = TextEdit::apply(&mut rope, range, text);
        syntax.edit(&edit, &rope);
        Self {
            rope,
            syntax,
            edit,
            damage_before,
        }
    }

    /// With `more` after what was inserted, to be parsed from the tree of that: where the text breaks the code around it or mends it,
    /// little could be taken over from the tree without it.
    fn with_more(&self, more: &str) -> Self {
        let mut preview = self.clone();
        // The edits to come start from a tree that is there.
        preview.syntax.tree();
        let end = preview.edit.new_end_byte;
        let edit = TextEdit::apply(&mut preview.rope, end..end, more);
        preview.syntax.edit(&edit, &preview.rope);
        preview.edit.new_end_byte = edit.new_end_byte;
        preview.edit.new_end_point = edit.new_end_point;
        preview
    }
}

/// Whole nodes of the top level with nothing else on their lines, or what comes closest to that.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The byte of the whole text at which it begins.
    start: usize,
    rope: Rope,
    /// Its tree by itself.
    syntax: Syntax,
    /// Whether nobody knew the whole text's tree.
    is_makeshift: bool,
}

impl Part {
    /// The part that was looked at last, if it has `change` well inside. However broken its text has become since, it is the text
    /// that stood by itself before, unless what the whole has in its place is without errors and says otherwise.
    fn known(syntax: &Syntax, rope: &Rope, change: &Range<usize>) -> Option<Self> {
        let part = syntax.lock_part().take().filter(|it| !it.is_outdated(syntax))?;
        let range = part.start..part.start + part.rope.len_bytes();
        debug_assert!(part.rope == rope.byte_slice(range.clone()));
        let starts_before = range.start == 0 || range.start + MARGIN_BYTES <= change.start;
        let ends_after = range.end == rope.len_bytes() || range.end >= change.end + MARGIN_BYTES;
        let whole = syntax.rough_tree()?;
        let is_refuted = || {
            let is_broken = syntax.rough().stale || top_level(whole, &range).iter().any(Node::has_error);
            !is_broken && !part.syntax.tree().is_some_and(|own| is_same(own, whole, &range))
        };
        let is_kept = starts_before && ends_after && !part.syntax.is_stale() && !is_refuted();
        is_kept.then_some(part)
    }

    /// The part of the text around `change`, if its tree is the same by itself as in `whole`.
    fn around(syntax: &Syntax, whole: &Parsed, rope: &Rope, change: &Range<usize>) -> Option<Self> {
        if rope.len_bytes() <= MAX_WHOLE_BYTES {
            return None;
        }
        let tree = whole.tree.as_ref()?;
        let range = borders(tree, rope, change)?;
        let part = Self::cut(syntax.language(), rope, range.clone())?;
        is_same(part.syntax.tree()?, tree, &range).then_some(part)
    }

    /// What is around `change` in a text whose tree nobody knows: nodes of the top level as they were last, or some lines. What is
    /// broken in them because it is cut off is broken with the change as without it.
    fn makeshift(syntax: &Syntax, rope: &Rope, change: &Range<usize>) -> Option<Self> {
        // Apart from its opening tag PHP is not even code.
        if rope.len_bytes() <= MAX_WHOLE_BYTES || syntax.language() == Language::Php {
            return None;
        }
        let nodes = syntax.rough_tree().and_then(|tree| borders(tree, rope, change));
        let range = nodes.unwrap_or_else(|| {
            let start = text::snap(rope, change.start.saturating_sub(MAKESHIFT_BYTES));
            let end = text::snap(rope, rope.len_bytes().min(change.end + MAKESHIFT_BYTES));
            text::line_start(rope, start)..text::next_line(rope, end)
        });
        let part = (range.len() <= MAX_BYTES).then(|| Self::cut(syntax.language(), rope, range))?;
        part.map(|part| Self {
            is_makeshift: true,
            ..part
        })
    }

    /// `range` of a text by itself.
    fn cut(language: Language, rope: &Rope, range: Range<usize>) -> Option<Self> {
        let start = range.start;
        let rope = Rope::from(rope.byte_slice(range));
        let syntax = Syntax::parse_within(language, &rope, EDIT_PARSE_LIMIT);
        (!syntax.is_stale()).then_some(Self {
            start,
            rope,
            syntax,
            is_makeshift: false,
        })
    }

    /// Whether the tree of the whole text, `syntax`, has been found since it was made without.
    pub(super) fn is_outdated(&self, syntax: &Syntax) -> bool {
        self.is_makeshift && syntax.parsed.get().is_some_and(|it| !it.stale)
    }

    /// What becomes of it with an edit of the text, `rope` after that; none if the edit goes beyond it, or leaves something else
    /// on its first or last line.
    pub(super) fn after(&self, edit: &TextEdit, rope: &Rope) -> Option<Self> {
        let mut part = self.clone();
        let end = part.start + part.rope.len_bytes();
        if edit.old_end_byte <= part.start {
            part.start = part.start - edit.old_end_byte + edit.new_end_byte;
        } else if edit.start_byte < end {
            let local = edit.start_byte.checked_sub(part.start)?..edit.old_end_byte - part.start;
            if local.end > part.rope.len_bytes() {
                return None;
            }
            let inserted = text::text(rope, edit.start_byte..edit.new_end_byte);
            let edit = TextEdit::apply(&mut part.rope, local, &inserted);
            part.syntax.edit(&edit, &part.rope);
        }
        let end = part.start + part.rope.len_bytes();
        let is_apart = [part.start, end].map(|at| text::line_start(rope, at) == at || at == rope.len_bytes());
        // What has grown that long is not asked for again.
        (part.rope.len_bytes() <= MAX_BYTES && is_apart == [true, true]).then_some(part)
    }
}

/// Nodes of the top level around `change`, if they are not too long.
fn borders(tree: &Tree, rope: &Rope, change: &Range<usize>) -> Option<Range<usize>> {
    let end = border_after(tree.walk(), rope, change.end);
    // Something before the node that is typed in tells whether the part stands by itself.
    [true, false]
        .map(|with_one_before| border_before(tree.walk(), rope, change.start, with_one_before)..end)
        .into_iter()
        .find(|range| range.len() <= MAX_BYTES)
}

/// Start of the line at which a node of the top level begins with nothing before it, the margin before `at`, or 0. With
/// `with_one_before`, the node ends before `at`.
fn border_before(mut cursor: TreeCursor<'_>, rope: &Rope, at: usize, with_one_before: bool) -> usize {
    if cursor.goto_first_child_for_byte(at).is_none() && !cursor.goto_last_child() {
        return 0;
    }
    loop {
        let line = text::line_start(rope, cursor.node().start_byte());
        let is_before = !with_one_before || cursor.node().end_byte() < at;
        if !cursor.goto_previous_sibling() {
            return 0;
        }
        if is_before && line + MARGIN_BYTES <= at && cursor.node().end_byte() <= line {
            return line;
        }
    }
}

/// End of the line at which a node of the top level ends with nothing after it, the margin after `at`, or the text's end.
fn border_after(mut cursor: TreeCursor<'_>, rope: &Rope, at: usize) -> usize {
    if cursor.goto_first_child_for_byte(at).is_none() {
        return rope.len_bytes();
    }
    loop {
        // Some nodes end with their line break.
        let line = text::next_line(rope, cursor.node().end_byte().saturating_sub(1));
        if !cursor.goto_next_sibling() {
            return rope.len_bytes();
        }
        if line >= at + MARGIN_BYTES && cursor.node().start_byte() >= line {
            return line;
        }
    }
}

/// Whether the nodes of the top level are the same in the tree of a part and in that of the whole.
///
/// Where the part has been edited since the whole was parsed, those before the edit have to be, or if there are none, those
/// after it: what is broken by the edit may come out in other pieces. If no other node is there, the edited one has to be of
/// the kind that it was.
fn is_same(own: &Tree, whole: &Tree, part: &Range<usize>) -> bool {
    let (own_root, whole_root) = (own.root_node(), whole.root_node());
    let is_beyond_parsing = own_root.is_error() && whole_root.has_changes();
    if own_root.kind_id() != whole_root.kind_id() && !is_beyond_parsing {
        return false;
    }
    let (own, whole) = (top_level(own, &(0..usize::MAX)), top_level(whole, part));
    let seen = |node: &Node<'_>, start: usize| {
        let place = node.start_byte().checked_sub(start)..node.end_byte().checked_sub(start);
        (node.kind_id(), place, node.has_error())
    };
    let agree = |own: &[Node<'_>], whole: &[Node<'_>]| {
        let own = own.iter().map(|it| seen(it, 0));
        own.eq(whole.iter().map(|it| seen(it, part.start)))
    };
    let is_edited = Node::has_changes;
    let n_before = whole.iter().take_while(|it| !is_edited(it)).count();
    let n_after = whole.iter().rev().take_while(|it| !is_edited(it)).count();
    if n_before == whole.len() {
        !own.is_empty() && agree(&own, &whole)
    } else if n_before > 0 {
        own.len() >= n_before && agree(&own[..n_before], &whole[..n_before])
    } else if n_after > 0 {
        let first = own.len().checked_sub(n_after);
        first.is_some_and(|first| agree(&own[first..], &whole[whole.len() - n_after..]))
    } else {
        own.iter().map(Node::kind_id).eq(whole.iter().map(Node::kind_id))
    }
}

/// The nodes of the top level that begin in `range` or reach into it.
fn top_level<'tree>(tree: &'tree Tree, range: &Range<usize>) -> Vec<Node<'tree>> {
    let mut nodes = Vec::new();
    let mut cursor = tree.walk();
    let mut more = cursor.goto_first_child_for_byte(range.start).is_some();
    while more && cursor.node().start_byte() < range.end {
        nodes.push(cursor.node());
        more = cursor.goto_next_sibling();
    }
    nodes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::test_support::{Random, code_in};

    #[test]
    fn a_text_is_seen_the_same_however_it_came() {
        let (mut n_judged, mut n_other) = (0, 0);
        for &language in Language::all() {
            let code = code_in(language);
            let rope = Rope::from_str(&code);
            let syntax = Syntax::parse(language, &rope);
            let mut random = Random::new(language as u64);
            for _ in 0..8 {
                let at = text::snap(&rope, random.below(code.len()));
                let around = || Neighbourhood::of(&syntax, &rope, at..at);
                let text = "f(a, [b]);\n    if x {\n        g(\"c\")\n    }\n}";
                let grown = around();
                for end in [2, 10, 21, 36, text.len(), 36, 2] {
                    let preview = grown.preview(at..at, &text[..end]);
                    let by_itself = around().preview(at..at, &text[..end]);
                    assert_eq!(preview.rope, by_itself.rope);
                    assert_eq!(preview.edit, by_itself.edit);
                    assert_eq!(preview.damage_before, by_itself.damage_before);
                    assert_eq!(preview.syntax.damage(), by_itself.syntax.damage());
                    let at_once = Preview::new(&grown, at..at, &text[..end]);
                    assert_eq!(preview.edit, at_once.edit);
                    n_judged += 1;
                    n_other += usize::from(preview.syntax.damage() != at_once.syntax.damage());
                }
            }
        }
        // A parser that mends errors may come out elsewhere when it starts from another tree.
        assert!(n_other * 50 <= n_judged, "{n_other} of {n_judged}");
    }

    #[test]
    fn a_long_text_is_put_in_at_once() {
        let rope = Rope::from_str("fn f() {\n}\n");
        let syntax = Syntax::parse(Language::Rust, &rope);
        let around = Neighbourhood::of(&syntax, &rope, 9..9);
        for n_lines in [MAX_LINES, 100_000] {
            around.previews.lock().unwrap().clear();
            let preview = around.preview(9..9, &"    g();\n".repeat(n_lines));
            assert_eq!(preview.syntax.damage(), Damage::default());
            let n_previews = around.previews.lock().unwrap().len();
            assert_eq!(n_previews, if n_lines > MAX_LINES { 1 } else { n_lines + 1 });
        }
    }

    #[test]
    fn a_part_says_the_same_of_a_change_as_the_whole() {
        let (mut n_parts, mut n_judged, mut n_other) = (0, 0, 0);
        for &language in Language::all() {
            let code = code_in(language);
            let code = code.repeat(3 * MAX_BYTES / code.len().max(1) + 1);
            let rope = Rope::from_str(&code);
            let syntax = Syntax::parse(language, &rope);
            let mut random = Random::new(language as u64);
            for _ in 0..8 {
                let at = text::snap(&rope, random.below(code.len()));
                let around = Neighbourhood::of(&syntax, &rope, at..at);
                n_parts += usize::from(around.rope.len_bytes() < rope.len_bytes());
                for inserted in ["x", "(", "}", "f(a, b)", "{ x }", "\"", "\n", ";", "if x {\n"] {
                    let breaks = |syntax: &Syntax, rope: &Rope, at: usize| {
                        let (mut after, mut rope) = (syntax.clone(), rope.clone());
                        let edit = TextEdit::apply(&mut rope, at..at, inserted);
                        after.edit(&edit, &rope);
                        after.parsed(Duration::from_secs(5));
                        after.damage().nodes > syntax.damage().nodes
                    };
                    let of_part = breaks(&around.syntax, &around.rope, at - around.start);
                    n_judged += 1;
                    if of_part != breaks(&syntax, &rope, at) {
                        eprintln!(
                            "{language:?} {inserted:?}: {of_part} in {} bytes",
                            around.rope.len_bytes()
                        );
                        n_other += 1;
                    }
                }
            }
        }
        assert!(n_parts > 80, "{n_parts} parts");
        assert!(
            n_other * 100 < n_judged,
            "{n_other} of {n_judged} judged otherwise"
        );
    }

    #[test]
    fn a_part_that_was_typed_in_is_as_a_new_one() {
        let (mut n_kept, mut n_parts, mut n_other) = (0, 0, 0);
        for &language in Language::all() {
            let code = code_in(language);
            let code = code.repeat(3 * MAX_BYTES / code.len().max(1) + 1);
            let mut rope = Rope::from_str(&code);
            let mut syntax = Syntax::parse(language, &rope);
            let mut random = Random::new(language as u64);
            for _ in 0..8 {
                let mut at = text::snap(&rope, random.below(rope.len_bytes()));
                for key in ["", "g", "(", "1", ")", ";", "\n"] {
                    // Something above changes along with it.
                    for (place, inserted) in [(at, key), (0, "\n")] {
                        let edit = TextEdit::apply(&mut rope, place..place, inserted);
                        syntax.edit(&edit, &rope);
                        at += inserted.len();
                    }
                    let without = Syntax {
                        part: Default::default(),
                        parsed: Default::default(),
                        ..syntax.clone()
                    };
                    without.parsed(Duration::from_secs(5));
                    n_kept += usize::from(syntax.lock_part().is_some());
                    let [around, anew] =
                        [&syntax, &without].map(|syntax| Neighbourhood::of(syntax, &rope, at..at));
                    // Where an error reaches far, the whole text has many ways out of it, and the part its own.
                    let (damage, of_whole) = (anew.syntax.damage(), without.damage());
                    if anew.rope.len_bytes() < rope.len_bytes() && damage == of_whole {
                        n_parts += 1;
                        n_other += usize::from(around.syntax.damage() != damage);
                    }
                }
            }
        }
        assert!(n_kept > 400, "{n_kept} kept");
        assert!(n_parts > 150, "{n_parts} parts");
        assert!(n_other * 50 < n_parts, "{n_other} of {n_parts} are other");
    }

    #[test]
    fn a_part_that_is_not_apart_any_more_is_made_anew() {
        let code = "fn f() {\n    g();\n}\n".repeat(3000);
        let place = code.len() / 2;
        let start = {
            let rope = Rope::from_str(&code);
            let syntax = Syntax::parse(Language::Rust, &rope);
            Neighbourhood::of(&syntax, &rope, place..place).start
        };
        assert!(code[start..].starts_with("fn f() {"), "{start}");
        let after_edits = |edits: &[(Range<usize>, &str)]| {
            let mut rope = Rope::from_str(&code);
            let mut syntax = Syntax::parse(Language::Rust, &rope);
            syntax.around(&rope, place..place);
            for (range, text) in edits {
                let edit = TextEdit::apply(&mut rope, range.clone(), text);
                syntax.edit(&edit, &rope);
            }
            syntax.lock_part().is_some()
        };
        assert!(after_edits(&[]));
        assert!(after_edits(&[
            (start..start, "// A line before.\n"),
            (place..place, "x")
        ]));
        assert!(
            !after_edits(&[(start..start, "// ")]),
            "its first line is a comment now"
        );
        assert!(!after_edits(&[(start - 1..start, " ")]), "it goes on a line now");
        assert!(
            !after_edits(&[(start - 9..start + 9, "")]),
            "its beginning is gone"
        );
    }

    #[test]
    fn a_text_without_structure_is_judged_by_the_lines_around() {
        let mut rope = Rope::from_str(&"fn f() {\n    g(1);\n}\n".repeat(5000));
        let mut syntax = Syntax::parse_within(Language::Rust, &rope, Duration::ZERO);
        assert!(syntax.is_stale());
        let mut at = rope.line_to_byte(7501);
        for key in ["    h(", "x", ")", ";"] {
            let edit = TextEdit::apply(&mut rope, at..at, key);
            syntax.edit(&edit, &rope);
            // As if the parser had not been done in time.
            syntax.parsed.set(syntax.moved.clone()).unwrap();
            at += key.len();
            let around = syntax.around(&rope, at..at);
            assert!(around.rope.len_bytes() < MAX_BYTES);
            assert_eq!(
                around.rope,
                rope.byte_slice(around.start..around.start + around.rope.len_bytes())
            );
        }
        let breaks = |text| crate::worsens(&syntax, &rope, at..at, text);
        assert_eq!(
            ["\n    i(2);", " }", "\n    if x {"].map(breaks),
            [false, true, true]
        );
    }

    #[test]
    fn what_does_not_stand_by_itself_is_judged_as_a_whole() {
        let is_whole = |language: Language, code: &str| {
            let rope = Rope::from_str(code);
            let syntax = Syntax::parse(language, &rope);
            let at = code.len() / 2;
            Neighbourhood::of(&syntax, &rope, at..at).rope.len_bytes() == rope.len_bytes()
        };
        let statements = "$x = f($y);\n".repeat(2000);
        assert!(
            is_whole(Language::Php, &format!("<?php\n{statements}")),
            "its tag is missed"
        );
        let members = "    void f() { g(); }\n".repeat(2000);
        assert!(is_whole(Language::Java, &format!("class A {{\n{members}}}\n")));
        assert!(is_whole(Language::Json, &format!("[{}1]", "1,\n".repeat(9000))));
        assert!(is_whole(Language::Rust, "fn f() {}\n"), "short");
        assert!(!is_whole(Language::Rust, &"fn f() { g(); }\n".repeat(2000)));
        assert!(!is_whole(Language::Python, &"def f():\n    g()\n\n".repeat(2000)));
    }
}
