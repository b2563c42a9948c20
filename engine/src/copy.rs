//! Copying: what followed earlier places that read like the end of the sequence, mixed with what the network says.
//!
//! `mixture = (1 - w) * network + w * copy`, token by token, before temperature and filters. `copy` is a vote of the
//! earlier places, `w` says how often such votes were right where the network thought so (`copy/reliability.rs`). The mixture is the target: drafts are
//! verified against it, and it is what logprobs report.
//!
//! Where a hole ends with its line, a line end that is copied may mean the end of the hole, for which networks have a token
//! of their own. Copying cannot tell the two apart, so the network does: the vote is shared out as it sees them.
//!
//! Sources: Kuhn and De Mori 1990, "A Cache-Based Natural Language Model for Speech Recognition" (mixing with a cache);
//! Tu, Su and Devanbu 2014, "On the Localness of Software" (that code rewards it; weight by the length of the match);
//! Khandelwal et al. 2020, "Generalization through Memorization" (votes weighted by nearness, over a network).
//! We differ in matching bytes, not tokens: a cursor splits tokens, and the same name is cut in many ways.

mod passage;
mod reliability;

use std::{fmt, sync::Arc};

use crate::{
    fim::FimTemplate,
    kernels::float::exp,
    logits::Candidate,
    speculative::drafter::{Draft, Drafter, DrafterKind, Evidence},
    suffix_index::common_suffix,
    tokenizer::Tokenizer,
};
pub use passage::CopySource;
use passage::Passage;
pub use reliability::{FEATURES, MAX_CLASSES, Opinion};

/// Fewest bytes that have to agree.
const MIN_MATCH: usize = 4;
/// Matches are compared up to this many bytes; longer ones count as equal.
const MAX_MATCH: usize = 64;
/// Places in one text that one prediction looks at, most recent first.
const MAX_PROBES: usize = 512;
/// Bytes by which each further source counts as farther from the cursor than the text before it.
const SOURCE_DISTANCE: usize = 4000;
/// By how much evidence a match may be weaker than the best and still vote.
const MAX_GAP: usize = 16;
/// So much less evidence halves a vote.
const HALVING: f32 = 2.0;
/// Bytes from the cursor at which a place has half the vote of one beside it.
const NEAR: f32 = 2000.0;
/// What stands between two pieces of text. It is no byte, and the text to be continued has none, so it matches nothing.
const BORDER: u16 = 256;

/// How the earlier places agree on what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Support {
    /// There is only one.
    #[default]
    Single,
    /// Several, and all say the same.
    Agreed,
    /// One token has at least half of the vote.
    Majority,
    /// None has.
    Split,
}

/// Where something is copied from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Origin {
    /// The sequence itself, which the network has seen.
    #[default]
    Prompt,
    /// What the prompt leaves out of the same file.
    SameFile,
    /// Another file, or what is no longer in any.
    Elsewhere,
}

/// How the best place agrees with the name that the text ends with: letters, digits and underscores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NameMatch {
    /// The text does not end with a name.
    #[default]
    None,
    /// Only the end of it is there.
    End,
    /// It is there from its beginning.
    Whole,
}

/// What copying says about the next token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CopyPrediction {
    /// Tokens and their shares of the vote, which add up to 1; the largest first, among equals the lowest id.
    pub votes: Vec<(u32, f32)>,
    /// Bytes in which the best place agrees, each run of white space counted once; 0 without votes.
    pub evidence: usize,
    /// How the places agree.
    pub support: Support,
    /// Where the best place is.
    pub origin: Origin,
    /// How the best place agrees with the name under way.
    pub name: NameMatch,
    /// Whether the best place goes on with more of a name.
    pub name_goes_on: bool,
    /// Whether it goes on with a line end.
    pub line_ends: bool,
}

/// What copying says beside a network: of the tokens that may follow, and with line ends that mean the end of the hole.
#[derive(Debug, Clone, Copy)]
pub struct Advice<'a> {
    /// Before the network was asked.
    pub prediction: &'a CopyPrediction,
    /// What the network says of it.
    pub opinion: Opinion,
    /// Tokens and their shares, which add up to 1. Each token is there once.
    pub shares: &'a [(u32, f32)],
}

impl Advice<'_> {
    /// Weight of copying in the mixture, from 0 to less than 1.
    pub fn weight(&self) -> f32 {
        self.prediction.weight(self.opinion)
    }
}

/// Predicts the next token of one sequence from the sequence itself: its prompt, context and suffix included, and what
/// was generated; and from sources beside it.
///
/// Special tokens cut the sequence into pieces of text. Nothing is matched or copied across their borders. In a prompt
/// that describes a hole, the piece that goes on is the prefix, wherever the template puts it.
#[derive(Clone)]
pub struct CopyPredictor {
    tokenizer: Arc<Tokenizer>,
    /// Tokens that are borders although they have bytes. Sorted. A network ends a hole with one of them.
    borders: Vec<u32>,
    /// Whether there is a hole whose end is the end of a line.
    hole_ends_line: bool,
    /// All pieces of the sequence. The piece that goes on is the last, a hole's suffix the one before.
    own: Passage,
    /// Texts beside it, the nearest first.
    sources: Vec<Arc<CopySource>>,
    /// Where the last piece begins, and the one before.
    current_start: usize,
    before_start: usize,
    /// Tokens of the sequence that were read.
    n_read: usize,
    prediction: CopyPrediction,
    /// Where the best place goes on.
    best: Place,
    // Kept between calls for their memory: places with their evidence, the evidence of each match length, and the shares
    // of an advice.
    matches: Vec<(Place, usize)>,
    evidence: Vec<usize>,
    shares: Vec<(u32, f32)>,
}

/// A place that something may be copied from.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Which source; `None` for the sequence itself.
    source: Option<usize>,
    /// Symbol that goes on there.
    at: usize,
}

impl CopyPredictor {
    /// Reads a prompt. With `fim`, the text after its last prefix token and what the middle begins with is what goes on; else the
    /// text at the end.
    pub fn new(tokenizer: Arc<Tokenizer>, prompt: &[u32], fim: Option<&FimTemplate>) -> Self {
        let prompt = &fim.map_or_else(|| prompt.to_vec(), |it| it.in_reading_order(prompt));
        let mut predictor = Self {
            tokenizer,
            borders: fim.map_or_else(Vec::new, |it| it.stop_tokens().to_vec()),
            hole_ends_line: false,
            own: Passage::default(),
            sources: Vec::new(),
            current_start: 0,
            before_start: 0,
            n_read: prompt.len(),
            prediction: CopyPrediction::default(),
            best: Place::default(),
            matches: Vec::new(),
            evidence: Vec::new(),
            shares: Vec::new(),
        };
        let prefix_token = fim.map(FimTemplate::prefix_token);
        let is_border = |token: &u32| predictor.is_border(*token);
        let resumed = prompt.iter().rposition(|&it| Some(it) == prefix_token);
        let resumed = resumed.or_else(|| prompt.iter().rposition(is_border));
        let start = resumed.map_or(0, |it| it + 1);
        let len = prompt[start..].iter().position(is_border);
        let end = len.map_or(prompt.len(), |len| start + len);
        for &token in prompt[..start].iter().chain(&prompt[end..]) {
            predictor.push(token);
        }
        predictor.push_border();
        let suffix = predictor.own.symbols.get(predictor.before_start);
        predictor.hole_ends_line = fim.is_some() && suffix.is_some_and(|it| is_line_end(*it));
        for &token in &prompt[start..end] {
            predictor.push(token);
        }
        predictor.own.update_index();
        predictor
    }

    /// Copies from these texts too, the nearest first.
    pub fn with_sources(mut self, sources: Vec<Arc<CopySource>>) -> Self {
        self.sources = sources;
        self
    }

    /// What copying says about the token that follows `tokens`: the prompt and the generated tokens, which only grow
    /// between calls. Takes microseconds, and depends on `tokens` alone.
    pub fn predict(&mut self, tokens: &[u32]) -> &CopyPrediction {
        for &token in &tokens[self.n_read..] {
            self.push(token);
        }
        self.n_read = tokens.len();
        self.own.update_index();
        self.find_matches();
        self.vote();
        &self.prediction
    }

    /// As [`predict`](Self::predict), beside a network that gives `best` to its likeliest token and `probability` to any, 0
    /// to those that may not follow. None if no token that may follow is named.
    pub fn advise(
        &mut self,
        tokens: &[u32],
        best: f32,
        probability: impl Fn(u32) -> f32,
    ) -> Option<Advice<'_>> {
        self.predict(tokens);
        let ends = if self.hole_ends_line {
            self.borders.as_slice()
        } else {
            &[]
        };
        let end: f32 = ends.iter().map(|&id| probability(id)).sum();
        let votes = &self.prediction.votes;
        let votes = votes
            .iter()
            .map(|&(id, share)| (id, share, probability(id)))
            .filter(|&(_, _, network)| network > 0.0);
        let total: f32 = votes.clone().map(|(_, share, _)| share).sum();
        let ends_line = |id: u32| {
            let first = self.tokenizer.token_bytes(id).first();
            first.is_some_and(|&it| is_line_end(u16::from(it)))
        };
        let mut first_vote = None;
        // Share of the ends for each part of their probability.
        let mut per_end = 0.0;
        self.shares.clear();
        for (id, share, network) in votes {
            let with_end = network + if ends_line(id) { end } else { 0.0 };
            first_vote.get_or_insert(with_end);
            let part = share / total / with_end;
            self.shares.push((id, part * network));
            if ends_line(id) {
                per_end += part;
            }
        }
        if per_end > 0.0 {
            let ends = ends.iter().map(|&id| (id, per_end * probability(id)));
            self.shares.extend(ends.filter(|it| it.1 > 0.0));
        }
        Some(Advice {
            prediction: &self.prediction,
            opinion: Opinion {
                best,
                first_vote: first_vote?,
            },
            shares: &self.shares,
        })
    }

    fn is_border(&self, token: u32) -> bool {
        self.tokenizer.token_bytes(token).is_empty() || self.borders.binary_search(&token).is_ok()
    }

    fn push(&mut self, token: u32) {
        if self.is_border(token) {
            return self.push_border();
        }
        self.own.push(&self.tokenizer, token);
    }

    /// Ends the piece, unless it is empty.
    fn push_border(&mut self) {
        if self.current_start < self.own.symbols.len() {
            self.own.push_border();
            self.before_start = std::mem::replace(&mut self.current_start, self.own.symbols.len());
        }
    }

    fn passage(&self, source: Option<usize>) -> &Passage {
        source.map_or(&self.own, |idx| self.sources[idx].passage())
    }

    /// Collects the places that agree with the end of the text and go on.
    fn find_matches(&mut self) {
        let current = &self.own.symbols[self.current_start..];
        self.matches.clear();
        if current.len() < MIN_MATCH {
            return;
        }
        evidence_by_length(current, &mut self.evidence);
        let mut collect = |source: Option<usize>, passage: &Passage, at: usize| {
            let match_len = common_suffix(&passage.symbols[..at], current, MAX_MATCH);
            if match_len >= MIN_MATCH && passage.symbols[at] != BORDER {
                self.matches
                    .push((Place { source, at }, self.evidence[match_len]));
            }
        };
        for at in self.own.candidates().take(MAX_PROBES) {
            collect(None, &self.own, at);
        }
        for (idx, source) in self.sources.iter().enumerate() {
            let passage = source.passage();
            for at in passage.ends_like(current).take(MAX_PROBES) {
                collect(Some(idx), passage, at);
            }
        }
    }

    fn vote(&mut self) {
        let mut votes = std::mem::take(&mut self.prediction.votes);
        votes.clear();
        let best = self.matches.iter().map(|it| it.1).max().unwrap_or(0);
        let (mut n_places, mut total, mut largest) = (0, 0.0, 0.0);
        for &(place, evidence) in &self.matches {
            if evidence + MAX_GAP < best {
                continue;
            }
            let distance = self.distance(place) as f32;
            let vote = ((evidence as f32 - best as f32) / HALVING).exp2() / (1.0 + distance / NEAR);
            let token = self.passage(place.source).token_at(&self.tokenizer, place.at);
            match votes.iter_mut().find(|it| it.0 == token) {
                Some((_, share)) => *share += vote,
                None => votes.push((token, vote)),
            }
            if vote > largest {
                largest = vote;
                self.best = place;
            }
            total += vote;
            n_places += 1;
        }
        for (_, share) in &mut votes {
            *share /= total;
        }
        votes.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let Some(&(_, first_share)) = votes.first() else {
            // Keeps the memory of `votes`.
            self.prediction = CopyPrediction {
                votes,
                ..CopyPrediction::default()
            };
            return;
        };
        let next = self.passage(self.best.source).symbols[self.best.at];
        self.prediction = CopyPrediction {
            support: match votes.len() {
                1 if n_places < 2 => Support::Single,
                1 => Support::Agreed,
                _ if first_share >= 0.5 => Support::Majority,
                _ => Support::Split,
            },
            votes,
            evidence: best,
            origin: self
                .best
                .source
                .map_or(Origin::Prompt, |idx| self.sources[idx].origin()),
            name: self.name_match(),
            name_goes_on: belongs_to_name(next),
            line_ends: is_line_end(next),
        };
    }

    fn name_match(&self) -> NameMatch {
        let current = &self.own.symbols[self.current_start..];
        let name_len = current
            .iter()
            .rev()
            .take_while(|it| belongs_to_name(**it))
            .count();
        let place = &self.passage(self.best.source).symbols[..self.best.at];
        let begins_there = || {
            place
                .iter()
                .rev()
                .nth(name_len)
                .is_none_or(|it| !belongs_to_name(*it))
        };
        match name_len {
            0 => NameMatch::None,
            _ if common_suffix(place, current, name_len) == name_len && begins_there() => NameMatch::Whole,
            _ => NameMatch::End,
        }
    }

    /// Bytes between the cursor and a place. Other files begin where the prefix does: far, and further each.
    fn distance(&self, Place { source, at }: Place) -> usize {
        match source {
            Some(idx) => self.own.symbols.len() + SOURCE_DISTANCE * (idx + 1),
            // Right after the cursor, if it is the suffix.
            None if at < self.current_start && at >= self.before_start => at - self.before_start,
            None => self.own.symbols.len() - at,
        }
    }
}

impl fmt::Debug for CopyPredictor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyPredictor")
            .field("n_read", &self.n_read)
            .field("prediction", &self.prediction)
            .finish_non_exhaustive()
    }
}

impl Drafter for CopyPredictor {
    fn kind(&self) -> DrafterKind {
        DrafterKind::Copy
    }

    /// Follows the best place. Unlike prompt lookup it knows that a hole's prefix goes on, and starts within tokens.
    fn draft(&mut self, tokens: &[u32], max_len: usize, draft: &mut Draft) {
        draft.clear();
        if self.predict(tokens).votes.is_empty() {
            return;
        }
        // About three bytes make a token.
        let evidence = Evidence::of_match(self.prediction.evidence.div_ceil(3));
        let Place { source, mut at } = self.best;
        let passage = self.passage(source);
        let end = passage.symbols.len();
        let period = end - at;
        while draft.len() < max_len && passage.symbols[at] != BORDER {
            let token = passage.token_at(&self.tokenizer, at);
            draft.push(token, evidence);
            at += self.tokenizer.token_bytes(token).len();
            if at >= end {
                // The place reaches the end: the text is periodic, and the draft goes on reading itself.
                at -= period;
            }
        }
    }
}

/// Whether a symbol belongs to names in most languages.
fn belongs_to_name(symbol: u16) -> bool {
    u8::try_from(symbol).is_ok_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii())
}

fn is_line_end(symbol: u16) -> bool {
    symbol == u16::from(b'\n') || symbol == u16::from(b'\r')
}

/// For each length of a match with the end of `text`, up to the longest that counts, how much it says: a byte each, but
/// nothing for white space next to white space, as lines of every kind begin alike.
fn evidence_by_length(text: &[u16], evidence: &mut Vec<usize>) {
    let is_space = |symbol: u16| symbol < 256 && (symbol as u8).is_ascii_whitespace();
    evidence.clear();
    evidence.push(0);
    let mut sum = 0;
    let mut after_is_space = false;
    for &symbol in text.iter().rev().take(MAX_MATCH) {
        sum += usize::from(!(is_space(symbol) && after_is_space));
        after_is_space = is_space(symbol);
        evidence.push(sum);
    }
}

/// Mixes what copying says into the scores of one sequence.
#[derive(Debug)]
pub(crate) struct CopyMixer {
    predictor: CopyPredictor,
    /// Tokens whose score is raised, with the score that they get. All others keep theirs.
    raised: Vec<Candidate>,
}

impl CopyMixer {
    pub(crate) fn new(predictor: CopyPredictor) -> Self {
        Self {
            predictor,
            raised: Vec::new(),
        }
    }

    /// Mixes for the token that follows `tokens`, and returns the logarithm of the mixture's sum of exponentials.
    /// `log_total` is that of the network's scores `logits`, `(vocab,)`, and `best` the highest
    /// of them.
    ///
    /// The mixture is divided by `1 - w`: then only the few tokens that copying names change their score.
    pub(crate) fn mix(&mut self, logits: &[f32], best: f32, log_total: f32, tokens: &[u32]) -> f32 {
        self.raised.clear();
        let logit = |id: u32| logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let probability = |logit: f32| exp::<false>(logit - log_total);
        let advice = self
            .predictor
            .advise(tokens, probability(best), |id| probability(logit(id)));
        let Some(advice) = advice else {
            return log_total;
        };
        let weight = f64::from(advice.weight());
        let odds = weight / (1.0 - weight);
        if odds == 0.0 {
            return log_total;
        }
        let mut added = 0.0;
        for &(id, share) in advice.shares {
            let copied = odds * f64::from(share);
            let mixed = f64::from(logit(id) - log_total).exp() + copied;
            let logit = log_total + mixed.ln() as f32;
            self.raised.push(Candidate { id, logit });
            added += copied;
        }
        log_total + added.ln_1p() as f32
    }

    /// What the last mixing changed: each token at most once.
    pub(crate) fn raised(&self) -> &[Candidate] {
        &self.raised
    }
}

#[cfg(test)]
mod tests;
