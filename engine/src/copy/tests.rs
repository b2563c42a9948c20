//! Copying against a slow reference, and what it never does.

use std::collections::HashMap;

use super::*;
use crate::{
    logits::History,
    request::{FimPrompt, SamplingParams},
    sampler::{PickedToken, Sampler, split_mix},
};

/// A network that knows nothing: the last test's.
const UNSURE: Opinion = Opinion {
    best: 1.0 / 263.0,
    first_vote: 1.0 / 263.0,
};

fn predictor(prompt: &[u32]) -> CopyPredictor {
    CopyPredictor::new(
        Arc::new(Tokenizer::bytes()),
        prompt,
        Some(&FimTemplate::for_tests()),
    )
}

fn hole(prefix: &str, suffix: &str) -> Vec<u32> {
    let prompt = FimPrompt {
        prefix: prefix.into(),
        suffix: suffix.into(),
        ..Default::default()
    };
    FimTemplate::for_tests()
        .layout(&Tokenizer::bytes(), &prompt)
        .unwrap()
}

/// The votes as text, with whole percents.
fn votes(tokens: &[u32]) -> Vec<(char, u32)> {
    let mut predictor = predictor(tokens);
    let votes = predictor.predict(tokens).votes.iter();
    votes
        .map(|&(id, share)| (char::from_u32(id).unwrap(), (share * 100.0).round() as u32))
        .collect()
}

#[test]
fn copies_from_prefix_and_suffix() {
    assert_eq!(votes(&hole("let total = 1;\nlet to", "")), [('t', 100)]);
    assert_eq!(votes(&hole("let to", "\nlet total = 1;")), [('t', 100)]);
    assert_eq!(votes(&hole("let to", "")), []);
    assert_eq!(votes(&hole("", "let to")), []);
}

#[test]
fn longer_and_nearer_matches_weigh_more() {
    let longer = votes(&hole("fn a(self, x) b(elf, y) a(self, ", ""));
    assert_eq!((longer[0].0, longer[1].0), ('x', 'y'));
    let far = format!("{}\nitem.a", "-".repeat(9000));
    let nearer = votes(&hole("item.b\nitem.", &far));
    assert_eq!(nearer[0].0, 'b');
    let equal = votes(&hole("item.a item.b item.b item.", ""));
    assert_eq!(equal[0].0, 'b');
}

fn source(text: &str) -> Arc<CopySource> {
    let tokenizer = Tokenizer::bytes();
    let n_vocab = tokenizer.vocab_size();
    Arc::new(CopySource::new(
        Arc::new(tokenizer),
        n_vocab,
        text.to_owned(),
        Origin::SameFile,
    ))
}

#[test]
fn copies_from_sources_but_rather_from_the_prompt() {
    let votes = |prompt: &[u32], sources: &[&str]| -> Vec<char> {
        let sources = sources.iter().map(|text| source(text)).collect();
        let mut predictor = predictor(prompt).with_sources(sources);
        let votes = predictor.predict(prompt).votes.iter();
        votes.map(|&(id, _)| char::from_u32(id).unwrap()).collect()
    };
    let prompt = hole("let total", "");
    assert_eq!(votes(&prompt, &["let total_width = 1;"]), ['_']);
    // Nearer sources count more, longer matches most.
    assert_eq!(votes(&prompt, &["let total_w", "let total = 1;"]), ['_', ' ']);
    assert_eq!(votes(&prompt, &["an total_w", "let total = 1;"])[0], ' ');
    assert_eq!(
        votes(&hole("let total = 2; let total", ""), &["let total_w"])[0],
        ' '
    );
    // Nothing goes on where a source ends.
    assert_eq!(votes(&prompt, &["let total"]), []);
    assert_eq!(votes(&hole("let total", ""), &["", "le"]), []);
}

#[test]
fn drafts_follow_a_source() {
    let tokenizer = Tokenizer::bytes();
    let prompt = hole("let total", "");
    let source = source("let total_width = 1;");
    let mut draft = Draft::default();
    predictor(&prompt)
        .with_sources(vec![source])
        .draft(&prompt, 32, &mut draft);
    let drafted: Vec<u32> = draft.tokens().collect();
    assert_eq!(tokenizer.decode(&drafted), "_width = 1;");
}

#[test]
fn nothing_crosses_a_border() {
    // The match would need the suffix's end and the prefix's beginning, or be continued by another piece.
    assert_eq!(votes(&hole("cdef abcd", "xxab")), []);
    assert_eq!(votes(&hole("efgh abcd", "  abcd")), []);
    // A generated border starts a new piece.
    let mut tokens = hole("abcdef ab", "");
    tokens.extend([256, 99, 100]);
    assert_eq!(votes(&tokens), []);
}

#[test]
fn indentation_says_nothing() {
    let prompt = hole("if a:\n            b\n            ", "");
    assert_eq!(predictor(&prompt).predict(&prompt).weight(UNSURE), 0.0);
    let mut evidence = Vec::new();
    let text: Vec<u16> = "ab  \n  c".bytes().map(u16::from).collect();
    evidence_by_length(&text, &mut evidence);
    assert_eq!(evidence, [0, 1, 2, 2, 2, 2, 2, 3, 4]);
}

#[test]
fn a_draft_follows_the_best_place() {
    let mut draft = Draft::default();
    let prompt = hole("call(one, two);\ncall(o", "");
    predictor(&prompt).draft(&prompt, 8, &mut draft);
    assert_eq!(
        Tokenizer::bytes().decode(&draft.tokens().collect::<Vec<_>>()),
        "ne, two)"
    );
    let periodic = hole("abcdabcd", "");
    predictor(&periodic).draft(&periodic, 6, &mut draft);
    assert_eq!(
        Tokenizer::bytes().decode(&draft.tokens().collect::<Vec<_>>()),
        "abcdab"
    );
}

/// Random tokens over a small alphabet, so that they repeat; now and then white space or a special token.
fn random_tokens(seed: u64, len: u64) -> Vec<u32> {
    let token = |i: u64| match split_mix(seed << 32 | i) % 120 {
        0 => 256,
        1 => 257,
        2 => 262,
        3..12 => u32::from(b' '),
        12..22 => u32::from(b'\n'),
        other => u32::from(b'a') + (other % 3) as u32,
    };
    (0..len).map(token).collect()
}

/// As [`random_tokens`], with a hole that ends with its line.
fn random_hole(seed: u64, len: u64, prompt_len: usize) -> Vec<u32> {
    let mut tokens = random_tokens(seed, len);
    let (suffix, prefix) = tokens[..prompt_len].split_at_mut(prompt_len / 2);
    for piece in [&mut *suffix, &mut *prefix] {
        piece.iter_mut().for_each(|it| *it = (*it).min(u32::from(b'c')));
    }
    suffix[..2].copy_from_slice(&[258, u32::from(b'\n')]);
    prefix[0] = 257;
    tokens
}

/// Pieces of text, the one that goes on last; only its content decides, not how it was indexed.
fn pieces(tokens: &[u32], prompt_len: usize) -> Vec<Vec<u32>> {
    let is_border = |token: &u32| *token > 255;
    let prompt = &tokens[..prompt_len];
    let prefix = prompt.iter().rposition(|&it| it == 257);
    let start = prefix
        .or(prompt.iter().rposition(is_border))
        .map_or(0, |it| it + 1);
    let end = start
        + prompt[start..]
            .iter()
            .position(is_border)
            .unwrap_or(prompt_len - start);
    let order = [
        &prompt[..start],
        &[256],
        &prompt[end..],
        &[256],
        &prompt[start..end],
        &tokens[prompt_len..],
    ]
    .concat();
    order.split(is_border).map(<[u32]>::to_vec).collect()
}

/// The mixture as its definition reads, over the whole vocabulary, with every place tried.
fn slow_mixture(tokens: &[u32], prompt_len: usize, logits: &[f32]) -> Vec<f64> {
    let total: f64 = logits.iter().map(|&it| f64::from(it).exp()).sum();
    let network: Vec<f64> = logits.iter().map(|&it| f64::from(it).exp() / total).collect();
    let newline = u32::from(b'\n');
    let pieces = pieces(tokens, prompt_len);
    let current = pieces.last().unwrap();
    if current.is_empty() {
        return network;
    }
    let filled: Vec<_> = pieces.iter().filter(|it| !it.is_empty()).collect();
    let mut from_end = 0;
    let mut places = Vec::new();
    for (piece_idx, piece) in filled.iter().enumerate().rev() {
        let is_before = piece_idx + 2 == filled.len();
        // Its border.
        from_end += usize::from(piece_idx + 1 < filled.len());
        for end in 1..piece.len() {
            let match_len = (0..=end.min(current.len()).min(64))
                .rev()
                .find(|&n| piece[end - n..end] == current[current.len() - n..])
                .unwrap();
            if match_len >= 4 {
                let matched = &current[current.len() - match_len..];
                let space = |token: u32| token == u32::from(b' ') || token == newline;
                let uncounted = matched
                    .windows(2)
                    .filter(|it| space(it[0]) && space(it[1]))
                    .count();
                let distance = if is_before {
                    end
                } else {
                    from_end + piece.len() - end
                };
                let is_letter = |token: &u32| u8::try_from(*token).is_ok_and(|it| it.is_ascii_alphabetic());
                let name_of = |text: &[u32]| text.rsplit(|it| !is_letter(it)).next().unwrap().to_vec();
                let name = match (name_of(&piece[..end]), name_of(current)) {
                    (_, name) if name.is_empty() => NameMatch::None,
                    (there, name) if there == name => NameMatch::Whole,
                    _ => NameMatch::End,
                };
                let name = (name, is_letter(&piece[end]), piece[end] == newline);
                places.push((piece[end], match_len - uncounted, distance, name));
            }
        }
        from_end += piece.len();
    }
    let best = places.iter().map(|it| it.1).max().unwrap_or(0);
    places.retain(|it| it.1 + 16 >= best);
    let mut shares: HashMap<u32, f64> = HashMap::new();
    let mut strongest = (0.0, (NameMatch::None, false, false));
    for &(token, evidence, distance, name) in &places {
        let halvings = (best - evidence) as f64 / f64::from(HALVING);
        let vote = 0.5f64.powf(halvings) / (1.0 + distance as f64 / f64::from(NEAR));
        *shares.entry(token).or_default() += vote;
        if vote > strongest.0 {
            strongest = (vote, name);
        }
    }
    let sum: f64 = shares.values().sum();
    let most = shares.values().fold(0.0f64, |most, &it| most.max(it)) / sum;
    let support = match (shares.len(), places.len()) {
        (0, _) => return network,
        (1, 1) => Support::Single,
        (1, _) => Support::Agreed,
        _ if most >= 0.5 => Support::Majority,
        _ => Support::Split,
    };
    let votes = shares.iter().map(|(&id, &share)| (share, std::cmp::Reverse(id)));
    let (_, first) = votes
        .max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
        .expect("a vote");
    let prediction = CopyPrediction {
        evidence: best,
        support,
        name: strongest.1.0,
        name_goes_on: strongest.1.1,
        line_ends: strongest.1.2,
        ..CopyPrediction::default()
    };
    let template = FimTemplate::for_tests();
    let of_prompt = self::pieces(&tokens[..prompt_len], prompt_len);
    let before = of_prompt[..of_prompt.len() - 1].iter().rfind(|it| !it.is_empty());
    let hole_ends_line = before.is_some_and(|it| it[0] == newline);
    let ends = template.stop_tokens().iter().copied().filter(|_| hole_ends_line);
    let end: f64 = ends.clone().map(|it| network[it as usize]).sum();
    let end_for = |token: u32| if token == newline { end } else { 0.0 };
    let weight = f64::from(prediction.weight(Opinion {
        best: network.iter().copied().fold(0.0, f64::max) as f32,
        first_vote: (network[first.0 as usize] + end_for(first.0)) as f32,
    }));
    let mut mixture: Vec<f64> = network.iter().map(|it| (1.0 - weight) * it).collect();
    for (token, share) in shares {
        let part = weight * share / sum / (network[token as usize] + end_for(token));
        let meant = ends.clone().filter(|_| token == newline).chain([token]);
        for id in meant {
            mixture[id as usize] += part * network[id as usize];
        }
    }
    mixture
}

fn random_logits(seed: u64) -> Vec<f32> {
    let score = |i: u64| (split_mix(seed << 20 | i) >> 40) as f32 / (1u64 << 24) as f32 * 8.0;
    (0..263).map(score).collect()
}

#[test]
fn the_mixture_equals_its_definition() {
    let (mut n_mixed, mut n_plain, mut n_ended) = (0, 0, 0);
    for seed in 0..12 {
        let prompt_len = 120;
        let tokens = if seed % 2 == 0 {
            random_tokens(seed, 220)
        } else {
            random_hole(seed, 220, prompt_len)
        };
        let mut mixer = CopyMixer::new(predictor(&tokens[..prompt_len]));
        for len in prompt_len..tokens.len() {
            let (history, logits) = (&tokens[..len], random_logits(seed << 10 | len as u64));
            let log_total = logits.iter().map(|it| it.exp()).sum::<f32>().ln();
            let best = logits.iter().copied().fold(f32::MIN, f32::max);
            let mixed_total = mixer.mix(&logits, best, log_total, history);
            let mut mixed = logits.clone();
            for raised in mixer.raised() {
                mixed[raised.id as usize] = raised.logit;
            }
            if mixer.raised().is_empty() {
                n_plain += 1;
                assert_eq!(mixed_total.to_bits(), log_total.to_bits());
            } else {
                n_mixed += 1;
            }
            n_ended += usize::from(mixer.raised().iter().any(|it| it.id > 255));
            let expected = slow_mixture(history, prompt_len, &logits);
            for (id, (logit, expected)) in mixed.iter().zip(expected).enumerate() {
                let found = f64::from(logit - mixed_total).exp();
                assert!(
                    (found - expected).abs() < 1e-5,
                    "seed {seed}, {len}, token {id}: {found} {expected}"
                );
            }
        }
    }
    assert!(
        n_mixed > 200 && n_plain > 50 && n_ended > 20,
        "{n_mixed} {n_plain} {n_ended}"
    );
}

#[test]
fn thin_evidence_changes_no_bit() {
    let history = hole("nothing of this was said before", "");
    let mut mixing = Sampler::new(&SamplingParams::default()).unwrap();
    mixing.mix_copy(predictor(&history));
    let mut plain = Sampler::new(&SamplingParams::default()).unwrap();
    for seed in 0..20 {
        let pick = |sampler: &mut Sampler| -> PickedToken {
            let history = History {
                tokens: &history,
                prompt_len: history.len(),
            };
            sampler.pick(&random_logits(seed), history).unwrap()
        };
        let (mixed, plain) = (pick(&mut mixing), pick(&mut plain));
        assert_eq!(
            (mixed.id, mixed.logprob.to_bits()),
            (plain.id, plain.logprob.to_bits())
        );
    }
}

/// A line end that is copied may be the end of the hole: which of the two is the network's to say.
#[test]
fn a_copied_line_end_may_end_the_hole() {
    let (newline, end) = (10, FimTemplate::for_tests().stop_tokens()[0]);
    let advise = |suffix: &str| -> (f32, Vec<(u32, f32)>) {
        let prompt = hole("call(a);\ncall(a);", suffix);
        let mut predictor = predictor(&prompt);
        let network = |id| match id {
            _ if id == newline => 0.1,
            _ if id == end => 0.3,
            _ => 0.0,
        };
        let advice = predictor.advise(&prompt, 0.6, network).unwrap();
        (advice.opinion.first_vote, advice.shares.to_vec())
    };
    let (first_vote, shares) = advise("\n}");
    assert!((first_vote - 0.4).abs() < 1e-6);
    assert_eq!([shares[0].0, shares[1].0], [newline, end]);
    assert!((shares[0].1 - 0.25).abs() < 1e-6 && (shares[1].1 - 0.75).abs() < 1e-6);
    assert_eq!(advise(")\n}"), (0.1, vec![(newline, 1.0)]));
}

/// What is sampled follows the mixture, and so does the reported probability.
#[test]
fn picks_and_logprobs_are_those_of_the_mixture() {
    let history = hole("let alpha_beta = alpha_b", "");
    let prediction = predictor(&history).predict(&history).clone();
    assert_eq!(prediction.votes, [(u32::from(b'e'), 1.0)]);
    let mut sampler = Sampler::new(&SamplingParams::default()).unwrap();
    sampler.mix_copy(predictor(&history));
    let prompt_len = history.len();
    let history = History {
        tokens: &history,
        prompt_len,
    };
    let picked = sampler.pick(&[0.0; 263], history).unwrap();
    let weight = prediction.weight(UNSURE);
    let expected = (weight + (1.0 - weight) / 263.0).ln();
    assert_eq!(picked.id, u32::from(b'e'));
    assert!((picked.logprob - expected).abs() < 1e-5);
}
