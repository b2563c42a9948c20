//! A syntax tree kept in step with a rope by incremental edits.
//!
//! Nothing here reads a whole file twice: after an edit only what it touched is parsed again, and that not before somebody
//! asks; a clone shares the tree. What is asked around a cursor is answered from the few functions there
//! (`syntax/neighbourhood.rs`), so that typing in a long file does not wait for the parser to pass over the rest of it.

mod neighbourhood;

use std::cell::RefCell;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ropey::Rope;
use tree_sitter::{InputEdit, Node, ParseOptions, Parser, Point, Tree};

pub(crate) use self::neighbourhood::Neighbourhood;
use self::neighbourhood::Part;
use crate::imports::{self, Imports};
use crate::scope::ScopesAbove;
use crate::{Language, TextEdit, text};

/// How long the first parse of a file may take before the file is left without structure.
const FIRST_PARSE_LIMIT: Duration = Duration::from_millis(1500);
/// How long a reparse after an edit may take before the old tree is kept. Whoever asks for the tree waits for this.
const EDIT_PARSE_LIMIT: Duration = Duration::from_millis(60);
/// How long who can do without the tree waits for it.
const SHORT_PARSE_LIMIT: Duration = Duration::from_millis(25);
/// How long a parse may take that nobody waits for.
const PATIENT_PARSE_LIMIT: Duration = Duration::from_millis(500);

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
    /// The last tree that was whole, moved along with the edits since.
    moved: Parsed,
    /// Whether one of those edits brought or took a line break.
    moved_lines: bool,
    /// The text after those edits; none if there were none, and `moved` is its tree.
    edited: Option<Rope>,
    /// The tree of `edited`, for clones too, once anybody asked for it.
    parsed: Arc<OnceLock<Parsed>>,
    /// The imports of the text, once they were asked for.
    pub(crate) imports: Arc<OnceLock<Imports>>,
    /// Those of an earlier text where they are now, if they most likely are the same.
    pub(crate) old_imports: Option<Arc<Imports>>,
    /// The scopes that were asked for last in whole code, where they are now, for clones too.
    scopes_above: Arc<Mutex<Option<ScopesAbove>>>,
    /// What was looked at last.
    neighbourhood: LastNeighbourhood,
    /// The part that was looked at last in this text or the one before it, for clones too: most of it is still there after
    /// a keystroke, and need not be parsed again.
    part: Arc<Mutex<Option<Part>>>,
}

/// What a parser has made of a text.
#[derive(Clone, Debug)]
struct Parsed {
    /// None for plain text.
    tree: Option<Tree>,
    /// Whether there was not time enough, so that the tree is one of another text, with its offsets moved along.
    stale: bool,
}

impl Parsed {
    /// Whether the parser found no way to make one tree of the text: then the one before it knows more.
    fn is_in_pieces(&self) -> bool {
        self.tree.as_ref().is_some_and(|tree| tree.root_node().is_error())
    }
}

/// The neighbourhood that was asked for last: questions are often about the same place. A clone has its own, so that it goes
/// with whoever asked.
#[derive(Debug, Default)]
struct LastNeighbourhood(Box<Mutex<Option<Arc<Neighbourhood>>>>);

impl Clone for LastNeighbourhood {
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
            moved: Parsed { tree, stale },
            moved_lines: false,
            edited: None,
            parsed: Arc::default(),
            imports: Arc::default(),
            old_imports: None,
            scopes_above: Arc::default(),
            neighbourhood: LastNeighbourhood::default(),
            part: Arc::default(),
        }
    }

    /// Follows one edit: `rope` is the text just after it, and just before it was the text of this tree.
    ///
    /// Takes microseconds. The text is parsed again when somebody asks for its [tree](Syntax::tree).
    pub fn edit(&mut self, edit: &TextEdit, rope: &Rope) {
        let known = self.lock_part();
        let part = known.as_ref().filter(|it| !it.is_outdated(self));
        let part = part.and_then(|part| part.after(edit, rope));
        drop(known);
        let scopes = self.lock_scopes_above().as_ref().and_then(|it| it.after(edit));
        // Snapshots keep the old ones.
        self.part = Arc::new(Mutex::new(part));
        self.scopes_above = Arc::new(Mutex::new(scopes));
        self.neighbourhood = LastNeighbourhood::default();
        if let Some(parsed) = std::mem::take(&mut self.parsed).get()
            && !parsed.is_in_pieces()
        {
            self.moved = parsed.clone();
            self.moved_lines = false;
        }
        self.moved_lines |= !edit.is_in_one_line();
        if let Some(tree) = &mut self.moved.tree {
            tree.edit(&edit.as_input_edit());
        }
        self.edited = Some(rope.clone());
        // An edit does not change what an older snapshot has yet to look up.
        if self.imports.get().is_none_or(|it| edit.start_byte < it.read_to()) {
            let known = self.imports.get().or(self.old_imports.as_deref());
            self.old_imports = known.and_then(|it| it.after(edit)).map(Arc::new);
            self.imports = Arc::default();
        }
    }

    /// The tree of the text as it is, parsed now if nobody has asked for it before.
    fn parsed(&self, limit: Duration) -> &Parsed {
        let Some(rope) = &self.edited else {
            return &self.moved;
        };
        self.parsed.get_or_init(|| {
            self.reparse(rope, limit).unwrap_or_else(|| Parsed {
                stale: self.moved.tree.is_some(),
                tree: self.moved.tree.clone(),
            })
        })
    }

    /// The tree of the text as it is, if it is there or does not take long.
    fn parsed_soon(&self) -> Option<&Parsed> {
        self.parse_within_limit(SHORT_PARSE_LIMIT);
        let is_known = self.edited.is_none() || self.parsed.get().is_some();
        Some(self.rough()).filter(|it| is_known && !it.stale)
    }

    /// Parses the text and finds its imports unless that is done, for whoever asks for the [tree](Syntax::tree) and for the edits to
    /// come: they start from it. Nobody waits for this, however long it takes.
    pub fn parse_ahead(&self) {
        self.parse_within_limit(PATIENT_PARSE_LIMIT);
        let is_parsed = self.parsed.get().is_some_and(|it| !it.stale);
        if let Some(rope) = self.edited.as_ref().filter(|_| is_parsed)
            && self.imports.get().is_none()
        {
            // Somebody else may have been faster.
            let _ = self.imports.set(imports::find(self, rope));
        }
    }

    /// Parses the text unless that is done. When the time is up, nothing has happened.
    fn parse_within_limit(&self, limit: Duration) {
        if let Some(rope) = &self.edited
            && self.parsed.get().is_none()
            && let Some(parsed) = self.reparse(rope, limit)
        {
            // Somebody else may have been faster.
            let _ = self.parsed.set(parsed);
        }
    }

    /// Parses the text after edits; none when the time is up.
    fn reparse(&self, rope: &Rope, limit: Duration) -> Option<Parsed> {
        let old = self.moved.tree.as_ref();
        let tree = run_parser(self.language, |byte| text::chunk_from(rope, byte), old, limit);
        (tree.is_some() || old.is_none()).then_some(Parsed { tree, stale: false })
    }

    fn lock_part(&self) -> MutexGuard<'_, Option<Part>> {
        // Poisoned or not, what is in there is whole.
        self.part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock_scopes_above(&self) -> MutexGuard<'_, Option<ScopesAbove>> {
        self.scopes_above.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The language the text is parsed as.
    pub fn language(&self) -> Language {
        self.language
    }

    /// The tree; its offsets are bytes of the rope. `None` only for plain text.
    ///
    /// Who asks first after edits waits for the parser, which passes over what they did not touch: about half a millisecond in
    /// 9,000 lines of Rust or Go. Where a grammar has to read the first word of every statement of the top level again
    /// (Python, JavaScript, Rust with comments between functions), several milliseconds. After 60 ms the old tree is kept,
    /// with its offsets moved along and marked [stale](Syntax::is_stale), and after the next edit it is tried again.
    pub fn tree(&self) -> Option<&Tree> {
        self.parsed(EDIT_PARSE_LIMIT).tree.as_ref()
    }

    /// The tree, or the last one that there was with its offsets moved along, where getting the tree would take a parse. Right
    /// about everything that the edits since have not touched.
    pub(crate) fn rough_tree(&self) -> Option<&Tree> {
        self.rough().tree.as_ref()
    }

    /// Whether the [rough tree](Self::rough_tree) has all lines that the text has.
    pub(crate) fn rough_has_all_lines(&self) -> bool {
        self.parsed.get().is_some() || !self.moved_lines
    }

    fn rough(&self) -> &Parsed {
        self.parsed.get().unwrap_or(&self.moved)
    }

    /// Whether the last parse ran out of time, so that node kinds may not fit the text any more. Offsets
    /// always do.
    pub fn is_stale(&self) -> bool {
        self.parsed(EDIT_PARSE_LIMIT).stale
    }

    /// How many ERROR and MISSING nodes the tree has; visits only the broken parts of it.
    pub fn error_count(&self) -> usize {
        self.damage().nodes
    }

    /// How broken the tree is, in nodes and in bytes.
    pub(crate) fn damage(&self) -> Damage {
        self.tree()
            .map_or_else(Damage::default, |tree| Damage::of(tree.root_node()))
    }

    /// Parses what is around the byte offset `at` unless that is done: [`completion_end`](crate::completion_end) and
    /// [`worsens`](crate::worsens) would wait for it.
    pub fn prepare(&self, rope: &Rope, at: usize) {
        self.around(rope, at..at);
    }

    /// What is around `range`; where it is not broken, and the whole can be parsed, [`tree`](Syntax::tree) would say the same of it.
    pub(crate) fn around(&self, rope: &Rope, range: Range<usize>) -> Arc<Neighbourhood> {
        let range = text::snap_range(rope, range);
        // Poisoned or not, what is in there is whole.
        let mut last = self
            .neighbourhood
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(around) if around.change == range => Arc::clone(around),
            _ => Arc::clone(last.insert(Arc::new(Neighbourhood::of(self, rope, range)))),
        }
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
