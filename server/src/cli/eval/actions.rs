//! `surmise eval --actions`: how often what menus offer comes to something.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{IsTerminal, Write},
    path::Path,
};

use serde_json::json;

use crate::{
    bench::spread::quantile,
    cli::{CliError, EvalArgs, progress, settings, style::Style},
    eval::action::{ActionOutcome, ActionResult, offered, try_action},
    model,
};

pub(super) fn run(args: &EvalArgs, folder: &Path) -> Result<i32, CliError> {
    let config = settings(args.model.layer())?;
    let engine = model::load(&config)?;
    let places = offered(folder, args.holes, args.seed, engine.info().rewrite).map_err(|source| {
        CliError::ReadFile {
            path: folder.to_owned(),
            source,
        }
    })?;
    if places.is_empty() {
        return Err(CliError::NoCode(folder.to_owned()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut outcomes = Vec::new();
    for (idx, place) in places.iter().enumerate() {
        progress(&format!("place {} of {}", idx + 1, places.len()));
        outcomes.push(runtime.block_on(try_action(&engine, folder, config.engine.speculation(), place)));
    }
    progress("");
    let mut out = std::io::stdout().lock();
    if args.json {
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": engine.info().model_name,
            "places": outcomes,
        });
        writeln!(out, "{report:#}")?;
    } else {
        let style = Style::new(out.is_terminal());
        write!(out, "{}", text(&engine.info().model_name, &outcomes, style))?;
    }
    Ok(0)
}

fn text(model: &str, outcomes: &[ActionOutcome], style: Style) -> String {
    let Style {
        strong, faint, reset, ..
    } = style;
    let mut out = format!(
        "{strong}{model}, actions where they are offered{reset}\n\n\
         {strong}{:<18}{:>8}{:>9}{:>10}{:>11}{:>9}{:>6}{reset}\n",
        "action", "places", "applied", "complete", "unchanged", "refused", "ms"
    );
    let mut groups: BTreeMap<&str, Vec<&ActionOutcome>> = BTreeMap::new();
    for outcome in outcomes {
        groups.entry(outcome.action).or_default().push(outcome);
    }
    for (name, group) in groups.into_iter().chain([("all", outcomes.iter().collect())]) {
        let count = |results: &[ActionResult]| group.iter().filter(|it| results.contains(&it.result)).count();
        let mut elapsed: Vec<f64> = group.iter().map(|it| it.elapsed_ms).collect();
        elapsed.sort_by(f64::total_cmp);
        // `write!` to a string cannot fail.
        let _ = writeln!(
            out,
            "{name:<18}{:>8}{:>9}{:>10}{:>11}{:>9}{:>6.0}",
            group.len(),
            count(&[ActionResult::Applied, ActionResult::Complete]),
            count(&[ActionResult::Complete]),
            count(&[ActionResult::Unchanged]),
            count(&[ActionResult::Refused]),
            quantile(&elapsed, 0.5),
        );
    }
    let _ = writeln!(
        out,
        "\n{faint}complete: the action finds nothing more to do there; refused: it would have changed what it must leave alone, broken\n\
         the syntax or come to no end, in all of its wordings; ms: median{reset}"
    );
    out
}
