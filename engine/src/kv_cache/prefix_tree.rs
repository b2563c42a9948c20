//! A radix tree over token prefixes, cut at block borders: which block holds which tokens after which.
//!
//! A node is one block. Only full blocks have children, so a node that holds fewer tokens than a block is a
//! leaf. Running sequences hold references to the nodes on their path; nodes without one are kept until
//! their block is needed, least recently used first. (After RadixAttention, Zheng et al. 2024, "SGLang",
//! section 3; ours is block-aligned and copies the part of a block that agrees.)

use super::{BLOCK_LEN, StateId};

/// Index of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(u32);

#[derive(Debug)]
struct Node {
    parent: Option<NodeId>,
    /// 1 to [`BLOCK_LEN`] tokens.
    tokens: Vec<u32>,
    block: u32,
    /// What layers with a state make of all tokens up to here.
    state: Option<StateId>,
    children: Vec<NodeId>,
    n_references: u32,
    last_used: u64,
}

/// The tree.
#[derive(Debug, Default)]
pub(super) struct PrefixTree {
    nodes: Vec<Option<Node>>,
    free_nodes: Vec<NodeId>,
    roots: Vec<NodeId>,
    clock: u64,
    /// Nodes that no running sequence holds.
    n_unreferenced: usize,
}

/// What the tree holds of a prompt.
#[derive(Debug)]
pub(super) struct FoundPrefix {
    /// Full blocks, from the first on.
    pub(super) path: Vec<NodeId>,
    /// The block after them that agrees best, and how many of its rows do.
    pub(super) partial: Option<(NodeId, usize)>,
}

/// Where a block ended up.
#[derive(Debug)]
pub(super) struct Published {
    /// The node that holds the tokens now.
    pub(super) node: NodeId,
    /// A block that is no longer needed, because another one holds the same tokens.
    pub(super) spare_block: Option<u32>,
}

/// What a node held that was forgotten.
#[derive(Debug)]
pub(super) struct Evicted {
    pub(super) block: u32,
    pub(super) state: Option<StateId>,
}

impl PrefixTree {
    /// Finds the longest prefix of `tokens` in the tree and marks it as used now.
    pub(super) fn longest_prefix(&mut self, tokens: &[u32]) -> FoundPrefix {
        let mut path = Vec::new();
        let mut rest = tokens;
        loop {
            let best = self
                .children(path.last().copied())
                .iter()
                .map(|&child| (child, n_common(&self.node(child).tokens, rest)))
                .max_by_key(|&(_, n_rows)| n_rows)
                .filter(|&(_, n_rows)| n_rows > 0);
            let Some((child, n_rows)) = best else {
                return FoundPrefix { path, partial: None };
            };
            self.touch(child);
            if n_rows < BLOCK_LEN {
                return FoundPrefix {
                    path,
                    partial: Some((child, n_rows)),
                };
            }
            path.push(child);
            rest = &rest[BLOCK_LEN..];
        }
    }

    /// Adds `block`, which holds `tokens` after `parent`'s, unless the tree knows them already.
    pub(super) fn publish(&mut self, parent: Option<NodeId>, tokens: &[u32], block: u32) -> Published {
        let mut shorter = None;
        for &child in self.children(parent) {
            let known = &self.node(child).tokens;
            if known.starts_with(tokens) {
                self.touch(child);
                return Published {
                    node: child,
                    spare_block: Some(block),
                };
            }
            if tokens.starts_with(known) {
                shorter = Some(child);
            }
        }
        let node = self.insert(parent, tokens, block);
        // What we hold now begins with all that the shorter leaf holds.
        let spare_block = shorter
            .filter(|&leaf| self.node(leaf).n_references == 0)
            .map(|leaf| self.remove(leaf).block);
        Published { node, spare_block }
    }

    /// Counts one more running sequence on `node`.
    pub(super) fn acquire(&mut self, node: NodeId) {
        let references = &mut self.node_mut(node).n_references;
        *references += 1;
        self.n_unreferenced -= usize::from(*references == 1);
        self.touch(node);
    }

    /// Counts one running sequence less on `node`.
    pub(super) fn release(&mut self, node: NodeId) {
        let references = &mut self.node_mut(node).n_references;
        *references -= 1;
        self.n_unreferenced += usize::from(*references == 0);
    }

    /// Block of `node`.
    pub(super) fn block(&self, node: NodeId) -> u32 {
        self.node(node).block
    }

    /// State of `node`.
    pub(super) fn state(&self, node: NodeId) -> Option<StateId> {
        self.node(node).state
    }

    /// Gives `node` another state, or none, in place of its own.
    pub(super) fn set_state(&mut self, node: NodeId, state: Option<StateId>) {
        self.node_mut(node).state = state;
    }

    /// Takes the state that was not used for the longest time from its node.
    pub(super) fn evict_least_recent_state(&mut self) -> Option<StateId> {
        let nodes = self.nodes.iter_mut().flatten();
        nodes
            .filter(|node| node.state.is_some())
            .min_by_key(|node| node.last_used)?
            .state
            .take()
    }

    /// Nodes that no running sequence holds.
    pub(super) fn n_unreferenced(&self) -> usize {
        self.n_unreferenced
    }

    /// Forgets the leaf that was not used for the longest time, and gives what it held.
    pub(super) fn evict_least_recent(&mut self) -> Option<Evicted> {
        let (leaf_idx, _) = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(idx, node)| node.as_ref().map(|node| (idx, node)))
            .filter(|(_, node)| node.n_references == 0 && node.children.is_empty())
            .min_by_key(|(_, node)| node.last_used)?;
        Some(self.remove(NodeId(leaf_idx as u32)))
    }

    fn insert(&mut self, parent: Option<NodeId>, tokens: &[u32], block: u32) -> NodeId {
        let node = Node {
            parent,
            tokens: tokens.to_vec(),
            block,
            state: None,
            children: Vec::new(),
            n_references: 0,
            last_used: 0,
        };
        let id = match self.free_nodes.pop() {
            Some(id) => {
                self.nodes[id.0 as usize] = Some(node);
                id
            }
            None => {
                self.nodes.push(Some(node));
                NodeId(self.nodes.len() as u32 - 1)
            }
        };
        self.n_unreferenced += 1;
        self.children_mut(parent).push(id);
        self.touch(id);
        id
    }

    fn remove(&mut self, leaf: NodeId) -> Evicted {
        let parent = self.node(leaf).parent;
        self.children_mut(parent).retain(|&child| child != leaf);
        self.free_nodes.push(leaf);
        self.n_unreferenced -= 1;
        let node = self.nodes[leaf.0 as usize].take();
        let Node { block, state, .. } = node.expect("a node id is only kept while its node lives");
        Evicted { block, state }
    }

    fn touch(&mut self, node: NodeId) {
        self.clock += 1;
        let now = self.clock;
        self.node_mut(node).last_used = now;
    }

    fn children(&self, parent: Option<NodeId>) -> &[NodeId] {
        parent.map_or(&self.roots, |parent| &self.node(parent).children)
    }

    fn children_mut(&mut self, parent: Option<NodeId>) -> &mut Vec<NodeId> {
        match parent {
            Some(parent) => &mut self.node_mut(parent).children,
            None => &mut self.roots,
        }
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes[id.0 as usize]
            .as_ref()
            .expect("a node id is only kept while its node lives")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id.0 as usize]
            .as_mut()
            .expect("a node id is only kept while its node lives")
    }
}

fn n_common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
