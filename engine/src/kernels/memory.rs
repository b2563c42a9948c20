//! Reading memory and nothing else: what decoding can at best be as fast as.

use super::Isa;

/// Sum of the whole words of some memory, wrapping, with as many loads in flight as the kernels have.
pub fn sum_words(isa: Isa, memory: &[u8]) -> u64 {
    // SAFETY: all bytes are a number.
    let (_, words, _) = unsafe { memory.align_to::<u64>() };
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
fn sum_words_avx512(words: &[u64]) -> u64 {
    sum_words_generic(words)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_words_avx2(words: &[u64]) -> u64 {
    sum_words_generic(words)
}

#[inline(always)]
fn sum_words_generic(words: &[u64]) -> u64 {
    let (chunks, rest) = words.as_chunks::<64>();
    let mut sums = [0u64; 64];
    for words in chunks {
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter()
        .chain(rest)
        .fold(0, |sum, word| sum.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        for isa in Isa::all() {
            for n_words in [0, 1, 64, 200] {
                let memory = vec![1; 8 * (n_words + 1)];
                let start = memory.as_ptr().align_offset(8);
                let words = &memory[start..start + 8 * n_words];
                let expected = u64::from_ne_bytes([1; 8]).wrapping_mul(n_words as u64);
                assert_eq!(sum_words(isa, words), expected, "{}", isa.name());
            }
        }
    }
}
