//! Texts beside the prompt that the engine may copy from: what the excerpt leaves out of the file, what was cut out lately,
//! other open files, and files near this one.

use std::{
    hash::{BuildHasher, RandomState},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use surmise_engine::{
    Engine,
    copy::{CopySource, Origin},
};

use crate::{completion::Query, document::Document};

/// Bytes of one text that are taken at most: a few milliseconds to prepare, and about a megabyte of memory.
const MAX_BYTES: usize = 32 * 1024;

/// Lines of a file that come and go together, so that typing does not make what lies beside the excerpt a new text with
/// every line.
const CHUNK_LINES: usize = 64;

/// Texts that are kept prepared.
const MAX_ENTRIES: usize = 16;

/// What there is to copy from beside the document.
#[derive(Debug, Clone, Default)]
pub struct Beside {
    /// Text that was taken out of open documents lately, the latest last.
    pub removed: String,
    /// Other documents that are open, the one last worked on first.
    pub neighbours: Vec<Neighbour>,
    /// Files that are not open, the nearest first.
    pub nearby: Vec<Arc<CopySource>>,
    /// Texts that were prepared for the engine.
    pub cache: Arc<SourceCache>,
}

/// A document that is open beside the one that is being typed in.
#[derive(Debug, Clone)]
pub struct Neighbour {
    /// The document.
    pub document: Document,
    /// Where it was changed last, in bytes.
    pub changed_at: usize,
}

/// Texts that one engine copied from lately, by their hashes.
#[derive(Debug, Default)]
pub struct SourceCache {
    hasher: RandomState,
    /// Most recently used last.
    entries: Mutex<Vec<(u64, Arc<CopySource>)>>,
}

impl SourceCache {
    /// The texts, those that are known as they were prepared.
    fn get(&self, engine: &Engine, texts: impl Iterator<Item = (Origin, String)>) -> Vec<Arc<CopySource>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sources = Vec::new();
        for (origin, text) in texts {
            let hash = self.hasher.hash_one((origin, &text));
            let known = entries.iter().position(|entry| entry.0 == hash);
            let source = match known {
                Some(idx) => Some(entries.remove(idx).1),
                None => engine.copy_source(text, origin),
            };
            if let Some(source) = source {
                sources.push(Arc::clone(&source));
                entries.push((hash, source));
            }
        }
        let n_old = entries.len().saturating_sub(MAX_ENTRIES);
        entries.drain(..n_old);
        sources
    }
}

/// Prepares what is not prepared yet, on a thread each: while the model reads the prompt there is time for it.
pub(super) fn prepare(sources: &[Arc<CopySource>]) {
    let mut lacking = sources.iter().filter(|source| !source.is_prepared());
    let first = lacking.next();
    thread::scope(|scope| {
        for source in lacking {
            scope.spawn(|| source.prepare());
        }
        first.inspect(|source| source.prepare());
    });
}

/// The texts beside `excerpt`, the part of the query's document that the prompt holds, the nearest first.
pub(super) fn gather(engine: &Engine, query: &Query, excerpt: Range<usize>) -> Vec<Arc<CopySource>> {
    if !engine.info().copies {
        return Vec::new();
    }
    let own = [
        before(&query.document, excerpt.start),
        after(&query.document, excerpt.end),
    ];
    let own = own.map(|range| (Origin::SameFile, query.document.excerpt(range)));
    let Beside {
        removed,
        neighbours,
        nearby,
        cache,
    } = &query.beside;
    let removed = (Origin::Elsewhere, removed.clone());
    let neighbours = neighbours.iter().map(|it| {
        (
            Origin::Elsewhere,
            it.document.excerpt(around(&it.document, it.changed_at)),
        )
    });
    let texts = own.into_iter().chain([removed]).chain(neighbours);
    let mut sources = cache.get(engine, texts.filter(|(_, text)| !text.is_empty()));
    sources.extend_from_slice(nearby);
    sources
}

/// As much of the file around byte `at` as is taken of one text.
fn around(document: &Document, at: usize) -> Range<usize> {
    let text = &document.text;
    let latest = text.len_bytes().saturating_sub(MAX_BYTES);
    let start = at.saturating_sub(MAX_BYTES / 2).min(latest);
    let start = text.line_to_byte(text.byte_to_line(start));
    start..snap(document, start + MAX_BYTES)
}

/// Whole chunks of the file before byte `end`.
fn before(document: &Document, end: usize) -> Range<usize> {
    let text = &document.text;
    let end = text.line_to_byte(text.byte_to_line(end) / CHUNK_LINES * CHUNK_LINES);
    snap(document, end.saturating_sub(MAX_BYTES))..end
}

/// Whole chunks of the file from byte `start` on, counted from its end.
fn after(document: &Document, start: usize) -> Range<usize> {
    let text = &document.text;
    let n_lines = text.len_lines() - text.byte_to_line(start);
    let start = text.line_to_byte(text.len_lines() - n_lines.saturating_sub(1) / CHUNK_LINES * CHUNK_LINES);
    start..snap(document, start + MAX_BYTES)
}

/// The start of the character at a byte, or the end of the text.
fn snap(document: &Document, byte: usize) -> usize {
    let text = &document.text;
    text.char_to_byte(text.byte_to_char(byte.min(text.len_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beside_the_excerpt_stays_the_same_while_one_types() {
        let lines: String = (0..1000)
            .map(|line| format!("let größe_{line} = {line};\n"))
            .collect();
        let mut document = Document::new(None, Some("rust"), None, &lines);
        let beside = |document: &Document, line: usize| {
            let byte = |line| document.text.line_to_byte(line);
            let texts = [
                before(document, byte(line - 20)),
                after(document, byte(line + 20)),
            ];
            texts.map(|range| document.excerpt(range))
        };
        let first = beside(&document, 500);
        assert!(lines.contains(&first[0]) && lines.contains(&first[1]));
        assert!(
            first[0].ends_with("= 447;\n"),
            "{}",
            first[0].lines().last().unwrap()
        );
        assert!(first[1].starts_with("let größe_"), "whole lines");
        let place = document.text.line_to_byte(500);
        for n_new in 1..=4 {
            document.replace(place..place, "fn f() {}\n");
            assert_eq!(beside(&document, 500 + n_new), first, "{n_new} new lines");
        }
    }

    #[test]
    fn short_files_have_nothing_beside_the_excerpt() {
        for text in ["", "a", "a\n", "ä\nb"] {
            let document = Document::new(None, Some("rust"), None, text);
            let end = text.len();
            assert!(
                before(&document, 0).is_empty() && after(&document, end).is_empty(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn of_a_long_neighbour_there_is_what_lies_around_its_last_change() {
        let lines: String = (0..5000).map(|line| format!("let größe_{line} = 1;\n")).collect();
        let document = Document::new(None, Some("rust"), None, &lines);
        for changed_at in [0, 50_000, lines.len(), lines.len() + 9] {
            let range = around(&document, changed_at);
            assert!(
                range.len() <= MAX_BYTES && range.len() > MAX_BYTES - 64,
                "{range:?}"
            );
            assert!(
                range.start <= changed_at && changed_at.min(lines.len()) <= range.end + 64,
                "{range:?}"
            );
            assert!(document.excerpt(range).starts_with("let größe_"));
        }
        let short = Document::new(None, Some("rust"), None, "ä\n");
        assert_eq!(around(&short, 3), 0..3);
    }

    #[test]
    fn one_long_line_is_cut_between_characters() {
        let document = Document::new(None, Some("json"), None, &"ä".repeat(MAX_BYTES));
        assert_eq!(snap(&document, MAX_BYTES + 1), MAX_BYTES);
        assert_eq!(before(&document, 40_000), 0..0);
    }
}
