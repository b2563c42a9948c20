//! The cache against a model of it: every row remembers the tokens up to it.

use super::*;
use crate::{
    kernels::delta_rule::STATE_COLUMNS,
    model::{DeltaNet, LayerConfig},
};

fn config() -> ModelConfig {
    ModelConfig::bare("test", 2, 2, 2)
}

/// Two layers with keys and values around one with a state.
fn config_with_states() -> ModelConfig {
    let layer = |(has_state, cache_idx)| LayerConfig {
        window: None,
        rope_idx: 0,
        has_state,
        cache_idx,
        shares_cache: false,
        feed_forward: 1,
        has_experts: false,
    };
    ModelConfig {
        n_layers: 3,
        layers: [(false, 0), (true, 0), (false, 1)].map(layer).to_vec(),
        delta_net: Some(DeltaNet {
            n_key_heads: 1,
            n_value_heads: 1,
            key_dim: 1,
            value_dim: STATE_COLUMNS,
            conv_len: 4,
            shares_with_neighbours: true,
        }),
        ..config()
    }
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
    if cache.states.are_needed() {
        run_states(cache, sequence, &all, tokens.len());
    }
    cache.commit(sequence, tokens);
}

/// Plays the model's part for the states: all but the last token of those just run are final, which are `all` but for
/// what was committed before.
fn run_states(cache: &mut KvCache, sequence: &CachedSequence, all: &[u32], n_run: usize) {
    let to = sequence.len() + n_run - 1;
    let steps = cache.advance_state(sequence, to);
    let layer = cache.states_mut(0);
    let state_len = STATE_COLUMNS;
    let mark = |len: usize| if len == 0 { 0.0 } else { fingerprint(&all[..len]) };
    assert_eq!(
        layer.numbers_mut()[steps.state.range(state_len)][0],
        mark(steps.from)
    );
    let input_width = config_with_states().delta_net.unwrap().input_width();
    let first = steps.from.saturating_sub(3);
    for (idx, input) in layer.inputs(steps.state).chunks_exact(input_width).enumerate() {
        // Those of rows that were rolled back come after.
        if first + idx < sequence.len() {
            assert_eq!(
                input[0],
                mark(first + idx + 1),
                "input {idx} of a state of {}",
                steps.from
            );
        }
    }
    let n_known = layer.inputs(steps.state).len() / input_width;
    assert!(first + n_known >= sequence.len());
    let inputs = |from: usize, to: usize| -> Vec<f32> {
        (from..to)
            .flat_map(|position| vec![mark(position + 1); input_width])
            .collect()
    };
    let all_copies = steps.copies.iter().map(|&(len, copy)| (len, copy, len));
    for (len, state, end) in all_copies.chain([(to, steps.state, all.len())]) {
        layer.numbers_mut()[state.range(state_len)].fill(mark(len));
        layer.set_inputs(state, &inputs(len.saturating_sub(3), end));
    }
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

fn cache_with_states(n_blocks: usize) -> KvCache {
    KvCache::with_type(&config_with_states(), n_blocks, CacheType::F32)
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
                needed_blocks: 3,
                free_blocks: 2
            }
        ),
        "{error}"
    );
    cache.close(first);
    run(&mut cache, &mut second, &other);
    assert_rows(&cache, &second);
}

#[test]
fn what_does_not_fit_evicts_nothing() {
    let mut cache = cache(8);
    let (held, remembered) = (prompt(64, 1), prompt(96, 2));
    let mut first = cache.open(&held);
    run(&mut cache, &mut first, &held);
    let mut second = cache.open(&remembered);
    run(&mut cache, &mut second, &remembered);
    cache.close(second);
    let mut third = cache.open(&[7]);
    cache.reserve(&mut third, 7 * BLOCK_LEN).unwrap_err();
    assert!(third.blocks().is_empty());
    let again = cache.open(&remembered);
    assert_eq!(again.len(), 95);
    assert_rows(&cache, &again);
}

#[test]
fn states_are_kept_where_prompts_end_and_part() {
    let mut cache = cache_with_states(1000);
    let text = prompt(700, 1);
    let mut ask = |tokens: &[u32]| {
        let mut sequence = cache.open(tokens);
        let n_reused = sequence.len();
        let rest = tokens[n_reused..].to_vec();
        for chunk in rest.chunks(100) {
            run(&mut cache, &mut sequence, chunk);
        }
        assert_rows(&cache, &sequence);
        cache.close(sequence);
        n_reused
    };
    assert_eq!(ask(&text), 0);
    assert_eq!(ask(&text), 672);
    assert_eq!(ask(&text[..600]), STATE_INTERVAL);
    let mut edited = text.clone();
    edited[300] = 15;
    assert_eq!(ask(&edited), 0);
    edited[300] = 16;
    assert_eq!(ask(&edited), 288);
}

#[test]
fn a_state_goes_back_to_one_that_was_kept() {
    let mut cache = cache_with_states(1000);
    let text = prompt(700, 1);
    let mut sequence = cache.open(&text);
    for chunk in text.chunks(100) {
        run(&mut cache, &mut sequence, chunk);
    }
    for token in 0..20 {
        run(&mut cache, &mut sequence, &[token]);
    }
    // The last token's inputs are kept.
    cache.truncate(&mut sequence, 719);
    assert_eq!(sequence.len(), 719);
    for (asked_for, left) in [(718, 672), (671, STATE_INTERVAL), (STATE_INTERVAL - 1, 0)] {
        cache.truncate(&mut sequence, asked_for);
        assert_eq!(sequence.len(), left);
        assert_rows(&cache, &sequence);
        let rest = text[left..].to_vec();
        run(&mut cache, &mut sequence, &rest);
        assert_rows(&cache, &sequence);
    }
}

#[test]
fn a_sequence_without_room_for_its_state_has_to_wait() {
    let mut cache = cache_with_states(8);
    let open = |cache: &mut KvCache, seed: u32| {
        let mut sequence = cache.open(&prompt(40, seed));
        cache.reserve(&mut sequence, 40).map(|()| sequence)
    };
    let first = open(&mut cache, 1).unwrap();
    let second = open(&mut cache, 2).unwrap();
    let error = open(&mut cache, 3).unwrap_err();
    assert!(matches!(error, EngineError::CacheFull { .. }), "{error}");
    cache.close(first);
    let third = open(&mut cache, 3).unwrap();
    cache.close(second);
    cache.close(third);
}

#[test]
fn thousands_of_random_requests_neither_leak_nor_mix_up_rows() {
    check_random_requests(cache(24));
    check_random_requests(cache_with_states(24));
    check_random_requests(cache_with_states(24 * BLOCKS_PER_STATE));
}

#[track_caller]
fn check_random_requests(mut cache: KvCache) {
    let (n_blocks, n_states) = (cache.n_blocks(), cache.states.n_free());
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
            // Of two states, not all sequences that run can have one.
            match cache.reserve(&mut sequence, rest.len()) {
                Ok(()) => {
                    run(&mut cache, &mut sequence, &rest);
                    running.push(sequence);
                }
                Err(_) => cache.close(sequence),
            }
        } else if !running.is_empty() {
            let mut sequence = running.swap_remove(next(running.len() as u32) as usize);
            assert_rows(&cache, &sequence);
            match next(3) {
                0 => cache.close(sequence),
                1 => {
                    let len = next(sequence.len() as u32 + 1) as usize;
                    cache.truncate(&mut sequence, len);
                    assert!(sequence.len() <= len);
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
    assert_eq!(cache.n_free_blocks() + cache.tree.n_unreferenced(), n_blocks);
    let kept = std::iter::from_fn(|| cache.tree.evict_least_recent_state());
    assert_eq!(kept.count() + cache.states.n_free(), n_states);
}
