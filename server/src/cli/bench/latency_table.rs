//! What `surmise bench --latency` measured, as people read it.

use std::fmt::Write;

use crate::{
    bench::latency::{Latency, Percentiles},
    cli::{bench::table::thousands, style::Style},
};

/// A screenful for a terminal.
pub(super) fn render(latency: &Latency, style: Style) -> String {
    let Style {
        faint, strong, reset, ..
    } = style;
    let mut out = format!(
        "{} requests while typing in {} lines; {} more took no model: the rest of an earlier suggestion\n",
        latency.n_requests,
        thousands(latency.n_lines as f64),
        latency.n_reused,
    );
    // `write!` to a string cannot fail.
    let _ = writeln!(
        out,
        "\n{strong}{:<26}{:>9}{:>9}{:>9}{reset}",
        "milliseconds", "p50", "p95", "p99"
    );
    row(&mut out, "keystroke to answer", &latency.total_ms);
    row(&mut out, "without the engine", &latency.without_model_ms);
    let _ = writeln!(out, "{faint}of which{reset}");
    for stage in &latency.stages {
        row(&mut out, stage.name, &stage.ms);
    }
    let _ = writeln!(
        out,
        "\n{strong}{:<26}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{reset}",
        "after", "requests", "p50", "p95", "reused", "computed", "written"
    );
    for kind in &latency.kinds {
        let _ = writeln!(
            out,
            "  {:<24}{:>9}{:>9.1}{:>9.1}{:>9.0}{:>9.1}{:>9.1}",
            kind.name,
            kind.n_requests,
            kind.total_ms.p50,
            kind.total_ms.p95,
            kind.reused_tokens,
            kind.computed_tokens,
            kind.generated_tokens,
        );
    }
    let _ = writeln!(
        out,
        "{faint}reused, computed: tokens of the prompt, on average; written: tokens of the answer{reset}"
    );
    out
}

fn row(out: &mut String, name: &str, ms: &Percentiles) {
    let _ = writeln!(out, "  {name:<24}{:>9.2}{:>9.2}{:>9.2}", ms.p50, ms.p95, ms.p99);
}
