//! Reading memory and nothing else: what decoding can at best be as fast as.

use super::Isa;

/// Sum of some words, wrapping, with as many loads in flight as the kernels have.
pub fn sum_words(isa: Isa, words: &[[u8; 8]]) -> u64 {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the kind is only made where the instructions were detected.
        super::Kind::Avx2(super::Integers::Avx512Vnni) => unsafe { sum_words_avx512(words) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        super::Kind::Avx2(_) => unsafe { sum_words_avx2(words) },
        _ => sum_words_generic(words),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn sum_words_avx512(words: &[[u8; 8]]) -> u64 {
    sum_words_generic(words)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_words_avx2(words: &[[u8; 8]]) -> u64 {
    sum_words_generic(words)
}

#[inline(always)]
fn sum_words_generic(words: &[[u8; 8]]) -> u64 {
    let (chunks, rest) = words.as_chunks::<64>();
    let mut sums = [0u64; 64];
    for words in chunks {
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    let rest = rest.iter().map(|word| u64::from_ne_bytes(*word));
    sums.into_iter().chain(rest).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        for isa in Isa::all() {
            let words: Vec<[u8; 8]> = (0..200u64).map(u64::to_ne_bytes).collect();
            assert_eq!(sum_words(isa, &words), 199 * 200 / 2);
        }
    }
}
