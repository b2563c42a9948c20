//! `surmise models`: what can be run now, and what each takes of memory.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write},
};

use serde_json::json;
use surmise_engine::memory::{Bytes, SystemMemory};

use crate::{
    cli::{CliError, ModelsArgs, settings, style::Style},
    config::Layer,
    models::{self, Facts, Listed},
};

pub(super) fn run(args: &ModelsArgs) -> Result<i32, CliError> {
    let config = settings(Layer::empty("command line"))?;
    let found = match &args.paths[..] {
        [] => models::in_usual_places(&config),
        paths => models::in_paths(paths),
    };
    let listed = models::list(found, &config);
    let memory = SystemMemory::now();
    let mut out = std::io::stdout().lock();
    if args.json {
        let memory = memory.map(memory_json);
        writeln!(out, "{:#}", json!({ "memory": memory, "models": listed }))?;
    } else {
        let style = Style::new(out.is_terminal());
        write!(out, "{}", render(&listed, memory, style))?;
    }
    Ok(0)
}

pub(super) fn memory_json(memory: SystemMemory) -> serde_json::Value {
    json!({ "total_bytes": memory.total_bytes, "available_bytes": memory.available_bytes })
}

/// Rows under the names of the places, the memory that they have, and what the star means.
fn render(listed: &[Listed], memory: Option<SystemMemory>, style: Style) -> String {
    let Style { faint, reset, .. } = style;
    let mut out = render_rows(listed, style);
    if listed.is_empty() {
        out.push_str("no models\n");
    }
    let memory = match memory {
        Some(SystemMemory {
            total_bytes,
            available_bytes,
        }) => format!(
            "{} of {} of memory are available; ",
            Bytes(available_bytes),
            Bytes(total_bytes)
        ),
        None => String::new(),
    };
    let _ = writeln!(out, "\n{faint}{memory}* is what the setting `model` names{reset}");
    out
}

/// Rows under the names of the places.
pub(super) fn render_rows(listed: &[Listed], style: Style) -> String {
    let Style {
        strong, faint, reset, ..
    } = style;
    let mut out = String::new();
    let mut place = None;
    for row in listed {
        if place.replace(row.place) != Some(row.place) {
            let blank = if out.is_empty() { "" } else { "\n" };
            let _ = writeln!(out, "{blank}{strong}{}{reset}", row.place.name());
        }
        let mark = if row.is_configured { '*' } else { ' ' };
        let title = row
            .title
            .as_ref()
            .map_or_else(String::new, |title| format!("{title}  "));
        let _ = writeln!(out, "{mark} {title}{}", row.model);
        if let Some(facts) = &row.facts {
            let _ = writeln!(out, "    {faint}{}{reset}", sentence(facts));
        }
        if let Some(problem) = &row.problem {
            let _ = writeln!(out, "    cannot be run: {problem}");
        }
    }
    out
}

/// One line: what it is, what it takes, how much it can read.
pub(super) fn sentence(facts: &Facts) -> String {
    let Facts {
        architecture,
        format,
        parameters,
        weight_bytes,
        kv_bytes_per_1000_tokens,
        ..
    } = facts;
    let note = match facts.fills_in_the_middle {
        "trained" => "",
        "no" => ", no completions",
        _ => ", completions in words",
    };
    format!(
        "{architecture}, {}, {format}: {} of weights, {} for 1,000 tokens, {}{note}",
        count(*parameters),
        Bytes(*weight_bytes),
        Bytes(*kv_bytes_per_1000_tokens),
        context(facts)
    )
}

/// Tokens that fit, and which of the model, memory and settings is the limit if it is not the model.
fn context(facts: &Facts) -> String {
    let Facts {
        context_length,
        allowed_context,
        fitting_context,
        ..
    } = *facts;
    let fitting = fitting_context.unwrap_or(context_length);
    let mut text = format!("context {fitting}");
    if fitting < context_length {
        let _ = write!(text, " of {context_length} in this memory");
    }
    if allowed_context < fitting {
        let _ = write!(text, ", {allowed_context} by the settings");
    }
    text
}

/// `1543714304` as `1.54 B`.
fn count(n: usize) -> String {
    match n {
        1_000_000_000.. => format!("{:.2} B parameters", n as f64 / 1e9),
        1_000_000.. => format!("{:.1} M parameters", n as f64 / 1e6),
        _ => format!("{n} parameters"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::models::Place;

    #[test]
    fn limits_are_named() {
        let facts = Facts {
            architecture: "qwen2".to_owned(),
            parameters: 1_543_714_304,
            format: "GGUF Q4_K".to_owned(),
            fills_in_the_middle: "trained",
            weight_bytes: 935 << 20,
            kv_bytes_per_1000_tokens: 28_672_000,
            total_bytes: 1 << 30,
            context_length: 131_072,
            allowed_context: 18_720,
            fitting_context: Some(100_000),
        };
        let row = |facts, problem: Option<&str>| Listed {
            model: "~/models/a.gguf".to_owned(),
            place: Place::Models,
            title: None,
            is_configured: problem.is_none(),
            facts,
            problem: problem.map(str::to_owned),
        };
        let memory = SystemMemory {
            total_bytes: 16 << 30,
            available_bytes: 4 << 30,
        };
        let rows = [row(Some(facts), None), row(None, Some("not a GGUF file"))];
        expect![[r#"
            ~/models
            * ~/models/a.gguf
                qwen2, 1.54 B parameters, GGUF Q4_K: 935 MiB of weights, 27.3 MiB for 1,000 tokens, context 100000 of 131072 in this memory, 18720 by the settings
              ~/models/a.gguf
                cannot be run: not a GGUF file

            4.00 GiB of 16.0 GiB of memory are available; * is what the setting `model` names
        "#]]
        .assert_eq(&render(&rows, Some(memory), Style::new(false)));
    }
}
