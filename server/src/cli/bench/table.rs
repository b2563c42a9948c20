//! Rows of measurements, each with its spread and a bar, and numbers in the units that suit them.

use std::fmt::Write;

use crate::{bench::spread::Spread, cli::style::Style};

/// Width of the longest bar, in characters.
const BAR: usize = 24;

/// Rows under a heading.
pub(super) struct Section<'a> {
    pub(super) out: &'a mut String,
    pub(super) style: Style,
}

impl Section<'_> {
    pub(super) fn heading(&mut self, what: &str, unit: &str) {
        let Style { strong, reset, .. } = self.style;
        let _ = writeln!(self.out, "\n{strong}{what:<14}{unit:>10}{reset}");
    }

    /// A row; `bar` is from 0 to 1.
    pub(super) fn row(
        &mut self,
        label: &str,
        value: &Spread,
        number: fn(f64) -> String,
        bar: f64,
        note: &str,
    ) {
        let Style {
            ghost, faint, reset, ..
        } = self.style;
        let spread = format!("± {:.0} %", value.relative() * 100.0);
        let bar = "█".repeat((bar * BAR as f64).round() as usize);
        let pad = if bar.is_empty() { 0 } else { BAR };
        let line = format!(
            "  {label:<12}{:>10}  {faint}{spread:<7}{reset}{ghost}{bar:<pad$}{reset} {note}",
            number(value.median)
        );
        let _ = writeln!(self.out, "{}", line.trim_end());
    }
}

pub(super) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n:>2} {}", if n == 1 { one } else { many })
}

pub(super) fn millis(value: f64) -> String {
    format!("{value:.*}", if value < 10.0 { 3 } else { 1 })
}

/// `12345.6` as `12,346`, `12.34` as `12.3`.
pub(super) fn thousands(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the unit that suits them.
pub(super) fn bytes(n: usize) -> String {
    let mebibytes = n as f64 / f64::from(1 << 20);
    if mebibytes < 10.0 {
        format!("{mebibytes:.1} MiB")
    } else {
        format!("{mebibytes:.0} MiB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.5, 99.96, 100.4, 1234.5, 1234567.0].map(thousands),
            ["0.5", "100.0", "100", "1,234", "1,234,567"]
        );
        assert_eq!(
            [5 << 20, 600 << 20].map(bytes),
            ["5.0 MiB".to_owned(), "600 MiB".to_owned()]
        );
    }
}
