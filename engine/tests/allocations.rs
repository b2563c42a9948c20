//! A step of decoding takes no memory from the system once the buffers have grown, but for what is handed to the reader.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use surmise_engine::{
    Engine, EngineOptions,
    kernels::Isa,
    kv_cache::{BLOCK_LEN, CachedSequence, KvCache},
    model::{Batch, Checkpoint, Model, Row, transformer::Transformer},
    request::{Event, Finish, Prompt, Request, Speculation, StopCondition},
    speculative::{
        draft_model::DraftModel,
        drafter::DrafterKind,
        eagle3::{Eagle3, TreeShape},
        network::NetworkDrafter,
    },
    tokenizer::Tokenizer,
    weights::{Gguf, WeightSource},
};

struct Counting;

static N_ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        N_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        N_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(place, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn fixture(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/references")
        .join(file)
}

/// Steps until all rows chose the same experts once, and a state has as many positions before it as its convolution sees.
const N_FIRST_STEPS: usize = 20;

/// One test, as what runs tests side by side allocates too.
#[test]
fn nothing_is_allocated_but_what_readers_get() {
    a_step_after_the_first_ones_allocates_nothing();
    a_token_of_an_answer_allocates_what_its_event_takes();
    a_network_that_drafts_allocates_nothing_more();
}

fn a_step_after_the_first_ones_allocates_nothing() {
    for file in [
        "llama3-k/q8_0.gguf",
        "qwen2-k/q4_k_m.gguf",
        "qwen3/bf16.gguf",
        "gemma3/bf16.gguf",
        "qwen3.5/bf16.gguf",
        "gemma4-e/bf16.gguf",
        "deepseek-v2-k/joined-q4_k_m.gguf",
    ] {
        let gguf = Gguf::open(WeightSource::File(fixture(file))).unwrap();
        let checkpoint = Checkpoint::from_gguf(&gguf).unwrap();
        let config = checkpoint.config().clone();
        // One thread: of several, each takes its memory with the first task that it happens to get.
        let mut model = Transformer::load(checkpoint.weights(), config, 1, Isa::detect()).unwrap();
        let mut cache = KvCache::new(model.config(), 8);
        let mut sequence = CachedSequence::default();
        let mut logits = Vec::new();
        // As many rows as a verified draft has, and one.
        for n_rows in [1, 5] {
            for step in 0..30 {
                cache.reserve(&mut sequence, n_rows).unwrap();
                let start = sequence.len();
                let tokens: Vec<u32> = (0..n_rows as u32)
                    .map(|row| (start as u32 * 7 + row) % 200)
                    .collect();
                let rows: Vec<Row> = tokens
                    .iter()
                    .enumerate()
                    .map(|(row, &token)| Row::chain(token, start + row, 0, true))
                    .collect();
                let sequences = [&sequence];
                let batch = Batch {
                    rows: &rows,
                    sequences: &sequences,
                };
                let before = N_ALLOCATIONS.load(Ordering::Relaxed);
                model.forward(batch, &mut cache, &mut logits).unwrap();
                let n_allocations = N_ALLOCATIONS.load(Ordering::Relaxed) - before;
                assert!(
                    step < N_FIRST_STEPS || n_allocations == 0,
                    "{file}, {n_rows} rows, step {step}: {n_allocations} allocations"
                );
                cache.commit(&mut sequence, &tokens);
                assert!(sequence.len() < 8 * BLOCK_LEN);
            }
        }
    }
}

/// Tokens of a short answer and of a long one.
const FEW: usize = 60;
const MANY: usize = 220;

/// An event's text and its list of tokens are the reader's. Besides them there is what grows with an answer, seldom: its tokens, the
/// blocks and their places in the prefix tree, what drafts are looked up in.
fn assert_that_only_events_allocate(engine: &Engine, speculation: Speculation) -> Finish {
    let n_allocations = |max_tokens: usize| {
        let request = Request {
            prompt: Prompt::Tokens((0..20).map(|idx| idx * 7 % 200).collect()),
            stop: StopCondition {
                max_tokens,
                ignore_end_tokens: true,
                ..StopCondition::default()
            },
            speculation,
            ..Request::default()
        };
        let before = N_ALLOCATIONS.load(Ordering::Relaxed);
        let mut generation = engine.generate(request);
        let (mut n_events, mut finish) = (0, None);
        while let Some(event) = generation.blocking_next() {
            n_events += 1;
            if let Event::Finished(it) = event {
                finish = Some(*it);
            }
        }
        let n_allocations = N_ALLOCATIONS.load(Ordering::Relaxed) - before;
        (n_allocations, n_events, finish.expect("it ends"))
    };
    n_allocations(MANY);
    let (few, few_events, _) = n_allocations(FEW);
    let (many, many_events, finish) = n_allocations(MANY);
    assert!(few_events < many_events);
    let (growth, of_events) = (many - few, 2 * (many_events - few_events));
    assert!(
        growth <= of_events + (MANY - FEW) / 4,
        "{speculation:?}: {growth} in {} tokens, {of_events} of them for events",
        MANY - FEW
    );
    finish
}

fn a_token_of_an_answer_allocates_what_its_event_takes() {
    let options = EngineOptions {
        threads: Some(1),
        ..EngineOptions::default()
    };
    let engine = Engine::load(WeightSource::File(fixture("llama3-k/q8_0.gguf")), options).unwrap();
    for speculation in [Speculation::Off, Speculation::Auto, Speculation::Fixed(4)] {
        assert_that_only_events_allocate(&engine, speculation);
    }
}

fn a_network_that_drafts_allocates_nothing_more() {
    let tokenizer = Arc::new(Tokenizer::bytes());
    for drafter in [DrafterKind::DraftModel, DrafterKind::Eagle3] {
        let checkpoint = Checkpoint::from_folder(&fixture("eagle3/target")).unwrap();
        let mut config = checkpoint.config().clone();
        config.context_length = 2048;
        let load = || Transformer::load(checkpoint.weights(), config.clone(), 1, Isa::detect()).unwrap();
        let network: Box<dyn NetworkDrafter> = if drafter == DrafterKind::Eagle3 {
            let head = WeightSource::File(fixture("eagle3/draft"));
            Box::new(Eagle3::load(head, &checkpoint, TreeShape::default(), 1 << 14, 1).unwrap())
        } else {
            let (model, cache) = (Box::new(load()), KvCache::new(&config, 64));
            Box::new(DraftModel::new(
                model,
                Arc::clone(&tokenizer),
                cache,
                Arc::clone(&tokenizer),
                config.vocab,
            ))
        };
        let model = Box::new(load());
        let options = EngineOptions {
            kv_cache_bytes: Some(64 << 20),
            ..EngineOptions::default()
        };
        let engine =
            Engine::start_with_drafter(model, Some(network), Arc::clone(&tokenizer), None, options).unwrap();
        let len = Some(8);
        let finish = assert_that_only_events_allocate(&engine, Speculation::Only { drafter, len });
        assert!(finish.speculation.of(drafter).steps > 10, "{drafter}");
    }
}
