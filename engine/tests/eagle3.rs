//! EAGLE-3 heads from outside: in GGUF files as llama.cpp's converter lays them out, with the configurations there are, and
//! beside lookups in long answers.

use std::{collections::HashMap, fs, path::PathBuf, sync::Arc};

use candle_core::{DType, Device, Tensor};
use drafters::{Slow, bits};
use gguf_builder::{Builder, Value};
use half::bf16;
use surmise_engine::{
    Answer, Engine, EngineOptions, WeightSource,
    grammar::Grammar,
    kernels::Isa,
    model::{Checkpoint, Model, transformer::Transformer},
    request::{DrafterStats, FinishReason, Prompt, Request, SamplingParams, Speculation, StopCondition},
    speculative::{
        drafter::{Draft, DrafterKind},
        eagle3::{Eagle3, TreeShape},
        network::{DraftTask, NetworkDrafter},
    },
    tokenizer::Tokenizer,
    weights::{GgmlType, safetensors},
};

mod drafters;
mod gguf_builder;

const HEAD_DIM: usize = 16;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/references/eagle3")
        .join(name)
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture(name), &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn ints(tensor: &Tensor) -> Vec<i64> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The rows of each head in the order in which neighbours are rotated together, as Llama files are converted.
fn interleaved(weights: &[f32], n_inputs: usize) -> Vec<f32> {
    let heads = weights.chunks_exact(HEAD_DIM * n_inputs);
    let rows = heads.flat_map(|head| {
        let row = move |idx: usize| &head[idx * n_inputs..][..n_inputs];
        (0..HEAD_DIM / 2).flat_map(move |pair| [row(pair), row(pair + HEAD_DIM / 2)])
    });
    rows.flatten().copied().collect()
}

fn gguf() -> WeightSource {
    // candle reads no flags, which the published files have.
    let published = safetensors::open_file(&fixture("draft/model.safetensors")).unwrap();
    let published = |name: &str| published.iter().find(|it| it.name == name).unwrap();
    let mut file = Builder::new()
        .pair("general.architecture", Value::Str(b"eagle3".to_vec()))
        .pair("eagle3.embedding_length", Value::U32(64))
        .pair("eagle3.feed_forward_length", Value::U32(96))
        .pair("eagle3.attention.head_count", Value::U32(4))
        .pair("eagle3.attention.head_count_kv", Value::U32(2))
        .pair("eagle3.attention.layer_norm_rms_epsilon", Value::F32(1e-6))
        .pair("eagle3.rope.freq_base", Value::F32(1_000_000.0));
    for (name, published_name) in [
        ("fc", "fc"),
        ("blk.0.attn_norm", "midlayer.input_layernorm"),
        ("blk.0.attn_norm_2", "midlayer.hidden_norm"),
        ("blk.0.attn_q", "midlayer.self_attn.q_proj"),
        ("blk.0.attn_k", "midlayer.self_attn.k_proj"),
        ("blk.0.attn_v", "midlayer.self_attn.v_proj"),
        ("blk.0.attn_output", "midlayer.self_attn.o_proj"),
        ("blk.0.ffn_norm", "midlayer.post_attention_layernorm"),
        ("blk.0.ffn_gate", "midlayer.mlp.gate_proj"),
        ("blk.0.ffn_up", "midlayer.mlp.up_proj"),
        ("blk.0.ffn_down", "midlayer.mlp.down_proj"),
        ("output_norm", "norm"),
        ("output", "lm_head"),
    ] {
        let tensor = published(&format!("{published_name}.weight"));
        let extents: Vec<u64> = tensor.shape.iter().rev().map(|&it| it as u64).collect();
        let (halves, _) = tensor.bytes().as_chunks::<2>();
        let weights: Vec<f32> = halves
            .iter()
            .map(|it| bf16::from_le_bytes(*it).to_f32())
            .collect();
        let weights = match name {
            "blk.0.attn_q" | "blk.0.attn_k" => interleaved(&weights, extents[0] as usize),
            _ => weights,
        };
        let bytes: Vec<u8> = weights.iter().flat_map(|it| it.to_le_bytes()).collect();
        file = file.tensor(format!("{name}.weight"), &extents, GgmlType::F32, &bytes);
    }
    let (deltas, _) = published("d2t").bytes().as_chunks::<8>();
    let ids = deltas
        .iter()
        .zip(0..)
        .map(|(delta, id)| i64::from_le_bytes(*delta) + id);
    let ids: Vec<u8> = ids.flat_map(i64::to_le_bytes).collect();
    let file = file.tensor("d2t", &[96], GgmlType::I64, &ids);
    WeightSource::Embedded(Box::leak(file.build().into_boxed_slice()))
}

/// The draft after the fixture's prompt.
fn draft(source: WeightSource, tree: TreeShape) -> Draft {
    let target = Checkpoint::from_folder(&fixture("target")).unwrap();
    assert!(Eagle3::recognises(&source));
    let mut drafter = Eagle3::load(source, &target, tree, 1000, 1).unwrap();
    let expected = tensors("expected.safetensors");
    let mut tokens: Vec<u32> = ints(&expected["input_ids"])
        .into_iter()
        .map(|it| it as u32)
        .collect();
    drafter.open(1, &tokens);
    tokens.push(ints(&expected["first"])[0] as u32);
    drafter
        .observe(1, &tokens, 0, &numbers(&expected["aux"]))
        .unwrap();
    let mut draft = Draft::default();
    let task = DraftTask {
        sequence: 1,
        tokens: &tokens,
        max_len: 100,
        min_reach: 0.0,
        draft: &mut draft,
    };
    drafter.draft(&mut [task]).unwrap();
    draft
}

#[test]
fn both_formats_give_the_same_tree() {
    let published = draft(WeightSource::File(fixture("draft")), TreeShape::default());
    let converted = draft(gguf(), TreeShape::default());
    assert_eq!(published.len(), TreeShape::default().n_tokens - 1);
    let edges = |draft: &Draft| -> Vec<_> { draft.nodes().iter().map(|it| (it.token, it.parent)).collect() };
    assert_eq!(edges(&converted), edges(&published));
}

#[test]
fn trees_have_the_shape_that_was_asked_for() {
    for (n_levels, top_k, n_tokens, expected) in [
        (5, 8, 32, 31),
        (3, 2, 6, 5),
        (1, 4, 100, 4),
        (4, 1, 100, 4),
        // More than a step can verify.
        (80, 9, 90, 64),
    ] {
        let tree = TreeShape {
            n_levels,
            top_k,
            n_tokens,
        };
        let draft = draft(WeightSource::File(fixture("draft")), tree);
        assert_eq!(draft.len(), expected, "{tree:?}");
        assert!(draft.children(None).count() <= top_k, "{tree:?}");
        assert_eq!(draft.is_chain(), top_k == 1 || n_levels == 80, "{tree:?}");
    }
}

/// Nested ids name the layers whose outputs are read, as SGLang has them; ids at the top those whose inputs are.
#[test]
fn both_conventions_for_the_layers_that_are_read() {
    let target = Checkpoint::from_folder(&fixture("target")).unwrap();
    let config = fs::read_to_string(fixture("draft/config.json")).unwrap();
    let load = |keys: &str| {
        let folder = tempfile::tempdir().unwrap();
        let config = config.replacen('{', &format!("{{ {keys}"), 1);
        fs::write(folder.path().join("config.json"), config).unwrap();
        fs::copy(
            fixture("draft/model.safetensors"),
            folder.path().join("model.safetensors"),
        )
        .unwrap();
        let source = WeightSource::File(folder.path().into());
        let head = Eagle3::load(source, &target, TreeShape::default(), 1000, 1);
        head.map(|head| head.captured_layers().to_vec())
    };
    for (keys, layers) in [
        ("", [2, 4, 5]),
        (
            r#""eagle_config": { "eagle_aux_hidden_state_layer_ids": [1, 3, 4], "use_aux_hidden_state": true },"#,
            [2, 4, 5],
        ),
        (r#""eagle_aux_hidden_state_layer_ids": [2, 4, 5],"#, [2, 4, 5]),
        (
            r#""eagle_config": { "eagle_aux_hidden_state_layer_ids": [0, 5, 7] },"#,
            [1, 6, 8],
        ),
        (
            r#""eagle_config": { "eagle_aux_hidden_state_layer_ids": null },"#,
            [2, 4, 5],
        ),
        (r#""eagle_aux_hidden_state_layer_ids": [0, 5, 8],"#, [0, 5, 8]),
    ] {
        assert_eq!(load(keys).unwrap(), layers, "{keys}");
    }
    let error = load(r#""eagle_config": { "eagle_aux_hidden_state_layer_ids": [1, "x", 3] },"#).unwrap_err();
    assert!(
        error.to_string().contains("eagle_aux_hidden_state_layer_ids"),
        "{error}"
    );
}

/// As the settings of the program reach it: through [`Engine::load`].
#[test]
fn the_shape_that_was_asked_for_reaches_a_loaded_engine() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("target").join(name), folder.path().join(name)).unwrap();
    }
    let bytes = (33..127).chain(161..173).chain(174..256).chain(256..324);
    let spellings = bytes.filter_map(char::from_u32).enumerate();
    let vocab: serde_json::Map<_, _> = spellings.map(|(id, it)| (it.to_string(), id.into())).collect();
    let tokenizer = serde_json::json!({
        "pre_tokenizer": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let answer = |tree: TreeShape, speculation| {
        let options = EngineOptions {
            threads: Some(1),
            draft_model: Some(WeightSource::File(fixture("draft"))),
            tree,
            ..EngineOptions::default()
        };
        let engine = Engine::load(WeightSource::File(folder.path().into()), options).unwrap();
        let request = request(1, 60, 0.0, speculation);
        engine.generate(request).blocking_collect().unwrap()
    };
    let drafter = DrafterKind::Eagle3;
    let alone = Speculation::Only {
        drafter,
        len: Some(16),
    };
    let plain = answer(TreeShape::default(), Speculation::Off);
    for (n_levels, top_k, n_tokens, n_drafted) in
        [(5, 8, 32, 31), (3, 2, 6, 5), (1, 4, 100, 4), (4, 1, 100, 4)]
    {
        let tree = TreeShape {
            n_levels,
            top_k,
            n_tokens,
        };
        let answer = answer(tree, alone);
        assert_eq!(bits(&answer), bits(&plain), "{tree:?}");
        let DrafterStats { steps, proposed, .. } = *answer.finish.speculation.of(drafter);
        // Near the end of the answer a tree has fewer levels.
        let whole = steps * n_drafted;
        assert!(
            steps > 10 && proposed <= whole && proposed + 3 * n_drafted > whole,
            "{tree:?}: {proposed} in {steps}"
        );
    }
}

/// The fixture's target, as if it had been trained for long texts.
fn engine(tree: Option<TreeShape>, max_running: usize, is_slow: bool) -> Engine {
    let checkpoint = Checkpoint::from_folder(&fixture("target")).unwrap();
    let mut config = checkpoint.config().clone();
    config.context_length = 2048;
    let model = Transformer::load(checkpoint.weights(), config, 1, Isa::detect()).unwrap();
    let drafter = tree.map(|tree| -> Box<dyn NetworkDrafter> {
        let source = WeightSource::File(fixture("draft"));
        Box::new(Eagle3::load(source, &checkpoint, tree, 1 << 14, 1).unwrap())
    });
    let options = EngineOptions {
        max_running,
        kv_cache_bytes: Some(64 << 20),
        ..EngineOptions::default()
    };
    let tokenizer = Arc::new(Tokenizer::bytes());
    let model: Box<dyn Model> = if is_slow {
        Box::new(Slow(model))
    } else {
        Box::new(model)
    };
    Engine::start_with_drafter(model, drafter, tokenizer, None, options).unwrap()
}

fn request(seed: u32, n_tokens: usize, temperature: f32, speculation: Speculation) -> Request {
    Request {
        prompt: Prompt::Tokens((0..40).map(|i| (i * 7 + i * i * seed) % 256).collect()),
        sampling: SamplingParams {
            temperature,
            top_k: 40,
            seed: 3,
            ..SamplingParams::default()
        },
        stop: StopCondition {
            max_tokens: n_tokens,
            ignore_end_tokens: true,
            ..StopCondition::default()
        },
        speculation,
        ..Request::default()
    }
}

#[test]
fn long_answers_are_the_same_in_every_batch_beside_lookups_and_alone() {
    let drafter = DrafterKind::Eagle3;
    let tree = |n_levels, top_k, n_tokens| TreeShape {
        n_levels,
        top_k,
        n_tokens,
    };
    let answers = |engine: &Engine, n_tokens, temperature, speculation| -> Vec<Answer> {
        let generations =
            (1..5).map(|seed| engine.generate(request(seed, n_tokens, temperature, speculation)));
        let generations: Vec<_> = generations.collect();
        let answers = generations.into_iter().map(|it| it.blocking_collect().unwrap());
        answers.collect()
    };
    let alone = |len| Speculation::Only { drafter, len };
    // The head is random, so it is right by accident only.
    let mut n_accepted = 0;
    for temperature in [0.0, 1.2] {
        let plain = answers(&engine(None, 4, false), 160, temperature, Speculation::Off);
        for (max_running, n_tokens, tree, speculation) in [
            (1, 80, tree(3, 2, 6), alone(Some(8))),
            (3, 160, tree(5, 8, 32), alone(Some(8))),
            (4, 80, tree(3, 1, 4), alone(None)),
            (3, 160, tree(4, 3, 12), Speculation::Auto),
            (4, 160, tree(3, 2, 6), Speculation::Fixed(8)),
        ] {
            let is_slow = matches!(
                speculation,
                Speculation::Auto | Speculation::Only { len: None, .. }
            );
            let (mut head, mut lookups) = (DrafterStats::default(), 0);
            let engine = engine(Some(tree), max_running, is_slow);
            let drafted = answers(&engine, n_tokens, temperature, speculation);
            for (answer, plain) in drafted.iter().zip(&plain) {
                let at = format!("{temperature}, {tree:?}, {speculation:?}");
                assert_eq!(bits(answer), bits(plain)[..n_tokens], "{at}");
                let stats = answer.finish.speculation;
                head.proposed += stats.of(drafter).proposed;
                head.accepted += stats.of(drafter).accepted;
                lookups += stats.of(DrafterKind::PromptLookup).proposed;
            }
            // Where the policy decides, it may find that the head does not pay.
            assert!(
                is_slow || head.accepted < head.proposed,
                "{tree:?}, {speculation:?}: {head:?}"
            );
            let has_lookups = !matches!(speculation, Speculation::Only { .. });
            assert_eq!(lookups > 0, has_lookups, "{tree:?}, {speculation:?}");
            n_accepted += head.accepted;
        }
    }
    assert!(n_accepted > 3, "{n_accepted}");
}

/// Stop strings, stop tokens, penalties and forms end or bend an answer with a head's trees as they do without.
#[test]
fn trees_change_neither_ends_nor_forms() {
    let drafter = DrafterKind::Eagle3;
    let (plain, drafting) = (
        engine(None, 4, false),
        engine(Some(TreeShape::default()), 4, false),
    );
    let answer = |engine: &Engine, request: Request| engine.generate(request).blocking_collect().unwrap();
    let (mut n_stopped, mut n_accepted, mut n_accepted_in_form) = (0, 0, 0);
    for seed in 1..5 {
        let request = |speculation| Request {
            sampling: SamplingParams {
                temperature: 1.2,
                top_p: 0.9,
                min_p: 0.01,
                repetition_penalty: 1.1,
                presence_penalty: 0.2,
                seed: u64::from(seed),
                ..SamplingParams::default()
            },
            ..request(seed, 200, 0.0, speculation)
        };
        let alone = Speculation::Only {
            drafter,
            len: Some(8),
        };
        let long = answer(&plain, request(Speculation::Off));
        // Two characters that stand far from the beginning, as they first come up.
        let chars: Vec<(usize, char)> = long.text.char_indices().collect();
        let is_new = |at: &usize| {
            let (start, _) = chars[*at];
            let (end, last) = chars[at + 1];
            long.text.find(&long.text[start..end + last.len_utf8()]) == Some(start)
        };
        let at = (chars.len() / 2..chars.len() - 1).find(is_new).unwrap();
        let string: String = chars[at..at + 2].iter().map(|it| it.1).collect();
        let token = long.tokens[150].id;
        for (strings, tokens) in [(vec![string], vec![]), (vec![], vec![token]), (vec![], vec![])] {
            let with = |speculation| {
                let mut request = request(speculation);
                request.stop.strings = strings.clone();
                request.stop.tokens = tokens.clone();
                request
            };
            let expected = answer(&plain, with(Speculation::Off));
            let found = answer(&drafting, with(alone));
            assert_eq!(bits(&found), bits(&expected));
            assert_eq!(found.text, expected.text);
            assert_eq!(found.finish.reason, expected.finish.reason);
            n_stopped += usize::from(found.finish.reason != FinishReason::Length);
            n_accepted += found.finish.speculation.of(drafter).accepted;
        }
        let in_form = |speculation| {
            let mut request = request(speculation);
            request.grammar = Some(Grammar::Regex("[ -Z]{300}".into()));
            request.stop.ignore_end_tokens = false;
            request
        };
        let expected = answer(&plain, in_form(Speculation::Off));
        let found = answer(&drafting, in_form(alone));
        assert!(expected.text.bytes().all(|it| (b' '..=b'Z').contains(&it)));
        assert_eq!(bits(&found), bits(&expected));
        assert_eq!(found.finish.reason, expected.finish.reason);
        n_accepted_in_form += found.finish.speculation.of(drafter).accepted;
    }
    assert_eq!(n_stopped, 4 * 2);
    // The head is random, so it is right by accident only.
    assert!(
        n_accepted > 10 && n_accepted_in_form > 3,
        "{n_accepted}, {n_accepted_in_form}"
    );
}
