//! Continuous batching: how many rows each running sequence gets in a step. A pure function of what is pending.

/// How wide a step may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepLimits {
    /// Most prompt rows in a step in which nothing decodes.
    pub prefill_rows: usize,
    /// Most rows of long prompts in a step in which other sequences decode: a running answer waits for them at each token.
    pub prefill_rows_beside_decode: usize,
}

impl Default for StepLimits {
    fn default() -> Self {
        Self {
            prefill_rows: 256,
            prefill_rows_beside_decode: 128,
        }
    }
}

/// What of a running sequence is not in the KV cache yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pending {
    /// One token while it decodes, more while its prompt is read.
    pub(crate) n_tokens: usize,
    /// Whether somebody waits for it at each key.
    pub(crate) is_urgent: bool,
}

/// Shares one step out: `pending[i]` is what is left to run of sequence `i`; `rows[i]` will be how many tokens of it
/// are run, in place of what `rows` holds.
///
/// A sequence with one pending token is decoding and always gets its row. Of prompts, the urgent ones come first, in steps as wide as
/// if nothing ran beside them; the others share what rows are left. Within either kind shares are even, and what the short ones leave
/// over goes to the long ones (max-min fairness). So somebody who types waits for the own prompt only, and chats move on meanwhile.
pub(crate) fn share_rows(pending: &[Pending], limits: StepLimits, rows: &mut Vec<usize>) {
    let is_prompt = |it: &Pending| it.n_tokens > 1;
    rows.clear();
    rows.extend(pending.iter().map(|it| usize::from(it.n_tokens == 1)));
    let is_decoding = rows.contains(&1);
    let n_urgent_rows = share_among(
        pending,
        |it| is_prompt(it) && it.is_urgent,
        limits.prefill_rows,
        rows,
    );
    let limit = if is_decoding {
        limits.prefill_rows_beside_decode
    } else {
        limits.prefill_rows
    };
    let left = limit.saturating_sub(n_urgent_rows);
    share_among(pending, |it| is_prompt(it) && !it.is_urgent, left, rows);
}

/// Shares `left` rows out among the sequences that are `meant`, and returns how many they took.
fn share_among(
    pending: &[Pending],
    meant: impl Fn(&Pending) -> bool,
    mut left: usize,
    rows: &mut [usize],
) -> usize {
    let limit = left;
    let mut n_waiting = pending.iter().filter(|it| meant(it)).count();
    while n_waiting > 0 {
        let share = left / n_waiting;
        let waiting = || {
            pending
                .iter()
                .zip(&*rows)
                .filter(|(it, rows)| meant(it) && **rows == 0)
        };
        // Whoever needs no more than the share gets it all; if nobody does, everybody gets the share. The oldest come first, so
        // the rows that do not divide evenly go to them.
        let some_need_less = share > 0 && waiting().any(|(it, _)| it.n_tokens <= share);
        for (it, row_count) in pending.iter().zip(&mut *rows) {
            if !meant(it) || *row_count > 0 || some_need_less && it.n_tokens > share {
                continue;
            }
            *row_count = if some_need_less {
                it.n_tokens
            } else {
                left.div_ceil(n_waiting)
            };
            left -= *row_count;
            n_waiting -= 1;
        }
    }
    limit - left
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Negative numbers stand for urgent prompts.
    #[track_caller]
    fn check(pending: &[isize], expected: &[usize]) {
        let limits = StepLimits {
            prefill_rows: 100,
            prefill_rows_beside_decode: 40,
        };
        check_with(limits, pending, expected);
    }

    #[track_caller]
    fn check_with(limits: StepLimits, pending: &[isize], expected: &[usize]) {
        let pending: Vec<Pending> = pending
            .iter()
            .map(|it| Pending {
                n_tokens: it.unsigned_abs(),
                is_urgent: *it < 0,
            })
            .collect();
        let mut rows = vec![7; 3];
        share_rows(&pending, limits, &mut rows);
        assert_eq!(rows, expected);
    }

    #[test]
    fn one_prompt_gets_the_whole_chunk() {
        check(&[], &[]);
        check(&[30], &[30]);
        check(&[1000], &[100]);
        check(&[-1000], &[100]);
    }

    #[test]
    fn decoding_sequences_always_get_their_row() {
        check(&[1, 1, -1], &[1, 1, 1]);
        check(&[1, 5000, 1], &[1, 40, 1]);
    }

    #[test]
    fn an_urgent_prompt_is_read_as_if_nothing_ran_beside_it() {
        check(&[1, -1000, 1], &[1, 100, 1]);
        check(&[1, -1000, 5000], &[1, 100, 0]);
        check(&[5000, 5000, -1000], &[0, 0, 100]);
        check(&[5000, -30, -1000], &[0, 30, 70]);
        check(&[5000, -30], &[70, 30]);
        check(&[1, 5000, -30], &[1, 10, 30]);
        check(&[1, 5000, -50], &[1, 0, 50]);
    }

    #[test]
    fn short_prompts_are_through_beside_long_ones() {
        check(&[1000, 20], &[80, 20]);
        check(&[1000, 1000, 20, 5], &[38, 37, 20, 5]);
        check(&[1, 5000, 15], &[1, 25, 15]);
    }

    #[test]
    fn more_prompts_than_rows() {
        let limits = StepLimits {
            prefill_rows: 2,
            prefill_rows_beside_decode: 2,
        };
        check_with(limits, &[10, 10, 10], &[1, 1, 0]);
        check_with(limits, &[10, -10, -10, -10], &[0, 1, 1, 0]);
    }
}
