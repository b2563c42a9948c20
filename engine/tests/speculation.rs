//! Every drafter from outside: it is used, it is counted, and it changes nothing.

use std::sync::Arc;

use surmise_engine::{
    Answer, Engine, EngineOptions,
    model::scripted::{HashedScript, ScriptedModel},
    request::{CopyMixing, Prompt, Request, SamplingParams, Speculation, StopCondition},
    speculative::drafter::DrafterKind,
    tokenizer::Tokenizer,
};

/// Follows the last two bytes, but now and then does something else.
const MOODY: HashedScript = HashedScript {
    vocab: 48,
    order: 2,
    surprise: 17,
    spread: 10,
    seed: 4,
};

fn moody(max_running: usize) -> Engine {
    let options = EngineOptions {
        max_running,
        kv_cache_bytes: Some(8 << 20),
        ..Default::default()
    };
    let model = Box::new(ScriptedModel::hashed(MOODY));
    Engine::start(model, Arc::new(Tokenizer::bytes()), None, options).unwrap()
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
        original: None,
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
                            DrafterKind::References | DrafterKind::Edit => true,
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
        len.is_none() || n_accepted > 20,
        "{drafter}, {len:?}: {n_accepted}"
    );
}
