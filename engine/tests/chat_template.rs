//! Chat templates against transformers: `tests/fixtures/chat-templates.json` has what `apply_chat_template` gave for the
//! templates that `chat_templates` finds.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use surmise_engine::chat_template::{ChatTemplate, Conversation, Date, Value};

mod chat_templates;

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

#[test]
fn templates_give_what_transformers_gives() {
    let Some(folder) = chat_templates::folder() else {
        return;
    };
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/chat-templates.json");
    let fixture: Fixture = serde_json::from_slice(&std::fs::read(fixture).unwrap()).unwrap();
    let special = ["bos", "eos", "pad", "unk"]
        .map(|name| (format!("{name}_token"), format!("<{}>", name.to_uppercase())));
    let mut failures = Vec::new();
    let mut n_cases = 0;
    for (name, cases) in &fixture.expected {
        let source = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::new(&source, BTreeMap::from(special.clone())).unwrap();
        for (case, expected) in cases {
            n_cases += 1;
            let found = template.render(&Conversation::from(&fixture.conversations[case]));
            match (found, expected.as_deref()) {
                (Ok(found), Some(expected)) if found == expected => {}
                (Err(_), None) => {}
                (found, expected) => {
                    failures.push(format!("{name}, {case}:\n{found:?}\nexpected\n{expected:?}"))
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
    assert!(n_cases >= 150, "{n_cases}");
}
