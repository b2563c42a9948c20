//! `surmise complete FILE:LINE:COL`: the pipeline once, from the command line.

use std::{
    io::{IsTerminal, Write},
    time::Instant,
};

use serde_json::json;
use surmise_engine::request::SamplingParams;

use crate::{
    cli::{
        CliError, CompleteArgs, ExtentArg, prompt_root, read_document, render, settings, style::Style, trace,
    },
    completion::{Completion, Query, complete, report::millis, trigger::Trigger, withheld::Withheld},
    config::{Config, Layer},
    document::Document,
    model,
    position::{Encoding, Position, offset_at},
};

pub(super) fn run(args: &CompleteArgs) -> Result<i32, CliError> {
    let config = settings(layer(args))?;
    let document = read_document(&args.place.file, args.place.line)?;
    let query = query(args, &config, document);
    let started = Instant::now();
    let engine = model::load(&config)?;
    let load_time = started.elapsed();
    if let Some(note) = model::fim_note(&engine) {
        tracing::warn!("{}: {note}", engine.info().model_name);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let completion = runtime.block_on(complete(&engine, &query));

    let mut out = std::io::stdout().lock();
    if args.json {
        let mut report = completion.report(&query.document);
        report["file"] = args.place.file.to_string_lossy().into();
        report["position"] = json!({ "line": args.place.line, "column": args.place.column });
        report["model"] = json!({ "name": engine.info().model_name, "load_ms": millis(load_time) });
        writeln!(out, "{report:#}")?;
    } else {
        let style = Style::new(out.is_terminal());
        write!(out, "{}", render::completion(&query, &completion, style))?;
        if args.trace {
            write!(out, "\n{}", trace::text(&completion.trace, out.is_terminal()))?;
        }
    }
    if let Some(path) = &args.html {
        let page = trace::page(&args.place, &query, &completion.trace);
        std::fs::write(path, page).map_err(|source| CliError::WriteFile {
            path: path.clone(),
            source,
        })?;
    }
    match completion {
        Completion {
            outcome: Err(Withheld::EngineFailed { message }),
            ..
        } => Err(CliError::Completion(message)),
        _ => Ok(0),
    }
}

/// The settings that the command line has an option for.
fn layer(args: &CompleteArgs) -> Layer {
    let mut layer = args.model.layer();
    let extent = args.extent.map(|extent| match extent {
        ExtentArg::Auto => "auto",
        ExtentArg::Line => "line",
        ExtentArg::Statement => "statement",
        ExtentArg::Block => "block",
    });
    layer.settings["completion"] = json!({ "max_tokens": args.max_tokens, "extent": extent });
    layer
}

fn query(args: &CompleteArgs, config: &Config, document: Document) -> Query {
    let position = Position {
        line: args.place.line - 1,
        column: args.place.column - 1,
    };
    Query {
        at: offset_at(&document.text, position, Encoding::Utf32),
        document,
        trigger: Trigger::Invoked,
        root: prompt_root(&args.place.file),
        config: config.completion.clone(),
        sampling: SamplingParams {
            temperature: args.temperature,
            seed: args.seed,
            ..Default::default()
        },
        speculation: config.engine.speculation(),
        beside: Default::default(),
    }
}
