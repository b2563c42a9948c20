//! What a `config.json` states, in the spelling of transformers 4 and in that of transformers 5.

use serde_json::Value;

use super::{
    super::{DeltaNet, family::Source},
    DEFAULT_THETA, Fault, Gate, LatentAttention, PerLayer, RopeScaling, Stated,
};

impl Stated {
    /// Reads `config`, the part of a `config.json` that describes the text model.
    ///
    /// # Errors
    /// The key that is missing or of another type, or names something that this engine does not run.
    pub(in crate::model) fn from_hugging_face(config: &Value) -> Result<Self, Fault> {
        let keys = Keys(config);
        let n_layers = keys.require_size("num_hidden_layers")?;
        let bidirectional = keys.get("use_bidirectional_attention");
        if bidirectional.is_some_and(|it| *it == Value::Bool(true) || it.as_str() == Some("all")) {
            let reason = "true or `all` found; a model that sees what follows cannot write";
            return Err(Fault::new("use_bidirectional_attention", reason.into()));
        }
        let expert_feed_forward = keys.size("moe_intermediate_size")?;
        let feed_forward = match (keys.size("intermediate_size")?, expert_feed_forward) {
            (Some(width), _) | (None, Some(width)) => width,
            (None, None) => keys.require_size("intermediate_size")?,
        };
        let n_sharing_layers = keys.size("num_kv_shared_layers")?.unwrap_or(0);
        let (global_head_dim, global_kv_heads) = keys.global_heads()?;
        let (mut head_dim, mut window_head_dim) = (keys.size("head_dim")?, None);
        if global_head_dim.is_some() {
            (head_dim, window_head_dim) = (global_head_dim, head_dim);
        }
        let (mut n_kv_heads, mut window_kv_heads) = (keys.size("num_key_value_heads")?, None);
        if global_kv_heads.is_some() {
            (n_kv_heads, window_kv_heads) = (global_kv_heads, n_kv_heads);
        }
        let (rope_scaling, rope_dims_share) = keys.rope_scaling()?;
        let n_heads = keys.require_size("num_attention_heads")?;
        let hidden = keys.require_size("hidden_size")?;
        let head_width = head_dim.unwrap_or(hidden / n_heads.max(1));
        let latent = keys.latent()?;
        // What the scores are divided by, as the square of it.
        let score_divisor = keys.number("query_pre_attn_scalar")?.map(|it| 1.0 / it.sqrt());
        Ok(Self {
            source: Source::HuggingFace,
            vocab: keys.require_size("vocab_size")?,
            hidden,
            n_layers,
            n_prediction_layers: keys.size("num_nextn_predict_layers")?.unwrap_or(0),
            n_heads,
            n_kv_heads: n_kv_heads.map(PerLayer::All),
            window_kv_heads,
            head_dim,
            window_head_dim,
            rope_dims: match latent {
                Some(latent) => Some(latent.rotated_dim),
                None => rope_dims_share.map(|share| (head_width as f32 * share) as usize),
            },
            feed_forward: match keys.get("use_double_wide_mlp") {
                Some(Value::Bool(true)) => {
                    let n_owning = n_layers.saturating_sub(n_sharing_layers);
                    let width =
                        |layer_idx| feed_forward.saturating_mul(1 + usize::from(layer_idx >= n_owning));
                    PerLayer::Each((0..n_layers.min(super::MAX_LAYERS)).map(width).collect())
                }
                _ => PerLayer::All(feed_forward),
            },
            context_length: keys.require_size("max_position_embeddings")?,
            norm_epsilon: match keys.number("rms_norm_eps")? {
                Some(epsilon) => epsilon,
                None => keys.number("norm_epsilon")?.unwrap_or(1e-6),
            },
            rope_theta: keys.rope_number("full_attention", "rope_theta")?,
            rope_scaling,
            yarn_score_scale: keys.rope().number("mscale_all_dim")?,
            window_rope_theta: match keys.number("rope_local_base_freq")? {
                Some(theta) => Some(theta),
                None => keys.nested_rope("sliding_attention").number("rope_theta")?,
            },
            window: match keys.0.get("use_sliding_window") {
                Some(Value::Bool(false)) => None,
                _ => keys.size("sliding_window")?,
            },
            has_window: keys.has_window(n_layers)?,
            attention_scale: match keys.number("attention_multiplier")? {
                Some(scale) => Some(scale),
                None => score_divisor,
            },
            score_cap: keys.number("attn_logit_softcapping")?,
            query_growth: keys
                .rope()
                .number("llama_4_scaling_beta")?
                .filter(|it| *it != 0.0),
            query_growth_span: None,
            embedding_scale: keys.number("embedding_multiplier")?,
            residual_scale: keys.number("residual_multiplier")?,
            logit_divisor: keys.number("logits_scaling")?,
            logit_cap: keys.number("final_logit_softcapping")?,
            n_sharing_layers,
            layer_embedding: keys.size("hidden_size_per_layer_input")?.filter(|it| *it > 0),
            n_experts: match keys.get("enable_moe_block") {
                Some(Value::Bool(false)) => None,
                _ => keys.first_size(&["num_experts", "num_local_experts", "n_routed_experts"])?,
            },
            n_chosen_experts: keys.first_size(&["num_experts_per_tok", "top_k_experts"])?,
            expert_feed_forward,
            shared_feed_forward: keys.shared_feed_forward(expert_feed_forward)?,
            n_dense_layers: keys.dense_layers()?,
            expert_gate: keys.expert_gate()?,
            experts_are_normalized: keys.get("norm_topk_prob").and_then(Value::as_bool),
            expert_scale: keys.number("routed_scaling_factor")?,
            expert_groups: keys.expert_groups()?,
            latent,
            swiglu_limit: keys.number("swiglu_limit")?,
            delta_net: keys.delta_net()?,
            attention_interval: keys.size("full_attention_interval")?,
            has_state: keys.has_state(),
        })
    }
}

/// Base and scaling of the rotary embedding of all layers, wherever `config` says them.
pub(super) fn rope(config: &Value) -> Result<(f32, RopeScaling), Fault> {
    let keys = Keys(config);
    let (scaling, share) = keys.rope_scaling()?;
    if let Some(share) = share.filter(|it| *it != 1.0) {
        return Err(Fault::new(
            "partial_rotary_factor",
            format!("{share} found, 1 expected"),
        ));
    }
    let theta = keys.rope_number("full_attention", "rope_theta")?;
    Ok((theta.unwrap_or(DEFAULT_THETA), scaling))
}

#[derive(Clone, Copy)]
struct Keys<'a>(&'a Value);

impl<'a> Keys<'a> {
    /// A key that is neither missing nor null.
    fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|it| !it.is_null())
    }

    fn size(self, key: &'static str) -> Result<Option<usize>, Fault> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|it| usize::try_from(it).ok()) {
            Some(size) => Ok(Some(size)),
            None => Err(Fault::new(key, format!("{value} found, a count expected"))),
        }
    }

    fn first_size(self, names: &[&'static str]) -> Result<Option<usize>, Fault> {
        for key in names {
            if let Some(size) = self.size(key)? {
                return Ok(Some(size));
            }
        }
        Ok(None)
    }

    fn require_size(self, key: &'static str) -> Result<usize, Fault> {
        self.size(key)?
            .ok_or_else(|| Fault::new(key, "the key is missing".into()))
    }

    fn number(self, key: &'static str) -> Result<Option<f32>, Fault> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) => Ok(Some(number as f32)),
            None => Err(Fault::new(key, format!("{value} found, a number expected"))),
        }
    }

    fn numbers(self, key: &'static str) -> Result<Vec<f32>, Fault> {
        let list = self.get(key).and_then(Value::as_array);
        let numbers = list.and_then(|list| list.iter().map(|it| Some(it.as_f64()? as f32)).collect());
        numbers.ok_or_else(|| Fault::new(key, "a list of numbers expected".into()))
    }

    /// Transformers 5 keeps the numbers of the rotary embedding together, by kind of layer where they differ.
    fn nested_rope(self, layer_type: &str) -> Self {
        const NOTHING: &Value = &Value::Null;
        let parameters = self.get("rope_parameters").unwrap_or(NOTHING);
        Self(parameters.get(layer_type).unwrap_or(NOTHING))
    }

    /// The object with the scaling's numbers, in either spelling.
    fn rope(self) -> Self {
        let full = self.nested_rope("full_attention");
        let candidates = [
            Some(full.0).filter(|it| !it.is_null()),
            self.get("rope_parameters"),
        ];
        Self(
            candidates
                .into_iter()
                .flatten()
                .next()
                .or(self.get("rope_scaling"))
                .unwrap_or(&Value::Null),
        )
    }

    /// A number that is beside the scaling in the old spelling and within it in the new one.
    fn rope_number(self, layer_type: &str, key: &'static str) -> Result<Option<f32>, Fault> {
        for keys in [self, self.nested_rope(layer_type), self.rope()] {
            if let Some(number) = keys.number(key)? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// YaRN's amplitude where it is given, or follows from two numbers that are.
    fn yarn_amplitude(self) -> Result<Option<f32>, Fault> {
        if let Some(amplitude) = self.number("attention_factor")? {
            return Ok(Some(amplitude));
        }
        let given = |key| -> Result<Option<f32>, Fault> { Ok(self.number(key)?.filter(|it| *it != 0.0)) };
        let numbers = (given("factor")?, given("mscale")?, given("mscale_all_dim")?);
        let (Some(factor), Some(rotated), Some(all)) = numbers else {
            return Ok(None);
        };
        let stretch = |scale: f32| 1.0 + 0.1 * scale * factor.max(1.0).ln();
        Ok(Some(stretch(rotated) / stretch(all)))
    }

    /// The scaling, and which share of a head is rotated.
    fn rope_scaling(self) -> Result<(RopeScaling, Option<f32>), Fault> {
        let rope = self.rope();
        let share = self.rope_number("full_attention", "partial_rotary_factor")?;
        let kind = rope.get("rope_type").or(rope.get("type"));
        let require = |key: &'static str| -> Result<f32, Fault> {
            rope.number(key)?
                .ok_or_else(|| Fault::new(key, "the key is missing".into()))
        };
        let original = || -> Result<usize, Fault> {
            const KEY: &str = "original_max_position_embeddings";
            match (rope.size(KEY)?, self.size(KEY)?) {
                (Some(original), _) | (None, Some(original)) => Ok(original),
                (None, None) => self.require_size("max_position_embeddings"),
            }
        };
        let scaling = match kind.and_then(Value::as_str) {
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear(require("factor")?),
            Some("llama3") => RopeScaling::Llama3 {
                factor: require("factor")?,
                low: require("low_freq_factor")?,
                high: require("high_freq_factor")?,
                original: original()?,
            },
            Some("yarn") => RopeScaling::Yarn {
                factor: require("factor")?,
                beta_fast: rope.number("beta_fast")?.unwrap_or(32.0),
                beta_slow: rope.number("beta_slow")?.unwrap_or(1.0),
                original: original()?,
                truncate: rope.get("truncate") != Some(&Value::Bool(false)),
                amplitude: rope.yarn_amplitude()?,
            },
            Some("proportional") => {
                let scaling = RopeScaling::Proportional {
                    share: share.unwrap_or(1.0),
                    factor: rope.number("factor")?.unwrap_or(1.0),
                };
                return Ok((scaling, None));
            }
            Some("longrope" | "su") => RopeScaling::LongRope {
                short: rope.numbers("short_factor")?,
                long: rope.numbers("long_factor")?,
                original: original()?,
                amplitude: rope.number("attention_factor")?,
            },
            Some(other) => {
                let known = "default, linear, llama3, yarn, longrope and proportional";
                return Err(Fault::new(
                    "rope_type",
                    format!("`{other}` is not supported; known: {known}"),
                ));
            }
        };
        Ok((scaling, share))
    }

    /// Width and number of heads in layers without a window, where they are others: named, or in the spelling of transformers 5
    /// what the entries for those layers say.
    fn global_heads(self) -> Result<(Option<usize>, Option<usize>), Fault> {
        if let Some(entries) = self.get("per_layer_config").and_then(Value::as_object) {
            let mut entries = entries.values();
            let Some(first) = entries.next() else {
                return Ok((None, None));
            };
            if entries.any(|entry| entry != first) {
                let reason = "entries that differ found; layers of one shape expected";
                return Err(Fault::new("per_layer_config", reason.into()));
            }
            let first = Self(first);
            return Ok((first.size("head_dim")?, first.size("num_key_value_heads")?));
        }
        // Where keys and values have their own matrices, the number of heads is the same in all layers.
        let kv_heads = match self.get("attention_k_eq_v") {
            Some(Value::Bool(true)) => self.size("num_global_key_value_heads")?,
            _ => None,
        };
        Ok((self.size("global_head_dim")?, kv_heads))
    }

    fn latent(self) -> Result<Option<LatentAttention>, Fault> {
        let Some(rank) = self.size("kv_lora_rank")? else {
            return Ok(None);
        };
        if self.get("rope_interleave") == Some(&Value::Bool(false)) {
            let reason = "false found; rotated pairs in halves are not supported with latent attention";
            return Err(Fault::new("rope_interleave", reason.into()));
        }
        Ok(Some(LatentAttention {
            rank,
            query_rank: self.size("q_lora_rank")?,
            plain_dim: self.require_size("qk_nope_head_dim")?,
            rotated_dim: self.require_size("qk_rope_head_dim")?,
            value_dim: self.require_size("v_head_dim")?,
        }))
    }

    /// Width of the expert that all rows run, given or as so many times that of the others.
    fn shared_feed_forward(self, expert_feed_forward: Option<usize>) -> Result<Option<usize>, Fault> {
        if let Some(width) = self.size("shared_expert_intermediate_size")? {
            return Ok(Some(width));
        }
        let n_shared = self.size("n_shared_experts")?;
        Ok(n_shared
            .zip(expert_feed_forward)
            .map(|(n_shared, width)| width.saturating_mul(n_shared)))
    }

    /// First layers without experts, counted or at the head of a list.
    fn dense_layers(self) -> Result<Option<usize>, Fault> {
        const LIST: &str = "mlp_layer_types";
        let Some(list) = self.get(LIST).and_then(Value::as_array) else {
            return self.size("first_k_dense_replace");
        };
        let n_dense = list.iter().take_while(|it| it.as_str() == Some("dense")).count();
        match list[n_dense..].iter().all(|it| it.as_str() == Some("sparse")) {
            true => Ok(Some(n_dense)),
            false => Err(Fault::new(
                LIST,
                "`dense` layers and then `sparse` ones expected".into(),
            )),
        }
    }

    fn expert_gate(self) -> Result<Option<Gate>, Fault> {
        match self.get("scoring_func").and_then(Value::as_str) {
            None => Ok(None),
            Some("softmax") => Ok(Some(Gate::Softmax)),
            Some("sigmoid") => Ok(Some(Gate::Sigmoid)),
            Some(other) => {
                let reason = format!("`{other}` is not supported; known: softmax and sigmoid");
                Err(Fault::new("scoring_func", reason))
            }
        }
    }

    /// Groups of experts, and how many of them count. Some configurations give them beside a method without them.
    fn expert_groups(self) -> Result<Option<(usize, usize)>, Fault> {
        if self.size("moe_layer_freq")?.is_some_and(|it| it != 1) {
            let reason =
                "another number than 1 found; layers without experts between others are not supported";
            return Err(Fault::new("moe_layer_freq", reason.into()));
        }
        match self.get("topk_method").and_then(Value::as_str) {
            Some("greedy") => Ok(None),
            None | Some("group_limited_greedy" | "noaux_tc") => {
                Ok(self.size("n_group")?.zip(self.size("topk_group")?))
            }
            Some(other) => {
                let known = "greedy, group_limited_greedy and noaux_tc";
                let reason = format!("`{other}` is not supported; known: {known}");
                Err(Fault::new("topk_method", reason))
            }
        }
    }

    /// The heads of layers with linear attention.
    fn delta_net(self) -> Result<Option<DeltaNet>, Fault> {
        let Some(n_value_heads) = self.size("linear_num_value_heads")? else {
            return Ok(None);
        };
        Ok(Some(DeltaNet {
            n_key_heads: self.require_size("linear_num_key_heads")?,
            n_value_heads,
            key_dim: self.require_size("linear_key_head_dim")?,
            value_dim: self.require_size("linear_value_head_dim")?,
            conv_len: self.require_size("linear_conv_kernel_dim")?,
            shares_with_neighbours: true,
        }))
    }

    /// Which layers have linear attention, if the kinds of layers are listed.
    fn has_state(self) -> Option<Vec<bool>> {
        let list = self.get("layer_types").and_then(Value::as_array);
        let kinds = list.map(|list| list.iter().map(|it| it.as_str() == Some("linear_attention")));
        kinds.map(Iterator::collect)
    }

    fn has_window(self, n_layers: usize) -> Result<Option<Vec<bool>>, Fault> {
        if let Some(list) = self.get("layer_types") {
            let kind = |it: &Value| match it.as_str() {
                Some("sliding_attention") => Ok(true),
                Some("full_attention") => Ok(false),
                Some("linear_attention") if self.get("linear_num_value_heads").is_some() => Ok(false),
                _ => Err(Fault::new("layer_types", format!("{it} is not supported"))),
            };
            let list = list.as_array().into_iter().flatten();
            return Ok(Some(list.map(kind).collect::<Result<_, _>>()?));
        }
        // One layer in so many has no window.
        if let Some(pattern) = self.size("sliding_window_pattern")?.filter(|it| *it > 0) {
            return Ok(Some(
                (0..n_layers.min(super::MAX_LAYERS))
                    .map(|it| (it + 1) % pattern != 0)
                    .collect(),
            ));
        }
        // Qwen: only the layers after so many have one.
        let n_whole = self.size("max_window_layers")?;
        Ok(n_whole.map(|n_whole| {
            (0..n_layers.min(super::MAX_LAYERS))
                .map(|it| it >= n_whole)
                .collect()
        }))
    }
}
