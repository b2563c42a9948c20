//! Memory known before weights are read: plans by headers, refusals, and what progress tells.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use surmise_engine::{
    Engine, EngineError, EngineOptions, FimSupport, LoadProgress, ModelSummary, WeightSource,
    kv_cache::CacheType,
    request::{Prompt, Request},
    weights::{GgmlType, Gguf},
};

fn fixture(file: &str) -> WeightSource {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/references");
    WeightSource::File(fixtures.join(file))
}

fn summary(file: &str, options: &EngineOptions) -> ModelSummary {
    ModelSummary::read(&fixture(file), options).unwrap()
}

#[test]
fn headers_say_what_a_model_takes() {
    let options = EngineOptions::default();
    let found = summary("qwen3/bf16.gguf", &options);
    assert_eq!(
        (&*found.architecture, &*found.number_format, found.fim),
        ("qwen3", "BF16", FimSupport::None)
    );
    // Embedding of 256, layers of (2 norms, 2 head norms, q and o of 4 x 32, k and v of 2 x 32, 3 x 96), last norm.
    let matrices = 64 * (256 + 3 * (2 * 128 + 2 * 64 + 3 * 96));
    let vectors = 3 * (2 * 64 + 2 * 32) + 64;
    assert_eq!(found.n_parameters, matrices + vectors);
    assert_eq!(found.plan.weight_bytes, 2 * matrices + 4 * vectors);
    assert_eq!(found.plan.kv_bytes_per_token, 3 * 2 * 32 * 2 * 2);
    assert_eq!((found.context_length, found.plan.context_length), (128, 128));
    assert_eq!(found.plan.least_kv_bytes, 128 * found.plan.kv_bytes_per_token);
    assert_eq!(found.plan.kv_bytes, 32 * found.plan.least_kv_bytes);

    let kv_cache_type = CacheType::Q8_0;
    let smaller = summary(
        "qwen3/bf16.gguf",
        &EngineOptions {
            kv_cache_type,
            ..options.clone()
        },
    );
    assert_eq!(smaller.plan.kv_bytes_per_token, 3 * 2 * 34 * 2);

    // An embedding beside an output matrix is read where it is.
    let quantized = summary("llama3-k/q8_0.gguf", &options).plan;
    let layer = 2 * 256 * 256 + 2 * 128 * 256 + 3 * 512 * 256;
    let in_memory = (256 * 256 + 2 * layer) / 32 * 34 + 4 * 5 * 256;
    // And so are the factors of its rotary embedding, which no tensor keeps.
    assert_eq!(quantized.weight_bytes, in_memory);
}

#[test]
fn formats_have_the_names_that_people_use() {
    let name = |source: WeightSource| {
        let summary = ModelSummary::read(&source, &EngineOptions::default());
        summary.unwrap().number_format
    };
    for (file, expected) in [
        ("deepseek-v2-k/q4_k_m.gguf", "Q4_K_M"),
        ("llama3-k/q4_0.gguf", "Q4_0"),
        ("qwen3/bf16.gguf", "BF16"),
    ] {
        assert_eq!(name(fixture(file)), expected, "{file}");
    }
    // A file that does not say: what most of its numbers are in.
    let WeightSource::File(path) = fixture("qwen2-k/q4_k_m.gguf") else {
        unreachable!("fixtures are files");
    };
    let mut bytes = std::fs::read(path).unwrap();
    let key = b"general.file_type";
    let at = bytes.windows(key.len()).position(|it| it == key).unwrap();
    bytes[at..at + key.len()].copy_from_slice(b"general.file_typo");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    assert_eq!(name(WeightSource::File(file.path().into())), "Q4_K");
}

/// A file whose numbers are far behind its header, in a hole: those that are read come into the system's page cache.
#[cfg(target_os = "linux")]
#[test]
fn summaries_read_headers_only() {
    // Further than the system reads ahead.
    const GAP: usize = 64 << 20;
    let folder = tempfile::tempdir().unwrap();
    for file in [
        "deepseek-v2-k/joined-q4_k_m.gguf",
        "deepseek-v2-lite/bf16.gguf",
        "qwen3-next/bf16.gguf",
        "qwen2-k/q4_k_m.gguf",
    ] {
        let WeightSource::File(path) = fixture(file) else {
            unreachable!("fixtures are files");
        };
        let gguf = Gguf::open(fixture(file)).unwrap();
        let mut bytes = std::fs::read(path).unwrap();
        for tensor in gguf.tensors() {
            let entry = [
                &(tensor.name.len() as u64).to_le_bytes()[..],
                tensor.name.as_bytes(),
            ]
            .concat();
            let at = bytes.windows(entry.len()).position(|it| it == entry).unwrap();
            // Past the name, the number of extents, the extents, and the type.
            let at = at + entry.len() + 4 + 8 * tensor.shape.len() + 4;
            let offset = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            bytes[at..at + 8].copy_from_slice(&(offset + GAP as u64).to_le_bytes());
        }
        let sparse = folder.path().join("sparse.gguf");
        std::fs::write(&sparse, &bytes).unwrap();
        let written = std::fs::File::options().write(true).open(&sparse).unwrap();
        written.set_len((bytes.len() + GAP) as u64).unwrap();
        let options = EngineOptions {
            quantize: Some(GgmlType::Q8_0),
            ..EngineOptions::default()
        };
        let found = ModelSummary::read(&WeightSource::File(sparse.clone()), &options).unwrap();
        assert_eq!(found, summary(file, &options), "{file}");
        assert_eq!(n_cached_pages(&sparse, GAP), 0, "{file}");
        // Where there is something to find, it is found.
        drop(Engine::load(WeightSource::File(sparse.clone()), options));
        assert_ne!(n_cached_pages(&sparse, GAP), 0, "{file}");
        std::fs::remove_file(sparse).unwrap();
    }
}

/// Pages of a file from byte `start` on that the system holds in memory.
#[cfg(target_os = "linux")]
fn n_cached_pages(path: &Path, start: usize) -> usize {
    use std::os::fd::AsRawFd;

    let file = std::fs::File::open(path).unwrap();
    let n_bytes = file.metadata().unwrap().len() as usize;
    // SAFETY: asks for a number.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let mut pages = vec![0; n_bytes.div_ceil(page_bytes)];
    // SAFETY: maps a file that nobody changes, asks about just these pages, for each of which there is a byte, and unmaps it.
    let outcome = unsafe {
        let map = libc::mmap(
            std::ptr::null_mut(),
            n_bytes,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        assert_ne!(map, libc::MAP_FAILED);
        let outcome = libc::mincore(map, n_bytes, pages.as_mut_ptr());
        libc::munmap(map, n_bytes);
        outcome
    };
    assert_eq!(outcome, 0);
    let pages = pages.iter().skip(start.div_ceil(page_bytes));
    pages.filter(|it| *it & 1 == 1).count()
}

#[test]
fn quantising_is_counted() {
    let options = EngineOptions {
        quantize: Some(GgmlType::Q4K),
        ..EngineOptions::default()
    };
    // Rows of 64 are no whole blocks of 256, so all matrices become Q8_0.
    let plain = summary("qwen3/bf16.gguf", &EngineOptions::default())
        .plan
        .weight_bytes;
    let matrices = 64 * (256 + 3 * (2 * 128 + 2 * 64 + 3 * 96));
    let quantized = summary("qwen3/bf16.gguf", &options).plan.weight_bytes;
    assert_eq!(quantized, plain - 2 * matrices + matrices / 32 * 34);
    // What is quantised already stays as it is.
    let found = summary("llama3-k/q8_0.gguf", &options);
    assert_eq!(found, summary("llama3-k/q8_0.gguf", &EngineOptions::default()));
}

#[test]
fn what_does_not_fit_is_refused_and_what_fits_hardly_has_a_smaller_cache() {
    let plan = summary("qwen3/bf16.gguf", &EngineOptions::default()).plan;
    let load = |available_bytes: usize| {
        let reports = RefCell::new(Vec::new());
        let options = EngineOptions {
            available_bytes: Some(available_bytes),
            ..EngineOptions::default()
        };
        let source = fixture("qwen3/bf16.gguf");
        let engine = Engine::load_with_progress(source, options, &|report| reports.borrow_mut().push(report));
        (engine, reports.into_inner())
    };
    let (refused, reports) = load(plan.least_bytes() - 1);
    assert!(reports.is_empty(), "nothing was read: {reports:?}");
    let error = refused.err().unwrap();
    assert!(matches!(error, EngineError::TooLarge { .. }), "{error}");
    assert!(error.to_string().contains(" needs "), "{error}");

    let (engine, reports) = load(plan.least_bytes());
    let engine = engine.unwrap();
    assert_eq!(engine.info().context_length, 128);
    assert_eq!(n_blocks(&engine), 128 / 32);
    assert_eq!(
        reports[0],
        LoadProgress {
            plan,
            loaded_bytes: 0
        }
    );
    assert!(reports.is_sorted_by_key(|report| report.loaded_bytes));
    let loaded = reports[reports.len() - 1].loaded_bytes;
    // Vectors are not reported.
    assert!(loaded <= plan.weight_bytes && loaded > plan.weight_bytes * 9 / 10);

    let (engine, _) = load(plan.total_bytes());
    assert_eq!(n_blocks(&engine.unwrap()), 32 * 128 / 32);
}

/// Layers of different widths, embeddings of which only rows are read, matrices taken apart, states.
#[test]
fn plans_hold_for_layers_of_every_kind() {
    for file in [
        "deepseek-v2-k/joined-q4_k_m.gguf",
        "gemma4-e/bf16.gguf",
        "gemma4-moe/bf16.gguf",
        "qwen3.5/bf16.gguf",
        "qwen3-next/bf16.gguf",
    ] {
        for quantize in [None, Some(GgmlType::Q8_0)] {
            let options = EngineOptions {
                quantize,
                ..EngineOptions::default()
            };
            let plan = summary(file, &options).plan;
            let loaded = RefCell::new(0);
            Engine::load_with_progress(fixture(file), options, &|report| {
                *loaded.borrow_mut() = report.loaded_bytes;
            })
            .unwrap();
            let loaded = loaded.into_inner();
            assert!(
                loaded <= plan.weight_bytes && loaded > plan.weight_bytes * 9 / 10,
                "{file}, {quantize:?}: {loaded} of {} planned",
                plan.weight_bytes
            );
        }
    }
}

/// Blocks of the KV cache, which the status has after a step.
fn n_blocks(engine: &Engine) -> usize {
    let request = Request {
        prompt: Prompt::Tokens(vec![1, 2, 3]),
        ..Request::default()
    };
    engine.generate(request).blocking_collect().unwrap();
    engine.status().n_blocks
}

#[test]
fn drafters_are_counted() {
    let alone = summary("qwen3/bf16.gguf", &EngineOptions::default()).plan;
    let options = EngineOptions {
        draft_model: Some(fixture("qwen2/bf16.gguf")),
        ..EngineOptions::default()
    };
    let plan = summary("qwen3/bf16.gguf", &options).plan;
    let draft = summary("qwen2/bf16.gguf", &EngineOptions::default()).plan;
    assert!(plan.drafter_bytes > draft.weight_bytes + draft.least_kv_bytes);
    assert_eq!(plan.total_bytes(), alone.total_bytes() + plan.drafter_bytes);
    let missing = EngineOptions {
        draft_model: Some(WeightSource::File(PathBuf::from("no-such.gguf"))),
        ..options
    };
    assert!(ModelSummary::read(&fixture("qwen3/bf16.gguf"), &missing).is_err());
}
