//! Steps counted one by one: fairness, cancellation, and what happens when the KV cache is too small.

use std::{
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::channel,
    },
    thread,
};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::{
    kv_cache::BLOCK_LEN,
    model::{
        ModelConfig,
        scripted::{HashedScript, ScriptedModel},
    },
    request::{Event, FimPrompt, FinishReason, GeneratedToken, Prompt, Request, SamplingParams, Speculation},
    sampler::split_mix,
    sequence::Output,
    speculative::{
        drafter::{Draft, Drafter, DrafterKind, Evidence},
        prompt_lookup::PromptLookup,
    },
    tokenizer::Tokenizer,
};

const SCRIPT: HashedScript = HashedScript {
    vocab: 40,
    order: 2,
    surprise: 9,
    spread: 8,
    seed: 1,
};

fn engine_loop(n_blocks: usize, max_running: usize) -> EngineLoop {
    loop_of(ScriptedModel::hashed(SCRIPT), n_blocks, max_running)
}

fn loop_of(model: impl Model + 'static, n_blocks: usize, max_running: usize) -> EngineLoop {
    let cache = KvCache::new(model.config(), n_blocks);
    EngineLoop::new(
        Box::new(model),
        None,
        cache,
        StepLimits::default(),
        max_running,
        Arc::default(),
    )
}

/// A sequence as its reader sees it.
struct Reader {
    events: UnboundedReceiver<Event>,
    is_cancelled: Arc<AtomicBool>,
}

impl Reader {
    fn tokens(&mut self) -> Vec<GeneratedToken> {
        let mut tokens = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            if let Event::Text {
                tokens: new_tokens, ..
            } = event
            {
                tokens.extend(new_tokens);
            }
        }
        tokens
    }

    fn last_event(&mut self) -> Option<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).last()
    }
}

fn sequence(prompt_len: usize, seed: u64, max_tokens: usize) -> (Sequence, Reader) {
    sequence_of(&Request::default(), prompt_len, seed, max_tokens)
}

fn sequence_of(request: &Request, prompt_len: usize, seed: u64, max_tokens: usize) -> (Sequence, Reader) {
    let mut request = request.clone();
    request.stop.max_tokens = max_tokens;
    let prompt = (0..prompt_len as u64)
        .map(|i| (split_mix(seed << 32 | i) % 40) as u32)
        .collect();
    let (sender, events) = unbounded_channel();
    let is_cancelled = Arc::new(AtomicBool::new(false));
    let output = Output {
        events: sender,
        is_cancelled: Arc::clone(&is_cancelled),
    };
    let tokenizer = Arc::new(Tokenizer::bytes());
    let sequence = Sequence::new(&request, prompt, Vec::new(), &[], 1 << 16, tokenizer, output).unwrap();
    (sequence, Reader { events, is_cancelled })
}

fn run_until_idle(engine_loop: &mut EngineLoop) {
    for _ in 0..100_000 {
        if engine_loop.is_idle() {
            return;
        }
        engine_loop.step();
    }
    panic!("still busy");
}

fn ids(tokens: &[GeneratedToken]) -> Vec<u32> {
    tokens.iter().map(|it| it.id).collect()
}

#[test]
fn a_completion_beside_a_running_answer_gets_its_first_token_in_one_step() {
    let mut engine_loop = engine_loop(1000, 8);
    let (chat, mut chat_reader) = sequence(200, 1, 10_000);
    engine_loop.submit(chat);
    for _ in 0..50 {
        engine_loop.step();
    }
    let n_before = chat_reader.tokens().len();
    assert!(n_before >= 49);
    let (completion, mut completion_reader) = sequence(100, 2, 20);
    engine_loop.submit(completion);
    engine_loop.step();
    assert_eq!(completion_reader.tokens().len(), 1);
    assert!(
        !chat_reader.tokens().is_empty(),
        "the answer goes on in the same step"
    );
}

/// The steps that the prompt takes by itself, and no more than one besides, whatever else runs: answers, or prompts of theirs.
#[test]
fn a_long_completion_beside_running_answers_waits_a_step_at_most() {
    let n_steps = |n_chats: u64, chat_len: usize| {
        let mut engine_loop = engine_loop(8000, 40);
        let chats: Vec<_> = (0..n_chats)
            .map(|seed| {
                let (chat, reader) = sequence(chat_len, seed, 10_000);
                engine_loop.submit(chat);
                reader
            })
            .collect();
        for _ in 0..20 {
            engine_loop.step();
        }
        let (completion, mut reader) = completion(945, 99);
        engine_loop.submit(completion);
        let n_steps = (1..100).find(|_| {
            engine_loop.step();
            !reader.tokens().is_empty()
        });
        drop(chats);
        n_steps.expect("a first token")
    };
    let alone = n_steps(0, 0);
    for (n_chats, chat_len) in [(1, 50), (8, 50), (31, 50), (1, 9000), (3, 9000), (20, 9000)] {
        assert!(
            n_steps(n_chats, chat_len) <= alone + 1,
            "{n_chats} chats of {chat_len} tokens"
        );
    }
}

/// A hole at somebody's cursor.
fn completion(prompt_len: usize, seed: u64) -> (Sequence, Reader) {
    let request = Request {
        prompt: Prompt::Fim(FimPrompt::default()),
        ..Request::default()
    };
    sequence_of(&request, prompt_len, seed, 20)
}

#[test]
fn a_completion_does_not_wait_for_answers_to_end() {
    // One answer too many to run, and others that fill the cache.
    for (n_blocks, max_running, n_chats, prompt_len) in [(1000, 4, 6, 50), (20, 8, 8, 150)] {
        let alone = |seed: u64| {
            let mut engine_loop = engine_loop(1000, 1);
            let (chat, mut reader) = sequence(prompt_len, seed, 200);
            engine_loop.submit(chat);
            run_until_idle(&mut engine_loop);
            ids(&reader.tokens())
        };
        let mut engine_loop = engine_loop(n_blocks, max_running);
        let mut chats: Vec<_> = (0..n_chats)
            .map(|seed| {
                let (chat, reader) = sequence(prompt_len, seed, 200);
                engine_loop.submit(chat);
                reader
            })
            .collect();
        for _ in 0..20 {
            engine_loop.step();
        }
        assert!(engine_loop.status.lock().unwrap().n_waiting > 0);
        for seed in 100..103 {
            let (completion, mut reader) = completion(100, seed);
            engine_loop.submit(completion);
            engine_loop.step();
            assert_eq!(reader.tokens().len(), 1, "of {n_chats} answers");
        }
        run_until_idle(&mut engine_loop);
        for (reader, seed) in chats.iter_mut().zip(0..) {
            assert_eq!(ids(&reader.tokens()), alone(seed), "answer {seed}");
        }
        assert_eq!(engine_loop.cache.n_held_blocks(), 0);
    }
}

#[test]
fn a_completion_that_fits_stops_no_answer() {
    let mut engine_loop = engine_loop(40, 8);
    let (chat, mut chat_reader) = sequence(300, 1, 300);
    let (large, _large_reader) = sequence(1100, 2, 10);
    engine_loop.submit(chat);
    engine_loop.step();
    engine_loop.step();
    engine_loop.submit(large);
    engine_loop.step();
    assert!(engine_loop.is_full, "the large one does not fit beside the other");
    for seed in 3..6 {
        chat_reader.tokens();
        let (completion, mut reader) = completion(100, seed);
        engine_loop.submit(completion);
        engine_loop.step();
        assert_eq!(reader.tokens().len(), 1);
        assert!(!chat_reader.tokens().is_empty(), "the answer goes on");
    }
}

#[test]
fn a_completion_that_can_never_fit_fails_and_the_answers_go_on() {
    let mut engine_loop = engine_loop(10, 8);
    let mut chats: Vec<_> = (0..2)
        .map(|seed| {
            let (chat, reader) = sequence(50, seed, 40);
            engine_loop.submit(chat);
            reader
        })
        .collect();
    engine_loop.step();
    let (completion, mut reader) = completion(1000, 9);
    engine_loop.submit(completion);
    run_until_idle(&mut engine_loop);
    let last = reader.last_event();
    assert!(
        matches!(last, Some(Event::Failed(EngineError::CacheFull { .. }))),
        "{last:?}"
    );
    assert!(chats.iter_mut().all(|it| it.tokens().len() == 40));
}

#[test]
fn a_completion_beside_a_long_prompt_gets_its_first_token_in_one_step() {
    let mut engine_loop = engine_loop(1000, 8);
    let (chat, mut chat_reader) = sequence(5_000, 1, 10);
    engine_loop.submit(chat);
    engine_loop.step();
    let (completion, mut completion_reader) = completion(100, 2);
    engine_loop.submit(completion);
    engine_loop.step();
    assert_eq!(completion_reader.tokens().len(), 1);
    // The long prompt moves on meanwhile: 5,000 rows at 128 or more in a step.
    for _ in 0..40 {
        engine_loop.step();
    }
    assert!(!chat_reader.tokens().is_empty());
}

#[test]
fn cancelled_sequences_give_their_blocks_back() {
    let mut engine_loop = engine_loop(500, 8);
    for i in 0..1000u64 {
        let (sequence, reader) = sequence(10 + (split_mix(i) % 300) as usize, i % 50, 500);
        engine_loop.submit(sequence);
        for _ in 0..split_mix(!i) % 4 {
            engine_loop.step();
        }
        // One half is called off and still gets its last event; the other half hangs up.
        if i % 2 == 0 {
            reader.is_cancelled.store(true, Ordering::Relaxed);
            engine_loop.step();
            let mut reader = reader;
            let Some(Event::Finished(finish)) = reader.last_event() else {
                panic!("no last event")
            };
            assert_eq!(finish.reason, FinishReason::Cancelled);
        }
    }
    engine_loop.step();
    assert!(engine_loop.is_idle());
    assert_eq!(engine_loop.status.lock().unwrap().n_held_blocks, 0);
    // All blocks can be had again, remembered prefixes included.
    let mut all = engine_loop.cache.open(&[0]);
    engine_loop.cache.reserve(&mut all, 500 * BLOCK_LEN).unwrap();
}

#[test]
fn a_full_cache_delays_sequences_and_changes_no_text() {
    let alone = |seed: u64| {
        let mut engine_loop = engine_loop(1000, 1);
        let (sequence, mut reader) = sequence(40 + seed as usize * 7, seed, 300);
        engine_loop.submit(sequence);
        run_until_idle(&mut engine_loop);
        ids(&reader.tokens())
    };
    // Room for two and a half of the eight.
    let mut engine_loop = engine_loop(30, 8);
    let mut readers: Vec<_> = (0..8)
        .map(|seed| {
            let (sequence, reader) = sequence(40 + seed as usize * 7, seed, 300);
            engine_loop.submit(sequence);
            reader
        })
        .collect();
    run_until_idle(&mut engine_loop);
    for (reader, seed) in readers.iter_mut().zip(0..) {
        let tokens = ids(&reader.tokens());
        assert_eq!(tokens.len(), 300);
        assert_eq!(tokens, alone(seed), "sequence {seed}");
    }
    assert_eq!(engine_loop.cache.n_held_blocks(), 0);
}

#[test]
fn a_sequence_that_can_never_fit_fails() {
    let mut engine_loop = engine_loop(4, 8);
    for (prompt_len, max_tokens) in [(1000, 1), (100, 100)] {
        let (sequence, mut reader) = sequence(prompt_len, 1, max_tokens);
        engine_loop.submit(sequence);
        run_until_idle(&mut engine_loop);
        let last = reader.last_event();
        assert!(
            matches!(last, Some(Event::Failed(EngineError::CacheFull { .. }))),
            "{last:?}"
        );
    }
    assert_eq!(engine_loop.cache.n_held_blocks(), 0);
}

#[test]
fn no_more_than_the_limit_run_at_once() {
    let mut engine_loop = engine_loop(1000, 2);
    let mut readers: Vec<_> = (0..5)
        .map(|seed| {
            let (sequence, reader) = sequence(20, seed, 10);
            engine_loop.submit(sequence);
            reader
        })
        .collect();
    engine_loop.step();
    let status = *engine_loop.status.lock().unwrap();
    assert_eq!((status.n_running, status.n_waiting), (2, 3));
    run_until_idle(&mut engine_loop);
    for reader in &mut readers {
        assert_eq!(reader.tokens().len(), 10);
    }
}

/// Knows the answer, and drafts trees in which the right token is one of several, or none.
struct Tempting {
    answer: Vec<u32>,
    prompt_len: usize,
}

impl Drafter for Tempting {
    fn kind(&self) -> DrafterKind {
        DrafterKind::References
    }

    fn draft(&mut self, tokens: &[u32], max_len: usize, draft: &mut Draft) {
        draft.clear();
        let evidence = Evidence::of_probability(0.5);
        let mut at = None;
        let rest = &self.answer[tokens.len() - self.prompt_len..];
        for (depth, &right) in rest.iter().enumerate() {
            let random = split_mix((tokens.len() + depth) as u64);
            let n_siblings = 1 + random % 4;
            let right_sibling = random >> 8 & 3;
            let mut next = None;
            for sibling in 0..n_siblings {
                if draft.len() == max_len {
                    return;
                }
                let is_right = sibling == right_sibling;
                let token = if is_right {
                    right
                } else {
                    (right + 1 + sibling as u32) % 40
                };
                let node = draft.push_after(at, token, evidence);
                next = if is_right { Some(node) } else { next };
            }
            at = next.or(Some(draft.len() - 1));
        }
    }
}

#[test]
fn trees_of_drafts_change_nothing() {
    for temperature in [0.0, 0.7] {
        let request = Request {
            sampling: SamplingParams {
                temperature,
                top_p: 0.95,
                ..SamplingParams::default()
            },
            ..Request::default()
        };
        let plain: Vec<Vec<GeneratedToken>> = (0..4)
            .map(|seed| {
                let mut engine_loop = engine_loop(1000, 1);
                let (sequence, mut reader) = sequence_of(&request, 20 + seed as usize * 9, seed, 400);
                engine_loop.submit(sequence);
                run_until_idle(&mut engine_loop);
                reader.tokens()
            })
            .collect();
        for len in [None, Some(3), Some(12), Some(64)] {
            let drafter = DrafterKind::References;
            let speculation = Speculation::Only { drafter, len };
            let request = Request {
                speculation,
                ..request.clone()
            };
            // Every draft pays where width costs nothing.
            let mut engine_loop = priced(|_| 1_000_000, |_| ());
            let mut readers = Vec::new();
            for (seed, plain) in plain.iter().enumerate() {
                let (mut sequence, reader) = sequence_of(&request, 20 + seed * 9, seed as u64, 400);
                sequence.speculator.add(Tempting {
                    answer: ids(plain),
                    prompt_len: sequence.prompt_len,
                });
                engine_loop.submit(sequence);
                readers.push(reader);
            }
            run_until_idle(&mut engine_loop);
            for (reader, plain) in readers.iter_mut().zip(&plain) {
                let tokens = reader.tokens();
                let bits = |it: &GeneratedToken| (it.id, it.logprob.to_bits());
                assert!(tokens.iter().map(bits).eq(plain.iter().map(bits)), "{len:?}");
                let n_drafted = tokens.iter().filter(|it| it.drafter == Some(drafter)).count();
                assert!(n_drafted > 100, "{len:?}: {n_drafted}");
            }
        }
    }
}

#[test]
fn answers_and_completions_that_push_each_other_out_keep_their_text() {
    let request = |seed: u64, speculation| Request {
        prompt: if seed.is_multiple_of(2) {
            Prompt::Fim(FimPrompt::default())
        } else {
            Prompt::default()
        },
        speculation,
        ..Request::default()
    };
    let prompt_len = |seed: u64| 20 + seed as usize * 9;
    let plain: Vec<Vec<u32>> = (0..8)
        .map(|seed| {
            let mut engine_loop = engine_loop(1000, 1);
            let request = request(seed, Speculation::Off);
            let (sequence, mut reader) = sequence_of(&request, prompt_len(seed), seed, 250);
            engine_loop.submit(sequence);
            run_until_idle(&mut engine_loop);
            ids(&reader.tokens())
        })
        .collect();
    let drafter = DrafterKind::References;
    // Room for two or three of them.
    let mut engine_loop = engine_loop(25, 8);
    let mut readers = Vec::new();
    for (seed, answer) in (0..).zip(&plain) {
        let len = Some(12);
        let request = request(seed, Speculation::Only { drafter, len });
        let (mut sequence, reader) = sequence_of(&request, prompt_len(seed), seed, 250);
        sequence.speculator.add(Tempting {
            answer: answer.clone(),
            prompt_len: sequence.prompt_len,
        });
        engine_loop.submit(sequence);
        readers.push(reader);
        engine_loop.step();
        engine_loop.step();
    }
    run_until_idle(&mut engine_loop);
    for (reader, plain) in readers.iter_mut().zip(&plain) {
        assert_eq!(ids(&reader.tokens()), *plain);
    }
    assert_eq!(engine_loop.cache.n_held_blocks(), 0);
}

/// Takes as long as it is told, on a clock of its own, and tells of every pass.
struct Priced {
    model: ScriptedModel,
    nanos: Arc<AtomicU64>,
    /// Nanoseconds of a pass of so many rows.
    price: fn(usize) -> u64,
    on_pass: Box<dyn FnMut(usize) + Send>,
}

impl Model for Priced {
    fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn forward(
        &mut self,
        batch: Batch<'_>,
        cache: &mut KvCache,
        logits: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        let n_rows = batch.rows.len();
        self.nanos.fetch_add((self.price)(n_rows), Ordering::Relaxed);
        (self.on_pass)(n_rows);
        self.model.forward(batch, cache, logits)
    }
}

/// A loop that finds itself idle at once, whose passes take what `price` says.
fn priced(price: fn(usize) -> u64, on_pass: impl FnMut(usize) + Send + 'static) -> EngineLoop {
    let nanos = Arc::new(AtomicU64::new(0));
    let model = Priced {
        model: ScriptedModel::hashed(SCRIPT),
        nanos: Arc::clone(&nanos),
        price,
        on_pass: Box::new(on_pass),
    };
    let mut engine_loop = loop_of(model, 1000, 8);
    let start = Instant::now();
    engine_loop.clock = Box::new(move || start + Duration::from_nanos(nanos.load(Ordering::Relaxed)));
    engine_loop.quiet = Duration::ZERO;
    engine_loop
}

/// Widths that are measured: the first pass is only run.
const MEASURED: [usize; 14] = [1, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128];

#[test]
fn an_idle_engine_measures_every_step_once_and_then_sleeps() {
    let price = |n_rows| 1_000_000 + 10_000 * n_rows as u64;
    let (tell, passes) = channel();
    let mut engine_loop = priced(price, move |n_rows| tell.send(n_rows).unwrap());
    let (commands, receiver) = channel();
    thread::scope(|scope| {
        let running = &mut engine_loop;
        scope.spawn(move || running.run(&receiver));
        let measured: Vec<usize> = passes.iter().take(MEASURED.len()).collect();
        assert_eq!(measured, MEASURED);
        let more = passes.recv_timeout(Duration::from_millis(100));
        assert!(more.is_err(), "{more:?} rows more");
        commands.send(Command::Stop).unwrap();
    });
    for n_rows in &MEASURED[1..] {
        let seconds = engine_loop.costs.estimate(*n_rows);
        assert!(
            (seconds - price(*n_rows) as f64 / 1e9).abs() < 1e-9,
            "{n_rows}: {seconds}"
        );
    }
    assert_eq!(engine_loop.cache.n_free_blocks(), engine_loop.cache.n_blocks());
    assert_eq!(engine_loop.n_steps, 0);
}

#[test]
fn a_request_waits_for_one_measured_step_at_most() {
    let (commands, receiver) = channel();
    let (sequence, mut reader) = sequence(200, 1, 3);
    let mut request = Some(Box::new(sequence));
    let (tell, passes) = channel();
    let requests = commands.clone();
    let mut n_passes = 0;
    let mut engine_loop = priced(
        |_| 1_000_000,
        move |n_rows| {
            n_passes += 1;
            if let Some(sequence) = request.take_if(|_| n_passes == 4) {
                requests.send(Command::Generate(sequence)).unwrap();
            }
            tell.send(n_rows).unwrap();
        },
    );
    thread::scope(|scope| {
        let running = &mut engine_loop;
        scope.spawn(move || running.run(&receiver));
        let widths: Vec<usize> = passes.iter().take(MEASURED.len() + 3).collect();
        assert_eq!(widths[..4], MEASURED[..4]);
        assert_eq!(widths[4..7], [200, 1, 1]);
        assert_eq!(widths[7..], MEASURED[4..]);
        commands.send(Command::Stop).unwrap();
    });
    assert_eq!(reader.tokens().len(), 3);
}

#[test]
fn a_slow_model_is_not_measured_in_wide_steps() {
    let (tell, passes) = channel();
    let mut engine_loop = priced(
        |n_rows| 90_000_000 * n_rows as u64,
        move |n_rows| tell.send(n_rows).unwrap(),
    );
    let (commands, receiver) = channel();
    thread::scope(|scope| {
        let running = &mut engine_loop;
        scope.spawn(move || running.run(&receiver));
        assert_eq!(passes.iter().take(5).collect::<Vec<_>>(), [1, 1, 2, 3, 4]);
        assert!(passes.recv_timeout(Duration::from_millis(50)).is_err());
        commands.send(Command::Stop).unwrap();
    });
}

#[test]
fn rows_of_a_prompt_are_no_measure_of_drafts() {
    let mut engine_loop = priced(|n_rows| 7_000 + n_rows as u64, |_| ());
    let (sequence, _reader) = sequence(5, 1, 2);
    engine_loop.submit(sequence);
    engine_loop.step();
    assert_eq!(engine_loop.costs.unmeasured_width(), Some(1));
    assert_eq!(engine_loop.costs.estimate(1), 1.0);
    engine_loop.step();
    assert!((engine_loop.costs.estimate(1) - 7_001e-9).abs() < 1e-15);
}

#[test]
fn how_fast_prompts_are_read_is_told() {
    let mut engine_loop = priced(|n_rows| 10_000_000 + 100_000 * n_rows as u64, |_| ());
    let mut read = |seed: u64| {
        let (sequence, _reader) = sequence(200, seed, 2);
        engine_loop.submit(sequence);
        run_until_idle(&mut engine_loop);
        engine_loop.status.lock().unwrap().read_speed
    };
    assert_eq!(
        read(1),
        None,
        "the first pass of all may have waited for the disk"
    );
    assert_eq!(read(2), Some(6666));
    while let Some(width) = engine_loop.costs.unmeasured_width() {
        engine_loop.measure_step(width).unwrap();
    }
    let told = engine_loop.status.lock().unwrap().read_speed;
    assert_eq!(told, Some(6666), "steps with logits say nothing of it");
}

#[test]
fn nothing_is_drafted_where_it_is_known_not_to_pay() {
    let proposed = |is_measured: bool| {
        let mut engine_loop = priced(|n_rows| 1_000_000 * n_rows as u64, |_| ());
        while let Some(width) = engine_loop.costs.unmeasured_width().filter(|_| is_measured) {
            engine_loop.measure_step(width).unwrap();
        }
        let (mut sequence, mut reader) = sequence(300, 1, 40);
        sequence.speculator.add(PromptLookup::default());
        engine_loop.submit(sequence);
        run_until_idle(&mut engine_loop);
        match reader.last_event() {
            Some(Event::Finished(finish)) => finish.speculation.total().proposed,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(proposed(true), 0);
    assert!(proposed(false) > 0);
}
