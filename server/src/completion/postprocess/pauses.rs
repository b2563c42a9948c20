//! Places at which a reader would pause: half a suggestion is worth accepting if it ends at one of them.

/// Fewest characters of a line that are worth showing, unasked, without the rest.
pub(super) const LEAST_CHARS: usize = 10;

/// Bytes before the end of `text` that end a line, then those in its first line that end a word after at least
/// `least_chars` characters with no bracket left open; the last comes first.
pub(super) fn latest_first(text: &str, least_chars: usize) -> impl Iterator<Item = usize> {
    let lines = text.match_indices('\n').rev().map(|(end, _)| end);
    let words = text
        .lines()
        .next()
        .into_iter()
        .flat_map(move |line| ends_of_words(line, least_chars))
        .rev();
    lines
        .chain(words)
        .filter(move |end| *end < text.len() && text[..*end].ends_with(|c: char| !c.is_whitespace()))
}

/// Bytes of a line at which a word ends, far enough from its beginning and outside all brackets and quotes that it opens.
fn ends_of_words(line: &str, least_chars: usize) -> Vec<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut n_open, mut in_quotes) = (0i32, None);
    let mut ends = Vec::new();
    let mut chars = line.char_indices().enumerate().peekable();
    while let Some((n_before, (at, c))) = chars.next() {
        match (c, in_quotes) {
            ('(' | '[' | '{', None) => n_open += 1,
            (')' | ']' | '}', None) => n_open -= 1,
            ('"' | '\'' | '`', None) => in_quotes = Some(c),
            (c, Some(quote)) if c == quote => in_quotes = None,
            _ => {}
        }
        let is_end =
            (is_word(c) || c == ')' || c == ']') && chars.peek().is_none_or(|(_, (_, next))| !is_word(*next));
        if is_end && n_open <= 0 && in_quotes.is_none() && n_before + 1 >= least_chars {
            ends.push(at + c.len_utf8());
        }
    }
    ends
}
