//! Verification: which draft tokens the target would have picked itself.
//!
//! One forward pass gives the target's logits after the last token and after each draft token. Row by row, the
//! sampler picks from the target exactly as it would without drafts: same logits (a row's logits do not depend on
//! the rows beside it), same history, same random number (it belongs to the token's index). While the picked token
//! is the drafted one, the next row is valid too. So text and random numbers equal plain decoding's, greedy or not.
//!
//! For sampling, this is the rejection rule of Leviathan et al. 2023 (Algorithm 1) and Chen et al. 2023 with a
//! draft that is certain of each token (q is a point mass at x): x is kept with probability p(x), and otherwise
//! the pick is distributed as p without x, renormalised, because it is a pick from p that is known not to be x.

use crate::{error::EngineError, logits::History, sequence::Sequence};

impl Sequence {
    /// Picks tokens from `logits`, `(1 + draft length, vocab)`, up to the first that was not drafted, and emits them.
    /// Returns how many draft tokens were kept: their rows in the KV cache are right.
    ///
    /// # Errors
    /// [`EngineError::BadLogits`] as from the sampler.
    pub(crate) fn verify(&mut self, logits: &[f32]) -> Result<usize, EngineError> {
        let draft_len = self.speculator.proposed().len();
        let n_before = self.tokens.len();
        let vocab = logits.len() / (draft_len + 1);
        let mut n_accepted = 0;
        for row in logits.chunks_exact(vocab) {
            let history = History {
                tokens: &self.tokens,
                prompt_len: self.prompt_len,
            };
            let picked = self.sampler.pick(row, history)?;
            let is_drafted = self.speculator.proposed().get(n_accepted) == Some(&picked.id);
            let goes_on = self.emit(picked, is_drafted);
            if !is_drafted {
                break;
            }
            // A drafted stop token is right too, but it does not become part of the sequence.
            n_accepted = self.tokens.len() - n_before;
            if !goes_on {
                break;
            }
        }
        let n_emitted = self.tokens.len() - n_before;
        self.speculator.learn(&self.tokens[n_before..]);
        let stats = &mut self.speculator.stats;
        stats.proposed += draft_len;
        stats.accepted += n_accepted;
        stats.emitted += n_emitted;
        if draft_len > 0 && n_emitted > n_accepted {
            if n_accepted == draft_len {
                stats.bonus += 1;
            } else {
                stats.recovered += 1;
            }
        }
        Ok(n_accepted)
    }
}
