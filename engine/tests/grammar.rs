//! Answers of a given form, from models whose scores are noise: the form alone makes them right, and drafts change nothing.

use std::sync::Arc;

use serde_json::{Value, json};
use surmise_engine::{
    Answer, Engine, EngineError, EngineOptions,
    grammar::Grammar,
    model::scripted::{HashedScript, ScriptedModel},
    request::{FimPrompt, FinishReason, Prompt, Request, SamplingParams, Speculation, StopCondition},
    tokenizer::Tokenizer,
};

fn engine() -> Engine {
    let tokenizer = Tokenizer::bytes();
    // Few bytes count for a score, so that what was written once is often written again, and drafted.
    let model = ScriptedModel::hashed(HashedScript {
        vocab: tokenizer.vocab_size(),
        order: 1,
        surprise: 0,
        spread: 4,
        seed: 5,
    });
    let options = EngineOptions {
        kv_cache_bytes: Some(4 << 20),
        ..Default::default()
    };
    Engine::start(Box::new(model), Arc::new(tokenizer), None, options).unwrap()
}

fn request(grammar: Grammar, sampling: SamplingParams, speculation: Speculation) -> Request {
    Request {
        prompt: Prompt::Text {
            text: "An answer, please.".into(),
            parse_special: false,
        },
        grammar: Some(grammar),
        sampling,
        stop: StopCondition {
            max_tokens: 2000,
            ..Default::default()
        },
        speculation,
        ..Default::default()
    }
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "enum": ["alpha", "größe", "gamma ray"] },
            "level": { "type": "integer", "minimum": 3, "maximum": 20 },
            "tags": { "type": "array", "items": { "enum": ["x", "y"] }, "minItems": 30, "maxItems": 40 },
        },
        "required": ["name", "level", "tags"],
        "additionalProperties": false,
        "x-guidance": { "whitespace_flexible": false },
    })
}

fn grammars() -> [Grammar; 3] {
    [
        Grammar::JsonSchema(schema()),
        Grammar::Regex("(-?[0-9]{2,4};){20,30}".into()),
        Grammar::Lark("start: \"(\" [item (\",\" item){30,60}] \")\"\nitem: start | /[a-c]{1,3}/".into()),
    ]
}

fn samplings() -> Vec<SamplingParams> {
    let warm = |seed| SamplingParams {
        temperature: 0.8,
        top_k: 60,
        seed,
        ..Default::default()
    };
    std::iter::once(SamplingParams::default())
        .chain((1..=6).map(warm))
        .collect()
}

/// What drafts must not change.
fn outcome(answer: &Answer) -> (Vec<(u32, u32)>, &str, &FinishReason) {
    let tokens = answer.tokens.iter().map(|it| (it.id, it.logprob.to_bits()));
    (tokens.collect(), &answer.text, &answer.finish.reason)
}

/// Fails if an answer that is whole has not the form.
fn check(grammar: &Grammar, answer: &Answer) {
    let text = &answer.text;
    match grammar {
        Grammar::JsonSchema(_) => {
            let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(
                ["alpha", "größe", "gamma ray"].contains(&value["name"].as_str().unwrap()),
                "{text}"
            );
            assert!((3..=20).contains(&value["level"].as_i64().unwrap()), "{text}");
            let tags = value["tags"].as_array().unwrap();
            assert!(
                (30..=40).contains(&tags.len()) && tags.iter().all(|it| it == "x" || it == "y"),
                "{text}"
            );
        }
        Grammar::Regex(_) => {
            let numbers: Vec<&str> = text.strip_suffix(';').unwrap().split(';').collect();
            let is_number = |it: &&str| {
                let digits = it.strip_prefix('-').unwrap_or(it);
                (2..=4).contains(&digits.len()) && digits.bytes().all(|it| it.is_ascii_digit())
            };
            assert!(
                (20..=30).contains(&numbers.len()) && numbers.iter().all(is_number),
                "{text}"
            );
        }
        Grammar::Lark(_) => {
            let mut depth = 0;
            for c in text.chars() {
                depth += match c {
                    '(' => 1,
                    ')' => -1,
                    _ => 0,
                };
                assert!("(),abc".contains(c) && depth >= 0, "{text}");
            }
            assert_eq!(depth, 0, "{text}");
        }
    }
}

#[test]
fn answers_have_their_form_with_and_without_drafts() {
    let engine = engine();
    let answer = |grammar: &Grammar, sampling: &SamplingParams, speculation| {
        let request = request(grammar.clone(), sampling.clone(), speculation);
        engine.generate(request).blocking_collect().unwrap()
    };
    let (mut n_whole, mut n_accepted, mut n_rejected) = (0, 0, 0);
    for grammar in grammars() {
        for sampling in samplings() {
            let plain = answer(&grammar, &sampling, Speculation::Off);
            for speculation in [Speculation::Auto, Speculation::Fixed(3), Speculation::Fixed(16)] {
                let drafted = answer(&grammar, &sampling, speculation);
                assert_eq!(outcome(&drafted), outcome(&plain));
                let stats = drafted.finish.speculation.total();
                n_accepted += stats.accepted;
                n_rejected += stats.proposed - stats.accepted;
            }
            if let FinishReason::StopToken(_) = plain.finish.reason {
                n_whole += 1;
                check(&grammar, &plain);
            }
        }
    }
    assert!(n_whole > 12, "{n_whole} whole answers");
    assert!(
        n_accepted > 300 && n_rejected > 300,
        "{n_accepted} accepted, {n_rejected} not"
    );
}

#[test]
fn grammars_that_cannot_be_used_are_refused() {
    let engine = engine();
    let refusal = |request: Request| match engine.generate(request).blocking_collect() {
        Err(EngineError::BadRequest(message)) => message,
        other => panic!("{other:?}"),
    };
    let plain = |grammar| request(grammar, SamplingParams::default(), Speculation::Auto);
    for grammar in [
        Grammar::Regex("(".into()),
        Grammar::Lark("start: nowhere".into()),
        Grammar::JsonSchema(json!({ "type": "nothing" })),
    ] {
        let message = refusal(plain(grammar.clone()));
        assert!(
            message.starts_with("the grammar cannot be used: "),
            "{grammar:?}: {message}"
        );
    }
    let hole = Request {
        prompt: Prompt::Fim(FimPrompt::default()),
        ..plain(Grammar::Regex("a".into()))
    };
    assert!(
        refusal(hole).contains("neither tokens for filling"),
        "this model has no holes either"
    );
    let endless = Request {
        stop: StopCondition {
            ignore_end_tokens: true,
            ..Default::default()
        },
        ..plain(Grammar::Regex("a".into()))
    };
    assert!(refusal(endless).contains("ends with a stop token"));
}
