//! Every drafter on every family of models: the bits of plain decoding, alone and beside others.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use drafters::{Forgetful, Knowing, bits};
use gguf_builder::{Builder, Value, f32s, open, strings, u32s};
use surmise_engine::{
    Answer, Engine, EngineOptions, WeightSource,
    kv_cache::KvCache,
    model::{Checkpoint, Model, load_model},
    request::{Prompt, Request, Speculation, StopCondition},
    speculative::{draft_model::DraftModel, drafter::DrafterKind, network::NetworkDrafter},
    tokenizer::Tokenizer,
    weights::Gguf,
};

mod drafters;
mod gguf_builder;

/// Sequences of each model, and tokens of each answer.
const N_SEQUENCES: u32 = 4;
const N_TOKENS: usize = 96;

/// Fewest steps with which each family is tested, all its files, drafters and sizes of batches together, and fewest for each
/// drafter and for each size of batches.
const MIN_FAMILY_STEPS: usize = 2_000;
const MIN_DRAFTER_STEPS: usize = 5_000;

/// Every file and folder with a model, one format of each.
fn models() -> Vec<PathBuf> {
    let references = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/references");
    let mut models = Vec::new();
    for entry in fs::read_dir(references).unwrap() {
        let folder = entry.unwrap().path();
        if folder.join("draft").exists() {
            models.push(folder.join("target"));
            continue;
        }
        let Ok(files) = fs::read_dir(&folder) else {
            continue;
        };
        let files = files.map(|it| it.unwrap().path());
        let ggufs: Vec<_> = files
            .filter(|it| it.extension().is_some_and(|it| it == "gguf"))
            .collect();
        if ggufs.is_empty() {
            models.push(folder);
        } else {
            models.extend(ggufs);
        }
    }
    models.sort();
    models
}

fn checkpoint(path: &Path) -> Checkpoint {
    if path.is_dir() {
        return Checkpoint::from_folder(path).unwrap();
    }
    let gguf = Gguf::open(WeightSource::File(path.into())).unwrap();
    Checkpoint::from_gguf(&gguf).unwrap()
}

/// A vocabulary in which every token is a character of its own, so that every answer is a text.
fn characters(vocab: usize) -> Arc<Tokenizer> {
    let texts: Vec<String> = ('\u{4e00}'..).take(vocab).map(String::from).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let file = Builder::new()
        .pair("tokenizer.ggml.model", Value::Str(b"llama".to_vec()))
        .pair("tokenizer.ggml.tokens", strings(&texts))
        .pair("tokenizer.ggml.token_type", u32s((0..vocab).map(|_| 1)))
        .pair("tokenizer.ggml.scores", f32s((0..vocab).map(|_| 0.0)))
        .pair("tokenizer.ggml.add_space_prefix", Value::Bool(0));
    Arc::new(Tokenizer::from_gguf(&open(&file.build()).unwrap()).unwrap())
}

fn start(
    checkpoint: &Checkpoint,
    tokenizer: &Arc<Tokenizer>,
    drafter: Box<dyn NetworkDrafter>,
    max_running: usize,
) -> Engine {
    let model = Box::new(load_model(checkpoint, 1).unwrap());
    let options = EngineOptions {
        max_running,
        kv_cache_bytes: Some(16 << 20),
        ..EngineOptions::default()
    };
    Engine::start_with_drafter(model, Some(drafter), Arc::clone(tokenizer), None, options).unwrap()
}

/// The same model, but wrong now and then.
fn draft_model(checkpoint: &Checkpoint, tokenizer: &Arc<Tokenizer>) -> Box<dyn NetworkDrafter> {
    let model = Forgetful(load_model(checkpoint, 1).unwrap());
    let cache = KvCache::new(model.config(), 64);
    let vocab = model.config().vocab;
    let [own, target] = [(); 2].map(|()| Arc::clone(tokenizer));
    Box::new(DraftModel::new(Box::new(model), own, cache, target, vocab))
}

fn prompt(seed: u32) -> Vec<u32> {
    (0..12 + seed * 5)
        .map(|i| (i * (2 * seed + 3) + i / 4 * seed + 1) % 200)
        .collect()
}

fn request(seed: u32, original: Option<String>, speculation: Speculation) -> Request {
    Request {
        prompt: Prompt::Tokens(prompt(seed)),
        stop: StopCondition {
            max_tokens: N_TOKENS,
            ignore_end_tokens: true,
            ..StopCondition::default()
        },
        original,
        speculation,
        ..Request::default()
    }
}

/// The answers to all prompts at once.
fn answers(engine: &Engine, originals: &[Option<String>], speculation: Speculation) -> Vec<Answer> {
    let generations = (0..N_SEQUENCES)
        .zip(originals)
        .map(|(seed, original)| engine.generate(request(seed, original.clone(), speculation)));
    let generations: Vec<_> = generations.collect();
    generations
        .into_iter()
        .map(|it| it.blocking_collect().unwrap())
        .collect()
}

/// The text with every ninth character another one.
fn disturbed(text: &str) -> String {
    let changed = text
        .chars()
        .enumerate()
        .map(|(idx, char)| if idx % 9 == 8 { '\u{4e05}' } else { char });
    changed.collect()
}

/// Steps so far, and what was proposed and accepted in them.
#[derive(Debug, Default)]
struct Tally {
    family_steps: BTreeMap<String, usize>,
    /// Of sequences alone, and of several at once.
    batch_steps: [usize; 2],
    /// Proposed, accepted, and steps.
    of_drafter: BTreeMap<&'static str, [usize; 3]>,
}

impl Tally {
    fn add(&mut self, family: &str, batch_idx: usize, drafter: DrafterKind, counts: [usize; 3]) {
        let [.., n_steps] = counts;
        *self.family_steps.entry(family.to_owned()).or_default() += n_steps;
        self.batch_steps[batch_idx] += n_steps;
        let sums = self.of_drafter.entry(drafter.name()).or_default();
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
    }
}

/// Every drafter on one model.
fn check(path: &Path, tally: &Mutex<Tally>) {
    let name = path
        .strip_prefix(path.ancestors().nth(2).unwrap())
        .unwrap()
        .display();
    let checkpoint = checkpoint(path);
    let tokenizer = characters(checkpoint.config().vocab);
    let none = vec![None; N_SEQUENCES as usize];
    let alone = start(&checkpoint, &tokenizer, draft_model(&checkpoint, &tokenizer), 1);
    let plain = answers(&alone, &none, Speculation::Off);
    let texts = (0..).zip(&plain).map(|(seed, plain)| {
        let answer = plain.tokens.iter().map(|it| it.id);
        prompt(seed).into_iter().chain(answer).collect()
    });
    let texts: Vec<Vec<u32>> = texts.collect();
    let originals: Vec<_> = plain.iter().map(|it| Some(disturbed(&it.text))).collect();
    let knowing = || Box::new(Knowing::new(texts.clone(), checkpoint.config().vocab));
    let together = N_SEQUENCES as usize;
    let with_draft_model = [
        alone,
        start(
            &checkpoint,
            &tokenizer,
            draft_model(&checkpoint, &tokenizer),
            together,
        ),
    ];
    let with_trees = [
        start(&checkpoint, &tokenizer, knowing(), 1),
        start(&checkpoint, &tokenizer, knowing(), together),
    ];
    for drafter in [
        DrafterKind::PromptLookup,
        DrafterKind::References,
        DrafterKind::Edit,
        DrafterKind::DraftModel,
        DrafterKind::Eagle3,
    ] {
        let engines = match drafter {
            DrafterKind::Eagle3 => &with_trees,
            _ => &with_draft_model,
        };
        for (batch_idx, engine) in engines.iter().enumerate() {
            for (idx, text) in originals.iter().flatten().enumerate() {
                engine.set_reference(&idx.to_string(), text).unwrap();
            }
            let speculation = Speculation::Only {
                drafter,
                len: Some(6),
            };
            let (mut n_proposed, mut n_accepted, mut n_steps) = (0, 0, 0);
            for (answer, plain) in answers(engine, &originals, speculation).iter().zip(&plain) {
                assert_eq!(bits(answer), bits(plain), "{name}, {drafter}");
                let stats = answer.finish.speculation;
                n_proposed += stats.of(drafter).proposed;
                n_accepted += stats.of(drafter).accepted;
                n_steps += stats.steps;
            }
            // A random model need not repeat itself.
            if drafter != DrafterKind::PromptLookup {
                assert!(
                    0 < n_accepted && n_accepted < n_proposed,
                    "{name}, {drafter}: {n_accepted} of {n_proposed}"
                );
            }
            // Families that no GGUF file has a name for go by their folders'.
            let family = match checkpoint.config().architecture.as_str() {
                "" => path.file_name().unwrap().to_str().unwrap(),
                architecture => architecture,
            };
            let mut tally = tally.lock().unwrap();
            tally.add(family, batch_idx, drafter, [n_proposed, n_accepted, n_steps]);
        }
    }
    let beside_others = answers(&with_draft_model[1], &none, Speculation::Off);
    for (answer, plain) in beside_others.iter().zip(&plain) {
        assert_eq!(bits(answer), bits(plain), "{name}");
    }
}

#[test]
fn each_drafter_gives_the_bits_of_plain_decoding_on_every_family() {
    let (models, tally) = (models(), Mutex::new(Tally::default()));
    let next = AtomicUsize::new(0);
    // Each engine computes on one thread.
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(path) = models.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(path, &tally);
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap();
    eprintln!("{} models, {tally:?}", models.len());
    assert!(models.len() >= 30, "{} models", models.len());
    for (family, n_steps) in tally.family_steps {
        assert!(n_steps >= MIN_FAMILY_STEPS, "{family}: {n_steps} steps");
    }
    assert!(
        tally.batch_steps.iter().all(|it| *it >= MIN_DRAFTER_STEPS),
        "{:?}",
        tally.batch_steps
    );
    for (drafter, [n_proposed, n_accepted, n_steps]) in tally.of_drafter {
        assert!(
            n_steps >= MIN_DRAFTER_STEPS && 100 < n_accepted && n_accepted < n_proposed,
            "{drafter}: {n_accepted} of {n_proposed} in {n_steps} steps"
        );
    }
}
