//! `surmise doctor`: what this machine gives, and what is wrong, each fault with its remedy; then the models that are here
//! besides the one in use.

use std::{
    env,
    fmt::Write as _,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::{Value, json};
use surmise_engine::{
    kernels::Isa,
    memory::{Bytes, SystemMemory},
};

use crate::{
    cli::{
        CliError, DoctorArgs,
        models::{memory_json, render_rows, sentence},
        read_user_file,
        style::Style,
    },
    config::{self, Config, Problem},
    model,
    models::{self, Found, Listed, Place},
};

/// Editors that have a client here, and the programs that they are started by.
const EDITORS: [(&str, &[&str]); 3] = [
    ("Zed", &["zed", "zeditor", "zedit"]),
    ("VS Code", &["code", "codium", "code-insiders", "cursor"]),
    ("Neovim", &["nvim"]),
];

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    /// As it should be.
    Good,
    /// Works, but not as well as it could.
    Poor,
    /// Does not work.
    Wrong,
}

/// Something that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    subject: &'static str,
    grade: Grade,
    message: String,
    remedy: Option<String>,
}

impl Finding {
    fn good(subject: &'static str, message: impl Into<String>) -> Self {
        Self {
            subject,
            grade: Grade::Good,
            message: message.into(),
            remedy: None,
        }
    }

    fn bad(
        subject: &'static str,
        grade: Grade,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            subject,
            grade,
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }
}

pub(super) fn run(args: &DoctorArgs) -> Result<i32, CliError> {
    let (config, problems) = read_settings();
    let memory = SystemMemory::now();
    let model = examine_model(&config, memory);
    let others: Vec<Listed> = models::list(models::in_usual_places(&config), &config)
        .into_iter()
        .filter(|row| !row.is_configured)
        .collect();
    let editors = find_editors();
    let mut findings = vec![Finding::good("program", program()), processor()];
    findings.push(Finding::good("memory", in_words(memory)));
    findings.extend(configuration(&problems));
    findings.push(fitness(&model));
    findings.extend(editor_findings(&editors));
    let is_well = findings.iter().all(|it| it.grade != Grade::Wrong);
    let mut out = std::io::stdout().lock();
    if args.json {
        let editors: Vec<Value> = editors
            .iter()
            .map(|(name, path)| json!({ "name": name, "path": path }))
            .collect();
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "is_well": is_well,
            "findings": findings,
            "processor": { "kernels": Isa::detect().name(), "features": Isa::features() },
            "memory": memory.map(memory_json),
            "model": model,
            "other_models": others,
            "editors": editors,
        });
        writeln!(out, "{report:#}")?;
    } else {
        let style = Style::new(out.is_terminal());
        write!(out, "{}", render(&findings, style))?;
        if !others.is_empty() {
            write!(
                out,
                "\nmodels that are here besides\n\n{}",
                render_rows(&others, style)
            )?;
        }
    }
    Ok(i32::from(!is_well))
}

/// The settings of the user's file, and all that is wrong with them.
fn read_settings() -> (Config, Vec<Problem>) {
    match read_user_file() {
        Ok(layer) => Config::from_layers(layer.as_slice()),
        Err(problem) => (Config::default(), vec![problem]),
    }
}

fn program() -> String {
    let inside = match surmise_engine::embedded_model() {
        Some(_) => "with a model inside",
        None => "with no model inside",
    };
    let path =
        env::current_exe().map_or_else(|_| String::new(), |path| format!(", {}", models::shown(&path)));
    format!("surmise {} {inside}{path}", env!("CARGO_PKG_VERSION"))
}

fn processor() -> Finding {
    let (isa, features) = (Isa::detect(), Isa::features().join(" "));
    let n_cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let message = format!(
        "{n_cores} threads, {} kernels ({features}); no other device is used",
        isa.name()
    );
    if isa == Isa::PORTABLE {
        let remedy =
            "a processor with AVX2, or an ARM one with dot products; on this one choose a small model";
        return Finding::bad(
            "processor",
            Grade::Poor,
            format!("{message}; they are slow"),
            remedy,
        );
    }
    Finding::good("processor", message)
}

fn in_words(memory: Option<SystemMemory>) -> String {
    match memory {
        Some(SystemMemory {
            total_bytes,
            available_bytes,
        }) => format!("{} of {} available", Bytes(available_bytes), Bytes(total_bytes)),
        None => "this system does not say; a model that is too large is not refused".to_owned(),
    }
}

fn configuration(problems: &[Problem]) -> Vec<Finding> {
    const SUBJECT: &str = "settings";
    if problems.is_empty() {
        let message = match config::user_file() {
            Some(path) if path.exists() => models::shown(&path),
            Some(path) => format!("defaults; {} would be read", models::shown(&path)),
            None => "defaults; there is no home folder to look for others".to_owned(),
        };
        return vec![Finding::good(SUBJECT, message)];
    }
    let finding = |problem: &Problem| {
        let grade = if problem.is_error() {
            Grade::Wrong
        } else {
            Grade::Poor
        };
        let remedy = "correct it or take it out; `surmise config schema` lists all settings";
        Finding::bad(SUBJECT, grade, problem.to_string(), remedy)
    };
    problems.iter().map(finding).collect()
}

fn examine_model(config: &Config, memory: Option<SystemMemory>) -> Listed {
    let found = Found {
        place: if config.model == "embedded" {
            Place::Embedded
        } else {
            Place::Configured
        },
        setting: config.model.clone(),
        title: None,
        source: model::source(config).map_err(|error| error.to_string()),
    };
    models::describe(found, config, &model::options(&config.engine), memory)
}

/// Whether the model can be run, and how well.
fn fitness(model: &Listed) -> Finding {
    const SUBJECT: &str = "model";
    if let Some(problem) = &model.problem {
        let remedy = "`surmise models` lists what can be run; set `model` to one of them";
        return Finding::bad(
            SUBJECT,
            Grade::Wrong,
            format!("{}: {problem}", model.model),
            remedy,
        );
    }
    let Some(facts) = &model.facts else {
        return Finding::good(SUBJECT, model.model.clone());
    };
    let message = format!(
        "{}: {}, {} at most",
        model.model,
        sentence(facts),
        Bytes(facts.total_bytes)
    );
    match facts.fills_in_the_middle {
        "trained" => Finding::good(SUBJECT, message),
        "no" => Finding::bad(
            SUBJECT,
            Grade::Wrong,
            format!("{message}; it cannot suggest anything"),
            "choose a code model, one that was trained to fill in the middle",
        ),
        _ => Finding::bad(
            SUBJECT,
            Grade::Poor,
            format!("{message}; it is asked for completions in words"),
            "a code model suggests better",
        ),
    }
}

/// Editors on the PATH, by name.
fn find_editors() -> Vec<(&'static str, PathBuf)> {
    EDITORS
        .into_iter()
        .filter_map(|(name, programs)| Some((name, programs.iter().find_map(|program| on_path(program))?)))
        .collect()
}

/// What was found, and whether the editors find this program.
fn editor_findings(editors: &[(&str, PathBuf)]) -> Vec<Finding> {
    const SUBJECT: &str = "editors";
    let known = EDITORS.map(|(name, _)| name).join(", ");
    let names: Vec<&str> = editors.iter().map(|(name, _)| *name).collect();
    let editors_found = if names.is_empty() {
        Finding::bad(
            SUBJECT,
            Grade::Poor,
            format!("none on the PATH; known: {known}"),
            "nothing, if yours is started another way; `surmise lsp` serves every editor with inline completions of LSP 3.18",
        )
    } else {
        Finding::good(SUBJECT, names.join(", "))
    };
    let own = env::current_exe().ok();
    let folder = own.as_deref().and_then(Path::parent).map_or_else(
        || "its folder".to_owned(),
        |folder| format!("`{}`", models::shown(folder)),
    );
    let program = match on_path("surmise") {
        None => Finding::bad(
            SUBJECT,
            Grade::Wrong,
            "they look for `surmise` on the PATH, and it is not there",
            format!("put {folder} on the PATH, or the program's path into the editor's settings"),
        ),
        Some(found) if own.as_ref().is_some_and(|own| !is_same(own, &found)) => Finding::bad(
            SUBJECT,
            Grade::Poor,
            format!(
                "they start {}, which is another program than this one",
                models::shown(&found)
            ),
            format!("put {folder} first on the PATH, if this is the one to use"),
        ),
        Some(found) => Finding::good(SUBJECT, format!("they start {}", models::shown(&found))),
    };
    vec![editors_found, program]
}

fn is_same(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// The first program of this name in the folders of the PATH.
fn on_path(program: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    let endings: &[&str] = if cfg!(windows) { &[".exe", ".cmd"] } else { &[""] };
    env::split_paths(&folders)
        .flat_map(|folder| {
            endings
                .iter()
                .map(move |ending| folder.join(format!("{program}{ending}")))
        })
        .find(|path| is_executable(path))
}

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(path: &Path) -> bool {
    path.is_file()
}

fn render(findings: &[Finding], style: Style) -> String {
    let Style {
        strong,
        added,
        removed,
        faint,
        reset,
        ..
    } = style;
    let mut out = String::new();
    for finding in findings {
        let mark = match finding.grade {
            Grade::Good => format!("{added}ok{reset}   "),
            Grade::Poor => format!("{strong}note{reset} "),
            Grade::Wrong => format!("{removed}wrong{reset}"),
        };
        let _ = writeln!(out, "{mark} {:<10} {}", finding.subject, finding.message);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(out, "                 {faint}try: {remedy}{reset}");
        }
    }
    out
}
