//! Every drafter from outside: it is used, it is counted, and it changes nothing.

use std::{path::Path, sync::Arc};

use gguf_builder::{Value, byte_level, open, strings};
use surmise_engine::{
    Answer, Engine, EngineOptions, WeightSource,
    kv_cache::KvCache,
    model::{
        Model,
        scripted::{HashedScript, ScriptedModel},
    },
    request::{CopyMixing, Prompt, Request, SamplingParams, Speculation, StopCondition},
    speculative::{draft_model::DraftModel, drafter::DrafterKind, network::NetworkDrafter},
    tokenizer::Tokenizer,
};

mod gguf_builder;

/// Follows the last two bytes, but now and then does something else.
const MOODY: HashedScript = HashedScript {
    vocab: 48,
    order: 2,
    surprise: 17,
    spread: 10,
    seed: 4,
};

/// Does what `MOODY` does most of the time.
const CALM: HashedScript = HashedScript { surprise: 0, ..MOODY };

fn moody(max_running: usize) -> Engine {
    let options = EngineOptions {
        max_running,
        kv_cache_bytes: Some(8 << 20),
        ..Default::default()
    };
    let model = Box::new(ScriptedModel::hashed(MOODY));
    let tokenizer = Arc::new(Tokenizer::bytes());
    let drafter = draft_model(ScriptedModel::hashed(CALM), &tokenizer, &tokenizer);
    Engine::start_with_drafter(model, Some(drafter), tokenizer, None, options).unwrap()
}

/// A drafter that runs `model`, whose tokens are `own`, for a target whose tokens are `target`.
fn draft_model(
    model: ScriptedModel,
    own: &Arc<Tokenizer>,
    target: &Arc<Tokenizer>,
) -> Box<dyn NetworkDrafter> {
    let cache = KvCache::new(model.config(), 1000);
    let (own, target) = (Arc::clone(own), Arc::clone(target));
    Box::new(DraftModel::new(Box::new(model), own, cache, target, 48))
}

fn request(seed: u32, n_tokens: usize, sampling: &SamplingParams, speculation: Speculation) -> Request {
    Request {
        prompt: Prompt::Tokens((0..30).map(|i| (i * 7 + seed * 31) % 48).collect()),
        sampling: sampling.clone(),
        stop: StopCondition {
            max_tokens: n_tokens,
            ignore_end_tokens: true,
            ..Default::default()
        },
        speculation,
        ..Default::default()
    }
}

fn bits(answer: &Answer) -> Vec<(u32, u32)> {
    let tokens = answer.tokens.iter();
    tokens.map(|it| (it.id, it.logprob.to_bits())).collect()
}

/// The text with some bytes changed, as an edit or another version of a file would have it.
fn disturbed(text: &str) -> String {
    let changed = text.chars().enumerate().map(|(idx, char)| match idx % 23 {
        7 => '_',
        _ => char,
    });
    changed.collect()
}

#[test]
fn each_drafter_gives_the_text_of_plain_decoding() {
    let greedy = SamplingParams::default();
    let warm = SamplingParams {
        temperature: 0.5,
        top_k: 20,
        top_p: 0.9,
        min_p: 0.02,
        seed: 9,
        ..greedy.clone()
    };
    for sampling in [greedy, warm] {
        for copy in [CopyMixing::Off, CopyMixing::On] {
            let sampling = SamplingParams {
                copy,
                ..sampling.clone()
            };
            let plain: Vec<Answer> = (0..6)
                .map(|seed| {
                    let request = request(seed, 600, &sampling, Speculation::Off);
                    moody(1).generate(request).blocking_collect().unwrap()
                })
                .collect();
            for max_running in [1, 3, 8] {
                let engine = moody(max_running);
                for answer in &plain {
                    let tokens: Vec<u32> = answer.tokens.iter().map(|it| it.id).collect();
                    let text = Tokenizer::bytes().decode(&tokens);
                    engine
                        .set_reference(&format!("{}", tokens[0]), &disturbed(&text))
                        .unwrap();
                }
                for len in [None, Some(1), Some(7), Some(100)] {
                    for drafter in DrafterKind::ALL {
                        let is_there = match drafter {
                            DrafterKind::PromptLookup => copy == CopyMixing::Off,
                            DrafterKind::Copy => copy == CopyMixing::On,
                            DrafterKind::Eagle3 => false,
                            _ => true,
                        };
                        if is_there {
                            check(&engine, &plain, &sampling, drafter, len);
                        }
                    }
                }
            }
        }
    }
}

/// All at once, each with `drafter` alone.
fn check(
    engine: &Engine,
    plain: &[Answer],
    sampling: &SamplingParams,
    drafter: DrafterKind,
    len: Option<usize>,
) {
    let generations = plain.iter().zip(0..).map(|(plain, seed)| {
        engine.generate(Request {
            original: Some(disturbed(&plain.text)),
            ..request(seed, 600, sampling, Speculation::Only { drafter, len })
        })
    });
    let generations = generations.collect::<Vec<_>>();
    let mut n_accepted = 0;
    for (generation, plain) in generations.into_iter().zip(plain) {
        let answer = generation.blocking_collect().unwrap();
        assert_eq!(bits(&answer), bits(plain), "{drafter}, {len:?}");
        let stats = &answer.finish.speculation;
        assert_eq!(stats.of(drafter), &stats.total());
        assert_eq!(stats.emitted, stats.steps + stats.total().accepted);
        let tokens = answer.tokens.iter();
        let by_drafter = tokens.filter(|it| it.drafter == Some(drafter)).count();
        assert_eq!(by_drafter, stats.total().accepted);
        n_accepted += by_drafter;
    }
    assert!(
        len.is_none() || n_accepted > 5,
        "{drafter}, {len:?}: {n_accepted}"
    );
}

#[test]
fn a_draft_model_may_have_another_vocabulary() {
    let text = "fn area(width: u32, height: u32) -> u32 {\n    width * height // naïve\n}\n";
    let reply = [("", text)];
    let tokens = [
        ("he", 1),
        ("wi", 1),
        ("dt", 1),
        ("widt", 1),
        ("Ġw", 1),
        ("<end>", 3),
    ];
    let pairs = byte_level("qwen2", &tokens)
        .pair(
            "tokenizer.ggml.merges",
            strings(&["h e", "w i", "d t", "wi dt", "Ġ w"]),
        )
        .pair("tokenizer.ggml.eos_token_id", Value::U32(261));
    let own = Arc::new(Tokenizer::from_gguf(&open(&pairs.build()).unwrap()).unwrap());
    let target = Arc::new(Tokenizer::bytes());
    let model = ScriptedModel::replay(Arc::clone(&own), &reply).unwrap();
    let cache = KvCache::new(model.config(), 100);
    let drafter = DraftModel::new(Box::new(model), own, cache, Arc::clone(&target), 257);
    let model = Box::new(ScriptedModel::replay(Arc::clone(&target), &reply).unwrap());
    let options = EngineOptions::default();
    let engine = Engine::start_with_drafter(model, Some(Box::new(drafter)), target, None, options).unwrap();
    let request = Request {
        prompt: Prompt::Text {
            text: "// The area of a rectangle:\n".repeat(20),
            parse_special: false,
        },
        speculation: Speculation::Only {
            drafter: DrafterKind::DraftModel,
            len: Some(6),
        },
        ..Request::default()
    };
    let answer = engine.generate(request).blocking_collect().unwrap();
    assert_eq!(answer.text, text);
    let stats = answer.finish.speculation;
    assert!(stats.tokens_per_step() > 4.0, "{stats:?}");
}

/// Rejected drafts and trees leave no trace in the states of either model.
#[test]
fn a_model_with_states_drafts_for_one() {
    let file = || {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/references");
        WeightSource::File(fixtures.join("qwen3.5/bf16.gguf"))
    };
    let engine = |draft_model, max_running| {
        let options = EngineOptions {
            draft_model,
            max_running,
            threads: Some(2),
            ..EngineOptions::default()
        };
        Engine::load(file(), options).unwrap()
    };
    // Greedy drafts for text that is not.
    let sampling = SamplingParams {
        temperature: 0.4,
        seed: 9,
        ..SamplingParams::default()
    };
    let alone = engine(None, 1);
    let plain = (0..6).map(|seed| {
        let request = request(seed, 100, &sampling, Speculation::Off);
        alone.generate(request).blocking_collect().unwrap()
    });
    let plain: Vec<Answer> = plain.collect();
    let drafted = engine(Some(file()), 8);
    let drafter = DrafterKind::DraftModel;
    for len in [Some(1), Some(7), Some(30), None] {
        let speculation = Speculation::Only { drafter, len };
        let generations = (0..6).map(|seed| drafted.generate(request(seed, 100, &sampling, speculation)));
        let generations: Vec<_> = generations.collect();
        for (generation, plain) in generations.into_iter().zip(&plain) {
            let answer = generation.blocking_collect().unwrap();
            assert_eq!(bits(&answer), bits(plain), "{len:?}");
            let stats = answer.finish.speculation.total();
            assert!(len.is_none() || stats.accepted > 0, "{len:?}: {stats:?}");
            assert!(
                len.is_none_or(|len| len == 1) || stats.accepted < stats.proposed,
                "{len:?}: {stats:?}"
            );
        }
    }
}
