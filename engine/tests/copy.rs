//! Copying from outside: mixed into what the engine generates, with and without drafts, and for tokens of several bytes.

use std::sync::Arc;

use gguf_builder::{byte_level, open, strings};
use surmise_engine::{
    Answer, Engine, EngineOptions, WeightSource,
    copy::CopyPredictor,
    fim::FimTemplate,
    model::scripted::{HashedScript, ScriptedModel},
    request::{CopyMixing, FimPrompt, Prompt, Request, SamplingParams, Speculation, StopCondition},
    tokenizer::Tokenizer,
};

mod gguf_builder;

/// Says something new often enough that copying is sometimes wrong.
const SCRIPT: HashedScript = HashedScript {
    vocab: 262,
    order: 2,
    surprise: 5,
    spread: 12,
    seed: 8,
};

fn start() -> Engine {
    let fim = Some(FimTemplate::for_tests());
    let model = Box::new(ScriptedModel::hashed(SCRIPT));
    Engine::start(model, Arc::new(Tokenizer::bytes()), fim, EngineOptions::default()).unwrap()
}

fn answer(engine: &Engine, sampling: SamplingParams, speculation: Speculation) -> Answer {
    let request = Request {
        prompt: Prompt::Fim(FimPrompt {
            prefix: "let first_value = read(input);\nlet second_value = re".into(),
            suffix: "\nlet third_value = read(input) + first_value;\n".into(),
            ..FimPrompt::default()
        }),
        sampling,
        stop: StopCondition {
            max_tokens: 600,
            ignore_end_tokens: true,
            ..StopCondition::default()
        },
        speculation,
        ..Default::default()
    };
    engine.generate(request).blocking_collect().unwrap()
}

#[test]
fn drafts_change_neither_text_nor_probabilities() {
    let engine = start();
    let greedy = SamplingParams {
        copy: CopyMixing::On,
        ..SamplingParams::default()
    };
    let samplings = [
        greedy.clone(),
        SamplingParams {
            presence_penalty: 0.2,
            ..greedy.clone()
        },
        SamplingParams {
            temperature: 0.4,
            top_p: 0.95,
            seed: 3,
            ..greedy
        },
    ];
    for sampling in samplings {
        let plain = answer(&engine, sampling.clone(), Speculation::Off);
        let copies = plain.text.contains("ad(input)");
        assert!(copies || sampling.temperature > 0.0, "{:?}", plain.text);
        for speculation in [Speculation::Auto, Speculation::Fixed(1), Speculation::Fixed(9)] {
            let drafted = answer(&engine, sampling.clone(), speculation);
            assert_eq!(drafted.tokens.len(), plain.tokens.len());
            for (drafted, plain) in drafted.tokens.iter().zip(&plain.tokens) {
                assert_eq!(
                    (drafted.id, drafted.logprob.to_bits()),
                    (plain.id, plain.logprob.to_bits())
                );
            }
            assert!(speculation == Speculation::Auto || drafted.finish.speculation.total().accepted > 0);
        }
    }
}

#[test]
fn other_models_are_left_alone() {
    let engine = start();
    assert!(!engine.info().copies);
    let with = |copy| {
        let sampling = SamplingParams {
            copy,
            ..SamplingParams::default()
        };
        answer(&engine, sampling, Speculation::Off)
    };
    assert_eq!(with(CopyMixing::Auto).tokens, with(CopyMixing::Off).tokens);
    assert_ne!(with(CopyMixing::On).text, with(CopyMixing::Off).text);
}

#[test]
fn our_model_asks_for_it() {
    let weights = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/surmise.gguf");
    let engine = Engine::load(WeightSource::File(weights), EngineOptions::default()).unwrap();
    assert!(engine.info().copies);
}

#[test]
fn a_place_within_a_token_gives_the_rest_of_it() {
    let file = byte_level("qwen2", &[("se", 1), ("th", 1), ("the", 1), ("these", 1)]).pair(
        "tokenizer.ggml.merges",
        strings(&["s e", "t h", "th e", "the se"]),
    );
    let tokenizer = Arc::new(Tokenizer::from_gguf(&open(&file.build()).unwrap()).unwrap());
    let predict = |text: &str| {
        let tokens = tokenizer.encode(text, false).unwrap();
        let mut predictor = CopyPredictor::new(Arc::clone(&tokenizer), &tokens, None);
        let votes = predictor.predict(&tokens).votes.iter();
        votes.map(|&(id, _)| tokenizer.decode(&[id])).collect::<Vec<_>>()
    };
    // `these` is one token, whose rest `se` is one, while that of `thes` has no place.
    assert_eq!(predict("abc,these.abc,the"), ["se"]);
    assert_eq!(predict("abc,these.abc,thes"), ["e"]);
    assert_eq!(predict("abc,these.abc,these"), ["."]);
    assert_eq!(predict("abc,these.abc,"), ["these"]);
    assert_eq!(predict("abc,these.abc,t"), ["h"]);
}
