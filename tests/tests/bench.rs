//! `surmise bench` from outside: every measurement is there and makes sense. How fast anything is, is not tested.

use std::fs;

use serde_json::Value;
use surmise_tests::{Home, binary::command};

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
fn kernels_are_measured_by_type_and_instructions() {
    let report = bench(&[
        "--kernels",
        "--format",
        "q4_K",
        "--format",
        "F32",
        "--rounds",
        "1",
    ]);
    let products = report["products"].as_array().expect("a list");
    for weights in ["F32", "Q4_K"] {
        let portable = products
            .iter()
            .find(|it| it["weights"] == weights && it["instructions"] == "portable")
            .unwrap_or_else(|| panic!("{weights} in {report:#}"));
        for pointer in [
            "/bytes_per_second/median",
            "/share_of_bandwidth",
            "/steps/3/relative",
            "/multiply_adds_per_second/median",
        ] {
            let value = portable.pointer(pointer).and_then(Value::as_f64);
            assert!(value.is_some_and(|value| value > 0.0), "{pointer}: {portable:#}");
        }
    }
    assert!(
        products
            .iter()
            .all(|it| it["weights"] == "F32" || it["weights"] == "Q4_K")
    );

    let output = command()
        .args(["bench", "--kernels", "--format", "Q9_K"])
        .output()
        .expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("Q9_K") && error.contains("Q4_K"),
        "{error}"
    );
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
    let report = bench(&["--latency", "--requests", "40", "--lines", "300"]);
    assert_eq!(report["kinds"][0]["name"], "typing on");
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).expect(pointer);
    assert_eq!(number("/n_requests"), 40.0);
    assert!(number("/total_ms/p50") > 0.0);
    assert!(number("/total_ms/p95") >= number("/without_model_ms/p95"));
    // One more character costs few tokens, even where a busy machine makes prompts shorter meanwhile.
    assert!(number("/kinds/0/computed_tokens") < 2.0 * number("/kinds/0/reused_tokens"));
}

/// A file with functions that are long enough to be edited.
fn write_source(folder: &std::path::Path) {
    for name in ["orders", "invoices"] {
        let mut text = String::new();
        for idx in 0..3 {
            text.push_str(&format!("def weigh_{name}_{idx}(item):\n    total = 0\n"));
            for step in 0..27 {
                text.push_str(&format!("    total += part(item, \"{step}\")\n"));
            }
            text.push_str("    return total\n\n\n");
        }
        std::fs::write(folder.join(format!("{name}.py")), text).expect("it is written");
    }
}

#[test]
fn drafts_are_measured_by_workload_and_drafter() {
    let folder = std::env::temp_dir().join(format!("surmise-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    write_source(&folder);
    let report = bench(&[
        "--speculation",
        "--rounds",
        "1",
        "--tasks",
        "1",
        "--folder",
        folder.to_str().expect("a path"),
    ]);
    let workloads = report["workloads"].as_array().expect("a list");
    let names: Vec<_> = workloads.iter().filter_map(|it| it["name"].as_str()).collect();
    for name in ["complete", "rename", "add parameter", "wrap", "quotes", "quote"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    for workload in workloads {
        let number = |pointer: &str| {
            let number = workload.pointer(pointer).and_then(Value::as_f64);
            number.unwrap_or_else(|| panic!("{pointer} in {workload:#}"))
        };
        assert_eq!(number("/n_tasks"), 1.0, "{workload:#}");
        for pointer in [
            "/plain_tokens_per_second/median",
            "/tokens_per_second/median",
            "/gain/median",
            "/counts/draft_ms",
            "/counts/verify_ms",
            "/counts/commit_ms",
        ] {
            assert!(number(pointer) > 0.0, "{pointer} in {workload:#}");
        }
        let drafters = workload["counts"]["drafters"].as_array().expect("a list");
        let sum = |key: &str| drafters.iter().filter_map(|it| it[key].as_u64()).sum::<u64>();
        let (steps, emitted) = (number("/counts/steps") as u64, number("/counts/emitted") as u64);
        // An answer of the model's own may end with a token that is not part of it.
        let is_dictated = workload["is_dictated"] == true;
        let n_missing = (steps + sum("accepted")).checked_sub(emitted);
        assert!(
            n_missing.is_some_and(|it| it == 0 || !is_dictated),
            "{workload:#}"
        );
        assert!(
            sum("accepted") <= sum("proposed") && sum("steps") <= steps,
            "{workload:#}"
        );
        let is_edit = ["rename", "add parameter", "wrap", "quotes"]
            .contains(&workload["name"].as_str().unwrap_or_default());
        if is_edit {
            let edit = drafters
                .iter()
                .find(|it| it["name"] == "edit")
                .expect("edits are drafted");
            assert!(
                edit["accepted"].as_u64() > Some(0) && edit["tokens_per_step"].as_f64() > Some(1.0),
                "{edit:#}"
            );
        }
    }
    std::fs::remove_dir_all(&folder).expect("the folder");
}

#[test]
fn gains_and_drafters_are_drawn_by_length_of_drafts() {
    let folder = std::env::temp_dir().join(format!("surmise-chart-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    write_source(&folder);
    let chart = folder.join("gain.svg");
    let report = bench(&[
        "--speculation",
        "--rounds",
        "1",
        "--tasks",
        "1",
        "--workload",
        "quote",
        "--folder",
        folder.to_str().expect("a path"),
        "--plot",
        chart.to_str().expect("a path"),
    ]);
    let gains = report["workloads"][0]["fixed"].as_array().expect("a list");
    assert_eq!(gains.len(), 6, "{report:#}");
    assert!(
        gains.iter().all(|it| it["gain"]["median"].as_f64() > Some(0.0)),
        "{report:#}"
    );
    let drawn = std::fs::read_to_string(&chart).expect("a chart");
    assert!(drawn.starts_with("<svg"), "{drawn}");
    for line in ["quote", "What each drafter gives", "prompt lookup"] {
        assert!(drawn.contains(line), "{line} in {drawn}");
    }
    std::fs::remove_dir_all(&folder).expect("the folder");
}

/// A home with code, tiny models of random weights that read long texts, and an EAGLE-3 head for the first of them.
fn home_with_models(name: &str) -> Home {
    let home = Home::new(name);
    for (fixture, folder) in [("eagle3/target", "target"), ("qwen3", "small")] {
        home.copy_folder(fixture, folder);
        let config = home.0.join(folder).join("config.json");
        let short = fs::read_to_string(&config).expect("a configuration");
        let long = short.replace(
            "\"max_position_embeddings\": 128",
            "\"max_position_embeddings\": 4096",
        );
        assert_ne!(long, short);
        fs::write(&config, long).expect("a configuration");
    }
    for file in ["config.json", "model.safetensors"] {
        home.copy(&format!("eagle3/draft/{file}"), &format!("head/{file}"));
    }
    let code = home.0.join("code");
    fs::create_dir_all(&code).expect("a folder");
    write_source(&code);
    home
}

/// What the drafter did in the quotations of `home`, with long drafts of a fixed length: steps and tokens proposed.
fn quotations(home: &Home, draft_model: &str, drafter: &str) -> (u64, u64) {
    let path = |name: &str| home.0.join(name).to_str().expect("a path").to_owned();
    let (model, draft_model, code) = (path("target"), path(draft_model), path("code"));
    let chart = path("gain.svg");
    let mut args = vec![
        "bench",
        "--speculation",
        "--model",
        &model,
        "--draft-model",
        &draft_model,
    ];
    args.extend([
        "--workload",
        "quote",
        "--folder",
        &code,
        "--tasks",
        "1",
        "--rounds",
        "1",
    ]);
    args.extend(["--plot", &chart]);
    let (report, exit_code) = home.json(&args, |_| ());
    assert_eq!(exit_code, 0);
    let workload = &report["workloads"][0];
    // These models fill no holes and rewrite nothing.
    assert_eq!(
        (&workload["name"], &workload["is_dictated"]),
        (&"quote".into(), &true.into())
    );
    let longest = workload["fixed"]
        .as_array()
        .and_then(|it| it.last())
        .expect("drafts");
    assert_eq!(longest["draft_len"], 63);
    let drafters = longest["counts"]["drafters"].as_array().expect("a list");
    let counts = drafters.iter().find(|it| it["name"] == drafter);
    let counts = counts.unwrap_or_else(|| panic!("no {drafter} in {longest:#}"));
    let number = |key: &str| counts[key].as_u64().expect(key);
    assert!(number("accepted") <= number("proposed"), "{counts:#}");
    (number("steps"), number("proposed"))
}

#[test]
fn settings_shape_the_trees_of_a_head() {
    let home = home_with_models("trees");
    for (settings, n_tokens) in [
        ("", 31),
        ("eagle_steps = 3\neagle_top_k = 2\neagle_draft_tokens = 6", 5),
    ] {
        home.write(".config/surmise/config.toml", format!("[engine]\n{settings}\n"));
        let (steps, proposed) = quotations(&home, "head", "eagle3");
        // Near the end of the answer a tree has fewer levels.
        let whole = steps * n_tokens;
        assert!(
            steps > 3 && proposed <= whole && proposed + 3 * n_tokens > whole,
            "{n_tokens}: {proposed} in {steps}"
        );
    }
}

#[test]
fn a_folder_drafts_for_a_folder() {
    let home = home_with_models("drafts");
    let (steps, proposed) = quotations(&home, "small", "draft_model");
    assert!(steps > 0 && proposed > steps, "{proposed} in {steps}");
    let path = |name: &str| home.0.join(name);
    let mut command = home.command(&["bench", "--speculation", "--tasks", "1", "--rounds", "1"]);
    command.arg("--model").arg(path("target"));
    command.arg("--draft-model").arg(path("small"));
    command.arg("--folder").arg(path("code"));
    let output = command.output().expect("it runs");
    let (table, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{error}");
    let begins = |words: &str| table.lines().any(|line| line.starts_with(words));
    for row in [
        "tokens/s",
        "rename *",
        "wrap *",
        "quote *",
        "drafters",
        "milliseconds",
        "target: medians of 1 round",
    ] {
        assert!(begins(row), "{row} in\n{table}");
    }
    // A model that fills no holes.
    assert!(!begins("complete"), "{table}");
}

#[test]
fn tasks_can_be_given_to_another_engine() {
    let home = home_with_models("tokens");
    let path = |name: &str| home.0.join(name).to_str().expect("a path").to_owned();
    let (model, code) = (path("target"), path("code"));
    let mut args = vec![
        "bench",
        "--speculation",
        "--with-tokens",
        "--model",
        &model,
        "--folder",
        &code,
    ];
    args.extend(["--workload", "quotes", "--tasks", "1", "--rounds", "1"]);
    let (report, _) = home.json(&args, |_| ());
    let task = &report["workloads"][0]["tokens"][0];
    // The vocabulary begins with the printable characters of ASCII; others stay what they are, one for each token.
    let text = |tokens: &Value| -> String {
        let tokens = tokens.as_array().expect("tokens").iter();
        let chars = tokens.map(|it| it.as_u64().and_then(|it| u8::try_from(it + 33).ok()));
        chars.map(|it| it.map_or(' ', char::from)).collect()
    };
    let (prompt, answer) = (text(&task["prompt"]), text(&task["dictated"]));
    assert!(
        prompt.contains("part(item,") && prompt.contains("\"7\""),
        "{prompt}"
    );
    assert_eq!(answer, prompt.replace('"', "'"));
    assert_eq!(task["max_tokens"], answer.chars().count());
}
