//! A completion as JSON, for `complete --json` and `surmise/explain`: what came of it, and why.

use std::{ops::Range, time::Duration};

use serde_json::{Map, Value, json};
use surmise_engine::{
    request::{DrafterStats, Finish, FinishReason, SpeculationStats},
    speculative::drafter::DrafterKind,
};

use crate::{
    completion::Completion,
    document::Document,
    position::{Encoding, position_at},
};

impl Completion {
    /// What came of the query and how, as JSON. Lines and columns count from 1, columns in characters;
    /// offsets are bytes from 0; durations are milliseconds.
    pub fn report(&self, document: &Document) -> Value {
        let suggestion = self.outcome.as_ref().ok().map(|suggestion| {
            json!({ "text": suggestion.text, "range": range(document, suggestion.range.clone()) })
        });
        let withheld = self.outcome.as_ref().err().map(|withheld| {
            let mut value = serde_json::to_value(withheld).unwrap_or_default();
            value["message"] = withheld.to_string().into();
            value
        });
        let trace = &self.trace;
        json!({
            "suggestion": suggestion,
            "withheld": withheld,
            "language": document.language().name(),
            "extent": trace.extent.map(|extent| format!("{extent:?}").to_lowercase()),
            "confidence": trace.confidence,
            "reused": trace.reused,
            "generated": trace.generated,
            "steps": trace.steps,
            "tokens": trace.tokens,
            "drafted_tokens": trace.tokens.iter().filter(|it| it.drafter.is_some()).count(),
            "elapsed_ms": millis(trace.elapsed),
            "stages_ms": {
                "change": millis(trace.stages.change),
                "trigger": millis(trace.stages.trigger),
                "context": millis(trace.stages.context),
                "prompt": millis(trace.stages.prompt),
                "postprocess": millis(trace.stages.postprocess),
            },
            "engine": trace.finish.as_ref().map(engine),
        })
    }
}

fn engine(finish: &Finish) -> Value {
    let Finish {
        reason,
        usage,
        timings,
        speculation,
    } = finish;
    json!({
        "finish_reason": finish_name(reason),
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "reused_tokens": usage.reused_tokens,
            "generated_tokens": usage.generated_tokens,
        },
        "timings": {
            "queued_ms": millis(timings.queued),
            "time_to_first_token_ms": millis(timings.time_to_first_token),
            "prefill_ms": millis(timings.prefill),
            "decode_ms": millis(timings.decode),
            "tokens_per_second": tokens_per_second(finish),
        },
        "speculation": self::speculation(speculation),
    })
}

/// What the drafters did; those that proposed nothing are left out.
pub fn speculation(stats: &SpeculationStats) -> Value {
    let drafter = |stats: &DrafterStats| {
        json!({
            "steps": stats.steps,
            "proposed": stats.proposed,
            "accepted": stats.accepted,
            "recovered": stats.recovered,
            "bonus": stats.bonus,
            "tokens_per_step": stats.tokens_per_step(),
            "acceptance_rate": stats.acceptance_rate(),
        })
    };
    let used = DrafterKind::ALL.into_iter().filter(|&it| stats.of(it).steps > 0);
    let by_drafter: Map<String, Value> = used
        .map(|it| (it.name().to_owned(), drafter(stats.of(it))))
        .collect();
    let mut report = drafter(&stats.total());
    report["steps"] = stats.steps.into();
    report["emitted"] = stats.emitted.into();
    report["tokens_per_step"] = stats.tokens_per_step().into();
    report["drafters"] = by_drafter.into();
    for (name, nanos) in [
        ("draft_ms", stats.draft_nanos),
        ("verify_ms", stats.verify_nanos),
        ("commit_ms", stats.commit_nanos),
    ] {
        report[name] = millis(Duration::from_nanos(nanos)).into();
    }
    report
}

/// Tokens per second of decoding, the first token not counted; none if there was but one.
pub fn tokens_per_second(finish: &Finish) -> Option<f64> {
    let n_decoded = finish.usage.generated_tokens.checked_sub(1).filter(|n| *n > 0)?;
    let seconds = finish.timings.decode.as_secs_f64();
    (seconds > 0.0).then(|| n_decoded as f64 / seconds)
}

/// One word for why a generation ended; `enough` is when we ended it.
fn finish_name(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::StopToken(_) => "stop_token",
        FinishReason::StopString(_) => "stop_string",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "enough",
    }
}

fn range(document: &Document, range: Range<usize>) -> Value {
    let place = |offset| {
        let position = position_at(&document.text, offset, Encoding::Utf32);
        json!({ "line": position.line + 1, "column": position.column + 1, "offset": offset })
    };
    json!({ "start": place(range.start), "end": place(range.end) })
}

/// Milliseconds, to the microsecond.
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
