//! `surmise bench`: which benchmark is run, and where its answer goes.

mod kernels_table;
mod latency_table;
mod speculation_table;
mod speed_table;
mod startup_table;
mod table;

use std::{
    io::{IsTerminal, Write},
    path::Path,
    time::Duration,
};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    bench::{
        chart::{Chart, svg},
        kernels, latency, speculation, speed,
        speed::Effort,
        startup,
    },
    cli::{BenchArgs, CliError, progress, settings, style::Style},
    config::{Config, Layer},
    model,
};

pub(super) fn run(args: &BenchArgs) -> Result<i32, CliError> {
    let config = settings(layer(args))?;
    if args.latency {
        run_latency(args, &config)?;
    } else if args.startup {
        let startup = startup::measure(&config.model, args.rounds.into()).map_err(CliError::Bench)?;
        print(args.json, &startup, |style| {
            startup_table::render(&startup, style)
        })?;
    } else if args.speculation {
        run_speculation(args, &config)?;
    } else if args.kernels {
        let threads = model::options(&config.engine).threads;
        let kernels = kernels::measure(&args.format, threads, args.rounds.into(), &progress)?;
        progress("");
        print(args.json, &kernels, |style| {
            kernels_table::render(&kernels, style)
        })?;
    } else {
        run_speed(args, &config)?;
    }
    Ok(0)
}

fn run_speculation(args: &BenchArgs, config: &Config) -> Result<(), CliError> {
    let effort = speculation::Effort {
        workloads: args.workload.clone(),
        n_rounds: args.rounds.into(),
        n_tasks: args.tasks,
        with_fixed_lengths: args.plot.is_some(),
        with_tokens: args.with_tokens,
    };
    let report = speculation::measure(
        &model::source(config)?,
        &model::options(&config.engine),
        args.folder.as_deref().unwrap_or(Path::new(".")),
        effort,
        &progress,
    )
    .map_err(CliError::Bench)?;
    progress("");
    plot(args.plot.as_deref(), &report.charts())?;
    print(args.json, &report, |style| {
        speculation_table::render(&report, style)
    })
}

fn run_speed(args: &BenchArgs, config: &Config) -> Result<(), CliError> {
    let effort = Effort {
        n_rounds: args.rounds.into(),
        time: Duration::from_secs(args.seconds),
    };
    let show_progress = |n_rounds: usize| progress(&format!("round {n_rounds} of {} done", effort.n_rounds));
    let speed = speed::measure(
        &model::source(config)?,
        model::options(&config.engine),
        effort,
        &show_progress,
    )?;
    progress("");
    plot(args.plot.as_deref(), &speed.charts())?;
    print(args.json, &speed, |style| speed_table::render(&speed, style))
}

fn run_latency(args: &BenchArgs, config: &Config) -> Result<(), CliError> {
    let show_progress = |n_done: usize| progress(&format!("{n_done} of {} requests", args.requests));
    let latency = latency::measure(
        config,
        args.folder.as_deref(),
        args.lines,
        usize::from(args.requests),
        &show_progress,
    )
    .map_err(CliError::Bench)?;
    progress("");
    print(args.json, &latency, |style| {
        latency_table::render(&latency, style)
    })
}

/// The settings that the command line has an option for.
fn layer(args: &BenchArgs) -> Layer {
    Layer {
        source: "command line".to_owned(),
        settings: json!({ "model": args.model, "engine": { "threads": args.threads, "draft_model": args.draft_model } }),
    }
}

/// JSON, or a table for people.
fn print(as_json: bool, report: &impl Serialize, table: impl Fn(Style) -> String) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    if as_json {
        let mut report = serde_json::to_value(report).unwrap_or_default();
        report["version"] = Value::from(env!("CARGO_PKG_VERSION"));
        writeln!(out, "{report:#}")?;
    } else {
        let style = Style::new(out.is_terminal());
        write!(out, "{}", table(style))?;
    }
    Ok(())
}

fn plot(path: Option<&Path>, charts: &[Chart]) -> Result<(), CliError> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, svg(charts)).map_err(|source| CliError::WriteFile {
        path: path.to_owned(),
        source,
    })
}
