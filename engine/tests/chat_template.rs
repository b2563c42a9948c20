//! Chat templates against transformers: `tests/fixtures/chat-templates.json` has what `apply_chat_template` gave for the
//! templates that `chat_templates` finds.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use expect_test::expect;
use gguf_builder::{Builder, strings};
use serde::Deserialize;
use serde_json::json;
use surmise_engine::{
    answer::{AnswerFormat, CallForm, ReasoningForm},
    chat_template::{ChatTemplate, Conversation, Date, Serde, Value},
    tokenizer::Tokenizer,
};

mod chat_templates;
mod gguf_builder;

#[derive(Deserialize)]
struct Fixture {
    conversations: BTreeMap<String, Described>,
    /// By template and conversation; nothing where transformers raises.
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

/// What transformers would give if Python did not escape what is added to a text that a template calls `safe`: this template adds
/// descriptions of tools so, and its model has never seen JSON with `&#34;` for quotes.
fn unescaped(name: &str, text: &str) -> String {
    if name != "meetkai-functionary-medium-v3.1" {
        return text.to_owned();
    }
    let escapes = [
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ];
    escapes.iter().fold(text.to_owned(), |text, (escape, meant)| {
        text.replace(escape, meant)
    })
}

#[test]
fn templates_give_what_transformers_gives() {
    let Some(folder) = chat_templates::folder() else {
        return;
    };
    let fixture = fixture();
    let mut failures = Vec::new();
    let mut table = String::new();
    for (name, cases) in &fixture.expected {
        let source = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let templates = [
            ("GGUF", in_gguf(&source, None)),
            ("tokenizer_config.json", in_configuration(json!(source))),
            ("chat_template.jinja", in_files(&source, None)),
        ];
        let (mut n_same, mut n_refused, mut only_here) = (0, 0, Vec::new());
        for (case, expected) in cases {
            let expected = expected.as_deref().map(|text| unescaped(name, text));
            let conversation = Conversation::from(&fixture.conversations[case]);
            let mut written = Vec::new();
            for (place, template) in &templates {
                let found = template.render(&conversation);
                if let Some(expected) = &expected
                    && !found.as_ref().is_ok_and(|found| found == expected)
                {
                    failures.push(format!(
                        "{name} from {place}, {case}:\n{found:?}\nexpected\n{expected:?}"
                    ));
                }
                written.push(found.ok());
            }
            assert!(written.iter().all(|it| *it == written[0]), "{name}, {case}");
            match (expected, &written[0]) {
                (Some(_), _) => n_same += 1,
                (None, None) => n_refused += 1,
                (None, Some(_)) => only_here.push(case.as_str()),
            }
        }
        write!(table, "{name}: {n_same} texts, {n_refused} refused").unwrap();
        match &only_here[..] {
            [] => writeln!(table).unwrap(),
            cases => writeln!(table, ", read here: {}", cases.join("; ")).unwrap(),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    // What transformers refuses is refused here, but for one template that writes out what is a generator in Python.
    expect![[r#"
        Apriel-1.6-15b-Thinker-fixed: 12 texts, 0 refused
        Bielik-11B-v3.0-Instruct: 12 texts, 0 refused
        GLM-4.6: 11 texts, 1 refused
        GLM-4.7-Flash: 11 texts, 1 refused
        GigaChat3-10B-A1.8B: 12 texts, 0 refused
        GigaChat3.1-10B-A1.8B: 12 texts, 0 refused
        HuggingFaceTB-SmolLM3-3B: 12 texts, 0 refused
        Kimi-K2-Instruct: 9 texts, 3 refused
        Kimi-K2-Thinking: 9 texts, 3 refused
        MiMo-VL: 12 texts, 0 refused
        Mistral-Small-3.2-24B-Instruct-2506: 12 texts, 0 refused
        NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use: 12 texts, 0 refused
        NousResearch-Hermes-3-Llama-3.1-8B-tool_use: 12 texts, 0 refused
        Qwen-QwQ-32B: 12 texts, 0 refused
        Qwen-Qwen2.5-7B-Instruct: 12 texts, 0 refused
        Qwen-Qwen3-0.6B: 12 texts, 0 refused
        Qwen3-Coder: 11 texts, 1 refused
        Qwen3.5-4B: 11 texts, 1 refused
        deepseek-ai-DeepSeek-R1-Distill-Llama-8B: 12 texts, 0 refused
        deepseek-ai-DeepSeek-R1-Distill-Qwen-32B: 12 texts, 0 refused
        deepseek-ai-DeepSeek-V3.1: 12 texts, 0 refused
        deepseek-ai-DeepSeek-V3.2: 11 texts, 1 refused
        fireworks-ai-llama-3-firefunction-v2: 2 texts, 10 refused
        google-gemma-2-2b-it: 5 texts, 7 refused
        google-gemma-4-31B-it: 12 texts, 0 refused
        google-gemma-4-31B-it-interleaved: 12 texts, 0 refused
        ibm-granite-granite-3.3-2B-Instruct: 12 texts, 0 refused
        ibm-granite-granite-4.0: 12 texts, 0 refused
        ibm-granite-granite-4.1: 12 texts, 0 refused
        llama-cpp-deepseek-r1: 9 texts, 0 refused, read here: call; call as text; tools
        meetkai-functionary-medium-v3.1: 12 texts, 0 refused
        meetkai-functionary-medium-v3.2: 10 texts, 2 refused
        meta-llama-Llama-3.1-8B-Instruct: 12 texts, 0 refused
        meta-llama-Llama-3.2-3B-Instruct: 12 texts, 0 refused
        meta-llama-Llama-3.3-70B-Instruct: 12 texts, 0 refused
        microsoft-Phi-3.5-mini-instruct: 12 texts, 0 refused
        mistralai-Ministral-3-14B-Reasoning-2512: 12 texts, 0 refused
        mistralai-Mistral-Nemo-Instruct-2407: 12 texts, 0 refused
        moonshotai-Kimi-K2: 12 texts, 0 refused
        openai-gpt-oss-120b: 12 texts, 0 refused
        openbmb-MiniCPM5-1B: 11 texts, 1 refused
        unsloth-Apriel-1.5: 12 texts, 0 refused
        unsloth-mistral-Devstral-Small-2507: 12 texts, 0 refused
    "#]]
    .assert_eq(&table);
}

/// Files of GPT-OSS need not bring a template: what is written then is what OpenAI's writes, but for arguments that come as text,
/// which it puts into quotes.
#[test]
fn gpt_oss_without_a_template_converses_as_with_openais() {
    let fixture = fixture();
    for architecture in ["gptoss", "gpt-oss"] {
        let architecture = gguf_builder::Value::Str(architecture.into());
        let file = Builder::new().pair("general.architecture", architecture);
        let gguf = gguf_builder::open(&file.build()).unwrap();
        let template = ChatTemplate::from_gguf(&gguf).unwrap().expect("a template");
        let render = |case: &str| {
            template
                .render(&Conversation::from(&fixture.conversations[case]))
                .unwrap()
        };
        for (case, expected) in &fixture.expected["openai-gpt-oss-120b"] {
            match case.as_str() {
                "call as text" => {
                    let arguments = r#"json<|message|>{"city": "Z\u00fcrich", "days": 2}<|call|>"#;
                    assert!(render(case).contains(arguments));
                }
                _ => assert_eq!(Some(render(case)), *expected, "{case}"),
            }
        }
        let format = AnswerFormat::new(Some(&template), &Tokenizer::bytes());
        let forms = (format.reasoning(), format.calls());
        assert_eq!(forms, (ReasoningForm::Harmony, CallForm::Harmony));
    }
    let other = Builder::new().pair("general.architecture", gguf_builder::Value::Str("llama".into()));
    let gguf = gguf_builder::open(&other.build()).unwrap();
    assert!(ChatTemplate::from_gguf(&gguf).unwrap().is_none());
}

/// How GPT-OSS is told tools whose arguments are more than words and numbers: by OpenAI's guide to the format.
#[test]
fn gpt_oss_without_a_template_is_told_types() {
    let file = Builder::new().pair("general.architecture", gguf_builder::Value::Str("gptoss".into()));
    let gguf = gguf_builder::open(&file.build()).unwrap();
    let template = ChatTemplate::from_gguf(&gguf).unwrap().expect("a template");
    let tools = json!([
        {"type": "function", "function": {"name": "edit", "description": "Changes a file", "parameters": {
            "type": "object",
            "properties": {
                "paths": {"type": "array", "items": {"type": "string"}, "description": "Where"},
                "mode": {"type": "string", "enum": ["all", "first"], "default": "first"},
                "lines": {"type": "array", "items": {"type": "integer"}},
                "dry": {"type": "boolean", "default": false},
                "by": {"type": "object", "properties": {"name": {"type": "string", "nullable": true}}, "required": ["name"]},
                "rest": {"type": "object"},
                "any": {},
            },
            "required": ["paths"],
        }}},
        {"type": "function", "function": {"name": "undo"}},
    ]);
    let values = |json: &serde_json::Value| -> Vec<Value> {
        let list = json.as_array().unwrap().iter();
        list.map(|it| Value::from(Serde(it))).collect()
    };
    let text = template.render(&Conversation {
        messages: values(&json!([{"role": "user", "content": "Hi."}])),
        tools: values(&tools),
        wants_answer: true,
        ..Conversation::default()
    });
    let text = text.unwrap();
    let (_, told) = text.split_once("namespace functions {\n\n").unwrap();
    expect![[r#"
        // Changes a file
        type edit = (_: {
        // Where
        paths: string[],
        mode?: "all" | "first", // default: first
        lines?: number[],
        dry?: boolean, // default: false
        by?: {
        name: string | null,
        },
        rest?: object,
        any?: any,
        }) => any;

        type undo = () => any;

        } // namespace functions<|end|><|start|>user<|message|>Hi.<|end|><|start|>assistant"#]]
    .assert_eq(told);
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
