//! The real binary with the model that is embedded in it (or `SURMISE_TEST_MODEL`): ghost text and `complete`.

use serde_json::{Value, json};
use surmise_tests::{Client, ClientOptions, binary, fixtures, random::position};

/// Places where a small model has a chance: line ends of our own fixtures.
const FIXTURES: [(&str, &str); 4] = [
    ("rust/ledger.rs", "rust"),
    ("python/inventory.py", "python"),
    ("typescript/queue.ts", "typescript"),
    ("go/cache.go", "go"),
];

#[test]
fn an_editor_gets_real_suggestions() {
    let mut client = Client::start(ClientOptions::default());
    client.wait_until_ready();
    let (mut n_shown, mut n_asked) = (0, 0);
    for (name, language) in FIXTURES {
        let uri = format!("file://{}", fixtures::path(name).display());
        let text = fixtures::read(name);
        client.open(&uri, language, &text);
        // In the middle of every fifth line: the rest of it stands there, but asking gets an answer.
        for at in text.match_indices('\n').map(|(at, _)| at).step_by(5) {
            let line_start = text[..at].rfind('\n').map_or(0, |end| end + 1);
            let (line, column) = position(&text, line_start + (at - line_start) / 2, true);
            let answer = client.request(
                "textDocument/inlineCompletion",
                Client::inline_params(&uri, line, column, 1),
            );
            let items = answer["items"].as_array().expect("a list");
            n_asked += 1;
            if let Some(item) = items.first() {
                n_shown += 1;
                let shown = item["insertText"].as_str().expect("text");
                assert!(!shown.trim().is_empty() && !shown.contains('\r'), "{item}");
                let place = json!({ "line": line, "character": column });
                assert_eq!(item["range"], json!({ "start": place, "end": place }));
            }
            let last = &client.request("surmise/explain", json!({ "textDocument": { "uri": uri } }))["last"];
            assert_eq!(last["withheld"] == Value::Null, !items.is_empty(), "{last}");
        }
    }
    println!("{n_shown} suggestions for {n_asked} requests");
    assert!(n_shown > 0, "no suggestion for any of {n_asked} requests");
}

#[test]
fn names_come_from_the_rest_of_the_file_and_from_other_open_files() {
    let mut client = Client::start(ClientOptions::default());
    client.wait_until_ready();
    let filler = |word: &str, n: usize| -> String {
        (0..n)
            .map(|line| format!("    {word}_{line} += {line}\n"))
            .collect()
    };
    // Far above the cursor, farther than any prompt reaches.
    let own = format!(
        "def far_above(sensor_drift_estimate):\n{}\n",
        filler("alpha", 1000)
    );
    let other = format!(
        "def elsewhere():\n    return tenant_migration_plan\n{}\n",
        filler("beta", 20)
    );
    client.open("file:///tmp/other.py", "python", &other);
    for (typed, expected) in [
        ("    return sensor_drift", "_estimate"),
        ("    return tenant_migra", "tion_plan"),
    ] {
        let text = format!("{own}def here():\n{typed}");
        let uri = "file:///tmp/own.py";
        client.open(uri, "python", &text);
        let line = text.matches('\n').count();
        let answer = client.request(
            "textDocument/inlineCompletion",
            Client::inline_params(uri, line, typed.len(), 1),
        );
        let shown = answer["items"][0]["insertText"].as_str().unwrap_or_default();
        let last = &client.request("surmise/explain", json!({ "textDocument": { "uri": uri } }))["last"];
        assert!(shown.starts_with(expected), "after {typed:?}: {answer}, {last}");
        client.notify("textDocument/didClose", json!({ "textDocument": { "uri": uri } }));
    }
}

#[test]
fn complete_is_the_same_with_and_without_speculation() {
    let run = |extra: &[&str]| {
        let place = format!("{}:39:16", fixtures::relative("python/inventory.py"));
        let output = binary::command()
            .args(["complete", &place, "--json", "--extent", "block"])
            .args(binary::model_arguments())
            .args(extra)
            .output()
            .expect("the binary runs");
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let (with, without) = (run(&[]), run(&["--no-speculation"]));
    assert_eq!(with["generated"], without["generated"]);
    assert_eq!(with["suggestion"], without["suggestion"]);
    assert_eq!(without["engine"]["speculation"]["proposed"], 0);
    assert_eq!(
        run(&["--temperature", "0.8", "--seed", "7"])["generated"],
        run(&["--temperature", "0.8", "--seed", "7"])["generated"]
    );
    // Every number that a program may want is there.
    for pointer in [
        "/engine/timings/time_to_first_token_ms",
        "/engine/timings/prefill_ms",
        "/engine/usage/prompt_tokens",
        "/engine/speculation/tokens_per_step",
        "/elapsed_ms",
        "/model/load_ms",
    ] {
        assert!(
            with.pointer(pointer).is_some_and(Value::is_number),
            "{pointer} in {with:#}"
        );
    }
}

#[test]
fn complete_prints_the_place_and_what_it_took() {
    let place = format!("{}:39:16", fixtures::relative("python/inventory.py"));
    let output = binary::command()
        .args(["complete", &place])
        .args(binary::model_arguments())
        .output();
    let output = output.expect("the binary runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!stdout.contains('\x1b'), "no colours in a pipe: {stdout}");
    assert!(stdout.contains("39 >         return "), "{stdout}");
    for part in ["first token ", " ms", " tokens per step", " read"] {
        assert!(stdout.contains(part), "{part:?} in {stdout}");
    }
}

#[test]
fn a_trace_tells_who_proposed_each_token() {
    let place = format!("{}:39:16", fixtures::relative("python/inventory.py"));
    let page = std::env::temp_dir().join(format!("surmise-trace-{}.html", std::process::id()));
    let output = binary::command()
        .args(["complete", &place, "--extent", "block", "--trace", "--html"])
        .arg(&page)
        .args(binary::model_arguments())
        .output();
    let output = output.expect("the binary runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    for part in [" tokens in ", " steps · draft ", "verify ", "commit "] {
        assert!(stdout.contains(part), "{part:?} in {stdout}");
    }
    let written = std::fs::read_to_string(&page).expect("a page");
    std::fs::remove_file(page).expect("it was written");
    let page = written;
    assert!(page.starts_with("<!doctype html>"), "{page}");
    assert!(page.contains("<span class=\"plain\" title=\"model, "), "{page}");
    // Who drafted anything has a line in both.
    for drafter in ["prompt_lookup", "copy", "references", "draft_model", "eagle3"] {
        let is_told = stdout.contains(&format!("\n{drafter} "));
        assert_eq!(
            is_told,
            page.contains(&format!("</span>{drafter}<")),
            "{drafter}: {stdout}\n{page}"
        );
    }
}
