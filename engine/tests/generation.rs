//! The engine from outside, with models that need no weights: the same text whatever is drafted or batched, and
//! every way a generation can end.

use std::{sync::Arc, time::Duration};

use drafters::Branching;
use surmise_engine::{
    Answer, Engine, EngineError, EngineOptions, Generation,
    kv_cache::{CacheType, CachedSequence, KvCache},
    model::{
        Batch, Model, ModelConfig, Row,
        scripted::{HashedScript, ScriptedModel},
    },
    request::{Event, FinishReason, Prompt, Request, SamplingParams, Speculation, StopCondition},
    speculative::drafter::DrafterKind,
    tokenizer::Tokenizer,
};

mod drafters;

/// Repeats itself and breaks off again and again, so that drafts are long, short, right and wrong.
const MOODY: HashedScript = HashedScript {
    vocab: 24,
    order: 2,
    surprise: 13,
    spread: 8,
    seed: 3,
};

fn start(model: impl Model + 'static, max_running: usize) -> Engine {
    let options = EngineOptions {
        max_running,
        kv_cache_bytes: Some(4 << 20),
        ..Default::default()
    };
    Engine::start(Box::new(model), Arc::new(Tokenizer::bytes()), None, options).unwrap()
}

fn replaying(replies: &[(&str, &str)]) -> Engine {
    start(
        ScriptedModel::replay(Arc::new(Tokenizer::bytes()), replies).unwrap(),
        8,
    )
}

fn text_request(prompt: &str, max_tokens: usize) -> Request {
    Request {
        prompt: Prompt::Text {
            text: prompt.into(),
            parse_special: false,
        },
        stop: StopCondition {
            max_tokens,
            ..Default::default()
        },
        ..Default::default()
    }
}

fn moody_request(seed: u32, sampling: &SamplingParams, speculation: Speculation) -> Request {
    Request {
        prompt: Prompt::Tokens(
            (0..20 + seed * 13)
                .map(|i| (i * (seed + 3) + i / 7) % 24)
                .collect(),
        ),
        sampling: sampling.clone(),
        stop: StopCondition {
            max_tokens: 700,
            ..Default::default()
        },
        speculation,
        ..Default::default()
    }
}

fn samplings() -> [SamplingParams; 3] {
    let greedy = SamplingParams::default();
    [
        greedy.clone(),
        SamplingParams {
            repetition_penalty: 1.05,
            presence_penalty: 0.3,
            ..greedy
        },
        SamplingParams {
            temperature: 0.4,
            top_k: 12,
            top_p: 0.95,
            min_p: 0.01,
            repetition_penalty: 1.01,
            seed: 5,
            ..greedy
        },
    ]
}

#[test]
fn the_text_is_the_same_for_every_policy_and_batch_size() {
    use Speculation::{Auto, Fixed, Off};
    let policies = [
        Off,
        Auto,
        Fixed(1),
        Fixed(3),
        Fixed(8),
        Fixed(16),
        Fixed(1000),
        Off,
    ];
    for sampling in &samplings() {
        let plain: Vec<Answer> = {
            let engine = start(ScriptedModel::hashed(MOODY), 1);
            let answers = (0..8).map(|seed| {
                engine
                    .generate(moody_request(seed, sampling, Off))
                    .blocking_collect()
            });
            answers.collect::<Result<_, _>>().unwrap()
        };
        for max_running in [1, 2, 8] {
            let engine = start(ScriptedModel::hashed(MOODY), max_running);
            for round in 0..policies.len() {
                // In each round every prompt has another policy, and runs beside all the others.
                let generations: Vec<Generation> = (0..8)
                    .map(|seed| {
                        let policy = policies[(seed + round) % policies.len()];
                        engine.generate(moody_request(seed as u32, sampling, policy))
                    })
                    .collect();
                for (generation, plain) in generations.into_iter().zip(&plain) {
                    let answer = generation.blocking_collect().unwrap();
                    assert_eq!(answer.text, plain.text);
                    assert_eq!(answer.finish.reason, FinishReason::Length);
                    for (token, plain) in answer.tokens.iter().zip(&plain.tokens) {
                        assert_eq!((token.id, token.logprob), (plain.id, plain.logprob));
                    }
                }
            }
        }
    }
}

#[test]
fn the_counts_add_up() {
    let engine = start(ScriptedModel::hashed(MOODY), 1);
    for speculation in [Speculation::Off, Speculation::Auto, Speculation::Fixed(6)] {
        let request = moody_request(1, &SamplingParams::default(), speculation);
        let answer = engine.generate(request).blocking_collect().unwrap();
        let speculation_stats = answer.finish.speculation;
        let stats = speculation_stats.total();
        assert_eq!(answer.finish.usage.generated_tokens, 700);
        assert_eq!(
            speculation_stats.emitted, 699,
            "the first token comes from the prompt's pass"
        );
        assert_eq!(
            stats.accepted,
            answer.tokens.iter().filter(|it| it.drafter.is_some()).count()
        );
        assert_eq!(
            speculation_stats.emitted,
            speculation_stats.steps + stats.accepted
        );
        assert!(stats.recovered + stats.bonus <= stats.steps && stats.steps <= speculation_stats.steps);
        if speculation == Speculation::Off {
            assert_eq!((stats.proposed, speculation_stats.tokens_per_step()), (0, 1.0));
        } else {
            // How far drafts reach that nobody fixes depends on how long a step takes on this machine.
            let least = if speculation == Speculation::Auto { 0 } else { 100 };
            assert!(
                stats.accepted > least && stats.proposed > stats.accepted,
                "{stats:?}"
            );
        }
    }
}

/// Probabilities that `params` leave of `logits`, done the slow and obvious way.
fn expected_distribution(logits: &[f32], params: &SamplingParams) -> Vec<f64> {
    let mut probabilities: Vec<(usize, f64)> = logits
        .iter()
        .map(|&logit| f64::from(logit / params.temperature).exp())
        .enumerate()
        .collect();
    let normalise = |probabilities: &mut Vec<(usize, f64)>| {
        let total: f64 = probabilities.iter().map(|it| it.1).sum();
        probabilities.iter_mut().for_each(|it| it.1 /= total);
    };
    probabilities.sort_by(|a, b| b.1.total_cmp(&a.1));
    if params.top_k > 0 {
        probabilities.truncate(params.top_k);
    }
    normalise(&mut probabilities);
    let mut before = 0.0;
    probabilities.retain(|it| {
        let is_kept = before < f64::from(params.top_p);
        before += it.1;
        is_kept
    });
    let best = probabilities[0].1;
    probabilities.retain(|it| it.1 >= best * f64::from(params.min_p));
    normalise(&mut probabilities);
    let mut by_id = vec![0.0; logits.len()];
    for (id, probability) in probabilities {
        by_id[id] = probability;
    }
    by_id
}

/// Scores after each single token.
fn logits_after(script: HashedScript) -> Vec<Vec<f32>> {
    let mut model = ScriptedModel::hashed(script);
    let mut cache = KvCache::with_type(model.config(), 1, CacheType::F32);
    let mut sequence = CachedSequence::default();
    cache.reserve(&mut sequence, 1).unwrap();
    let rows = |token| [Row::chain(token, 0, 0, true)];
    let after = (0..script.vocab as u32).map(|token| {
        let mut logits = Vec::new();
        let batch = Batch {
            rows: &rows(token),
            sequences: &[&sequence],
        };
        model.forward(batch, &mut cache, &mut logits).unwrap();
        logits
    });
    after.collect()
}

#[test]
fn sampled_tokens_have_the_target_distribution() {
    let script = HashedScript {
        vocab: 10,
        order: 1,
        surprise: 0,
        spread: 4,
        seed: 8,
    };
    let logits = logits_after(script);
    let plain = SamplingParams {
        temperature: 1.0,
        ..Default::default()
    };
    let branching = Box::new(Branching {
        logits: logits.clone(),
    });
    let engine = Engine::start_with_drafter(
        Box::new(ScriptedModel::hashed(script)),
        Some(branching),
        Arc::new(Tokenizer::bytes()),
        None,
        EngineOptions::default(),
    )
    .unwrap();
    let tree = Speculation::Only {
        drafter: DrafterKind::Eagle3,
        len: Some(3),
    };
    for (params, seed) in [
        plain.clone(),
        SamplingParams {
            temperature: 0.6,
            ..plain.clone()
        },
        SamplingParams {
            top_k: 4,
            ..plain.clone()
        },
        SamplingParams {
            top_p: 0.8,
            ..plain.clone()
        },
        SamplingParams {
            min_p: 0.2,
            ..plain.clone()
        },
        SamplingParams {
            temperature: 1.3,
            top_k: 8,
            top_p: 0.9,
            min_p: 0.05,
            ..plain
        },
    ]
    .into_iter()
    .zip(100..)
    {
        let chain = Speculation::Only {
            drafter: DrafterKind::PromptLookup,
            len: Some(4),
        };
        for (speculation, seed) in [(Speculation::Off, seed), (chain, seed + 100), (tree, seed + 200)] {
            let answer = engine.generate(Request {
                prompt: Prompt::Tokens(vec![0]),
                sampling: SamplingParams {
                    seed,
                    ..params.clone()
                },
                stop: StopCondition {
                    max_tokens: 8_000,
                    ..Default::default()
                },
                speculation,
                ..Default::default()
            });
            let answer = answer.blocking_collect().unwrap();
            if speculation != Speculation::Off {
                let stats = answer.finish.speculation.total();
                assert!(stats.accepted > 500 && stats.recovered > 500, "{stats:?}");
            }
            let mut counts = vec![vec![0u32; 10]; 10];
            for pair in answer.tokens.windows(2) {
                counts[pair[0].id as usize][pair[1].id as usize] += 1;
            }
            let (mut chi_square, mut freedom) = (0.0, 0.0);
            for (counts, logits) in counts.iter().zip(&logits) {
                let total = f64::from(counts.iter().sum::<u32>());
                for (&count, probability) in counts.iter().zip(expected_distribution(logits, &params)) {
                    let expected = probability * total;
                    if probability == 0.0 {
                        assert_eq!(count, 0, "a token that the filters forbid");
                    } else if expected >= 5.0 {
                        chi_square += (f64::from(count) - expected).powi(2) / expected;
                        freedom += 1.0;
                    }
                }
                freedom -= if total >= 5.0 { 1.0 } else { 0.0 };
            }
            // Four and a half standard deviations of the chi-square distribution.
            let limit = freedom + 4.5 * f64::sqrt(2.0 * freedom);
            assert!(
                chi_square < limit,
                "{params:?} {speculation:?}: {chi_square} of {freedom}"
            );
        }
    }
}

#[test]
fn a_token_says_where_its_text_ends_however_many_come_at_once() {
    let text = "größe = größe + 1;\n";
    let engine = replaying(&[("", text)]);
    for speculation in [Speculation::Off, Speculation::Fixed(8)] {
        let mut request = text_request("größe = größe + 1;\n// again:\n", 100);
        request.speculation = speculation;
        let answer = engine.generate(request).blocking_collect().unwrap();
        let ends: Vec<usize> = answer.tokens.iter().map(|token| token.text_end).collect();
        // One token for each byte: the first half of a character ends where the character begins.
        let expected: Vec<usize> = (1..=text.len())
            .map(|end| text.floor_char_boundary(end))
            .collect();
        assert_eq!(ends, expected, "{speculation:?}");
    }
}

#[test]
fn stop_strings_end_the_text_before_them() {
    let text = "let a = 1;\nlet b = 2;\n\nfn main() {}\n";
    let engine = replaying(&[("", text)]);
    for speculation in [Speculation::Off, Speculation::Auto, Speculation::Fixed(8)] {
        for (strings, expected, reason) in [
            (
                &["\n\n"][..],
                "let a = 1;\nlet b = 2;",
                FinishReason::StopString("\n\n".into()),
            ),
            (
                &["fn", "\nlet b"],
                "let a = 1;",
                FinishReason::StopString("\nlet b".into()),
            ),
            (&["", "b = 3"], text, FinishReason::StopToken(256)),
        ] {
            let mut request = text_request("let a = 1;\nlet b = 2;\n// again:\n", 100);
            request.stop.strings = strings.iter().map(|&it| it.into()).collect();
            request.speculation = speculation;
            let mut generation = engine.generate(request);
            let mut shown = String::new();
            let reason_found = loop {
                match generation.blocking_next().unwrap() {
                    Event::Text { text, .. } => shown.push_str(&text),
                    Event::Finished(finish) => break finish.reason,
                    _ => {}
                }
                assert!(expected.starts_with(&shown), "{shown:?} was shown");
            };
            assert_eq!((shown.as_str(), reason_found), (expected, reason));
        }
    }
}

#[test]
fn stop_tokens_are_not_part_of_the_answer() {
    let engine = replaying(&[("", "one;two")]);
    let mut request = text_request("one;two one;two ", 100);
    request.stop.tokens = vec![u32::from(b';')];
    for speculation in [Speculation::Off, Speculation::Fixed(8)] {
        request.speculation = speculation;
        let answer = engine.generate(request.clone()).blocking_collect().unwrap();
        assert_eq!(answer.text, "one");
        assert_eq!(answer.tokens.len(), 3);
        assert_eq!(answer.finish.reason, FinishReason::StopToken(u32::from(b';')));
    }
}

#[test]
fn characters_arrive_whole() {
    let text = "naïve 世界 🦀!";
    let engine = replaying(&[("", text)]);
    let mut generation = engine.generate(text_request("? ", 100));
    let mut shown = String::new();
    while let Some(event) = generation.blocking_next() {
        if let Event::Text { text: piece, tokens } = event {
            assert!(!piece.contains('\u{fffd}'));
            assert!(!tokens.is_empty());
            shown.push_str(&piece);
        }
    }
    assert_eq!(shown, text);
    // Cut in the middle of the crab.
    let n_tokens = text.len() - 3;
    let answer = engine
        .generate(text_request("? ", n_tokens))
        .blocking_collect()
        .unwrap();
    assert_eq!(answer.text, "naïve 世界 ");
    assert_eq!(answer.finish.reason, FinishReason::Length);
}

#[test]
fn replies_follow_their_triggers() {
    let engine = replaying(&[("", "?"), ("name", "Surmise"), ("colour", "green")]);
    for (prompt, expected) in [
        ("what is your name: ", "Surmise"),
        ("your name? Surmise. your colour: ", "green"),
        ("hello: ", "?"),
    ] {
        assert_eq!(
            engine
                .generate(text_request(prompt, 50))
                .blocking_collect()
                .unwrap()
                .text,
            expected
        );
    }
}

#[test]
fn a_second_identical_request_reuses_the_prompt() {
    let engine = start(ScriptedModel::hashed(MOODY), 8);
    let request = moody_request(7, &SamplingParams::default(), Speculation::Auto);
    let Prompt::Tokens(prompt) = &request.prompt else {
        unreachable!()
    };
    let first = engine.generate(request.clone()).blocking_collect().unwrap();
    let second = engine.generate(request.clone()).blocking_collect().unwrap();
    assert_eq!(first.finish.usage.reused_tokens, 0);
    assert_eq!(second.finish.usage.reused_tokens, prompt.len() - 1);
    assert_eq!(first.text, second.text);
    // A conversation goes on: prompt and answer are there, except the last token, which was never run.
    let mut longer = prompt.clone();
    longer.extend(first.tokens.iter().map(|it| it.id));
    let n_known = longer.len() - 1;
    longer.extend([1, 2, 3]);
    let third = engine.generate(Request {
        prompt: Prompt::Tokens(longer),
        ..request
    });
    assert_eq!(
        third.blocking_collect().unwrap().finish.usage.reused_tokens,
        n_known
    );
}

#[test]
fn no_tokens_asked_for_warms_the_prefix_cache() {
    let engine = replaying(&[("", "answer")]);
    let answer = engine
        .generate(text_request("some prompt", 0))
        .blocking_collect()
        .unwrap();
    assert_eq!(
        (answer.text.as_str(), answer.finish.reason),
        ("", FinishReason::Length)
    );
    let answer = engine
        .generate(text_request("some prompt", 10))
        .blocking_collect()
        .unwrap();
    assert_eq!(
        (answer.text.as_str(), answer.finish.usage.reused_tokens),
        ("answer", 10)
    );
}

#[test]
fn requests_that_cannot_run_say_why() {
    let engine = replaying(&[("", "x")]);
    let fail = |request: Request| engine.generate(request).blocking_collect().unwrap_err();
    let bad = |request: Request, part: &str| match fail(request) {
        EngineError::BadRequest(text) => assert!(text.contains(part), "{text}"),
        other => panic!("{other}"),
    };
    bad(text_request("", 1), "empty");
    bad(
        Request {
            prompt: Prompt::Tokens(vec![1, 9999]),
            ..Default::default()
        },
        "9999",
    );
    bad(
        Request {
            prompt: Prompt::Fim(Default::default()),
            ..Default::default()
        },
        "scripted",
    );
    let mut request = text_request("a", 1);
    request.sampling.min_p = -0.5;
    bad(request, "min_p");

    let context_length = engine.info().context_length;
    let too_long = fail(text_request(&"x".repeat(context_length), 1));
    assert!(
        matches!(too_long, EngineError::PromptTooLong { prompt_tokens, context_length: length }
            if prompt_tokens == context_length && length == context_length)
    );
}

#[test]
fn a_full_context_ends_the_answer() {
    let engine = start(ScriptedModel::hashed(MOODY), 8);
    let context_length = engine.info().context_length;
    let prompt: Vec<u32> = (0..context_length as u32 - 20).map(|i| i % 24).collect();
    for speculation in [Speculation::Off, Speculation::Fixed(16)] {
        let answer = engine.generate(Request {
            prompt: Prompt::Tokens(prompt.clone()),
            stop: StopCondition {
                max_tokens: usize::MAX,
                ..Default::default()
            },
            speculation,
            ..Default::default()
        });
        let answer = answer.blocking_collect().unwrap();
        assert_eq!(answer.tokens.len(), 20);
        assert_eq!(answer.finish.reason, FinishReason::Length);
    }
}

#[test]
fn dropped_and_cancelled_generations_give_their_blocks_back() {
    let engine = start(ScriptedModel::hashed(MOODY), 4);
    let endless = |seed: u32| {
        let mut request = moody_request(seed % 30, &SamplingParams::default(), Speculation::Auto);
        request.stop.max_tokens = 20_000;
        request
    };
    for seed in 0..1000 {
        let mut generation = engine.generate(endless(seed));
        match seed % 3 {
            0 => {}
            1 => drop(generation.blocking_next()),
            _ => {
                generation.cancel();
                let answer = generation.blocking_collect().unwrap();
                assert_eq!(answer.finish.reason, FinishReason::Cancelled);
            }
        }
    }
    let is_quiet = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(2));
        let status = engine.status();
        (status.n_running, status.n_waiting, status.n_held_blocks) == (0, 0, 0)
    });
    assert!(is_quiet, "{:?}", engine.status());
}

#[test]
fn dropping_the_engine_ends_what_runs() {
    let engine = start(ScriptedModel::hashed(MOODY), 1);
    let mut request = moody_request(0, &SamplingParams::default(), Speculation::Off);
    request.stop.max_tokens = usize::MAX;
    let mut running = engine.generate(request.clone());
    let waiting = engine.generate(request);
    running.blocking_next();
    drop(engine);
    assert_eq!(
        running.blocking_collect().unwrap().finish.reason,
        FinishReason::Cancelled
    );
    assert_eq!(
        waiting.blocking_collect().unwrap().finish.reason,
        FinishReason::Cancelled
    );
}

/// A model that works for a while and then does `accident`.
struct Failing {
    model: ScriptedModel,
    steps_left: usize,
    accident: fn(&mut Vec<f32>) -> Result<(), EngineError>,
}

impl Model for Failing {
    fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn forward(
        &mut self,
        batch: Batch<'_>,
        cache: &mut KvCache,
        logits: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        self.model.forward(batch, cache, logits)?;
        match self.steps_left.checked_sub(1) {
            Some(left) => self.steps_left = left,
            None => (self.accident)(logits)?,
        }
        Ok(())
    }
}

fn failing(accident: fn(&mut Vec<f32>) -> Result<(), EngineError>) -> Engine {
    start(
        Failing {
            model: ScriptedModel::hashed(MOODY),
            steps_left: 5,
            accident,
        },
        2,
    )
}

fn endless_request() -> Request {
    let mut request = moody_request(0, &SamplingParams::default(), Speculation::Off);
    request.stop.max_tokens = usize::MAX;
    request
}

#[test]
fn a_panic_fails_every_generation() {
    let engine = failing(|_| panic!("out of luck"));
    let generations = [(); 4].map(|()| engine.generate(endless_request()));
    for generation in generations {
        let error = generation.blocking_collect().unwrap_err();
        assert!(
            matches!(&error, EngineError::Stopped(reason) if reason.contains("out of luck")),
            "{error}"
        );
    }
    let later = engine.generate(endless_request()).blocking_collect();
    assert!(matches!(later, Err(EngineError::Stopped(_))));
}

#[test]
fn scores_that_are_not_numbers_fail_the_generation() {
    let engine = failing(|logits| {
        logits[3] = f32::NAN;
        Ok(())
    });
    let error = engine.generate(endless_request()).blocking_collect().unwrap_err();
    assert!(matches!(error, EngineError::BadLogits { .. }), "{error}");
    assert_eq!(engine.status().n_held_blocks, 0);
}

#[test]
fn a_failed_pass_fails_its_generations_and_the_engine_goes_on() {
    let engine = failing(|_| Err(EngineError::BadRequest("no".into())));
    let error = engine.generate(endless_request()).blocking_collect().unwrap_err();
    assert!(matches!(error, EngineError::BadRequest(_)), "{error}");
    let error = engine.generate(endless_request()).blocking_collect().unwrap_err();
    assert!(matches!(error, EngineError::BadRequest(_)), "{error}");
}
