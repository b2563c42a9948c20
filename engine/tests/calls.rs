//! How a model marks reasoning and calls: found out from its chat template and its vocabulary, for templates of released models;
//! and calls written by those templates and read again.

use std::{collections::BTreeMap, fmt::Write};

use answers::{END_TOKENS, HARMONY_TOKENS, parse, tokenizer, tools, with_markers};
use expect_test::expect;
use serde_json::json;
use surmise_engine::{
    answer::{AnswerFormat, CallForm, ReasoningForm},
    chat_template::{ChatTemplate, Conversation, Serde, Value},
    tokenizer::Tokenizer,
};

mod answers;
mod chat_templates;
mod gguf_builder;

/// All templates by name.
fn all_templates() -> BTreeMap<String, ChatTemplate> {
    let Some(folder) = chat_templates::folder() else {
        return BTreeMap::new();
    };
    let special = ["bos", "eos", "pad", "unk"].map(|name| (format!("{name}_token"), "</s>".to_owned()));
    let paths = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let templates = paths.filter(|path| path.extension().is_some_and(|it| it == "jinja"));
    templates
        .filter_map(|path| {
            let source = std::fs::read_to_string(&path).unwrap();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            Some((
                name,
                ChatTemplate::new(&source, BTreeMap::from(special.clone())).ok()?,
            ))
        })
        .collect()
}

#[test]
fn forms_are_found_out_from_templates() {
    let mut found = String::new();
    for (name, chat) in all_templates() {
        let format = AnswerFormat::new(Some(&chat), &Tokenizer::bytes());
        if (format.reasoning(), format.calls()) != (ReasoningForm::None, CallForm::None) {
            writeln!(found, "{name}: {:?}, {:?}", format.reasoning(), format.calls()).unwrap();
        }
    }
    if !found.is_empty() {
        expect![[r#"
            Bielik-11B-v3.0-Instruct: Think, Hermes
            GLM-4.6: Think, Glm
            GLM-4.7-Flash: Think, Glm
            HuggingFaceTB-SmolLM3-3B: Think, None
            Kimi-K2-Thinking: Think, None
            LFM2.5-8B-A1B: Think, None
            LFM2.5-Instruct: Think, None
            MiMo-VL: None, Hermes
            MiniMax-M2: Think, None
            Mistral-Small-3.2-24B-Instruct-2506: None, Mistral
            NVIDIA-Nemotron-3-Nano-30B-A3B-BF16: Think, Functions
            NVIDIA-Nemotron-Nano-v2: Think, None
            NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use: None, Hermes
            NousResearch-Hermes-3-Llama-3.1-8B-tool_use: None, Hermes
            Qwen-QwQ-32B: Think, Hermes
            Qwen-Qwen2.5-7B-Instruct: None, Hermes
            Qwen-Qwen3-0.6B: Think, Hermes
            Qwen3-Coder: None, Functions
            Qwen3.5-4B: Think, Functions
            Reka-Edge: Think, Hermes
            Spark2.5: Think, Glm
            StepFun3.5-Flash: Think, Functions
            deepseek-ai-DeepSeek-R1-Distill-Llama-8B: Think, DeepSeek
            deepseek-ai-DeepSeek-R1-Distill-Qwen-32B: Think, DeepSeek
            deepseek-ai-DeepSeek-V3.1: Think, DeepSeek
            deepseek-ai-DeepSeek-V3.2: Think, None
            deepseek-ai-DeepSeek-V4: Think, None
            deepseek-ai-DeepSeek-V4-Flash-0731: Think, None
            google-gemma-4-31B-it: Channel, Gemma
            google-gemma-4-31B-it-interleaved: Channel, Gemma
            ibm-granite-granite-3.3-2B-Instruct: Think, Granite
            ibm-granite-granite-4.0: None, Hermes
            ibm-granite-granite-4.1: None, Hermes
            inclusionai-ling-3.0-flash: Think, Glm
            llama-cpp-deepseek-r1: Think, DeepSeek
            llama-cpp-rwkv-world: Think, None
            meta-llama-Llama-3.1-8B-Instruct: None, Llama
            meta-llama-Llama-3.2-3B-Instruct: None, Llama
            meta-llama-Llama-3.3-70B-Instruct: None, Llama
            mistralai-Ministral-3-14B-Reasoning-2512: BracketThink, Mistral
            mistralai-Mistral-Nemo-Instruct-2407: None, Mistral
            openai-gpt-oss-120b: Harmony, Harmony
            openbmb-MiniCPM5-1B: Think, None
            poolside-Laguna-S-2.1: Think, Glm
            poolside-Laguna-XS-2.1: Think, Glm
            poolside-Laguna-XS.2: Think, Glm
            unsloth-mistral-Devstral-Small-2507: None, Mistral
        "#]]
        .assert_eq(&found);
    }
}

#[test]
fn forms_are_found_out_from_vocabularies() {
    for (markers, reasoning, calls) in [
        (
            &["<think>", "</think>", "<tool_call>", "</tool_call>"][..],
            ReasoningForm::Think,
            CallForm::Hermes,
        ),
        (&["[TOOL_CALLS]"], ReasoningForm::None, CallForm::Mistral),
        (&["<|python_tag|>"], ReasoningForm::None, CallForm::Llama),
        (&["<|tool_call|>"], ReasoningForm::None, CallForm::Granite),
        (
            &["[THINK]", "[/THINK]", "[TOOL_CALLS]"],
            ReasoningForm::BracketThink,
            CallForm::Mistral,
        ),
        (
            &[
                "<｜tool▁calls▁begin｜>",
                "<｜tool▁call▁begin｜>",
                "<｜tool▁sep｜>",
            ],
            ReasoningForm::None,
            CallForm::DeepSeek,
        ),
        (
            &["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>"],
            ReasoningForm::Channel,
            CallForm::Gemma,
        ),
        (&HARMONY_TOKENS, ReasoningForm::Harmony, CallForm::Harmony),
        (&[], ReasoningForm::None, CallForm::None),
    ] {
        let format = AnswerFormat::new(None, &tokenizer(markers));
        assert_eq!(
            (format.reasoning(), format.calls()),
            (reasoning, calls),
            "{markers:?}"
        );
    }
}

/// A template that writes calls in a known form writes them so that they are read again.
#[test]
fn calls_go_through_templates_and_back() {
    let arguments = [
        (
            "read_file",
            json!({"path": "src/größe \"1\".rs", "lines": [1, -20]}),
        ),
        (
            "edit_file",
            json!({
                "path": "a\\b.rs",
                "old": "    if a < b {\n        \"x\": {}\n    }\n",
                "new": "{\"name\": \"read_file\"} 12 & 'so' </function\n",
                "all": false,
            }),
        ),
    ];
    let mut passed = BTreeMap::new();
    for (name, chat) in all_templates() {
        let spelled = with_markers(chat.source());
        for tokenizer in [spelled, Tokenizer::bytes().into()] {
            let format = AnswerFormat::new(Some(&chat), &tokenizer);
            if format.calls() == CallForm::None {
                continue;
            }
            for (content, called) in [
                ("", &arguments[..1]),
                ("", &arguments[1..]),
                ("Let me see.", &arguments[..1]),
                ("", &arguments),
            ] {
                let question = json!({"role": "user", "content": "Fix it."});
                let answer = |as_text: bool| {
                    let call = |(name, arguments): &(&str, serde_json::Value)| {
                        let arguments = if as_text {
                            json!(arguments.to_string())
                        } else {
                            arguments.clone()
                        };
                        json!({"id": "a1B2c3D4e", "type": "function", "function": {"name": name, "arguments": arguments}})
                    };
                    let calls: Vec<_> = called.iter().map(call).collect();
                    json!({"role": "assistant", "content": content, "tool_calls": calls})
                };
                let render = |messages: &[serde_json::Value], wants_answer| {
                    chat.render(&Conversation {
                        messages: messages.iter().map(|it| Value::from(Serde(it))).collect(),
                        tools: tools(),
                        wants_answer,
                        ..Conversation::default()
                    })
                };
                // Some take arguments as JSON only, and some one call at a time, or no text beside it.
                let whole = |as_text| render(&[question.clone(), answer(as_text)], false);
                let Ok(whole) = whole(false).or_else(|_| whole(true)) else {
                    continue;
                };
                let with_opening = render(std::slice::from_ref(&question), true).unwrap();
                let without_opening = render(&[question], false).unwrap();
                let mut prompts = [with_opening, without_opening].into_iter();
                let prompt = prompts.find(|it| whole.starts_with(it)).unwrap();
                let answer = &whole[prompt.len()..];
                let ends = END_TOKENS.iter().filter_map(|it| answer.find(it));
                let answer = &answer[..ends.min().unwrap_or(answer.len())];
                let has_text = answer.contains("Let me see.");
                let has_calls = called.iter().all(|(name, _)| answer.contains(name));
                if !has_calls || (format.calls() == CallForm::Llama && has_text) {
                    // It leaves calls out, or nothing would tell them from the text.
                    continue;
                }
                let [prompt_ids, answer_ids] =
                    [&prompt[..], answer].map(|it| tokenizer.encode(it, true).unwrap());
                let parsed = parse(&format, &tokenizer, &prompt_ids, &answer_ids, &tools());
                let found: Vec<_> = parsed
                    .calls
                    .iter()
                    .map(|call| (call.name.as_str(), serde_json::from_str(&call.arguments).unwrap()))
                    .collect();
                assert_eq!(found, called, "{name}: {whole:?}\n{parsed:?}");
                // GPT-OSS's template has text beside a call as reasoning.
                let said = match format.calls() {
                    CallForm::Harmony => &parsed.reasoning,
                    _ => &parsed.text,
                };
                assert_eq!(said.contains("Let me see."), has_text, "{name}: {parsed:?}");
                *passed.entry(name.clone()).or_insert(0) += 1;
            }
        }
    }
    if !passed.is_empty() {
        // Of eight: with markers as tokens and as text, each call alone, one after some text, and both.
        expect![[r#"
            Bielik-11B-v3.0-Instruct: 8
            GLM-4.6: 8
            GLM-4.7-Flash: 8
            MiMo-VL: 8
            Mistral-Small-3.2-24B-Instruct-2506: 8
            NVIDIA-Nemotron-3-Nano-30B-A3B-BF16: 8
            NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use: 8
            NousResearch-Hermes-3-Llama-3.1-8B-tool_use: 8
            Qwen-QwQ-32B: 8
            Qwen-Qwen2.5-7B-Instruct: 8
            Qwen-Qwen3-0.6B: 8
            Qwen3-Coder: 8
            Qwen3.5-4B: 8
            Reka-Edge: 8
            Spark2.5: 8
            StepFun3.5-Flash: 8
            deepseek-ai-DeepSeek-R1-Distill-Qwen-32B: 8
            deepseek-ai-DeepSeek-V3.1: 8
            google-gemma-4-31B-it: 8
            google-gemma-4-31B-it-interleaved: 8
            ibm-granite-granite-4.0: 8
            ibm-granite-granite-4.1: 8
            inclusionai-ling-3.0-flash: 8
            llama-cpp-deepseek-r1: 6
            meta-llama-Llama-3.1-8B-Instruct: 6
            meta-llama-Llama-3.2-3B-Instruct: 6
            meta-llama-Llama-3.3-70B-Instruct: 6
            mistralai-Ministral-3-14B-Reasoning-2512: 8
            mistralai-Mistral-Nemo-Instruct-2407: 8
            openai-gpt-oss-120b: 6
            poolside-Laguna-S-2.1: 8
            poolside-Laguna-XS-2.1: 8
            poolside-Laguna-XS.2: 8
            unsloth-mistral-Devstral-Small-2507: 8
        "#]]
        .assert_eq(
            &passed
                .iter()
                .fold(String::new(), |all, (name, n)| format!("{all}{name}: {n}\n")),
        );
    }
}
