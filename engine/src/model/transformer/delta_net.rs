//! The half of a layer that looks at other positions through a state: a gated delta net.
//!
//! What a pass does for a sequence is a run of positions: some that an earlier pass ran after the state that is kept, then
//! the rows of the batch. First the state takes the steps of all that is final, then a copy of it those of the others, and
//! each branch of a tree of drafts on a copy of its own. A position always takes the same steps after the same ones before,
//! so its bits do not depend on how they were shared out among passes.

use std::{cell::RefCell, ops::Range};

use super::{Context, NormWeights, load::Loader};
use crate::{
    error::EngineError,
    kernels::{
        Isa, SharedOut,
        delta_rule::{DeltaStep, STATE_COLUMNS, convolve, gates, take_step},
        matmul::{Input, Matrix, Product, QuantizedRows, multiply},
        norm::{rms_norm_in_place, swiglu},
    },
    kv_cache::{BLOCK_LEN, KvCache, LayerStates, StateId, StateSteps},
    model::{Batch, DeltaNet, Row},
};

/// A gated delta net and the norm before it.
pub(super) struct GatedDeltaNet {
    norm: NormWeights,
    shape: DeltaNet,
    /// Its place among the layers with states.
    state_layer: usize,
    /// Queries, keys and values, `(conv_width, hidden)`.
    query_key_value: Matrix,
    /// `(value_width, hidden)`.
    gate: Matrix,
    /// How a head's state fades, and how it learns: `(n_value_heads, hidden)`.
    fade: Matrix,
    learn: Matrix,
    /// For each head, what `fade` is moved by, and how fast the head forgets.
    fade_offset: Vec<f32>,
    fade_rate: Vec<f32>,
    /// `(conv_len, conv_width)`, that of a position itself first.
    conv: Vec<f32>,
    /// `(value_dim)`.
    head_norm: Vec<f32>,
    /// `(hidden, value_width)`.
    output: Matrix,
}

/// Activations of one batch.
#[derive(Default)]
pub(super) struct Buffers {
    runs: Vec<Run>,
    /// Those of all runs, in order.
    positions: Vec<Position>,
    /// What the products give, `(rows, conv_width)`, `(rows, value_width)` and `(rows, n_value_heads)`.
    query_key_value: Vec<f32>,
    gate: Vec<f32>,
    fade: Vec<f32>,
    learn: Vec<f32>,
    /// `(positions, input_width)`: `query_key_value`, `fade` and `learn` of a position.
    inputs: Vec<f32>,
    /// `(positions, conv_width)`.
    convolved: Vec<f32>,
    /// What a head's state keeps and how much it learns, `(positions, n_value_heads, 2)`.
    gates: Vec<f32>,
    /// What the states answer, `(rows, value_width)`.
    answers: Vec<f32>,
    /// `gate` after it took in the answers.
    quantized: QuantizedRows,
}

/// What the pass does for one sequence.
struct Run {
    steps: StateSteps,
    /// The positions that the convolution sees before the first that is run, those, and the rows of the batch.
    positions: Range<usize>,
    /// Of those, how many are not rows of the batch.
    n_known: usize,
    rows: Range<usize>,
    /// Slot of the first of `positions`.
    first_slot: usize,
    /// Copies of the state that branches of a tree need.
    n_copies: usize,
}

/// One position of a run.
#[derive(Clone, Copy)]
struct Position {
    /// The one before it in its text.
    parent: Option<usize>,
    /// The row of the batch, if it is one.
    row: Option<usize>,
    /// Whether it is run, and not only seen by the convolution.
    is_run: bool,
    /// The copy of the state that takes its step, if it is not final: the first outside of a tree, one for each node.
    copy: usize,
}

thread_local! {
    /// Some columns of the copies of a state, kept between calls.
    static COPIES: RefCell<Vec<f32>> = RefCell::default();
}

impl GatedDeltaNet {
    pub(super) fn load(
        loader: &mut Loader<'_>,
        layer_idx: usize,
        shape: DeltaNet,
    ) -> Result<Self, EngineError> {
        let name = |part: &str| format!("blk.{layer_idx}.{part}");
        let hidden = loader.config.hidden;
        let DeltaNet {
            n_value_heads,
            conv_len,
            ..
        } = shape;
        let (conv_width, value_width) = (shape.conv_width(), shape.value_width());
        let fade_rate = if loader.has(&name("ssm_a_log")) {
            let logs = loader.vector(&name("ssm_a_log"), n_value_heads)?;
            logs.into_iter().map(|it| -it.exp()).collect()
        } else {
            loader.vector(&name("ssm_a"), n_value_heads)?
        };
        Ok(Self {
            norm: loader.norm(&name("attn_norm"))?,
            shape,
            state_layer: loader.config.layers[layer_idx].cache_idx,
            query_key_value: loader.matrix(&name("attn_qkv.weight"), conv_width, hidden)?,
            gate: loader.matrix(&name("attn_gate.weight"), value_width, hidden)?,
            fade: loader.matrix(&name("ssm_alpha.weight"), n_value_heads, hidden)?,
            learn: loader.matrix(&name("ssm_beta.weight"), n_value_heads, hidden)?,
            fade_offset: loader.vector(&name("ssm_dt.bias"), n_value_heads)?,
            fade_rate,
            conv: last_tap_first(
                &loader.conv(&name("ssm_conv1d.weight"), conv_width, conv_len)?,
                conv_len,
            ),
            head_norm: loader.vector(&name("ssm_norm.weight"), shape.value_dim)?,
            output: loader.matrix(&name("ssm_out.weight"), hidden, value_width)?,
        })
    }

    /// Adds what the rows learn of those before to their residual streams, and brings states and inputs up to them.
    pub(super) fn run(&self, context: &mut Context<'_>, cache: &mut KvCache, buffers: &mut super::Buffers) {
        let isa = context.isa;
        buffers.norm_residual(context, &self.norm);
        let input = Input {
            rows: &buffers.normed,
            quantized: &buffers.quantized,
        };
        let own = &mut buffers.delta_net;
        let n_rows = own.fade.len() / self.shape.n_value_heads;
        let products = [
            (&self.query_key_value, &mut own.query_key_value),
            (&self.gate, &mut own.gate),
            (&self.fade, &mut own.fade),
            (&self.learn, &mut own.learn),
        ];
        let products = products.map(|(matrix, out)| Product { matrix, out });
        multiply(isa, context.pool, input, n_rows, products);

        let states = cache.states_mut(self.state_layer);
        own.gather_inputs(states, &self.shape);
        self.convolve(context, own);
        self.take_steps(context, states, own);
        own.keep_inputs(states, &self.shape);

        self.gate_answers(context, own);
        let value_width = self.shape.value_width();
        own.quantized.set_rows(isa, context.pool, &own.gate, value_width);
        let input = Input {
            rows: &own.gate,
            quantized: &own.quantized,
        };
        let product = Product {
            matrix: &self.output,
            out: &mut buffers.projected,
        };
        multiply(isa, context.pool, input, n_rows, [product]);
        buffers.add_projected(context, None);
    }

    /// Queries, keys, values and gates of all positions that are run.
    fn convolve(&self, context: &mut Context<'_>, own: &mut Buffers) {
        let (isa, shape) = (context.isa, &self.shape);
        let (conv_width, input_width) = (shape.conv_width(), shape.input_width());
        let (positions, inputs) = (&own.positions, &own.inputs);
        let gates_width = 2 * shape.n_value_heads;
        let convolved = SharedOut::new(&mut own.convolved);
        let all_gates = SharedOut::new(&mut own.gates);
        context.pool.run_rows(positions.len(), conv_width, &|range| {
            let at = range.start / conv_width;
            if !positions[at].is_run {
                return;
            }
            let input = |at: usize| &inputs[at * input_width..][..input_width];
            let mut seen: [&[f32]; BLOCK_LEN] = [&[]; BLOCK_LEN];
            let above = std::iter::successors(Some(at), |&at| positions[at].parent);
            let mut n_seen = 0;
            for (seen, at) in seen.iter_mut().zip(above.take(shape.conv_len)) {
                *seen = &input(at)[..conv_width];
                n_seen += 1;
            }
            // SAFETY: every position is another range, here and below.
            let out = unsafe { convolved.slice(range) };
            convolve(isa, shape, &self.conv, &seen[..n_seen], out);

            // SAFETY: as above.
            let out = unsafe { all_gates.slice(at * gates_width..(at + 1) * gates_width) };
            let (fade, learn) = input(at)[conv_width..].split_at(shape.n_value_heads);
            for (head, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
                let (rate, offset) = (self.fade_rate[head], self.fade_offset[head]);
                *out = gates(fade[head], learn[head], rate, offset).into();
            }
        });
    }

    /// Takes the steps of all positions, each head and some columns of its state apart from the others.
    fn take_steps(&self, context: &mut Context<'_>, states: &mut LayerStates, own: &mut Buffers) {
        let steps = Steps {
            isa: context.isa,
            shape: &self.shape,
            positions: &own.positions,
            convolved: &own.convolved,
            gates: &own.gates,
            numbers: SharedOut::new(states.numbers_mut()),
            answers: SharedOut::new(&mut own.answers),
        };
        let (runs, n_parts) = (&own.runs, self.shape.value_width() / STATE_COLUMNS);
        context.pool.run(runs.len() * n_parts, &|task_idx| {
            steps.take(&runs[task_idx / n_parts], task_idx % n_parts);
        });
    }

    /// Norms what the states answer, and multiplies it by its gate, which takes the result.
    fn gate_answers(&self, context: &mut Context<'_>, own: &mut Buffers) {
        let (isa, epsilon) = (context.isa, context.config.norm.epsilon);
        let width = self.shape.value_width();
        let n_rows = own.gate.len() / width;
        let (gate, answers) = (SharedOut::new(&mut own.gate), SharedOut::new(&mut own.answers));
        context.pool.run_rows(n_rows, width, &|range| {
            // SAFETY: every row is another range.
            let (gate, answers) = unsafe { (gate.slice(range.clone()), answers.slice(range)) };
            for head in answers.chunks_exact_mut(self.shape.value_dim) {
                rms_norm_in_place(isa, head, &self.head_norm, epsilon);
            }
            swiglu(isa, gate, answers);
        });
    }
}

/// What the steps of a layer read and write.
struct Steps<'a> {
    isa: Isa,
    shape: &'a DeltaNet,
    positions: &'a [Position],
    convolved: &'a [f32],
    gates: &'a [f32],
    /// Of all states.
    numbers: SharedOut<'a, f32>,
    answers: SharedOut<'a, f32>,
}

impl Steps<'_> {
    /// Takes the steps of a run with part `part` of its state: [`STATE_COLUMNS`] columns of a head.
    fn take(&self, run: &Run, part: usize) {
        let part_len = self.shape.key_dim * STATE_COLUMNS;
        let part_of = |state: StateId| {
            let start = state.range(self.shape.state_len()).start + part * part_len;
            // SAFETY: every task has another part or another run, and no two runs have a state in common.
            unsafe { self.numbers.slice(start..start + part_len) }
        };
        let state = part_of(run.steps.state);
        COPIES.with_borrow_mut(|copies| {
            copies.resize(run.n_copies * part_len, 0.0);
            let all = (run.first_slot..).zip(run.positions.clone());
            for (slot, at) in all.filter(|(_, at)| self.positions[*at].is_run) {
                if slot < run.steps.to {
                    self.take_one(state, at, part);
                    let kept = run.steps.copies.iter().find(|(len, _)| *len == slot + 1);
                    if let Some((_, copy)) = kept {
                        part_of(*copy).copy_from_slice(state);
                    }
                    continue;
                }
                if slot == run.steps.to {
                    copies[..part_len].copy_from_slice(state);
                }
                let Position { parent, copy, .. } = self.positions[at];
                let above = parent.map_or(0, |parent| self.positions[parent].copy);
                if above != copy {
                    copies.copy_within(above * part_len..(above + 1) * part_len, copy * part_len);
                }
                self.take_one(&mut copies[copy * part_len..][..part_len], at, part);
            }
        });
    }

    /// Takes the step of one position with some columns of a state.
    fn take_one(&self, state: &mut [f32], at: usize, part: usize) {
        let shape = self.shape;
        let head = part * STATE_COLUMNS / shape.value_dim;
        let (queries, rest) =
            self.convolved[at * shape.conv_width()..][..shape.conv_width()].split_at(shape.key_width());
        let (keys, values) = rest.split_at(shape.key_width());
        let key_start = shape.key_head(head) * shape.key_dim;
        let gates = &self.gates[2 * (at * shape.n_value_heads + head)..];
        let step = DeltaStep {
            query: &queries[key_start..][..shape.key_dim],
            key: &keys[key_start..][..shape.key_dim],
            value: &values[part * STATE_COLUMNS..][..STATE_COLUMNS],
            kept: gates[0],
            learned: gates[1],
        };
        match self.positions[at].row {
            Some(row) => {
                let start = row * shape.value_width() + part * STATE_COLUMNS;
                // SAFETY: every task has another part, or rows of another run.
                let out = unsafe { self.answers.slice(start..start + STATE_COLUMNS) };
                take_step(self.isa, state, step, out);
            }
            None => take_step(self.isa, state, step, &mut [0.0; STATE_COLUMNS]),
        }
    }
}

impl Buffers {
    /// Lays out what the pass does for each sequence, which is the same in every layer, and makes room for it.
    pub(super) fn prepare(&mut self, shape: &DeltaNet, batch: Batch<'_>, cache: &mut KvCache) {
        self.runs.clear();
        self.positions.clear();
        let mut first_row = 0;
        for rows in batch.rows.chunk_by(|a, b| a.sequence_idx == b.sequence_idx) {
            self.add_run(shape, batch, first_row..first_row + rows.len(), cache);
            first_row += rows.len();
        }
        let (n_rows, n_positions) = (batch.rows.len(), self.positions.len());
        for (buffer, len) in [
            (&mut self.query_key_value, n_rows * shape.conv_width()),
            (&mut self.gate, n_rows * shape.value_width()),
            (&mut self.fade, n_rows * shape.n_value_heads),
            (&mut self.learn, n_rows * shape.n_value_heads),
            (&mut self.answers, n_rows * shape.value_width()),
            (&mut self.convolved, n_positions * shape.conv_width()),
            (&mut self.gates, n_positions * shape.n_value_heads * 2),
        ] {
            buffer.resize(len, 0.0);
        }
    }

    fn add_run(&mut self, shape: &DeltaNet, batch: Batch<'_>, rows: Range<usize>, cache: &mut KvCache) {
        let own_rows = &batch.rows[rows.clone()];
        let sequence = batch.sequences[own_rows[0].sequence_idx as usize];
        let start = own_rows[0].slot();
        let n_final = own_rows.iter().take_while(|row| !row.wants_logits).count();
        let to = match n_final {
            0 => sequence.len(),
            _ => start + n_final,
        };
        let steps = cache.advance_state(sequence, to);
        let first_slot = steps.from - n_seen(shape, steps.from);
        let (n_known, first) = (start - first_slot, self.positions.len());
        let chain = (0..n_known).map(|idx| Position {
            parent: idx.checked_sub(1).map(|it| first + it),
            row: None,
            is_run: first_slot + idx >= steps.from,
            copy: 0,
        });
        self.positions.extend(chain);
        let of_row = |(row, it): (usize, &Row)| Position {
            parent: it.parent_slot().map(|slot| first + slot - first_slot),
            row: Some(row),
            is_run: true,
            // One behind the number of its node.
            copy: it.slot() + 1 - it.context_len as usize,
        };
        self.positions.extend(rows.clone().zip(own_rows).map(of_row));
        let n_copies = 1 + own_rows.iter().filter(|row| row.ancestors != 0).count();
        self.runs.push(Run {
            steps,
            positions: first..self.positions.len(),
            n_known,
            rows,
            first_slot,
            n_copies,
        });
    }

    /// Puts the inputs of all positions together, from earlier passes and from this one.
    fn gather_inputs(&mut self, states: &LayerStates, shape: &DeltaNet) {
        let width = shape.input_width();
        self.inputs.clear();
        for run in &self.runs {
            let known = states.inputs(run.steps.state);
            self.inputs.extend_from_slice(&known[..run.n_known * width]);
            for row in run.rows.clone() {
                for (part, width) in [
                    (&self.query_key_value, shape.conv_width()),
                    (&self.fade, shape.n_value_heads),
                    (&self.learn, shape.n_value_heads),
                ] {
                    self.inputs
                        .extend_from_slice(&part[row * width..(row + 1) * width]);
                }
            }
        }
    }

    /// Keeps the inputs that later passes need: of the rows after the state, and of those that their convolution sees.
    fn keep_inputs(&self, states: &mut LayerStates, shape: &DeltaNet) {
        let width = shape.input_width();
        for run in &self.runs {
            let all = &self.inputs[run.positions.start * width..run.positions.end * width];
            let place = |slot: usize| (slot - run.first_slot) * width;
            let before = |len: usize| place(len - n_seen(shape, len));
            states.set_inputs(run.steps.state, &all[before(run.steps.to)..]);
            for &(len, copy) in &run.steps.copies {
                states.set_inputs(copy, &all[before(len)..place(len)]);
            }
        }
    }
}

/// How many of the first `len` positions the convolution of the next one sees.
fn n_seen(shape: &DeltaNet, len: usize) -> usize {
    len.min(shape.conv_len - 1)
}

/// `(conv_width, conv_len)`, the last position last, as `(conv_len, conv_width)`, the last position first.
fn last_tap_first(weights: &[f32], conv_len: usize) -> Vec<f32> {
    let taps = (0..conv_len).rev();
    taps.flat_map(|tap| weights.iter().skip(tap).step_by(conv_len).copied())
        .collect()
}
