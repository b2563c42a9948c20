//! The documents that the editor has open, with what we remember about the suggestions in each.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    completion::{Completion, reuse::Remembered, sources::Neighbour},
    document::Document,
    position::{Encoding, Position, offset_at},
    repository::secrets::is_secret,
};

/// Open documents by URI. Changes are applied in the order in which they come.
#[derive(Debug, Default)]
pub struct DocumentStore {
    open: HashMap<String, OpenDocument>,
    /// How often a document was opened or changed.
    clock: u64,
    /// What was taken out of documents lately, the latest last.
    removed: VecDeque<Removed>,
}

/// Text that was taken out of a document, perhaps to be put in elsewhere.
#[derive(Debug)]
struct Removed {
    uri: String,
    /// Byte at which it stood, kept in step with later changes.
    at: usize,
    text: String,
}

/// Least text that is kept when it is taken out, white space around it not counted.
const LEAST_REMOVED: usize = 8;
/// Most that is kept of it, from its beginning.
const MOST_REMOVED: usize = 4096;
/// Texts that are kept.
const MAX_REMOVED: usize = 8;

/// A document and its suggestions.
#[derive(Debug)]
pub struct OpenDocument {
    /// The document as the editor has it.
    pub document: Document,
    /// The last suggestion, for as long as the user may be typing it.
    pub remembered: Option<Remembered>,
    /// How the last request for a suggestion ended, and the text that it was about.
    pub last: Option<(Completion, Document)>,
    /// How often the text has changed; unlike versions, ours to count.
    revision: u64,
    /// When it was last opened or changed, in the store's own time.
    touched: u64,
    /// Where it was changed last, in bytes.
    changed_at: usize,
    /// The text that the engine was last given to draft from.
    given: Option<u64>,
    /// How long the last change took to apply.
    pub changed_in: Duration,
    /// Text and place that a suggestion is being, or was last, prepared for in the background.
    prepared_for: Option<(u64, usize)>,
    /// Held for the newest request; dropping it tells that request that it has been superseded.
    turn: Option<oneshot::Sender<()>>,
}

/// One change of a text: what an editor sends.
#[derive(Debug, Clone)]
pub struct Change {
    /// What is replaced, start and end; everything if there is none.
    pub range: Option<(Position, Position)>,
    /// What stands there instead.
    pub text: String,
}

impl DocumentStore {
    /// Opens a document; one that was open under this URI is forgotten.
    pub fn open(&mut self, uri: String, document: Document) {
        self.clock += 1;
        let opened = OpenDocument {
            document,
            remembered: None,
            last: None,
            revision: 0,
            touched: self.clock,
            changed_at: 0,
            given: None,
            changed_in: Duration::ZERO,
            prepared_for: None,
            turn: None,
        };
        self.open.insert(uri, opened);
    }

    /// Applies `changes` in order, each to the text that the one before it left.
    ///
    /// False if no such document is open.
    pub fn change(
        &mut self,
        uri: &str,
        version: Option<i32>,
        changes: &[Change],
        encoding: Encoding,
    ) -> bool {
        let Some(OpenDocument {
            document,
            revision,
            changed_in,
            touched,
            changed_at,
            ..
        }) = self.open.get_mut(uri)
        else {
            return false;
        };
        let started = Instant::now();
        self.clock += 1;
        *touched = self.clock;
        for change in changes {
            match change.range {
                None => {
                    document.replace_all(&change.text);
                }
                Some((start, end)) => {
                    let start = offset_at(&document.text, start, encoding);
                    let end = offset_at(&document.text, end, encoding).max(start);
                    keep(&mut self.removed, uri, document, start..end, &change.text);
                    follow(&mut self.removed, uri, start..end, change.text.len());
                    document.replace(start..end, &change.text);
                    *changed_at = start;
                }
            }
        }
        document.version = version;
        *revision += 1;
        *changed_in = started.elapsed();
        true
    }

    /// Forgets all suggestions, and ends the requests that are running: they were made under other settings.
    pub fn forget_suggestions(&mut self) {
        for open in self.open.values_mut() {
            open.remembered = None;
            open.prepared_for = None;
            open.turn = None;
        }
    }

    /// The texts that have changed since they were last taken by this, with their URIs: what to draft from.
    ///
    /// The one that is being typed in is taken once, and again when another one is typed in: to read a long file anew
    /// after every key would cost the model the time that drafts save, and the prompt has what is new in it.
    pub fn take_changed(&mut self, typed_in: &str) -> Vec<(String, Document)> {
        let changed = self.open.iter_mut().filter(|(uri, open)| match open.given {
            _ if open.is_secret() => false,
            None => true,
            Some(given) => given != open.revision && *uri != typed_in,
        });
        let taken = changed.map(|(uri, open)| {
            open.given = Some(open.revision);
            (uri.clone(), open.document.clone())
        });
        taken.collect()
    }

    /// From now on all texts count as changed: there is another engine.
    pub fn forget_taken(&mut self) {
        for open in self.open.values_mut() {
            open.given = None;
        }
    }

    /// Forgets a document; a request that is running for it is superseded.
    pub fn close(&mut self, uri: &str) {
        self.open.remove(uri);
    }

    /// The documents but this one that were opened or changed last, the latest first; `n` at most, and none that holds secrets.
    pub fn neighbours(&self, uri: &str, n: usize) -> Vec<Neighbour> {
        let others = self
            .open
            .iter()
            .filter(|(other, open)| *other != uri && !open.is_secret());
        let mut others: Vec<&OpenDocument> = others.map(|(_, open)| open).collect();
        others.sort_unstable_by_key(|open| std::cmp::Reverse(open.touched));
        let neighbours = others.iter().take(n).map(|open| Neighbour {
            document: open.document.clone(),
            changed_at: open.changed_at,
        });
        neighbours.collect()
    }

    /// What was taken out of documents lately, the latest last, for somebody at byte `at` of this one. Not what stood there:
    /// whoever takes something out does not want it in the same place.
    pub fn removed(&self, uri: &str, at: usize) -> String {
        let Some(open) = self.open.get(uri) else {
            return String::new();
        };
        let text = &open.document.text;
        let line = |byte: usize| text.byte_to_line(byte.min(text.len_bytes()));
        let stood_there = |it: &Removed| {
            let start = line(it.at);
            it.uri == uri && (start..=start + it.text.lines().count()).contains(&line(at))
        };
        let wanted = self.removed.iter().filter(|it| !stood_there(it));
        wanted.map(|it| format!("{}\n", it.text)).collect()
    }

    /// The files that are open.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.open
            .values()
            .filter_map(|open| open.document.path.as_deref())
    }

    /// The open document with this URI.
    pub fn get(&self, uri: &str) -> Option<&OpenDocument> {
        self.open.get(uri)
    }

    /// The open document with this URI.
    pub fn get_mut(&mut self, uri: &str) -> Option<&mut OpenDocument> {
        self.open.get_mut(uri)
    }
}

/// Keeps text that is about to be taken out, unless what comes in its place says the same, or there may be secrets in it.
fn keep(
    removed: &mut VecDeque<Removed>,
    uri: &str,
    document: &Document,
    range: Range<usize>,
    replacement: &str,
) {
    if range.len() < LEAST_REMOVED || document.path.as_deref().is_some_and(is_secret) {
        return;
    }
    let end = range.end.min(range.start + MOST_REMOVED);
    let end = document.text.char_to_byte(document.text.byte_to_char(end));
    let text = document.excerpt(range.start..end).trim().to_owned();
    if text.len() < LEAST_REMOVED || replacement.contains(&text) {
        return;
    }
    removed.push_back(Removed {
        uri: uri.to_owned(),
        at: range.start,
        text,
    });
    if removed.len() > MAX_REMOVED {
        removed.pop_front();
    }
}

/// Moves the places of texts that were taken out along with what stands around them.
fn follow(removed: &mut VecDeque<Removed>, uri: &str, range: Range<usize>, new_len: usize) {
    for it in removed
        .iter_mut()
        .filter(|it| it.uri == uri && it.at > range.start)
    {
        it.at = if it.at < range.end {
            range.start
        } else {
            it.at - range.len() + new_len
        };
    }
}

impl OpenDocument {
    /// Whether it is a file that holds secrets.
    fn is_secret(&self) -> bool {
        self.document.path.as_deref().is_some_and(is_secret)
    }

    /// Which of its texts the document has now.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Which text of which opening this is: no other one, of any document, ever has the same.
    pub fn stamp(&self) -> u64 {
        self.touched
    }

    /// Makes the caller's request the newest one; what it gets back resolves when it is that no longer.
    pub fn take_turn(&mut self) -> oneshot::Receiver<()> {
        let (turn, superseded) = oneshot::channel();
        self.turn = Some(turn);
        self.prepared_for = None;
        superseded
    }

    /// Takes the turn for preparing a suggestion at byte `at` in the background; none if that is what is being
    /// done, or was done last.
    pub fn take_turn_to_prepare(&mut self, at: usize) -> Option<oneshot::Receiver<()>> {
        let place = Some((self.revision, at));
        if self.prepared_for == place {
            return None;
        }
        let superseded = self.take_turn();
        self.prepared_for = place;
        Some(superseded)
    }
}

/// The path in a `file:` URI; `None` for documents that are not files.
pub fn path_of_uri(uri: &str) -> Option<PathBuf> {
    let rest = uri.strip_prefix("file://")?;
    let path = &rest[rest.find('/')?..];
    let mut bytes = Vec::with_capacity(path.len());
    let mut encoded = path.bytes();
    while let Some(byte) = encoded.next() {
        let decoded = (byte == b'%').then(|| {
            let mut digits = encoded.clone();
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let value = digit(digits.next())? * 16 + digit(digits.next())?;
            encoded = digits;
            u8::try_from(value).ok()
        });
        bytes.push(decoded.flatten().unwrap_or(byte));
    }
    let path = String::from_utf8_lossy(&bytes).into_owned();
    // `/C:/x` on Windows.
    let has_drive = matches!(path.as_bytes(), [b'/', letter, b':', ..] if letter.is_ascii_alphabetic());
    Some(PathBuf::from(if has_drive { &path[1..] } else { &path }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_uris() {
        let path = |uri| path_of_uri(uri).map(|path| path.display().to_string());
        assert_eq!(path("file:///a/b%20c.rs").as_deref(), Some("/a/b c.rs"));
        assert_eq!(path("file:///c%3A/x.rs").as_deref(), Some("c:/x.rs"));
        assert_eq!(path("file://host/%C3%BC%2x.rs").as_deref(), Some("/ü%2x.rs"));
        assert_eq!(path("untitled:Untitled-1"), None);
    }

    #[test]
    fn changes_apply_to_what_the_change_before_left() {
        let mut documents = DocumentStore::default();
        documents.open("u".to_owned(), Document::new(None, None, Some(1), "a😀c\r\nd"));
        let at = |line, column| Position { line, column };
        let changes = [
            Change {
                range: Some((at(0, 1), at(0, 3))),
                text: "b\n".to_owned(),
            },
            Change {
                range: Some((at(1, 0), at(9, 9))),
                text: "e".to_owned(),
            },
        ];
        assert!(documents.change("u", Some(2), &changes, Encoding::Utf16));
        assert_eq!(documents.get("u").expect("open").document.text, "ab\ne");
        assert!(!documents.change("v", None, &changes, Encoding::Utf16));
    }

    #[test]
    fn a_text_is_given_once_until_it_changes() {
        let mut documents = DocumentStore::default();
        documents.open("u".to_owned(), Document::new(None, None, None, "a"));
        assert_eq!(documents.take_changed("u")[0].0, "u");
        assert!(documents.take_changed("v").is_empty());
        let change = Change {
            range: None,
            text: "b".to_owned(),
        };
        documents.change("u", None, &[change], Encoding::Utf16);
        assert!(documents.take_changed("u").is_empty(), "it is being typed in");
        assert_eq!(documents.take_changed("v")[0].1.text, "b");
        documents.forget_taken();
        assert_eq!(documents.take_changed("u").len(), 1);
    }

    #[test]
    fn neighbours_are_what_was_worked_on_last() {
        let mut documents = DocumentStore::default();
        for uri in ["a", "b", "c"] {
            documents.open(uri.to_owned(), Document::new(None, None, None, uri));
        }
        let change = Change {
            range: None,
            text: "changed".to_owned(),
        };
        documents.change("a", None, &[change], Encoding::Utf16);
        let neighbours = |uri, n| -> Vec<String> {
            let found = documents.neighbours(uri, n);
            found.iter().map(|it| it.document.text.to_string()).collect()
        };
        assert_eq!(neighbours("c", 9), ["changed", "b"]);
        assert_eq!(neighbours("a", 1), ["c"]);
    }

    #[test]
    fn what_is_cut_out_is_wanted_elsewhere() {
        let mut documents = DocumentStore::default();
        let text = "let a = 1;\nlet cut_out = compute();\nlet b = 2;\n";
        documents.open("u".to_owned(), Document::new(None, None, None, text));
        documents.open("v".to_owned(), Document::new(None, None, None, ""));
        let at = |line, column| Position { line, column };
        let mut change = |start, end, text: &str| {
            let change = Change {
                range: Some((start, end)),
                text: text.to_owned(),
            };
            documents.change("u", None, &[change], Encoding::Utf16);
        };
        change(at(1, 0), at(2, 0), "");
        change(at(0, 4), at(0, 5), "");
        change(at(0, 0), at(0, 0), "// A line before.\n");
        let cut = "let cut_out = compute();\n";
        assert_eq!(documents.removed("v", 0), cut);
        assert_eq!(documents.removed("u", 0), cut);
        let place = "// A line before.\nlet  = 1;\n".len();
        assert_eq!(documents.removed("u", place + 3), "", "it was taken out there");
        for line in 0..MAX_REMOVED {
            let change = |range, text: &str| {
                [Change {
                    range,
                    text: text.to_owned(),
                }]
            };
            let text = format!("line number {line}");
            documents.change("v", None, &change(None, &text), Encoding::Utf16);
            documents.change(
                "v",
                None,
                &change(Some((at(0, 0), at(9, 9))), ""),
                Encoding::Utf16,
            );
        }
        assert_eq!(documents.removed("u", 0).lines().count(), MAX_REMOVED);
        assert!(
            !documents.removed("u", 0).contains("cut_out"),
            "the oldest goes first"
        );
    }

    #[test]
    fn files_with_secrets_are_nobodys_neighbours() {
        let mut documents = DocumentStore::default();
        for name in ["/p/.env", "/p/a.rs"] {
            let document = Document::new(Some(Path::new(name)), None, None, name);
            documents.open(name.to_owned(), document);
        }
        assert_eq!(documents.neighbours("/p/b.rs", 9).len(), 1);
        assert_eq!(documents.take_changed("/p/b.rs")[0].0, "/p/a.rs");
    }

    #[tokio::test]
    async fn a_newer_request_supersedes_the_older() {
        let mut documents = DocumentStore::default();
        documents.open("u".to_owned(), Document::new(None, None, None, ""));
        let first = documents.get_mut("u").expect("open").take_turn();
        let mut second = documents.get_mut("u").expect("open").take_turn();
        assert!(first.await.is_err());
        assert!(
            second
                .try_recv()
                .is_err_and(|error| error == oneshot::error::TryRecvError::Empty)
        );
        documents.close("u");
        assert!(second.await.is_err());
    }
}
