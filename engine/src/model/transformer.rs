//! The forward pass shared by the Llama-like families (Llama, Mistral, Qwen2, Qwen3), on a CPU.
//!
//! A family differs only by what its file holds: biases (Qwen2), norms of queries and keys (Qwen3), tied or
//! separate output head, pairing of the rotary embedding. The slow version is [`super::reference`].

use crate::{
    error::EngineError,
    kernels::{
        Isa, SharedOut,
        attention::{AttentionShape, attend},
        float::rotate,
        matmul::{Input, Matrix, Product, QuantizedRows, multiply},
        norm::{rms_norm, rms_norm_in_place, swiglu},
        pool::ThreadPool,
    },
    kv_cache::{BLOCK_LEN, KvCache},
    model::{Batch, Model, ModelConfig, RopePairing},
    quant,
    weights::Gguf,
};

/// A transformer whose weights stay in the file's own layout.
pub struct Transformer {
    config: ModelConfig,
    isa: Isa,
    pool: ThreadPool,
    embedding: Matrix,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    /// Absent where the embedding serves for both.
    output: Option<Matrix>,
    /// Rotations per position of each pair, `(head_dim / 2)`.
    rope_frequencies: Vec<f32>,
    buffers: Buffers,
    captured_layers: Vec<usize>,
    /// `(rows, captured layers, hidden)`.
    captured: Vec<f32>,
}

struct Layer {
    attention_norm: Vec<f32>,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    query_bias: Option<Vec<f32>>,
    key_bias: Option<Vec<f32>>,
    value_bias: Option<Vec<f32>>,
    query_norm: Option<Vec<f32>>,
    key_norm: Option<Vec<f32>>,
    attention_output: Matrix,
    feed_forward_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// Activations of one batch, kept between batches for their memory.
#[derive(Default)]
struct Buffers {
    /// Residual stream, `(rows, hidden)`.
    residual: Vec<f32>,
    /// Input of the next product, in both forms.
    normed: Vec<f32>,
    quantized: QuantizedRows,
    /// `(rows, n_heads, head_dim)`.
    query: Vec<f32>,
    /// `(rows, n_kv_heads, head_dim)`.
    key: Vec<f32>,
    value: Vec<f32>,
    /// `(rows, n_heads, head_dim)`.
    attended: Vec<f32>,
    /// `(rows, feed_forward)`.
    gate: Vec<f32>,
    up: Vec<f32>,
    /// Result of the products that go back to the residual stream, `(rows, hidden)`.
    projected: Vec<f32>,
    /// `(rows, head_dim / 2)`.
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Transformer {
    /// Reads the names and shapes of `gguf`; the weights themselves stay where they are.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] if a tensor is missing or has another shape than the metadata says,
    /// [`EngineError::Unsupported`] for a tensor type without kernels.
    pub fn load(gguf: &Gguf, config: ModelConfig, n_threads: usize, isa: Isa) -> Result<Self, EngineError> {
        refuse_unknown_tensors(gguf, &config)?;
        let ModelConfig {
            hidden,
            head_dim,
            feed_forward,
            ..
        } = config;
        let (query_width, key_width) = (config.n_heads * head_dim, config.n_kv_heads * head_dim);
        let layers = (0..config.n_layers)
            .map(|idx| {
                let name = |part: &str| format!("blk.{idx}.{part}");
                Ok(Layer {
                    attention_norm: vector(gguf, &name("attn_norm.weight"), hidden)?,
                    query: Matrix::load(gguf, &name("attn_q.weight"), query_width, hidden)?,
                    key: Matrix::load(gguf, &name("attn_k.weight"), key_width, hidden)?,
                    value: Matrix::load(gguf, &name("attn_v.weight"), key_width, hidden)?,
                    query_bias: optional_vector(gguf, &name("attn_q.bias"), query_width)?,
                    key_bias: optional_vector(gguf, &name("attn_k.bias"), key_width)?,
                    value_bias: optional_vector(gguf, &name("attn_v.bias"), key_width)?,
                    query_norm: optional_vector(gguf, &name("attn_q_norm.weight"), head_dim)?,
                    key_norm: optional_vector(gguf, &name("attn_k_norm.weight"), head_dim)?,
                    attention_output: Matrix::load(gguf, &name("attn_output.weight"), hidden, query_width)?,
                    feed_forward_norm: vector(gguf, &name("ffn_norm.weight"), hidden)?,
                    gate: Matrix::load(gguf, &name("ffn_gate.weight"), feed_forward, hidden)?,
                    up: Matrix::load(gguf, &name("ffn_up.weight"), feed_forward, hidden)?,
                    down: Matrix::load(gguf, &name("ffn_down.weight"), hidden, feed_forward)?,
                })
            })
            .collect::<Result<Vec<_>, EngineError>>()?;
        let output = match gguf.tensor("output.weight") {
            Some(_) => Some(Matrix::load(gguf, "output.weight", config.vocab, hidden)?),
            None => None,
        };
        Ok(Self {
            isa,
            pool: ThreadPool::new(n_threads),
            embedding: Matrix::load(gguf, "token_embd.weight", config.vocab, hidden)?,
            layers,
            output_norm: vector(gguf, "output_norm.weight", hidden)?,
            output,
            rope_frequencies: rope_frequencies(gguf, &config)?,
            buffers: Buffers::default(),
            captured_layers: Vec::new(),
            captured: Vec::new(),
            config,
        })
    }
}

impl Model for Transformer {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn forward(
        &mut self,
        batch: Batch<'_>,
        cache: &mut KvCache,
        logits: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        let vocab = self.config.vocab;
        if let Some(row) = batch.rows.iter().find(|row| row.token as usize >= vocab) {
            return Err(EngineError::BadRequest(format!(
                "token {} is outside the vocabulary of {vocab}",
                row.token
            )));
        }
        self.buffers.resize(&self.config, batch.rows.len());
        self.embed(batch);
        self.prepare_rotations(batch);
        self.captured.resize(
            batch.rows.len() * self.captured_layers.len() * self.config.hidden,
            0.0,
        );
        for layer_idx in 0..self.layers.len() {
            self.capture_residual(layer_idx);
            self.attention(layer_idx, batch, cache);
            self.feed_forward(layer_idx, batch.rows.len());
        }
        self.capture_residual(self.layers.len());
        self.score(batch, logits);
        Ok(())
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
        let hidden = self.config.hidden;
        for (row, residual) in batch
            .rows
            .iter()
            .zip(self.buffers.residual.chunks_exact_mut(hidden))
        {
            self.embedding.row(row.token as usize, residual);
        }
    }

    /// Cosines and sines are the same in every layer.
    fn prepare_rotations(&mut self, batch: Batch<'_>) {
        let n_pairs = self.rope_frequencies.len();
        let Buffers { cosines, sines, .. } = &mut self.buffers;
        let rotations = cosines
            .chunks_exact_mut(n_pairs)
            .zip(sines.chunks_exact_mut(n_pairs));
        for (row, (cosines, sines)) in batch.rows.iter().zip(rotations) {
            for ((frequency, cos), sin) in self.rope_frequencies.iter().zip(cosines).zip(sines) {
                (*sin, *cos) = (row.position() as f32 * frequency).sin_cos();
            }
        }
    }

    fn attention(&mut self, layer_idx: usize, batch: Batch<'_>, cache: &mut KvCache) {
        let Self {
            config,
            isa,
            pool,
            layers,
            buffers,
            ..
        } = self;
        let (layer, isa, n_rows) = (&layers[layer_idx], *isa, batch.rows.len());
        buffers.norm_residual(isa, pool, &layer.attention_norm, config.rms_norm_eps);
        let products = [
            Product {
                matrix: &layer.query,
                out: &mut buffers.query,
            },
            Product {
                matrix: &layer.key,
                out: &mut buffers.key,
            },
            Product {
                matrix: &layer.value,
                out: &mut buffers.value,
            },
        ];
        multiply(
            isa,
            pool,
            Input {
                rows: &buffers.normed,
                quantized: &buffers.quantized,
            },
            n_rows,
            products,
        );

        add_bias(&mut buffers.query, layer.query_bias.as_deref());
        add_bias(&mut buffers.key, layer.key_bias.as_deref());
        add_bias(&mut buffers.value, layer.value_bias.as_deref());
        let rotations = (&buffers.cosines[..], &buffers.sines[..]);
        norm_and_rotate(
            config,
            isa,
            pool,
            layer.query_norm.as_deref(),
            rotations,
            &mut buffers.query,
        );
        norm_and_rotate(
            config,
            isa,
            pool,
            layer.key_norm.as_deref(),
            rotations,
            &mut buffers.key,
        );

        let key_width = config.n_kv_heads * config.head_dim;
        let rows = buffers
            .key
            .chunks_exact(key_width)
            .zip(buffers.value.chunks_exact(key_width));
        for (row, (key, value)) in batch.rows.iter().zip(rows) {
            let slot = row.slot();
            let block = batch.blocks[row.sequence_idx as usize][slot / BLOCK_LEN];
            cache.write(layer_idx, block, slot % BLOCK_LEN, key, value);
        }
        let shape = AttentionShape {
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
        };
        attend(
            isa,
            pool,
            shape,
            batch,
            (cache, layer_idx),
            &buffers.query,
            &mut buffers.attended,
        );
        buffers
            .quantized
            .set_rows(isa, pool, &buffers.attended, layer.attention_output.n_inputs());
        let input = Input {
            rows: &buffers.attended,
            quantized: &buffers.quantized,
        };
        let product = Product {
            matrix: &layer.attention_output,
            out: &mut buffers.projected,
        };
        multiply(isa, pool, input, n_rows, [product]);
        add_to(&mut buffers.residual, &buffers.projected);
    }

    fn feed_forward(&mut self, layer_idx: usize, n_rows: usize) {
        let Self {
            config,
            isa,
            pool,
            layers,
            buffers,
            ..
        } = self;
        let (layer, isa) = (&layers[layer_idx], *isa);
        buffers.norm_residual(isa, pool, &layer.feed_forward_norm, config.rms_norm_eps);
        let products = [
            Product {
                matrix: &layer.gate,
                out: &mut buffers.gate,
            },
            Product {
                matrix: &layer.up,
                out: &mut buffers.up,
            },
        ];
        multiply(
            isa,
            pool,
            Input {
                rows: &buffers.normed,
                quantized: &buffers.quantized,
            },
            n_rows,
            products,
        );
        let gate = SharedOut::new(&mut buffers.gate);
        pool.run_rows(n_rows, config.feed_forward, &|range| {
            // SAFETY: every row is another range.
            swiglu(isa, unsafe { gate.slice(range.clone()) }, &buffers.up[range]);
        });
        buffers
            .quantized
            .set_rows(isa, pool, &buffers.gate, config.feed_forward);
        let input = Input {
            rows: &buffers.gate,
            quantized: &buffers.quantized,
        };
        multiply(
            isa,
            pool,
            input,
            n_rows,
            [Product {
                matrix: &layer.down,
                out: &mut buffers.projected,
            }],
        );
        add_to(&mut buffers.residual, &buffers.projected);
    }

    /// Logits of the rows that want them.
    fn score(&mut self, batch: Batch<'_>, logits: &mut Vec<f32>) {
        let Self {
            config,
            isa,
            pool,
            buffers,
            output,
            embedding,
            ..
        } = self;
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
        buffers.norm_residual(*isa, pool, &self.output_norm, config.rms_norm_eps);
        let matrix = output.as_ref().unwrap_or(embedding);
        let input = Input {
            rows: &buffers.normed,
            quantized: &buffers.quantized,
        };
        multiply(*isa, pool, input, n_wanted, [Product { matrix, out: logits }]);
    }
}

impl Buffers {
    fn resize(&mut self, config: &ModelConfig, n_rows: usize) {
        let (query_width, key_width) = (
            config.n_heads * config.head_dim,
            config.n_kv_heads * config.head_dim,
        );
        for (buffer, width) in [
            (&mut self.residual, config.hidden),
            (&mut self.normed, config.hidden),
            (&mut self.projected, config.hidden),
            (&mut self.query, query_width),
            (&mut self.attended, query_width),
            (&mut self.key, key_width),
            (&mut self.value, key_width),
            (&mut self.gate, config.feed_forward),
            (&mut self.up, config.feed_forward),
            (&mut self.cosines, config.head_dim / 2),
            (&mut self.sines, config.head_dim / 2),
        ] {
            buffer.resize(n_rows * width, 0.0);
        }
    }

    /// `normed` and its 8-bit form from the residual stream.
    fn norm_residual(&mut self, isa: Isa, pool: &mut ThreadPool, weight: &[f32], eps: f32) {
        let hidden = weight.len();
        let n_rows = self.residual.len() / hidden;
        let normed = SharedOut::new(&mut self.normed);
        pool.run_rows(n_rows, hidden, &|range| {
            // SAFETY: every row is another range.
            rms_norm(isa, &self.residual[range.clone()], weight, eps, unsafe {
                normed.slice(range)
            });
        });
        self.quantized.set_rows(isa, pool, &self.normed, hidden);
    }
}

/// Norms each head where the family has it, then rotates it by its row's position.
///
/// `rows` is `(rows, heads, head_dim)`, `rotations` cosines and sines, `(rows, head_dim / 2)`.
fn norm_and_rotate(
    config: &ModelConfig,
    isa: Isa,
    pool: &mut ThreadPool,
    norm: Option<&[f32]>,
    (cosines, sines): (&[f32], &[f32]),
    rows: &mut [f32],
) {
    let n_pairs = config.head_dim / 2;
    let n_rows = cosines.len() / n_pairs;
    let width = rows.len() / n_rows;
    let halves = config.rope_pairing == RopePairing::Halves;
    let rows = SharedOut::new(rows);
    pool.run_rows(n_rows, width, &|range| {
        let pairs = range.start / width * n_pairs..(range.start / width + 1) * n_pairs;
        // SAFETY: every row is another range.
        for head in unsafe { rows.slice(range) }.chunks_exact_mut(config.head_dim) {
            if let Some(weight) = norm {
                rms_norm_in_place(isa, head, weight, config.rms_norm_eps);
            }
            rotate(head, &cosines[pairs.clone()], &sines[pairs.clone()], halves);
        }
    });
}

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

/// Tensors of a layer that this forward pass reads.
const LAYER_TENSORS: [&str; 14] = [
    "attn_norm.weight",
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_q.bias",
    "attn_k.bias",
    "attn_v.bias",
    "attn_q_norm.weight",
    "attn_k_norm.weight",
    "attn_output.weight",
    "ffn_norm.weight",
    "ffn_gate.weight",
    "ffn_up.weight",
    "ffn_down.weight",
];

/// Refuses a file with weights that this forward pass would pass over: its text would be wrong without a word.
fn refuse_unknown_tensors(gguf: &Gguf, config: &ModelConfig) -> Result<(), EngineError> {
    let is_known = |name: &str| match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) => {
            layer.parse().is_ok_and(|layer: usize| layer < config.n_layers) && LAYER_TENSORS.contains(&part)
        }
        None => [
            "token_embd.weight",
            "output_norm.weight",
            "output.weight",
            "rope_freqs.weight",
        ]
        .contains(&name),
    };
    match gguf.tensors().find(|tensor| !is_known(&tensor.name)) {
        None => Ok(()),
        Some(tensor) => Err(EngineError::Unsupported {
            what: "tensor",
            found: tensor.name.clone(),
            known: format!(
                "for {}: per layer {}",
                config.architecture,
                LAYER_TENSORS.join(", ")
            ),
        }),
    }
}

/// A vector of `len` numbers, as single precision.
pub(super) fn vector(gguf: &Gguf, name: &str, len: usize) -> Result<Vec<f32>, EngineError> {
    let tensor = gguf.require(name)?;
    quant::require_known(&tensor)?;
    if tensor.n_elements() != len {
        return Err(EngineError::BadFile {
            path: gguf.path().into(),
            field: name.into(),
            reason: format!(
                "{} numbers found, {len} expected from the metadata",
                tensor.n_elements()
            ),
        });
    }
    let mut numbers = vec![0.0; len];
    quant::dequantize_row(tensor.dtype, tensor.bytes(), &mut numbers);
    Ok(numbers)
}

/// As [`vector`], where the family may do without.
pub(super) fn optional_vector(gguf: &Gguf, name: &str, len: usize) -> Result<Option<Vec<f32>>, EngineError> {
    gguf.tensor(name).map(|_| vector(gguf, name, len)).transpose()
}

/// Rotations per position of each pair: theta^(-2i / head_dim), divided by the file's own factors where it has
/// them (Llama 3.1's long-context scaling, which llama.cpp stores as the tensor `rope_freqs.weight`).
pub(super) fn rope_frequencies(gguf: &Gguf, config: &ModelConfig) -> Result<Vec<f32>, EngineError> {
    let n_pairs = config.head_dim / 2;
    let factors = optional_vector(gguf, "rope_freqs.weight", n_pairs)?;
    if let Some(factor) = factors
        .iter()
        .flatten()
        .find(|factor| !(factor.is_finite() && **factor > 0.0))
    {
        return Err(EngineError::BadFile {
            path: gguf.path().into(),
            field: "rope_freqs.weight".into(),
            reason: format!("{factor} found, finite numbers above 0 expected"),
        });
    }
    let frequency = |pair: usize| {
        let exponent = -2.0 * pair as f64 / config.head_dim as f64;
        let factor = factors.as_ref().map_or(1.0, |factors| f64::from(factors[pair]));
        (f64::from(config.rope_theta).powf(exponent) / factor / f64::from(config.rope_scale)) as f32
    };
    Ok((0..n_pairs).map(frequency).collect())
}
