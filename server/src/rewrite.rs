//! Rewriting: some lines of a document and what to do in, the lines as they should be out.

mod changes;
pub(crate) mod idioms;

use std::{ops::Range, path::PathBuf};

pub use changes::Change;

use surmise_engine::{
    Engine, EngineError,
    request::{
        Finish, FinishReason, Prompt, Request, RewritePrompt, RewriteTask, SamplingParams, Speculation,
        StopCondition,
    },
};
use surmise_grammars::worsens;

use crate::{
    completion::{TracedToken, context::path_for_prompt},
    document::Document,
};

/// Tokens that an answer may have beyond one and a half times those of the lines it rewrites.
const ADDED_TOKENS: usize = 96;

/// Lines to rewrite, and how.
#[derive(Debug, Clone)]
pub struct RewriteQuery {
    /// The document.
    pub document: Document,
    /// Its lines that may change, from 0.
    pub lines: Range<usize>,
    /// What to do.
    pub task: RewriteTask,
    /// Folder that the prompt shows the path relative to.
    pub root: Option<PathBuf>,
    /// How drafts are made.
    pub speculation: Speculation,
}

/// The lines as they should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewriting {
    /// Bytes of the document that the lines take, without the last line break.
    pub range: Range<usize>,
    /// The lines before, with `\n` between them.
    pub before: String,
    /// The lines after, with `\n` between them.
    pub after: String,
    /// Whether the document would have more syntax errors than it has.
    pub breaks_syntax: bool,
    /// What the model wrote, token by token.
    pub tokens: Vec<TracedToken>,
    /// How the generation ended, and what it cost.
    pub finish: Finish,
}

/// Why there is no rewriting.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Too much at once.
    #[error(
        "these lines have {n_tokens} tokens, and the model's context leaves room for {room} to be read and written again; \
         give fewer lines"
    )]
    TooLong {
        /// Tokens of the lines.
        n_tokens: usize,
        /// Tokens that would do.
        room: usize,
    },
    /// The model did not come to an end.
    #[error(
        "the model wrote {n_tokens} tokens and came to no end; give fewer lines or say it in other words"
    )]
    NoEnd {
        /// Tokens that it wrote.
        n_tokens: usize,
    },
    /// The model came to no answer.
    #[error("the model wrote {n_tokens} tokens of reasoning and no lines; ask again in other words")]
    NoAnswer {
        /// Tokens that it wrote.
        n_tokens: usize,
    },
}

/// Asks the model. Dropping the future stops the generation.
///
/// # Errors
/// [`RewriteError`]; the document is never changed.
pub async fn rewrite(engine: &Engine, query: &RewriteQuery) -> Result<Rewriting, RewriteError> {
    let RewriteQuery { document, lines, .. } = query;
    let range = byte_range(document, lines.clone());
    let before = document.excerpt(range.clone());
    let prompt = Prompt::Rewrite(RewritePrompt {
        task: query.task.clone(),
        region: before.clone(),
        path: path_for_prompt(document, query.root.as_deref()),
    });
    let prompt_tokens = engine.prompt_tokens(&prompt)?.into_owned();
    let n_prompt = prompt_tokens.len();
    let n_region = engine.tokenizer().encode(&before, false)?.len();
    let context_length = engine.info().context_length;
    if n_prompt + n_region + ADDED_TOKENS > context_length {
        let room = context_length.saturating_sub(n_prompt - n_region + ADDED_TOKENS) / 2;
        return Err(RewriteError::TooLong {
            n_tokens: n_region,
            room,
        });
    }
    let request = Request {
        prompt,
        sampling: SamplingParams::default(),
        stop: StopCondition {
            max_tokens: (n_region + n_region / 2 + ADDED_TOKENS).min(context_length - n_prompt),
            ..StopCondition::default()
        },
        speculation: query.speculation,
        ..Request::default()
    };
    idioms::show(engine);
    let answer = engine.generate(request).collect().await?;
    if answer.finish.reason == FinishReason::Length {
        return Err(RewriteError::NoEnd {
            n_tokens: answer.finish.usage.generated_tokens,
        });
    }
    let Some(after) = engine.rewritten(&prompt_tokens, &answer) else {
        return Err(RewriteError::NoAnswer {
            n_tokens: answer.finish.usage.generated_tokens,
        });
    };
    Ok(Rewriting {
        breaks_syntax: worsens(&document.syntax, &document.text, range.clone(), &after),
        range,
        before,
        after,
        tokens: answer
            .tokens
            .iter()
            .map(|it| TracedToken::new(engine, it))
            .collect(),
        finish: answer.finish,
    })
}

/// Bytes of some lines, without the last line break.
pub(crate) fn byte_range(document: &Document, lines: Range<usize>) -> Range<usize> {
    let text = &document.text;
    let start = text.line_to_byte(lines.start.min(text.len_lines()));
    let mut end = text.line_to_byte(lines.end.min(text.len_lines()));
    for line_break in [b'\n', b'\r'] {
        if end > start && text.byte(end - 1) == line_break {
            end -= 1;
        }
    }
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_may_lack_its_break() {
        let document = Document::new(None, None, None, "a\nb");
        assert_eq!(byte_range(&document, 1..2), 2..3);
        assert_eq!(byte_range(&document, 0..9), 0..3);
        let document = Document::new(None, None, None, "a\n\n\n");
        assert_eq!(byte_range(&document, 1..2), 2..2);
    }
}
