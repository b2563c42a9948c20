//! The `surmise` binary: parse, log, run.

use std::io::IsTerminal;

use anyhow::Context;
use clap::Parser;
use surmise::cli::Cli;
use tracing_subscriber::EnvFilter;

fn main() {
    let code = match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            1
        }
    };
    std::process::exit(code);
}

fn run() -> anyhow::Result<i32> {
    let cli = Cli::parse();
    let filter =
        EnvFilter::try_new(&cli.log).with_context(|| format!("`--log {}` is not a filter", cli.log))?;
    // Standard output belongs to the protocol and to what was asked for.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(cli.run()?)
}
