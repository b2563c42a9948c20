//! Ten thousand requests in one engine, in a process of their own: nothing is left over, and memory does not grow.

use std::{collections::VecDeque, path::Path, sync::Arc, thread, time::Duration};

use surmise_engine::{
    Engine, EngineOptions, Generation, WeightSource,
    model::scripted::{HashedScript, ScriptedModel},
    request::{Prompt, Request, StopCondition},
    tokenizer::Tokenizer,
};

const N_REQUESTS: u32 = 10_000;
/// Requests after which all buffers have the size that they need.
const N_WARM_UP: u32 = 2_000;
/// Requests under way at once.
const N_AT_ONCE: usize = 40;
/// More than the allocator's own ups and downs, and less than a hundred bytes for each request.
const MAX_GROWTH: usize = 768 << 10;

fn request(seed: u32) -> Request {
    // Many have a beginning in common with others, some are new from the first token on.
    let file = if seed.is_multiple_of(5) {
        seed % 3000
    } else {
        seed % 6
    };
    let len = 10 + seed * 7 % 100;
    let token = |idx: u32| (file + idx * (file % 5 + 1)) % 32;
    Request {
        prompt: Prompt::Tokens((0..len).map(token).collect()),
        stop: StopCondition {
            max_tokens: (seed % 12) as usize,
            ..StopCondition::default()
        },
        ..Request::default()
    }
}

/// Ends a generation in one of the ways in which readers end them.
fn end(seed: u32, mut generation: Generation) {
    match seed % 4 {
        0 | 1 => drop(generation.blocking_collect().expect("an answer")),
        2 => {
            generation.cancel();
            drop(generation.blocking_collect().expect("an answer"));
        }
        _ => drop(generation.blocking_next()),
    }
}

/// Bytes of this process in memory, where the system says.
fn resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

fn options() -> EngineOptions {
    EngineOptions {
        kv_cache_bytes: Some(1 << 20),
        ..EngineOptions::default()
    }
}

fn scripted() -> Engine {
    let model = ScriptedModel::hashed(HashedScript {
        vocab: 32,
        order: 2,
        surprise: 9,
        spread: 8,
        seed: 2,
    });
    Engine::start(Box::new(model), Arc::new(Tokenizer::bytes()), None, options()).expect("it starts")
}

/// A small model with random weights.
fn transformer() -> Engine {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/references/qwen2-k/q4_k_m.gguf");
    Engine::load(WeightSource::File(file), options()).expect("it loads")
}

/// One after the other, as memory is that of the whole process.
#[test]
fn ten_thousand_requests_leave_nothing_behind() {
    for start in [scripted, transformer] {
        leave_nothing_behind(&start());
    }
}

fn leave_nothing_behind(engine: &Engine) {
    let mut resident_before = None;
    let mut under_way = VecDeque::new();
    for seed in 0..N_REQUESTS {
        under_way.push_back((seed, engine.generate(request(seed))));
        if under_way.len() == N_AT_ONCE
            && let Some((seed, generation)) = under_way.pop_front()
        {
            end(seed, generation);
        }
        if seed == N_WARM_UP {
            resident_before = resident_bytes();
        }
    }
    for (seed, generation) in under_way {
        end(seed, generation);
    }
    // The last readers hung up; the engine notices before its next step.
    let is_quiet = (0..1000).any(|_| {
        thread::sleep(Duration::from_millis(2));
        let status = engine.status();
        (status.n_running, status.n_waiting, status.n_held_blocks) == (0, 0, 0)
    });
    let status = engine.status();
    assert!(is_quiet, "{status:?}");
    assert!(status.n_used_blocks <= status.n_blocks, "{status:?}");
    if let Some((before, after)) = resident_before.zip(resident_bytes()) {
        let growth = after.saturating_sub(before);
        assert!(
            growth < MAX_GROWTH,
            "{growth} bytes more than after {N_WARM_UP} requests"
        );
    }
}
