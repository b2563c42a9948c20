//! What `surmise bench --speculation` measured, as people read it.

use std::fmt::Write;

use super::table::{count, thousands};
use crate::{bench::speculation::SpeculationReport, cli::style::Style};

/// Tables for a terminal: speeds by workload, then what the drafters did in each.
pub(super) fn render(report: &SpeculationReport, style: Style) -> String {
    let Style {
        faint, strong, reset, ..
    } = style;
    let mut out = format!(
        "{strong}{:<15}{:>6}{:>10}{:>13}{:>8}{:>9}{:>13}{reset}\n",
        "tokens/s", "tasks", "plain", "speculative", "gain", "", "tokens/step"
    );
    for workload in &report.workloads {
        let counts = &workload.counts;
        // `write!` to a string cannot fail.
        let _ = writeln!(
            out,
            "{:<15}{:>6}{:>10}{:>13}{:>7.2}x {faint}± {:<4.0}%{reset} {:>13.2}",
            name(workload.name, workload.is_dictated),
            workload.n_tasks,
            thousands(workload.plain_tokens_per_second.median),
            thousands(workload.tokens_per_second.median),
            workload.gain.median,
            workload.gain.relative() * 100.0,
            counts.emitted as f64 / counts.steps.max(1) as f64
        );
    }
    if let Some(gain) = report.gain_on_edits() {
        let _ = writeln!(
            out,
            "{:<15}{:>6}{:>10}{:>13}{gain:>7.2}x",
            "all edits", "", "", ""
        );
    }
    let _ = writeln!(
        out,
        "\n{strong}{:<15}{:<15}{:>7}{:>10}{:>10}{:>11}{:>7}{:>13}{reset}",
        "drafters", "", "steps", "proposed", "accepted", "recovered", "bonus", "tokens/step"
    );
    for workload in &report.workloads {
        for drafter in &workload.counts.drafters {
            let _ = writeln!(
                out,
                "{:<15}{:<15}{:>7}{:>10}{:>10}{:>11}{:>7}{:>13.2}",
                workload.name,
                drafter.name,
                drafter.steps,
                drafter.proposed,
                drafter.accepted,
                drafter.recovered,
                drafter.bonus,
                drafter.tokens_per_step
            );
        }
    }
    let _ = writeln!(
        out,
        "\n{strong}{:<15}{:>9}{:>9}{:>9}{reset}",
        "milliseconds", "draft", "verify", "commit"
    );
    for workload in &report.workloads {
        let counts = &workload.counts;
        let _ = writeln!(
            out,
            "{:<15}{:>9.1}{:>9.1}{:>9.1}",
            workload.name, counts.draft_ms, counts.verify_ms, counts.commit_ms
        );
    }
    let _ = writeln!(
        out,
        "\n{faint}{}: medians of {}, plain and speculative in turns; * the answer is given, the passes are real{reset}",
        report.model,
        count(report.n_rounds, "round", "rounds").trim_start()
    );
    out
}

fn name(name: &str, is_dictated: bool) -> String {
    if is_dictated {
        format!("{name} *")
    } else {
        name.to_owned()
    }
}
