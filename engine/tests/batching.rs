//! Many sequences in one engine: the same text as alone, the right prefixes reused, memory within its limit.

use std::{path::PathBuf, sync::Arc};

use surmise_engine::{
    Answer, Engine, EngineOptions, Generation, WeightSource,
    kv_cache::BLOCK_LEN,
    model::scripted::{HashedScript, ScriptedModel},
    request::{Event, Prompt, Request, Speculation, StopCondition},
    tokenizer::Tokenizer,
};

const VOCAB: u32 = 40;
const SCRIPT: HashedScript = HashedScript {
    vocab: VOCAB as usize,
    order: 2,
    surprise: 9,
    spread: 8,
    seed: 4,
};

fn scripted(options: EngineOptions) -> Engine {
    let model = Box::new(ScriptedModel::hashed(SCRIPT));
    Engine::start(model, Arc::new(Tokenizer::bytes()), None, options).expect("it starts")
}

/// A small quantised model with random weights.
fn transformer(name: &str, max_running: usize) -> Engine {
    let references = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/references");
    let file = references.join(name);
    let options = EngineOptions {
        max_running,
        threads: Some(2),
        ..EngineOptions::default()
    };
    Engine::load(WeightSource::File(file), options).expect("it loads")
}

fn request(prompt: Vec<u32>, max_tokens: usize) -> Request {
    Request {
        prompt: Prompt::Tokens(prompt),
        stop: StopCondition {
            max_tokens,
            ignore_end_tokens: true,
            ..StopCondition::default()
        },
        ..Request::default()
    }
}

/// `len` tokens that nothing else begins with.
fn prompt(seed: u32, len: usize) -> Vec<u32> {
    let token = |idx: u32| (seed + idx * (seed % 7 + 1) + idx / 5) % VOCAB;
    [seed / VOCAB % VOCAB, seed % VOCAB]
        .into_iter()
        .chain((2..len as u32).map(token))
        .collect()
}

fn answer(engine: &Engine, request: Request) -> Answer {
    engine.generate(request).blocking_collect().expect("an answer")
}

fn bits(answer: &Answer) -> Vec<(u32, u32)> {
    answer
        .tokens
        .iter()
        .map(|token| (token.id, token.logprob.to_bits()))
        .collect()
}

/// Thirty-two requests of all lengths, some with drafts.
fn crowd() -> Vec<Request> {
    (0..32)
        .map(|seed| {
            let mut request = request(prompt(seed, 3 + seed as usize * 2), 40 + seed as usize % 5);
            request.speculation = match seed % 3 {
                0 => Speculation::Off,
                1 => Speculation::Auto,
                _ => Speculation::Fixed(5),
            };
            request
        })
        .collect()
}

#[track_caller]
fn check_crowd(alone: &Engine, together: &Engine) {
    let generations: Vec<Generation> = crowd().into_iter().map(|it| together.generate(it)).collect();
    for (generation, request) in generations.into_iter().zip(crowd()) {
        let among_others = generation.blocking_collect().expect("an answer");
        let mut plain = request.clone();
        plain.speculation = Speculation::Off;
        assert_eq!(bits(&among_others), bits(&answer(alone, plain)), "{request:?}");
    }
}

#[test]
fn thirty_two_sequences_write_what_each_writes_alone() {
    let options = |max_running| EngineOptions {
        max_running,
        ..EngineOptions::default()
    };
    check_crowd(&scripted(options(1)), &scripted(options(32)));
}

#[test]
fn thirty_two_sequences_of_a_transformer_give_the_bits_that_each_gives_alone() {
    for name in [
        "llama3-k/q8_0.gguf",
        "qwen2-k/q4_k_m.gguf",
        "qwen3-moe-k/q4_k_m.gguf",
        "qwen3.5/bf16.gguf",
    ] {
        check_crowd(&transformer(name, 1), &transformer(name, 32));
    }
}

#[test]
fn thirty_two_sequences_run_at_once() {
    let engine = scripted(EngineOptions::default());
    let mut generations: Vec<Generation> = (0..33)
        .map(|seed| engine.generate(request(prompt(seed, 20), 1 << 20)))
        .collect();
    let last = generations.pop().expect("there are some");
    for generation in &mut generations {
        while !matches!(generation.blocking_next(), Some(Event::Text { .. })) {}
    }
    let status = engine.status();
    assert_eq!((status.n_running, status.n_waiting), (32, 1));
    drop(last);
}

/// What is reused of `next` once `first` has been run, and whether the answer is the one of an engine that knew nothing.
#[track_caller]
fn check_reuse(first: &[u32], next: &[u32], reused: usize) {
    let engine = scripted(EngineOptions::default());
    answer(&engine, request(first.to_vec(), 0));
    let warm = answer(&engine, request(next.to_vec(), 30));
    let cold = answer(&scripted(EngineOptions::default()), request(next.to_vec(), 30));
    assert_eq!(warm.finish.usage.reused_tokens, reused);
    assert_eq!(bits(&warm), bits(&cold));
}

#[test]
fn a_keystroke_costs_what_it_changed() {
    let text = prompt(5, 300);
    let typed = [&text[..], &[7]].concat();
    check_reuse(&text, &typed, 300);
    let erased = &text[..299];
    check_reuse(&text, erased, 298);
    // One row has to run for there to be a next token.
    check_reuse(&text, &text, 299);
}

#[test]
fn an_edit_above_costs_what_follows_it() {
    let text = prompt(6, 300);
    // At a block's border, inside a block, at the very start.
    for at in [4 * BLOCK_LEN, 4 * BLOCK_LEN + 11, 290, 1, 0] {
        let mut replaced = text.clone();
        replaced[at] = (replaced[at] + 1) % VOCAB;
        check_reuse(&text, &replaced, at);
        let mut inserted = text.clone();
        inserted.insert(at, (text[at] + 1) % VOCAB);
        check_reuse(&text, &inserted, at);
    }
}

#[test]
fn what_is_typed_on_in_two_files_is_kept_for_both() {
    let engine = scripted(EngineOptions::default());
    let mut files = [prompt(1, 200), prompt(2, 250)];
    for file in &files {
        answer(&engine, request(file.clone(), 0));
    }
    for key in 0..20 {
        for file in &mut files {
            file.push(key);
            let usage = answer(&engine, request(file.clone(), 5)).finish.usage;
            assert_eq!(usage.prompt_tokens - usage.reused_tokens, 1);
        }
    }
}

/// Layers with a state keep it at the end of a prompt and where prompts part.
#[test]
fn a_model_with_states_begins_where_one_was_kept() {
    let name = "qwen3.5/bf16.gguf";
    let engine = transformer(name, 4);
    let text = prompt(5, 300);
    let check = |edited: &[u32], reused: usize| {
        let warm = answer(&engine, request(edited.to_vec(), 30));
        let cold = answer(&transformer(name, 4), request(edited.to_vec(), 30));
        assert_eq!(warm.finish.usage.reused_tokens, reused);
        assert_eq!(bits(&warm), bits(&cold));
    };
    answer(&engine, request(text.clone(), 0));
    check(&text, 9 * BLOCK_LEN);
    check(&[&text[..], &[7]].concat(), 9 * BLOCK_LEN);
    let edited = |token: u32| [&text[..200], &[token], &text[200..]].concat();
    check(&edited(1), 0);
    check(&edited(2), 6 * BLOCK_LEN);
    check(&edited(3), 6 * BLOCK_LEN);
    check(&text, 9 * BLOCK_LEN);
}

#[test]
fn memory_stays_within_its_limit_and_what_is_in_use_stays() {
    let mut options = EngineOptions::default();
    let block_bytes = scripted(options.clone()).info().block_bytes;
    options.kv_cache_bytes = Some(24 * block_bytes);
    let engine = scripted(options);
    let hot = prompt(0, 5 * BLOCK_LEN);
    answer(&engine, request(hot.clone(), 1));
    for seed in 1..200 {
        // Each takes a third of all blocks.
        answer(&engine, request(prompt(seed, 7 * BLOCK_LEN), 20));
        let usage = answer(&engine, request(hot.clone(), 1)).finish.usage;
        assert_eq!(
            usage.reused_tokens,
            hot.len() - 1,
            "what is asked for all the time is kept"
        );
        let status = engine.status();
        assert_eq!(status.n_blocks, 24);
        assert!(status.n_used_blocks <= 24, "{status:?}");
    }
    let first = answer(&engine, request(prompt(1, 7 * BLOCK_LEN), 1)).finish.usage;
    assert!(
        first.reused_tokens < BLOCK_LEN,
        "what nobody asked for again is not: {first:?}"
    );
}
