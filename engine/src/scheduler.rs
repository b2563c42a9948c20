//! Continuous batching: how many rows each running sequence gets in a step. A pure function of what is pending.

/// How wide a step may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepLimits {
    /// Most prompt rows in a step in which nothing decodes.
    pub prefill_rows: usize,
    /// Most rows of long prompts in a step in which other sequences decode: a running answer waits for them at each token.
    pub prefill_rows_beside_decode: usize,
}

/// Longest prompt that is read beside running answers as fast as without: more than a completion has.
const SHORT_PROMPT: usize = 2048;

impl Default for StepLimits {
    fn default() -> Self {
        Self {
            prefill_rows: 256,
            prefill_rows_beside_decode: 128,
        }
    }
}

/// Shares one step out: `pending[i]` tokens of sequence `i` are not in the KV cache yet; `rows[i]` will be how many
/// of them are run, in place of what `rows` holds.
///
/// A sequence with one pending token is decoding and always gets its row. The others share the prefill rows
/// evenly, and what the short ones leave over goes to the long ones (max-min fairness). So a completion of a few
/// dozen rows is through in one step beside a long chat, and the chat still moves on. Somebody who types waits for the first token
/// of a completion, so that a running answer costs it no step.
pub(crate) fn share_rows(pending: &[usize], limits: StepLimits, rows: &mut Vec<usize>) {
    let n_decoding = pending.iter().filter(|&&it| it == 1).count();
    let has_short_prompt = pending.iter().any(|it| (2..=SHORT_PROMPT).contains(it));
    let mut left = if n_decoding == 0 || has_short_prompt {
        limits.prefill_rows
    } else {
        limits.prefill_rows_beside_decode
    };
    let mut n_waiting = pending.len() - n_decoding;
    rows.clear();
    rows.extend(pending.iter().map(|&it| usize::from(it == 1)));
    while n_waiting > 0 {
        let share = left / n_waiting;
        // Whoever needs no more than the share gets it all; if nobody does, everybody gets the share.
        let n_before = n_waiting;
        for (row_count, &pending) in rows.iter_mut().zip(pending) {
            if *row_count == 0 && pending <= share {
                *row_count = pending;
                left -= pending;
                n_waiting -= 1;
            }
        }
        if n_waiting < n_before {
            continue;
        }
        // The oldest come first, so the rows that do not divide evenly go to them.
        for row_count in rows.iter_mut().filter(|it| **it == 0) {
            *row_count = left.div_ceil(n_waiting);
            left -= *row_count;
            n_waiting -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pending: &[usize], expected: &[usize]) {
        let limits = StepLimits {
            prefill_rows: 100,
            prefill_rows_beside_decode: 40,
        };
        let mut rows = vec![7; 3];
        share_rows(pending, limits, &mut rows);
        assert_eq!(rows, expected);
    }

    #[test]
    fn one_prompt_gets_the_whole_chunk() {
        check(&[], &[]);
        check(&[30], &[30]);
        check(&[1000], &[100]);
    }

    #[test]
    fn decoding_sequences_always_get_their_row() {
        check(&[1, 1, 1], &[1, 1, 1]);
        check(&[1, 5000, 1], &[1, 40, 1]);
    }

    #[test]
    fn a_short_prompt_is_read_as_fast_beside_an_answer() {
        check(&[1, 1000, 1], &[1, 100, 1]);
        check(&[1, 1000, 5000], &[1, 50, 50]);
    }

    #[test]
    fn short_prompts_are_through_beside_long_ones() {
        check(&[1000, 20], &[80, 20]);
        check(&[1000, 1000, 20, 5], &[38, 37, 20, 5]);
        check(&[1, 5000, 15], &[1, 85, 15]);
    }

    #[test]
    fn more_prompts_than_rows() {
        let limits = StepLimits {
            prefill_rows: 2,
            prefill_rows_beside_decode: 2,
        };
        let mut rows = Vec::new();
        share_rows(&[10, 10, 10], limits, &mut rows);
        assert_eq!(rows, [1, 1, 0]);
    }
}
