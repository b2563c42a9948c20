//! The command line: what can be asked for, and the settings that it lays over the others.
//!
//! Exit codes: 0 done, 1 could not, 2 usage (which clap reports before anything here runs).

mod bench;
mod complete;
mod doctor;
mod edit;
mod eval;
mod models;
mod render;
pub(crate) mod style;
mod trace;

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};
use surmise_engine::{
    EngineError,
    request::Speculation,
    speculative::{MAX_FIXED_DRAFT, drafter::DrafterKind},
};

use crate::{
    config::{self, Config, Layer, Problem},
    document::Document,
    lsp, model,
    rewrite::RewriteError,
};

/// A coding assistant that runs wholly on your own machine.
#[derive(Debug, Parser)]
#[command(
    name = "surmise",
    version,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// What to log to standard error: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as
    /// `surmise=debug`.
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn")]
    pub log: String,
    /// The same as `surmise lsp`.
    #[arg(long)]
    stdio: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Speaks the Language Server Protocol on standard input and output; what editors start.
    Lsp {
        /// Standard input and output, which is the only way for now; some editors insist on saying so.
        #[arg(long)]
        stdio: bool,
        #[command(flatten)]
        model: ModelArgs,
    },
    /// Prints the suggestion at a place in a file.
    Complete(CompleteArgs),
    /// Rewrites lines of a file as an instruction says, and prints the difference.
    Edit(EditArgs),
    /// Measures how fast models run on this machine.
    Bench(BenchArgs),
    /// Fills holes in the code of a folder and says how good the suggestions are.
    Eval(EvalArgs),
    /// Lists the models that can be run now, and what each takes of memory.
    Models(ModelsArgs),
    /// Says what this machine gives and what is wrong, with a remedy for each fault.
    Doctor(DoctorArgs),
    /// What can be set, and how.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints the JSON schema of all settings.
    Schema,
}

/// Which model to run, and how.
#[derive(Debug, Clone, Default, Args)]
struct ModelArgs {
    /// The model: `embedded`, or the path of a .gguf file or of a folder with safetensors.
    #[arg(long, value_name = "FILE")]
    model: Option<String>,
    /// A smaller model that drafts for it: the path of a .gguf file, of a folder, or of an EAGLE-3 head.
    #[arg(long, value_name = "FILE")]
    draft_model: Option<String>,
    /// Produce one token per step; the text is the same, the speed is not.
    #[arg(long)]
    no_speculation: bool,
}

/// Who drafts, for experiments, and who did.
#[derive(Debug, Clone, Args)]
struct DraftArgs {
    /// Who drafts, and how many tokens at a time: `auto`, `off`, a number of tokens, a drafter such as `prompt_lookup`, or both,
    /// such as `edit:64`. The text is the same, the speed is not.
    #[arg(long, value_name = "POLICY", conflicts_with = "no_speculation", value_parser = parse_speculation)]
    speculation: Option<Speculation>,
    /// Print what the model wrote with each token in the colour of the drafter that proposed it.
    #[arg(long, conflicts_with = "json")]
    trace: bool,
    /// Write the same as a page for a browser.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CompleteArgs {
    /// The place, as editors print it: line and column count from 1.
    #[arg(value_name = "FILE:LINE:COL")]
    place: Place,
    /// Print everything there is to know about it as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    draft: DraftArgs,
    /// Most tokens in the suggestion.
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// How far the suggestion reaches.
    #[arg(long, value_name = "EXTENT")]
    extent: Option<ExtentArg>,
    /// Pick tokens at random, the more so the higher; 0 always takes the most probable one.
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = parse_temperature)]
    temperature: f32,
    /// Seed of the random numbers; the same seed gives the same text.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, Args)]
struct EditArgs {
    /// The lines to rewrite, counted from 1; without them the whole file.
    #[arg(value_name = "FILE[:START-END]")]
    span: Span,
    /// What to do, in words.
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new(), required_unless_present = "like")]
    instruction: Option<String>,
    /// A line as it was and as it is now, instead of words: change these lines in the same way. Can be given several times.
    #[arg(long, value_names = ["OLD", "NEW"], num_args = 2, allow_hyphen_values = true, action = clap::ArgAction::Append, conflicts_with = "instruction")]
    like: Vec<String>,
    /// Change the file, instead of printing the difference only.
    #[arg(long)]
    write: bool,
    /// Print everything there is to know about it as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    draft: DraftArgs,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, Args)]
struct BenchArgs {
    /// The model: `embedded`, or the path of a .gguf file or of a folder with safetensors.
    #[arg(long, value_name = "FILE")]
    model: Option<String>,
    /// Threads that compute; 0 takes one for each physical core, but leaves one of more than four to the editor.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// How often each thing is measured, time permitting.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Begin no new round after so many seconds.
    #[arg(long, value_name = "S", default_value_t = 45)]
    seconds: u64,
    /// Measure how long a user waits instead: somebody's typing, replayed through the language server.
    #[arg(long, conflicts_with = "startup", group = "code")]
    latency: bool,
    /// Requests of that trace that run the model; those in between are answered with the rest of an earlier suggestion.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..), requires = "latency")]
    requests: u16,
    /// Lines of the document that is typed in.
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "latency")]
    lines: usize,
    /// Measure how long it takes from the start of the program to a first token instead.
    #[arg(long)]
    startup: bool,
    /// Measure what drafts gain instead: completions, edits and quotations, each with and without.
    #[arg(long, conflicts_with = "startup", group = "code")]
    speculation: bool,
    /// The source files that those tasks are made from, the current folder unless said otherwise. With `--latency`, the folder that
    /// the document seems to lie in; none unless said otherwise.
    #[arg(long, value_name = "DIR", requires = "code")]
    folder: Option<PathBuf>,
    /// Tasks of each kind.
    #[arg(long, value_name = "N", default_value_t = 12, requires = "speculation")]
    tasks: usize,
    /// Only tasks of this kind, such as `complete`; may be given several times.
    #[arg(long, value_name = "KIND", requires = "speculation")]
    workload: Vec<String>,
    /// A smaller model that drafts, or an EAGLE-3 head.
    #[arg(long, value_name = "FILE", requires = "speculation")]
    draft_model: Option<String>,
    /// Put the tokens of those tasks into the JSON, so that another engine can be measured on them.
    #[arg(long, requires_all = ["speculation", "json"])]
    with_tokens: bool,
    /// Measure products with each type of weights instead, with each set of instructions that this machine has.
    #[arg(long, conflicts_with_all = ["startup", "code", "model", "seconds"])]
    kernels: bool,
    /// Only weights of this type, such as `Q4_K`; may be given several times.
    #[arg(long, value_name = "TYPE", requires = "kernels")]
    format: Vec<String>,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
    /// Draw the cost of wide steps and the gain of batches, or what drafts gain and what each drafter gives, by length of drafts.
    #[arg(long, value_name = "FILE.svg", conflicts_with_all = ["latency", "startup", "kernels"])]
    plot: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct EvalArgs {
    /// A folder of source files, best of a kind that the model was not trained on.
    #[arg(value_name = "DIR", required_unless_present = "edits")]
    folder: Option<PathBuf>,
    /// Judge rewriting instead, by the cases of this file.
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = ["folder", "holes", "seed", "calibrate", "actions"])]
    edits: Option<PathBuf>,
    /// Do what menus offer instead, at places where they offer it.
    #[arg(long, conflicts_with = "calibrate")]
    actions: bool,
    /// Holes to fill, as many for each language; in every other one nothing is missing. With --actions, places for each action.
    #[arg(long, value_name = "N", default_value_t = 300)]
    holes: usize,
    /// Seed of the places; the same seed gives the same holes.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Compare thresholds of confidence, and say which one `completion.min_confidence` should be.
    #[arg(long)]
    calibrate: bool,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, Args)]
struct ModelsArgs {
    /// Files and folders to look at, instead of the usual places: the embedded model, the configured one, `~/models`, and what
    /// Hugging Face's tools, Ollama, LM Studio and llama.cpp keep.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ExtentArg {
    Auto,
    Line,
    Statement,
    Block,
}

/// A place in a file, as editors and compilers print it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    file: PathBuf,
    /// From 1.
    line: usize,
    /// From 1, in characters.
    column: usize,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // From the right: a path may have colons in it.
        let mut parts = text.rsplitn(3, ':');
        let (column, line, file) = (parts.next(), parts.next(), parts.next());
        let (Some(column), Some(line), Some(file)) = (column, line, file.filter(|file| !file.is_empty()))
        else {
            return Err("expected a file, a line and a column, such as src/main.rs:12:5".to_owned());
        };
        let count = |what: &str, number: &str| match number.parse() {
            Ok(0) => Err(format!("{what}s count from 1, found 0")),
            Ok(number) => Ok(number),
            Err(_) => Err(format!("expected a number for the {what}, found `{number}`")),
        };
        Ok(Self {
            file: file.into(),
            line: count("line", line)?,
            column: count("column", column)?,
        })
    }
}

/// Lines of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    file: PathBuf,
    /// First and last, from 1; `None` for all of them.
    lines: Option<(usize, usize)>,
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A path may have colons in it, and end with anything but numbers.
        let is_lines = |it: &str| {
            it.starts_with(|c: char| c.is_ascii_digit()) && it.chars().all(|c| c.is_ascii_digit() || c == '-')
        };
        let Some((file, lines)) = text.rsplit_once(':').filter(|(_, lines)| is_lines(lines)) else {
            return Ok(Self {
                file: text.into(),
                lines: None,
            });
        };
        let (start, end) = lines.split_once('-').unwrap_or((lines, lines));
        match (start.parse(), end.parse()) {
            (Ok(0), Ok(_)) => Err("lines count from 1, found 0".to_owned()),
            (Ok(start), Ok(end)) if start <= end => Ok(Self {
                file: file.into(),
                lines: Some((start, end)),
            }),
            _ => Err(format!(
                "expected the first and the last line, such as src/main.rs:12-30, found `{lines}`"
            )),
        }
    }
}

/// Why a command could not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A file that the user named cannot be read.
    #[error("cannot read {path}")]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is in some other encoding, or no text at all.
    #[error(
        "{path} is not text in UTF-8: byte {at} begins no character; convert it first, for example with iconv"
    )]
    NotText {
        /// The file.
        path: PathBuf,
        /// Offset of the first byte that is wrong.
        at: usize,
    },
    /// The file has fewer lines.
    #[error("{path} has {n_lines} lines, so there is no line {line}")]
    NoSuchLine {
        /// The file.
        path: PathBuf,
        /// Lines in it.
        n_lines: usize,
        /// The line asked for.
        line: usize,
    },
    /// There is nothing to ask about.
    #[error(
        "no source files in {0} that could be read; a folder with code in a language that Surmise knows is expected"
    )]
    NoCode(PathBuf),
    /// A setting cannot be followed.
    #[error("{0}")]
    Setting(Problem),
    /// The only drafter allowed is not there.
    #[error("nothing is there for `--speculation {0}` to run; name a file or a folder with `--draft-model`")]
    NoDrafter(DrafterKind),
    /// The model cannot be loaded or run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file of cases is not as it should be.
    #[error("{path}: {reason}")]
    BadCases {
        /// The file.
        path: PathBuf,
        /// What was expected, and what was found.
        reason: String,
    },
    /// The lines cannot be rewritten.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// The new lines are not safe to write.
    #[error(
        "{0} is left as it is: the new lines would bring syntax errors into it; without `--write` they are printed"
    )]
    BreaksSyntax(PathBuf),
    /// The engine failed while it made the suggestion.
    #[error("{0}")]
    Completion(String),
    /// A file that the user asked for cannot be written.
    #[error("cannot write {path}")]
    WriteFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A benchmark came to no end.
    #[error("the benchmark did not work")]
    Bench(#[source] io::Error),
    /// The terminal or the pipe is gone.
    #[error("cannot write")]
    Write(#[from] io::Error),
}

impl Cli {
    /// Runs the command; returns the exit code.
    pub fn run(self) -> Result<i32, CliError> {
        match self.command {
            None => serve(ModelArgs::default()),
            Some(Command::Lsp { model, .. }) => serve(model),
            Some(Command::Complete(args)) => complete::run(&args),
            Some(Command::Edit(args)) => edit::run(&args),
            Some(Command::Eval(args)) => eval::run(&args),
            Some(Command::Bench(args)) => bench::run(&args),
            Some(Command::Models(args)) => models::run(&args),
            Some(Command::Doctor(args)) => doctor::run(&args),
            Some(Command::Config(ConfigCommand::Schema)) => {
                println!("{:#}", Config::schema());
                Ok(0)
            }
        }
    }
}

fn serve(args: ModelArgs) -> Result<i32, CliError> {
    let (user_file, problem) = match read_user_file() {
        Ok(layer) => (layer, None),
        Err(problem) => (None, Some(problem)),
    };
    let options = lsp::Options {
        below_editor: user_file.into_iter().collect(),
        above_editor: vec![args.layer()],
        problems: problem.into_iter().collect(),
        load: Arc::new(model::load_with_progress),
    };
    // The engine has its own threads; these run handlers.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ending = runtime.block_on(lsp::serve(options, tokio::io::stdin(), tokio::io::stdout()))?;
    // The thread that reads standard input may be waiting for more of it; nobody waits for that thread.
    runtime.shutdown_background();
    Ok(ending.exit_code())
}

/// The settings of a command that runs a model: the user's file, and `layer` over it.
fn settings(layer: Layer) -> Result<Config, CliError> {
    let user_file = read_user_file().map_err(CliError::Setting)?;
    let layers: Vec<Layer> = user_file.into_iter().chain([layer]).collect();
    let (config, problems) = Config::from_layers(&layers);
    for problem in problems {
        if problem.is_error() {
            return Err(CliError::Setting(problem));
        }
        tracing::warn!("{problem}");
    }
    Ok(config)
}

/// Reads a file that the user named, which is to have this line, from 1.
fn read_document(file: &Path, line: usize) -> Result<Document, CliError> {
    let bytes = std::fs::read(file).map_err(|source| CliError::ReadFile {
        path: file.to_owned(),
        source,
    })?;
    let text = String::from_utf8(bytes).map_err(|error| CliError::NotText {
        path: file.to_owned(),
        at: error.utf8_error().valid_up_to(),
    })?;
    let document = Document::new(Some(file), None, None, &text);
    let n_lines = document.text.len_lines();
    if line > n_lines {
        return Err(CliError::NoSuchLine {
            path: file.to_owned(),
            n_lines,
            line,
        });
    }
    Ok(document)
}

/// What the prompt shows a path relative to: for a relative path, where it starts.
fn prompt_root(file: &Path) -> Option<PathBuf> {
    if file.is_relative() {
        Some(PathBuf::new())
    } else {
        std::env::current_dir().ok()
    }
}

fn read_user_file() -> Result<Option<Layer>, Problem> {
    config::user_file()
        .map(|path| config::read_file(&path))
        .transpose()
}

impl ModelArgs {
    fn layer(&self) -> Layer {
        let speculation = if self.no_speculation {
            json!(false)
        } else {
            Value::Null
        };
        Layer {
            source: "command line".to_owned(),
            settings: json!({ "model": self.model, "engine": { "draft_model": self.draft_model, "speculation": speculation } }),
        }
    }
}

impl DraftArgs {
    /// How drafts are made: as asked for, or else as the settings say.
    fn speculation(&self, config: &Config) -> Result<Speculation, CliError> {
        match self.speculation {
            Some(Speculation::Only {
                drafter: drafter @ (DrafterKind::DraftModel | DrafterKind::Eagle3),
                ..
            }) if config.engine.draft_model.is_empty() => Err(CliError::NoDrafter(drafter)),
            Some(speculation) => Ok(speculation),
            None => Ok(config.engine.speculation()),
        }
    }

    /// Writes the page that was asked for, if one was.
    fn write_page(&self, page: impl FnOnce() -> String) -> Result<(), CliError> {
        let Some(path) = &self.html else { return Ok(()) };
        std::fs::write(path, page()).map_err(|source| CliError::WriteFile {
            path: path.clone(),
            source,
        })
    }
}

/// One line that keeps changing, where somebody may be watching; an empty one clears it.
fn progress(message: &str) {
    let mut err = io::stderr();
    if err.is_terminal() {
        // Nothing depends on its being seen.
        let _ = write!(err, "\r\x1b[K{message}");
    }
}

fn parse_temperature(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(temperature) if (0.0..=10.0).contains(&temperature) => Ok(temperature),
        _ => Err("expected a number from 0 to 10".to_owned()),
    }
}

fn parse_speculation(text: &str) -> Result<Speculation, String> {
    let known = || {
        let drafters = DrafterKind::ALL.map(DrafterKind::name).join(", ");
        format!(
            "expected `auto`, `off`, a number of tokens from 1 to {MAX_FIXED_DRAFT}, or a drafter, with or without such a number \
             after a colon; the drafters are {drafters}"
        )
    };
    let len = |text: &str| match text.parse() {
        Ok(len @ 1..=MAX_FIXED_DRAFT) => Ok(len),
        _ => Err(known()),
    };
    let (name, after) = match text.split_once(':') {
        Some((name, after)) => (name, Some(after)),
        None => (text, None),
    };
    let drafter = DrafterKind::ALL.into_iter().find(|it| it.name() == name);
    match (drafter, after) {
        (Some(drafter), after) => Ok(Speculation::Only {
            drafter,
            len: after.map(len).transpose()?,
        }),
        (None, None) if name == "auto" => Ok(Speculation::Auto),
        (None, None) if name == "off" => Ok(Speculation::Off),
        (None, None) => Ok(Speculation::Fixed(len(name)?)),
        (None, Some(_)) => Err(known()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let only = |drafter, len| Ok(Speculation::Only { drafter, len });
        for (text, expected) in [
            ("auto", Ok(Speculation::Auto)),
            ("off", Ok(Speculation::Off)),
            ("64", Ok(Speculation::Fixed(64))),
            ("edit", only(DrafterKind::Edit, None)),
            ("eagle3:128", only(DrafterKind::Eagle3, Some(128))),
        ] {
            assert_eq!(parse_speculation(text), expected, "{text}");
        }
        for text in [
            "", "0", "129", "on", "edit:", "edit:0", "edit:x", "auto:3", "edits:3",
        ] {
            let error = parse_speculation(text).unwrap_err();
            assert!(
                error.contains("from 1 to 128") && error.ends_with("draft_model, eagle3"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_command_line_holds_together() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn spans() {
        let span = |text: &str| text.parse::<Span>();
        let of = |file: &str, lines| {
            Ok(Span {
                file: file.into(),
                lines,
            })
        };
        assert_eq!(span("a.rs"), of("a.rs", None));
        assert_eq!(span("C:/a b.rs"), of("C:/a b.rs", None));
        assert_eq!(span("a.rs:3"), of("a.rs", Some((3, 3))));
        assert_eq!(span("C:/a.rs:3-12"), of("C:/a.rs", Some((3, 12))));
        assert_eq!(span("a.rs:0-2").unwrap_err(), "lines count from 1, found 0");
        for text in ["a.rs:4-3", "a.rs:4-", "a.rs:1-2-3"] {
            assert!(
                span(text).unwrap_err().contains("such as src/main.rs:12-30"),
                "{text}"
            );
        }
    }

    #[test]
    fn places() {
        let place = |text: &str| text.parse::<Place>();
        let expected = Place {
            file: "C:/a b.rs".into(),
            line: 12,
            column: 5,
        };
        assert_eq!(place("C:/a b.rs:12:5"), Ok(expected));
        assert_eq!(place("a.rs:0:1").unwrap_err(), "lines count from 1, found 0");
        assert_eq!(
            place("a.rs:1:x").unwrap_err(),
            "expected a number for the column, found `x`"
        );
        for text in ["", "a.rs", "a.rs:1", ":1:1"] {
            assert!(
                place(text).unwrap_err().contains("such as src/main.rs:12:5"),
                "{text}"
            );
        }
    }
}
