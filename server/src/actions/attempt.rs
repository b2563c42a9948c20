//! Asking a model until what it writes can be used.

use std::ops::Range;

use surmise_engine::{Engine, RewriteSupport};

use super::Promise;
use crate::{
    document::Document,
    rewrite::{RewriteError, RewriteQuery, Rewriting, rewrite},
};

/// Why what the model wrote is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It wrote nothing.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// It wrote what was there.
    #[error("the model sees nothing to change here")]
    NothingToChange,
    /// The document would have more syntax errors than it has.
    #[error("nothing was changed: what the model wrote has syntax errors; try fewer lines or other words")]
    BreaksSyntax,
    /// It changed what it must leave alone.
    #[error("nothing was changed: the model would have changed {0}")]
    BreaksPromise(&'static str),
}

/// The first rewriting that can be used, with the query that it answers, or else why the very first one cannot. Only models that are
/// trained on certain words are asked again in others.
///
/// # Errors
/// [`Unusable`], also if there is no query.
pub async fn first_usable(
    engine: &Engine,
    queries: Vec<RewriteQuery>,
    promise: Promise,
) -> Result<(RewriteQuery, Rewriting), Unusable> {
    let n_tries = match engine.info().rewrite {
        RewriteSupport::Trained => queries.len(),
        RewriteSupport::Conversation | RewriteSupport::None => 1,
    };
    let mut reason = None;
    for query in queries.into_iter().take(n_tries) {
        let used = match rewrite(engine, &query).await {
            Ok(rewriting) => judge(&query.document, &rewriting, promise).map(|()| rewriting),
            Err(error) => Err(error.into()),
        };
        match used {
            Ok(rewriting) => return Ok((query, rewriting)),
            Err(error) => reason = reason.or(Some(error)),
        }
    }
    Err(reason.unwrap_or(Unusable::NothingToChange))
}

fn judge(document: &Document, rewriting: &Rewriting, promise: Promise) -> Result<(), Unusable> {
    if rewriting.before == rewriting.after {
        return Err(Unusable::NothingToChange);
    }
    if rewriting.breaks_syntax {
        return Err(Unusable::BreaksSyntax);
    }
    let outside = |range: Range<usize>| document.excerpt(range);
    let len = document.text.len_bytes();
    let (before, after) = (
        outside(0..rewriting.range.start),
        outside(rewriting.range.end..len),
    );
    let whole = |lines: &str| [before.as_str(), lines, after.as_str()].concat();
    if !promise.is_kept(
        document.language(),
        &whole(&rewriting.before),
        &whole(&rewriting.after),
    ) {
        return Err(Unusable::BreaksPromise(promise.broken()));
    }
    Ok(())
}
