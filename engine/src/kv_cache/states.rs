//! States of layers that keep one for a whole sequence, in place of a key and a value for each position.
//!
//! A state cannot be rolled back. So the state of a running sequence stands behind it, at positions that are final, and the
//! inputs of the rows since then are kept: a pass brings the state up to what was committed meanwhile, and goes on from
//! there on a copy. States are also kept at some ends of blocks, so that later sequences can start there.

use std::ops::Range;

use crate::model::{DeltaNet, ModelConfig};

/// Which state: a sequence's own, or one that is kept in the prefix tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateId(u32);

impl StateId {
    /// Where its numbers are among those of all states of a layer, `state_len` each.
    pub fn range(self, state_len: usize) -> Range<usize> {
        let start = self.0 as usize * state_len;
        start..start + state_len
    }
}

/// Blocks of the cache for each state: what shares of its memory the two have.
pub(super) const BLOCKS_PER_STATE: usize = 32;

/// A cache has room for one sequence and a state to start from.
const MIN_STATES: usize = 2;

/// States of all sequences of one model.
#[derive(Debug, Default)]
pub(super) struct States {
    /// Those of the layers that have one.
    layers: Vec<LayerStates>,
    /// How many of the last positions before a state the convolution of the next ones sees.
    n_seen: usize,
    slots: Vec<Slot>,
    free: Vec<StateId>,
}

/// A state, apart from its numbers.
#[derive(Debug, Clone, Default)]
struct Slot {
    /// Positions that it stands for.
    len: usize,
    /// States that the last pass kept on the way to this one, and the positions that they stand for.
    copies: Vec<(usize, StateId)>,
}

/// States of one layer.
#[derive(Debug)]
pub struct LayerStates {
    /// Of all states, one after the other.
    numbers: Vec<f32>,
    state_len: usize,
    /// For each state, inputs of the last positions that it stands for, as many as the convolution sees, and of the rows
    /// since then, `(positions, input_width)`.
    inputs: Vec<Vec<f32>>,
    input_width: usize,
}

/// What a pass does to the state of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSteps {
    /// The sequence's own state.
    pub state: StateId,
    /// Positions that it stands for before the pass.
    pub from: usize,
    /// Positions that it stands for after the pass.
    pub to: usize,
    /// Where to leave copies of it, and after how many positions, in ascending order.
    pub copies: Vec<(usize, StateId)>,
}

impl States {
    /// As many as belong to `n_blocks` blocks; none if no layer of the model has one.
    pub(super) fn new(config: &ModelConfig, n_blocks: usize) -> Self {
        let Some(delta_net) = config.delta_net else {
            return Self::default();
        };
        let n_states = (n_blocks / BLOCKS_PER_STATE).max(MIN_STATES);
        let layer = || LayerStates {
            numbers: vec![0.0; n_states * delta_net.state_len()],
            state_len: delta_net.state_len(),
            inputs: vec![Vec::new(); n_states],
            input_width: delta_net.input_width(),
        };
        Self {
            layers: (0..config.n_state_layers()).map(|_| layer()).collect(),
            n_seen: delta_net.conv_len - 1,
            slots: vec![Slot::default(); n_states],
            free: (0..n_states as u32).rev().map(StateId).collect(),
        }
    }

    /// Bytes of one state in all layers; 0 if no layer has one.
    pub(super) fn state_bytes(config: &ModelConfig) -> usize {
        let state_len = config.delta_net.as_ref().map_or(0, DeltaNet::state_len);
        config.n_state_layers() * state_len * size_of::<f32>()
    }

    /// Whether the model has any.
    pub(super) fn are_needed(&self) -> bool {
        !self.layers.is_empty()
    }

    pub(super) fn layer(&mut self, layer: usize) -> &mut LayerStates {
        &mut self.layers[layer]
    }

    /// Takes a state that nobody has, if there is one. It may hold anything.
    pub(super) fn take(&mut self) -> Option<StateId> {
        self.free.pop()
    }

    /// Gives a state back, and the copies that nobody took from it.
    pub(super) fn give(&mut self, state: StateId) {
        debug_assert!(!self.free.contains(&state), "{state:?} was given back twice");
        self.free.push(state);
        for (_, copy) in self.take_copies(state) {
            self.give(copy);
        }
    }

    /// States that nobody has.
    #[cfg(test)]
    pub(super) fn n_free(&self) -> usize {
        self.free.len()
    }

    /// Positions that `state` stands for.
    pub(super) fn len(&self, state: StateId) -> usize {
        self.slots[state.0 as usize].len
    }

    fn set_len(&mut self, state: StateId, len: usize) {
        self.slots[state.0 as usize].len = len;
    }

    /// Says that `state` is about to stand for `to` positions, and that `copies` of it are made on the way.
    pub(super) fn advance(&mut self, state: StateId, to: usize, copies: Vec<(usize, StateId)>) -> StateSteps {
        for &(len, copy) in &copies {
            self.set_len(copy, len);
        }
        let slot = &mut self.slots[state.0 as usize];
        slot.copies.clone_from(&copies);
        let from = std::mem::replace(&mut slot.len, to);
        StateSteps {
            state,
            from,
            to,
            copies,
        }
    }

    /// Takes the copies that the last pass made of `state`.
    pub(super) fn take_copies(&mut self, state: StateId) -> Vec<(usize, StateId)> {
        std::mem::take(&mut self.slots[state.0 as usize].copies)
    }

    /// Makes `state` that of an empty sequence.
    pub(super) fn clear(&mut self, state: StateId) {
        self.set_len(state, 0);
        for layer in &mut self.layers {
            let range = state.range(layer.state_len);
            layer.numbers[range].fill(0.0);
            layer.inputs[state.0 as usize].clear();
        }
    }

    /// Makes `to` the state that `from` is, without inputs of rows since then.
    pub(super) fn copy(&mut self, from: StateId, to: StateId) {
        let len = self.len(from);
        self.set_len(to, len);
        for layer in &mut self.layers {
            let (source, target) = (from.range(layer.state_len), to.range(layer.state_len));
            layer.numbers.copy_within(source, target.start);
            let n_seen = self.n_seen.min(len) * layer.input_width;
            let mut inputs = std::mem::take(&mut layer.inputs[to.0 as usize]);
            inputs.clear();
            inputs.extend_from_slice(&layer.inputs[from.0 as usize][..n_seen]);
            layer.inputs[to.0 as usize] = inputs;
        }
    }

    /// Moves the input at one position since `state` to another.
    pub(super) fn copy_input(&mut self, state: StateId, from: usize, to: usize) {
        let first = self.len(state) - self.n_seen.min(self.len(state));
        for layer in &mut self.layers {
            let width = layer.input_width;
            let (from, to) = ((from - first) * width, (to - first) * width);
            layer.inputs[state.0 as usize].copy_within(from..from + width, to);
        }
    }
}

impl LayerStates {
    /// The numbers of all states, `(states, DeltaNet::state_len)`.
    pub fn numbers_mut(&mut self) -> &mut [f32] {
        &mut self.numbers
    }

    /// Inputs of the last positions before `state`, as many of them as there are and the convolution sees, and of the
    /// rows since then: `(positions, DeltaNet::input_width)`.
    pub fn inputs(&self, state: StateId) -> &[f32] {
        &self.inputs[state.0 as usize]
    }

    /// Replaces those inputs.
    pub fn set_inputs(&mut self, state: StateId, inputs: &[f32]) {
        let kept = &mut self.inputs[state.0 as usize];
        kept.clear();
        kept.extend_from_slice(inputs);
    }
}
