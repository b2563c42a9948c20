//! Chat templates against transformers: `tests/fixtures/chat-templates.json` has what `apply_chat_template` gave for the
//! templates that `chat_templates` finds.

use std::{collections::BTreeMap, path::Path};

use gguf_builder::{Builder, strings};
use serde::Deserialize;
use serde_json::json;
use surmise_engine::chat_template::{ChatTemplate, Conversation, Date, Value};

mod chat_templates;
mod gguf_builder;

#[derive(Deserialize)]
struct Fixture {
    conversations: BTreeMap<String, Described>,
    /// By template and conversation; nothing where the template refuses.
    expected: BTreeMap<String, BTreeMap<String, Option<String>>>,
}

#[derive(Deserialize)]
struct Described {
    messages: Vec<Value>,
    #[serde(default)]
    tools: Vec<Value>,
    add_generation_prompt: Option<bool>,
    #[serde(flatten)]
    extra: BTreeMap<String, Value>,
}

impl From<&Described> for Conversation {
    fn from(described: &Described) -> Self {
        Self {
            messages: described.messages.clone(),
            tools: described.tools.clone(),
            wants_answer: described.add_generation_prompt.unwrap_or(true),
            extra: described.extra.clone(),
            today: Some(Date {
                year: 2026,
                month: 3,
                day: 5,
            }),
        }
    }
}

fn fixture() -> Fixture {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/chat-templates.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Special tokens of the fixture, and what GGUF files call their ids.
const SPECIAL: [(&str, &str, &str); 4] = [
    ("bos_token", "<BOS>", "bos_token_id"),
    ("eos_token", "<EOS>", "eos_token_id"),
    ("pad_token", "<PAD>", "padding_token_id"),
    ("unk_token", "<UNK>", "unknown_token_id"),
];

/// The template in a GGUF file, beside one for tools if there is one.
fn in_gguf(default: &str, tool_use: Option<&str>) -> ChatTemplate {
    let text = |source: &str| gguf_builder::Value::Str(source.as_bytes().to_vec());
    let mut file = Builder::new()
        .pair(
            "tokenizer.ggml.tokens",
            strings(&SPECIAL.map(|(_, spelling, _)| spelling)),
        )
        .pair("tokenizer.chat_template", text(default));
    for ((.., key), id) in SPECIAL.into_iter().zip(0..) {
        file = file.pair(format!("tokenizer.ggml.{key}"), gguf_builder::Value::U32(id));
    }
    if let Some(source) = tool_use {
        file = file
            .pair("tokenizer.chat_templates", strings(&["tool_use"]))
            .pair("tokenizer.chat_template.tool_use", text(source));
    }
    let gguf = gguf_builder::open(&file.build()).unwrap();
    ChatTemplate::from_gguf(&gguf).unwrap().expect("a template")
}

/// The templates in `tokenizer_config.json`, as `chat_template` has them there.
fn in_configuration(chat_template: serde_json::Value) -> ChatTemplate {
    let config = json!({
        "bos_token": "<BOS>",
        "eos_token": {"content": "<EOS>", "lstrip": false},
        "pad_token": "<PAD>",
        "unk_token": "<UNK>",
        "chat_template": chat_template,
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    ChatTemplate::from_folder(folder.path())
        .unwrap()
        .expect("a template")
}

/// The templates in files of their own.
fn in_files(default: &str, tool_use: Option<&str>) -> ChatTemplate {
    let folder = tempfile::tempdir().unwrap();
    let config = json!(BTreeMap::from(
        SPECIAL.map(|(name, spelling, _)| (name, spelling))
    ));
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), default).unwrap();
    if let Some(source) = tool_use {
        let others = folder.path().join("additional_chat_templates");
        std::fs::create_dir(&others).unwrap();
        std::fs::write(others.join("tool_use.jinja"), source).unwrap();
    }
    ChatTemplate::from_folder(folder.path())
        .unwrap()
        .expect("a template")
}

#[test]
fn templates_give_what_transformers_gives() {
    let Some(folder) = chat_templates::folder() else {
        return;
    };
    let fixture = fixture();
    let mut failures = Vec::new();
    let mut n_cases = 0;
    for (name, cases) in &fixture.expected {
        let source = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let templates = [
            ("GGUF", in_gguf(&source, None)),
            ("tokenizer_config.json", in_configuration(json!(source))),
            ("chat_template.jinja", in_files(&source, None)),
        ];
        for (case, expected) in cases {
            n_cases += 1;
            for (place, template) in &templates {
                let found = template.render(&Conversation::from(&fixture.conversations[case]));
                match (found, expected.as_deref()) {
                    (Ok(found), Some(expected)) if found == expected => {}
                    (Err(_), None) => {}
                    (found, expected) => failures.push(format!(
                        "{name} from {place}, {case}:\n{found:?}\nexpected\n{expected:?}"
                    )),
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {n_cases} fail:\n{}",
        failures.len(),
        failures.join("\n\n")
    );
    assert!(n_cases >= 280, "{n_cases}");
}

/// Some models have two templates, one of them for conversations with tools.
#[test]
fn a_template_for_tools_is_used_when_there_are_tools() {
    let Some(folder) = chat_templates::folder() else {
        return;
    };
    let fixture = fixture();
    let read = |name: &str| std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
    let (plain, with_tools) = (
        "Qwen-Qwen2.5-7B-Instruct",
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    );
    let (default, tool_use) = (read(plain), read(with_tools));
    for template in [
        in_gguf(&default, Some(&tool_use)),
        in_configuration(json!([
            {"name": "default", "template": default},
            {"name": "tool_use", "template": tool_use},
        ])),
        in_files(&default, Some(&tool_use)),
    ] {
        for (case, name) in [("system", plain), ("tools", with_tools), ("call", with_tools)] {
            let text = template.render(&Conversation::from(&fixture.conversations[case]));
            assert_eq!(Some(text.unwrap()), fixture.expected[name][case], "{case}");
        }
        assert_eq!(template.source(), default.clone() + &tool_use);
    }
}

/// A long conversation is no bomb: 201 messages, half of what a context of 256,000 tokens holds.
#[test]
fn half_a_megabyte_of_conversation_is_written_out() {
    let Some(folder) = chat_templates::folder() else {
        return;
    };
    let code = "let x = vec![1, 2, 3]; // ...\n".repeat(83);
    let message = |role: &str| Value::from_pairs([("role", role), ("content", &code)]);
    let conversation = Conversation {
        messages: (0..100)
            .flat_map(|_| [message("user"), message("assistant")])
            .chain([message("user")])
            .collect(),
        wants_answer: true,
        ..Conversation::default()
    };
    for name in fixture().expected.keys() {
        // These have to be told the tools.
        if name.contains("tool_use") || name.contains("firefunction") {
            continue;
        }
        let source = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let text = in_files(&source, None).render(&conversation);
        let text = text.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(text.len() > 400_000, "{name}: {} bytes", text.len());
    }
}
