//! What a drafter is: something that guesses the next tokens cheaply.

use std::fmt;

use crate::model::Row;

/// Guesses the next tokens of one sequence.
///
/// A draft costs nothing but time if it is wrong, so a drafter may guess as it likes.
pub trait Drafter: Send {
    /// Which one it is, for counts and for people.
    fn kind(&self) -> DrafterKind;

    /// Proposes at most `max_len` tokens that may follow `tokens`, in place of what `draft` holds; none if it has
    /// nothing to say.
    ///
    /// `tokens` are the prompt, in the order in which its text reads, and the generated tokens. Between calls they only grow, because rejected drafts
    /// never become part of them.
    fn draft(&mut self, tokens: &[u32], max_len: usize, draft: &mut Draft);
}

/// All drafters there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DrafterKind {
    /// What followed the last time the sequence read like this: [`prompt_lookup`](super::prompt_lookup).
    PromptLookup,
    /// What copying says, where it is mixed into the target: [`copy`](crate::copy).
    Copy,
    /// What follows in other texts, such as open files: [`references`](super::references).
    References,
    /// What follows in the text that is being rewritten: [`edit`](super::edit).
    Edit,
    /// What a smaller model writes: [`draft_model`](super::draft_model).
    DraftModel,
    /// What a head makes of the target's own states: [`eagle3`](super::eagle3).
    Eagle3,
}

impl DrafterKind {
    /// In the order in which they are declared.
    pub const ALL: [Self; 6] = [
        Self::PromptLookup,
        Self::Copy,
        Self::References,
        Self::Edit,
        Self::DraftModel,
        Self::Eagle3,
    ];

    /// A name for people and files: lower case, words joined by `_`.
    pub fn name(self) -> &'static str {
        match self {
            Self::PromptLookup => "prompt_lookup",
            Self::Copy => "copy",
            Self::References => "references",
            Self::Edit => "edit",
            Self::DraftModel => "draft_model",
            Self::Eagle3 => "eagle3",
        }
    }
}

impl fmt::Display for DrafterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Proposed tokens: a tree whose root is the sequence's last token. A chain is a tree without branches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    nodes: Vec<DraftNode>,
}

/// One proposed token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DraftNode {
    /// The token.
    pub token: u32,
    /// Index of the node that it follows; the sequence's last token if there is none.
    pub parent: Option<usize>,
    /// How sure the drafter is, given that the parent is right.
    pub evidence: Evidence,
}

/// How sure a drafter is of a token, in classes for each of which acceptance is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence(u8);

impl Evidence {
    /// Classes.
    pub(crate) const N: usize = PRIOR_RATES.len();
    /// Class of the shortest match.
    const SHORT_MATCH: u8 = 3;

    /// Of a place before which `match_len` tokens agree.
    pub fn of_match(match_len: usize) -> Self {
        Self(Self::SHORT_MATCH + MATCH_LENGTHS.partition_point(|&most| most < match_len) as u8)
    }

    /// Of a token that the drafter itself gives this probability.
    pub fn of_probability(probability: f32) -> Self {
        let borders = PRIOR_RATES.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
        Self(borders.filter(|&border| f64::from(probability) > border).count() as u8)
    }

    /// Index of the class.
    pub(crate) fn class(self) -> usize {
        usize::from(self.0)
    }

    /// How often a token of the class is right: a guess until measured.
    pub(crate) fn prior_rate(self) -> f64 {
        PRIOR_RATES[self.class()]
    }
}

/// Longest match of each class but the last.
const MATCH_LENGTHS: [usize; 4] = [2, 4, 8, 16];
/// Share of tokens that are right. Matches have the last five classes.
pub(crate) const PRIOR_RATES: [f64; 8] = [0.03, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.85];

impl Draft {
    /// The tokens, parents before children.
    pub fn nodes(&self) -> &[DraftNode] {
        &self.nodes
    }

    /// Number of proposed tokens.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing is proposed.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Forgets the proposal and keeps the memory.
    pub fn clear(&mut self) {
        self.nodes.clear();
    }

    /// Proposes `token` after the last one proposed.
    pub fn push(&mut self, token: u32, evidence: Evidence) {
        let parent = self.nodes.len().checked_sub(1);
        self.push_after(parent, token, evidence);
    }

    /// Proposes `token` after `parent`, one of the nodes; returns its index.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn push_after(&mut self, parent: Option<usize>, token: u32, evidence: Evidence) -> usize {
        assert!(
            parent.is_none_or(|it| it < self.nodes.len()),
            "parents come first"
        );
        self.nodes.push(DraftNode {
            token,
            parent,
            evidence,
        });
        self.nodes.len() - 1
    }

    /// Whether each token follows the one before it.
    pub fn is_chain(&self) -> bool {
        let mut nodes = self.nodes.iter().enumerate();
        nodes.all(|(idx, node)| node.parent == idx.checked_sub(1))
    }

    /// The nodes that follow `parent`, with their indices.
    pub fn children(&self, parent: Option<usize>) -> impl Iterator<Item = (usize, &DraftNode)> {
        let start = parent.map_or(0, |it| it + 1);
        let nodes = self.nodes.iter().enumerate().skip(start);
        nodes.filter(move |(_, node)| node.parent == parent)
    }

    /// The node that follows `parent` with `token`.
    pub fn child(&self, parent: Option<usize>, token: u32) -> Option<usize> {
        let found = self.children(parent).find(|(_, node)| node.token == token);
        found.map(|(idx, _)| idx)
    }

    /// Tokens in order, if the draft is a chain.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = u32> {
        self.nodes.iter().map(|it| it.token)
    }

    /// Appends the rows that verify the draft after the first `context_len` slots of a sequence.
    pub(crate) fn push_rows(&self, context_len: usize, sequence_idx: usize, rows: &mut Vec<Row>) {
        if self.is_chain() {
            let chain = self.tokens().zip(context_len..);
            rows.extend(chain.map(|(token, position)| Row::chain(token, position, sequence_idx, true)));
            return;
        }
        let first = rows.len();
        for (idx, node) in self.nodes.iter().enumerate() {
            let above = node.parent.map_or(0, |parent| rows[first + parent].ancestors);
            rows.push(Row {
                token: node.token,
                sequence_idx: sequence_idx as u32,
                context_len: context_len as u32,
                ancestors: above | 1 << idx,
                wants_logits: true,
            });
        }
    }

    /// Becomes the part of `whole` that `picked` names: indices in ascending order, parents included.
    pub(crate) fn select(&mut self, whole: &Self, picked: &[usize]) {
        self.nodes.clear();
        for &idx in picked {
            let node = whole.nodes[idx];
            let parent = node.parent.map(|parent| {
                let found = picked.binary_search(&parent);
                found.expect("a picked node's parent is picked")
            });
            self.nodes.push(DraftNode { parent, ..node });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_evidence_is_another_class() {
        let classes = |evidence: [Evidence; 6]| evidence.map(Evidence::class);
        assert_eq!(
            classes([1, 2, 3, 8, 9, 100].map(Evidence::of_match)),
            [3, 3, 4, 5, 6, 7]
        );
        assert_eq!(
            classes([0.0, 0.1, 0.3, 0.5, 0.7, 1.0].map(Evidence::of_probability)),
            [0, 1, 3, 4, 6, 7]
        );
    }

    #[test]
    fn a_part_of_a_tree_is_a_tree() {
        let evidence = Evidence::of_match(2);
        let mut whole = Draft::default();
        let first = whole.push_after(None, 10, evidence);
        whole.push_after(None, 11, evidence);
        let deeper = whole.push_after(Some(first), 12, evidence);
        whole.push_after(Some(deeper), 13, evidence);
        assert!(!whole.is_chain());
        assert_eq!((whole.child(None, 11), whole.child(Some(0), 11)), (Some(1), None));
        let mut part = Draft::default();
        part.select(&whole, &[0, 2, 3]);
        assert!(part.is_chain());
        assert_eq!(part.tokens().collect::<Vec<_>>(), [10, 12, 13]);
        let mut rows = Vec::new();
        whole.push_rows(5, 0, &mut rows);
        let rows = rows.iter().map(|row| (row.slot(), row.position(), row.ancestors));
        let expected = [(5, 5, 0b1), (6, 5, 0b10), (7, 6, 0b101), (8, 7, 0b1101)];
        assert_eq!(rows.collect::<Vec<_>>(), expected);
    }
}
