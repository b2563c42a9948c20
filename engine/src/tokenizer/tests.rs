//! The tokenizer's parts against the `tokenizers` crate, and against texts that mean harm.

use tokenizers::{Model, models::bpe::BPE};

use super::*;

/// Pseudo-random numbers, the same in every run (Marsaglia's xorshift).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % bound
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Tokens and merges made by joining random tokens: left, right and result of each merge, in order of rank.
struct RandomBpe {
    tokens: Vec<String>,
    merges: Vec<(u32, u32, u32)>,
}

fn random_bpe(random: &mut Random, alphabet: &str, n_merges: usize) -> RandomBpe {
    let mut tokens: Vec<String> = alphabet.chars().map(String::from).collect();
    let mut merges = Vec::new();
    while merges.len() < n_merges {
        let (left, right) = (random.below(tokens.len()), random.below(tokens.len()));
        let joined = format!("{}{}", tokens[left], tokens[right]);
        if joined.len() <= 8 && !tokens.contains(&joined) {
            merges.push((left as u32, right as u32, tokens.len() as u32));
            tokens.push(joined);
        }
    }
    RandomBpe { tokens, merges }
}

/// A tokenizer of single bytes that spell themselves, followed by no special tokens.
fn tokenizer_of(bpe: &RandomBpe) -> Tokenizer {
    let mut vocabulary = Vocabulary::with_capacity(bpe.tokens.len(), 0);
    for token in &bpe.tokens {
        vocabulary.push(TokenKind::Normal, |out| out.extend(token.bytes()));
    }
    let mut merges = MergeTable::with_capacity(bpe.merges.len());
    for (rank, &(left, right, id)) in bpe.merges.iter().enumerate() {
        merges.insert(left, right, rank as u32, id);
    }
    Tokenizer::new(
        vocabulary,
        Vec::new(),
        Algorithm::ByteLevel {
            splitter: Splitter::none(),
            merges,
        },
    )
}

#[test]
fn merges_as_the_reference_does() {
    let mut random = Random::new(1);
    for _ in 0..40 {
        let bpe = random_bpe(&mut random, "abcd", 60);
        let vocabulary: tokenizers::models::bpe::Vocab = bpe.tokens.iter().cloned().zip(0..).collect();
        let token = |id: u32| bpe.tokens[id as usize].clone();
        let merges = bpe
            .merges
            .iter()
            .map(|&(left, right, _)| (token(left), token(right)))
            .collect();
        let reference = BPE::new(vocabulary, merges);
        let tokenizer = tokenizer_of(&bpe);
        for _ in 0..100 {
            let n_bytes = random.below(40);
            let text: String = (0..n_bytes).map(|_| random.pick(&['a', 'b', 'c', 'd'])).collect();
            let expected: Vec<u32> = reference
                .tokenize(&text)
                .unwrap()
                .into_iter()
                .map(|token| token.id)
                .collect();
            assert_eq!(tokenizer.encode(&text, false).unwrap(), expected, "{text}");
            // The second time some pieces are known to be whole.
            assert_eq!(tokenizer.encode(&text, false).unwrap(), expected, "{text}");
        }
    }
}

#[test]
fn a_long_run_of_one_character_is_merged_in_time() {
    let tokens = ["a", "aa", "aaaa", "aaaaaaaa"].map(str::to_owned).to_vec();
    let tokenizer = tokenizer_of(&RandomBpe {
        tokens,
        merges: vec![(0, 0, 1), (1, 1, 2), (2, 2, 3)],
    });
    let started = std::time::Instant::now();
    let tokens = tokenizer.encode(&"a".repeat(1_000_003), false).unwrap();
    assert_eq!(
        (tokens.len(), tokens[0], tokens[tokens.len() - 1]),
        (125_002, 3, 0)
    );
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn bytes_are_tokens() {
    let tokenizer = Tokenizer::bytes();
    let text = "héllo\0 🚀";
    let tokens = tokenizer.encode(text, false).unwrap();
    assert_eq!(tokens, text.bytes().map(u32::from).collect::<Vec<_>>());
    assert_eq!(tokenizer.decode(&tokens), text);
    assert_eq!(
        (tokenizer.vocab_size(), tokenizer.bos(), tokenizer.end_tokens()),
        (263, None, &[256][..])
    );
    assert!(tokenizer.encode("", true).unwrap().is_empty());
}

#[test]
fn special_tokens_come_from_trusted_text_only() {
    let tokenizer = Tokenizer::bytes();
    let text = "<|fim_prefix|>a<|fim_suffix|>";
    assert_eq!(tokenizer.encode(text, true).unwrap(), [257, 97, 258]);
    let tokens = tokenizer.encode(text, false).unwrap();
    assert!(tokens.iter().all(|&id| !tokenizer.is_control(id)));
    assert_eq!(tokenizer.decode(&tokens), text);
    assert_eq!(tokenizer.decode(&[257, 97, 258, 98, 99_999]), "ab");
    assert_eq!(tokenizer.token_bytes(257), b"");
    assert_eq!(
        (
            tokenizer.token_id("<|fim_middle|>"),
            tokenizer.token_id("a"),
            tokenizer.token_id("ab")
        ),
        (Some(259), Some(97), None)
    );
    assert!(tokenizer.is_control(262) && !tokenizer.is_control(97) && !tokenizer.is_control(u32::MAX));
}

#[test]
fn invalid_bytes_decode_to_replacement_characters() {
    let tokenizer = Tokenizer::bytes();
    assert_eq!(
        tokenizer.decode(&[0xed, 0xa0, 0x80, 0x61, 0xff, 0xf0, 0x9f]),
        "���a��"
    );
}

#[test]
fn scores_become_ranks() {
    assert_eq!(rank_scores(&[-1.0, 0.0, f32::NAN, -1.0, -7.5]), [1, 0, 3, 1, 2]);
}

#[test]
fn a_tokenizer_can_be_shared() {
    fn check<T: Send + Sync>() {}
    check::<Tokenizer>();
}
