//! The embedded model, through the front door: speculation changes nothing, typing costs what was typed.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use surmise_engine::{
    Answer, Engine, EngineOptions, WeightSource,
    copy::Origin,
    fim::FimTemplate,
    model::{Checkpoint, load_model},
    request::{Event, FimPrompt, Prompt, Request, SamplingParams, Speculation, StopCondition},
    tokenizer::Tokenizer,
    weights::Gguf,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn engine() -> Engine {
    let source = WeightSource::File(root().join("engine/weights/surmise.gguf"));
    Engine::load(source, EngineOptions::default()).unwrap()
}

/// Holes all over the fixtures, at lines and inside them.
fn holes(n: usize) -> Vec<FimPrompt> {
    let files = [
        "rust/ledger.rs",
        "python/inventory.py",
        "typescript/queue.ts",
        "go/cache.go",
    ];
    let texts = files.map(|name| {
        (
            name,
            fs::read_to_string(root().join("tests/fixtures").join(name)).unwrap(),
        )
    });
    (0..n)
        .map(|idx| {
            let (name, text) = &texts[idx % texts.len()];
            let mut at = text.len() / 5 + (idx * 7919) % (text.len() * 3 / 5);
            while !text.is_char_boundary(at) {
                at += 1;
            }
            let suffix_start = text[at..].find('\n').map_or(text.len(), |end| at + end);
            FimPrompt {
                prefix: text[..at].into(),
                suffix: text[suffix_start..].into(),
                path: Some((*name).into()),
                ..FimPrompt::default()
            }
        })
        .collect()
}

#[test]
fn its_file_is_smaller_than_50_megabytes() {
    let file = fs::metadata(root().join("engine/weights/surmise.gguf")).unwrap();
    assert!(file.len() < 50_000_000, "{} bytes", file.len());
}

fn fill(engine: &Engine, hole: &FimPrompt, speculation: Speculation, sampling: &SamplingParams) -> Answer {
    let request = Request {
        prompt: Prompt::Fim(hole.clone()),
        stop: StopCondition {
            max_tokens: 48,
            ignore_end_tokens: true,
            ..StopCondition::default()
        },
        sampling: sampling.clone(),
        speculation,
        // Something beside the prompt that answers are copied from, too.
        copy_sources: engine
            .copy_source(format!("{}\n{}", hole.suffix, hole.prefix), Origin::SameFile)
            .into_iter()
            .collect(),
        ..Default::default()
    };
    engine.generate(request).blocking_collect().unwrap()
}

#[test]
fn speculation_changes_neither_tokens_nor_probabilities() {
    let engine = engine();
    let holes = holes(50);
    let warm = SamplingParams {
        temperature: 0.7,
        top_p: 0.95,
        seed: 3,
        ..SamplingParams::default()
    };
    let (mut n_emitted, mut n_steps) = (0, 0);
    for sampling in [SamplingParams::default(), warm] {
        for (idx, hole) in holes.iter().enumerate() {
            let plain = fill(&engine, hole, Speculation::Off, &sampling);
            assert!(plain.tokens.len() >= 48);
            for speculation in [Speculation::Auto, Speculation::Fixed(8)] {
                let drafted = fill(&engine, hole, speculation, &sampling);
                assert_eq!(drafted.text, plain.text, "hole {idx}, {speculation:?}");
                let bits = |answer: &Answer| -> Vec<(u32, u32)> {
                    answer
                        .tokens
                        .iter()
                        .map(|token| (token.id, token.logprob.to_bits()))
                        .collect()
                };
                assert_eq!(bits(&drafted), bits(&plain), "hole {idx}, {speculation:?}");
                n_emitted += drafted.finish.speculation.emitted;
                n_steps += drafted.finish.speculation.steps;
            }
        }
    }
    assert!(
        n_steps < n_emitted,
        "no draft was ever accepted: {n_emitted} tokens in {n_steps} steps"
    );
}

/// The same model, asked in the order of Qwen's, suffix last.
fn engine_with_suffix_last() -> Engine {
    let gguf = Gguf::open(WeightSource::File(root().join("engine/weights/surmise.gguf"))).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).unwrap());
    let model = load_model(&Checkpoint::from_gguf(&gguf).unwrap(), 2).unwrap();
    let template = FimTemplate::qwen(&tokenizer);
    assert!(template.is_some());
    Engine::start(Box::new(model), tokenizer, template, EngineOptions::default()).unwrap()
}

#[test]
fn a_word_cut_in_two_is_gone_on_with_whichever_order_the_prompt_has() {
    let hole = FimPrompt {
        prefix: "def total(prices):\n    result = sum(prices)\n    retu".into(),
        suffix: "\n\n\nprint(total([1, 2]))\n".into(),
        ..FimPrompt::default()
    };
    for engine in [engine(), engine_with_suffix_last()] {
        let answer = fill(&engine, &hole, Speculation::Auto, &SamplingParams::default());
        assert!(answer.text.starts_with("rn "), "{}", answer.text);
    }
}

#[test]
fn typing_costs_the_tokens_that_were_typed() {
    for engine in [engine(), engine_with_suffix_last()] {
        check_cost_of_typing(&engine);
    }
}

fn check_cost_of_typing(engine: &Engine) {
    let mut hole = holes(1).remove(0);
    fill(engine, &hole, Speculation::Auto, &SamplingParams::default());
    for typed in ["l", "e", "t", " ", "x", " ="] {
        hole.prefix.push_str(typed);
        let request = Request {
            prompt: Prompt::Fim(hole.clone()),
            stop: StopCondition {
                max_tokens: 4,
                ..StopCondition::default()
            },
            ..Request::default()
        };
        let mut generation = engine.generate(request);
        let Some(Event::Started {
            prompt_tokens,
            reused_tokens,
        }) = generation.blocking_next()
        else {
            panic!("no start");
        };
        // The end of the prefix may be cut into other tokens than before, and the hole's last token always runs.
        assert!(
            prompt_tokens - reused_tokens <= 8,
            "{reused_tokens} of {prompt_tokens} tokens reused"
        );
    }
}
