//! Cutting a text into the pieces within which tokens are merged: the pre-tokenizers, by the name in the file.
//!
//! Each is one or more stages, and each stage a regular expression whose matches, and the gaps between them, are the
//! pieces that the next stage cuts further. The expressions end in `\s+(?!\S)|\s+`, which needs a look ahead: a run of
//! blanks leaves its last one to the word that follows. That rule is applied here after the match, so the expressions
//! stay regular, and no text can make them backtrack. The two families that most models belong to have a quick path
//! for ASCII; the expression is the reference and takes over wherever another character appears.
//!
//! Source of the expressions: the models' own `tokenizer.json`, by way of llama.cpp's `llama-vocab.cpp`.

use tokenizers::utils::SysRegex;

use crate::error::EngineError;

/// A pre-tokenizer.
pub(super) struct Splitter {
    stages: Vec<Stage>,
    /// Whether a piece that is a token as a whole is that token, even if merging would not lead to it.
    pub(super) ignores_merges: bool,
    /// Whether prompts begin with the BOS token if the file does not say.
    pub(super) adds_bos: bool,
}

struct Stage {
    regex: SysRegex,
    blanks: Blanks,
    quick: Option<QuickPath>,
}

/// What becomes of a run of blanks before a word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blanks {
    /// The expression says it all.
    AsMatched,
    /// The last blank goes to the word, also if it is a line break.
    LeaveLast,
    /// The last blank goes to the word, unless the run ends in a line break: that is matched on its own.
    LeaveLastButBreaks,
}

/// A hand-written equivalent of the stage's expression for ASCII.
#[derive(Clone, Copy)]
enum QuickPath {
    /// GPT-2's expression.
    Gpt2,
    /// GPT-4's expression, with this many digits in a piece.
    Gpt4 { max_digits: usize },
    /// Each digit on its own.
    Digits,
}

/// A stage as it is written down: expression, rule for blanks, quick path.
type StageRow = (&'static str, Blanks, Option<QuickPath>);

const GPT2: StageRow = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+",
    Blanks::LeaveLast,
    Some(QuickPath::Gpt2),
);
const QWEN2: StageRow = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    Blanks::LeaveLastButBreaks,
    Some(QuickPath::Gpt4 { max_digits: 1 }),
);
const QWEN35: StageRow = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    Blanks::LeaveLastButBreaks,
    Some(QuickPath::Gpt4 { max_digits: 1 }),
);
const LLAMA3: StageRow = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    Blanks::LeaveLastButBreaks,
    Some(QuickPath::Gpt4 { max_digits: 3 }),
);
const GPT4O: StageRow = (
    concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    ),
    Blanks::LeaveLastButBreaks,
    None,
);
/// As GPT-4o's, with runs of Chinese characters on their own.
const KIMI: StageRow = (
    concat!(
        r"[\p{Han}]+|",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    ),
    Blanks::LeaveLastButBreaks,
    None,
);
/// As Qwen's, but line breaks do not belong to the signs before them.
const SEED_CODER: StageRow = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+",
    Blanks::LeaveLastButBreaks,
    None,
);
const TEKKEN: StageRow = (
    concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
        r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    ),
    Blanks::LeaveLastButBreaks,
    None,
);
const DEEPSEEK3: StageRow = (
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"##,
        r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+",
    ),
    Blanks::LeaveLastButBreaks,
    None,
);
/// Letters with case, as of Unicode 11, without modern Georgian.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}",
    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}",
    r"\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}",
    r"\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}",
    r"\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}",
    r"\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}",
    r"\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}",
    r"\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}",
    r"\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}",
    r"\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}",
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}",
    r"\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}",
    r"\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}",
    r"\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+",
);

const fn plain(regex: &'static str) -> StageRow {
    (regex, Blanks::AsMatched, None)
}

const DIGITS: StageRow = (r"\p{N}", Blanks::AsMatched, Some(QuickPath::Digits));

/// Pre-tokenizers: the names in the file, the stages, whether merges are ignored for whole tokens, whether BOS is added.
const TABLE: &[(&[&str], &[StageRow], bool, bool)] = &[
    (
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
            "kormo",
            "f2llmv2",
        ],
        &[QWEN2],
        false,
        false,
    ),
    (&["qwen35"], &[QWEN35], false, false),
    (
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "lfm2",
            "midm-2.0",
        ],
        &[LLAMA3],
        true,
        true,
    ),
    (
        &["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"],
        &[LLAMA3],
        false,
        false,
    ),
    (
        &[
            "gpt-2",
            "mpt",
            "phi-2",
            "olmo",
            "jais",
            "mellum",
            "exaone4",
            "gigachat",
            "trillion",
            "granite-docling",
            "a.x-4.0",
        ],
        &[GPT2],
        false,
        false,
    ),
    (
        &[
            "starcoder",
            "refact",
            "command-r",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        &[DIGITS, GPT2],
        false,
        false,
    ),
    (
        &["falcon"],
        &[plain(r"[\p{P}\$\+<=>\^~\|`]+"), GPT2, plain("[0-9][0-9][0-9]")],
        false,
        false,
    ),
    (
        &["deepseek-coder"],
        &[
            plain(r"[\r\n]"),
            plain(r"\s?\p{L}+"),
            plain(r"\s?\p{P}+"),
            plain("[一-龥ࠀ-一가-퟿]+"),
            DIGITS,
        ],
        false,
        false,
    ),
    (
        &["deepseek-llm"],
        &[
            plain(r"[\r\n]"),
            plain(DEEPSEEK_LETTERS),
            plain(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            plain(r"\s+$"),
            plain("[一-龥ࠀ-一가-퟿]+"),
            DIGITS,
        ],
        false,
        false,
    ),
    (
        &["deepseek-v3", "hunyuan-dense"],
        &[plain(r"\p{N}{1,3}"), plain("[一-龥぀-ゟ゠-ヿ]+"), DEEPSEEK3],
        false,
        false,
    ),
    (
        &["gpt-4o", "llama4", "kanana2", "minimax-m2"],
        &[GPT4O],
        false,
        false,
    ),
    (&["kimi-k2"], &[KIMI], false, false),
    (&["seed-coder"], &[SEED_CODER], false, false),
    (&["tekken"], &[TEKKEN], true, true),
];

/// Gemma 4 merges over whole lines.
const LINES: StageRow = plain(r"[^\n]+|\n+");

impl Splitter {
    /// The pre-tokenizer with this name in `tokenizer.ggml.pre`.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] with all known names.
    pub(super) fn by_name(name: &str) -> Result<Self, EngineError> {
        let row = TABLE
            .iter()
            .find(|(names, ..)| names.contains(&name))
            .ok_or_else(|| EngineError::Unsupported {
                what: "pre-tokenizer",
                found: name.to_owned(),
                known: TABLE
                    .iter()
                    .flat_map(|(names, ..)| *names)
                    .copied()
                    .collect::<Vec<_>>()
                    .join(", "),
            })?;
        let &(_, stages, ignores_merges, adds_bos) = row;
        Ok(Self::new(stages, ignores_merges, adds_bos))
    }

    /// Pieces are lines, and runs of line breaks.
    pub(super) fn lines() -> Self {
        Self::new(&[LINES], false, true)
    }

    /// The whole text is one piece.
    pub(super) fn none() -> Self {
        Self::new(&[], false, false)
    }

    /// A pre-tokenizer from the expressions of a `tokenizer.json`, as they are published.
    ///
    /// # Errors
    /// A sentence about the expression that cannot be used.
    pub(super) fn from_published(patterns: &[String], ignores_merges: bool) -> Result<Self, String> {
        let stages = patterns.iter().map(|pattern| Stage::from_published(pattern));
        Ok(Self {
            stages: stages.collect::<Result<_, _>>()?,
            ignores_merges,
            adds_bos: false,
        })
    }

    fn new(stages: &[StageRow], ignores_merges: bool, adds_bos: bool) -> Self {
        let stages = stages.iter().map(|&(regex, blanks, quick)| Stage {
            regex: SysRegex::new(regex).expect("the table's expressions are valid"),
            blanks,
            quick,
        });
        Self {
            stages: stages.collect(),
            ignores_merges,
            adds_bos,
        }
    }

    /// Calls `emit` with each piece of `text` in order; together they are the text.
    pub(super) fn split<'t>(&self, text: &'t str, emit: &mut impl FnMut(&'t str)) {
        Self::run(&self.stages, text, emit);
    }

    fn run<'t>(stages: &[Stage], text: &'t str, emit: &mut impl FnMut(&'t str)) {
        let Some((stage, rest)) = stages.split_first() else {
            if !text.is_empty() {
                emit(text);
            }
            return;
        };
        let mut position = 0;
        while position < text.len() {
            let end = position + stage.next_piece(&text[position..]);
            Self::run(rest, &text[position..end], emit);
            position = end;
        }
    }
}

/// GPT-2's expression as published, which `tokenizer.json` files mean by `ByteLevel`.
pub(super) fn published_gpt2() -> String {
    GPT2.0.replace(r"|\s+", r"|\s+(?!\S)|\s+")
}

impl Stage {
    /// The look ahead at the end becomes a rule for blanks, and a quick path is taken where there is one.
    fn from_published(pattern: &str) -> Result<Self, String> {
        let regular = pattern.replace(r"|\s+(?!\S)|\s+", r"|\s+");
        let blanks = match (regular == pattern, pattern.contains(r"\s*[\r\n]+")) {
            (true, _) => Blanks::AsMatched,
            (false, false) => Blanks::LeaveLast,
            (false, true) => Blanks::LeaveLastButBreaks,
        };
        let known = TABLE.iter().flat_map(|(_, stages, ..)| *stages);
        let same = known.into_iter().find(|row| row.0 == regular && row.1 == blanks);
        Ok(Self {
            regex: SysRegex::new(&regular).map_err(|err| format!("`{pattern}`: {err}"))?,
            blanks,
            quick: same.and_then(|row| row.2),
        })
    }

    /// Bytes of the first piece of `text`, a match or the gap before the next one. `text` is not empty; what was
    /// before it does not matter to any of the expressions.
    fn next_piece(&self, text: &str) -> usize {
        let quick = self.quick.and_then(|path| path.next_piece(text.as_bytes()));
        quick.unwrap_or_else(|| self.next_piece_by_regex(text))
    }

    fn next_piece_by_regex(&self, text: &str) -> usize {
        match self.regex.find_iter(text).next() {
            None => text.len(),
            Some((0, end)) => self.leave_last_blank(text, end),
            Some((start, _)) => start,
        }
    }

    /// `\s+(?!\S)` for a match of `\s+`.
    fn leave_last_blank(&self, text: &str, end: usize) -> usize {
        let run = &text[..end];
        if self.blanks == Blanks::AsMatched || end == text.len() || !run.chars().all(char::is_whitespace) {
            return end;
        }
        if self.blanks == Blanks::LeaveLastButBreaks && run.ends_with(['\r', '\n']) {
            return end;
        }
        let last_bytes = run.chars().next_back().map_or(0, char::len_utf8);
        if last_bytes < end { end - last_bytes } else { end }
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn is_other(byte: u8) -> bool {
    byte.is_ascii() && !byte.is_ascii_alphanumeric() && !is_blank(byte)
}

/// Index of the first byte from `start` on that does not fulfil `condition`.
fn run_end(text: &[u8], start: usize, condition: impl Fn(u8) -> bool) -> usize {
    text[start..]
        .iter()
        .position(|&byte| !condition(byte))
        .map_or(text.len(), |n_bytes| start + n_bytes)
}

impl QuickPath {
    /// Bytes of the first piece, if only ASCII decides about it.
    fn next_piece(self, text: &[u8]) -> Option<usize> {
        let end = match self {
            Self::Gpt2 => gpt2_piece(text)?,
            Self::Gpt4 { max_digits } => gpt4_piece(text, max_digits)?,
            Self::Digits if text[0].is_ascii_digit() => 1,
            Self::Digits => run_end(text, 0, |byte| byte.is_ascii() && !byte.is_ascii_digit()),
        };
        // The character after the piece might have belonged to it.
        text.get(end).is_none_or(u8::is_ascii).then_some(end)
    }
}

/// Bytes of `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` or `'d` at the start.
fn contraction(text: &[u8], any_case: bool) -> Option<usize> {
    let lower = |byte: u8| if any_case { byte.to_ascii_lowercase() } else { byte };
    match (
        text.get(1).map(|&byte| lower(byte))?,
        text.get(2).map(|&byte| lower(byte)),
    ) {
        (b's' | b't' | b'm' | b'd', _) => Some(2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(3),
        _ => None,
    }
}

fn gpt2_piece(text: &[u8]) -> Option<usize> {
    if text[0] == b'\''
        && let Some(end) = contraction(text, false)
    {
        return Some(end);
    }
    let start = usize::from(text[0] == b' ');
    match text.get(start) {
        Some(byte) if !byte.is_ascii() => None,
        Some(byte) if byte.is_ascii_alphabetic() => {
            Some(run_end(text, start, |byte| byte.is_ascii_alphabetic()))
        }
        Some(byte) if byte.is_ascii_digit() => Some(run_end(text, start, |byte| byte.is_ascii_digit())),
        Some(&byte) if is_other(byte) => Some(run_end(text, start, is_other)),
        _ => leave_last(text, run_end(text, 0, is_blank)),
    }
}

fn gpt4_piece(text: &[u8], max_digits: usize) -> Option<usize> {
    let first = text[0];
    if !first.is_ascii() {
        return None;
    }
    if first == b'\'' {
        // Ignoring case, the long s and the Kelvin sign are letters of contractions, too.
        if text.iter().take(3).any(|byte| !byte.is_ascii()) {
            return None;
        }
        if let Some(end) = contraction(text, true) {
            return Some(end);
        }
    }
    if first.is_ascii_alphabetic() {
        return Some(run_end(text, 0, |byte| byte.is_ascii_alphabetic()));
    }
    if first.is_ascii_digit() {
        return Some(run_end(&text[..text.len().min(max_digits)], 0, |byte| {
            byte.is_ascii_digit()
        }));
    }
    let second = text.get(1).copied().unwrap_or(b' ');
    if !second.is_ascii() {
        return None;
    }
    if second.is_ascii_alphabetic() && !matches!(first, b'\r' | b'\n') {
        return Some(run_end(text, 1, |byte| byte.is_ascii_alphabetic()));
    }
    if is_other(first) || (first == b' ' && is_other(second)) {
        let end = run_end(text, 1, is_other);
        return Some(run_end(text, end, |byte| matches!(byte, b'\r' | b'\n')));
    }
    let end = run_end(text, 0, is_blank);
    let after_run = leave_last(text, end)?;
    match text[..end].iter().rposition(|byte| matches!(byte, b'\r' | b'\n')) {
        Some(last_break) => Some(last_break + 1),
        None => Some(after_run),
    }
}

/// The end of a run of blanks that leaves its last one to what follows, if that is ASCII.
fn leave_last(text: &[u8], end: usize) -> Option<usize> {
    match text.get(end) {
        None => Some(end),
        Some(byte) if byte.is_ascii() => Some(if end > 1 { end - 1 } else { end }),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Random, *};

    /// Characters that take part in some rule: letters, digits, blanks, marks and signs, ASCII and other.
    const CHARACTERS: [&str; 40] = [
        "a", "s", "T", "re", "LL", "v", "'", "'", "0", "7", "12", " ", " ", "  ", "\t", "\n", "\r\n",
        "\u{b}", ".", "(", "_", "{}", "/", "$", "+", "é", "Σ", "ſ", "漢", "한", "٣", "½", "\u{301}",
        "\u{a0}", "\u{3000}", "\u{85}", "。", "🚀", "\0", "\u{200d}",
    ];

    fn random_text(random: &mut Random, characters: &[&'static str]) -> String {
        let n_parts = random.below(24);
        (0..n_parts).map(|_| random.pick(characters)).collect()
    }

    fn pieces<'t>(splitter: &Splitter, text: &'t str) -> Vec<&'t str> {
        let mut pieces = Vec::new();
        splitter.split(text, &mut |piece| pieces.push(piece));
        pieces
    }

    /// What the crate makes of the expression as it is published, with its look ahead; gaps are pieces, too.
    fn reference_pieces<'t>(regex: &SysRegex, text: &'t str) -> Vec<&'t str> {
        let (mut pieces, mut position) = (Vec::new(), 0);
        for (start, end) in regex.find_iter(text) {
            pieces.extend([&text[position..start], &text[start..end]]);
            position = end;
        }
        pieces.push(&text[position..]);
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }

    #[test]
    fn every_stage_equals_its_published_expression() {
        let mut random = Random::new(7);
        let stages = TABLE.iter().flat_map(|(_, stages, ..)| *stages).chain([&LINES]);
        for row @ (regex, blanks, _) in stages {
            let published = match blanks {
                Blanks::AsMatched => (*regex).to_owned(),
                _ => regex.replace(r"|\s+", r"|\s+(?!\S)|\s+"),
            };
            let reference = SysRegex::new(&published).unwrap();
            let splitter = Splitter::new(std::slice::from_ref(row), false, false);
            let without_quick_path = Splitter::new(&[(regex, *blanks, None)], false, false);
            for round in 0..3000 {
                // Half of the texts are ASCII, where the quick paths work.
                let characters = if round % 2 == 0 {
                    &CHARACTERS[..]
                } else {
                    &CHARACTERS[..25]
                };
                let text = random_text(&mut random, characters);
                let expected = reference_pieces(&reference, &text);
                assert_eq!(
                    pieces(&without_quick_path, &text),
                    expected,
                    "{published} on {text:?}"
                );
                assert_eq!(
                    pieces(&splitter, &text),
                    expected,
                    "quick path of {published} on {text:?}"
                );
            }
        }
    }

    #[test]
    fn long_runs_are_cut_in_time() {
        for (names, ..) in TABLE {
            let splitter = Splitter::by_name(names[0]).unwrap();
            for unit in ["a", " ", "\n", "1", "(", "é", "\u{3000}", "A", " a", "\t\n", "'"] {
                let text = unit.repeat(1_000_000 / unit.len()) + "x";
                let started = std::time::Instant::now();
                let mut n_bytes = 0;
                splitter.split(&text, &mut |piece| n_bytes += piece.len());
                assert_eq!(n_bytes, text.len());
                assert!(
                    started.elapsed().as_secs() < 30,
                    "{} on {unit:?}: {:?}",
                    names[0],
                    started.elapsed()
                );
            }
        }
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        let error = Splitter::by_name("future-bpe").err().unwrap().to_string();
        assert!(
            error.contains("future-bpe") && error.contains("qwen2, ") && error.contains("tekken"),
            "{error}"
        );
    }
}
