//! The cache against a model of it: every row remembers the tokens up to it.

use super::*;

fn config() -> ModelConfig {
    ModelConfig::bare("test", 2, 2, 2)
}

/// A number that stands for all tokens up to a position.
fn fingerprint(tokens: &[u32]) -> f32 {
    tokens.iter().fold(7u32, |hash, &token| {
        (hash.wrapping_mul(31).wrapping_add(token)) % 60_013
    }) as f32
}

/// Plays the model's part: writes the rows for `tokens` after the committed ones, then commits them.
fn run(cache: &mut KvCache, sequence: &mut CachedSequence, tokens: &[u32]) {
    cache.reserve(sequence, tokens.len()).unwrap();
    let mut all = sequence.tokens().to_vec();
    for &token in tokens {
        let position = all.len();
        all.push(token);
        let mark = [fingerprint(&all); 4];
        for layer in 0..2 {
            cache.write(
                layer,
                sequence.blocks()[position / BLOCK_LEN],
                position % BLOCK_LEN,
                &mark,
                &mark,
            );
        }
    }
    cache.commit(sequence, tokens);
}

fn assert_rows(cache: &KvCache, sequence: &CachedSequence) {
    for position in 0..sequence.len() {
        let expected = fingerprint(&sequence.tokens()[..=position]);
        for layer in 0..2 {
            for head in 0..2 {
                let block = sequence.blocks()[position / BLOCK_LEN];
                let slot = position % BLOCK_LEN;
                let (mut keys, mut values) = ([0.0; 2 * BLOCK_LEN], [0.0; 2 * BLOCK_LEN]);
                cache.load_slot(layer, (block, slot), head, 0, &mut keys, &mut values);
                for found in [keys[0], keys[BLOCK_LEN], values[0], values[1]] {
                    assert_eq!(found, expected, "position {position}");
                }
            }
        }
    }
}

fn cache(n_blocks: usize) -> KvCache {
    KvCache::with_type(&config(), n_blocks, CacheType::F32)
}

fn prompt(len: usize, seed: u32) -> Vec<u32> {
    (0..len as u32).map(|i| (i * i + seed) % 13).collect()
}

#[test]
fn a_second_request_reuses_all_but_the_last_token() {
    let mut cache = cache(16);
    let prompt = prompt(100, 1);
    let mut first = cache.open(&prompt);
    assert_eq!(first.len(), 0);
    run(&mut cache, &mut first, &prompt);
    cache.close(first);
    let second = cache.open(&prompt);
    assert_eq!(second.len(), 99);
    assert_rows(&cache, &second);
    cache.close(second);
    assert_eq!(cache.n_held_blocks(), 0);
}

#[test]
fn an_edit_inside_a_block_keeps_what_stands_before_it() {
    let mut cache = cache(16);
    let mut tokens = prompt(100, 1);
    let mut first = cache.open(&tokens);
    run(&mut cache, &mut first, &tokens);
    tokens[50] = 15;
    let mut second = cache.open(&tokens);
    assert_eq!(second.len(), 50);
    let rest = tokens[50..].to_vec();
    run(&mut cache, &mut second, &rest);
    assert_rows(&cache, &first);
    assert_rows(&cache, &second);
    assert_eq!(first.blocks()[0], second.blocks()[0], "the first block is shared");
}

#[test]
fn two_sequences_that_ran_the_same_tokens_end_up_sharing() {
    let mut cache = cache(16);
    let tokens = prompt(64, 3);
    let (mut first, mut second) = (cache.open(&tokens), cache.open(&tokens));
    run(&mut cache, &mut first, &tokens);
    run(&mut cache, &mut second, &tokens);
    assert_eq!(first.blocks(), second.blocks());
    assert_eq!(cache.n_held_blocks(), 2);
}

#[test]
fn truncating_inside_a_shared_block_leaves_the_other_sequence_alone() {
    let mut cache = cache(16);
    let tokens = prompt(64, 3);
    let (mut first, mut second) = (cache.open(&tokens), cache.open(&tokens));
    run(&mut cache, &mut first, &tokens);
    run(&mut cache, &mut second, &tokens);
    cache.truncate(&mut second, 40);
    run(&mut cache, &mut second, &[9, 9, 9]);
    assert_rows(&cache, &first);
    assert_rows(&cache, &second);
    cache.truncate(&mut second, 32);
    cache.truncate(&mut second, 0);
    assert_eq!(second.blocks().len(), 0);
}

#[test]
fn a_full_cache_says_so_and_evicts_what_nobody_uses() {
    let mut cache = cache(4);
    let tokens = prompt(64, 1);
    let mut first = cache.open(&tokens);
    run(&mut cache, &mut first, &tokens);
    let other = prompt(96, 2);
    let mut second = cache.open(&other);
    let error = cache.reserve(&mut second, 96).unwrap_err();
    assert!(
        matches!(
            error,
            EngineError::CacheFull {
                needed_blocks: 1,
                free_blocks: 0
            }
        ),
        "{error}"
    );
    cache.close(first);
    run(&mut cache, &mut second, &other);
    assert_rows(&cache, &second);
}

#[test]
fn thousands_of_random_requests_neither_leak_nor_mix_up_rows() {
    let mut cache = cache(24);
    let mut random = 0x9e37_79b9_u32;
    let mut next = move |below: u32| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random % below
    };
    let mut running: Vec<CachedSequence> = Vec::new();
    for _ in 0..5000 {
        if running.len() < 4 && next(2) == 0 {
            let mut tokens = prompt(1 + next(120) as usize, next(2));
            if next(3) == 0 {
                let at = next(tokens.len() as u32) as usize;
                tokens[at] = 14;
            }
            let mut sequence = cache.open(&tokens);
            let rest = tokens[sequence.len()..].to_vec();
            run(&mut cache, &mut sequence, &rest);
            running.push(sequence);
        } else if !running.is_empty() {
            let mut sequence = running.swap_remove(next(running.len() as u32) as usize);
            assert_rows(&cache, &sequence);
            match next(3) {
                0 => cache.close(sequence),
                1 => {
                    let len = next(sequence.len() as u32 + 1) as usize;
                    cache.truncate(&mut sequence, len);
                    running.push(sequence);
                }
                _ if sequence.len() < 140 => {
                    run(&mut cache, &mut sequence, &[next(13)]);
                    running.push(sequence);
                }
                _ => cache.close(sequence),
            }
        }
    }
    for sequence in running {
        cache.close(sequence);
    }
    assert_eq!(cache.n_held_blocks(), 0);
    assert_eq!(cache.n_free_blocks() + cache.tree.n_unreferenced(), 24);
}
