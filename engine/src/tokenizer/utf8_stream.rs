//! Text from bytes that arrive in pieces.

/// Turns bytes into text as they come: only whole characters leave it, invalid bytes become U+FFFD.
///
/// All that was pushed and finished equals [`String::from_utf8_lossy`] of all the bytes.
#[derive(Debug, Clone, Default)]
pub struct Utf8Stream {
    /// The beginning of a character, at most three bytes.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Appends to `out` the characters that `bytes` completes.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.pending.extend_from_slice(bytes);
        let mut rest: &[u8] = &self.pending;
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    rest = &[];
                    break;
                }
                Err(err) => {
                    let (valid, tail) = rest.split_at(err.valid_up_to());
                    // Cannot fail; a replacement character would be the worst of it.
                    out.push_str(&String::from_utf8_lossy(valid));
                    rest = tail;
                    let Some(n_invalid) = err.error_len() else { break };
                    out.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[n_invalid..];
                }
            }
        }
        let n_used = self.pending.len() - rest.len();
        self.pending.drain(..n_used);
    }

    /// Ends the text: an incomplete character becomes U+FFFD. The stream can be used again.
    pub fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(pieces: &[&[u8]]) -> String {
        let (mut stream, mut out) = (Utf8Stream::default(), String::new());
        for piece in pieces {
            stream.push(piece, &mut out);
        }
        stream.finish(&mut out);
        out
    }

    #[test]
    fn characters_come_out_whole() {
        let (mut stream, mut out) = (Utf8Stream::default(), String::new());
        for (byte, expected) in "é𝄞x".bytes().zip(["", "é", "é", "é", "é", "é𝄞", "é𝄞x"]) {
            stream.push(&[byte], &mut out);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn equals_lossy_conversion_wherever_it_is_cut() {
        let samples: [&[u8]; 7] = [
            b"plain",
            "héllo 🚀 한글".as_bytes(),
            b"\xff\xfe\x80",
            b"\xed\xa0\x80 a lone surrogate",
            b"\xf0\x9f\x9a",
            b"\xf0\x9f\x9ax\xe2\x82",
            b"\xc0\xafend\xf5",
        ];
        for sample in samples {
            let expected = String::from_utf8_lossy(sample);
            for first in 0..=sample.len() {
                for second in first..=sample.len() {
                    let pieces = [&sample[..first], &sample[first..second], &sample[second..]];
                    assert_eq!(
                        stream(&pieces),
                        expected,
                        "{sample:x?} cut at {first} and {second}"
                    );
                }
            }
        }
    }
}
