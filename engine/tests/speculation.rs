//! Every drafter from outside: it is used, it is counted, and it changes nothing.

use std::{path::Path, sync::Arc};

use drafters::{Knowing, Slow, bits, disturbed, draft_model, retelling};
use gguf_builder::{Value, byte_level, open, pairs, sentencepiece, strings};
use surmise_engine::{
    Answer, Engine, EngineOptions, WeightSource,
    kv_cache::KvCache,
    model::{
        Model,
        dictated::{Dictated, Dictation},
        scripted::{HashedScript, ScriptedModel},
    },
    request::{CopyMixing, FinishReason, Prompt, Request, SamplingParams, Speculation, StopCondition},
    speculative::{draft_model::DraftModel, drafter::DrafterKind, network::NetworkDrafter},
    tokenizer::Tokenizer,
};

mod drafters;
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
    let tokenizer = Arc::new(Tokenizer::bytes());
    let calm = ScriptedModel::hashed(CALM);
    let drafter = draft_model(calm, &tokenizer, &tokenizer, MOODY.vocab);
    start(MOODY, drafter, max_running)
}

fn start(script: HashedScript, drafter: Box<dyn NetworkDrafter>, max_running: usize) -> Engine {
    let options = EngineOptions {
        max_running,
        kv_cache_bytes: Some(8 << 20),
        ..Default::default()
    };
    let model = Box::new(ScriptedModel::hashed(script));
    Engine::start_with_drafter(model, Some(drafter), Arc::new(Tokenizer::bytes()), None, options).unwrap()
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

/// Functions for a model to write, and the same with some of them changed.
fn functions(is_disturbed: bool) -> Vec<String> {
    let function = |idx: usize| {
        let sum = if is_disturbed && idx % 3 == 1 {
            "sum"
        } else {
            "area"
        };
        format!(
            "fn {sum}_{idx}(width: u32, height: u32) -> u32 {{\n    let area = width * height; // naïve\n    area + \
             {idx}\n}}\n\n"
        )
    };
    (0..30).map(function).collect()
}

/// A model that writes `functions` one after the other, and goes on after whichever of the right ones it sees.
fn writer(tokenizer: &Arc<Tokenizer>, functions: &[String]) -> ScriptedModel {
    let seen = functions_before(functions.len());
    let replies: Vec<_> = seen
        .iter()
        .map(String::as_str)
        .zip(functions.iter().map(String::as_str))
        .collect();
    ScriptedModel::replay(Arc::clone(tokenizer), &replies).unwrap()
}

/// What each function is written after: the one before it.
fn functions_before(n_functions: usize) -> Vec<String> {
    let before = std::iter::once(String::new()).chain(functions(false));
    before.take(n_functions).collect()
}

/// The words of the functions, and all that they begin with, the shorter first.
fn beginnings(is_wanted: fn(&str) -> bool) -> Vec<String> {
    let text = functions(true).concat() + &functions(false).concat();
    let mut words: Vec<&str> = text
        .split(|it: char| !it.is_ascii_alphabetic())
        .filter(|it| is_wanted(it))
        .collect();
    words.sort_unstable();
    words.dedup();
    let ends = words
        .iter()
        .flat_map(|word| (2..=word.len()).map(move |end| word[..end].to_owned()));
    let mut all: Vec<String> = ends.collect();
    all.dedup();
    all
}

/// A vocabulary that writes a space before a text, with the words that are wanted.
fn spacing(is_wanted: fn(&str) -> bool) -> Arc<Tokenizer> {
    let mut pieces = vec!["▁".to_owned()];
    pieces.extend(('a'..='z').map(String::from));
    pieces.extend(('a'..='z').map(|letter| format!("▁{letter}")));
    for word in beginnings(is_wanted) {
        pieces.extend([format!("▁{word}"), word]);
    }
    let pieces: Vec<(&str, f32)> = pieces
        .iter()
        .map(String::as_str)
        .zip((0..).map(|rank| -(rank as f32)))
        .collect();
    Arc::new(Tokenizer::from_gguf(&open(&sentencepiece(&pieces).build()).unwrap()).unwrap())
}

/// A byte-level vocabulary with all words.
fn byte_level_words() -> Arc<Tokenizer> {
    let (mut tokens, mut merges) = (Vec::new(), Vec::new());
    for word in beginnings(|_| true) {
        let (start, last) = word.split_at(word.len() - 1);
        merges.push(format!("{start} {last}"));
        tokens.push(word.clone());
    }
    let tokens: Vec<(&str, u32)> = tokens
        .iter()
        .map(|it| (it.as_str(), 1))
        .chain([("<end>", 3)])
        .collect();
    let end_token = 256 + tokens.len() as u32 - 1;
    let merges: Vec<&str> = merges.iter().map(String::as_str).collect();
    let pairs = byte_level("qwen2", &tokens)
        .pair("tokenizer.ggml.merges", strings(&merges))
        .pair("tokenizer.ggml.eos_token_id", Value::U32(end_token));
    Arc::new(Tokenizer::from_gguf(&open(&pairs.build()).unwrap()).unwrap())
}

#[test]
fn a_draft_model_may_have_another_vocabulary() {
    let (all, long) = (spacing(|_| true), spacing(|word| word.len() > 4));
    let bytes = byte_level_words();
    for (name, own, target) in [
        ("spacing for bytes", &all, &bytes),
        ("bytes for spacing", &bytes, &all),
        ("spacing for spacing", &all, &long),
    ] {
        let vocab = target.vocab_size();
        let model = writer(own, &functions(true));
        let cache = KvCache::new(model.config(), 1000);
        let drafter = DraftModel::new(Box::new(model), Arc::clone(own), cache, Arc::clone(target), vocab);
        let model = Box::new(writer(target, &functions(false)));
        let options = EngineOptions::default();
        let engine =
            Engine::start_with_drafter(model, Some(Box::new(drafter)), Arc::clone(target), None, options)
                .unwrap();
        for temperature in [0.0, 3.5] {
            let request = |speculation| Request {
                prompt: Prompt::Text {
                    text: "// The areas of rectangles:\n".repeat(20),
                    parse_special: false,
                },
                sampling: SamplingParams {
                    temperature,
                    seed: 7,
                    ..SamplingParams::default()
                },
                stop: StopCondition {
                    max_tokens: 700,
                    ..StopCondition::default()
                },
                speculation,
                ..Request::default()
            };
            let plain = engine
                .generate(request(Speculation::Off))
                .blocking_collect()
                .unwrap();
            let drafter = DrafterKind::DraftModel;
            let speculation = Speculation::Only {
                drafter,
                len: Some(12),
            };
            let answer = engine.generate(request(speculation)).blocking_collect().unwrap();
            assert_eq!(bits(&answer), bits(&plain), "{name}, {temperature}");
            assert_eq!(answer.tokens.len(), 700);
            if temperature == 0.0 {
                assert!(
                    functions(false).concat().starts_with(&answer.text),
                    "{name}: {}",
                    answer.text
                );
            }
            let stats = answer.finish.speculation;
            // A third of the functions is another one, and is rejected from its name on.
            assert!(stats.total().recovered > 40, "{name}, {temperature}: {stats:?}");
            assert!(stats.tokens_per_step() > 1.5, "{name}, {temperature}: {stats:?}");
        }
    }
}

/// A vocabulary that is padded is drafted for without a detour through text, and never gets a token that it lacks.
#[test]
fn vocabularies_that_differ_in_padding_are_the_same() {
    let tokenizer = |n_padded: usize| {
        let names: Vec<String> = (256..256 + n_padded).map(|id| format!("[PAD{id}]")).collect();
        let tokens: Vec<(&str, u32)> = names.iter().map(|it| (it.as_str(), 5)).collect();
        let pairs = byte_level("qwen2", &tokens).pair("tokenizer.ggml.merges", strings(&[]));
        Arc::new(Tokenizer::from_gguf(&open(&pairs.build()).unwrap()).unwrap())
    };
    let script = |vocab| HashedScript { vocab, ..MOODY };
    // The draft model's rows past the target's are as probable as all others.
    for (n_own, n_target) in [(300, 260), (260, 300), (280, 280)] {
        let (own, target) = (tokenizer(n_own - 256), tokenizer(n_target - 256));
        let model = ScriptedModel::hashed(script(n_own));
        let cache = KvCache::new(model.config(), 1000);
        let drafter = DraftModel::new(Box::new(model), own, cache, Arc::clone(&target), n_target);
        let model = Box::new(ScriptedModel::hashed(script(n_target)));
        let options = EngineOptions::default();
        let engine =
            Engine::start_with_drafter(model, Some(Box::new(drafter)), target, None, options).unwrap();
        let answers = |speculation| -> Vec<Answer> {
            let answers = (0..6).map(|seed| {
                let request = request(seed, 300, &SamplingParams::default(), speculation);
                engine.generate(request).blocking_collect().unwrap()
            });
            answers.collect()
        };
        let plain = answers(Speculation::Off);
        let drafter = DrafterKind::DraftModel;
        let drafted = answers(Speculation::Only {
            drafter,
            len: Some(6),
        });
        let mut total = 0;
        for (drafted, plain) in drafted.iter().zip(&plain) {
            assert_eq!(bits(drafted), bits(plain), "{n_own} for {n_target}");
            total += drafted.finish.speculation.total().accepted;
        }
        // A sequence with a token that the draft model lacks is not drafted for.
        let least = if n_own < n_target { 10 } else { 1000 };
        assert!(total > least, "{n_own} for {n_target}: {total}");
    }
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

/// Lookups first, the draft model where they have nothing, whoever chooses the length.
#[test]
fn lookups_and_a_draft_model_draft_in_turns() {
    let start = || {
        let tokenizer = Arc::new(Tokenizer::bytes());
        let drafter = draft_model(ScriptedModel::hashed(CALM), &tokenizer, &tokenizer, MOODY.vocab);
        let model = Box::new(Slow(ScriptedModel::hashed(MOODY)));
        let options = EngineOptions::default();
        Engine::start_with_drafter(model, Some(drafter), tokenizer, None, options).unwrap()
    };
    let warm = SamplingParams {
        temperature: 0.5,
        seed: 9,
        ..SamplingParams::default()
    };
    for sampling in [SamplingParams::default(), warm] {
        for seed in 0..2 {
            let request = |speculation| request(seed, 300, &sampling, speculation);
            let plain = moody(1)
                .generate(request(Speculation::Off))
                .blocking_collect()
                .unwrap();
            for speculation in [Speculation::Auto, Speculation::Fixed(6)] {
                let engine = start();
                engine.set_reference("other", &disturbed(&plain.text)).unwrap();
                let answer = engine.generate(request(speculation)).blocking_collect().unwrap();
                assert_eq!(bits(&answer), bits(&plain), "{speculation:?}");
                let stats = answer.finish.speculation;
                for drafter in [
                    DrafterKind::PromptLookup,
                    DrafterKind::References,
                    DrafterKind::DraftModel,
                ] {
                    assert!(
                        stats.of(drafter).proposed > 0,
                        "{speculation:?}, {drafter}: {stats:?}"
                    );
                }
                if speculation != Speculation::Auto {
                    assert!(stats.of(DrafterKind::DraftModel).accepted > 0, "{stats:?}");
                }
            }
        }
    }
}

/// Whatever it drafts: what a network takes of whole requests decides whether later ones go without.
#[test]
fn a_network_that_does_not_pay_is_passed_over() {
    let n_drafted_for = |model: Box<dyn Model>, drafting: Box<dyn Model>| {
        let tokenizer = Arc::new(Tokenizer::bytes());
        let cache = KvCache::new(drafting.config(), 1000);
        let drafter = DraftModel::new(
            drafting,
            Arc::clone(&tokenizer),
            cache,
            Arc::clone(&tokenizer),
            48,
        );
        let options = EngineOptions::default();
        let engine =
            Engine::start_with_drafter(model, Some(Box::new(drafter)), tokenizer, None, options).unwrap();
        let greedy = SamplingParams::default();
        let answers = (0..40).map(|seed| {
            let answer = engine.generate(request(seed, 60, &greedy, Speculation::Auto));
            answer.blocking_collect().unwrap()
        });
        let stats = answers.map(|it| it.finish.speculation.of(DrafterKind::DraftModel).proposed);
        stats.filter(|n_proposed| *n_proposed > 0).count()
    };
    let (target, calm) = (|| ScriptedModel::hashed(MOODY), || ScriptedModel::hashed(CALM));
    let n_useless = n_drafted_for(Box::new(target()), Box::new(Slow(calm())));
    assert!((1..=4).contains(&n_useless), "{n_useless}");
    let n_useful = n_drafted_for(Box::new(Slow(target())), Box::new(calm()));
    // A pause of the machine at the wrong time may have it passed over once.
    assert!(n_useful > 14, "{n_useful}");
}

/// Stop strings, stop tokens and penalties: what ends or bends an answer does so whoever drafts it.
#[test]
fn answers_end_where_plain_ones_do_whoever_drafts() {
    let greedy = SamplingParams {
        repetition_penalty: 1.1,
        presence_penalty: 0.2,
        ..SamplingParams::default()
    };
    let warm = SamplingParams {
        temperature: 0.5,
        top_p: 0.95,
        seed: 4,
        ..greedy.clone()
    };
    let bytes = Arc::new(Tokenizer::bytes());
    let pairs = Arc::new(pairs());
    let answer = |engine: &Engine, request: Request| engine.generate(request).blocking_collect().unwrap();
    // Copying takes longer passages to be sure than lookup does.
    let steady = HashedScript {
        surprise: 71,
        ..MOODY
    };
    let lukewarm = SamplingParams {
        temperature: 0.03,
        ..warm.clone()
    };
    for (sampling, copy, script) in [
        (&greedy, CopyMixing::Off, MOODY),
        (&warm, CopyMixing::Off, MOODY),
        (&greedy, CopyMixing::On, steady),
        (&lukewarm, CopyMixing::On, steady),
    ] {
        let sampling = SamplingParams {
            copy,
            ..sampling.clone()
        };
        let calm = draft_model(ScriptedModel::hashed(CALM), &bytes, &bytes, MOODY.vocab);
        let looking_up = start(script, calm, 3);
        let long: Vec<Answer> = (0..3)
            .map(|seed| answer(&looking_up, request(seed, 300, &sampling, Speculation::Off)))
            .collect();
        let texts = (0..).zip(&long).map(|(seed, long)| {
            let Prompt::Tokens(prompt) = request(seed, 0, &sampling, Speculation::Off).prompt else {
                unreachable!()
            };
            [prompt, long.tokens.iter().map(|it| it.id).collect()].concat()
        });
        let texts: Vec<Vec<u32>> = texts.collect();
        for (idx, long) in long.iter().enumerate() {
            looking_up
                .set_reference(&idx.to_string(), &disturbed(&long.text))
                .unwrap();
        }
        let stories: Vec<String> = texts.iter().map(|it| bytes.decode(it)).collect();
        let translating = draft_model(retelling(&pairs, &stories), &pairs, &bytes, MOODY.vocab);
        let translating = start(script, translating, 3);
        let with_trees = start(script, Box::new(Knowing::new(texts, MOODY.vocab)), 3);
        let first = match copy {
            CopyMixing::On => DrafterKind::Copy,
            _ => DrafterKind::PromptLookup,
        };
        for (drafter, engine) in [
            (first, &looking_up),
            (DrafterKind::References, &looking_up),
            (DrafterKind::Edit, &looking_up),
            (DrafterKind::DraftModel, &looking_up),
            (DrafterKind::DraftModel, &translating),
            (DrafterKind::Eagle3, &with_trees),
        ] {
            let (mut n_accepted, mut n_stopped) = (0, 0);
            for (long, seed) in long.iter().zip(0..) {
                // One token is one byte here.
                let stop = |strings: &[&str], tokens: &[u32], max_tokens| StopCondition {
                    strings: strings.iter().map(|&it| it.to_owned()).collect(),
                    tokens: tokens.to_vec(),
                    max_tokens,
                    ignore_end_tokens: true,
                };
                let rarest = (0..48)
                    .filter_map(|id| long.tokens.iter().position(|it| it.id == id))
                    .max();
                let rarest = long.tokens[rarest.unwrap()].id;
                for stop in [
                    stop(&[&long.text[121..124], "never"], &[], 300),
                    stop(&[&long.text[200..205]], &[], 300),
                    stop(&[], &[rarest], 300),
                    stop(&["never"], &[100], 177),
                ] {
                    let with = |speculation| Request {
                        original: Some(disturbed(&long.text)),
                        stop: stop.clone(),
                        ..request(seed, 300, &sampling, speculation)
                    };
                    let plain = answer(engine, with(Speculation::Off));
                    n_stopped += usize::from(plain.finish.reason != FinishReason::Length);
                    for len in [None, Some(1), Some(9)] {
                        let drafted = answer(engine, with(Speculation::Only { drafter, len }));
                        let at = format!("{drafter}, {len:?}, {stop:?}");
                        assert_eq!(drafted.text, plain.text, "{at}");
                        assert_eq!(bits(&drafted), bits(&plain), "{at}");
                        assert_eq!(drafted.finish.reason, plain.finish.reason, "{at}");
                        n_accepted += drafted.finish.speculation.of(drafter).accepted;
                    }
                }
            }
            assert_eq!(n_stopped, 3 * 3, "{drafter}");
            assert!(n_accepted > 20, "{drafter}: {n_accepted}");
        }
    }
}

/// Where in the answer each step's accepted part of an edit draft begins, in bytes, and its tokens.
fn edit_drafts(answer: &Answer) -> Vec<(usize, usize)> {
    let mut drafts = Vec::new();
    let (mut start, mut len) = (0, 0);
    for token in &answer.tokens {
        if token.drafter == Some(DrafterKind::Edit) {
            len += 1;
            continue;
        }
        // The step's own token ends it.
        drafts.push((start, len));
        (start, len) = (token.text_end, 0);
    }
    drafts.push((start, len));
    drafts
}

/// Dozens of tokens in one step on what an edit leaves as it was, and again right after each of its changes.
#[test]
fn edit_drafts_are_long_on_both_sides_of_a_change() {
    let tokenizer = byte_level_words();
    let original = functions(false).concat();
    let new_line = "    log(width, height);\n";
    let inserted = original.find("    area + 7").unwrap();
    let renamed = original.find("area_15").unwrap();
    let (cut, cut_end) = (
        original.find("fn area_22").unwrap(),
        original.find("fn area_23").unwrap(),
    );
    let parts = [
        &original[..inserted],
        new_line,
        &original[inserted..renamed],
        "sum_15",
        &original[renamed + "area_15".len()..cut],
        &original[cut_end..],
    ];
    let edited = parts.concat();
    let changes = [
        inserted + new_line.len(),
        renamed + new_line.len() + "sum".len(),
        cut + new_line.len() - 1,
    ];
    let prompt = tokenizer
        .encode(&format!("Improve this:\n{original}"), false)
        .unwrap();
    let expected = tokenizer.encode(&edited, false).unwrap();
    let dictation = Dictation::default();
    dictation.set(&prompt, &expected);
    let noise = ScriptedModel::hashed(HashedScript {
        vocab: tokenizer.vocab_size(),
        ..MOODY
    });
    let model = Box::new(Dictated::new(Box::new(noise), dictation));
    let engine = Engine::start(model, Arc::clone(&tokenizer), None, EngineOptions::default()).unwrap();
    let drafter = DrafterKind::Edit;
    for (len, least) in [(64, 32), (128, 96)] {
        let request = Request {
            prompt: Prompt::Tokens(prompt.clone()),
            original: Some(original.clone()),
            stop: StopCondition {
                max_tokens: expected.len(),
                ignore_end_tokens: true,
                ..StopCondition::default()
            },
            speculation: Speculation::Only {
                drafter,
                len: Some(len),
            },
            ..Request::default()
        };
        let answer = engine.generate(request).blocking_collect().unwrap();
        assert_eq!(answer.text, edited);
        let drafts = edit_drafts(&answer);
        let n_long = drafts.iter().filter(|(_, len)| *len >= least).count();
        assert!(n_long > 8, "{len}: {drafts:?}");
        for change in changes {
            let next = drafts.iter().find(|(start, len)| *start >= change && *len >= 32);
            // It takes a line to see where the answer goes on, and that the change is not made again.
            assert!(
                next.is_some_and(|(start, _)| start - change <= 40),
                "{len}, {change}: {drafts:?}"
            );
        }
    }
}
