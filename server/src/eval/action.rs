//! Whether the actions of menus come to something, at places where they are offered.

use std::{collections::BTreeMap, io, ops::Range, path::Path, time::Instant};

use serde::Serialize;
use surmise_engine::{
    Engine, RewriteSupport,
    request::{RewriteTask, Speculation},
};

use super::hole::{Random, source_files};
use crate::{
    actions::{self, Offer, Unusable, action, first_usable},
    document::Document,
    rewrite::RewriteQuery,
};

/// Most lines that are selected.
const MAX_SELECTED: usize = 8;
/// Places looked at in each language for each one that is wanted of an action, before it is given up.
const TRIES: usize = 40;

/// A place where an action is offered.
#[derive(Debug, Clone)]
pub struct OfferedAction {
    document: Document,
    offer: Offer,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct ActionOutcome {
    /// The action's name.
    pub action: &'static str,
    /// Name of the language.
    pub language: &'static str,
    /// Lines that it was about.
    pub n_lines: usize,
    /// What was done.
    pub result: ActionResult,
    /// From the request to the answer, in milliseconds.
    pub elapsed_ms: f64,
}

/// What an action did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionResult {
    /// It changed the lines, and would find nothing more to do there.
    Complete,
    /// It changed the lines, and nothing that it must leave alone.
    Applied,
    /// The model wrote what was there.
    Unchanged,
    /// What the model wrote was refused: it would have done harm, or came to no end.
    Refused,
}

/// Places in the files below `folder` at which actions are offered that a model with this support does: up to `n_places` for each
/// action, as evenly among languages as there are such places. The same seed gives the same places.
///
/// # Errors
/// If the folder cannot be read.
pub fn offered(
    folder: &Path,
    n_places: usize,
    seed: u64,
    support: RewriteSupport,
) -> io::Result<Vec<OfferedAction>> {
    let files = source_files(folder)?;
    let mut random = Random::new(seed);
    let per_language = n_places.div_ceil(files.len().max(1));
    let mut found: BTreeMap<&'static str, Vec<OfferedAction>> = BTreeMap::new();
    for mut files in files.into_values() {
        files.sort();
        let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
        for _ in 0..TRIES * per_language {
            let path = &files[random.below(files.len())];
            let Ok(text) = std::fs::read_to_string(path) else {
                continue;
            };
            let document = Document::new(Some(path), None, None, &text);
            let selection = selection(&document, &mut random);
            for offer in actions::offers(&document, selection, support) {
                let count = counts.entry(offer.id).or_default();
                if *count < per_language {
                    *count += 1;
                    let document = document.clone();
                    found
                        .entry(offer.id)
                        .or_default()
                        .push(OfferedAction { document, offer });
                }
            }
        }
    }
    for places in found.values_mut() {
        // Those that are too many go from all languages alike.
        while places.len() > n_places {
            places.remove(random.below(places.len()));
        }
    }
    Ok(found.into_values().flatten().collect())
}

/// A cursor in a line, or some lines.
fn selection(document: &Document, random: &mut Random) -> Range<usize> {
    let text = &document.text;
    let first = random.below(text.len_lines());
    let start = text.line_to_byte(first);
    if random.below(3) == 0 {
        return start..start;
    }
    let last = (first + 1 + random.below(MAX_SELECTED)).min(text.len_lines());
    start..text.line_to_byte(last)
}

/// Does the action as an editor would have it done.
pub async fn try_action(
    engine: &Engine,
    root: &Path,
    speculation: Speculation,
    place: &OfferedAction,
) -> ActionOutcome {
    let OfferedAction { document, offer } = place;
    let known = action(offer.id).expect("an action that was offered");
    let query = |instruction: &&str| RewriteQuery {
        document: document.clone(),
        lines: offer.lines.clone(),
        task: RewriteTask::Instruction((*instruction).to_owned()),
        root: Some(root.to_owned()),
        speculation,
    };
    let started = Instant::now();
    let answer = first_usable(engine, known.wordings.iter().map(query).collect(), known.promise).await;
    let elapsed = started.elapsed();
    let result = match answer {
        Ok((_, rewriting)) => {
            let mut after = document.clone();
            let start = rewriting.range.start;
            after.replace(rewriting.range, &rewriting.after);
            let is_left = known
                .place
                .find(&after, start..start + rewriting.after.len())
                .is_some();
            if is_left {
                ActionResult::Applied
            } else {
                ActionResult::Complete
            }
        }
        Err(Unusable::NothingToChange) => ActionResult::Unchanged,
        Err(Unusable::Rewrite(_) | Unusable::BreaksSyntax | Unusable::BreaksPromise(_)) => {
            ActionResult::Refused
        }
    };
    ActionOutcome {
        action: offer.id,
        language: document.language().name(),
        n_lines: offer.lines.len(),
        result,
        elapsed_ms: elapsed.as_secs_f64() * 1e3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_places() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/actions");
        let places = |seed| -> Vec<(&str, Range<usize>)> {
            let found = offered(&folder, 5, seed, RewriteSupport::Trained).unwrap();
            found
                .into_iter()
                .map(|it| (it.offer.id, it.offer.lines))
                .collect()
        };
        let first = places(1);
        assert_eq!(first, places(1));
        assert_ne!(first, places(2));
        assert_eq!(first.iter().filter(|it| it.0 == "comment-out").count(), 5);
    }
}
