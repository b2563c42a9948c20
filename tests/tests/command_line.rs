//! The command line where it can go wrong: messages, exit codes, and the schema of the settings.

use expect_test::{Expect, expect};
use serde_json::Value;
use surmise_tests::{binary, fixtures};

/// Runs the binary; compares its exit code and what it says on standard error.
fn check(args: &[&str], code: i32, stderr: Expect) {
    let output = binary::command().args(args).output().expect("the binary runs");
    stderr.assert_eq(&String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}");
    assert!(
        output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn usage_errors_say_what_was_expected() {
    check(
        &["complete", "src/main.rs"],
        2,
        expect![[r#"
            error: invalid value 'src/main.rs' for '<FILE:LINE:COL>': expected a file, a line and a column, such as src/main.rs:12:5

            For more information, try '--help'.
        "#]],
    );
    check(
        &["complete", "a.rs:0:1"],
        2,
        expect![[r#"
            error: invalid value 'a.rs:0:1' for '<FILE:LINE:COL>': lines count from 1, found 0

            For more information, try '--help'.
        "#]],
    );
    check(
        &["complete", "a.rs:1:1", "--speculation", "edits"],
        2,
        expect![[r#"
            error: invalid value 'edits' for '--speculation <POLICY>': expected `auto`, `off`, a number of tokens from 1 to 128, or a drafter, with or without such a number after a colon; the drafters are prompt_lookup, copy, references, edit, draft_model, eagle3

            For more information, try '--help'.
        "#]],
    );
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    check(
        &["complete", "no/such/file.rs:1:1"],
        1,
        expect![[r#"
            error: cannot read no/such/file.rs: No such file or directory (os error 2)
        "#]],
    );
    let place = format!("{}:999:1", fixtures::relative("go/cache.go"));
    check(
        &["complete", &place],
        1,
        expect![[r#"
            error: tests/fixtures/go/cache.go has 48 lines, so there is no line 999
        "#]],
    );
    let place = format!("{}:1:1", fixtures::relative("go/cache.go"));
    check(
        &["complete", &place, "--model", "no-such-model.gguf"],
        1,
        expect![[r#"
            error: cannot read no-such-model.gguf: No such file or directory (os error 2)
        "#]],
    );
    check(
        &["complete", &place, "--max-tokens", "0"],
        1,
        expect![[r#"
            error: command line: `completion.max_tokens`: expected a number from 1 to 1024, found 0
        "#]],
    );
    check(
        &["complete", &place, "--speculation", "eagle3:8"],
        1,
        expect![[r#"
            error: nothing is there for `--speculation eagle3` to run; name a file or a folder with `--draft-model`
        "#]],
    );
}

#[test]
fn a_settings_file_is_read_and_checked() {
    let folder = std::env::temp_dir().join(format!("surmise-settings-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("surmise")).expect("a folder");
    let file = folder.join("surmise/config.toml");
    let complete = |settings: &str| {
        std::fs::write(&file, settings).expect("a file");
        let output = binary::command()
            .args(["complete", &format!("{}:1:1", fixtures::relative("go/cache.go"))])
            .env("XDG_CONFIG_HOME", &folder)
            .output()
            .expect("the binary runs");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).replace(&file.display().to_string(), "config.toml")
    };
    expect![[r#"
        error: cannot read other.gguf: No such file or directory (os error 2)
    "#]]
    .assert_eq(&complete("model = 'other.gguf'"));
    expect![[r#"
        error: config.toml: `completion.enabled`: invalid type: string "no", expected a boolean
    "#]]
    .assert_eq(&complete("[completion]\nenabled = 'no'"));
    assert!(complete("model = ").starts_with("error: config.toml: TOML parse error at line 1"));
    std::fs::remove_dir_all(folder).expect("the folder goes");
}

#[test]
fn the_schema_is_printed() {
    let output = binary::command()
        .args(["config", "schema"])
        .output()
        .expect("the binary runs");
    let schema: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(schema["properties"]["model"]["default"], "embedded");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn eval_judges_the_same_holes_at_every_threshold() {
    let eval = || {
        let output = binary::command()
            .args(["eval", "editors", "--holes", "12", "--calibrate", "--json"])
            .args(binary::model_arguments())
            .output()
            .expect("the binary runs");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let mut report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        // How fast it goes is no property of the holes.
        assert!(report["latency_ms"].take()["p50"].as_f64() > Some(0.0));
        assert!(report["tokens_per_step"].take().as_f64() >= Some(1.0));
        report
    };
    let report = eval();
    assert_eq!(report, eval(), "a seed gives the same holes and answers");
    let all = report["languages"]
        .as_array()
        .and_then(|rows| rows.last())
        .expect("rows");
    assert_eq!((&all["language"], &all["holes"]), (&"all".into(), &12.into()));
    let show_rates: Vec<f64> = report["thresholds"]
        .as_array()
        .expect("thresholds")
        .iter()
        .map(|row| row["show_rate"].as_f64().expect("some holes want something"))
        .collect();
    assert_eq!(show_rates.len(), 19);
    assert!(show_rates.is_sorted_by(|a, b| a >= b), "{show_rates:?}");

    check(
        &["eval", "no/such/folder"],
        1,
        expect![[r#"
            error: cannot read no/such/folder: No such file or directory (os error 2)
        "#]],
    );
    std::fs::create_dir_all(binary::no_settings()).expect("an empty folder");
    let output = binary::command()
        .arg("eval")
        .arg(binary::no_settings())
        .output()
        .expect("the binary runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.starts_with("error: no source files in "), "{message}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn help_names_every_command() {
    let output = binary::command().arg("--help").output().expect("the binary runs");
    let help = String::from_utf8_lossy(&output.stdout);
    for command in ["lsp", "complete", "bench", "eval", "config"] {
        assert!(help.contains(command), "{help}");
    }
    let output = binary::command().output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2), "no command is a usage error");
}
