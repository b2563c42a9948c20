//! `surmise eval`: how good suggestions are on the code of a folder, actions there, or rewritings of given lines.

mod actions;
mod edits;

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write},
    path::Path,
};

use serde_json::{Value, json};

use crate::{
    cli::{CliError, EvalArgs, progress, settings, style::Style},
    eval::{
        Answer, fill,
        hole::holes,
        judge::{
            Judgement, PRECISION_AIM, QUIET_AIM, THRESHOLDS, calibrate, judge, latency, precision_at,
            tokens_per_step,
        },
    },
    model,
    repository::{FileList, Watch},
};

pub(super) fn run(args: &EvalArgs) -> Result<i32, CliError> {
    match (&args.edits, &args.folder) {
        (Some(cases), _) => edits::run(args, cases),
        (None, Some(folder)) if args.actions => actions::run(args, folder),
        // Without either, clap has said so.
        (None, folder) => fill_holes(args, folder.as_deref().unwrap_or(Path::new("."))),
    }
}

fn fill_holes(args: &EvalArgs, folder: &Path) -> Result<i32, CliError> {
    let config = settings(args.model.layer())?;
    let unreadable = |source| CliError::ReadFile {
        path: folder.to_owned(),
        source,
    };
    // As the files near a document are called.
    let root = std::path::absolute(folder)?;
    let holes = holes(&root, args.holes, args.seed).map_err(unreadable)?;
    if holes.is_empty() {
        return Err(CliError::NoCode(folder.to_owned()));
    }
    let engine = model::load(&config)?;
    if let Some(note) = model::fim_note(&engine) {
        tracing::warn!("{}: {note}", engine.info().model_name);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut asked = THRESHOLDS.to_vec();
    asked.push(config.completion.min_confidence);
    let mut files = FileList::default();
    files.refresh(std::slice::from_ref(&root), Watch::None);
    let mut answers = Vec::new();
    for (idx, hole) in holes.iter().enumerate() {
        progress(&format!("hole {} of {}", idx + 1, holes.len()));
        let answer = fill(&engine, &config, &root, &files, hole, &asked);
        answers.push(runtime.block_on(answer));
    }
    progress("");
    let report = Report {
        folder,
        model: engine.info().model_name.clone(),
        min_confidence: config.completion.min_confidence,
        answers: &answers,
        with_thresholds: args.calibrate,
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", report.json())?;
    } else {
        let style = Style::new(out.is_terminal());
        write!(out, "{}", report.text(style))?;
    }
    Ok(0)
}

struct Report<'a> {
    folder: &'a Path,
    model: String,
    min_confidence: f64,
    answers: &'a [Answer],
    with_thresholds: bool,
}

impl Report<'_> {
    /// The languages in alphabetical order, each judged at the threshold of the settings, then all of them.
    fn by_language(&self) -> Vec<(&str, usize, Judgement)> {
        let mut languages: Vec<&str> = self.answers.iter().map(|it| it.language).collect();
        languages.sort_unstable();
        languages.dedup();
        languages.push("all");
        let row = |language| {
            let own = || {
                self.answers
                    .iter()
                    .filter(move |it| language == "all" || it.language == language)
            };
            (language, own().count(), judge(own(), self.min_confidence))
        };
        languages.into_iter().map(row).collect()
    }

    fn thresholds(&self) -> Vec<Judgement> {
        let thresholds = THRESHOLDS.iter();
        thresholds
            .map(|&threshold| judge(self.answers.iter(), threshold))
            .collect()
    }

    fn json(&self) -> Value {
        let languages = self
            .by_language()
            .into_iter()
            .map(|(language, n_holes, judgement)| {
                let mut row = json!(judgement);
                row["language"] = language.into();
                row["holes"] = n_holes.into();
                row
            });
        let mut report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "folder": self.folder,
            "model": self.model,
            "languages": languages.collect::<Vec<_>>(),
            "precision_at_20_percent": precision_at(self.answers, 0.2),
            "precision_at_50_percent": precision_at(self.answers, 0.5),
            "latency_ms": { "p50": latency(self.answers, 0.5), "p95": latency(self.answers, 0.95) },
            "tokens_per_step": tokens_per_step(self.answers),
        });
        if self.with_thresholds {
            let thresholds = self.thresholds();
            report["calibrated"] = json!(calibrate(&thresholds));
            report["thresholds"] = json!(thresholds);
        }
        report
    }

    fn text(&self, style: Style) -> String {
        let Style {
            strong, faint, reset, ..
        } = style;
        let mut out = format!(
            "{strong}{} on {}{reset}\n\n{strong}{:<14}{:>6}{HEADINGS}{reset}\n",
            self.model,
            self.folder.display(),
            "language",
            "holes",
        );
        // `write!` to a string cannot fail.
        for (language, n_holes, judgement) in self.by_language() {
            let _ = writeln!(out, "{language:<14}{n_holes:>6}{}", columns(&judgement));
        }
        let _ = writeln!(
            out,
            "\n{faint}confidence of at least {}; precision of the surest 20 %: {}, of the surest 50 %: {}\n\
             an answer takes {:.0} ms (median), {:.0} ms (95th percentile); {} tokens per step{reset}",
            self.min_confidence,
            percent(precision_at(self.answers, 0.2)).trim_start(),
            percent(precision_at(self.answers, 0.5)).trim_start(),
            latency(self.answers, 0.5),
            latency(self.answers, 0.95),
            tokens_per_step(self.answers).map_or_else(|| "no".to_owned(), |it| format!("{it:.2}")),
        );
        if self.with_thresholds {
            self.write_thresholds(&mut out, style);
        }
        out
    }

    fn write_thresholds(&self, out: &mut String, Style { strong, reset, .. }: Style) {
        let thresholds = self.thresholds();
        let calibrated = calibrate(&thresholds);
        let _ = writeln!(out, "\n{strong}{:<20}{HEADINGS}{reset}", "min_confidence");
        for judgement in &thresholds {
            let is_chosen = calibrated.is_some_and(|it| it.min_confidence == judgement.min_confidence);
            let mark = if is_chosen { "→" } else { " " };
            let _ = writeln!(
                out,
                "{mark} {:<18}{}",
                judgement.min_confidence,
                columns(judgement)
            );
        }
        let aim = format!(
            "{:.0} % quiet and {:.0} % precision",
            QUIET_AIM * 100.0,
            PRECISION_AIM * 100.0
        );
        let _ = match calibrated {
            Some(it) if it.precision.is_some_and(|precision| precision >= PRECISION_AIM) => {
                writeln!(out, "\n{} is the lowest threshold with {aim}.", it.min_confidence)
            }
            Some(it) => writeln!(
                out,
                "\nNo threshold gives {aim}; {} is quiet enough and the most precise of those.",
                it.min_confidence
            ),
            None => writeln!(out, "\nNo threshold gives {aim}."),
        };
    }
}

const HEADINGS: &str = "   shown  precise    exact  similar    quiet";

fn columns(judgement: &Judgement) -> String {
    let Judgement {
        show_rate,
        precision,
        exact,
        similarity,
        quiet,
        ..
    } = *judgement;
    [show_rate, precision, exact, similarity, quiet]
        .map(|it| format!(" {}", percent(it)))
        .concat()
}

/// Eight characters wide.
fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| format!("{:>7} ", "-"), |it| format!("{:>6.1} %", it * 100.0))
}
