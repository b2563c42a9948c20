//! Models and drafters that the tests of speculation put around others.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use std::{sync::Arc, thread, time::Duration};

use surmise_engine::{
    Answer, EngineError,
    kv_cache::KvCache,
    model::{Batch, Model, ModelConfig, scripted::ScriptedModel},
    speculative::{
        draft_model::DraftModel,
        drafter::{Draft, DrafterKind, Evidence},
        network::{DraftTask, NetworkDrafter},
    },
    tokenizer::Tokenizer,
};

/// Ids and probabilities of an answer, bit by bit.
pub fn bits(answer: &Answer) -> Vec<(u32, u32)> {
    let tokens = answer.tokens.iter();
    tokens.map(|it| (it.id, it.logprob.to_bits())).collect()
}

/// The text with some characters changed, as an edit or another version of a file would have it.
pub fn disturbed(text: &str) -> String {
    let changed = text.chars().enumerate().map(|(idx, char)| match idx % 23 {
        7 => '_',
        _ => char,
    });
    changed.collect()
}

/// A drafter that runs `model`, whose tokens are `own`, for a target with `vocab` of the tokens of `target`.
pub fn draft_model(
    model: ScriptedModel,
    own: &Arc<Tokenizer>,
    target: &Arc<Tokenizer>,
    vocab: usize,
) -> Box<dyn NetworkDrafter> {
    let cache = KvCache::new(model.config(), 1000);
    let (own, target) = (Arc::clone(own), Arc::clone(target));
    Box::new(DraftModel::new(Box::new(model), own, cache, target, vocab))
}

/// Characters that [`retelling`] has to see to know what comes next, and that it writes then.
const PIECE: usize = 12;

/// A model that has read `texts` and goes on as they do, but for an exclamation mark now and then.
pub fn retelling(tokenizer: &Arc<Tokenizer>, texts: &[String]) -> ScriptedModel {
    let mut replies: Vec<(String, String)> = Vec::new();
    for text in texts {
        let chars: Vec<char> = text.chars().collect();
        let mut pieces = chars.chunks(PIECE).map(String::from_iter).peekable();
        while let (Some(piece), Some(next)) = (pieces.next(), pieces.peek()) {
            let mut reply = next.clone();
            if replies.len() % 3 == 2 {
                reply.pop();
                reply.push('!');
            }
            replies.push((piece, reply));
        }
    }
    let replies: Vec<(&str, &str)> = replies.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    ScriptedModel::replay(Arc::clone(tokenizer), &replies).unwrap()
}

/// Knows what is to come, and drafts trees in which the right token is one of several, or none. It stands for an EAGLE-3
/// head that was trained.
pub struct Knowing {
    /// Prompts with their answers.
    texts: Vec<Vec<u32>>,
    vocab: u32,
}

/// Nodes of its trees, root not counted.
const TREE_NODES: usize = 20;

impl Knowing {
    pub fn new(texts: Vec<Vec<u32>>, vocab: usize) -> Self {
        let vocab = vocab as u32;
        Self { texts, vocab }
    }
}

impl NetworkDrafter for Knowing {
    fn kind(&self) -> DrafterKind {
        DrafterKind::Eagle3
    }

    fn draft(&mut self, tasks: &mut [DraftTask<'_>]) -> Result<(), EngineError> {
        for task in tasks {
            if let Some(text) = self.texts.iter().find(|it| it.starts_with(task.tokens)) {
                let rest = &text[task.tokens.len()..];
                grow(rest, task.tokens.len(), self.vocab, task);
            }
        }
        Ok(())
    }

    fn close(&mut self, _sequence: u64) {}
}

fn grow(rest: &[u32], position: usize, vocab: u32, task: &mut DraftTask<'_>) {
    let evidence = Evidence::of_probability(0.5);
    let mut at = None;
    for (depth, &right) in rest.iter().take(task.max_len).enumerate() {
        let random = hash((position + depth) as u64);
        let right_sibling = (random >> 8) as u32 % 4;
        let mut next = None;
        for sibling in 0..1 + random as u32 % 4 {
            if task.draft.len() == TREE_NODES {
                return;
            }
            let is_right = sibling == right_sibling;
            let token = if is_right {
                right
            } else {
                (right + 1 + sibling) % vocab
            };
            let node = task.draft.push_after(at, token, evidence);
            next = next.or(is_right.then_some(node));
        }
        // Where the right one is missing, the tree goes on after a wrong one.
        at = next.or(Some(task.draft.len() - 1));
    }
}

/// Drafts trees of three levels: after each token its likeliest two, and one that need not be likely.
pub struct Branching {
    /// Scores after each token.
    pub logits: Vec<Vec<f32>>,
}

impl Branching {
    fn push_children(
        &self,
        parent: Option<usize>,
        token: u32,
        salt: usize,
        draft: &mut Draft,
    ) -> Vec<(usize, u32)> {
        let logits = &self.logits[token as usize];
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        ids.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let any = 2 + hash(salt as u64) as usize % (ids.len() - 2);
        let children = [ids[any], ids[0], ids[1]].map(|id| id as u32);
        let evidence = Evidence::of_probability(0.5);
        children
            .map(|id| (draft.push_after(parent, id, evidence), id))
            .to_vec()
    }
}

impl NetworkDrafter for Branching {
    fn kind(&self) -> DrafterKind {
        DrafterKind::Eagle3
    }

    fn draft(&mut self, tasks: &mut [DraftTask<'_>]) -> Result<(), EngineError> {
        for task in tasks {
            let Some(&last) = task.tokens.last() else { continue };
            let mut level = vec![(None, last)];
            for depth in 0..task.max_len.min(3) {
                let salt = task.tokens.len() * 3 + depth;
                let children = level
                    .iter()
                    .flat_map(|&(parent, token)| self.push_children(parent, token, salt, task.draft));
                level = children.map(|(node, token)| (Some(node), token)).collect();
            }
        }
        Ok(())
    }

    fn close(&mut self, _sequence: u64) {}
}

fn hash(number: u64) -> u64 {
    let mixed = (number ^ number >> 30)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 27
}

/// A model that is wrong about what follows every fifth position: a drafter that is mostly right.
pub struct Forgetful<M>(pub M);

impl<M: Model> Model for Forgetful<M> {
    fn config(&self) -> &ModelConfig {
        self.0.config()
    }

    fn forward(
        &mut self,
        batch: Batch<'_>,
        cache: &mut KvCache,
        logits: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        self.0.forward(batch, cache, logits)?;
        let vocab = self.config().vocab;
        let wanted = batch.rows.iter().filter(|row| row.wants_logits);
        for (row, logits) in wanted.zip(logits.chunks_exact_mut(vocab)) {
            if row.position() % 5 == 4 {
                logits.iter_mut().for_each(|logit| *logit = -*logit);
            }
        }
        Ok(())
    }
}

/// A model whose passes take some milliseconds whatever their width: on it every draft pays.
pub struct Slow<M>(pub M);

impl<M: Model> Model for Slow<M> {
    fn config(&self) -> &ModelConfig {
        self.0.config()
    }

    fn forward(
        &mut self,
        batch: Batch<'_>,
        cache: &mut KvCache,
        logits: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        thread::sleep(Duration::from_millis(4));
        self.0.forward(batch, cache, logits)
    }

    fn capture(&mut self, layers: &[usize]) -> Result<(), EngineError> {
        self.0.capture(layers)
    }

    fn captured(&self) -> &[f32] {
        self.0.captured()
    }
}
