//! What `surmise bench --startup` measured, as people read it.

use std::fmt::Write;

use crate::{
    bench::{spread::Spread, startup::Startup},
    cli::style::Style,
};

/// A few lines for a terminal.
pub(super) fn render(startup: &Startup, style: Style) -> String {
    let Style {
        faint, strong, reset, ..
    } = style;
    let mut out = format!(
        "{strong}{:<30}{:>9}{:>9}{:>13}{reset}\n",
        "milliseconds", "in all", "loading", "first token"
    );
    for (name, start) in [
        ("warm page cache", Some(&startup.warm)),
        ("cold page cache", startup.cold.as_ref()),
    ] {
        // `write!` to a string cannot fail.
        let _ = match start {
            Some(start) => writeln!(
                out,
                "  {name:<28}{:>9}{:>9}{:>13}",
                millis(&start.total_ms),
                millis(&start.load_ms),
                start
                    .first_token_ms
                    .as_ref()
                    .map_or_else(|| "no FIM".to_owned(), millis)
            ),
            None => writeln!(
                out,
                "  {name:<28}not measured: this system does not let go of cached files"
            ),
        };
    }
    let _ = writeln!(
        out,
        "  {:<28}{:>9}",
        "a process by itself",
        millis(&startup.process_ms)
    );
    let _ = writeln!(
        out,
        "{faint}medians of {} runs of `surmise complete --max-tokens 1`, start and end of the process included{reset}",
        startup.n_runs
    );
    out
}

fn millis(spread: &Spread) -> String {
    format!("{:.1}", spread.median)
}
