//! The forward pass that all families share, on a CPU.
//!
//! What a family does differently is in its [`ModelConfig`] and in what its file holds: biases, norms of queries and
//! keys, norms after each half of a layer, sinks, gates, delta nets, experts. The slow version is [`super::reference`].

mod attention;
mod delta_net;
mod feed_forward;
mod heads;
mod latent;
mod layer_embedding;
mod load;

pub(super) use self::load::loaded_bytes;
use self::{
    attention::Attention,
    delta_net::GatedDeltaNet,
    feed_forward::FeedForward,
    layer_embedding::{EmbeddingBuffers, LayerEmbedding, LayerInput},
    load::{Loader, POSITION_EMBEDDING},
};
use crate::{
    error::EngineError,
    kernels::{
        Isa, SharedOut,
        activation::{cap, layer_norm},
        matmul::{Input, Matrix, Product, QuantizedRows, multiply},
        norm::rms_norm,
        pool::ThreadPool,
    },
    kv_cache::KvCache,
    model::{Batch, Model, ModelConfig, Norm},
    quant,
    weights::{GgmlType, Tensor, Weights},
};

/// How a model is loaded.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// Threads that load it, and run it afterwards.
    pub n_threads: usize,
    /// What matrices are to be multiplied with.
    pub isa: Isa,
    /// Type for large matrices of plain numbers; `None` leaves them as they are.
    pub quantize: Option<GgmlType>,
    /// Is told again and again how many bytes of matrices have been read.
    pub progress: &'a dyn Fn(usize),
}

/// A transformer whose weights stay in the file's own layout.
pub struct Transformer {
    config: ModelConfig,
    isa: Isa,
    pool: ThreadPool,
    embedding: Matrix,
    /// `(context_length, hidden)`, where the family has it.
    position_embedding: Option<Matrix>,
    layer_embedding: Option<LayerEmbedding>,
    layers: Vec<Layer>,
    output_norm: NormWeights,
    /// Absent where the embedding serves for both.
    output: Option<Matrix>,
    buffers: Buffers,
    /// What loading did not look at, since it is read where it stands.
    unread: Vec<Tensor>,
    captured_layers: Vec<usize>,
    /// `(rows, captured layers, hidden)`.
    captured: Vec<f32>,
}

struct Layer {
    mixer: Mixer,
    feed_forward: FeedForward,
    input: Option<LayerInput>,
    /// Multiplies the residual stream that leaves the layer.
    scale: Option<f32>,
}

/// The half of a layer that looks at other positions.
enum Mixer {
    Attention(Box<Attention>),
    DeltaNet(Box<GatedDeltaNet>),
}

/// Weights of a norm, `(hidden)`.
struct NormWeights {
    scale: Vec<f32>,
    /// Zeros where the family has none.
    bias: Vec<f32>,
}

/// What runs a pass, apart from the weights.
struct Context<'a> {
    config: &'a ModelConfig,
    isa: Isa,
    pool: &'a mut ThreadPool,
}

/// Activations of one batch, kept between batches for their memory.
#[derive(Default)]
struct Buffers {
    /// Residual stream, `(rows, hidden)`.
    residual: Vec<f32>,
    /// Input of the next product, `(rows, hidden)`, in both forms.
    normed: Vec<f32>,
    quantized: QuantizedRows,
    /// What a half of a layer adds to the residual stream, `(rows, hidden)`.
    projected: Vec<f32>,
    attention: attention::Buffers,
    delta_net: delta_net::Buffers,
    feed_forward: feed_forward::Buffers,
    layer_embedding: EmbeddingBuffers,
}

impl Transformer {
    /// Takes the tensors that `config` asks for, and lays quantised matrices out for `isa`.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] if a tensor is missing or has another shape than the configuration says,
    /// [`EngineError::Unsupported`] for a tensor type without kernels, or a tensor that nothing would read,
    /// [`EngineError::BadWeight`] for weights that are not numbers. Of plain numbers that are multiplied where they stand in their
    /// file nothing is read for it: [`Model::require_numbers`] does.
    pub fn load(
        weights: &Weights,
        config: ModelConfig,
        n_threads: usize,
        isa: Isa,
    ) -> Result<Self, EngineError> {
        let options = LoadOptions {
            n_threads,
            isa,
            quantize: None,
            progress: &|_| {},
        };
        Self::load_with(weights, config, options)
    }

    /// As [`load`](Self::load), with all that can be asked for.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(
        weights: &Weights,
        config: ModelConfig,
        options: LoadOptions<'_>,
    ) -> Result<Self, EngineError> {
        let mut pool = ThreadPool::new(options.n_threads);
        let mut loader = Loader::new(weights, &config, options, &mut pool);
        let hidden = config.hidden;
        let layers = (0..config.n_layers)
            .map(|layer_idx| {
                let scale_name = format!("blk.{layer_idx}.layer_output_scale.weight");
                Ok(Layer {
                    mixer: Mixer::load(&mut loader, layer_idx)?,
                    feed_forward: FeedForward::load(&mut loader, layer_idx)?,
                    input: config
                        .layer_embedding
                        .map(|width| LayerInput::load(&mut loader, layer_idx, width))
                        .transpose()?,
                    scale: loader.optional_vector(&scale_name, 1)?.map(|it| it[0]),
                })
            })
            .collect::<Result<Vec<_>, EngineError>>()?;
        let output_norm = loader.norm("output_norm")?;
        let output = loader.optional_matrix("output.weight", config.vocab, hidden)?;
        let embedding = if output.is_some() {
            loader.table("token_embd.weight", config.vocab, hidden)?
        } else {
            loader.matrix("token_embd.weight", config.vocab, hidden)?
        };
        let layer_embedding = config
            .layer_embedding
            .map(|width| LayerEmbedding::load(&mut loader, width))
            .transpose()?;
        let position_embedding = config
            .learns_positions
            .then(|| loader.table(POSITION_EMBEDDING, config.context_length, hidden))
            .transpose()?;
        loader.refuse_the_rest()?;
        let unread = loader.into_unread();
        Ok(Self {
            isa: options.isa,
            pool,
            embedding,
            position_embedding,
            layer_embedding,
            layers,
            output_norm,
            output,
            buffers: Buffers::default(),
            unread,
            captured_layers: Vec::new(),
            captured: Vec::new(),
            config,
        })
    }

    /// The threads that it runs on.
    pub(crate) fn threads(&self) -> ThreadPool {
        self.pool.clone()
    }

    /// Runs on these threads from now on.
    pub(crate) fn run_on(&mut self, threads: ThreadPool) {
        self.pool = threads;
    }
}

impl Model for Transformer {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn settle_threads(&self) {
        self.pool.keep_on_cores();
    }

    fn forward(
        &mut self,
        batch: Batch<'_>,
        cache: &mut KvCache,
        logits: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        let (vocab, hidden, n_rows) = (self.config.vocab, self.config.hidden, batch.rows.len());
        if let Some(row) = batch.rows.iter().find(|row| row.token as usize >= vocab) {
            return Err(EngineError::BadRequest(format!(
                "token {} is outside the vocabulary of {vocab}",
                row.token
            )));
        }
        let buffers = &mut self.buffers;
        for buffer in [&mut buffers.residual, &mut buffers.normed, &mut buffers.projected] {
            buffer.resize(n_rows * hidden, 0.0);
        }
        self.captured
            .resize(n_rows * self.captured_layers.len() * hidden, 0.0);
        self.embed(batch);
        self.buffers.attention.prepare(&self.config, batch);
        if let Some(shape) = &self.config.delta_net {
            self.buffers.delta_net.prepare(shape, batch, cache);
        }
        if let Some(layer_embedding) = &self.layer_embedding {
            let context = &mut Context {
                config: &self.config,
                isa: self.isa,
                pool: &mut self.pool,
            };
            layer_embedding.prepare(context, batch, &mut self.buffers);
        }
        for layer_idx in 0..self.layers.len() {
            self.capture_residual(layer_idx);
            let context = &mut Context {
                config: &self.config,
                isa: self.isa,
                pool: &mut self.pool,
            };
            let layer = &self.layers[layer_idx];
            match &layer.mixer {
                Mixer::Attention(it) => it.run(context, layer_idx, batch, cache, &mut self.buffers),
                Mixer::DeltaNet(it) => it.run(context, cache, &mut self.buffers),
            }
            layer.feed_forward.run(context, n_rows, &mut self.buffers);
            if let Some(input) = &layer.input {
                input.run(context, (layer_idx, n_rows), &mut self.buffers);
            }
            scale_by(&mut self.buffers.residual, layer.scale.unwrap_or(1.0));
        }
        self.capture_residual(self.layers.len());
        self.score(batch, logits);
        Ok(())
    }

    fn require_numbers(&self) -> Result<(), EngineError> {
        self.unread.iter().try_for_each(|tensor| {
            let outcome = quant::require_numbers(tensor);
            tensor.release();
            outcome
        })
    }

    fn capture(&mut self, layers: &[usize]) -> Result<(), EngineError> {
        if let Some(layer) = layers.iter().find(|layer| **layer > self.layers.len()) {
            return Err(EngineError::Unsupported {
                what: "captured layer",
                found: layer.to_string(),
                known: format!("0 to {}", self.layers.len()),
            });
        }
        self.captured_layers = layers.to_vec();
        Ok(())
    }

    fn captured(&self) -> &[f32] {
        &self.captured
    }
}

impl Transformer {
    /// Keeps the residual stream that enters layer `layer_idx`, if it was asked for.
    fn capture_residual(&mut self, layer_idx: usize) {
        let (hidden, n_captured) = (self.config.hidden, self.captured_layers.len());
        let wanted = self.captured_layers.iter().enumerate();
        for (place, _) in wanted.filter(|(_, layer)| **layer == layer_idx) {
            let rows = self.captured.chunks_exact_mut(n_captured * hidden);
            for (captured, residual) in rows.zip(self.buffers.residual.chunks_exact(hidden)) {
                captured[place * hidden..][..hidden].copy_from_slice(residual);
            }
        }
    }

    fn embed(&mut self, batch: Batch<'_>) {
        let residual = self.buffers.residual.chunks_exact_mut(self.config.hidden);
        for (row, residual) in batch.rows.iter().zip(residual) {
            self.embedding.row(row.token as usize, residual);
            scale_by(residual, self.config.embedding_scale);
        }
        let Some(positions) = &self.position_embedding else {
            return;
        };
        let own = &mut self.buffers.normed;
        let rows = self.buffers.residual.chunks_exact_mut(self.config.hidden);
        for ((row, residual), own) in batch
            .rows
            .iter()
            .zip(rows)
            .zip(own.chunks_exact_mut(self.config.hidden))
        {
            // Drafts may lead beyond the last position, and are not accepted there.
            positions.row(row.position().min(self.config.context_length - 1), own);
            add_to(residual, own);
        }
    }

    /// Logits of the rows that want them.
    fn score(&mut self, batch: Batch<'_>, logits: &mut Vec<f32>) {
        let (config, buffers) = (&self.config, &mut self.buffers);
        let hidden = config.hidden;
        let mut n_wanted = 0;
        for (row, _) in batch.rows.iter().enumerate().filter(|(_, row)| row.wants_logits) {
            buffers
                .residual
                .copy_within(row * hidden..(row + 1) * hidden, n_wanted * hidden);
            n_wanted += 1;
        }
        logits.resize(n_wanted * config.vocab, 0.0);
        if n_wanted == 0 {
            return;
        }
        buffers.residual.truncate(n_wanted * hidden);
        buffers.normed.truncate(n_wanted * hidden);
        let context = &mut Context {
            config,
            isa: self.isa,
            pool: &mut self.pool,
        };
        buffers.norm_residual(context, &self.output_norm);
        let matrix = self.output.as_ref().unwrap_or(&self.embedding);
        let product = Product { matrix, out: logits };
        multiply(self.isa, context.pool, buffers.input(), n_wanted, [product]);
        scale_by(logits, config.logit_scale);
        if let Some(limit) = config.logit_cap {
            cap(self.isa, logits, limit);
        }
    }
}

impl Mixer {
    fn load(loader: &mut Loader<'_>, layer_idx: usize) -> Result<Self, EngineError> {
        let shape = loader
            .config
            .delta_net
            .filter(|_| loader.config.layers[layer_idx].has_state);
        Ok(match shape {
            Some(shape) => Self::DeltaNet(Box::new(GatedDeltaNet::load(loader, layer_idx, shape)?)),
            None => Self::Attention(Box::new(Attention::load(loader, layer_idx)?)),
        })
    }
}

impl Buffers {
    /// `normed` and its 8-bit form from the residual stream.
    fn norm_residual(&mut self, context: &mut Context<'_>, weights: &NormWeights) {
        let (isa, hidden, residual) = (context.isa, context.config.hidden, &self.residual);
        let norm = context.norm_of(weights);
        self.quantized
            .make_rows(isa, context.pool, &mut self.normed, hidden, &|range, out| {
                norm(&residual[range], out);
            });
    }

    /// The 8-bit form of the residual stream itself.
    fn quantize_residual(&mut self, context: &mut Context<'_>) {
        let (isa, hidden) = (context.isa, context.config.hidden);
        self.quantized.set_rows(isa, context.pool, &self.residual, hidden);
    }

    /// What [`norm_residual`](Self::norm_residual) left.
    fn input(&self) -> Input<'_> {
        Input {
            rows: &self.normed,
            quantized: &self.quantized,
        }
    }

    /// Adds `projected` to the residual stream, after its own norm where the family has one. Uses up `normed`.
    fn add_projected(&mut self, context: &mut Context<'_>, post_norm: Option<&NormWeights>) {
        let added = match post_norm {
            Some(weights) => {
                context.norm(weights, &self.projected, &mut self.normed);
                &mut self.normed
            }
            None => &mut self.projected,
        };
        scale_by(added, context.config.residual_scale);
        add_to(&mut self.residual, added);
    }
}

impl Context<'_> {
    /// `out = norm(rows)`, both `(rows, hidden)`.
    fn norm(&mut self, weights: &NormWeights, rows: &[f32], out: &mut [f32]) {
        let (hidden, norm) = (self.config.hidden, self.norm_of(weights));
        let out = SharedOut::new(out);
        self.pool.run_rows(rows.len() / hidden, hidden, &|range| {
            // SAFETY: every row is another range.
            norm(&rows[range.clone()], unsafe { out.slice(range) });
        });
    }

    /// The norm of one row, to be written to another place.
    fn norm_of<'a>(&self, weights: &'a NormWeights) -> impl Fn(&[f32], &mut [f32]) + Sync + use<'a> {
        let isa = self.isa;
        let Norm {
            subtracts_mean,
            epsilon,
            ..
        } = self.config.norm;
        move |row, out| {
            if subtracts_mean {
                layer_norm(isa, row, &weights.scale, &weights.bias, epsilon, out);
            } else {
                rms_norm(isa, row, &weights.scale, epsilon, out);
            }
        }
    }
}

/// Multiplies by a constant that most families do not have.
fn scale_by(rows: &mut [f32], scale: f32) {
    if scale != 1.0 {
        rows.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Adds `bias` to every row, if there is one.
fn add_bias(rows: &mut [f32], bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        rows.chunks_exact_mut(bias.len())
            .for_each(|row| add_to(row, bias));
    }
}

fn add_to(sum: &mut [f32], x: &[f32]) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += x;
    }
}
