//! What the model wrote, token by token, in the colours of the drafters that proposed it: for a terminal and as a page.

use std::{fmt::Write, ops::Range};

use surmise_engine::{
    request::{Finish, SpeculationStats},
    speculative::drafter::DrafterKind,
};

use crate::{completion::TracedToken, document::Document};

/// What a model wrote, and what the engine says about it if it came to an end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written<'a> {
    pub(super) tokens: &'a [TracedToken],
    pub(super) finish: Option<&'a Finish>,
}

/// Colour of a drafter, in CSS and as one of the 256 of terminals.
fn colour(drafter: DrafterKind) -> (&'static str, u8) {
    match drafter {
        DrafterKind::PromptLookup => ("#2f7fd6", 33),
        DrafterKind::Copy => ("#0a8f8f", 37),
        DrafterKind::References => ("#4d8b31", 70),
        DrafterKind::Edit => ("#c2571a", 166),
        DrafterKind::DraftModel => ("#8a4fbf", 97),
        DrafterKind::Eagle3 => ("#b8326b", 161),
    }
}

/// What stands for a line break, before it.
const LINE_BREAK: &str = "↵";

/// For a terminal. Without colours, drafted tokens stand in brackets.
pub(super) fn text(written: Written<'_>, has_colours: bool) -> String {
    let mut out = String::new();
    for token in written.tokens {
        let text = token.text.replace('\n', &format!("{LINE_BREAK}\n"));
        // `write!` to a string cannot fail.
        let _ = match token.drafter {
            Some(drafter) if has_colours => write!(out, "\x1b[38;5;{}m{text}\x1b[0m", colour(drafter).1),
            Some(_) => write!(out, "[{text}]"),
            None => write!(out, "{text}"),
        };
    }
    out.push('\n');
    let Some(finish) = written.finish else { return out };
    let stats = &finish.speculation;
    for drafter in used(stats) {
        let counts = stats.of(drafter);
        let name = format!("{:<14}", drafter.name());
        let name = if has_colours {
            format!("\x1b[38;5;{}m{name}\x1b[0m", colour(drafter).1)
        } else {
            name
        };
        let _ = writeln!(
            out,
            "{name} {:>4} of {:>4} accepted · {} recovered · {} bonus · {:.2} tokens per step",
            counts.accepted,
            counts.proposed,
            counts.recovered,
            counts.bonus,
            counts.tokens_per_step()
        );
    }
    let [draft, verify, commit] = millis(stats);
    let _ = writeln!(
        out,
        "{} tokens in {} steps · draft {draft:.2} ms · verify {verify:.2} ms · commit {commit:.2} ms",
        stats.emitted, stats.steps
    );
    out
}

fn used(stats: &SpeculationStats) -> impl Iterator<Item = DrafterKind> {
    DrafterKind::ALL.into_iter().filter(|&it| stats.of(it).steps > 0)
}

fn millis(stats: &SpeculationStats) -> [f64; 3] {
    [stats.draft_nanos, stats.verify_nanos, stats.commit_nanos].map(|nanos| nanos as f64 / 1e6)
}

const STYLE: &str = "\
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { font: 14px/1.6 ui-monospace, monospace; padding: 1rem; border: 1px solid #8888; border-radius: 6px;
  overflow-x: auto; }
pre span { border-radius: 3px; padding: 0.15em 0; }
.context { opacity: 0.5; }
.plain { border-bottom: 1px dotted #8888; }
.drafted { color: white; }
table { border-collapse: collapse; }
th, td { padding: 0.2rem 0.9rem 0.2rem 0; text-align: right; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
.key { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 3px; margin-right: 0.5em; }
";

/// A page for a browser: the text in place of some bytes of the document, and a table of what each drafter did.
pub(super) fn page(place: &str, document: &Document, replaced: Range<usize>, written: Written<'_>) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Surmise at {place}</title>\n\
         <style>\n{STYLE}</style>\n<h1>{place}</h1>\n",
        place = escape(place)
    );
    let before = document.excerpt(0..replaced.start);
    let after = document.excerpt(replaced.end..document.text.len_bytes());
    // Some lines of the document around the text, for orientation.
    let start = before.rmatch_indices('\n').nth(8).map_or(0, |(at, _)| at + 1);
    let end = after.match_indices('\n').nth(8).map_or(after.len(), |(at, _)| at);
    let _ = write!(
        out,
        "<pre><span class=\"context\">{}</span>",
        escape(&before[start..])
    );
    for token in written.tokens {
        let text = escape(&token.text).replace('\n', &format!("{LINE_BREAK}\n"));
        let percent = token.probability * 100.0;
        let _ = match token.drafter {
            Some(drafter) => write!(
                out,
                "<span class=\"drafted\" style=\"background:{}\" title=\"{drafter}, {percent:.0} %\">{text}</span>",
                colour(drafter).0
            ),
            None => write!(
                out,
                "<span class=\"plain\" title=\"model, {percent:.0} %\">{text}</span>"
            ),
        };
    }
    let _ = writeln!(
        out,
        "<span class=\"context\">{}</span></pre>",
        escape(&after[..end])
    );
    if let Some(finish) = written.finish {
        table(&finish.speculation, &mut out);
    }
    out
}

fn table(stats: &SpeculationStats, out: &mut String) {
    out.push_str(
        "<table>\n<tr><th>drafter<th>steps<th>proposed<th>accepted<th>recovered<th>bonus<th>tokens per step\n",
    );
    for drafter in used(stats) {
        let counts = stats.of(drafter);
        let _ = writeln!(
            out,
            "<tr><td><span class=\"key\" style=\"background:{}\"></span>{drafter}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{:.2}",
            colour(drafter).0,
            counts.steps,
            counts.proposed,
            counts.accepted,
            counts.recovered,
            counts.bonus,
            counts.tokens_per_step()
        );
    }
    let [draft, verify, commit] = millis(stats);
    let _ = writeln!(
        out,
        "</table>\n<p>{} tokens in {} steps, {:.2} per step. Draft {draft:.2} ms, verify {verify:.2} ms, commit \
         {commit:.2} ms.</p>\n<p><span class=\"plain\">Underlined</span> is what the model wrote without a draft.</p>",
        stats.emitted,
        stats.steps,
        stats.tokens_per_step()
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_the_colour_of_their_drafter() {
        let token = |text: &str, drafter| TracedToken {
            text: text.to_owned(),
            probability: 0.5,
            drafter,
        };
        let written = Written {
            tokens: &[token("a", None), token("<b\n", Some(DrafterKind::Copy))],
            finish: None,
        };
        assert_eq!(text(written, false), "a[<b↵\n]\n");
        assert!(text(written, true).contains("\x1b[38;5;37m<b↵\n\x1b[0m"));
        let document = Document::new(None, None, None, "x < gone y");
        let page = page("a.rs:1:5", &document, 4..9, written);
        assert!(page.contains(
            "<span class=\"context\">x &lt; </span><span class=\"plain\" title=\"model, 50 %\">a</span>"
        ));
        assert!(page.contains("title=\"copy, 50 %\">&lt;b↵\n</span><span class=\"context\">y</span></pre>"));
    }
}
