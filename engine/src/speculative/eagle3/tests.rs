//! The head, its tree and verification against what SafeAILab's own code gives for the same weights
//! (`tests/fixtures/references/eagle3`).

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::{
    engine::{Engine, EngineOptions},
    kernels::Isa,
    model::{Model, ModelConfig, transformer::Transformer},
    request::{Prompt, Request, SamplingParams, Speculation, StopCondition},
    sampler::split_mix,
    tokenizer::Tokenizer,
};

/// The fixture's own tree.
const TREE: TreeShape = TreeShape {
    n_levels: 4,
    top_k: 4,
    n_tokens: 12,
};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/references/eagle3")
        .join(name)
}

struct Expected(HashMap<String, Tensor>);

impl Expected {
    fn load() -> Self {
        Self::open("expected.safetensors")
    }

    fn open(name: &str) -> Self {
        Self(candle_core::safetensors::load(fixture(name), &Device::Cpu).unwrap())
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        let tensor = self.0[name].to_dtype(DType::F32).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn ints(&self, name: &str) -> Vec<i64> {
        let tensor = self.0[name].to_dtype(DType::I64).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn tokens(&self, name: &str) -> Vec<u32> {
        self.ints(name).into_iter().map(|it| it as u32).collect()
    }
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let largest = differences.fold(0.0, f32::max);
    assert!(largest < 2e-4, "{what}: off by {largest}");
}

fn target() -> Checkpoint {
    Checkpoint::from_folder(&fixture("target")).unwrap()
}

fn eagle3(tree: TreeShape) -> Eagle3 {
    load(fixture("draft"), tree)
}

fn load(folder: PathBuf, tree: TreeShape) -> Eagle3 {
    let source = WeightSource::File(folder);
    assert!(Eagle3::recognises(&source));
    let mut drafter = Eagle3::load(source, &target(), tree, 1 << 14, 1).unwrap();
    // As exact as the fixture.
    drafter.cache = KvCache::with_type(&drafter.head.config.shape, 512, CacheType::F32);
    drafter
}

/// The draft for the fixture's prompt, whose states are observed `chunk` positions at a time.
fn drafted(drafter: &mut Eagle3, expected: &Expected, chunk: usize, max_len: usize) -> Draft {
    let mut tokens = expected.tokens("input_ids");
    let captured = expected.numbers("aux");
    let width = captured.len() / tokens.len();
    let n_tokens = tokens.len();
    assert_eq!(drafter.open(1, &tokens), 0);
    for first in (0..n_tokens).step_by(chunk) {
        let end = (first + chunk).min(n_tokens);
        if end == n_tokens {
            tokens.extend(expected.tokens("first"));
        }
        let captured = &captured[first * width..end * width];
        drafter.observe(1, &tokens, first, captured).unwrap();
    }
    let mut draft = Draft::default();
    let task = DraftTask {
        sequence: 1,
        tokens: &tokens,
        max_len,
        min_reach: 0.0,
        draft: &mut draft,
    };
    drafter.draft(&mut [task]).unwrap();
    draft
}

#[test]
fn states_fuse_and_rows_roll_as_in_the_reference() {
    let expected = Expected::load();
    let mut drafter = eagle3(TREE);
    assert_eq!(drafter.captured_layers(), [2, 4, 5]);
    let mut fused = Vec::new();
    drafter.head.fuse(&expected.numbers("aux"), &mut fused);
    assert_close(&fused, &expected.numbers("fused"), "fused");
    drafted(&mut drafter, &expected, 100, 1);
    let (hidden, vocab) = (drafter.head.config.shape.hidden, drafter.head.config.vocab);
    let rolled = &expected.numbers("prefill_hidden")[23 * hidden..];
    let logits = &expected.numbers("prefill_logits")[23 * vocab..];
    assert_close(&drafter.sequences[&1].last_rolled, rolled, "rolled");
    assert_close(&drafter.sequences[&1].last_logits, logits, "logits");
}

#[test]
fn the_tree_is_that_of_the_reference_however_the_prompt_arrives() {
    let expected = Expected::load();
    let parents: Vec<_> = expected.ints("tree_parents")[1..]
        .iter()
        .map(|&it| usize::try_from(it - 1).ok())
        .collect();
    for chunk in [1, 5, 24] {
        let draft = drafted(&mut eagle3(TREE), &expected, chunk, 100);
        let tokens: Vec<u32> = draft.tokens().collect();
        assert_eq!(tokens, expected.tokens("tree_tokens")[1..]);
        assert!(
            draft
                .nodes()
                .iter()
                .map(|it| it.parent)
                .eq(parents.iter().copied())
        );
        let mut rows = Vec::new();
        draft.push_rows(25, 0, &mut rows);
        let positions: Vec<i64> = rows.iter().map(|row| row.position() as i64).collect();
        assert_eq!(positions, expected.ints("tree_positions")[1..]);
    }
}

#[test]
fn a_chain_is_a_tree_without_branches() {
    let expected = Expected::load();
    let chain = TreeShape {
        n_levels: 4,
        top_k: 1,
        n_tokens: 5,
    };
    let draft = drafted(&mut eagle3(chain), &expected, 24, 100);
    assert!(draft.is_chain());
    let tokens: Vec<u32> = draft.tokens().collect();
    assert_eq!(tokens, expected.tokens("chain_tokens"));
}

/// What SGLang and vLLM know by these keys, against plain numpy (`tests/references/eagle3_variants.py`).
#[test]
fn variants_are_those_of_the_reference() {
    let (prompt, expected) = (Expected::load(), Expected::open("variants/expected.safetensors"));
    let config = fs::read_to_string(fixture("draft/config.json")).unwrap();
    let chain = TreeShape {
        n_levels: 4,
        top_k: 1,
        n_tokens: 5,
    };
    const STRETCHED: &str = r#""factor": 4.0, "original_max_position_embeddings": 16 },"#;
    let scaled = |numbers: &str| format!(r#""rope_scaling": {{ {numbers}, {STRETCHED}"#);
    let llama3 = r#""rope_type": "llama3", "low_freq_factor": 0.2, "high_freq_factor": 1.5"#;
    for (name, keys, extra) in [
        ("plain", String::new(), None),
        ("plain", r#""fc_norm": false, "norm_output": false,"#.into(), None),
        (
            "norm_before_residual",
            r#""norm_before_residual": true,"#.into(),
            None,
        ),
        (
            "norm_before_fc",
            r#""norm_before_fc": true,"#.into(),
            Some("input_norm"),
        ),
        (
            "norm_before_fc",
            r#""eagle_config": { "norm_before_fc": true },"#.into(),
            Some("input_norm"),
        ),
        ("fc_norm", r#""fc_norm": true,"#.into(), Some("fc_norm")),
        ("norm_output", r#""norm_output": true,"#.into(), None),
        (
            "norm_output",
            r#""eagle_config": { "return_hidden_post_norm": true },"#.into(),
            None,
        ),
        (
            "eagle_3.1",
            r#""fc_norm": true, "norm_output": true,"#.into(),
            Some("fc_norm"),
        ),
        ("llama3", scaled(llama3), None),
        // As transformers 5 writes it.
        (
            "llama3",
            format!(r#""rope_parameters": {{ {llama3}, {STRETCHED}"#),
            None,
        ),
        (
            "yarn",
            scaled(r#""rope_type": "yarn", "beta_fast": 2.0, "beta_slow": 0.1"#),
            None,
        ),
        ("linear", scaled(r#""type": "linear""#), None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let at = |file: &str| folder.path().join(file);
        let config = config.replacen('{', &format!("{{ {keys}"), 1);
        fs::write(at("config.json"), config).unwrap();
        fs::copy(fixture("draft/model.safetensors"), at("model.safetensors")).unwrap();
        if let Some(extra) = extra {
            let file = format!("{extra}.safetensors");
            fs::copy(fixture("variants").join(&file), at(&file)).unwrap();
            let first = if extra == "fc_norm" { "fc_norm.0" } else { extra };
            let index = format!(
                r#"{{ "weight_map": {{ "fc.weight": "model.safetensors", "{first}.weight": "{file}" }} }}"#
            );
            fs::write(at("model.safetensors.index.json"), index).unwrap();
        }
        let mut drafter = load(folder.path().into(), chain);
        let draft = drafted(&mut drafter, &prompt, 24, 100);
        let follower = &drafter.sequences[&1];
        let at = format!("{name}: {keys}");
        assert_close(
            &follower.last_rolled,
            &expected.numbers(&format!("{name}.rolled")),
            &at,
        );
        assert_close(
            &follower.last_logits,
            &expected.numbers(&format!("{name}.logits")),
            &at,
        );
        let tokens: Vec<u32> = draft.tokens().collect();
        assert_eq!(tokens, expected.tokens(&format!("{name}.chain")), "{at}");
    }
}

#[test]
fn variants_that_are_not_known_are_refused() {
    let config = fs::read_to_string(fixture("draft/config.json")).unwrap();
    for (keys, expected) in [
        (
            r#""norm_before_fc": true, "fc_norm": true,"#,
            "norm_before_fc and fc_norm at once",
        ),
        (r#""attention_bias": true,"#, "attention_bias"),
        (
            r#""eagle_config": { "use_aux_hidden_state": false },"#,
            "use_aux_hidden_state: false",
        ),
        (
            r#""rope_scaling": { "rope_type": "dynamic", "factor": 2.0 },"#,
            "`dynamic` is not supported",
        ),
        (
            r#""rope_scaling": { "rope_type": "yarn" },"#,
            "factor: the key is missing",
        ),
        (r#""partial_rotary_factor": 0.5,"#, "0.5 found, 1 expected"),
        // Its weights are not there.
        (r#""fc_norm": true,"#, "fc_norm.0.weight"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = config.replacen('{', &format!("{{ {keys}"), 1);
        fs::write(folder.path().join("config.json"), config).unwrap();
        let weights = folder.path().join("model.safetensors");
        fs::copy(fixture("draft/model.safetensors"), weights).unwrap();
        let source = WeightSource::File(folder.path().into());
        let Err(error) = Eagle3::load(source, &target(), TREE, 1 << 10, 1) else {
            panic!("{keys} is not refused");
        };
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// The target's logits for the rows of a tree, and the path that greedy picks take through it.
#[test]
fn the_target_verifies_the_trees_of_the_reference() {
    let expected = Expected::load();
    let checkpoint = target();
    let config = checkpoint.config().clone();
    let mut model = Transformer::load(checkpoint.weights(), config, 1, Isa::detect()).unwrap();
    for (tokens, logits, accepted) in [
        ("tree_tokens", "verify_logits", "accepted"),
        ("planted_tokens", "planted_logits", "planted_accepted"),
    ] {
        let mut cache = KvCache::with_type(model.config(), 4, CacheType::F32);
        let mut sequence = CachedSequence::default();
        cache.reserve(&mut sequence, 40).unwrap();
        let prompt = expected.tokens("input_ids");
        let tokens = expected.tokens(tokens);
        let mut draft = Draft::default();
        for (token, parent) in tokens.iter().zip(expected.ints("tree_parents")).skip(1) {
            let parent = usize::try_from(parent - 1).ok();
            draft.push_after(parent, *token, Evidence::of_probability(0.5));
        }
        let mut rows: Vec<Row> = prompt
            .iter()
            .zip(0..)
            .map(|(&it, at)| Row::chain(it, at, 0, false))
            .collect();
        rows.push(Row::chain(tokens[0], prompt.len(), 0, true));
        draft.push_rows(prompt.len() + 1, 0, &mut rows);
        let batch = Batch {
            rows: &rows,
            sequences: &[&sequence],
        };
        let mut found = Vec::new();
        model.forward(batch, &mut cache, &mut found).unwrap();
        assert_close(&found, &expected.numbers(logits), logits);

        let vocab = model.config().vocab;
        let (mut at, mut path) = (None, vec![0]);
        loop {
            let row = &found[at.map_or(0, |node: usize| node + 1) * vocab..][..vocab];
            let best = (0..vocab).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
            at = draft.child(at, best as u32);
            match at {
                Some(node) => path.push(node as i64 + 1),
                None => break,
            }
        }
        assert_eq!(path, expected.ints(accepted));
    }
}

#[test]
fn drafts_change_nothing_and_prompts_are_remembered() {
    let start = |drafter: Option<Box<dyn NetworkDrafter>>| {
        let checkpoint = target();
        let config = checkpoint.config().clone();
        let model = Transformer::load(checkpoint.weights(), config, 1, Isa::detect()).unwrap();
        let tokenizer = Arc::new(Tokenizer::bytes());
        let options = EngineOptions::default();
        Engine::start_with_drafter(Box::new(model), drafter, tokenizer, None, options).unwrap()
    };
    let request = |seed: u32, temperature: f32, speculation| Request {
        prompt: Prompt::Tokens((0..40).map(|i| (i * 7 + i * i * seed) % 256).collect()),
        sampling: SamplingParams {
            temperature,
            top_k: 40,
            seed: 3,
            ..SamplingParams::default()
        },
        stop: StopCondition {
            max_tokens: 60,
            ignore_end_tokens: true,
            ..StopCondition::default()
        },
        speculation,
        ..Request::default()
    };
    let plain = start(None);
    for tree in [TREE, TreeShape::default()] {
        let drafting = start(Some(Box::new(eagle3(tree))));
        for temperature in [0.0, 1.5] {
            let (mut n_accepted, mut n_reused) = (0, 0);
            let expected: Vec<_> = (1..5)
                .map(|seed| {
                    let request = request(seed, temperature, Speculation::Off);
                    plain.generate(request).blocking_collect().unwrap()
                })
                .collect();
            for len in [None, Some(5)] {
                let drafter = DrafterKind::Eagle3;
                let speculation = Speculation::Only { drafter, len };
                let generations: Vec<_> = (1..5)
                    .map(|seed| drafting.generate(request(seed, temperature, speculation)))
                    .collect();
                for (generation, expected) in generations.into_iter().zip(&expected) {
                    let answer = generation.blocking_collect().unwrap();
                    let bits = |it: &crate::request::GeneratedToken| (it.id, it.logprob.to_bits());
                    assert!(
                        answer
                            .tokens
                            .iter()
                            .map(bits)
                            .eq(expected.tokens.iter().map(bits))
                    );
                    n_accepted += answer.finish.speculation.of(drafter).accepted;
                    n_reused += answer.finish.usage.reused_tokens;
                }
            }
            // The head is random, so it is right by accident only.
            assert!(n_accepted > 0);
            assert!(n_reused > 4 * 30);
        }
    }
}

/// The fixture's target, but at random one of the tokens that were drafted comes next, or any other: paths of all shapes are
/// kept. What it captures is the target's own.
struct Wandering(Transformer);

impl Model for Wandering {
    fn config(&self) -> &ModelConfig {
        self.0.config()
    }

    fn forward(
        &mut self,
        batch: Batch<'_>,
        cache: &mut KvCache,
        logits: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        self.0.forward(batch, cache, logits)?;
        let vocab = self.config().vocab;
        let wanted = batch.rows.iter().filter(|row| row.wants_logits);
        for (row, logits) in wanted.zip(logits.chunks_exact_mut(vocab)) {
            let follows = |it: &&Row| {
                it.sequence_idx == row.sequence_idx
                    && it.parent_slot() == Some(row.slot())
                    && it.slot() > row.slot()
            };
            let drafted: Vec<u32> = batch.rows.iter().filter(follows).map(|it| it.token).collect();
            let random = split_mix(u64::from(row.token) << 32 | row.position() as u64) as usize;
            let next = match drafted.get(random / 8 % drafted.len().max(1)) {
                Some(&token) if !random.is_multiple_of(8) => token as usize,
                _ => random / 8 % vocab,
            };
            logits.fill(0.0);
            logits[next] = 30.0;
        }
        Ok(())
    }

    fn capture(&mut self, layers: &[usize]) -> Result<(), EngineError> {
        self.0.capture(layers)
    }

    fn captured(&self) -> &[f32] {
        self.0.captured()
    }
}

/// Fails where a drafter's draft is not the one of a drafter and a target that have just read the sequence for the first
/// time.
struct Compared {
    drafter: Eagle3,
    fresh: Eagle3,
    target: Transformer,
    n_compared: Arc<AtomicUsize>,
}

impl Compared {
    fn compare(&mut self, task: &DraftTask<'_>) {
        let (&last, known) = task.tokens.split_last().unwrap();
        let mut cache = KvCache::with_type(self.target.config(), 16, CacheType::F16);
        let mut sequence = CachedSequence::default();
        cache.reserve(&mut sequence, known.len()).unwrap();
        let rows: Vec<Row> = known
            .iter()
            .zip(0..)
            .map(|(&it, at)| Row::chain(it, at, 0, false))
            .collect();
        let batch = Batch {
            rows: &rows,
            sequences: &[&sequence],
        };
        self.target.forward(batch, &mut cache, &mut Vec::new()).unwrap();

        self.fresh.close(0);
        self.fresh.cache = KvCache::with_type(&self.fresh.head.config.shape, 64, CacheType::F32);
        self.fresh.open(0, known);
        let tokens = [known, &[last]].concat();
        self.fresh.observe(0, &tokens, 0, self.target.captured()).unwrap();
        let mut draft = Draft::default();
        let expected = DraftTask {
            sequence: 0,
            tokens: &tokens,
            max_len: task.max_len,
            min_reach: task.min_reach,
            draft: &mut draft,
        };
        self.fresh.draft(&mut [expected]).unwrap();
        assert!(!draft.is_empty());
        assert_eq!(*task.draft, draft, "after {} tokens", tokens.len());
        let bits = |numbers: &[f32]| numbers.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
        let (found, expected) = (&self.drafter.sequences[&task.sequence], &self.fresh.sequences[&0]);
        assert_eq!(bits(&found.last_logits), bits(&expected.last_logits));
        assert_eq!(bits(&found.last_rolled), bits(&expected.last_rolled));
        self.n_compared.fetch_add(1, Ordering::Relaxed);
    }
}

impl NetworkDrafter for Compared {
    fn kind(&self) -> DrafterKind {
        self.drafter.kind()
    }

    fn captured_layers(&self) -> &[usize] {
        self.drafter.captured_layers()
    }

    fn open(&mut self, sequence: u64, tokens: &[u32]) -> usize {
        self.drafter.open(sequence, tokens)
    }

    fn observe(
        &mut self,
        sequence: u64,
        tokens: &[u32],
        first: usize,
        captured: &[f32],
    ) -> Result<(), EngineError> {
        self.drafter.observe(sequence, tokens, first, captured)
    }

    fn draft(&mut self, tasks: &mut [DraftTask<'_>]) -> Result<(), EngineError> {
        self.drafter.draft(tasks)?;
        tasks.iter().for_each(|task| self.compare(task));
        Ok(())
    }

    fn close(&mut self, sequence: u64) {
        self.drafter.close(sequence);
    }
}

/// Whatever path through a tree was kept, the next tree has the bits of one that is drafted from the text alone: the target's
/// rows and its features are those of the path, and so are the head's own rows.
#[test]
fn drafts_after_kept_paths_are_those_of_a_fresh_head() {
    let transformer = || {
        let checkpoint = target();
        let mut config = checkpoint.config().clone();
        config.context_length = 1024;
        Transformer::load(checkpoint.weights(), config, 1, Isa::detect()).unwrap()
    };
    for (tree, max_running) in [(TREE, 1), (TreeShape::default(), 3)] {
        let mut fresh_target = transformer();
        fresh_target.capture(eagle3(tree).captured_layers()).unwrap();
        let n_compared = Arc::new(AtomicUsize::new(0));
        let drafter = Compared {
            drafter: eagle3(tree),
            fresh: eagle3(tree),
            target: fresh_target,
            n_compared: Arc::clone(&n_compared),
        };
        let options = EngineOptions {
            max_running,
            ..EngineOptions::default()
        };
        let engine = Engine::start_with_drafter(
            Box::new(Wandering(transformer())),
            Some(Box::new(drafter)),
            Arc::new(Tokenizer::bytes()),
            None,
            options,
        )
        .unwrap();
        let generations: Vec<_> = (1..4)
            .map(|seed| {
                engine.generate(Request {
                    prompt: Prompt::Tokens((0..30 + seed).map(|i| (i * 7 + i * i * seed) % 256).collect()),
                    stop: StopCondition {
                        max_tokens: 90,
                        ignore_end_tokens: true,
                        ..StopCondition::default()
                    },
                    speculation: Speculation::Only {
                        drafter: DrafterKind::Eagle3,
                        len: Some(8),
                    },
                    ..Request::default()
                })
            })
            .collect();
        let (mut n_steps, mut n_accepted) = (0, 0);
        for generation in generations {
            let answer = generation.blocking_collect().unwrap();
            assert_eq!(answer.tokens.len(), 90);
            let stats = *answer.finish.speculation.of(DrafterKind::Eagle3);
            n_steps += stats.steps;
            n_accepted += stats.accepted;
        }
        let n_compared = n_compared.load(Ordering::Relaxed);
        assert!(n_compared >= n_steps, "{n_compared} of {n_steps}");
        assert!(
            n_steps > 60 && n_accepted > n_steps,
            "{n_accepted} in {n_steps} steps"
        );
    }
}
