//! What a drafter with a network of its own is: it sees the steps of the target and drafts for many sequences at once.

use super::drafter::{Draft, DrafterKind};
use crate::error::EngineError;

/// As many sequences as usually run have their places in a step's lists without memory from the system.
pub(crate) const USUAL_RUNNING: usize = 32;

/// Drafts by running a network that is smaller than the target.
///
/// Sequences are told apart by numbers that the engine gives them.
pub trait NetworkDrafter: Send {
    /// Which one it is, for counts and for people.
    fn kind(&self) -> DrafterKind;

    /// As [`Model::settle_threads`](crate::model::Model::settle_threads).
    fn settle_threads(&self) {}

    /// Layers of the target whose residual streams it reads: what [`observe`](Self::observe) is given, in this order.
    fn captured_layers(&self) -> &[usize] {
        &[]
    }

    /// Begins a sequence, whose prompt is `tokens`; returns how many positions it remembers from earlier ones. The others
    /// must be observed, if it reads anything of the target.
    fn open(&mut self, sequence: u64, tokens: &[u32]) -> usize {
        let _ = (sequence, tokens);
        usize::MAX
    }

    /// Takes in that the target has run the positions of `tokens` from `first` on: `captured` is `(positions, layers,
    /// hidden)`. The last token follows those positions, if it is known already.
    ///
    /// # Errors
    /// Those of its network; the engine then goes on without it.
    fn observe(
        &mut self,
        sequence: u64,
        tokens: &[u32],
        first: usize,
        captured: &[f32],
    ) -> Result<(), EngineError> {
        let _ = (sequence, tokens, first, captured);
        Ok(())
    }

    /// Drafts for every task, in passes that all of them share.
    ///
    /// # Errors
    /// Those of its network; the engine then goes on without it.
    fn draft(&mut self, tasks: &mut [DraftTask<'_>]) -> Result<(), EngineError>;

    /// Forgets a sequence, if there is one of this number.
    fn close(&mut self, sequence: u64);
}

/// A draft that is wanted.
#[derive(Debug)]
pub struct DraftTask<'a> {
    /// Number of the sequence.
    pub sequence: u64,
    /// The prompt and the generated tokens.
    pub tokens: &'a [u32],
    /// Longest path from the root to a leaf.
    pub max_len: usize,
    /// A path is not followed further where its probability falls below this.
    pub min_reach: f32,
    /// Takes the draft; empty at first.
    pub draft: &'a mut Draft,
}
