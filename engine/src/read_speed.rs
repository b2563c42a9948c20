//! How fast the model reads prompts on this machine, for whoever decides how long a prompt may be.

use std::time::Duration;

/// Rows from which on a step tells how fast prompts are read: narrower ones take longer for each row.
pub(crate) const WIDE: usize = 64;
/// Weight of a new measurement.
const RECENCY: f64 = 0.1;
/// What is told stays as it is until the measured speed is as many times as high or as low: a prompt of another size has to be read anew.
const TOLERANCE: f64 = 1.6;

/// Tokens of prompts per second, measured by the steps that read them.
#[derive(Debug, Default)]
pub(crate) struct ReadSpeed {
    /// Decayed mean of wide steps; before the first, the best of the narrow ones.
    measured: Option<f64>,
    has_wide: bool,
    told: Option<f64>,
}

impl ReadSpeed {
    /// Learns from a step that ran `n_rows` rows in `duration`; in a wide one, most of them without logits.
    pub(crate) fn record(&mut self, n_rows: usize, duration: Duration) {
        let is_wide = n_rows >= WIDE;
        if self.has_wide && !is_wide {
            return;
        }
        let speed = n_rows as f64 / duration.as_secs_f64().max(1e-9);
        let measured = match self.measured {
            Some(mean) if self.has_wide => mean + RECENCY * (speed - mean),
            Some(best) if !is_wide => best.max(speed),
            _ => speed,
        };
        let is_first_wide = is_wide && !self.has_wide;
        let has_moved = |told: f64| measured > told * TOLERANCE || measured * TOLERANCE < told;
        if is_first_wide || self.told.is_none_or(has_moved) {
            self.told = Some(measured);
        }
        self.measured = Some(measured);
        self.has_wide |= is_wide;
    }

    /// Tokens per second; `None` before anything is measured.
    pub(crate) fn tokens_per_second(&self) -> Option<usize> {
        self.told.map(|it| it as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn wide_steps_count_for_more_than_narrow_ones() {
        let mut speed = ReadSpeed::default();
        assert_eq!(speed.tokens_per_second(), None);
        speed.record(1, MS * 10);
        speed.record(8, MS * 20);
        speed.record(2, MS * 10);
        assert_eq!(speed.tokens_per_second(), Some(400));
        speed.record(256, MS * 128);
        assert_eq!(speed.tokens_per_second(), Some(2000));
        speed.record(8, MS * 20);
        assert_eq!(speed.tokens_per_second(), Some(2000));
    }

    #[test]
    fn what_is_told_moves_in_steps() {
        let mut speed = ReadSpeed::default();
        speed.record(100, MS * 100);
        speed.record(100, MS * 60);
        speed.record(100, MS * 160);
        assert_eq!(speed.tokens_per_second(), Some(1000));
        for _ in 0..60 {
            speed.record(100, MS * 50);
        }
        let told = speed.tokens_per_second();
        assert!(told.is_some_and(|it| (1600..2000).contains(&it)), "{told:?}");
    }
}
