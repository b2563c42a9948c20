//! The half of a layer that looks at each row alone: one feed-forward layer, or some of many experts.

use super::{Context, NormWeights, add_bias, add_to, load::Loader, scale_by};
use crate::{
    error::EngineError,
    kernels::{
        activation::activate,
        matmul::{Input, Matrix, Product, QuantizedRows, multiply},
        norm::dot_product,
    },
    model::{Activation, ExpertChoice, ExpertGroups, Gate},
};

pub(super) struct FeedForward {
    norm: NormWeights,
    kind: Kind,
    post_norm: Option<NormWeights>,
}

enum Kind {
    Dense(Box<Mlp>),
    Experts(Box<Experts>),
    Both(Box<Both>),
}

/// A dense feed-forward layer and experts side by side, each with its own norms (Gemma 4).
struct Both {
    dense: Mlp,
    dense_post_norm: NormWeights,
    experts: Experts,
    /// Norm of what the router reads.
    router_norm: NormWeights,
    expert_norm: NormWeights,
    expert_post_norm: NormWeights,
}

struct Experts {
    choice: ExpertChoice,
    /// Scores of the experts, `(n_experts, hidden)`.
    router: Matrix,
    router_bias: Option<Vec<f32>>,
    /// What is added to the shares to choose by, `(n_experts)`.
    choice_bias: Option<Vec<f32>>,
    /// Multiplies the share of each expert, `(n_experts)`.
    share_scales: Option<Vec<f32>>,
    experts: Vec<Mlp>,
    shared: Option<Shared>,
}

/// The expert that all rows run.
struct Shared {
    mlp: Mlp,
    /// The sigmoid of its product with a row multiplies the result, `(hidden)`.
    gate: Option<Vec<f32>>,
}

/// `down(activation(gate(x), up(x)))`.
struct Mlp {
    width: usize,
    gate: Matrix,
    /// Absent where the activation has no gate: then `gate` is what is activated.
    up: Option<Matrix>,
    down: Matrix,
    gate_bias: Option<Vec<f32>>,
    up_bias: Option<Vec<f32>>,
    down_bias: Option<Vec<f32>>,
}

/// Activations of one batch.
#[derive(Default)]
pub(super) struct Buffers {
    inner: MlpBuffers,
    /// `(rows, n_experts)`.
    scores: Vec<f32>,
    /// For each row in turn, its experts and their shares.
    choices: Vec<Choice>,
    /// Groups of the row at hand, and what they count.
    groups: Vec<(usize, f32)>,
    /// Rows that one expert runs, `(rows, hidden)`, in both forms, and what it makes of them.
    gathered: Vec<f32>,
    quantized: QuantizedRows,
    expert_out: Vec<f32>,
    /// What a dense layer beside the experts makes of the rows, `(rows, hidden)`.
    dense_out: Vec<f32>,
}

#[derive(Default)]
struct MlpBuffers {
    /// `(rows, width)`, the first also in 8 bits.
    gate: Vec<f32>,
    up: Vec<f32>,
    quantized: QuantizedRows,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Choice {
    row: usize,
    expert_idx: usize,
    /// What the choice goes by.
    rank: f32,
    share: f32,
}

impl FeedForward {
    pub(super) fn load(loader: &mut Loader<'_>, layer_idx: usize) -> Result<Self, EngineError> {
        let name = |part: &str| format!("blk.{layer_idx}.{part}");
        let hidden = loader.config.hidden;
        let config = loader.config;
        let choice = config.experts.filter(|_| config.layers[layer_idx].has_experts);
        let width = config.layers[layer_idx].feed_forward;
        let kind = match choice {
            None => Kind::Dense(Box::new(Mlp::load(loader, width, name)?)),
            Some(choice) if choice.are_beside_dense => {
                let mut router_norm = NormWeights {
                    scale: loader.vector(&name("ffn_gate_inp.scale"), hidden)?,
                    bias: vec![0.0; hidden],
                };
                scale_by(&mut router_norm.scale, 1.0 / (hidden as f32).sqrt());
                Kind::Both(Box::new(Both {
                    dense: Mlp::load(loader, width, name)?,
                    dense_post_norm: loader.norm(&name("post_ffw_norm_1"))?,
                    experts: Experts::load(loader, layer_idx, choice)?,
                    router_norm,
                    expert_norm: loader.norm(&name("pre_ffw_norm_2"))?,
                    expert_post_norm: loader.norm(&name("post_ffw_norm_2"))?,
                }))
            }
            Some(choice) => Kind::Experts(Box::new(Experts::load(loader, layer_idx, choice)?)),
        };
        Ok(Self {
            norm: loader.norm(&name("ffn_norm"))?,
            kind,
            post_norm: loader.optional_norm(&name("post_ffw_norm"))?,
        })
    }

    /// Adds what the layer makes of each row to its residual stream.
    pub(super) fn run(&self, context: &mut Context<'_>, n_rows: usize, buffers: &mut super::Buffers) {
        buffers.norm_residual(context, &self.norm);
        let super::Buffers {
            residual,
            normed,
            quantized,
            projected,
            feed_forward: own,
            ..
        } = &mut *buffers;
        let input = Input {
            rows: normed,
            quantized,
        };
        match &self.kind {
            Kind::Dense(mlp) => mlp.run(context, input, n_rows, &mut own.inner, projected),
            Kind::Experts(experts) => {
                experts.choose(context, input, n_rows, own);
                own.run_experts(context, &experts.experts, normed, projected);
                if let Some(shared) = &experts.shared {
                    own.expert_out.resize(projected.len(), 0.0);
                    shared.run(context, input, n_rows, &mut own.inner, &mut own.expert_out);
                    add_to(projected, &own.expert_out);
                }
            }
            Kind::Both(both) => {
                own.dense_out.resize(projected.len(), 0.0);
                both.dense.run(context, input, n_rows, &mut own.inner, projected);
                context.norm(&both.dense_post_norm, projected, &mut own.dense_out);
                context.norm(&both.router_norm, residual, normed);
                quantized.set_rows(context.isa, context.pool, normed, context.config.hidden);
                let input = Input {
                    rows: normed,
                    quantized,
                };
                both.experts.choose(context, input, n_rows, own);
                context.norm(&both.expert_norm, residual, normed);
                own.run_experts(context, &both.experts.experts, normed, projected);
                context.norm(&both.expert_post_norm, projected, normed);
                projected.copy_from_slice(normed);
                add_to(projected, &own.dense_out);
            }
        }
        buffers.add_projected(context, self.post_norm.as_ref());
    }
}

impl Experts {
    fn load(loader: &mut Loader<'_>, layer_idx: usize, choice: ExpertChoice) -> Result<Self, EngineError> {
        let name = |part: &str| format!("blk.{layer_idx}.{part}");
        let (n_experts, hidden) = (choice.n_experts, loader.config.hidden);
        Ok(Self {
            choice,
            router: loader.matrix(&name("ffn_gate_inp.weight"), n_experts, hidden)?,
            router_bias: loader.optional_vector(&name("ffn_gate_inp.bias"), n_experts)?,
            choice_bias: match choice.gate {
                Gate::Softmax => None,
                Gate::Sigmoid => loader.optional_vector(&name("exp_probs_b.bias"), n_experts)?,
            },
            share_scales: loader.optional_vector(&name("ffn_down_exps.scale"), n_experts)?,
            experts: Mlp::load_experts(loader, choice, name)?,
            shared: choice
                .shared_width
                .map(|width| Shared::load(loader, layer_idx, width))
                .transpose()?,
        })
    }

    /// Leaves the choices of all rows in `own`.
    fn choose(&self, context: &mut Context<'_>, input: Input<'_>, n_rows: usize, own: &mut Buffers) {
        own.scores.resize(n_rows * self.experts.len(), 0.0);
        let product = Product {
            matrix: &self.router,
            out: &mut own.scores,
        };
        multiply(context.isa, context.pool, input, n_rows, [product]);
        add_bias(&mut own.scores, self.router_bias.as_deref());
        own.choose(self.choice, self.choice_bias.as_deref());
        if let Some(scales) = &self.share_scales {
            for choice in &mut own.choices {
                choice.share *= scales[choice.expert_idx];
            }
        }
    }
}

impl Buffers {
    /// The experts that every row chooses, in the order in which they are run: by expert, then by row.
    fn choose(&mut self, choice: ExpertChoice, bias: Option<&[f32]>) {
        self.choices.clear();
        for (row, scores) in self.scores.chunks_exact(choice.n_experts).enumerate() {
            let first = self.choices.len();
            let all = scores.iter().enumerate();
            self.choices.extend(all.map(|(expert_idx, &score)| {
                let share = match choice.gate {
                    Gate::Softmax => score,
                    Gate::Sigmoid => sigmoid(score),
                };
                Choice {
                    row,
                    expert_idx,
                    rank: share + bias.map_or(0.0, |bias| bias[expert_idx]),
                    share,
                }
            }));
            if let Some(groups) = choice.groups {
                keep_groups(&mut self.choices, first, (choice, groups), &mut self.groups);
            }
            let of_row = &mut self.choices[first..];
            // Equal scores: the first expert. NaN counts as highest, so that it shows in the logits.
            of_row.sort_unstable_by(|a, b| b.rank.total_cmp(&a.rank).then(a.expert_idx.cmp(&b.expert_idx)));
            self.choices.truncate(first + choice.n_chosen);
            set_shares(&mut self.choices[first..], scores, choice);
        }
        self.choices
            .sort_unstable_by_key(|choice| (choice.expert_idx, choice.row));
    }

    /// Mixes the experts' results into `out`, `(rows, hidden)`. A row's sum goes by the order of its experts, whichever
    /// other rows they run.
    fn run_experts(&mut self, context: &mut Context<'_>, experts: &[Mlp], normed: &[f32], out: &mut [f32]) {
        let hidden = context.config.hidden;
        out.fill(0.0);
        for choices in self.choices.chunk_by(|a, b| a.expert_idx == b.expert_idx) {
            self.gathered.clear();
            for choice in choices {
                let row = &normed[choice.row * hidden..][..hidden];
                self.gathered.extend_from_slice(row);
            }
            self.quantized
                .set_rows(context.isa, context.pool, &self.gathered, hidden);
            self.expert_out.resize(self.gathered.len(), 0.0);
            let input = Input {
                rows: &self.gathered,
                quantized: &self.quantized,
            };
            let expert = &experts[choices[0].expert_idx];
            expert.run(
                context,
                input,
                choices.len(),
                &mut self.inner,
                &mut self.expert_out,
            );
            for (choice, found) in choices.iter().zip(self.expert_out.chunks_exact(hidden)) {
                let row = &mut out[choice.row * hidden..][..hidden];
                for (sum, x) in row.iter_mut().zip(found) {
                    *sum += choice.share * x;
                }
            }
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Drops the experts, from the `first` choice on, of all groups but those that count most.
fn keep_groups(
    choices: &mut Vec<Choice>,
    first: usize,
    (choice, groups): (ExpertChoice, ExpertGroups),
    counts: &mut Vec<(usize, f32)>,
) {
    let group_len = choice.n_experts / groups.n_groups;
    let of_groups = choices[first..].chunks_exact(group_len);
    counts.clear();
    counts.extend(of_groups.enumerate().map(|(group, choices)| {
        let (mut highest, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for rank in choices.iter().map(|choice| choice.rank) {
            if rank.total_cmp(&highest).is_gt() {
                (highest, second) = (rank, highest);
            } else if rank.total_cmp(&second).is_gt() {
                second = rank;
            }
        }
        match choice.gate {
            Gate::Softmax => (group, highest),
            Gate::Sigmoid => (group, highest + second),
        }
    }));
    counts.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    counts.truncate(groups.n_chosen);
    let mut idx = 0;
    choices.retain(|choice| {
        idx += 1;
        let group = choice.expert_idx / group_len;
        idx <= first || counts.iter().any(|(kept, _)| *kept == group)
    });
}

/// The shares of the chosen experts of one row, from its `scores`.
fn set_shares(chosen: &mut [Choice], scores: &[f32], choice: ExpertChoice) {
    if choice.gate == Gate::Softmax {
        let largest = |max: f32, score: f32| if score.total_cmp(&max).is_gt() { score } else { max };
        let highest = scores.iter().copied().fold(f32::NEG_INFINITY, largest);
        chosen
            .iter_mut()
            .for_each(|it| it.share = (it.share - highest).exp());
        if !choice.is_normalized {
            let total: f32 = scores.iter().map(|score| (score - highest).exp()).sum();
            chosen.iter_mut().for_each(|it| it.share /= total);
        }
    }
    if choice.is_normalized {
        let total: f32 = chosen.iter().map(|it| it.share).sum();
        chosen.iter_mut().for_each(|it| it.share /= total);
    }
    chosen.iter_mut().for_each(|it| it.share *= choice.scale);
}

impl Shared {
    fn load(loader: &mut Loader<'_>, layer_idx: usize, width: usize) -> Result<Self, EngineError> {
        let name = |part: &str| format!("blk.{layer_idx}.{part}_shexp");
        let gate_name = format!("{}.weight", name("ffn_gate_inp"));
        let hidden = loader.config.hidden;
        Ok(Self {
            mlp: Mlp::load(loader, width, name)?,
            gate: loader.optional_row(&gate_name, hidden)?,
        })
    }

    /// `input` has `n_rows`; `out` is `(n_rows, hidden)`.
    fn run(
        &self,
        context: &mut Context<'_>,
        input: Input<'_>,
        n_rows: usize,
        buffers: &mut MlpBuffers,
        out: &mut [f32],
    ) {
        self.mlp.run(context, input, n_rows, buffers, out);
        if let Some(weights) = &self.gate {
            let hidden = context.config.hidden;
            for (row, out) in input.rows.chunks_exact(hidden).zip(out.chunks_exact_mut(hidden)) {
                let score = dot_product(context.isa, row, weights);
                scale_by(out, sigmoid(score));
            }
        }
    }
}

impl Mlp {
    /// `name` gives the whole name of a part such as `ffn_up`.
    fn load(
        loader: &mut Loader<'_>,
        width: usize,
        name: impl Fn(&str) -> String,
    ) -> Result<Self, EngineError> {
        let (hidden, activation) = (loader.config.hidden, loader.config.activation);
        let [gate_name, up_name, down_name] = ["ffn_gate", "ffn_up", "ffn_down"].map(name);
        let weight = |name: &str| format!("{name}.weight");
        let bias = |name: &str| format!("{name}.bias");
        let (gate, up) = if activation == Activation::Gelu {
            (loader.matrix(&weight(&up_name), width, hidden)?, None)
        } else if loader.has(&weight(&gate_name)) {
            let gate = loader.matrix(&weight(&gate_name), width, hidden)?;
            (gate, Some(loader.matrix(&weight(&up_name), width, hidden)?))
        } else {
            // Both in one matrix, the gate first.
            let (both, shape) = (weight(&up_name), [2 * width, hidden]);
            let gate = loader.part(&both, &shape, 0..width)?;
            (gate, Some(loader.part(&both, &shape, width..2 * width)?))
        };
        let (gate_bias, up_bias) = match up {
            None => (loader.optional_vector(&bias(&up_name), width)?, None),
            Some(_) => (
                loader.optional_vector(&bias(&gate_name), width)?,
                loader.optional_vector(&bias(&up_name), width)?,
            ),
        };
        Ok(Self {
            width,
            gate,
            up,
            down: loader.matrix(&weight(&down_name), hidden, width)?,
            gate_bias,
            up_bias,
            down_bias: loader.optional_vector(&bias(&down_name), hidden)?,
        })
    }

    fn load_experts(
        loader: &mut Loader<'_>,
        ExpertChoice { n_experts, width, .. }: ExpertChoice,
        name: impl Fn(&str) -> String,
    ) -> Result<Vec<Self>, EngineError> {
        let hidden = loader.config.hidden;
        let mut biases = |part: &str, len: usize| -> Result<Vec<Option<Vec<f32>>>, EngineError> {
            let name = name(part);
            if !loader.has(&name) {
                return Ok(vec![None; n_experts]);
            }
            let all = loader.numbers(&name, &[n_experts, len])?;
            Ok(all.chunks_exact(len).map(|bias| Some(bias.to_vec())).collect())
        };
        let gate_biases = biases("ffn_gate_exps.bias", width)?;
        let up_biases = biases("ffn_up_exps.bias", width)?;
        let down_biases = biases("ffn_down_exps.bias", hidden)?;
        let biases = gate_biases.into_iter().zip(up_biases).zip(down_biases);
        biases
            .enumerate()
            .map(|(expert_idx, ((gate_bias, up_bias), down_bias))| {
                let which = (expert_idx, n_experts);
                let fused = name("ffn_gate_up_exps.weight");
                let (gate, up) = if loader.has(&fused) {
                    let (shape, start) = ([n_experts, 2 * width, hidden], expert_idx * 2 * width);
                    let gate = loader.part(&fused, &shape, start..start + width)?;
                    (
                        gate,
                        loader.part(&fused, &shape, start + width..start + 2 * width)?,
                    )
                } else {
                    let gate = loader.slice(&name("ffn_gate_exps"), which, width, hidden)?;
                    (gate, loader.slice(&name("ffn_up_exps"), which, width, hidden)?)
                };
                Ok(Self {
                    width,
                    gate,
                    up: Some(up),
                    down: loader.slice(&name("ffn_down_exps"), which, hidden, width)?,
                    gate_bias,
                    up_bias,
                    down_bias,
                })
            })
            .collect()
    }

    /// `input` has `n_rows`; `out` is `(n_rows, hidden)`.
    fn run(
        &self,
        context: &mut Context<'_>,
        input: Input<'_>,
        n_rows: usize,
        buffers: &mut MlpBuffers,
        out: &mut [f32],
    ) {
        let (isa, width, activation) = (context.isa, self.width, context.config.activation);
        let MlpBuffers { gate, up, quantized } = buffers;
        gate.resize(n_rows * width, 0.0);
        up.resize(n_rows * width, 0.0);
        let first = Product {
            matrix: &self.gate,
            out: gate,
        };
        match &self.up {
            Some(matrix) => {
                let second = Product { matrix, out: up };
                multiply(isa, context.pool, input, n_rows, [first, second]);
            }
            None => multiply(isa, context.pool, input, n_rows, [first]),
        }
        add_bias(gate, self.gate_bias.as_deref());
        add_bias(up, self.up_bias.as_deref());
        quantized.make_rows(isa, context.pool, gate, width, &|range, row| {
            activate(isa, activation, row, &up[range]);
        });
        let input = Input {
            rows: gate,
            quantized,
        };
        let product = Product {
            matrix: &self.down,
            out,
        };
        multiply(isa, context.pool, input, n_rows, [product]);
        add_bias(out, self.down_bias.as_deref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHOICE: ExpertChoice = ExpertChoice {
        n_experts: 4,
        n_chosen: 2,
        width: 1,
        shared_width: None,
        gate: Gate::Softmax,
        is_normalized: true,
        scale: 1.0,
        groups: None,
        are_beside_dense: false,
    };

    /// The experts that a row with these scores chooses, and their shares.
    fn chosen(scores: [f32; 4], choice: ExpertChoice, bias: Option<&[f32]>) -> Vec<(usize, f32)> {
        let mut buffers = Buffers {
            scores: scores.to_vec(),
            ..Buffers::default()
        };
        buffers.choose(choice, bias);
        let choices = buffers.choices.iter();
        choices
            .map(|it| (it.expert_idx, (it.share * 1000.0).round()))
            .collect()
    }

    #[test]
    fn shares_of_the_chosen_add_up_to_one_or_are_those_among_all() {
        let scores = [100.0, 90.0, 100.0 + 0.5f32.ln(), 100.0 + 0.5f32.ln()];
        assert_eq!(chosen(scores, CHOICE, None), [(0, 667.0), (2, 333.0)]);
        let among_all = ExpertChoice {
            is_normalized: false,
            scale: 2.0,
            ..CHOICE
        };
        assert_eq!(chosen(scores, among_all, None), [(0, 1000.0), (2, 500.0)]);
    }

    #[test]
    fn a_bias_changes_the_choice_but_not_the_shares() {
        let sigmoid = ExpertChoice {
            gate: Gate::Sigmoid,
            ..CHOICE
        };
        let scores = [0.0, 0.0, 1.0f32, 3.0f32.ln()];
        assert_eq!(
            chosen(scores, sigmoid, Some(&[9.0, 0.0, 0.0, 0.0])),
            [(0, 400.0), (3, 600.0)]
        );
    }

    #[test]
    fn groups_count_by_one_expert_or_by_two() {
        let groups = Some(ExpertGroups {
            n_groups: 2,
            n_chosen: 1,
        });
        let scores = [5.0, -5.0, 4.0, 4.0];
        let experts = |gate| {
            let choice = ExpertChoice {
                gate,
                groups,
                ..CHOICE
            };
            chosen(scores, choice, None)
                .into_iter()
                .map(|it| it.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(experts(Gate::Softmax), [0, 1]);
        assert_eq!(experts(Gate::Sigmoid), [2, 3]);
    }
}
