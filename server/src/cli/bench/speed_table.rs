//! What `surmise bench` measured, as people read it.

use std::fmt::Write;

use crate::{
    bench::speed::{MachineFacts, ModelFacts, ReadBandwidth, SGLANG_RATES, Speed},
    cli::{
        bench::table::{Section, bytes, count, millis, thousands},
        style::Style,
    },
};

/// A screenful for a terminal.
pub(super) fn render(speed: &Speed, style: Style) -> String {
    let Style { faint, reset, .. } = style;
    let Speed {
        model: ModelFacts {
            name,
            architecture,
            step_bytes,
        },
        machine:
            MachineFacts {
                n_threads,
                instructions,
                read_large,
                read_model,
            },
        ..
    } = speed;
    let mut out = format!(
        "{name} {faint}({architecture}, {} of weights a token){reset} on {n_threads} threads, {instructions}\n\
         memory reads at {} from {}, {} from {}\n",
        bytes(*step_bytes),
        rate(read_large),
        bytes(read_large.working_set_bytes),
        rate(read_model),
        bytes(read_model.working_set_bytes),
    );
    let mut section = Section { out: &mut out, style };

    section.heading("prefill", "tokens/s");
    let fastest = speed
        .prefill
        .iter()
        .map(|it| it.tokens_per_second.median)
        .fold(0.0, f64::max);
    for row in &speed.prefill {
        let bar = row.tokens_per_second.median / fastest;
        section.row(
            &count(row.n_tokens, "token", "tokens"),
            &row.tokens_per_second,
            thousands,
            bar,
            "",
        );
    }

    section.heading("decode", "tokens/s");
    let decode = &speed.decode;
    let note = format!(
        "{:.1} GB/s of weights, {:.0} % of what memory gives",
        decode.bytes_per_second / 1e9,
        decode.share_of_bandwidth * 100.0
    );
    section.row("1 sequence", &decode.tokens_per_second, thousands, 0.0, &note);

    section.heading("a step of", "ms");
    let dearest = speed.steps.iter().map(|it| it.relative).fold(0.0, f64::max);
    for row in &speed.steps {
        let note = format!("{:.2} x", row.relative);
        let label = count(row.n_rows, "row", "rows");
        section.row(&label, &row.milliseconds, millis, row.relative / dearest, &note);
    }

    section.heading("together", "tokens/s");
    let most = speed.batches.iter().map(|it| it.scaling).fold(0.0, f64::max);
    let last = speed.batches.len() - 1;
    for (idx, row) in speed.batches.iter().enumerate() {
        let peer = if idx == last {
            let [one, all] = SGLANG_RATES;
            let scaling = all / one;
            format!("   (SGLang on a DGX Spark: {one} to {all} tokens/s, {scaling:.1} x)")
        } else {
            String::new()
        };
        let note = format!("{:.2} x{peer}", row.scaling);
        let label = count(row.n_sequences, "sequence", "sequences");
        section.row(
            &label,
            &row.tokens_per_second,
            thousands,
            row.scaling / most,
            &note,
        );
    }

    if let Some(memory) = &speed.memory {
        let _ = writeln!(
            out,
            "\nmemory taken {}: {:.2} times the {} of weights and {} of keys and values; {} planned",
            bytes(memory.resident_bytes as usize),
            memory.relative(),
            bytes(memory.weight_bytes),
            bytes(memory.kv_bytes),
            bytes(memory.planned_bytes),
        );
    }
    let rounds = count(speed.n_rounds, "round", "rounds");
    let _ = writeln!(
        out,
        "{faint}medians of {rounds}; ± is half the distance between the quartiles{reset}"
    );
    out
}

fn rate(bandwidth: &ReadBandwidth) -> String {
    format!("{:.1} GB/s", bandwidth.bytes_per_second.median / 1e9)
}
