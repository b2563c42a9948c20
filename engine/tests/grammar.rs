//! Answers of a given form, from models whose scores are noise: the form alone makes them right, and drafts change nothing.

use std::sync::Arc;

use drafters::{Knowing, disturbed, draft_model, retelling};
use serde_json::{Value, json};
use surmise_engine::{
    Answer, Engine, EngineError, EngineOptions,
    grammar::Grammar,
    model::scripted::{HashedScript, ScriptedModel},
    request::{
        CopyMixing, FimPrompt, FinishReason, Prompt, Request, SamplingParams, Speculation, StopCondition,
    },
    speculative::{drafter::DrafterKind, network::NetworkDrafter},
    tokenizer::Tokenizer,
};

mod drafters;
mod gguf_builder;

fn engine() -> Engine {
    engine_with(None)
}

fn engine_with(drafter: Option<Box<dyn NetworkDrafter>>) -> Engine {
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
    Engine::start_with_drafter(Box::new(model), drafter, Arc::new(tokenizer), None, options).unwrap()
}

/// What the model reads.
const QUESTION: &str = "An answer, please.";

fn request(grammar: Grammar, sampling: SamplingParams, speculation: Speculation) -> Request {
    Request {
        prompt: Prompt::Text {
            text: QUESTION.into(),
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

/// Each kind of drafter knows the answer, but for a character now and then: drafts run into what the form forbids, and past its
/// end.
#[test]
fn answers_have_their_form_whoever_drafts() {
    let bytes = Arc::new(Tokenizer::bytes());
    let pairs = Arc::new(gguf_builder::pairs());
    let vocab = bytes.vocab_size();
    let mut counts = vec![(DrafterKind::PromptLookup, 0, 0); 7];
    for grammar in grammars() {
        for sampling in samplings().into_iter().take(3) {
            for copy in [CopyMixing::Off, CopyMixing::On] {
                let sampling = SamplingParams {
                    copy,
                    ..sampling.clone()
                };
                let looking_up = engine();
                let answer = |engine: &Engine, original: Option<String>, speculation| {
                    let request = Request {
                        original,
                        ..request(grammar.clone(), sampling.clone(), speculation)
                    };
                    engine.generate(request).blocking_collect().unwrap()
                };
                let plain = answer(&looking_up, None, Speculation::Off);
                looking_up
                    .set_reference("other", &disturbed(&plain.text))
                    .unwrap();
                let story = format!("{QUESTION}{}", plain.text);
                let retelling =
                    |own| draft_model(retelling(own, std::slice::from_ref(&story)), own, &bytes, vocab);
                let same_ids = engine_with(Some(retelling(&bytes)));
                let translating = engine_with(Some(retelling(&pairs)));
                let mut tokens = bytes.encode(&story, false).unwrap();
                if let FinishReason::StopToken(id) = plain.finish.reason {
                    tokens.push(id);
                }
                let with_trees = engine_with(Some(Box::new(Knowing::new(vec![tokens], vocab))));
                let lookup = match copy {
                    CopyMixing::On => (DrafterKind::Copy, &looking_up),
                    _ => (DrafterKind::PromptLookup, &looking_up),
                };
                for (idx, (drafter, engine)) in [
                    (DrafterKind::References, &looking_up),
                    (DrafterKind::Edit, &looking_up),
                    (DrafterKind::DraftModel, &same_ids),
                    (DrafterKind::DraftModel, &translating),
                    (DrafterKind::Eagle3, &with_trees),
                    lookup,
                ]
                .into_iter()
                .enumerate()
                {
                    for len in [None, Some(3), Some(16)] {
                        let original = Some(disturbed(&plain.text));
                        let drafted = answer(engine, original, Speculation::Only { drafter, len });
                        assert_eq!(outcome(&drafted), outcome(&plain), "{drafter}, {len:?}");
                        let idx = idx + usize::from(drafter == DrafterKind::Copy);
                        let stats = drafted.finish.speculation.of(drafter);
                        let (_, n_proposed, n_accepted) = counts[idx];
                        counts[idx] = (drafter, n_proposed + stats.proposed, n_accepted + stats.accepted);
                    }
                }
            }
        }
    }
    for (drafter, n_proposed, n_accepted) in counts {
        assert!(
            200 < n_accepted && n_accepted + 200 < n_proposed,
            "{drafter}: {n_accepted} of {n_proposed}"
        );
    }
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
