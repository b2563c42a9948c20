//! Measures completions: `infill MODEL FOLDER [--lines] [--siblings N] [--fit] [--places N] [--seed N]`.
//!
//! FOLDER holds source files that the model has not seen. At random columns of random lines, as many for each language,
//! the rest of the line is asked for, with `--lines` one to six lines, greedily, with at most 900 tokens of the file around it; copying
//! also draws from 32 KiB of the file on either side of those. Answers are cut after as many lines as are missing. Reported are
//! the network alone, copying alone (it says nothing where nothing matches), and their mixture; then at how many places the
//! last mixture is right where one of the others is not, and the other way round. With `--siblings` copying and the mixture are there
//! once more, drawing from the nearest N files of the same package too; a package is a folder in FOLDER. Percentages have the
//! half-width of their 95% confidence interval.
//!
//! With `--fit` as many places of either kind give the table of weights in `copy/reliability.rs` instead. Its folder should
//! hold other packages than the one that is reported on: `tuning` in `engine/training/corpus.toml`.

use std::{
    collections::{BTreeMap, HashSet},
    error::Error,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use surmise_engine::{
    Engine, EngineError, EngineOptions, WeightSource,
    copy::{CopyPredictor, CopySource, FEATURES, MAX_CLASSES, Opinion, Origin},
    fim::FimTemplate,
    healing::Healing,
    kv_cache::{CachedSequence, KvCache},
    model::{Batch, Checkpoint, Model, Row, load_model, transformer::Transformer},
    request::{CopyMixing, FimPrompt, Prompt, Request, SamplingParams, StopCondition},
    tokenizer::Tokenizer,
    weights::Gguf,
};

/// Longest prompt, in tokens.
const MAX_PROMPT: usize = 900;
/// Most bytes of the file on either side of the prompt that are copied from.
const MAX_SOURCE: usize = 32 * 1024;
/// Texts of the file itself among the sources of a place.
const N_OWN_SOURCES: usize = 2;
/// Longest answer, in tokens: the rest of a line, and several lines.
const MAX_ANSWER: usize = 64;
const MAX_LINES_ANSWER: usize = 160;
/// Most lines that are missing where several are.
const MAX_LINES: usize = 6;
/// Shares of the places at which precision is told: those of the highest confidence.
const SHOW_RATES: [f64; 2] = [0.2, 0.5];
/// Columns of the report; the last two only with `--siblings`.
const PREDICTORS: [&str; 5] = [
    "network",
    "copying",
    "mixture",
    "copying, siblings too",
    "mixture, siblings too",
];
/// Stands for the network where there is none.
const NO_OPINION: Opinion = Opinion {
    best: 0.5,
    first_vote: 0.1,
};
const LANGUAGES: [(&str, &str); 10] = [
    ("rs", "Rust"),
    ("py", "Python"),
    ("ts", "TypeScript"),
    ("js", "JavaScript"),
    ("go", "Go"),
    ("c", "C"),
    ("cpp", "C++"),
    ("java", "Java"),
    ("php", "PHP"),
    ("rb", "Ruby"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse()?;
    let gguf = Gguf::open(WeightSource::File(args.model.clone()))?;
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf)?);
    let template = FimTemplate::from_gguf(&gguf, &tokenizer).ok_or("the model cannot fill in the middle")?;
    let setup = Setup { tokenizer, template };
    if args.fit {
        let mut model = load_model(&Checkpoint::from_gguf(&gguf)?, 2)?;
        let mut rows = Vec::new();
        for lines in [false, true] {
            for place in setup.places(&args, lines)? {
                setup.true_tokens(&mut model, &place, &mut rows)?;
            }
        }
        print_weights(&rows);
        return Ok(());
    }
    let engine = Engine::load(WeightSource::File(args.model.clone()), EngineOptions::default())?;
    let mut scores: BTreeMap<&str, Vec<Vec<Answer>>> = BTreeMap::new();
    for mut place in setup.places(&args, args.lines)? {
        let siblings = place.sources.split_off(N_OWN_SOURCES);
        let mut answers = vec![
            ask(&engine, &place, CopyMixing::Off)?,
            setup.copy_alone(&place)?,
            ask(&engine, &place, CopyMixing::On)?,
        ];
        if args.n_siblings > 0 {
            place.sources.extend(siblings);
            answers.push(setup.copy_alone(&place)?);
            answers.push(ask(&engine, &place, CopyMixing::On)?);
        }
        for name in [place.language, "all"] {
            let columns = scores.entry(name).or_default();
            columns.resize(answers.len(), Vec::new());
            for (column, answer) in columns.iter_mut().zip(&answers) {
                column.push(answer.clone());
            }
        }
    }
    print_scores(&scores);
    print_pairs(&scores);
    Ok(())
}

struct Args {
    model: PathBuf,
    folder: PathBuf,
    fit: bool,
    /// Whether up to [`MAX_LINES`] lines are missing, not the rest of one.
    lines: bool,
    /// Other files of the package that are copied from, at most.
    n_siblings: usize,
    n_places: usize,
    seed: u64,
}

impl Args {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut args = std::env::args().skip(1);
        let mut parsed = Self {
            model: args.next().ok_or("which model?")?.into(),
            folder: args.next().ok_or("which folder of source files?")?.into(),
            fit: false,
            lines: false,
            n_siblings: 0,
            n_places: 600,
            seed: 1,
        };
        while let Some(arg) = args.next() {
            let mut number = || args.next().ok_or(format!("{arg} needs a number"));
            match arg.as_str() {
                "--fit" => parsed.fit = true,
                "--lines" => parsed.lines = true,
                "--siblings" => parsed.n_siblings = number()?.parse()?,
                "--places" => parsed.n_places = number()?.parse()?,
                "--seed" => parsed.seed = number()?.parse()?,
                _ => return Err(format!("unknown option {arg}").into()),
            }
        }
        Ok(parsed)
    }
}

/// A cursor in a file.
struct Place {
    language: &'static str,
    prompt: FimPrompt,
    /// The prompt's tokens, less what healing takes from their end.
    tokens: Vec<u32>,
    healing: Option<Healing>,
    /// The file before and after what the prompt holds, then other files, the nearest first.
    sources: Vec<Arc<CopySource>>,
    /// What stands there: the rest of the line, perhaps with lines after it.
    truth: String,
}

impl Place {
    /// What is still to be spelled of what healing took, after all of `tokens`.
    fn left(&self, tokenizer: &Tokenizer, tokens: &[u32]) -> &[u8] {
        let healing = self.healing.as_ref();
        healing.map_or(&[], |it| it.left(tokenizer, &tokens[self.tokens.len()..]))
    }

    /// Whether a token can follow where `left` is still to be spelled.
    fn allows(&self, tokenizer: &Tokenizer, left: &[u8], token: u32) -> bool {
        let healing = self.healing.as_ref().filter(|_| !left.is_empty());
        healing.is_none_or(|it| it.allows(tokenizer, left, token))
    }

    fn n_lines(&self) -> usize {
        self.truth.split('\n').count()
    }

    fn max_answer(&self) -> usize {
        if self.n_lines() > 1 {
            MAX_LINES_ANSWER
        } else {
            MAX_ANSWER
        }
    }

    /// As many lines of an answer as are missing.
    fn cut<'t>(&self, text: &'t str) -> &'t str {
        let end = text.match_indices('\n').nth(self.n_lines() - 1);
        &text[..end.map_or(text.len(), |it| it.0)]
    }

    /// Whether `tokens` have as many lines as are missing.
    fn is_full(&self, tokenizer: &Tokenizer, tokens: impl Iterator<Item = u32>) -> bool {
        let n_ends = |token| {
            tokenizer
                .token_bytes(token)
                .iter()
                .filter(|it| **it == b'\n')
                .count()
        };
        tokens.map(n_ends).sum::<usize>() >= self.n_lines()
    }
}

/// What a predictor says at a place.
#[derive(Clone)]
struct Answer {
    is_exact: bool,
    /// Edit similarity to what stands there, 0 to 1.
    similarity: f64,
    /// Logarithm of the probability of all its tokens together; negative infinity if it says nothing.
    confidence: f64,
    tokens_per_step: f64,
}

impl Answer {
    fn new(place: &Place, text: &str, logprobs: &[f32], tokens_per_step: f64) -> Self {
        let (text, truth) = (place.cut(text), place.truth.trim_end());
        let sum = logprobs.iter().sum::<f32>();
        Self {
            is_exact: text.trim_end() == truth,
            similarity: strsim::normalized_levenshtein(text.trim_end(), truth),
            confidence: if text.trim().is_empty() {
                f64::NEG_INFINITY
            } else {
                f64::from(sum)
            },
            tokens_per_step,
        }
    }
}

/// One true token: what is known of copying there, and what probabilities both gave to it.
struct FitRow {
    classes: Option<[usize; FEATURES.len()]>,
    copied: f64,
    network: f64,
}

impl FitRow {
    fn mixed(&self, weight: f64) -> f64 {
        weight * self.copied + (1.0 - weight) * self.network
    }
}

struct Setup {
    tokenizer: Arc<Tokenizer>,
    template: FimTemplate,
}

impl Setup {
    fn places(&self, args: &Args, lines: bool) -> Result<Vec<Place>, Box<dyn Error>> {
        let mut files: BTreeMap<&str, Vec<PathBuf>> = BTreeMap::new();
        collect_files(&args.folder, &mut files)?;
        let mut random = Random(args.seed);
        let n_each = args.n_places / files.len().max(1);
        let mut places = Vec::new();
        for (language, files) in &mut files {
            files.sort();
            let wanted = places.len() + n_each;
            let mut n_tries = 0;
            while places.len() < wanted && n_tries < 50 * n_each {
                n_tries += 1;
                let path = &files[random.below(files.len())];
                let text = std::fs::read_to_string(path)?;
                let name = path.strip_prefix(&args.folder)?.to_string_lossy();
                let Some(mut place) = self.place(language, &name, &text, lines, &mut random)? else {
                    continue;
                };
                for sibling in siblings(&args.folder, path, &text, files, args.n_siblings) {
                    let text = std::fs::read_to_string(sibling)?;
                    let end = text.floor_char_boundary(MAX_SOURCE);
                    place.sources.push(self.source(&text[..end], Origin::Elsewhere));
                }
                places.push(place);
            }
        }
        Ok(places)
    }

    /// A random column of a random line; none if the line has too little to say.
    fn place(
        &self,
        language: &str,
        path: &str,
        text: &str,
        lines: bool,
        random: &mut Random,
    ) -> Result<Option<Place>, EngineError> {
        let all_lines: Vec<&str> = text.split('\n').collect();
        let line_idx = random.below(all_lines.len());
        let line = all_lines[line_idx];
        let line_start = line.as_ptr() as usize - text.as_ptr() as usize;
        let end = line_start + line.trim_end().len();
        let start = line_start + line.len() - line.trim_start().len();
        if end < start + 4 {
            return Ok(None);
        }
        let at = text.floor_char_boundary(start + random.below(end - start - 2));
        let n_more = if lines { random.below(MAX_LINES) } else { 0 };
        let last_line = all_lines[(line_idx + n_more).min(all_lines.len() - 1)];
        let truth_end = last_line.as_ptr() as usize - text.as_ptr() as usize + last_line.len();
        let mut bytes = 3 * MAX_PROMPT;
        loop {
            let prefix = text.ceil_char_boundary(at.saturating_sub(bytes - bytes / 4))..at;
            let suffix = truth_end..text.floor_char_boundary(truth_end + bytes / 4);
            let prompt = FimPrompt {
                prefix: text[prefix.clone()].to_owned(),
                suffix: text[suffix.clone()].to_owned(),
                path: Some(path.to_owned()),
                ..FimPrompt::default()
            };
            let mut tokens = self.template.layout(&self.tokenizer, &prompt)?;
            if tokens.len() <= MAX_PROMPT {
                let healing = Healing::take(&self.tokenizer, &mut tokens, self.template.stop_tokens());
                let language = LANGUAGES.iter().find(|it| it.1 == language).map_or("", |it| it.1);
                let truth = text[at..truth_end].to_owned();
                let before = text.ceil_char_boundary(prefix.start.saturating_sub(MAX_SOURCE))..prefix.start;
                let after = suffix.end..text.floor_char_boundary(suffix.end + MAX_SOURCE);
                let source = |range: Range<usize>| self.source(&text[range], Origin::SameFile);
                return Ok(Some(Place {
                    language,
                    prompt,
                    tokens,
                    healing,
                    sources: vec![source(before), source(after)],
                    truth,
                }));
            }
            bytes = bytes * 9 / 10;
        }
    }

    fn source(&self, text: &str, origin: Origin) -> Arc<CopySource> {
        let (tokenizer, n_vocab) = (Arc::clone(&self.tokenizer), self.tokenizer.vocab_size());
        Arc::new(CopySource::new(tokenizer, n_vocab, text.to_owned(), origin))
    }

    /// Greedy copying until nothing matches or there are as many lines as are missing.
    fn copy_alone(&self, place: &Place) -> Result<Answer, EngineError> {
        let mut tokens = place.tokens.clone();
        let mut predictor = self.predictor(place);
        let mut logprobs = Vec::new();
        for _ in 0..place.max_answer() {
            let left = place.left(&self.tokenizer, &tokens);
            let prediction = predictor.predict(&tokens);
            let allowed = |vote: &&(u32, f32)| place.allows(&self.tokenizer, left, vote.0);
            let Some(&(token, share)) = prediction.votes.iter().find(allowed) else {
                break;
            };
            let weight = prediction.weight(NO_OPINION);
            if weight == 0.0 {
                break;
            }
            tokens.push(token);
            logprobs.push((weight * share).ln());
            if place.is_full(&self.tokenizer, tokens[place.tokens.len()..].iter().copied()) {
                break;
            }
        }
        let text = self.tokenizer.decode(&tokens[place.tokens.len()..]);
        let n_untold = place.healing.as_ref().map_or(0, Healing::len);
        let told = text.get(n_untold..).unwrap_or_default();
        Ok(Answer::new(place, told, &logprobs, 1.0))
    }

    fn predictor(&self, place: &Place) -> CopyPredictor {
        CopyPredictor::new(Arc::clone(&self.tokenizer), &place.tokens, Some(&self.template))
            .with_sources(place.sources.clone())
    }

    /// Appends what network and copying say to each true token of the place, and to the end of the line.
    fn true_tokens(
        &self,
        model: &mut Transformer,
        place: &Place,
        rows: &mut Vec<FitRow>,
    ) -> Result<(), EngineError> {
        let taken = place
            .healing
            .as_ref()
            .map_or(Ok(""), |it| std::str::from_utf8(it.bytes()));
        let Ok(taken) = taken else {
            return Ok(());
        };
        let answer = self
            .tokenizer
            .encode(&format!("{taken}{}", place.truth.trim_end()), false)?;
        let tokens = [place.tokens.as_slice(), &answer].concat();
        let n_prompt = place.tokens.len();
        let mut cache = KvCache::new(model.config(), tokens.len() / 32 + 2);
        let mut sequence = CachedSequence::default();
        cache.reserve(&mut sequence, tokens.len())?;
        let (mut scores, mut logits) = (Vec::new(), Vec::new()); // (n, vocab), (n of the chunk, vocab)
        for start in (0..tokens.len()).step_by(128) {
            let chunk = &tokens[start..tokens.len().min(start + 128)];
            let row =
                |(position, &token): (usize, &u32)| Row::chain(token, position, 0, position + 1 >= n_prompt);
            let batch = Batch {
                rows: &(start..).zip(chunk).map(row).collect::<Vec<_>>(),
                sequences: &[&sequence],
            };
            model.forward(batch, &mut cache, &mut logits)?;
            cache.commit(&mut sequence, chunk);
            scores.extend_from_slice(&logits);
        }
        let mut predictor = self.predictor(place);
        for (idx, logits) in scores.chunks_mut(model.config().vocab).enumerate() {
            let left = place.left(&self.tokenizer, &tokens[..n_prompt + idx]);
            let is_told = answer
                .get(idx)
                .is_none_or(|&it| self.tokenizer.token_bytes(it).len() > left.len());
            if !is_told {
                continue;
            }
            for (id, logit) in (0..).zip(logits.iter_mut()) {
                if !place.allows(&self.tokenizer, left, id) {
                    *logit = f32::NEG_INFINITY;
                }
            }
            let total: f64 = logits.iter().map(|&it| f64::from(it).exp()).sum();
            let probability = |logit: f32| f64::from(logit).exp() / total;
            let network = logits.iter().map(|&it| probability(it)).zip(0..);
            let best = probability(logits.iter().copied().fold(f32::MIN, f32::max)) as f32;
            let advice = predictor.advise(&tokens[..n_prompt + idx], best, |id| {
                probability(logits[id as usize]) as f32
            });
            let rest = &answer[idx..];
            let shares = advice.iter().flat_map(|it| it.shares);
            rows.push(FitRow {
                classes: advice.and_then(|it| it.prediction.classes(it.opinion)),
                copied: self.sum_right(rest, shares.map(|&(id, share)| (f64::from(share), id))),
                network: self.sum_right(rest, network),
            });
        }
        Ok(())
    }

    /// The part of a distribution that falls on right tokens: the next true one; after the last, those that end the
    /// line; and the last one together with a line end.
    fn sum_right(&self, rest: &[u32], distribution: impl Iterator<Item = (f64, u32)>) -> f64 {
        let last = self
            .tokenizer
            .token_bytes(rest.first().copied().unwrap_or(u32::MAX));
        let is_right = |id: u32| match rest {
            [next, _, ..] => *next == id,
            _ if self.tokenizer.token_bytes(id) == last => {
                !last.is_empty() || self.template.stop_tokens().contains(&id)
            }
            _ => {
                let rest = self.tokenizer.token_bytes(id).strip_prefix(last);
                rest.is_some_and(|it| it.first() == Some(&b'\n'))
            }
        };
        distribution.filter(|it| is_right(it.1)).map(|it| it.0).sum()
    }
}

fn ask(engine: &Engine, place: &Place, copy: CopyMixing) -> Result<Answer, EngineError> {
    let request = Request {
        prompt: Prompt::Fim(place.prompt.clone()),
        copy_sources: place.sources.clone(),
        sampling: SamplingParams {
            copy,
            ..SamplingParams::default()
        },
        stop: StopCondition {
            max_tokens: place.max_answer(),
            strings: vec!["\n".to_owned(); usize::from(place.n_lines() == 1)],
            ..StopCondition::default()
        },
        ..Request::default()
    };
    let answer = engine.generate(request).blocking_collect()?;
    let told = answer
        .tokens
        .iter()
        .filter(|it| it.text_end <= place.cut(&answer.text).len());
    let logprobs: Vec<f32> = told.map(|it| it.logprob).collect();
    Ok(Answer::new(
        place,
        &answer.text,
        &logprobs,
        answer.finish.speculation.tokens_per_step(),
    ))
}

/// Prints the numbers that make the true tokens likeliest: steps of Newton's method on each by itself. A few made-up
/// observations keep numbers of thin classes near 0.
fn print_weights(rows: &[FitRow]) {
    const MADE_UP: f64 = 2.0;
    const N_ROUNDS: usize = 400;
    let mut log_odds = [[0.0f64; MAX_CLASSES]; FEATURES.len()];
    let weight = |log_odds: &[[f64; MAX_CLASSES]], classes: [usize; FEATURES.len()]| {
        let sum: f64 = log_odds.iter().zip(classes).map(|(row, class)| row[class]).sum();
        1.0 / (1.0 + (-sum).exp())
    };
    let mut counts = [[0; MAX_CLASSES]; FEATURES.len()];
    for _ in 0..N_ROUNDS {
        let (mut slopes, mut bends) = (
            [[0.0; MAX_CLASSES]; FEATURES.len()],
            [[MADE_UP; MAX_CLASSES]; FEATURES.len()],
        );
        counts = Default::default();
        for row in rows {
            let Some(classes) = row.classes else { continue };
            let weight = weight(&log_odds, classes);
            let slope = (row.copied - row.network) * weight * (1.0 - weight) / row.mixed(weight);
            for (feature, class) in classes.into_iter().enumerate() {
                slopes[feature][class] += slope;
                bends[feature][class] += weight * (1.0 - weight);
                counts[feature][class] += 1;
            }
        }
        for (feature, row) in log_odds.iter_mut().enumerate() {
            for (class, number) in row.iter_mut().enumerate() {
                *number += 0.25 * (slopes[feature][class] - MADE_UP * *number / 4.0) / bends[feature][class];
            }
        }
    }
    for (row, (name, counts)) in log_odds.iter().zip(FEATURES.iter().zip(counts)) {
        let numbers = row.map(|number| format!("{number:.2}")).join(", ");
        println!("    [{numbers}], // {name}: {counts:?}");
    }
    let mean = |nats: &dyn Fn(&FitRow) -> f64| rows.iter().map(nats).sum::<f64>() / rows.len() as f64;
    let network = mean(&|it| -it.mixed(0.0).ln());
    let mixture = mean(&|it| {
        let weight = it.classes.map_or(0.0, |classes| weight(&log_odds, classes));
        -it.mixed(weight).ln()
    });
    println!(
        "{} tokens; nats per token: network {network:.3}, mixture {mixture:.3}",
        rows.len()
    );
}

fn print_scores(scores: &BTreeMap<&str, Vec<Vec<Answer>>>) {
    println!(
        "| language | places | predictor | exact | similarity | precision at 20% | at 50% | tokens per step |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (language, answers) in scores {
        for (predictor, answers) in PREDICTORS.iter().zip(answers) {
            let [at_20, at_50] = SHOW_RATES.map(|rate| precision(answers, rate));
            let exact = precision(answers, 1.0);
            let mean = |of: fn(&Answer) -> f64| answers.iter().map(of).sum::<f64>() / answers.len() as f64;
            let (similarity, steps) = (100.0 * mean(|it| it.similarity), mean(|it| it.tokens_per_step));
            println!(
                "| {language} | {} | {predictor} | {exact} | {similarity:.1}% | {at_20} | {at_50} | {steps:.2} |",
                answers.len()
            );
        }
    }
}

/// Prints at how many places the last mixture is exact where another is not, and the other way round; and by how much it is more
/// similar, in percent, with the half-width of the 95% confidence interval.
fn print_pairs(scores: &BTreeMap<&str, Vec<Vec<Answer>>>) {
    println!("\n| language | against | won | lost | similarity |");
    println!("| --- | --- | --- | --- | --- |");
    for (language, answers) in scores {
        let Some((mixture, others)) = answers.split_last() else {
            continue;
        };
        for (other, answers) in PREDICTORS.iter().zip(others) {
            let pairs = || mixture.iter().zip(answers);
            let won = pairs().filter(|(a, b)| a.is_exact && !b.is_exact).count();
            let lost = pairs().filter(|(a, b)| !a.is_exact && b.is_exact).count();
            let n = mixture.len() as f64;
            let gains = || pairs().map(|(a, b)| 100.0 * (a.similarity - b.similarity));
            let mean = gains().sum::<f64>() / n;
            let variance = gains().map(|it| (it - mean) * (it - mean)).sum::<f64>() / n;
            let half_width = 1.96 * (variance / n).sqrt();
            println!("| {language} | {other} | {won} | {lost} | {mean:+.1} ± {half_width:.1} |");
        }
    }
}

/// Percentage that is exact of the `rate` of the answers that are surest. Answers that say nothing are wrong.
fn precision(answers: &[Answer], rate: f64) -> String {
    let mut sorted: Vec<&Answer> = answers.iter().collect();
    sorted.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let n_shown = ((answers.len() as f64 * rate).round() as usize).max(1);
    let n_exact = sorted.iter().take(n_shown).filter(|it| it.is_exact).count();
    let share = n_exact as f64 / n_shown as f64;
    let half_width = 1.96 * (share * (1.0 - share) / n_shown as f64).sqrt();
    format!("{:.1} ± {:.1}%", 100.0 * share, 100.0 * half_width)
}

/// The `n` files of the package that are nearest to the one at `path`, which reads `text`: first those that it mentions by their
/// names, then those that are fewest folders away.
fn siblings<'f>(folder: &Path, path: &Path, text: &str, files: &'f [PathBuf], n: usize) -> Vec<&'f PathBuf> {
    let words: HashSet<&str> = text
        .split(|it: char| !it.is_alphanumeric() && it != '_' && it != '-')
        .collect();
    let package = |path: &Path| {
        path.strip_prefix(folder)
            .ok()?
            .components()
            .next()
            .map(|it| it.as_os_str().to_owned())
    };
    let distance = |other: &PathBuf| {
        let name = |path: &Path| path.file_stem().map(|it| it.to_string_lossy().into_owned());
        let is_mentioned = name(other).is_some_and(|name| words.contains(name.as_str()));
        let n_shared = path
            .components()
            .zip(other.components())
            .take_while(|(a, b)| a == b)
            .count();
        let n_own = other.components().count();
        (!is_mentioned, n_own - n_shared, std::cmp::Reverse(n_shared))
    };
    let mut siblings: Vec<&PathBuf> = files
        .iter()
        .filter(|other| *other != path && package(other) == package(path))
        .collect();
    siblings.sort_by_key(|other| distance(other));
    siblings.truncate(n);
    siblings
}

fn collect_files(folder: &Path, files: &mut BTreeMap<&str, Vec<PathBuf>>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect_files(&path, files)?;
            continue;
        }
        let extension = path.extension().and_then(|it| it.to_str());
        if let Some((_, language)) = LANGUAGES.iter().find(|it| Some(it.0) == extension) {
            files.entry(language).or_default().push(path);
        }
    }
    Ok(())
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) % n as u64) as usize
    }
}
