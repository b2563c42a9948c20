//! `surmise bench --startup`: from the start of a process to the end of one that wrote a first token.
//!
//! The real program is run, `surmise complete` on a file of three lines: everything that a user waits for is in the
//! time, the start of the process, settings, parser, model, prefill, a step, and the end of the process.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use serde::Serialize;
use serde_json::Value;

use super::spread::Spread;

/// What is completed, and where.
const CODE: &str = "fn total(items: &[u32]) -> u32 {\n    let mut sum = \n}\n";
const PLACE: &str = "2:19";

/// How long a start takes.
#[derive(Debug, Clone, Serialize)]
pub struct Startup {
    /// Runs of each sort.
    pub n_runs: usize,
    /// With the program and the model's file in the page cache.
    pub warm: Start,
    /// With neither there; none if the system keeps them.
    pub cold: Option<Start>,
    /// `surmise --version` with a warm cache: what starting and ending a process takes by itself.
    pub process_ms: Spread,
}

/// One sort of start.
#[derive(Debug, Clone, Serialize)]
pub struct Start {
    /// From the start of the process to its end, with one token written.
    pub total_ms: Spread,
    /// Loading the model.
    pub load_ms: Spread,
    /// From handing in the prompt to the first token; none if the model cannot fill in the middle, and then the total
    /// is without it too.
    pub first_token_ms: Option<Spread>,
}

/// Starts the program that is running `n_runs` times with a warm cache and `n_runs` times with a cold one. `model` is
/// what the command line calls it.
///
/// # Errors
/// A folder for temporary files that cannot be written, and a program that does not do what it should.
pub fn measure(model: &str, n_runs: usize) -> io::Result<Startup> {
    let folder = Folder::new()?;
    // A copy: the system keeps the pages of a program that is running.
    let program = folder.0.join(format!("surmise{}", std::env::consts::EXE_SUFFIX));
    fs::copy(std::env::current_exe()?, &program)?;
    let source = folder.0.join("startup.rs");
    fs::write(&source, CODE)?;
    let place = format!("{}:{PLACE}", source.display());
    let arguments = [
        "complete",
        &place,
        "--json",
        "--max-tokens",
        "1",
        "--model",
        model,
    ];

    let n_runs = n_runs.max(1);
    let (mut warm, mut cold, mut process_ms) = (Vec::new(), Vec::new(), Vec::new());
    run(&program, &arguments)?;
    for _ in 0..n_runs {
        warm.push(run(&program, &arguments)?);
        let started = Instant::now();
        spawn(&program, &["--version"])?;
        process_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let files: Vec<&Path> = [program.as_path(), Path::new(model)]
        .into_iter()
        .filter(|path| path.is_file())
        .collect();
    for _ in 0..n_runs {
        let is_cold = files
            .iter()
            .map(|path| evict(path))
            .collect::<io::Result<Vec<bool>>>()?;
        if is_cold.contains(&false) {
            break;
        }
        cold.push(run(&program, &arguments)?);
    }
    Ok(Startup {
        n_runs,
        warm: Start::of(&warm),
        cold: (cold.len() == n_runs).then(|| Start::of(&cold)),
        process_ms: Spread::of(process_ms),
    })
}

/// A folder that is gone when the benchmark is over.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("surmise-bench-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is in the system's folder for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Milliseconds of one run.
struct Run {
    total: f64,
    load: f64,
    first_token: Option<f64>,
}

impl Start {
    fn of(runs: &[Run]) -> Self {
        let spread = |value: fn(&Run) -> f64| Spread::of(runs.iter().map(value).collect());
        Self {
            total_ms: spread(|run| run.total),
            load_ms: spread(|run| run.load),
            first_token_ms: runs
                .iter()
                .map(|run| run.first_token)
                .collect::<Option<_>>()
                .map(Spread::of),
        }
    }
}

fn run(program: &Path, arguments: &[&str]) -> io::Result<Run> {
    let started = Instant::now();
    let output = spawn(program, arguments)?;
    let total = started.elapsed().as_secs_f64() * 1e3;
    let report: Value = serde_json::from_slice(&output).map_err(io::Error::other)?;
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64);
    let load = number("/model/load_ms");
    Ok(Run {
        total,
        load: load.ok_or_else(|| io::Error::other("`surmise complete` reports no time of loading"))?,
        first_token: number("/engine/timings/time_to_first_token_ms"),
    })
}

/// Runs the program to its end; what it prints.
fn spawn(program: &Path, arguments: &[&str]) -> io::Result<Vec<u8>> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    // A model that cannot fill in the middle gives a report, and then a failure.
    if output.status.success() || !output.stdout.is_empty() {
        Ok(output.stdout)
    } else {
        let message = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(message.trim().to_owned()))
    }
}

/// Asks the system to drop what it has cached of a file; whether it has.
#[cfg(target_os = "linux")]
fn evict(path: &Path) -> io::Result<bool> {
    use rustix::{
        fs::{Advice, fadvise},
        io::{Errno, ReadWriteFlags, preadv2},
    };

    let file = File::open(path)?;
    // Only what is on the disk already can be dropped.
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let middle = file.metadata()?.len() / 2;
    let mut byte = [0];
    let read = preadv2(
        &file,
        &mut [io::IoSliceMut::new(&mut byte)],
        middle,
        ReadWriteFlags::NOWAIT,
    );
    Ok(read == Err(Errno::AGAIN))
}

/// There is no way to ask.
#[cfg(not(target_os = "linux"))]
fn evict(path: &Path) -> io::Result<bool> {
    File::open(path)?;
    Ok(false)
}
