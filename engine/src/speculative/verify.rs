//! Verification: which draft tokens the target would have picked itself.
//!
//! One forward pass gives the target's logits after the last token and after each draft token. From the root down, the
//! sampler picks from the target exactly as it would without drafts: same logits (a row's logits do not depend on
//! the rows beside it), same history, same random number (it belongs to the token's index). While the picked token
//! is among those drafted there, its row is valid too. So text and random numbers equal plain decoding's, greedy or not.
//!
//! For sampling, this is the rejection rule of Leviathan et al. 2023 (Algorithm 1) and Chen et al. 2023 with a
//! draft that is certain of each token (q is a point mass at x): x is kept with probability p(x), and otherwise
//! the pick is distributed as p without x, renormalised, because it is a pick from p that is known not to be x. With
//! several candidates for one place it is the rule of EAGLE's trees: each is kept with its own probability, and the
//! pick is distributed as p without all of them otherwise.

use crate::{error::EngineError, logits::History, sequence::Sequence};

impl Sequence {
    /// Picks tokens from `logits`, `(1 + draft length, vocab)`, up to the first that was not drafted, and emits them.
    /// Leaves in `kept`, which must be empty, the draft's nodes that were kept, from the root down: their rows in the KV cache are
    /// right.
    ///
    /// # Errors
    /// As the sampler's.
    pub(crate) fn verify(&mut self, logits: &[f32], kept: &mut Vec<usize>) -> Result<(), EngineError> {
        let n_before = self.tokens.len();
        let draft_len = self.speculator.proposed().len();
        let vocab = logits.len() / (draft_len + 1);
        self.make_room_for(draft_len + 1);
        let mut at = None;
        let has_more = loop {
            let row = at.map_or(0, |node: usize| node + 1);
            let history = History {
                tokens: &self.tokens,
                prompt_len: self.prompt_len,
            };
            let picked = self.sampler.pick(&logits[row * vocab..][..vocab], history)?;
            let drafted = self.speculator.proposed().child(at, picked.id);
            let has_children = self.speculator.proposed().children(at).next().is_some();
            let drafter = drafted.and_then(|_| self.speculator.proposed_by());
            let goes_on = self.emit(picked, drafter);
            let Some(node) = drafted else {
                break has_children;
            };
            // A drafted stop token is right too, but it does not become part of the sequence.
            if self.tokens.len() > n_before + kept.len() {
                kept.push(node);
            }
            if !goes_on {
                break false;
            }
            at = drafted;
        };
        let n_emitted = self.tokens.len() - n_before;
        self.speculator.learn(&self.tokens[n_before..]);
        let drafter = self.speculator.proposed_by();
        let stats = &mut self.speculator.stats;
        stats.emitted += n_emitted;
        if let Some(drafter) = drafter {
            let stats = stats.of_mut(drafter);
            let has_own = n_emitted > kept.len();
            stats.steps += 1;
            stats.proposed += draft_len;
            stats.accepted += kept.len();
            stats.recovered += usize::from(has_own && has_more);
            stats.bonus += usize::from(has_own && !has_more);
        }
        Ok(())
    }
}
