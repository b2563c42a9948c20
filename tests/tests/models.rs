//! `surmise models` and `surmise doctor`, in homes that the tests make.

use std::fs;

use serde_json::{Value, json};
use surmise_tests::{Client, ClientOptions, Home, binary, fixtures};

fn rows(report: &Value) -> &[Value] {
    report["models"].as_array().map_or(&[], Vec::as_slice)
}

/// Titles or settings of the rows at a place, and whether they can be run.
fn at(report: &Value, place: &str) -> Vec<(String, bool)> {
    rows(report)
        .iter()
        .filter(|row| row["place"] == place)
        .map(|row| {
            let title = row["title"]
                .as_str()
                .or(row["model"].as_str())
                .unwrap_or_default();
            (title.to_owned(), row["problem"].is_null())
        })
        .collect()
}

#[test]
fn every_usual_place_is_looked_through() {
    let home = Home::new("places");
    home.copy("qwen3/bf16.gguf", "models/deep/er/qwen3.gguf");
    home.copy("qwen3/bf16.gguf", "models/qwen3-00002-of-00003.gguf");
    home.copy("qwen3/bf16.gguf", "models/mmproj-qwen3.gguf");
    home.write("models/broken.gguf", "not a model");
    home.copy_folder("qwen2-fp8-tensor", "models/fp8");
    let hub = ".cache/huggingface/hub";
    home.copy_folder("llama3", &format!("{hub}/models--meta--llama/snapshots/abc"));
    home.copy(
        "llama3/bf16.gguf",
        &format!("{hub}/models--meta--llama-GGUF/snapshots/abc/llama.gguf"),
    );
    home.copy_folder("llama3", &format!("{hub}/models--some--awq/snapshots/abc"));
    let config = home
        .0
        .join(format!("{hub}/models--some--awq/snapshots/abc/config.json"));
    let mut settings: Value = serde_json::from_slice(&fs::read(&config).expect("a file")).expect("JSON");
    settings["quantization_config"] = json!({"quant_method": "awq", "bits": 4});
    fs::write(&config, settings.to_string()).expect("a file");
    home.copy("granite/bf16.gguf", ".ollama/models/blobs/sha256-0123");
    let manifest = json!({"layers": [
        {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:ffff"},
        {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:0123"},
    ]});
    let manifests = ".ollama/models/manifests/registry.ollama.ai";
    home.write(&format!("{manifests}/library/granite/2b"), manifest.to_string());
    home.write(&format!("{manifests}/someone/cloud/latest"), r#"{"layers": []}"#);
    home.copy("phi3/bf16.gguf", ".lmstudio/models/publisher/repository/phi.gguf");
    let configured = home.copy("gemma3/bf16.gguf", "elsewhere/gemma.gguf");
    home.copy("qwen2/bf16.gguf", "elsewhere/beside.gguf");
    home.write(
        ".config/surmise/config.toml",
        "model = '~/elsewhere/gemma.gguf'\nengine.context_length = 100",
    );

    let (report, code) = home.json(&["models"], |_| {});
    assert_eq!(code, 0);
    let row = |title: &str, runs: bool| (title.to_owned(), runs);
    assert_eq!(
        at(&report, "~/models"),
        [
            row("~/models/broken.gguf", false),
            row("~/models/deep/er/qwen3.gguf", true),
            row("~/models/fp8", true),
        ]
    );
    assert_eq!(
        at(&report, "Hugging Face's cache"),
        [
            row("meta/llama", true),
            row("meta/llama-GGUF", true),
            row("some/awq", false)
        ]
    );
    assert_eq!(
        at(&report, "Ollama's store"),
        [row("granite:2b", true), row("someone/cloud:latest", false)]
    );
    assert_eq!(
        at(&report, "LM Studio's models"),
        [row("~/.lmstudio/models/publisher/repository/phi.gguf", true)]
    );
    assert_eq!(
        at(&report, "where the settings point"),
        [
            row("~/elsewhere/gemma.gguf", true),
            row("~/elsewhere/beside.gguf", true)
        ]
    );
    assert_eq!(at(&report, "inside the program"), [row("embedded", true)]);
    let configured_rows: Vec<_> = rows(&report)
        .iter()
        .filter(|row| row["is_configured"] == true)
        .collect();
    assert_eq!(configured_rows.len(), 1);
    let gemma = configured_rows[0];
    assert_eq!(
        (
            &gemma["architecture"],
            &gemma["format"],
            &gemma["fills_in_the_middle"]
        ),
        (&json!("gemma3"), &json!("GGUF BF16"), &json!("no"))
    );
    // 7 layers, 2 heads of 32, keys and values, 2 bytes each.
    assert_eq!(gemma["kv_bytes_per_1000_tokens"], 7 * 2 * 32 * 2 * 2 * 1000);
    assert_eq!(
        (&gemma["context_length"], &gemma["allowed_context"]),
        (&json!(128), &json!(100))
    );
    assert_eq!(gemma["fitting_context"], 128);
    let file_bytes = fs::metadata(&configured).expect("a file").len();
    let weight_bytes = gemma["weight_bytes"].as_u64().expect("a number");
    assert!(weight_bytes < file_bytes + 8192 && weight_bytes > file_bytes / 2);
    let problem_of = |title: &str| {
        let row = rows(&report)
            .iter()
            .find(|row| row["title"] == title || row["model"] == title);
        row.and_then(|row| row["problem"].as_str())
            .unwrap_or_default()
            .to_owned()
    };
    assert!(problem_of("some/awq").starts_with("quantisation `awq, 4 bits` is not supported"));
    assert!(problem_of("~/models/broken.gguf").contains("this is not a GGUF file"));
    assert!(problem_of("someone/cloud:latest").contains("names no weights"));
    let fp8 = rows(&report)
        .iter()
        .find(|row| row["model"] == "~/models/fp8")
        .expect("a row");
    assert_eq!(fp8["format"], "safetensors FP8");

    // The environment may put stores elsewhere.
    let (report, _) = home.json(&["models"], |command| {
        command
            .env("HF_HUB_CACHE", home.0.join("nothing"))
            .env("OLLAMA_MODELS", home.0.join("nothing"));
    });
    assert!(at(&report, "Hugging Face's cache").is_empty() && at(&report, "Ollama's store").is_empty());

    let output = home.command(&["models"]).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("* ~/elsewhere/gemma.gguf\n    gemma3, "), "{text}");
    assert!(
        text.contains("cannot be run: quantisation `awq, 4 bits`"),
        "{text}"
    );
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_what_would() {
    let home = Home::new("large");
    home.copy("qwen3/bf16.gguf", "qwen3.gguf");
    home.write(
        ".config/surmise/config.toml",
        format!("model = '~/qwen3.gguf'\nengine.kv_cache_bytes = {}", 1u64 << 44),
    );
    let place = format!("{}:1:1", fixtures::relative("go/cache.go"));
    let output = home
        .command(&["complete", &place])
        .output()
        .expect("the binary runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("16.0 TiB of keys and values"), "{message}");
    assert!(
        message.contains("too little: set `engine.kv_cache_bytes`"),
        "{message}"
    );
    let (report, code) = home.json(&["models"], |_| {});
    assert_eq!(code, 0);
    let problem = rows(&report)[1]["problem"].as_str().unwrap_or_default();
    assert!(problem.starts_with("needs 16.0 TiB"), "{report}");
    let (_, code) = home.json(&["doctor"], |_| {});
    assert_eq!(code, 1);
}

#[test]
fn the_doctor_names_faults_and_remedies() {
    let home = Home::new("doctor");
    let programs = home.0.join("bin");
    let doctor = |home: &Home| {
        home.json(&["doctor"], |command| {
            command.env("PATH", &programs);
        })
    };
    let graded = |report: &Value, grade: &str| -> Vec<String> {
        let findings = report["findings"].as_array().into_iter().flatten();
        findings
            .filter(|it| it["grade"] == grade)
            .map(|it| it["subject"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let (report, code) = doctor(&home);
    assert_eq!((code, graded(&report, "wrong")), (1, vec!["editors".to_owned()]));
    assert!(report.to_string().contains("it is not there"), "{report}");

    fs::create_dir_all(&programs).expect("a folder");
    let program = |name: &str| {
        #[cfg(unix)]
        std::os::unix::fs::symlink(binary::path(), programs.join(name)).expect("a link");
        #[cfg(not(unix))]
        fs::copy(binary::path(), programs.join(format!("{name}.exe"))).expect("a copy");
    };
    program("surmise");
    program("nvim");
    let (report, code) = doctor(&home);
    assert_eq!((code, graded(&report, "wrong")), (0, vec![]), "{report}");
    assert_eq!(report["editors"][0]["name"], "Neovim");
    assert_eq!(report["model"]["model"], "embedded");
    assert!(report["memory"]["total_bytes"].as_u64() >= report["memory"]["available_bytes"].as_u64());

    home.write(
        ".config/surmise/config.toml",
        "modle = 'x'\ncompletion.max_tokens = 0\nmodel = 'nothing.gguf'",
    );
    let (report, code) = doctor(&home);
    assert_eq!(code, 1);
    assert_eq!(graded(&report, "wrong"), ["settings", "model"]);
    assert_eq!(graded(&report, "poor"), ["settings"]);
    let output = home
        .command(&["doctor"])
        .env("PATH", &programs)
        .output()
        .expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    for line in [
        "unknown setting `modle`; did you mean `model`?",
        "wrong model      nothing.gguf: cannot read nothing.gguf: No such file",
        "try: `surmise models` lists what can be run; set `model` to one of them",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn the_doctor_says_what_each_model_takes() {
    let home = Home::new("doctor-models");
    home.copy("qwen3/bf16.gguf", "models/qwen3.gguf");
    home.copy("gemma3/bf16.gguf", "models/gemma.gguf");
    home.write("models/broken.gguf", "not a model");
    home.write(".config/surmise/config.toml", "model = '~/models/qwen3.gguf'");
    let (report, _) = home.json(&["doctor"], |_| {});
    let (list, _) = home.json(&["models"], |_| {});
    let of_list = |model: &str| rows(&list).iter().find(|row| row["model"] == model).cloned();
    let numbers = ["weight_bytes", "kv_bytes_per_1000_tokens", "context_length"];
    let mut described = vec![&report["model"]];
    described.extend(report["other_models"].as_array().into_iter().flatten());
    assert_eq!(described.len(), rows(&list).len(), "{report}");
    for row in described {
        let model = row["model"].as_str().unwrap_or_default();
        let listed = of_list(model).unwrap_or_else(|| panic!("{model} is not in the list"));
        assert!(numbers.iter().all(|name| row[name] == listed[name]), "{row}");
        assert!(
            model.contains("broken") || row["fitting_context"].is_u64(),
            "{row}"
        );
    }
    let output = home.command(&["doctor"]).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let (findings, others) = text
        .split_once("models that are here besides")
        .unwrap_or_else(|| panic!("no other models: {text}"));
    for (part, start) in [
        (findings, "~/models/qwen3.gguf: qwen3, "),
        (others, "~/models/gemma.gguf\n    gemma3, "),
        (others, "embedded\n    "),
    ] {
        let line = part.split_once(start).and_then(|(_, rest)| rest.lines().next());
        let line = line.unwrap_or_else(|| panic!("no {start:?}: {text}"));
        for what in ["B of weights, ", "B for 1,000 tokens, ", "context "] {
            assert!(line.contains(what), "{line}");
        }
    }
    assert!(
        others.contains("~/models/broken.gguf\n    cannot be run: "),
        "{text}"
    );
    assert!(!others.contains("qwen3.gguf"), "{text}");
}

/// While a model is loaded the editor shows what it takes; one that was not trained to fill holes says so, in the editor and on the
/// command line.
#[test]
fn a_chat_model_says_that_it_is_asked_in_words() {
    const NOTE: &str = "a chat model that is asked in words; a code model suggests better";
    let home = Home::new("chat");
    home.copy_folder("llama3", "chat");
    home.write(
        "chat/chat_template.jinja",
        "{% for it in messages %}{{ it.role }}: {{ it.content }}\n{% endfor %}assistant:",
    );
    let model = home.0.join("chat").to_string_lossy().into_owned();
    let mut client = Client::start(ClientOptions {
        args: ["lsp", "--model", &model].map(str::to_owned).to_vec(),
        capabilities: json!({ "window": { "workDoneProgress": true } }),
        ..ClientOptions::default()
    });
    let mut reports = Vec::new();
    loop {
        let value = client.take("$/progress")["params"]["value"].clone();
        let is_end = value["kind"] == "end";
        reports.push(value);
        if is_end {
            break;
        }
    }
    let [begin, planned, .., end] = &reports[..] else {
        panic!("{reports:?}");
    };
    assert_eq!(begin["title"], "Surmise: loading the model");
    let message = planned["message"].as_str().unwrap_or_default();
    for what in ["B of weights, up to ", "B of keys and values, ", "B at most"] {
        assert!(message.contains(what), "{message}");
    }
    assert_eq!(planned["percentage"], 0);
    let read: Vec<&str> = reports[2..reports.len() - 1]
        .iter()
        .filter_map(|report| report["message"].as_str())
        .collect();
    assert!(
        !read.is_empty() && read.iter().all(|it| it.ends_with(" read")),
        "{read:?}"
    );
    assert_eq!(end["message"], format!("ready: chat, {NOTE}"));
    for expected in ["loading the model", "ready: chat"] {
        let logged = client.take("window/logMessage")["params"]["message"].clone();
        assert!(
            logged.as_str().is_some_and(|it| it.contains(expected)),
            "{logged}"
        );
    }
    drop(client);
    let place = format!("{}:1:1", fixtures::relative("go/cache.go"));
    let output = home
        .command(&["complete", "--model", &model, &place])
        .output()
        .expect("the binary runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains(NOTE), "{message}");
}

/// What the headers promise is what the system measures once the model has run.
#[test]
fn memory_is_what_was_planned() {
    let output = binary::command()
        .args([
            "bench",
            "--rounds",
            "1",
            "--seconds",
            "0",
            "--threads",
            "2",
            "--json",
        ])
        .args(binary::model_arguments())
        .output()
        .expect("the binary runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let bytes = |name: &str| report["memory"][name].as_f64();
    // Not every system says what is resident.
    if let (Some(resident), Some(planned)) = (bytes("resident_bytes"), bytes("planned_bytes")) {
        let off = resident / planned - 1.0;
        assert!(
            off.abs() < 0.1,
            "{resident} bytes are resident, {planned} were planned"
        );
    }
}
