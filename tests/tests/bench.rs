//! `surmise bench` from outside: every measurement is there and makes sense. How fast anything is, is not tested.

use serde_json::Value;
use surmise_tests::binary::command;

/// The JSON that `surmise bench` prints with `args`.
fn bench(args: &[&str]) -> Value {
    let output = command()
        .arg("bench")
        .args(args)
        .arg("--json")
        .output()
        .expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn one_round_measures_everything() {
    let report = bench(&["--rounds", "1", "--seconds", "0", "--threads", "2"]);
    assert_eq!(report["n_rounds"], 1);
    assert_eq!(report["machine"]["n_threads"], 2);
    for (list, n) in [("prefill", 5), ("steps", 9), ("batches", 6)] {
        assert_eq!(report[list].as_array().map(Vec::len), Some(n), "{list}");
    }
    assert_eq!(report["steps"][0]["relative"], 1.0);
    for pointer in [
        "/machine/read_large/bytes_per_second/median",
        "/machine/read_model/bytes_per_second/median",
        "/prefill/4/tokens_per_second/median",
        "/decode/tokens_per_second/median",
        "/decode/share_of_bandwidth",
        "/steps/8/milliseconds/median",
        "/batches/5/tokens_per_second/median",
        "/batches/5/scaling",
    ] {
        let value = report.pointer(pointer).and_then(Value::as_f64);
        assert!(value.is_some_and(|value| value > 0.0), "{pointer}: {value:?}");
    }
}

#[test]
fn a_start_is_measured_in_a_process_of_its_own() {
    let report = bench(&["--startup", "--rounds", "1"]);
    for pointer in [
        "/warm/total_ms/median",
        "/warm/load_ms/median",
        "/warm/first_token_ms/median",
        "/process_ms/median",
    ] {
        let value = report.pointer(pointer).and_then(Value::as_f64);
        assert!(value.is_some_and(|value| value > 0.0), "{pointer}: {value:?}");
    }
}

#[test]
fn a_trace_of_typing_reuses_what_was_read() {
    let report = bench(&["--latency", "--requests", "60", "--lines", "300"]);
    assert_eq!(report["kinds"][0]["name"], "typing on");
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).expect(pointer);
    assert!(number("/n_requests") >= 60.0);
    assert!(number("/total_ms/p50") > 0.0);
    assert!(number("/total_ms/p95") >= number("/without_model_ms/p95"));
    // One more character costs few tokens, whatever the machine.
    assert!(number("/kinds/0/computed_tokens") < number("/kinds/0/reused_tokens"));
}
