//! What a drafter is: something that guesses the next tokens cheaply.

/// Guesses the next tokens of one sequence.
///
/// A draft costs nothing but time if it is wrong, so a drafter may guess as it likes. It must be
/// deterministic: the same tokens give the same draft.
pub trait Drafter: Send {
    /// Proposes at most `max_len` tokens that may follow `tokens`, in place of what `draft` holds; none if it has
    /// nothing to say.
    ///
    /// `tokens` are the prompt and the generated tokens. Between calls they only grow, because rejected drafts
    /// never become part of them.
    fn draft(&mut self, tokens: &[u32], max_len: usize, draft: &mut Draft);
}

/// Proposed tokens, and the evidence for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    /// Tokens in order.
    pub tokens: Vec<u32>,
    /// How many tokens before the draft agreed with the place it was taken from. Acceptance is measured
    /// separately for short and long matches.
    pub match_len: usize,
}

impl Draft {
    /// Forgets the proposal and keeps the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.match_len = 0;
    }
}
