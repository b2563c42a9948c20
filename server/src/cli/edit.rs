//! `surmise edit FILE[:START-END] "instruction"`, or `--like OLD NEW` in its place: one rewriting, from the command line.

use std::{
    io::{IsTerminal, Write},
    path::Path,
};

use serde_json::json;
use similar::TextDiff;
use surmise_engine::request::{LineChange, RewriteTask};

use crate::{
    cli::{
        CliError, EditArgs, prompt_root, read_document, settings,
        style::Style,
        trace::{self, Written},
    },
    completion::report::{self, tokens_per_second},
    model,
    rewrite::{RewriteQuery, Rewriting, rewrite},
};

pub(super) fn run(args: &EditArgs) -> Result<i32, CliError> {
    let config = settings(args.model.layer())?;
    let file = &args.span.file;
    let document = read_document(file, args.span.lines.map_or(1, |it| it.1))?;
    let lines = match args.span.lines {
        Some((first, last)) => first - 1..last,
        None => 0..document.text.len_lines(),
    };
    let query = RewriteQuery {
        document,
        lines,
        task: task(args),
        root: prompt_root(file),
        speculation: args.draft.speculation(&config)?,
    };
    let engine = model::load(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let rewriting = runtime.block_on(rewrite(&engine, &query))?;

    let old = query.document.text.to_string();
    let new = rewriting.apply(&query.document);
    let difference = unified(file, &old, &new);
    let written = Written {
        tokens: &rewriting.tokens,
        finish: Some(&rewriting.finish),
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        let report = json!({
            "file": file,
            "lines": { "first": query.lines.start + 1, "last": query.lines.end },
            "before": rewriting.before,
            "after": rewriting.after,
            "breaks_syntax": rewriting.breaks_syntax,
            "diff": difference,
            "model": engine.info().model_name,
            "tokens": rewriting.tokens,
            "speculation": report::speculation(&rewriting.finish.speculation),
            "tokens_per_second": tokens_per_second(&rewriting.finish),
            "usage": {
                "prompt_tokens": rewriting.finish.usage.prompt_tokens,
                "generated_tokens": rewriting.finish.usage.generated_tokens,
            },
        });
        writeln!(out, "{report:#}")?;
    } else {
        write!(out, "{}", coloured(&difference, Style::new(out.is_terminal())))?;
        if args.draft.trace {
            write!(out, "\n{}", trace::text(written, out.is_terminal()))?;
        }
        let err = std::io::stderr();
        let Style { faint, reset, .. } = Style::new(err.is_terminal());
        writeln!(err.lock(), "{faint}{}{reset}", costs(&rewriting))?;
    }
    args.draft.write_page(|| {
        let lines = &query.lines;
        let title = format!("{}:{}-{}", file.display(), lines.start + 1, lines.end);
        trace::page(&title, &query.document, rewriting.range.clone(), written)
    })?;
    if args.write && old != new {
        if rewriting.breaks_syntax {
            return Err(CliError::BreaksSyntax(file.clone()));
        }
        std::fs::write(file, new).map_err(|source| CliError::WriteFile {
            path: file.clone(),
            source,
        })?;
    }
    Ok(0)
}

/// What the words say, or what goes on from `--like OLD NEW`.
fn task(args: &EditArgs) -> RewriteTask {
    if let Some(instruction) = &args.instruction {
        return RewriteTask::Instruction(instruction.trim().to_owned());
    }
    let changes = args.like.chunks(2).map(|it| LineChange {
        before: it[0].clone(),
        after: it[1].clone(),
    });
    RewriteTask::GoOn(changes.collect())
}

/// The difference as `git apply` and `patch -p1` read it; empty if there is none.
fn unified(file: &Path, old: &str, new: &str) -> String {
    let path = file.to_string_lossy();
    let path = path.trim_start_matches("./").trim_start_matches('/');
    TextDiff::from_lines(old, new)
        .unified_diff()
        .header(&format!("a/{path}"), &format!("b/{path}"))
        .to_string()
}

fn coloured(difference: &str, style: Style) -> String {
    let mut out = String::new();
    for line in difference.split_inclusive('\n') {
        let colour = match line.as_bytes() {
            [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] => style.strong,
            [b'@', ..] => style.faint,
            [b'+', ..] => style.added,
            [b'-', ..] => style.removed,
            _ => "",
        };
        let reset = if colour.is_empty() { "" } else { style.reset };
        let (text, line_break) = line.strip_suffix('\n').map_or((line, ""), |text| (text, "\n"));
        out.extend([colour, text, reset, line_break]);
    }
    out
}

/// One line: what came of it, and what it took.
fn costs(rewriting: &Rewriting) -> String {
    let finish = &rewriting.finish;
    let mut parts = Vec::new();
    if rewriting.before == rewriting.after {
        parts.push("nothing to change".to_owned());
    }
    if rewriting.breaks_syntax {
        parts.push("the new lines have syntax errors".to_owned());
    }
    parts.push(format!("{} tokens written", finish.usage.generated_tokens));
    if let Some(tokens_per_second) = tokens_per_second(finish) {
        parts.push(format!("{tokens_per_second:.0} tokens/s"));
    }
    parts.push(format!(
        "{:.2} tokens per step",
        finish.speculation.tokens_per_step()
    ));
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn differences_are_those_that_patch_reads() {
        let difference = unified(Path::new("./src/a.rs"), "a\nb\nc\n", "a\nx\nc\n");
        expect![[r#"
            --- a/src/a.rs
            +++ b/src/a.rs
            @@ -1,3 +1,3 @@
             a
            -b
            +x
             c
        "#]]
        .assert_eq(&difference);
        assert_eq!(coloured(&difference, Style::new(false)), difference);
        assert_eq!(unified(Path::new("a"), "a", "a"), "");
    }
}
