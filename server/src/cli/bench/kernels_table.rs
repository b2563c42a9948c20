//! What `surmise bench --kernels` measured, as people read it.

use std::fmt::Write;

use crate::{
    bench::kernels::{Kernels, PROMPT_ROWS},
    cli::style::Style,
};

/// A line for each type of weights and each set of instructions.
pub(super) fn render(kernels: &Kernels, style: Style) -> String {
    let Style {
        faint, strong, reset, ..
    } = style;
    let rows = kernels.products.first().map_or(&[][..], |it| &it.steps);
    let mut out = format!(
        "{strong}{:<9}{:<15}{:>9}{:>11}",
        "weights", "instructions", "1 row", "of memory"
    );
    for step in rows {
        let _ = write!(out, "{:>9}", format!("{} rows", step.n_rows));
    }
    let _ = writeln!(out, "{:>15}{reset}", format!("{PROMPT_ROWS} rows"));
    let mut last = "";
    for it in &kernels.products {
        let weights = if it.weights == last { "" } else { it.weights };
        last = it.weights;
        let _ = write!(
            out,
            "{weights:<9}{:<15}{:>9}{:>9.0} %",
            it.instructions,
            format!("{:.1} GB/s", it.bytes_per_second.median / 1e9),
            it.share_of_bandwidth * 100.0
        );
        for step in &it.steps {
            let _ = write!(out, "{:>9}", format!("{:.2} x", step.relative));
        }
        let _ = writeln!(
            out,
            "{:>15}",
            format!("{:.0} G/s", it.multiply_adds_per_second.median / 1e9)
        );
    }
    let n_rounds = || kernels.products.iter().map(|it| it.n_rounds);
    let _ = writeln!(
        out,
        "{faint}medians of {} to {} rounds, {} threads; rows cost so many times one row; the last column counts multiplications with their additions{reset}",
        n_rounds().min().unwrap_or(0),
        n_rounds().max().unwrap_or(0),
        kernels.n_threads
    );
    out
}
