//! Models in folders as Hugging Face lays them out: shards, tokenizer, the whole way through the engine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use safetensors::{SafeTensors, serialize_to_file, tensor::TensorView};
use serde_json::json;
use surmise_engine::{
    Engine, EngineOptions, FimSupport, RewriteSupport, WeightSource,
    model::{Checkpoint, QueryGrowth},
    request::{FimPrompt, Prompt, Request, RewritePrompt, RewriteTask, StopCondition},
};

fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/references")
        .join(model)
}

/// Splits a fixture into two shards with their index.
fn write_shards(model: &str, folder: &Path) {
    let bytes = fs::read(fixture(model).join("model.safetensors")).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let mut map = serde_json::Map::new();
    for shard_idx in 0..2 {
        let shard = format!("model-0000{}-of-00002.safetensors", shard_idx + 1);
        let tensors: Vec<(String, TensorView<'_>)> =
            whole.tensors().into_iter().skip(shard_idx).step_by(2).collect();
        for (name, _) in &tensors {
            map.insert(name.clone(), json!(shard));
        }
        serialize_to_file(tensors, None, &folder.join(shard)).unwrap();
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    fs::copy(fixture(model).join("config.json"), folder.join("config.json")).unwrap();
}

/// A vocabulary of 256 bytes, as a `tokenizer.json`.
fn write_tokenizer(folder: &Path) {
    let printable = (33..127)
        .chain(161..173)
        .chain(174..256)
        .map(|it| char::from_u32(it).unwrap());
    let others = (256..324).map(|it| char::from_u32(it).unwrap());
    let vocab: serde_json::Map<_, _> = printable
        .chain(others)
        .enumerate()
        .map(|(id, it)| (it.to_string(), json!(id)))
        .collect();
    let tokenizer = json!({
        "pre_tokenizer": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

#[test]
fn shards_are_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    write_shards("qwen3", folder.path());
    let sharded = Checkpoint::from_folder(folder.path()).unwrap();
    let whole = Checkpoint::from_folder(&fixture("qwen3")).unwrap();
    assert_eq!(sharded.config(), whole.config());
    assert!(sharded.weights().names().eq(whole.weights().names()));
    for name in whole.weights().names() {
        let bytes = |checkpoint: &Checkpoint| checkpoint.weights().require(name).unwrap().bytes().to_vec();
        assert_eq!(bytes(&sharded), bytes(&whole), "{name}");
    }

    let index_path = folder.path().join("model.safetensors.index.json");
    let index = fs::read_to_string(&index_path).unwrap();
    let open = |index: String| {
        fs::write(&index_path, index).unwrap();
        Checkpoint::from_folder(folder.path()).err().unwrap().to_string()
    };
    let error = open(index.replace("model-00002-of", "../model-00002-of"));
    assert!(
        error.contains("the name of a file beside the index expected"),
        "{error}"
    );
    let error = open(index.replace("model-00002-of", "model-00003-of"));
    assert!(error.contains("model-00003-of-00002.safetensors"), "{error}");
    let error = open(index.replacen("model.norm.weight", "model.norm.wait", 1));
    assert!(
        error.contains("tensor `model.norm.wait`: the index has it in"),
        "{error}"
    );
}

#[test]
fn a_folder_runs_like_its_gguf_file() {
    let folder = tempfile::tempdir().unwrap();
    write_shards("qwen3", folder.path());
    write_tokenizer(folder.path());
    let answer = |path: PathBuf| {
        let engine = Engine::load(WeightSource::File(path), EngineOptions::default()).unwrap();
        let request = Request {
            prompt: Prompt::Text {
                text: "fn main() {".into(),
                parse_special: false,
            },
            stop: StopCondition {
                max_tokens: 40,
                ignore_end_tokens: true,
                ..StopCondition::default()
            },
            ..Request::default()
        };
        let answer = engine.generate(request).blocking_collect().unwrap();
        (answer.text, engine.info().architecture.clone())
    };
    let found = answer(folder.path().into());
    assert_eq!(found, answer(fixture("qwen3").join("bf16.gguf")));
    assert_eq!(found.1, "qwen3");
    assert!(!found.0.is_empty());
}

/// Without tokens for holes a chat template does, for rewriting too; a template that cannot be read leaves the rest usable.
#[test]
fn a_model_that_can_only_talk_is_asked_in_words() {
    let folder = tempfile::tempdir().unwrap();
    write_shards("qwen3", folder.path());
    write_tokenizer(folder.path());
    // Its rotary embeddings have no end, and a conversation in bytes is long.
    let config = folder.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let mut settings: serde_json::Value = serde_json::from_str(&text).unwrap();
    settings["max_position_embeddings"] = json!(1024);
    fs::write(&config, settings.to_string()).unwrap();
    let load = || Engine::load(WeightSource::File(folder.path().into()), EngineOptions::default()).unwrap();
    let hole = || {
        Prompt::Fim(FimPrompt {
            prefix: "fn main() {\n    retu".into(),
            suffix: "\n}\n".into(),
            ..FimPrompt::default()
        })
    };
    let rewriting = || {
        Prompt::Rewrite(RewritePrompt {
            task: RewriteTask::Instruction("rename a to b".into()),
            region: "let a = 1;".into(),
            path: None,
        })
    };
    let engine = load();
    assert_eq!(
        (engine.info().fim, engine.info().rewrite),
        (FimSupport::None, RewriteSupport::None)
    );
    for prompt in [hole(), rewriting()] {
        let error = engine.prompt_tokens(&prompt).unwrap_err().to_string();
        assert!(error.contains("chat template"), "{error}");
    }

    let template = folder.path().join("chat_template.jinja");
    fs::write(
        &template,
        "{% for it in messages %}[{{ it.content }}]{% endfor %}",
    )
    .unwrap();
    let engine = load();
    assert_eq!(
        (engine.info().fim, engine.info().rewrite),
        (FimSupport::Conversation, RewriteSupport::Conversation)
    );
    let tokens = engine.prompt_tokens(&hole()).unwrap().into_owned();
    let text = engine.tokenizer().decode(&tokens);
    assert!(text.ends_with("]```\nfn main() {\n    retu"), "{text}");
    let request = |prompt| Request {
        prompt,
        stop: StopCondition {
            max_tokens: 12,
            ..StopCondition::default()
        },
        ..Request::default()
    };
    for prompt in [hole(), rewriting()] {
        let answer = engine.generate(request(prompt)).blocking_collect().unwrap();
        assert!(answer.finish.usage.generated_tokens > 0);
    }

    fs::write(&template, "{% for").unwrap();
    let engine = load();
    assert_eq!(
        (engine.info().fim, engine.info().rewrite),
        (FimSupport::None, RewriteSupport::None)
    );
    let error = engine.prompt_tokens(&rewriting()).unwrap_err().to_string();
    assert!(error.contains("template"), "{error}");
}

#[test]
fn an_unknown_architecture_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let architecture = |name: &str| {
        let config = json!({ "model_type": name });
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        Checkpoint::from_folder(folder.path()).err().unwrap().to_string()
    };
    assert_eq!(
        architecture("mamba3"),
        "architecture `mamba3` is not supported; known: llama, mistral, ministral3, qwen2, qwen3, qwen3_moe, qwen3_next, \
         qwen3_5_text, qwen3_5, qwen3_5_moe_text, qwen3_5_moe, deepseek_v2, deepseek_v3, glm4_moe_lite, gemma, gemma2, \
         gemma3_text, gemma3, gemma4_text, gemma4, gemma4_unified_text, gemma4_unified, gpt_oss, granite, phi3, starcoder2"
    );
    for name in [
        "granitemoehybrid",
        "granitemoe",
        "llama4",
        "phimoe",
        "gemma3n",
        "qwen2_moe",
        "qwen2_5_vl",
        "qwen3_vl",
        "glm4",
        "glm4_moe",
        "deepseek_v32",
        "kimi_k2",
        "lfm2",
        "olmo3",
        "seed_oss",
    ] {
        let error = architecture(name);
        let expected = format!("architecture `{name}` is not supported; known: llama, ");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn queries_grow_only_where_the_configuration_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("ministral3");
    fs::copy(
        source.join("model.safetensors"),
        folder.path().join("model.safetensors"),
    )
    .unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(source.join("config.json")).unwrap()).unwrap();
    let mut growth = |rate: serde_json::Value| {
        config["rope_parameters"]["llama_4_scaling_beta"] = rate;
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let checkpoint = Checkpoint::from_folder(folder.path());
        checkpoint
            .map(|it| it.config().query_growth)
            .map_err(|it| it.to_string())
    };
    let (rate, span) = (0.5, 32);
    assert_eq!(growth(json!(0.5)), Ok(Some(QueryGrowth { rate, span })));
    assert_eq!(growth(json!(0.0)), Ok(None));
    assert_eq!(growth(json!(null)), Ok(None));
    let error = growth(json!(-1.0)).unwrap_err();
    assert!(error.contains("growth of queries"), "{error}");
}

#[test]
fn heads_of_a_delta_net_have_to_fit_together() {
    let folder = tempfile::tempdir().unwrap();
    let config = fs::read(fixture("qwen3.5").join("config.json")).unwrap();
    let refusal = |key: &str, value: u32| {
        let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        config[key] = value.into();
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        Checkpoint::from_folder(folder.path()).err().unwrap().to_string()
    };
    for (key, value, expected) in [
        (
            "linear_num_value_heads",
            5,
            "5 found, a multiple of the 2 key heads expected",
        ),
        ("linear_num_key_heads", 0, "0 found, 1 to 4096 expected"),
        ("linear_value_head_dim", 24, "24 found, a multiple of 32 expected"),
        ("linear_conv_kernel_dim", 1, "1 found, 2 to 32 expected"),
    ] {
        let error = refusal(key, value);
        assert!(error.ends_with(expected), "{key}: {error}");
    }
}

#[test]
fn both_spellings_of_a_configuration_are_one() {
    let folder = tempfile::tempdir().unwrap();
    for model in ["llama3", "gemma3", "gpt-oss", "phi3-long", "deepseek-v2-lite"] {
        let source = fixture(model);
        fs::copy(
            source.join("model.safetensors"),
            folder.path().join("model.safetensors"),
        )
        .unwrap();
        let mut config: serde_json::Value =
            serde_json::from_slice(&fs::read(source.join("config.json")).unwrap()).unwrap();
        let keys = config.as_object_mut().unwrap();
        // Transformers 5 puts all of this into one object, by kind of layer where there are two.
        let mut rope = keys.remove("rope_scaling").unwrap();
        rope["rope_theta"] = keys.remove("rope_theta").unwrap();
        if let Some(share) = keys.remove("partial_rotary_factor") {
            rope["partial_rotary_factor"] = share;
        }
        let rope = match keys.remove("rope_local_base_freq") {
            Some(theta) => json!({
                "full_attention": rope,
                "sliding_attention": {"rope_type": "default", "rope_theta": theta},
            }),
            None => rope,
        };
        keys.insert("rope_parameters".into(), rope);
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let new = Checkpoint::from_folder(folder.path()).unwrap();
        let old = Checkpoint::from_folder(&source).unwrap();
        assert_eq!(new.config(), old.config(), "{model}");
    }
}

/// As Gemma 3 4B is published: of its half for text the rest is as transformers' class has it.
#[test]
fn a_configuration_of_text_and_pictures_leaves_out_what_is_usual() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(
        fixture("gemma3").join("model.safetensors"),
        folder.path().join("model.safetensors"),
    )
    .unwrap();
    let open = |config: serde_json::Value| {
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        Checkpoint::from_folder(folder.path())
    };
    let text_config = json!({
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    });
    let mut whole = text_config.clone();
    let usual = [
        ("vocab_size", json!(262_208)),
        ("num_attention_heads", json!(8)),
        ("num_key_value_heads", json!(4)),
        ("head_dim", json!(256)),
        ("max_position_embeddings", json!(131_072)),
        ("rms_norm_eps", json!(1e-6)),
        ("query_pre_attn_scalar", json!(256)),
        ("rope_theta", json!(1e6)),
        ("rope_local_base_freq", json!(1e4)),
    ];
    let keys = whole.as_object_mut().unwrap();
    keys.extend(usual.map(|(key, value)| (key.to_owned(), value)));
    let published = open(json!({"model_type": "gemma3", "text_config": text_config})).unwrap();
    assert_eq!(published.config(), open(whole).unwrap().config());
    // By itself a configuration has to say all of it.
    let error = open(text_config).err().unwrap().to_string();
    assert!(error.contains("the key is missing"), "{error}");
}

/// Released configurations of Gemma 4 name what its layers without a window have of their own; transformers 5 lists it by layer.
#[test]
fn shapes_by_layer_are_those_that_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("gemma4");
    fs::copy(
        source.join("model.safetensors"),
        folder.path().join("model.safetensors"),
    )
    .unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(source.join("config.json")).unwrap()).unwrap();
    let keys = config.as_object_mut().unwrap();
    let shape = json!({
        "head_dim": keys.remove("global_head_dim").unwrap(),
        "num_key_value_heads": keys.remove("num_global_key_value_heads").unwrap(),
    });
    keys.insert("per_layer_config".into(), json!({"1": shape, "3": shape}));
    let open = |config: &serde_json::Value| {
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        Checkpoint::from_folder(folder.path())
    };
    let listed = open(&config).unwrap();
    assert_eq!(
        listed.config(),
        Checkpoint::from_folder(&source).unwrap().config()
    );

    config["per_layer_config"]["3"]["head_dim"] = json!(32);
    let error = open(&config).err().unwrap().to_string();
    assert!(error.contains("layers of one shape expected"), "{error}");

    config["use_bidirectional_attention"] = json!("all");
    let error = open(&config).err().unwrap().to_string();
    assert!(error.contains("use_bidirectional_attention"), "{error}");
}
