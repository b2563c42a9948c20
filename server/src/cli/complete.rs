//! `surmise complete FILE:LINE:COL`: the pipeline once, from the command line.

use std::{
    io::{IsTerminal, Write},
    time::Instant,
};

use serde_json::json;
use surmise_engine::request::SamplingParams;

use crate::{
    cli::{
        CliError, CompleteArgs, ExtentArg, Place, prompt_root, read_document, render, settings,
        style::Style,
        trace::{self, Written},
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
    let query = query(args, &config, document)?;
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

    let written = Written {
        tokens: &completion.trace.tokens,
        finish: completion.trace.finish.as_ref(),
    };
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
        if args.draft.trace {
            write!(out, "\n{}", trace::text(written, out.is_terminal()))?;
        }
    }
    args.draft.write_page(|| {
        let Place { file, line, column } = &args.place;
        let title = format!("{}:{line}:{column}", file.display());
        trace::page(&title, &query.document, query.at..query.at, written)
    })?;
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

fn query(args: &CompleteArgs, config: &Config, document: Document) -> Result<Query, CliError> {
    let position = Position {
        line: args.place.line - 1,
        column: args.place.column - 1,
    };
    Ok(Query {
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
        speculation: args.draft.speculation(config)?,
        beside: Default::default(),
    })
}
