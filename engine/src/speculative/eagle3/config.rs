//! What the files of an EAGLE-3 head say: shape, constants, and tensors under one set of names.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{
    error::EngineError,
    model::{
        CacheShape, ModelConfig, published_rope,
        rope::{Rope, RopePairing, RopeScaling},
    },
    weights::{Gguf, WeightSource, Weights, fp8, safetensors},
};

/// Shape and constants of a head, and its tensors.
pub(super) struct HeadFile {
    pub(super) config: HeadConfig,
    pub(super) weights: Weights,
    /// For each token of the head the target's, where the head knows only some of them.
    pub(super) target_ids: Option<Vec<u32>>,
}

/// Shape and constants of a head.
pub(super) struct HeadConfig {
    /// The head's one layer, as far as the KV cache and the kernels ask.
    pub(super) shape: ModelConfig,
    /// Tokens that it can draft.
    pub(super) vocab: usize,
    pub(super) feed_forward: usize,
    pub(super) rope: Rope,
    /// What is normed of the target's residual streams before they are fused.
    pub(super) fusion_norm: FusionNorm,
    /// Whether the residual stream starts from the normed feature; else from the feature itself.
    pub(super) norm_before_residual: bool,
    /// Whether the feature for the next row is normed as the scores' input is, as in EAGLE-3.1; else it is the residual stream.
    pub(super) norm_output: bool,
    /// Layers of the target whose entering residual streams it reads.
    pub(super) target_layers: Vec<usize>,
}

/// What is normed of the captured streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FusionNorm {
    None,
    /// All of them together.
    Whole,
    /// Each of them, by a norm of its own.
    Each,
}

/// GGUF's names of tensors, and those of the published checkpoints.
const GGUF_NAMES: [(&str, &str); 16] = [
    ("enc.output_norm.weight", "input_norm.weight"),
    ("fc.weight", "fc.weight"),
    ("blk.0.attn_norm.weight", "midlayer.input_layernorm.weight"),
    ("blk.0.attn_norm_2.weight", "midlayer.hidden_norm.weight"),
    ("blk.0.attn_q.weight", "midlayer.self_attn.q_proj.weight"),
    ("blk.0.attn_k.weight", "midlayer.self_attn.k_proj.weight"),
    ("blk.0.attn_v.weight", "midlayer.self_attn.v_proj.weight"),
    ("blk.0.attn_output.weight", "midlayer.self_attn.o_proj.weight"),
    (
        "blk.0.ffn_norm.weight",
        "midlayer.post_attention_layernorm.weight",
    ),
    ("blk.0.ffn_gate.weight", "midlayer.mlp.gate_proj.weight"),
    ("blk.0.ffn_up.weight", "midlayer.mlp.up_proj.weight"),
    ("blk.0.ffn_down.weight", "midlayer.mlp.down_proj.weight"),
    ("output_norm.weight", "norm.weight"),
    ("output.weight", "lm_head.weight"),
    ("d2t", "d2t"),
    ("token_embd.weight", "embed_tokens.weight"),
];

impl HeadFile {
    /// Whether `source` is an EAGLE-3 head: a folder whose `config.json` says so, or a GGUF file of that architecture.
    pub(super) fn recognises(source: &WeightSource) -> bool {
        let path = source.path();
        if path.is_dir() {
            let config = read_config(path);
            return config.is_ok_and(|config| is_head(&config));
        }
        let gguf = Gguf::open(source.clone());
        gguf.is_ok_and(|gguf| {
            matches!(
                gguf.metadata().get_str("general.architecture"),
                Ok(Some("eagle3"))
            )
        })
    }

    /// Opens a head for a target of this shape.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] for what is missing or contradictory, [`EngineError::Unsupported`] for a variant of the
    /// architecture that the head's forward pass does not have.
    pub(super) fn open(source: WeightSource, target: &ModelConfig) -> Result<Self, EngineError> {
        if source.path().is_dir() {
            Self::from_folder(source.path(), target)
        } else {
            Self::from_gguf(&Gguf::open(source)?, target)
        }
    }

    fn from_folder(folder: &Path, target: &ModelConfig) -> Result<Self, EngineError> {
        let whole = read_config(folder)?;
        let config = whole.get("transformer_layer_config").unwrap_or(&whole);
        let keys = Keys {
            path: folder,
            whole: &whole,
            config,
        };
        keys.refuse_variants()?;
        let mut weights = safetensors::open_folder(folder, fp8::DEFAULT_BLOCK)?;
        weights.rename(|name| {
            let name = name.strip_prefix("model.").unwrap_or(name);
            // Which tokens the head knows; only training asks.
            (name != "t2d").then(|| match name.strip_prefix("layers.0.") {
                Some(rest) => format!("midlayer.{rest}"),
                None => name.to_owned(),
            })
        })?;
        let target_ids = weights.take("d2t").map(|tensor| {
            let ids = (0..).zip(i64s(tensor.bytes()));
            ids.map(|(id, delta): (i64, i64)| id + delta).collect::<Vec<_>>()
        });
        let hidden = keys.size("hidden_size")?;
        let n_heads = keys.size("num_attention_heads")?;
        let head_dim = keys.optional_size("head_dim")?.unwrap_or(hidden / n_heads);
        let (theta, scaling) = published_rope(config, &keys.file())?;
        let rope = Rope::new(
            RopePairing::Halves,
            theta,
            head_dim,
            &scaling,
            target.context_length,
        )
        .map_err(|reason| keys.bad("rope_scaling", reason))?;
        let vocab = keys.optional_size("draft_vocab_size")?.unwrap_or(target.vocab);
        let config = HeadConfig {
            shape: shape(
                hidden,
                n_heads,
                keys.optional_size("num_key_value_heads")?.unwrap_or(n_heads),
                head_dim,
                keys.number("rms_norm_eps")?.unwrap_or(1e-6),
            ),
            vocab,
            feed_forward: keys.size("intermediate_size")?,
            rope,
            fusion_norm: match (keys.flag("norm_before_fc"), keys.flag("fc_norm")) {
                (false, false) => FusionNorm::None,
                (true, false) => FusionNorm::Whole,
                (false, true) => FusionNorm::Each,
                (true, true) => return Err(unsupported("norm_before_fc and fc_norm at once")),
            },
            norm_before_residual: keys.flag("norm_before_residual"),
            // The second is TensorRT-LLM's name for it.
            norm_output: keys.flag("norm_output") || keys.flag("return_hidden_post_norm"),
            target_layers: keys.target_layers(target.n_layers)?,
        };
        Self::check(config, weights, target_ids, target)
    }

    fn from_gguf(gguf: &Gguf, target: &ModelConfig) -> Result<Self, EngineError> {
        let metadata = gguf.metadata();
        let size = |name: &str| -> Result<usize, EngineError> {
            Ok(metadata.require_u32(&format!("eagle3.{name}"))? as usize)
        };
        let flag = |name: &str| -> Result<bool, EngineError> {
            Ok(metadata.get_bool(&format!("eagle3.{name}"))?.unwrap_or(false))
        };
        let mut weights = gguf.weights();
        // Rotation factors are refused below, as every tensor that is not used.
        weights.rename(|name| {
            let known = GGUF_NAMES.iter().find(|(gguf, _)| *gguf == name);
            Some(known.map_or(name, |(_, published)| published).to_owned())
        })?;
        let target_ids = weights.take("d2t").map(|tensor| i64s(tensor.bytes()).collect());
        let hidden = size("embedding_length")?;
        let n_heads = size("attention.head_count")?;
        let head_dim = match metadata.get_u32("eagle3.attention.key_length")? {
            Some(head_dim) => head_dim as usize,
            None => hidden / n_heads.max(1),
        };
        let theta = metadata.get_f32("eagle3.rope.freq_base")?.unwrap_or(10_000.0);
        let rope = Rope::new(
            RopePairing::Adjacent,
            theta,
            head_dim,
            &RopeScaling::None,
            target.context_length,
        )
        .map_err(|reason| metadata.bad("eagle3.rope.freq_base", reason))?;
        let layers = metadata.get_u32_array("eagle3.target_layers")?;
        let vocab = weights
            .get("lm_head.weight")
            .map_or(target.vocab, |it| it.shape[0]);
        let config = HeadConfig {
            shape: shape(
                hidden,
                n_heads,
                size("attention.head_count_kv")?,
                head_dim,
                metadata.require_f32("eagle3.attention.layer_norm_rms_epsilon")?,
            ),
            vocab,
            feed_forward: size("feed_forward_length")?,
            rope,
            fusion_norm: if flag("norm_before_fc")? {
                FusionNorm::Whole
            } else {
                FusionNorm::None
            },
            norm_before_residual: flag("norm_before_residual")?,
            norm_output: false,
            target_layers: layers.map_or_else(
                || usual_layers(target.n_layers),
                |layers| layers.into_iter().map(|it| it as usize).collect(),
            ),
        };
        Self::check(config, weights, target_ids, target)
    }

    fn check(
        config: HeadConfig,
        weights: Weights,
        target_ids: Option<Vec<i64>>,
        target: &ModelConfig,
    ) -> Result<Self, EngineError> {
        let n_heads = config.shape.n_heads;
        let CacheShape {
            n_heads: n_kv_heads,
            key_dim: head_dim,
            ..
        } = config.shape.caches[0];
        let has_shape =
            n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads) && head_dim > 0 && head_dim % 2 == 0;
        if !has_shape || config.target_layers.is_empty() {
            return Err(weights.bad(
                "fc.weight",
                format!(
                    "{n_heads} heads of {head_dim}, {n_kv_heads} key heads and {} target layers do not fit together",
                    config.target_layers.len()
                ),
            ));
        }
        let known = |id: i64| u32::try_from(id).ok().filter(|id| (*id as usize) < target.vocab);
        let target_ids = match target_ids {
            None if config.vocab == target.vocab => None,
            None => return Err(weights.bad("d2t", "the tensor is missing".into())),
            Some(ids) => Some(
                ids.into_iter()
                    .map(known)
                    .collect::<Option<Vec<_>>>()
                    .ok_or_else(|| {
                        weights.bad(
                            "d2t",
                            format!("ids outside the target's vocabulary of {}", target.vocab),
                        )
                    })?,
            ),
        };
        if let Some(ids) = target_ids.as_ref().filter(|it| it.len() != config.vocab) {
            let reason = format!("{} ids found, {} expected", ids.len(), config.vocab);
            return Err(weights.bad("d2t", reason));
        }
        Ok(Self {
            config,
            weights,
            target_ids,
        })
    }
}

fn shape(hidden: usize, n_heads: usize, n_kv_heads: usize, head_dim: usize, epsilon: f32) -> ModelConfig {
    let mut shape = ModelConfig::bare("eagle3", 1, n_heads, head_dim);
    shape.hidden = hidden;
    shape.caches = vec![CacheShape::heads(n_kv_heads, head_dim)];
    shape.norm.epsilon = epsilon;
    shape
}

/// The layers that are read where a file does not say.
fn usual_layers(n_layers: usize) -> Vec<usize> {
    vec![2, n_layers / 2, n_layers.saturating_sub(3)]
}

fn i64s(bytes: &[u8]) -> impl Iterator<Item = i64> {
    let (numbers, _) = bytes.as_chunks::<8>();
    numbers.iter().map(|it| i64::from_le_bytes(*it))
}

fn unsupported(variant: &str) -> EngineError {
    EngineError::Unsupported {
        what: "variant of EAGLE-3",
        found: variant.to_owned(),
        known: "heads of one layer without biases, with the norms that SGLang and vLLM know".into(),
    }
}

fn read_config(folder: &Path) -> Result<Value, EngineError> {
    let path = folder.join("config.json");
    let bytes = WeightSource::File(path.clone()).open()?;
    serde_json::from_slice(&bytes).map_err(|err| EngineError::BadFile {
        path,
        field: "JSON".into(),
        reason: err.to_string(),
    })
}

fn is_head(config: &Value) -> bool {
    let mut names = config["architectures"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    names.any(|name| name.to_ascii_lowercase().contains("eagle3"))
}

/// The keys of a `config.json`.
struct Keys<'a> {
    path: &'a Path,
    whole: &'a Value,
    /// Where the layer is described: the whole, or a part of it.
    config: &'a Value,
}

impl Keys<'_> {
    fn refuse_variants(&self) -> Result<(), EngineError> {
        for flag in ["attention_bias", "bias", "mlp_bias"] {
            if self.flag(flag) {
                return Err(unsupported(flag));
            }
        }
        let eagle = self.whole.get("eagle_config");
        if eagle.and_then(|it| it.get("use_aux_hidden_state")) == Some(&Value::Bool(false)) {
            return Err(unsupported("use_aux_hidden_state: false"));
        }
        match self.optional_size("num_hidden_layers")? {
            None | Some(1) => Ok(()),
            Some(n_layers) => Err(unsupported(&format!("{n_layers} layers"))),
        }
    }

    /// Whether a flag is set, at the top or beside the ids of layers, where NVIDIA has some.
    fn flag(&self, name: &str) -> bool {
        [
            Some(self.whole),
            Some(self.config),
            self.whole.get("eagle_config"),
        ]
        .into_iter()
        .flatten()
        .any(|it| it.get(name) == Some(&Value::Bool(true)))
    }

    fn optional_size(&self, name: &str) -> Result<Option<usize>, EngineError> {
        match self.whole.get(name).or(self.config.get(name)) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(size @ 1..=0xff_ffff) => Ok(Some(size as usize)),
                _ => Err(self.bad(name, format!("{value} found, a size above 0 expected"))),
            },
        }
    }

    fn size(&self, name: &str) -> Result<usize, EngineError> {
        let size = self.optional_size(name)?;
        size.ok_or_else(|| self.bad(name, "the key is missing".into()))
    }

    fn number(&self, name: &str) -> Result<Option<f32>, EngineError> {
        match self.config.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) if number > 0.0 => Ok(Some(number as f32)),
                _ => Err(self.bad(name, format!("{value} found, a number above 0 expected"))),
            },
        }
    }

    /// Two conventions: nested ids name the layer whose output is read, ids at the top the layer whose input is.
    fn target_layers(&self, n_layers: usize) -> Result<Vec<usize>, EngineError> {
        const NAME: &str = "eagle_aux_hidden_state_layer_ids";
        let nested = self.whole.get("eagle_config").and_then(|it| it.get(NAME));
        let (ids, offset) = match (nested, self.whole.get(NAME)) {
            (Some(ids), _) if !ids.is_null() => (ids, 1),
            (_, Some(ids)) if !ids.is_null() => (ids, 0),
            _ => return Ok(usual_layers(n_layers)),
        };
        let ids = ids.as_array().into_iter().flatten();
        let layers = ids
            .map(|id| Some(id.as_u64()? as usize + offset))
            .collect::<Option<Vec<_>>>();
        layers.ok_or_else(|| self.bad(NAME, "numbers of layers expected".into()))
    }

    fn bad(&self, field: &str, reason: String) -> EngineError {
        EngineError::BadFile {
            path: self.file(),
            field: field.to_owned(),
            reason,
        }
    }

    fn file(&self) -> PathBuf {
        self.path.join("config.json")
    }
}
