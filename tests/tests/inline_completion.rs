//! Ghost text and menu entries, with a model that says what the test wants it to say.

use std::time::{Duration, Instant};

use expect_test::expect;
use serde_json::{Value, json};
use surmise_tests::{
    Client, ClientOptions,
    fixtures::cursor,
    scripted::{Script, start},
};

const URI: &str = "file:///project/sum.rs";
const INVOKED: u32 = 1;
const AUTOMATIC: u32 = 2;

/// Opens `fixture` and asks for ghost text at its `ˇ`.
fn ask(client: &mut Client, fixture: &str, trigger_kind: u32) -> Value {
    let (text, line, character) = cursor(fixture);
    client.open(URI, "rust", &text);
    client.request(
        "textDocument/inlineCompletion",
        Client::inline_params(URI, line, character, trigger_kind),
    )
}

/// Types `text` at a place.
fn type_text(client: &mut Client, line: usize, character: usize, text: &str, version: i32) {
    let place = json!({ "line": line, "character": character });
    client.notify(
        "textDocument/didChange",
        json!({
            "textDocument": { "uri": URI, "version": version },
            "contentChanges": [{ "range": { "start": place, "end": place }, "text": text }],
        }),
    );
}

fn explain(client: &mut Client) -> Value {
    client.request("surmise/explain", json!({ "textDocument": { "uri": URI } }))
}

fn ready(script: Script, options: ClientOptions) -> Client {
    let mut client = start(script, options);
    client.wait_until_ready();
    client
}

const SUM: Script = Script {
    replies: &[("fn sum", "a + b\n}\n\nfn more() {}"), ("fn twice", "2 * a)")],
    step_time: Duration::ZERO,
    load_time: Duration::ZERO,
};

#[test]
fn ghost_text_stands_at_the_cursor() {
    let mut client = ready(SUM, ClientOptions::default());
    let answer = ask(
        &mut client,
        "fn sum(a: i32, b: i32) -> i32 {\r\n    /* 😀 */ ˇ\r\n}\r\n",
        AUTOMATIC,
    );
    expect![[r#"{"items":[{"insertText":"a + b","range":{"start":{"line":1,"character":13},"end":{"line":1,"character":13}}}]}"#]]
        .assert_eq(&answer.to_string());
    let explained = explain(&mut client);
    assert_eq!(explained["last"]["extent"], "line");
    assert_eq!(explained["last"]["suggestion"]["text"], "a + b");
    assert_eq!(explained["last"]["engine"]["finish_reason"], "stop_string");
    // Places are those of the text that it was made for, whatever has become of it.
    type_text(&mut client, 0, 0, "\n\n", 2);
    assert_eq!(explain(&mut client)["last"], explained["last"]);
}

#[test]
fn brackets_that_stand_there_are_left_out() {
    let mut client = ready(SUM, ClientOptions::default());
    let answer = ask(
        &mut client,
        "fn twice(a: i32) -> i32 {\n    id(ˇ)\n}\n",
        AUTOMATIC,
    );
    assert_eq!(answer["items"][0]["insertText"], "2 * a");
}

#[test]
fn typing_the_suggestion_does_not_ask_the_model() {
    let mut client = ready(SUM, ClientOptions::default());
    ask(
        &mut client,
        "fn sum(a: i32, b: i32) -> i32 {\n    ˇ\n}\n",
        AUTOMATIC,
    );
    for (idx, typed) in ["a", " ", "+ "].into_iter().enumerate() {
        let before: usize = ["a", " ", "+ "][..idx].iter().map(|text| text.len()).sum();
        type_text(&mut client, 1, 4 + before, typed, 2 + idx as i32);
        let params = Client::inline_params(URI, 1, 4 + before + typed.len(), AUTOMATIC);
        let answer = client.request("textDocument/inlineCompletion", params);
        assert_eq!(
            answer["items"][0]["insertText"],
            "a + b"[before + typed.len()..],
            "after {typed:?}"
        );
        assert_eq!(explain(&mut client)["last"]["reused"], true);
    }
}

#[test]
fn no_suggestion_is_an_empty_list_with_a_reason() {
    let mut client = ready(SUM, ClientOptions::default());
    let answer = ask(&mut client, "fn nothing() {\n    suˇm\n}\n", AUTOMATIC);
    assert_eq!(answer, json!({ "items": [] }));
    assert_eq!(
        explain(&mut client)["last"]["withheld"],
        json!({ "reason": "inside_word", "message": "the cursor is inside a word" })
    );
    let answer = ask(&mut client, "fn nothing() {\n    ˇ\n}\n", INVOKED);
    assert_eq!(answer, json!({ "items": [] }));
    assert_eq!(explain(&mut client)["last"]["withheld"]["reason"], "empty");
}

#[test]
fn the_item_selected_in_the_menu_is_completed() {
    let mut client = ready(SUM, ClientOptions::default());
    let (text, line, character) = cursor("fn sum(a: i32, b: i32) -> i32 {\n    suˇ\n}\n");
    client.open(URI, "rust", &text);
    let range =
        json!({ "start": { "line": line, "character": 4 }, "end": { "line": line, "character": character } });
    let mut params = Client::inline_params(URI, line, character, AUTOMATIC);
    params["context"]["selectedCompletionInfo"] = json!({ "range": range, "text": "sum_of = " });
    let answer = client.request("textDocument/inlineCompletion", params);
    assert_eq!(
        answer["items"],
        json!([{ "insertText": "sum_of = a + b", "range": range }])
    );
}

#[test]
fn a_selected_item_may_end_with_any_line_break() {
    let mut client = ready(SUM, ClientOptions::default());
    let (text, line, character) = cursor("fn sum(a: i32, b: i32) -> i32 {\n    suˇ\n}\n");
    client.open(URI, "rust", &text);
    let range =
        json!({ "start": { "line": line, "character": 4 }, "end": { "line": line, "character": character } });
    for text in ["sum\r", "sum\r\n", "\n"] {
        let mut params = Client::inline_params(URI, line, character, INVOKED);
        params["context"]["selectedCompletionInfo"] = json!({ "range": range, "text": text });
        let answer = client.request("textDocument/inlineCompletion", params);
        assert!(answer["items"].is_array(), "{answer}");
    }
}

const SLOW: Script = Script {
    step_time: Duration::from_millis(40),
    ..SUM
};

#[test]
fn a_newer_request_supersedes_the_older() {
    let mut client = ready(SLOW, ClientOptions::default());
    let (text, line, character) = cursor("fn sum(a: i32, b: i32) -> i32 {\n    ˇ\n}\n");
    client.open(URI, "rust", &text);
    let params = Client::inline_params(URI, line, character, AUTOMATIC);
    let ids = [(); 3].map(|()| client.send_request("textDocument/inlineCompletion", params.clone()));
    assert_eq!(client.result(ids[0]), Value::Null);
    assert_eq!(client.result(ids[1]), Value::Null);
    assert_eq!(client.result(ids[2])["items"][0]["insertText"], "a + b");
}

#[test]
fn a_cancelled_request_ends_with_an_error_and_stops() {
    let mut client = ready(SLOW, ClientOptions::default());
    let (text, line, character) = cursor("fn sum(a: i32, b: i32) -> i32 {\n    ˇ\n}\n");
    client.open(URI, "rust", &text);
    let id = client.send_request(
        "textDocument/inlineCompletion",
        Client::inline_params(URI, line, character, 1),
    );
    client.notify("$/cancelRequest", json!({ "id": id }));
    assert_eq!(client.answer(id)["error"]["code"], -32800);
    // Nothing came of it.
    assert_eq!(explain(&mut client)["last"], Value::Null);
}

#[test]
fn an_answer_about_a_text_that_has_changed_is_not_given() {
    let mut client = ready(SLOW, ClientOptions::default());
    let (text, line, character) = cursor("fn sum(a: i32, b: i32) -> i32 {\n    ˇ\n}\n");
    client.open(URI, "rust", &text);
    let id = client.send_request(
        "textDocument/inlineCompletion",
        Client::inline_params(URI, line, character, 1),
    );
    type_text(&mut client, line, character, "a", 2);
    assert_eq!(client.result(id), Value::Null);
    // But it is remembered, and what was typed is the beginning of it.
    let params = Client::inline_params(URI, line, character + 1, AUTOMATIC);
    let answer = client.request("textDocument/inlineCompletion", params);
    assert_eq!(answer["items"][0]["insertText"], " + b");
}

#[test]
fn before_the_model_is_ready_the_answer_is_null_at_once() {
    let script = Script {
        load_time: Duration::from_millis(1500),
        ..SUM
    };
    let mut client = start(script, ClientOptions::default());
    let asked = Instant::now();
    assert_eq!(ask(&mut client, "fn sum() {\n    ˇ\n}\n", INVOKED), Value::Null);
    assert!(asked.elapsed() < script.load_time / 2, "{:?}", asked.elapsed());
    client.wait_until_ready();
    assert_eq!(client.take("$/progress")["params"]["value"]["kind"], "begin");
    assert_eq!(client.take("$/progress")["params"]["value"]["kind"], "end");
    assert_ne!(ask(&mut client, "fn sum() {\n    ˇ\n}\n", INVOKED), Value::Null);
}

#[test]
fn a_model_that_cannot_be_loaded_is_said_once() {
    let options = ClientOptions {
        settings: json!({ "model": "missing" }),
        ..ClientOptions::default()
    };
    let mut client = start(SUM, options);
    let shown = client.take("window/showMessage");
    assert_eq!(shown["params"]["type"], 1);
    expect!["Surmise: cannot load the model: the engine has stopped: no such model"]
        .assert_eq(shown["params"]["message"].as_str().unwrap_or_default());
    assert_eq!(ask(&mut client, "fn sum() {\n    ˇ\n}\n", INVOKED), Value::Null);
    assert_eq!(explain(&mut client)["model"], "failed");
}

#[test]
fn settings_are_followed_when_they_change() {
    let mut client = ready(SUM, ClientOptions::default());
    let fixture = "fn sum(a: i32, b: i32) -> i32 {\n    ˇ\n}\n";
    assert_eq!(
        ask(&mut client, fixture, INVOKED)["items"][0]["insertText"],
        "a + b"
    );

    // Pushed, as some clients do it. What was suggested under other settings is not offered again.
    for (completion, reason) in [
        (json!({ "disabled_languages": ["rust"] }), "language_disabled"),
        (json!({ "automatic": false }), "only_when_invoked"),
    ] {
        let settings = json!({ "surmise": { "completion": completion } });
        client.notify(
            "workspace/didChangeConfiguration",
            json!({ "settings": settings }),
        );
        let params = Client::inline_params(URI, 1, 4, AUTOMATIC);
        let answer = client.request("textDocument/inlineCompletion", params);
        assert_eq!(answer, json!({ "items": [] }));
        assert_eq!(explain(&mut client)["last"]["withheld"]["reason"], reason);
    }
    // What was asked for stays while it is typed.
    assert_eq!(
        ask(&mut client, fixture, INVOKED)["items"][0]["insertText"],
        "a + b"
    );
    type_text(&mut client, 1, 4, "a", 2);
    let params = Client::inline_params(URI, 1, 5, AUTOMATIC);
    let answer = client.request("textDocument/inlineCompletion", params);
    assert_eq!(answer["items"][0]["insertText"], " + b");
    let settings = json!({ "surmise": { "completion": { "enabled": false } } });
    client.notify(
        "workspace/didChangeConfiguration",
        json!({ "settings": settings }),
    );
    assert_eq!(ask(&mut client, fixture, INVOKED), json!({ "items": [] }));
    assert_eq!(explain(&mut client)["last"]["withheld"]["reason"], "disabled");

    // Pulled, as the protocol wants it; wrong ones are said, and the rest followed.
    client.settings = json!({ "completion": { "max_tokens": 1, "min_confidence": "high" }, "colour": 1 });
    client.notify("workspace/didChangeConfiguration", json!({ "settings": null }));
    let said: Vec<_> = [(); 2]
        .map(|()| client.take("window/showMessage")["params"].clone())
        .into();
    expect![[r#"{"type":1,"message":"Surmise: editor settings: `completion.min_confidence`: invalid type: string \"high\", expected f64"}"#]]
        .assert_eq(&said[0].to_string());
    expect![[r#"{"type":2,"message":"Surmise: editor settings: unknown setting `colour`; `surmise config schema` lists all"}"#]]
        .assert_eq(&said[1].to_string());
    assert_eq!(ask(&mut client, fixture, INVOKED)["items"][0]["insertText"], "a");

    // What was said is not said again with every change.
    client.settings =
        json!({ "completion": { "max_tokens": 2, "min_confidence": "high" }, "colour": 1, "size": 1 });
    client.notify("workspace/didChangeConfiguration", json!({ "settings": null }));
    let said = client.take("window/showMessage")["params"]["message"].clone();
    expect!["Surmise: editor settings: unknown setting `size`; `surmise config schema` lists all"]
        .assert_eq(said.as_str().unwrap_or_default());
}

#[test]
fn settings_at_the_start_are_followed() {
    let options = ClientOptions {
        settings_at_start: json!({ "completion": { "disabled_languages": ["rust"] } }),
        ..ClientOptions::default()
    };
    let mut client = ready(SUM, options);
    assert_eq!(
        ask(&mut client, "fn sum() {\n    ˇ\n}\n", INVOKED),
        json!({ "items": [] })
    );
    assert_eq!(explain(&mut client)["last"]["withheld"]["language"], "rust");
}

#[test]
fn an_editor_with_ghost_text_has_nothing_in_its_menu() {
    let mut client = ready(SUM, ClientOptions::default());
    let fixture = "fn sum(a: i32, b: i32) -> i32 {\n    ˇ\n}\n";
    let answer = ask(&mut client, fixture, INVOKED);
    assert_eq!(answer["items"][0]["insertText"], "a + b");
    let params = json!({ "textDocument": { "uri": URI }, "position": { "line": 1, "character": 4 } });
    assert_eq!(client.request("textDocument/completion", params), Value::Null);
}

#[test]
fn the_menu_never_waits_for_the_model() {
    // A client without ghost text.
    let mut options = ClientOptions::default();
    options.capabilities["textDocument"] = json!({});
    let mut client = ready(SLOW, options);
    let (text, line, character) = cursor("fn sum(a: i32, b: i32) -> i32 {\n    ˇ\n}\n");
    client.open(URI, "rust", &text);
    let params =
        json!({ "textDocument": { "uri": URI }, "position": { "line": line, "character": character } });
    let asked = Instant::now();
    let answer = client.request("textDocument/completion", params.clone());
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(answer, json!({ "isIncomplete": true, "items": [] }));

    // The model went to work in the background; the next request finds what it found.
    let deadline = Instant::now() + Duration::from_secs(20);
    let answer = loop {
        let answer = client.request("textDocument/completion", params.clone());
        if answer["items"] != json!([]) || Instant::now() > deadline {
            break answer;
        }
        std::thread::sleep(Duration::from_millis(300));
    };
    expect![[r#"
        {
          "isIncomplete": true,
          "items": [
            {
              "label": "a + b",
              "labelDetails": {
                "description": "Surmise"
              },
              "kind": 1,
              "filterText": "a + b",
              "insertTextMode": 1,
              "textEdit": {
                "range": {
                  "start": {
                    "line": 1,
                    "character": 4
                  },
                  "end": {
                    "line": 1,
                    "character": 4
                  }
                },
                "newText": "a + b"
              }
            }
          ]
        }"#]]
    .assert_eq(&format!("{answer:#}"));
}
