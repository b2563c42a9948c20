//! `surmise eval --edits FILE`: how many small edits come out as they should, by kind and by language.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    path::Path,
};

use serde_json::json;

use crate::{
    bench::spread::quantile,
    cli::{CliError, EvalArgs, progress, settings, style::Style},
    eval::edit::{EditOutcome, read_edits, try_edit},
    model,
};

pub(super) fn run(args: &EvalArgs, path: &Path) -> Result<i32, CliError> {
    let config = settings(args.model.layer())?;
    let edits = read_edits(path, config.engine.speculation()).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => CliError::BadCases {
            path: path.to_owned(),
            reason: source.to_string(),
        },
        _ => CliError::ReadFile {
            path: path.to_owned(),
            source,
        },
    })?;
    let engine = model::load(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut outcomes = Vec::new();
    for (idx, edit) in edits.iter().enumerate() {
        progress(&format!("edit {} of {}", idx + 1, edits.len()));
        outcomes.push(runtime.block_on(try_edit(&engine, edit)));
    }
    progress("");
    let mut out = std::io::stdout().lock();
    if args.json {
        let n_exact = outcomes.iter().filter(|it| it.is_exact).count();
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": engine.info().model_name,
            "n_edits": outcomes.len(),
            "n_exact": n_exact,
            "edits": outcomes,
        });
        writeln!(out, "{report:#}")?;
    } else {
        let style = Style::new(out.is_terminal());
        write!(out, "{}", text(&engine.info().model_name, &outcomes, style))?;
    }
    Ok(0)
}

fn text(model: &str, outcomes: &[EditOutcome], style: Style) -> String {
    let Style {
        strong, faint, reset, ..
    } = style;
    let mut out = format!("{strong}{model}, small edits{reset}\n");
    for (heading, key) in [
        ("kind", (|it| &it.kind) as fn(&EditOutcome) -> &str),
        ("language", |it| it.language),
    ] {
        let mut groups: BTreeMap<&str, Vec<&EditOutcome>> = BTreeMap::new();
        for outcome in outcomes {
            groups.entry(key(outcome)).or_default().push(outcome);
        }
        // `write!` to a string cannot fail.
        let _ = writeln!(
            out,
            "\n{strong}{heading:<18}{:>6}{:>8}{:>10}{:>12}{:>9}{reset}",
            "edits", "exact", "similar", "unchanged", "broken"
        );
        let all = outcomes.iter().collect();
        for (name, group) in groups.into_iter().chain([("all", all)]) {
            let count = |is: fn(&EditOutcome) -> bool| group.iter().filter(|it| is(it)).count();
            let similar = group.iter().map(|it| it.similarity).sum::<f64>() / group.len() as f64;
            let _ = writeln!(
                out,
                "{name:<18}{:>6}{:>8}{:>8.1} %{:>12}{:>9}",
                group.len(),
                count(|it| it.is_exact),
                similar * 100.0,
                count(|it| it.is_unchanged),
                count(|it| it.breaks_syntax || it.after.is_err()),
            );
        }
    }
    let mut elapsed: Vec<f64> = outcomes.iter().map(|it| it.elapsed_ms).collect();
    elapsed.sort_by(f64::total_cmp);
    let (steps, emitted) = outcomes
        .iter()
        .fold((0, 0), |sum, it| (sum.0 + it.steps.0, sum.1 + it.steps.1));
    let _ = writeln!(
        out,
        "\n{faint}an edit takes {:.0} ms (median); {:.2} tokens per step{reset}",
        quantile(&elapsed, 0.5),
        emitted as f64 / steps.max(1) as f64
    );
    out
}
