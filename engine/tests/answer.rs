//! Parts of answers: what each form's parser makes of answers like those that models give, whatever the pieces they come in.

use std::{collections::BTreeMap, fmt::Write, mem};

use answers::{Random, parse, tools, with_markers};
use expect_test::{Expect, expect};
use surmise_engine::{
    answer::{AnswerFormat, ParsedAnswer},
    chat_template::{ChatTemplate, Value},
    request::FinishReason,
    tokenizer::Tokenizer,
};

mod answers;
mod gguf_builder;

/// Templates that show a form and nothing else. Their prompts end where the answer begins.
const QWEN: &str = "{{ messages[0].content }}{% for call in messages[1].tool_calls %}<tool_call>\n\
    {{ {'name': call.function.name} | tojson }}\n</tool_call>{% endfor %}{# </think> #}";
const CODER: &str = "{{ messages[0].content }}{% for call in messages[1].tool_calls %}<tool_call>\n\
    <function={{ call.function.name }}>\n</function>\n</tool_call>{% endfor %}";
const LLAMA: &str = "{{ messages[0].content }}{% for call in messages[1].tool_calls %}\
    {{ {'name': call.function.name, 'parameters': call.function.arguments} | tojson }}{% endfor %}";
const MISTRAL: &str = "{{ messages[0].content }}{% for call in messages[1].tool_calls %}\
    [TOOL_CALLS]{{ call.function.name }}[ARGS]{}{% endfor %}{# [/THINK] #}";
const DEEPSEEK: &str = "{{ messages[0].content }}{% for call in messages[1].tool_calls %}\
    <｜tool▁call▁begin｜>{{ call.function.name }}<｜tool▁sep｜>{% endfor %}{# </think> #}";
const GLM: &str = "{{ messages[0].content }}{% for call in messages[1].tool_calls %}\
    <tool_call>{{ call.function.name }}<arg_key>{% endfor %}{# </think> #}";
const GEMMA: &str = "{{ messages[0].content }}{% for call in messages[1].tool_calls %}\
    <|tool_call>call:{{ call.function.name }}{}{% endfor %}{# <channel|> #}";
const GRANITE: &str = "{{ messages[0].content }}{# <|tool_call|> #}";
const HARMONY: &str = "{{ messages[0].content }}<|start|>assistant{# <|channel|><|message|> #}";
/// What else the vocabulary has does not matter if a template writes calls in no known way.
const PLAIN: &str =
    "{{ messages[0].content }}{% for call in messages[1].tool_calls %}{{ call.function.name }}(){% endfor %}";

fn shown(parsed: &ParsedAnswer) -> String {
    let mut shown = String::new();
    for (name, text) in [("reasoning", &parsed.reasoning), ("text", &parsed.text)] {
        if !text.is_empty() {
            writeln!(shown, "{name}: {text:?}").unwrap();
        }
    }
    for call in &parsed.calls {
        let id = call.id.as_ref().map_or(String::new(), |id| format!(" #{id}"));
        writeln!(shown, "call: {}{id} {}", call.name, call.arguments).unwrap();
    }
    shown
}

/// What comes of an answer if all markers are tokens of the vocabulary, and if none is.
fn parse_both(template: &str, prompt: &str, answer: &str, tools: &[Value]) -> [ParsedAnswer; 2] {
    let chat = ChatTemplate::new(template, BTreeMap::new()).unwrap();
    [with_markers(template), Tokenizer::bytes().into()].map(|tokenizer| {
        let format = AnswerFormat::new(Some(&chat), &tokenizer);
        let [prompt, ids] = [prompt, answer].map(|it| tokenizer.encode(it, true).unwrap());
        parse(&format, &tokenizer, &prompt, &ids, tools)
    })
}

/// Parses the answers after `answer:`, to the prompts after `prompt:` where there are any, and compares what comes of them with
/// the lines below.
#[track_caller]
fn check(template: &str, cases: Expect) {
    let (mut found, mut prompt) = (String::new(), String::new());
    for line in cases.data().lines().map(str::trim).skip_while(|it| it.is_empty()) {
        let input = |name| {
            line.strip_prefix(name)
                .map(|it| serde_json::from_str::<String>(it).unwrap())
        };
        if let Some(text) = input("prompt: ") {
            prompt = text;
            writeln!(found, "{line}").unwrap();
        } else if let Some(answer) = input("answer: ") {
            let [by_tokens, by_text] = parse_both(template, &mem::take(&mut prompt), &answer, &tools());
            assert_eq!(by_text, by_tokens, "with markers in ordinary tokens");
            write!(found, "{line}\n{}", shown(&by_tokens)).unwrap();
        } else if line.is_empty() || line.starts_with('#') {
            writeln!(found, "{line}").unwrap();
        }
    }
    cases.assert_eq(&format!("{}\n", found.trim_end()));
}

#[test]
fn reasoning_is_told_from_text() {
    check(
        QWEN,
        expect![[r#"
            answer: "<think>\nTwo bits?\n\nYes.\n</think>\n\nIt **shifts** by 2.\n"
            reasoning: "Two bits?\n\nYes."
            text: "It **shifts** by 2.\n"

            prompt: "<think>\n"
            answer: "Two bits?\n</think>\n\n    let x = 1;"
            reasoning: "Two bits?"
            text: "    let x = 1;"

            # Asked not to reason.
            prompt: "<think>\n\n</think>\n\n"
            answer: "It shifts."
            text: "It shifts."

            answer: "<think>\n\n</think>\n\nIt shifts."
            text: "It shifts."

            # The template had the beginning, and the model says it again.
            prompt: "<think>\n"
            answer: "<think>\nHm.\n</think>\nYes."
            reasoning: "Hm."
            text: "Yes."

            # It never comes to an end, or has no beginning.
            answer: "<think>\nHm, 1 < 2"
            reasoning: "Hm, 1 < 2"

            answer: "Hm.\n</think>\n\nYes."
            reasoning: "Hm."
            text: "Yes."

            answer: "</think>\n\nYes."
            text: "Yes."

            # A second end is text.
            answer: "<think>\na\n</think>\nThe tag </think> ends it."
            reasoning: "a"
            text: "The tag </think> ends it."

            answer: "  1 < 2, a <b> and <thin\n"
            text: "  1 < 2, a <b> and <thin\n"
        "#]],
    );
}

#[test]
fn calls_of_hermes_and_qwen() {
    check(
        QWEN,
        expect![[r#"
            answer: "<think>\nI need the file.\n</think>\n\nLet me look.\n<tool_call>\n{\"name\": \"read_file\", \"arguments\": {\"path\": \"src/größe.rs\", \"lines\": [1, 20]}}\n</tool_call>"
            reasoning: "I need the file."
            text: "Let me look."
            call: read_file {"path": "src/größe.rs", "lines": [1, 20]}

            answer: "<tool_call>\n{\"name\": \"read_file\", \"arguments\": {\"path\": \"a\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"edit_file\", \"arguments\": \"{\\\"path\\\": \\\"b\\\"}\"}\n</tool_call>\n"
            call: read_file {"path": "a"}
            call: edit_file {"path": "b"}

            # Cut off after the object, and in it.
            answer: "<tool_call>\n{\"name\": \"read_file\", \"arguments\": {}}"
            call: read_file {}

            answer: "Look:\n<tool_call>\n{\"name\": \"read_file\", \"argu"
            text: "Look:\n<tool_call>\n{\"name\": \"read_file\", \"argu"

            # Not JSON, and then text and a call.
            answer: "<tool_call>\n{name: read_file}\n</tool_call>\nSorry.\n<tool_call>{\"name\": \"read_file\", \"arguments\": {\"path\": \"a\"}}</tool_call>\nDone."
            text: "<tool_call>\n{name: read_file}\n</tool_call>\nSorry.\nDone."
            call: read_file {"path": "a"}

            answer: "A </tool_call> alone"
            text: "A </tool_call> alone"
        "#]],
    );
}

#[test]
fn calls_of_qwen3_coder() {
    check(
        CODER,
        expect![[r#"
            answer: "I'll fix it.\n\n<tool_call>\n<function=edit_file>\n<parameter=path>\nsrc/lib.rs\n</parameter>\n<parameter=old>\n    if a < b {\n    }\n\n</parameter>\n<parameter=new>\n42\n</parameter>\n<parameter=all>\nTrue\n</parameter>\n</function>\n</tool_call>"
            text: "I'll fix it."
            call: edit_file {"path": "src/lib.rs", "old": "    if a < b {\n    }\n", "new": "42", "all": true}

            # A value that is about such tags, one that is JSON, and a parameter that nobody described.
            answer: "<tool_call>\n<function=edit_file>\n<parameter=old>\nends with </parameter> or </function>\n</parameter>\n</function>\n<function=read_file>\n<parameter=lines>\n[1, 2]\n</parameter>\n<parameter=depth>\n3\n</parameter>\n<parameter=mode>\nfast\n</parameter>\n</function>\n</tool_call>"
            call: edit_file {"old": "ends with </parameter> or </function>"}
            call: read_file {"lines": [1, 2], "depth": 3, "mode": "fast"}

            # Without the first tag, as it happens after some text.
            answer: "Let me see.\n<function=read_file>\n<parameter=path>\na\n</parameter>\n</function>\n</tool_call>"
            text: "Let me see."
            call: read_file {"path": "a"}

            answer: "<tool_call>\n<function=read_file>\n<parameter=path>\na\n</tool_call>"
            text: "<tool_call>\n<function=read_file>\n<parameter=path>\na\n</tool_call>"

            answer: "Write <function=NAME> first, then </function>."
            text: "Write <function=NAME> first, then </function>."
        "#]],
    );
}

#[test]
fn calls_of_llama_3() {
    check(
        LLAMA,
        expect![[r#"
            answer: "{\"name\": \"read_file\", \"parameters\": {\"path\": \"a;b\"}}"
            call: read_file {"path": "a;b"}

            answer: "<|python_tag|>{\"type\": \"function\", \"name\": \"read_file\", \"parameters\": {\"path\": \"a\"}}; {\"name\": \"edit_file\", \"parameters\": {}}"
            call: read_file {"path": "a"}
            call: edit_file {}

            # JSON that calls no tool there is, JSON of another kind, code, and a call after text.
            answer: "\n{\"name\": \"Ann\", \"parameters\": {}}\n"
            text: "\n{\"name\": \"Ann\", \"parameters\": {}}\n"

            answer: "{\n  \"nam\": 1}"
            text: "{\n  \"nam\": 1}"

            answer: "<|python_tag|>print(1)"
            text: "<|python_tag|>print(1)"

            answer: "So: {\"name\": \"read_file\", \"parameters\": {}}"
            text: "So: {\"name\": \"read_file\", \"parameters\": {}}"
        "#]],
    );
}

#[test]
fn calls_of_mistral() {
    check(
        MISTRAL,
        expect![[r#"
            answer: "[TOOL_CALLS][{\"name\": \"read_file\", \"arguments\": {\"path\": \"[ARGS]\"}, \"id\": \"a1B2c3D4e\"}, {\"name\": \"edit_file\", \"arguments\": {}}]"
            call: read_file #a1B2c3D4e {"path": "[ARGS]"}
            call: edit_file {}

            answer: "I look.[TOOL_CALLS]read_file[ARGS]{\"path\": \"a\"}[TOOL_CALLS]edit_file[CALL_ID]a1B2c3D4e[ARGS]{}"
            text: "I look."
            call: read_file {"path": "a"}
            call: edit_file #a1B2c3D4e {}

            answer: "[TOOL_CALLS]read_file{\"path\": \"a\"}"
            call: read_file {"path": "a"}

            answer: "Well[TOOL_CALLS]read_file[ARGS]{\"path\": "
            text: "Well[TOOL_CALLS]read_file[ARGS]{\"path\": "

            answer: "See [1] and [TOOL_"
            text: "See [1] and [TOOL_"
        "#]],
    );
}

#[test]
fn reasoning_of_mistral() {
    check(
        MISTRAL,
        expect![[r#"
            answer: "[THINK]Two bits?\nYes.[/THINK]It shifts.[TOOL_CALLS]read_file[ARGS]{}"
            reasoning: "Two bits?\nYes."
            text: "It shifts."
            call: read_file {}

            prompt: "[THINK]"
            answer: "Two bits?[/THINK]\n\nIt shifts."
            reasoning: "Two bits?"
            text: "It shifts."

            answer: "<think>No</think> [THINK"
            text: "<think>No</think> [THINK"
        "#]],
    );
}

#[test]
fn calls_of_deepseek() {
    check(
        DEEPSEEK,
        expect![[r#"
            # V3.1, then V3 and R1.
            answer: "Hm.</think>I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>read_file<｜tool▁sep｜>{\"path\": \"größe\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>edit_file<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
            reasoning: "Hm."
            text: "I look."
            call: read_file {"path": "größe"}
            call: edit_file {}

            answer: "<think>\nHm.\n</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>read_file\n```json\n{\"path\": \"\\n```\", \"lines\": [1]}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>edit_file\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>\nDone."
            reasoning: "Hm."
            text: "Done."
            call: read_file {"path": "\n```", "lines": [1]}
            call: edit_file {}

            # Marks in a value; the last marks are lacking.
            answer: "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>read_file<｜tool▁sep｜>{\"path\": \"<｜tool▁call▁end｜>\"}"
            call: read_file {"path": "<｜tool▁call▁end｜>"}

            # Cut off; no JSON; something between; nothing at all.
            answer: "Well <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>read_file<｜tool▁sep｜>{\"path\": "
            text: "Well <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>read_file<｜tool▁sep｜>{\"path\": "

            answer: "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>read_file<｜tool▁sep｜>the file<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
            text: "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>read_file<｜tool▁sep｜>the file<｜tool▁call▁end｜><｜tool▁calls▁end｜>"

            answer: "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>read_file<｜tool▁sep｜>{}<｜tool▁call▁end｜>and<｜tool▁calls▁end｜>"
            text: "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>read_file<｜tool▁sep｜>{}<｜tool▁call▁end｜>and<｜tool▁calls▁end｜>"

            answer: "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜> A <｜tool▁sep｜>"
            text: "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜> A <｜tool▁sep｜>"
        "#]],
    );
}

#[test]
fn calls_of_glm() {
    check(
        GLM,
        expect![[r#"
            # 4.5 and 4.6, then 4.7.
            answer: "\n<think>Hm.</think>\nI look.\n<tool_call>edit_file\n<arg_key>path</arg_key>\n<arg_value>a b</arg_value>\n<arg_key>old</arg_key>\n<arg_value>    12\n</arg_value>\n<arg_key>all</arg_key>\n<arg_value>true</arg_value>\n</tool_call>\n<tool_call>read_file\n</tool_call>"
            reasoning: "Hm."
            text: "I look."
            call: edit_file {"path": "a b", "old": "    12\n", "all": true}
            call: read_file {}

            prompt: "<think>"
            answer: "Hm.</think>I look.<tool_call>read_file<arg_key>path</arg_key><arg_value>größe</arg_value><arg_key>lines</arg_key><arg_value>[1, 2]</arg_value></tool_call>"
            reasoning: "Hm."
            text: "I look."
            call: read_file {"path": "größe", "lines": [1, 2]}

            # A value about such tags, and keys that nobody described.
            answer: "<tool_call>edit_file<arg_key>old</arg_key><arg_value>the </arg_value> tag</arg_value><arg_key>depth</arg_key><arg_value>3</arg_value><arg_key>mode</arg_key><arg_value>fast</arg_value></tool_call>"
            call: edit_file {"old": "the </arg_value> tag", "depth": 3, "mode": "fast"}

            # A tool that nobody has is called with arguments, but not without.
            answer: "<tool_call>find<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>"
            call: find {"a": 1}

            answer: "<tool_call>find</tool_call>"
            text: "<tool_call>find</tool_call>"

            # Cut off, a value lacking, JSON.
            answer: "<tool_call>read_file<arg_key>path</arg_key><arg_value>a"
            text: "<tool_call>read_file<arg_key>path</arg_key><arg_value>a"

            answer: "<tool_call>read_file<arg_key>path</arg_key></tool_call>"
            text: "<tool_call>read_file<arg_key>path</arg_key></tool_call>"

            answer: "<tool_call>{\"name\": \"read_file\", \"arguments\": {}}</tool_call>"
            text: "<tool_call>{\"name\": \"read_file\", \"arguments\": {}}</tool_call>"
        "#]],
    );
}

#[test]
fn channels_and_calls_of_gemma() {
    check(
        GEMMA,
        expect![[r#"
            answer: "<|channel>thought\nTwo bits?\n\nYes.\n<channel|>It shifts.\n"
            reasoning: "Two bits?\n\nYes."
            text: "It shifts.\n"

            # Asked not to reason; the prompt has the beginning, or half of it, or the model says it again.
            prompt: "<|channel>thought\n<channel|>"
            answer: "It shifts."
            text: "It shifts."

            prompt: "<|channel>thought\n"
            answer: "Hm.\n<channel|>Yes."
            reasoning: "Hm."
            text: "Yes."

            prompt: "<|channel>"
            answer: "thought\nHm.<channel|>Yes."
            reasoning: "Hm."
            text: "Yes."

            prompt: "<|channel>thought\n"
            answer: "<|channel>thought\nHm.<channel|>Yes."
            reasoning: "Hm."
            text: "Yes."

            # Another channel, names that are cut off, nothing in it.
            answer: "<|channel>thoughts of\nmine<channel|>Yes."
            reasoning: "thoughts of\nmine"
            text: "Yes."

            answer: "<|channel>thou"
            reasoning: "thou"

            answer: "<|channel>thought"

            answer: "<|channel><channel|>Yes."
            text: "Yes."

            answer: "<|channel>thought\nHm.\n<channel|><|tool_call>call:edit_file{all:true,new:<|\"|>{\n  \"a\": [1]}\n<|\"|>,path:<|\"|>größe<|\"|>}<tool_call|><|tool_call>call:read_file{lines:[1,-2.5e3],path:<|\"|><|\"|>}<tool_call|>I look."
            reasoning: "Hm."
            text: "I look."
            call: edit_file {"all": true, "new": "{\n  \"a\": [1]}\n", "path": "größe"}
            call: read_file {"lines": [1, -2.5e3], "path": ""}

            answer: "<|tool_call>call:find{in:{deep:{},<|\"|>a:b<|\"|>:[[],{x:null}]}, any:None}"
            call: find {"in": {"deep": {}, "a:b": [[], {"x": null}]}, "any": null}

            answer: "<|tool_call>call:read_file{}<tool_call|>"
            call: read_file {}

            # Words without marks, brackets and strings that do not end, things before and after.
            answer: "<|tool_call>call:read_file{path:src/lib.rs}<tool_call|>"
            text: "<|tool_call>call:read_file{path:src/lib.rs}<tool_call|>"

            answer: "<|tool_call>call:read_file{path:<|\"|>a}<tool_call|>"
            text: "<|tool_call>call:read_file{path:<|\"|>a}<tool_call|>"

            answer: "<|tool_call>call:read_file{lines:[1,2}<tool_call|>"
            text: "<|tool_call>call:read_file{lines:[1,2}<tool_call|>"

            answer: "<|tool_call>call:read_file{lines:[1,,2]}<tool_call|>"
            text: "<|tool_call>call:read_file{lines:[1,,2]}<tool_call|>"

            answer: "<|tool_call>read_file{}<tool_call|><|tool_call>call:read_file{} now<tool_call|> <|\"|>"
            text: "<|tool_call>read_file{}<tool_call|><|tool_call>call:read_file{} now<tool_call|> <|\"|>"
        "#]],
    );
}

/// What a model says of brackets must not use up the stack.
#[test]
fn calls_of_gemma_are_not_endlessly_deep() {
    for (n_lists, is_call) in [(126, true), (127, false), (100_000, false)] {
        let answer = format!(
            "<|tool_call>call:read_file{{lines:{}{}}}<tool_call|>",
            "[".repeat(n_lists),
            "]".repeat(n_lists)
        );
        let chat = ChatTemplate::new(GEMMA, BTreeMap::new()).unwrap();
        let tokenizer = Tokenizer::bytes();
        let format = AnswerFormat::new(Some(&chat), &tokenizer);
        let mut parser = format.parser(&tokenizer, &[], &tools());
        let mut parsed = ParsedAnswer::default();
        parsed.extend(parser.push(&answer, &[]));
        parsed.extend(parser.finish(&FinishReason::Length));
        assert_eq!(
            (parsed.calls.len() == 1, parsed.text == answer),
            (is_call, !is_call)
        );
    }
}

#[test]
fn calls_of_granite_3() {
    check(
        GRANITE,
        expect![[r#"
            answer: "<|tool_call|>[{\"name\": \"read_file\", \"arguments\": {\"path\": \"a\"}}, {\"name\": \"edit_file\", \"arguments\": {}}]"
            call: read_file {"path": "a"}
            call: edit_file {}

            answer: "I look.\n<|tool_call|>[{\"name\": \"read_file\", \"arguments\": {}}]<|tool_call|>[{\"name\": \"read_file\"}]"
            text: "I look."
            call: read_file {}
            call: read_file {}

            answer: "<|tool_call|>[{\"name\": \"read_file\", \"argu"
            text: "<|tool_call|>[{\"name\": \"read_file\", \"argu"

            answer: "<|tool_call|>read_file()"
            text: "<|tool_call|>read_file()"
        "#]],
    );
}

#[test]
fn channels_of_harmony() {
    check(
        HARMONY,
        expect![[r#"
            prompt: "<|start|>user<|message|>Hi<|end|><|start|>assistant"
            answer: "<|channel|>analysis<|message|>The user says hi.<|end|><|start|>assistant<|channel|>final<|message|>Hello!<|return|>"
            reasoning: "The user says hi."
            text: "Hello!"

            prompt: "<|start|>user<|message|>Hi<|end|><|start|>assistant"
            answer: "<|channel|>analysis<|message|>Need it.<|end|><|start|>assistant<|channel|>commentary<|message|>I'll read it.<|end|><|start|>assistant<|channel|>commentary to=functions.read_file <|constrain|>json<|message|>{\"path\": \"a\"}<|call|>"
            reasoning: "Need it."
            text: "I'll read it."
            call: read_file {"path": "a"}

            prompt: "<|start|>user<|message|>Hi<|end|><|start|>assistant"
            answer: " to=functions.read_file<|channel|>commentary json<|message|>{\"path\":\"a\"}<|call|>"
            call: read_file {"path":"a"}

            # Several messages of reasoning, cut off; arguments cut off; a channel begun in the prompt; no channel at all.
            prompt: "<|start|>user<|message|>Hi<|end|><|start|>assistant"
            answer: "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>analysis<|message|>Two.<|end|><|start|>assi"
            reasoning: "One.\nTwo."

            prompt: "<|start|>user<|message|>Hi<|end|><|start|>assistant"
            answer: "<|channel|>commentary to=functions.read_file<|message|>{\"path\":"
            text: "<|channel|>commentary to=functions.read_file<|message|>{\"path\":"

            prompt: "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>He"
            answer: "llo!<|return|>"
            text: "llo!"

            prompt: "<|start|>user<|message|>Hi<|end|><|start|>assistant"
            answer: "Hello, to all"
            text: "Hello, to all"

            prompt: "<|start|>user<|message|>Hi<|end|><|start|>assistant"
            answer: "<|channel|>final<|message|>to=me 1<2<|end|>"
            text: "to=me 1<2"
        "#]],
    );
}

#[test]
fn other_calls_are_text() {
    check(
        PLAIN,
        expect![[r#"
            answer: "<tool_call>{\"name\": \"read_file\", \"arguments\": {}}</tool_call>"
            text: "<tool_call>{\"name\": \"read_file\", \"arguments\": {}}</tool_call>"
        "#]],
    );
}

#[test]
fn without_tools_there_are_no_calls() {
    for (template, answer) in [
        (
            QWEN,
            "<tool_call>\n{\"name\": \"read_file\", \"arguments\": {}}\n</tool_call>",
        ),
        (CODER, "<function=read_file>\n</function>"),
        (LLAMA, "{\"name\": \"read_file\", \"parameters\": {}}"),
        (
            LLAMA,
            "<|python_tag|>{\"name\": \"read_file\", \"parameters\": {}}",
        ),
        (MISTRAL, "[TOOL_CALLS]read_file[ARGS]{}"),
        (
            DEEPSEEK,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>read_file<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ),
        (GLM, "<tool_call>read_file</tool_call>"),
        (GEMMA, "<|tool_call>call:read_file{}<tool_call|>"),
        (GRANITE, "<|tool_call|>[{\"name\": \"read_file\"}]"),
    ] {
        for parsed in parse_both(template, "", answer, &[]) {
            assert_eq!((parsed.text.as_str(), parsed.calls), (answer, vec![]));
        }
    }
}

/// What is a token of the vocabulary is a marker as that token alone.
#[test]
fn spellings_in_ordinary_tokens_are_text() {
    for (template, answer) in [
        (
            QWEN,
            "<think>a</think><tool_call>{\"name\": \"read_file\"}</tool_call>",
        ),
        (LLAMA, "<|python_tag|>{\"name\": \"read_file\"}"),
        (MISTRAL, "[THINK]a[/THINK][TOOL_CALLS]read_file[ARGS]{}"),
        (
            DEEPSEEK,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>read_file<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ),
        (GLM, "<think>a</think><tool_call>read_file</tool_call>"),
        (
            GEMMA,
            "<|channel>thought\na<channel|><|tool_call>call:read_file{}<tool_call|>",
        ),
        (GRANITE, "<|tool_call|>[{\"name\": \"read_file\"}]"),
        (HARMONY, "<|channel|>analysis<|message|>Hi<|end|>"),
    ] {
        let chat = ChatTemplate::new(template, BTreeMap::new()).unwrap();
        let tokenizer = with_markers(template);
        let format = AnswerFormat::new(Some(&chat), &tokenizer);
        let ids = tokenizer.encode(answer, false).unwrap();
        let parsed = parse(&format, &tokenizer, &[], &ids, &tools());
        assert_eq!(shown(&parsed), format!("text: {answer:?}\n"));
    }
    // A call in which the closing tag is spelled.
    let chat = ChatTemplate::new(QWEN, BTreeMap::new()).unwrap();
    let tokenizer = with_markers(QWEN);
    let format = AnswerFormat::new(Some(&chat), &tokenizer);
    let ids = [
        tokenizer.encode("<tool_call>", true),
        tokenizer.encode(
            "{\"name\": \"read_file\", \"arguments\": {\"path\": \"</tool_call>\"}}",
            false,
        ),
        tokenizer.encode("</tool_call>", true),
    ];
    let parsed = parse(
        &format,
        &tokenizer,
        &[],
        &ids.map(Result::unwrap).concat(),
        &tools(),
    );
    expect![[r#"
        call: read_file {"path": "</tool_call>"}
    "#]]
    .assert_eq(&shown(&parsed));
}

/// Answers of pieces at random: nothing panics, pieces do not matter, and no text that is not a marker's is lost.
#[test]
fn nothing_is_lost_in_answers_at_random() {
    let mut pieces: Vec<&str> = "<think> </think> <tool_call> </tool_call> <function= </function> [TOOL_CALLS] [ARGS] <|python_tag|> \
        <arg_key> </arg_key> <arg_value> </arg_value> <｜tool▁calls▁begin｜> <｜tool▁calls▁end｜> <｜tool▁call▁begin｜> <｜tool▁call▁end｜> \
        <｜tool▁sep｜> <|tool_call> <tool_call|> call:f{ <|channel> <channel|> thought <|\"|> <|tool_call|> [THINK] [/THINK] \
        <|start|> assistant <|channel|> analysis commentary to=functions.f <|message|> <|end|> < [ { } \"name\" : 1 x é ab <tool </"
        .split(' ')
        .collect();
    pieces.extend(["\n", " "]);
    let mut random = Random(11);
    for template in [
        QWEN, CODER, LLAMA, MISTRAL, DEEPSEEK, GLM, GEMMA, GRANITE, HARMONY, PLAIN,
    ] {
        for _ in 0..300 {
            let n_pieces = 1 + random.below(12);
            let answer: String = (0..n_pieces)
                .map(|_| pieces[random.below(pieces.len())])
                .collect();
            for parsed in parse_both(template, "", &answer, &tools()) {
                let letters = |text: &str| text.matches(['x', 'é']).count();
                if template != HARMONY {
                    let found = letters(&parsed.reasoning) + letters(&parsed.text);
                    assert!(
                        parsed.calls.is_empty() && found >= letters(&answer),
                        "{answer:?}: {parsed:?}"
                    );
                }
            }
        }
    }
}
