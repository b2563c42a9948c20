//! Small edits with known outcomes: whether the model makes of some lines what the instruction says.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use surmise_engine::{
    Engine,
    request::{LineChange, RewriteTask, Speculation},
};

use super::judge::similarity;
use crate::{
    document::Document,
    rewrite::{RewriteError, RewriteQuery, Rewriting, byte_range, rewrite},
};

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    case: Vec<Case>,
}

/// One case as its file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// Which kind of edit it is.
    kind: String,
    /// Source file, relative to the file of cases.
    file: PathBuf,
    /// First and last line, from 1.
    lines: (usize, usize),
    /// What is asked for, in words.
    instruction: Option<String>,
    /// Or by what was done elsewhere: lines as they were and as they are.
    #[serde(default)]
    like: Vec<(String, String)>,
    /// What makes the expected lines of those that are there: pairs of texts, each replaced wherever it occurs, in order.
    #[serde(default)]
    replace: Vec<(String, String)>,
    /// The expected lines, where that is simpler.
    after: Option<String>,
    /// Or any comment in lines of its own, beside the lines that are there.
    #[serde(default)]
    adds_comment: bool,
}

/// A case with its lines read.
#[derive(Debug, Clone)]
pub struct Edit {
    /// Which kind of edit it is.
    pub kind: String,
    /// What is asked for, for people.
    pub instruction: String,
    /// What is asked for, and where.
    pub query: RewriteQuery,
    /// The lines that are expected.
    pub expected: String,
    /// Whether a comment is expected beside them, whatever it says.
    pub adds_comment: bool,
}

/// What came of a case.
#[derive(Debug, Clone, Serialize)]
pub struct EditOutcome {
    /// Which kind of edit it was.
    pub kind: String,
    /// What was asked for.
    pub instruction: String,
    /// Name of the language.
    pub language: &'static str,
    /// Lines that may change.
    pub n_lines: usize,
    /// Whether the lines are as expected.
    pub is_exact: bool,
    /// Edit similarity to what is expected, 0 to 1; of a comment that may say anything, whether it is there.
    pub similarity: f64,
    /// Whether they are as they were.
    pub is_unchanged: bool,
    /// Whether the document would have more syntax errors.
    pub breaks_syntax: bool,
    /// What the model made of them; why there is nothing, if there is not.
    pub after: Result<String, String>,
    /// What was expected.
    pub expected: String,
    /// From the request to the answer, in milliseconds.
    pub elapsed_ms: f64,
    /// Forward passes after the first token, and the tokens they gave.
    pub steps: (usize, usize),
}

/// Reads a file of cases, and the lines that they are about.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for cases that are not as they should be, and what reading files gives.
pub fn read_edits(path: &Path, speculation: Speculation) -> io::Result<Vec<Edit>> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let cases: Cases =
        toml::from_str(&fs::read_to_string(path)?).map_err(|error| invalid(error.to_string()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut documents: BTreeMap<PathBuf, Document> = BTreeMap::new();
    let mut edits = Vec::new();
    for case in cases.case {
        let path = folder.join(&case.file);
        if !documents.contains_key(&path) {
            let text = fs::read_to_string(&path)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
            documents.insert(path.clone(), Document::new(Some(&path), None, None, &text));
        }
        let document = documents[&path].clone();
        let (first, last) = case.lines;
        let (instruction, task) = match (case.instruction, case.like) {
            (Some(words), like) if like.is_empty() => (words.clone(), RewriteTask::Instruction(words)),
            (None, like) if !like.is_empty() => {
                let words = like.iter().map(|(before, after)| format!("{before} → {after}"));
                let words = words.collect::<Vec<_>>().join(", ");
                let changes = like
                    .into_iter()
                    .map(|(before, after)| LineChange { before, after });
                (words, RewriteTask::GoOn(changes.collect()))
            }
            _ => {
                let reason = "expected either `instruction` or `like`";
                return Err(invalid(format!("{} at {first}: {reason}", case.file.display())));
            }
        };
        let about = || format!("case `{instruction}` of {} at {first}", case.file.display());
        if first == 0 || last < first || last > document.text.len_lines() {
            let n_lines = document.text.len_lines();
            return Err(invalid(format!(
                "{}: expected lines from 1 to {n_lines}, found {first} to {last}",
                about()
            )));
        }
        let mut expected = document.excerpt(byte_range(&document, first - 1..last));
        for (old, new) in &case.replace {
            if old.is_empty() || !expected.contains(old.as_str()) {
                return Err(invalid(format!(
                    "{}: expected `{old}` in the lines, found none",
                    about()
                )));
            }
            expected = expected.replace(old, new);
        }
        if let Some(after) = case.after {
            expected = after.trim_end_matches('\n').to_owned();
        }
        edits.push(Edit {
            kind: case.kind,
            instruction,
            expected,
            adds_comment: case.adds_comment,
            query: RewriteQuery {
                document,
                lines: first - 1..last,
                task,
                root: Some(folder.to_owned()),
                speculation,
            },
        });
    }
    Ok(edits)
}

/// Asks the model for an edit, and judges it.
pub async fn try_edit(engine: &Engine, edit: &Edit) -> EditOutcome {
    let started = Instant::now();
    let rewriting = rewrite(engine, &edit.query).await;
    judge(edit, rewriting, started.elapsed())
}

fn judge(edit: &Edit, rewriting: Result<Rewriting, RewriteError>, elapsed: Duration) -> EditOutcome {
    let Edit {
        kind,
        instruction,
        query,
        expected,
        adds_comment,
    } = edit;
    let found = rewriting.as_ref().ok();
    let after = found.map_or("", |it| it.after.as_str());
    let is_right = if *adds_comment {
        has_new_comment(expected, after)
    } else {
        after.trim_end() == expected.trim_end()
    };
    EditOutcome {
        kind: kind.clone(),
        instruction: instruction.clone(),
        language: query.document.language().name(),
        n_lines: query.lines.len(),
        is_exact: found.is_some_and(|it| !it.breaks_syntax) && is_right,
        // Lines that stay as they are would be similar to what they are with a comment.
        similarity: if *adds_comment {
            f64::from(u8::from(is_right))
        } else {
            similarity(after, expected)
        },
        is_unchanged: found.is_some_and(|it| it.after == it.before),
        breaks_syntax: found.is_some_and(|it| it.breaks_syntax),
        expected: expected.clone(),
        elapsed_ms: elapsed.as_secs_f64() * 1e3,
        steps: found.map_or((0, 0), |it| {
            (it.finish.speculation.steps, it.finish.speculation.emitted)
        }),
        after: rewriting.map(|it| it.after).map_err(|error| error.to_string()),
    }
}

/// Whether `after` has all lines of `before`, in their order, and others that are comments, one at least.
fn has_new_comment(before: &str, after: &str) -> bool {
    /// What a line of a comment begins with, in the languages of the cases; a string that documents its function is one.
    const MARKS: [&str; 5] = ["//", "#", "/*", "*", "\"\"\""];
    let mut missing = before.trim_end().split('\n').peekable();
    let mut n_comments = 0;
    for line in after.trim_end().split('\n') {
        if missing.next_if_eq(&line).is_some() {
            continue;
        }
        if !MARKS.iter().any(|mark| line.trim_start().starts_with(mark)) {
            return false;
        }
        n_comments += 1;
    }
    n_comments > 0 && missing.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::has_new_comment;

    #[test]
    fn a_comment_is_new_lines_and_nothing_else() {
        let before = "def f(x):\n    return x";
        for (after, is_right) in [
            ("# Gives x.\ndef f(x):\n    return x\n", true),
            ("def f(x):\n    \"\"\"Gives x.\"\"\"\n    return x", true),
            ("def f(x):\n    return x", false),
            ("# Gives x.\ndef f(x):", false),
            ("# Gives y.\ndef f(x):\n    return y", false),
            ("def f(x):\n    x += 1\n    return x", false),
        ] {
            assert_eq!(has_new_comment(before, after), is_right, "{after}");
        }
    }
}
