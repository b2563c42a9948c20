//! `surmise edit` and `surmise eval --edits`, with the model that is embedded in the binary.

use std::{fs, path::PathBuf, process::Output};

use serde_json::Value;
use surmise_tests::{binary, fixtures};

fn run(args: &[&str]) -> Output {
    let output = binary::command()
        .args(args)
        .args(binary::model_arguments())
        .output();
    output.expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A file of its own for a test.
fn file(name: &str, content: &[u8]) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("surmise-edit-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(name);
    fs::write(&path, content).expect("a file");
    path
}

#[test]
fn the_difference_is_printed_and_the_file_left_alone() {
    let before = fixtures::read("python/inventory.py");
    let path = file("printed.py", before.as_bytes());
    let output = run(&["edit", &format!("{}:27-30", path.display()), "use single quotes"]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(
        stdout.contains(
            "-            raise KeyError(f\"no item named {name}\")\n+            raise KeyError(f'no item named {name}')\n"
        ),
        "{stdout}"
    );
    assert!(stdout.starts_with("--- a/"), "{stdout}");
    assert!(stderr.contains("tokens per step"), "{stderr}");
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
}

#[test]
fn writing_changes_the_lines_and_keeps_line_breaks() {
    let before = fixtures::read("python/inventory.py").replace('\n', "\r\n");
    let path = file("written.py", before.as_bytes());
    let output = run(&[
        "edit",
        &format!("{}:27-30", path.display()),
        "use single quotes",
        "--write",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let expected = before
        .replace("f\"no item named {name}\"", "f'no item named {name}'")
        .replace(
            "f\"only {self.items[name].quantity} of {name} left\"",
            "f'only {self.items[name].quantity} of {name} left'",
        );
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
}

#[test]
fn drafts_change_nothing_but_the_time() {
    let place = format!("{}:46-52", fixtures::relative("java/Scheduler.java"));
    let edit = |extra: &[&str]| {
        let output = run(&[
            &["edit", &place, "wrap the body in error handling", "--json"],
            extra,
        ]
        .concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let (drafted, plain) = (edit(&[]), edit(&["--no-speculation"]));
    assert_eq!(drafted["after"], plain["after"]);
    assert_eq!(drafted["diff"], plain["diff"]);
    let [drafted, plain] = [&drafted, &plain].map(|it| &it["speculation"]);
    assert_eq!(plain["proposed"], 0, "{plain}");
    assert!(plain["tokens_per_step"].as_f64() <= Some(1.0), "{plain}");
    // How much more depends on how long a step takes on this machine.
    assert!(drafted["tokens_per_step"].as_f64() > Some(1.0), "{drafted}");
    assert!(
        drafted["drafters"]["edit"]["accepted"].as_u64() > Some(0),
        "{drafted}"
    );
}

#[test]
fn a_policy_changes_nothing_and_a_trace_tells_who_drafted() {
    let place = format!("{}:46-52", fixtures::relative("java/Scheduler.java"));
    let page = file("trace.html", b"");
    let edit = |extra: &[&str]| {
        let output = run(&[&["edit", &place, "wrap the body in error handling"], extra].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let reports = ["edit:64", "off", "12", "references:16"].map(|policy| -> Value {
        let report = edit(&["--speculation", policy, "--json"]);
        serde_json::from_str(&report).expect("JSON")
    });
    let [drafted, plain, _, from_idioms] = &reports;
    assert!(reports.iter().all(|it| it["after"] == plain["after"]));
    assert_eq!(plain["speculation"]["proposed"], 0, "{plain}");
    let stats = &drafted["speculation"];
    assert!(stats["accepted"].as_u64() > Some(20), "{stats}");
    assert_eq!(
        stats["accepted"], stats["drafters"]["edit"]["accepted"],
        "{stats}"
    );
    // How errors are handled in Java is known beforehand.
    let of_references = &from_idioms["speculation"]["drafters"]["references"];
    assert!(of_references["accepted"].as_u64() > Some(8), "{of_references}");
    let tokens = drafted["tokens"].as_array().expect("tokens");
    let n_drafted = tokens.iter().filter(|it| it["drafter"] == "edit").count();
    assert_eq!(stats["accepted"], n_drafted, "{stats}");

    let html = page.display().to_string();
    let printed = edit(&["--speculation", "edit:64", "--trace", "--html", &html]);
    let (_, trace) = printed.split_once("\n\n").expect("a trace after the difference");
    assert!(
        trace.contains("\nedit ") && trace.contains(" steps · draft "),
        "{trace}"
    );
    let page = fs::read_to_string(page).expect("a page");
    assert!(page.contains("java/Scheduler.java:46-52</h1>"), "{page}");
    assert!(
        page.contains("</span>edit<") && page.contains("title=\"edit, "),
        "{page}"
    );
}

#[test]
fn what_cannot_be_rewritten_is_said_in_one_line() {
    let check = |place: &str, instruction: &str, code: i32, expected: &str| {
        let output = run(&["edit", place, instruction]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
        assert!(output.stdout.is_empty());
    };
    let go = fixtures::relative("go/cache.go");
    check(
        &format!("{go}:40-99"),
        "sort",
        1,
        "has 48 lines, so there is no line 99",
    );
    check(
        &format!("{go}:9-2"),
        "sort",
        2,
        "such as src/main.rs:12-30, found `9-2`",
    );
    check(&go, "", 2, "a value is required");
    let latin = file("latin.py", b"name = 'caf\xe9'\n");
    check(
        latin.to_str().unwrap(),
        "sort",
        1,
        "is not text in UTF-8: byte 11",
    );
    let long = file("long.py", "value = compute(value, 1)\n".repeat(500).as_bytes());
    check(long.to_str().unwrap(), "sort", 1, "give fewer lines");
}

/// A field whose declaration was renamed is renamed where it is used.
#[test]
fn a_change_is_repeated_elsewhere() {
    let queue = fixtures::relative("typescript/queue.ts");
    let span = format!("{queue}:35-38");
    let changed = ["  private running = 0;", "  private active = 0;"];
    let output = run(&["edit", &span, "--like", changed[0], changed[1]]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let difference = text(&output.stdout);
    for line in [
        "-    if (this.running < this.limit) {",
        "+    if (this.active < this.limit) {",
        "+      this.active += 1;",
    ] {
        assert!(difference.contains(line), "{difference}");
    }
    assert_eq!(
        run(&["edit", &span]).status.code(),
        Some(2),
        "neither words nor a change"
    );
    let both = run(&["edit", &span, "sort", "--like", changed[0], changed[1]]);
    assert_eq!(both.status.code(), Some(2), "words and a change");
}

/// Half of the small edits come out exactly; a change that costs some should be one that somebody wanted.
#[test]
fn small_edits_come_out_as_they_should() {
    let cases = fixtures::relative("edits/cases.toml");
    let output = run(&["eval", "--edits", &cases, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["n_edits"], 50);
    println!("{} of 50 edits are exact", report["n_exact"]);
    assert!(report["n_exact"].as_u64() >= Some(30), "{}", report["n_exact"]);
    let begun = fixtures::relative("edits/repeated.toml");
    let output = run(&["eval", "--edits", &begun, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["n_edits"], 10);
    let left = report["edits"].as_array().expect("edits").iter();
    let left = left
        .filter(|it| it["kind"] == "nothing is left")
        .map(|it| &it["is_exact"]);
    assert_eq!(left.collect::<Vec<_>>(), [true], "what is done stays as it is");
    let broken = file("broken.toml", b"[[case]]\nkind = 'x'\n");
    let output = run(&["eval", "--edits", broken.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("missing field `file`"),
        "{}",
        text(&output.stderr)
    );
}
