//! A syntax tree kept in step with a rope by incremental edits.
//!
//! Nothing here reads a whole file twice: an edit reparses what it touched, and a clone shares the tree.

mod neighbourhood;

use std::cell::RefCell;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ropey::Rope;
use tree_sitter::{InputEdit, Node, ParseOptions, Parser, Point, Tree};

use self::neighbourhood::{Neighbourhood, Part};
use crate::{Imports, Language, TextEdit, text};

/// How long the first parse of a file may take before the file is left without structure.
const FIRST_PARSE_LIMIT: Duration = Duration::from_millis(1500);
/// How long a reparse after an edit may take before the old tree is kept. Typing waits for this.
const EDIT_PARSE_LIMIT: Duration = Duration::from_millis(60);

thread_local! {
    /// Parsers own buffers worth keeping, cannot be shared, and switch languages at no cost.
    static PARSER: RefCell<Parser> = RefCell::new(Parser::new());
}

/// The syntax tree of one text.
///
/// Cheap to clone: a clone is a snapshot that later edits of the original do not change. There is always a
/// tree, with error nodes where the text does not parse, except for [`Language::PlainText`].
#[derive(Clone, Debug)]
pub struct Syntax {
    language: Language,
    tree: Option<Tree>,
    stale: bool,
    /// The imports of the text, once they were asked for.
    pub(crate) imports: Arc<OnceLock<Imports>>,
    /// What was looked at last.
    previews: Previews,
    /// The part that was looked at last in this text or the one before it, for clones too: most of it is still there after
    /// a keystroke, and need not be parsed again.
    part: Arc<Mutex<Option<Part>>>,
}

/// The neighbourhood of a place as it would be after a change.
#[derive(Clone, Debug)]
pub(crate) struct Preview {
    /// The byte of the whole text at which the neighbourhood begins: its own offsets count from there.
    pub(crate) start: usize,
    pub(crate) rope: Rope,
    pub(crate) syntax: Syntax,
    pub(crate) edit: TextEdit,
    /// How broken the neighbourhood is without the change.
    pub(crate) damage_before: Damage,
}

/// What [`Syntax::preview`] keeps: questions are often about the same place, and the same text. A clone has its own, so that
/// they go with whoever asked.
#[derive(Debug, Default)]
struct Previews(Box<Mutex<LastPreviews>>);

#[derive(Debug, Default)]
struct LastPreviews {
    neighbourhood: Option<Neighbourhood>,
    last: Option<(Range<usize>, String, Preview)>,
}

impl Clone for Previews {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Syntax {
    /// Parses a whole text.
    ///
    /// Gives up after 1.5 s (several megabytes of ordinary code, or a file made to hang parsers) and then
    /// holds an empty tree marked [stale](Syntax::is_stale).
    pub fn parse(language: Language, rope: &Rope) -> Syntax {
        Syntax::parse_within(language, rope, FIRST_PARSE_LIMIT)
    }

    fn parse_within(language: Language, rope: &Rope, limit: Duration) -> Syntax {
        let tree = run_parser(language, |byte| text::chunk_from(rope, byte), None, limit);
        let stale = tree.is_none() && language.grammar().is_some();
        let tree = tree.or_else(|| unparsed(language, rope));
        Syntax {
            language,
            tree,
            stale,
            imports: Arc::default(),
            previews: Previews::default(),
            part: Arc::default(),
        }
    }

    /// Follows one edit: `rope` is the text just after it, and just before it was the text of this tree.
    ///
    /// Only what the edit touched is parsed again: about half a millisecond in 9,000 lines of Rust or Go. Where a
    /// grammar has to read the first word of every statement of the top level again (Python, JavaScript, Rust with
    /// comments between functions), several milliseconds. After 60 ms the old tree is kept, with its offsets moved along
    /// and marked [stale](Syntax::is_stale), and the next edit tries again.
    pub fn edit(&mut self, edit: &TextEdit, rope: &Rope) {
        self.edit_within(edit, rope, EDIT_PARSE_LIMIT);
    }

    /// Follows several edits, each of the text that the one before it left, for the price of one: `rope` is the text
    /// after all of them.
    pub fn edit_each(&mut self, edits: &[TextEdit], rope: &Rope) {
        if let [edit] = edits {
            return self.edit(edit, rope);
        }
        if edits.is_empty() {
            return;
        }
        self.part = Arc::default();
        edits.iter().for_each(|edit| self.move_along(edit));
        self.catch_up(rope, EDIT_PARSE_LIMIT);
    }

    pub(crate) fn edit_within(&mut self, edit: &TextEdit, rope: &Rope, limit: Duration) {
        let part = self.lock_part().as_ref().and_then(|part| part.after(edit, rope));
        // Snapshots keep the old one.
        self.part = Arc::new(Mutex::new(part));
        self.move_along(edit);
        self.catch_up(rope, limit);
    }

    /// Moves what the tree says to where it is after an edit; it is to be parsed again before anybody looks.
    fn move_along(&mut self, edit: &TextEdit) {
        self.previews = Previews::default();
        // Nor does an edit change what an older snapshot has yet to look up.
        if self.imports.get().is_none_or(|it| edit.start_byte < it.read_to()) {
            self.imports = Arc::default();
        }
        if let Some(tree) = &mut self.tree {
            tree.edit(&edit.as_input_edit());
        }
    }

    /// Parses again what has been edited.
    fn catch_up(&mut self, rope: &Rope, limit: Duration) {
        let Some(tree) = &mut self.tree else { return };
        let parsed = run_parser(
            self.language,
            |byte| text::chunk_from(rope, byte),
            Some(tree),
            limit,
        );
        self.stale = parsed.is_none();
        if let Some(parsed) = parsed {
            *tree = parsed;
        }
    }

    fn lock_part(&self) -> MutexGuard<'_, Option<Part>> {
        // Poisoned or not, what is in there is whole.
        self.part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The language the text is parsed as.
    pub fn language(&self) -> Language {
        self.language
    }

    /// The tree; its offsets are bytes of the rope. `None` only for plain text.
    pub fn tree(&self) -> Option<&Tree> {
        self.tree.as_ref()
    }

    /// Whether the last parse ran out of time, so that node kinds may not fit the text any more. Offsets
    /// always do.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// How many ERROR and MISSING nodes the tree has; visits only the broken parts of it.
    pub fn error_count(&self) -> usize {
        self.damage().nodes
    }

    /// How broken the tree is, in nodes and in bytes.
    pub(crate) fn damage(&self) -> Damage {
        self.tree
            .as_ref()
            .map_or_else(Damage::default, |tree| Damage::of(tree.root_node()))
    }

    /// What is around `range` as it would be with `text` in its place.
    pub(crate) fn preview(&self, rope: &Rope, range: Range<usize>, text: &str) -> Preview {
        let range = text::snap_range(rope, range);
        // Poisoned or not, what is in there is whole.
        let mut previews = self.previews.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known_range, known_text, preview)) = &previews.last
            && *known_range == range
            && known_text == text
        {
            return preview.clone();
        }
        let around = match previews.neighbourhood.take() {
            Some(around) if around.change == range => around,
            _ => Neighbourhood::of(self, rope, range.clone()),
        };
        let (mut syntax, mut part) = (around.syntax.clone(), around.rope.clone());
        let local = range.start - around.start..range.end - around.start;
        let edit = TextEdit::apply(&mut part, local, text);
        syntax.edit(&edit, &part);
        let preview = Preview {
            start: around.start,
            rope: part,
            syntax,
            edit,
            damage_before: around.syntax.damage(),
        };
        previews.neighbourhood = Some(around);
        previews.last = Some((range, text.to_owned(), preview.clone()));
        preview
    }
}

/// ERROR and MISSING nodes of a tree, and the bytes under ERROR nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) nodes: usize,
    pub(crate) bytes: usize,
}

impl Damage {
    fn of(root: Node<'_>) -> Damage {
        let mut damage = Damage::default();
        let mut cursor = root.walk();
        // Inside an ERROR node bytes are already counted; nested errors still count as nodes.
        let mut counted_to = 0;
        loop {
            let node = cursor.node();
            if node.is_error() {
                damage.nodes += 1;
                damage.bytes += node.end_byte().saturating_sub(node.start_byte().max(counted_to));
                counted_to = counted_to.max(node.end_byte());
            } else if node.is_missing() {
                damage.nodes += 1;
            }
            if node.has_error() && cursor.goto_first_child() {
                continue;
            }
            while !cursor.goto_next_sibling() {
                if !cursor.goto_parent() {
                    return damage;
                }
            }
        }
    }
}

/// Parses what `read` gives at each byte offset, reusing what `old` (already edited) still says about it.
/// `None` when the time is up.
fn run_parser<'a>(
    language: Language,
    mut read: impl FnMut(usize) -> &'a [u8],
    old: Option<&Tree>,
    limit: Duration,
) -> Option<Tree> {
    let grammar = language.grammar()?;
    let deadline = Instant::now() + limit;
    let mut out_of_time = |_: &_| {
        if Instant::now() < deadline {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    };
    let options = ParseOptions::new().progress_callback(&mut out_of_time);
    PARSER.with_borrow_mut(|parser| {
        // Fails only for a grammar of another ABI, which `language.rs` tests for.
        parser.set_language(grammar).ok()?;
        let tree = parser.parse_with_options(&mut |byte, _| read(byte), old, Some(options));
        if tree.is_none() {
            // Without this the next parse, of another text, would go on where this one stopped.
            parser.reset();
        }
        tree
    })
}

/// The tree of an empty text, stretched over `rope`: what a file has that could not be parsed in time.
fn unparsed(language: Language, rope: &Rope) -> Option<Tree> {
    let mut tree = run_parser(language, |_| &[], None, Duration::from_secs(10))?;
    tree.edit(&InputEdit {
        start_byte: 0,
        old_end_byte: 0,
        new_end_byte: rope.len_bytes(),
        start_position: Point::new(0, 0),
        old_end_position: Point::new(0, 0),
        new_end_position: text::point_at(rope, rope.len_bytes()),
    });
    Some(tree)
}

#[cfg(test)]
mod tests;
