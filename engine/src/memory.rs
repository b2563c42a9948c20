//! What a model takes of memory, known from the headers of its files and the options: no weight is read for it.

mod system;

use std::{fmt, path::Path};

pub use self::system::SystemMemory;
use crate::{
    engine::EngineOptions,
    error::EngineError,
    kernels::matmul::STRIPE_BYTES,
    kv_cache::{BLOCK_LEN, KvCache},
    model::{
        CacheShape, Checkpoint, DeltaNet, ExpertChoice, LatentAttention, LayerConfig, ModelConfig,
        loaded_bytes,
    },
};

/// Full contexts that the KV cache has room for, if nothing else is asked for: prefixes of the files that are open.
pub const DEFAULT_CONTEXTS: usize = 32;

/// Most memory that the KV cache takes, in bytes, if nothing else is asked for.
pub const DEFAULT_KV_CACHE_BYTES: usize = 512 << 20;

/// What tokenizers of 16,000 and 152,000 tokens take for each: bytes, ranks of merges and their indices.
const TOKEN_BYTES: usize = 96;

/// Rows with logits in the widest step of one sequence: a long draft.
const LOGIT_ROWS: usize = 16;

/// Shortest context that is worth suggesting to somebody whose model does not fit.
const LEAST_CONTEXT: usize = 512;

/// What a model takes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights as they lie in memory once they are loaded. An embedding beside a separate output matrix stays in its file,
    /// of which single rows are read, and does not count.
    pub weight_bytes: usize,
    /// Keys and values of one position in all layers.
    pub kv_bytes_per_token: usize,
    /// Keys and values of all blocks, if they are ever used.
    pub kv_bytes: usize,
    /// Keys and values without which the options cannot be followed: what they ask for, or those of one sequence.
    pub least_kv_bytes: usize,
    /// Activations of the widest step, and the vocabulary.
    pub working_bytes: usize,
    /// All of the drafter.
    pub drafter_bytes: usize,
    /// What loading takes besides, for a moment: a part of a matrix as its file has it.
    pub loading_bytes: usize,
    /// Most positions of one sequence under the options.
    pub context_length: usize,
}

impl MemoryPlan {
    /// The plan for a model, `n_tokens` of whose vocabulary are in its tokenizer, and a drafter that takes so much itself.
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        n_tokens: usize,
        drafter_bytes: usize,
        options: &EngineOptions,
    ) -> Self {
        let config = checkpoint.config();
        let room = KvRoom::new(config, options);
        let laid_out = checkpoint
            .weights()
            .iter()
            .filter(|(_, tensor)| tensor.panels().is_none());
        let matrices = laid_out.map(|(_, tensor)| tensor.n_bytes());
        Self {
            weight_bytes: loaded_bytes(checkpoint, options.quantize),
            kv_bytes_per_token: room.block_bytes.div_ceil(BLOCK_LEN),
            kv_bytes: room.n_blocks.saturating_mul(room.block_bytes),
            least_kv_bytes: room.least_blocks.saturating_mul(room.block_bytes),
            working_bytes: activation_bytes(config, options.step.prefill_rows) + n_tokens * TOKEN_BYTES,
            drafter_bytes,
            loading_bytes: matrices.max().unwrap_or(0).min(STRIPE_BYTES),
            context_length: room.context_length,
        }
    }

    /// All of it, with every block of the KV cache in use.
    pub fn total_bytes(&self) -> usize {
        self.fixed_bytes().saturating_add(self.kv_bytes)
    }

    /// The least with which the model can run as the options say.
    pub fn least_bytes(&self) -> usize {
        self.fixed_bytes().saturating_add(self.least_kv_bytes)
    }

    /// Most that is taken at any time, be it while loading or later.
    pub fn peak_bytes(&self) -> usize {
        self.total_bytes()
            .max(self.fixed_bytes().saturating_add(self.loading_bytes))
    }

    /// Positions for whose keys and values there is room beside everything else, up to `most`.
    pub fn fitting_context(&self, available_bytes: usize, most: usize) -> usize {
        let room = available_bytes.saturating_sub(self.fixed_bytes());
        let n_blocks = room / (self.kv_bytes_per_token * BLOCK_LEN).max(1);
        n_blocks.saturating_mul(BLOCK_LEN).min(most)
    }

    /// Whether the model can run where so many bytes are available; if not, by how much it does not fit and what to try.
    pub fn check(&self, available_bytes: usize) -> Result<(), String> {
        let Some(lacking) = self
            .least_bytes()
            .checked_sub(available_bytes)
            .filter(|it| *it > 0)
        else {
            return Ok(());
        };
        Err(format!(
            "{} ({}), {} are available, {} too little: {}",
            Bytes(self.least_bytes()),
            self.parts(),
            Bytes(available_bytes),
            Bytes(lacking),
            self.remedy(available_bytes)
        ))
    }

    /// Bytes that the KV cache may take where so many are available: all that it would, unless that is too much.
    ///
    /// # Errors
    /// [`EngineError::TooLarge`] if the model cannot run with them.
    pub(crate) fn fit(&self, path: &Path, available_bytes: usize) -> Result<usize, EngineError> {
        self.check(available_bytes)
            .map_err(|misfit| EngineError::TooLarge {
                path: path.into(),
                misfit,
            })?;
        Ok(self.kv_bytes.min(available_bytes - self.fixed_bytes()))
    }

    /// In one line for people, such as the log's readers.
    pub fn summary(&self) -> String {
        format!(
            "{} of weights, up to {} of keys and values, {} at most",
            Bytes(self.weight_bytes),
            Bytes(self.kv_bytes),
            Bytes(self.peak_bytes())
        )
    }

    /// The least that is needed, part by part.
    fn parts(&self) -> String {
        let drafter = match self.drafter_bytes {
            0 => String::new(),
            bytes => format!(", {} for what drafts", Bytes(bytes)),
        };
        format!(
            "{} of weights, {} of keys and values{drafter}, {} to work with",
            Bytes(self.weight_bytes),
            Bytes(self.least_kv_bytes),
            Bytes(self.working_bytes)
        )
    }

    /// What could be done about a model that does not fit.
    fn remedy(&self, available_bytes: usize) -> String {
        let fitting = self.fitting_context(available_bytes, self.context_length);
        if fitting < LEAST_CONTEXT.min(self.context_length) {
            return "choose a smaller model or one in fewer bits (`engine.quantize` makes fewer of 16), or end other programs"
                .to_owned();
        }
        let room = available_bytes.saturating_sub(self.fixed_bytes());
        format!(
            "set `engine.kv_cache_bytes` to at most {room}, which is {fitting} tokens; `engine.kv_cache_type = \"q8_0\"` \
             nearly doubles them"
        )
    }

    fn fixed_bytes(&self) -> usize {
        self.weight_bytes
            .saturating_add(self.working_bytes)
            .saturating_add(self.drafter_bytes)
    }
}

/// How many blocks of keys and values a model gets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KvRoom {
    pub(crate) block_bytes: usize,
    pub(crate) n_blocks: usize,
    /// Blocks that the options insist on.
    least_blocks: usize,
    /// Most positions of one sequence.
    pub(crate) context_length: usize,
}

impl KvRoom {
    pub(crate) fn new(config: &ModelConfig, options: &EngineOptions) -> Self {
        let block_bytes = KvCache::block_bytes(config, options.kv_cache_type).max(1);
        let asked_for = options.context_length.unwrap_or(usize::MAX);
        let context_length = config.context_length.min(asked_for);
        let context_blocks = context_length.div_ceil(BLOCK_LEN);
        let n_blocks = match options.kv_cache_bytes {
            Some(bytes) => bytes / block_bytes,
            None => (DEFAULT_KV_CACHE_BYTES / block_bytes).min(DEFAULT_CONTEXTS * context_blocks),
        };
        let n_blocks = n_blocks.max(1);
        Self {
            block_bytes,
            n_blocks,
            least_blocks: match options.kv_cache_bytes {
                Some(_) => n_blocks,
                None => n_blocks.min(context_blocks),
            },
            context_length: context_length.min(n_blocks * BLOCK_LEN),
        }
    }
}

/// Bytes of the activations of a step of `n_rows` rows, a few of which want logits.
pub(crate) fn activation_bytes(config: &ModelConfig, n_rows: usize) -> usize {
    // Residual stream, its norm, what is added to it, and the last two once more for experts; what is read by products is
    // there in a second form of the same size.
    let of_row = 7 * config.hidden
        + attention_width(config)
        + config.delta_net.as_ref().map_or(0, delta_net_width)
        + 3 * feed_forward_width(config)
        + config
            .layer_embedding
            .map_or(0, |width| (config.n_layers + 3) * width);
    size_of::<f32>() * (n_rows * of_row + LOGIT_ROWS * config.vocab)
}

/// Numbers of a row that attention works on, in the layer where they are most.
fn attention_width(config: &ModelConfig) -> usize {
    let of_layer = |cached: &CacheShape| {
        let gates = if config.gates_attention {
            3 * cached.key_dim
        } else {
            0
        };
        // Queries, what they see, in two forms; keys and values.
        config.n_heads * (cached.key_dim + 2 * cached.value_dim + gates)
            + cached.n_heads * (cached.key_dim + cached.value_dim)
    };
    let of_latent = |shape: &LatentAttention| {
        // Queries and values, and what the heads' own matrices read, in two forms, and write.
        let of_head = shape.plain_dim + shape.rotated_dim + shape.value_dim + 3 * shape.rank;
        config.n_heads * of_head + 2 * shape.query_rank.unwrap_or(0)
    };
    config.caches.iter().map(of_layer).max().unwrap_or(0) + config.latent.as_ref().map_or(0, of_latent)
}

/// Numbers of a row that a delta net works on.
fn delta_net_width(shape: &DeltaNet) -> usize {
    // What the convolution sees, on its own and with the gates of the heads, and what it makes of it; the output's gate, in two
    // forms, and answers.
    shape.conv_width() + shape.input_width() + shape.conv_width() + 3 * shape.value_width()
}

/// Width of the widest feed-forward layer or expert that is run.
fn feed_forward_width(config: &ModelConfig) -> usize {
    let runs_dense = |layer: &&LayerConfig| {
        let has_only_experts = |experts: ExpertChoice| layer.has_experts && !experts.are_beside_dense;
        !config.experts.is_some_and(has_only_experts)
    };
    let dense = config.layers.iter().filter(runs_dense).map(|it| it.feed_forward);
    let experts = config.experts.iter();
    dense
        .chain(experts.flat_map(|it| [it.width, it.shared_width.unwrap_or(0)]))
        .max()
        .unwrap_or(0)
}

/// A number of bytes, shown in the unit that suits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut amount = self.0 as f64 / 1024.0;
        let mut units = ["KiB", "MiB", "GiB", "TiB"].into_iter();
        let mut unit = units.next().unwrap_or_default();
        for larger in units {
            if amount < 1000.0 {
                break;
            }
            amount /= 1024.0;
            unit = larger;
        }
        // Three digits.
        let decimals = if amount < 10.0 {
            2
        } else {
            usize::from(amount < 100.0)
        };
        f.pad(&format!("{amount:.decimals$} {unit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv_cache::CacheType;

    fn plan() -> MemoryPlan {
        MemoryPlan {
            weight_bytes: 1000 << 20,
            kv_bytes_per_token: 1 << 10,
            kv_bytes: 512 << 20,
            least_kv_bytes: 128 << 20,
            working_bytes: 24 << 20,
            drafter_bytes: 0,
            loading_bytes: 600 << 20,
            context_length: 128 << 10,
        }
    }

    #[test]
    fn the_cache_shrinks_before_a_model_is_refused() {
        let plan = plan();
        let fit = |mebibytes: usize| plan.fit(Path::new("m.gguf"), mebibytes << 20);
        assert_eq!(plan.total_bytes(), 1536 << 20);
        assert_eq!(plan.peak_bytes(), 1624 << 20);
        assert_eq!(fit(4096).unwrap(), 512 << 20);
        assert_eq!(fit(1224).unwrap(), 200 << 20);
        assert_eq!(plan.fitting_context(1224 << 20, 1 << 20), 200 << 10);
        assert_eq!(plan.fitting_context(1224 << 20, 5000), 5000);
        expect_test::expect![[r#"
            m.gguf needs 1.12 GiB (0.98 GiB of weights, 128 MiB of keys and values, 24.0 MiB to work with), 1.06 GiB are available, 64.0 MiB too little: set `engine.kv_cache_bytes` to at most 67108864, which is 65536 tokens; `engine.kv_cache_type = "q8_0"` nearly doubles them"#]]
        .assert_eq(&fit(1088).unwrap_err().to_string());
        assert!(fit(900).unwrap_err().to_string().ends_with(
            "too little: choose a smaller model or one in fewer bits (`engine.quantize` makes fewer of 16), or end other programs"
        ));
    }

    #[test]
    fn options_say_what_the_cache_must_hold() {
        let config = ModelConfig::bare("x", 2, 4, 32);
        let room = |options: EngineOptions| {
            let room = KvRoom::new(&config, &options);
            (room.n_blocks, room.least_blocks, room.context_length)
        };
        let default = EngineOptions::default();
        assert_eq!(room(default.clone()), (32 * 128, 128, 4096));
        let context_length = Some(100);
        assert_eq!(
            room(EngineOptions {
                context_length,
                ..default.clone()
            }),
            (128, 4, 100)
        );
        let kv_cache_bytes = Some(10 * 2 * 2 * 4 * 32 * 64);
        assert_eq!(
            room(EngineOptions {
                kv_cache_bytes,
                ..default.clone()
            }),
            (10, 10, 320)
        );
        let kv_cache_type = CacheType::Q8_0;
        let q8_0 = KvRoom::new(
            &config,
            &EngineOptions {
                kv_cache_type,
                ..default
            },
        );
        assert_eq!(q8_0.block_bytes, 2 * 2 * 4 * 32 * 34);
    }

    #[test]
    fn bytes_have_three_digits() {
        let shown = [0, 999 << 10, 1 << 20, 1200 << 20, 15 << 30, 4 << 40].map(|it| Bytes(it).to_string());
        assert_eq!(
            shown,
            [
                "0.00 KiB", "999 KiB", "1.00 MiB", "1.17 GiB", "15.0 GiB", "4.00 TiB"
            ]
        );
    }
}
