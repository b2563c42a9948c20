//! The half of a layer that looks at each row alone: one feed-forward layer, or some of many experts.

use super::{Context, NormWeights, add_bias, add_to, load::Loader};
use crate::{
    error::EngineError,
    kernels::{
        SharedOut,
        activation::activate,
        matmul::{Input, Matrix, Product, QuantizedRows, multiply},
        norm::dot_product,
    },
    model::{Activation, ExpertChoice, ModelConfig},
};

pub(super) struct FeedForward {
    norm: NormWeights,
    kind: Kind,
    post_norm: Option<NormWeights>,
}

enum Kind {
    Dense(Box<Mlp>),
    Experts {
        /// Scores of the experts, `(n_experts, hidden)`.
        router: Matrix,
        router_bias: Option<Vec<f32>>,
        experts: Vec<Mlp>,
        shared: Option<Box<Shared>>,
    },
}

/// An expert that all rows run.
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
    /// Rows that one expert runs, `(rows, hidden)`, in both forms, and what it makes of them.
    gathered: Vec<f32>,
    quantized: QuantizedRows,
    expert_out: Vec<f32>,
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
    share: f32,
}

impl FeedForward {
    pub(super) fn load(loader: &mut Loader<'_>, layer_idx: usize) -> Result<Self, EngineError> {
        let name = |part: &str| format!("blk.{layer_idx}.{part}");
        let hidden = loader.config.hidden;
        let kind = match loader.config.experts {
            Some(ExpertChoice {
                n_experts,
                shared_width,
                ..
            }) => Kind::Experts {
                router: loader.matrix(&name("ffn_gate_inp.weight"), n_experts, hidden)?,
                router_bias: loader.optional_vector(&name("ffn_gate_inp.bias"), n_experts)?,
                experts: Mlp::load_experts(loader, n_experts, name)?,
                shared: shared_width
                    .map(|width| Shared::load(loader, width, name).map(Box::new))
                    .transpose()?,
            },
            None => Kind::Dense(Box::new(Mlp::load(loader, loader.config.feed_forward, name)?)),
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
            Kind::Experts {
                router,
                router_bias,
                experts,
                shared,
            } => {
                own.scores.resize(n_rows * experts.len(), 0.0);
                let product = Product {
                    matrix: router,
                    out: &mut own.scores,
                };
                multiply(context.isa, context.pool, input, n_rows, [product]);
                add_bias(&mut own.scores, router_bias.as_deref());
                own.choose(context.config, experts.len());
                own.run_experts(context, experts, normed, projected);
                if let Some(shared) = shared {
                    own.expert_out.resize(projected.len(), 0.0);
                    shared.run(context, input, &mut own.inner, &mut own.expert_out);
                    add_to(projected, &own.expert_out);
                }
            }
        }
        buffers.add_projected(context, self.post_norm.as_ref());
    }
}

impl Buffers {
    /// The experts of every row with the highest scores, in the order in which they are run: by expert, then by row.
    fn choose(&mut self, config: &ModelConfig, n_experts: usize) {
        let n_chosen = config.experts.map_or(0, |experts| experts.n_chosen);
        self.choices.clear();
        for (row, scores) in self.scores.chunks_exact(n_experts).enumerate() {
            let first = self.choices.len();
            let all = scores.iter().enumerate();
            self.choices.extend(all.map(|(expert_idx, &share)| Choice {
                row,
                expert_idx,
                share,
            }));
            let of_row = &mut self.choices[first..];
            // Equal scores: the first expert. NaN counts as highest, so that it shows in the logits.
            of_row.sort_unstable_by(|a, b| b.share.total_cmp(&a.share).then(a.expert_idx.cmp(&b.expert_idx)));
            self.choices.truncate(first + n_chosen);
            softmax(&mut self.choices[first..]);
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

/// Shares that add up to 1 from scores, the highest first.
fn softmax(choices: &mut [Choice]) {
    let Some(highest) = choices.first().map(|choice| choice.share) else {
        return;
    };
    let mut total = 0.0;
    for choice in &mut *choices {
        choice.share = (choice.share - highest).exp();
        total += choice.share;
    }
    choices.iter_mut().for_each(|choice| choice.share /= total);
}

impl Shared {
    fn load(
        loader: &mut Loader<'_>,
        width: usize,
        name: impl Fn(&str) -> String,
    ) -> Result<Self, EngineError> {
        let hidden = loader.config.hidden;
        let part_name = |part: &str| match part.split_once('.') {
            Some((matrix, kind)) => name(&format!("{matrix}_shexp.{kind}")),
            None => name(part),
        };
        Ok(Self {
            mlp: Mlp::load(loader, width, part_name)?,
            gate: loader.optional_row(&name("ffn_gate_inp_shexp.weight"), hidden)?,
        })
    }

    /// `out` is `(rows, hidden)`.
    fn run(&self, context: &mut Context<'_>, input: Input<'_>, buffers: &mut MlpBuffers, out: &mut [f32]) {
        let hidden = context.config.hidden;
        self.mlp.run(context, input, out.len() / hidden, buffers, out);
        if let Some(weights) = &self.gate {
            for (row, out) in input.rows.chunks_exact(hidden).zip(out.chunks_exact_mut(hidden)) {
                let score = dot_product(context.isa, row, weights);
                let share = 1.0 / (1.0 + (-score).exp());
                out.iter_mut().for_each(|x| *x *= share);
            }
        }
    }
}

impl Mlp {
    fn load(
        loader: &mut Loader<'_>,
        width: usize,
        name: impl Fn(&str) -> String,
    ) -> Result<Self, EngineError> {
        let ModelConfig {
            hidden, activation, ..
        } = *loader.config;
        let up_name = name("ffn_up.weight");
        let (gate, up) = if activation == Activation::Gelu {
            (loader.matrix(&up_name, width, hidden)?, None)
        } else if loader.has(&name("ffn_gate.weight")) {
            let gate = loader.matrix(&name("ffn_gate.weight"), width, hidden)?;
            (gate, Some(loader.matrix(&up_name, width, hidden)?))
        } else {
            // Both in one matrix, the gate first.
            let shape = (2 * width, hidden);
            let gate = loader.part(&up_name, shape, 0..width)?;
            (gate, Some(loader.part(&up_name, shape, width..2 * width)?))
        };
        let (gate_bias, up_bias) = match up {
            None => (loader.optional_vector(&name("ffn_up.bias"), width)?, None),
            Some(_) => (
                loader.optional_vector(&name("ffn_gate.bias"), width)?,
                loader.optional_vector(&name("ffn_up.bias"), width)?,
            ),
        };
        Ok(Self {
            width,
            gate,
            up,
            down: loader.matrix(&name("ffn_down.weight"), hidden, width)?,
            gate_bias,
            up_bias,
            down_bias: loader.optional_vector(&name("ffn_down.bias"), hidden)?,
        })
    }

    fn load_experts(
        loader: &mut Loader<'_>,
        n_experts: usize,
        name: impl Fn(&str) -> String,
    ) -> Result<Vec<Self>, EngineError> {
        let (hidden, width) = (loader.config.hidden, loader.config.feed_forward);
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
                let [gate, up] = loader.expert_gate_and_up(&name, which, width, hidden)?;
                Ok(Self {
                    width,
                    gate,
                    up: Some(up),
                    down: loader.expert(&name("ffn_down_exps"), which, hidden, width)?,
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
        let shared = SharedOut::new(gate);
        context.pool.run_rows(n_rows, width, &|range| {
            // SAFETY: every row is another range.
            activate(
                isa,
                activation,
                unsafe { shared.slice(range.clone()) },
                &up[range],
            );
        });
        quantized.set_rows(isa, context.pool, gate, width);
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

    #[test]
    fn shares_of_the_chosen_add_up_to_one() {
        let choice = |share| Choice {
            row: 0,
            expert_idx: 0,
            share,
        };
        let mut choices = [choice(100.0), choice(100.0 + 0.5f32.ln())];
        softmax(&mut choices);
        assert!((choices[0].share - 2.0 / 3.0).abs() < 1e-5, "{choices:?}");
        assert!((choices[1].share - 1.0 / 3.0).abs() < 1e-5, "{choices:?}");
    }
}
