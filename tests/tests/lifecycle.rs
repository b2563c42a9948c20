//! Beginning and end of a session with the real binary, and messages that should not have been sent.

use serde_json::{Value, json};
use surmise_tests::{Client, ClientOptions};

/// A client that hears nothing about the model, which these tests have no use for.
fn options(capabilities: Value) -> ClientOptions {
    ClientOptions {
        args: vec![
            "lsp".to_owned(),
            "--model".to_owned(),
            "no-such-model.gguf".to_owned(),
        ],
        capabilities,
        ..ClientOptions::default()
    }
}

fn start(capabilities: Value) -> Client {
    let mut client = Client::start(options(capabilities));
    // That there is no such model.
    client.expect("window/showMessage");
    client.expect("window/logMessage");
    client
}

#[test]
fn the_best_encoding_that_both_know_is_agreed_on() {
    let agreed = |capabilities| start(capabilities).server["capabilities"]["positionEncoding"].clone();
    let offer = |encodings: &[&str]| json!({ "general": { "positionEncodings": encodings } });
    assert_eq!(agreed(offer(&["utf-16", "utf-8"])), "utf-8");
    assert_eq!(agreed(offer(&["utf-32", "utf-16"])), "utf-16");
    assert_eq!(agreed(offer(&["utf-32"])), "utf-32");
    assert_eq!(agreed(offer(&["utf-9"])), "utf-16");
    assert_eq!(agreed(json!({})), "utf-16");
}

#[test]
fn capabilities_are_what_we_can_do() {
    expect_test::expect![[r#"
        {
          "capabilities": {
            "positionEncoding": "utf-16",
            "textDocumentSync": {
              "openClose": true,
              "change": 2
            },
            "completionProvider": {},
            "codeActionProvider": {
              "codeActionKinds": [
                "refactor.rewrite",
                "quickfix"
              ],
              "resolveProvider": true
            },
            "executeCommandProvider": {
              "commands": [
                "surmise.edit",
                "surmise.runAction"
              ]
            },
            "inlineCompletionProvider": {},
            "workspace": {
              "workspaceFolders": {
                "supported": true,
                "changeNotifications": true
              }
            }
          },
          "serverInfo": {
            "name": "surmise",
            "version": "0.1.0"
          }
        }"#]]
    .assert_eq(&format!("{:#}", start(json!({})).server));
}

#[test]
fn capabilities_that_we_cannot_read_are_no_reason_to_refuse() {
    let client = start(json!({
        "textDocument": { "inlineCompletion": null, "hover": { "contentFormat": 7 }, "unknown": [] },
        "workspace": { "symbol": { "symbolKind": { "valueSet": ["many"] } } },
        "general": { "positionEncodings": ["utf-8"] },
        "experimental": "yes",
    }));
    assert_eq!(client.server["capabilities"]["positionEncoding"], "utf-8");
}

#[test]
fn the_end_of_the_input_is_the_end() {
    assert_eq!(start(json!({})).hang_up(), 0);
}

#[test]
fn exit_codes_say_whether_shutdown_came_first() {
    assert_eq!(start(json!({})).exit(true), 0);
    assert_eq!(start(json!({})).exit(false), 1);
}

#[test]
fn stdio_can_be_said_in_every_way() {
    for args in [&["--stdio"][..], &["lsp", "--stdio"], &["lsp"]] {
        let mut client = Client::start(ClientOptions {
            args: args.iter().map(|arg| arg.to_string()).collect(),
            capabilities: json!({}),
            ..ClientOptions::default()
        });
        client.expect("window/showMessage");
        client.expect("window/logMessage");
    }
}

#[test]
fn messages_that_make_no_sense_are_answered_and_survived() {
    let mut client = start(json!({}));
    let codes = |answer: Value| (answer["id"].clone(), answer["error"]["code"].clone());

    client.send_body(b"{\"jsonrpc\": \"2.0\", \"method\": ");
    assert_eq!(codes(client.take_orphan()), (Value::Null, json!(-32700)));
    client.send_body(b"\xff\xfe");
    assert_eq!(codes(client.take_orphan()), (Value::Null, json!(-32700)));
    client.send_body(b"[1, 2]");
    assert_eq!(codes(client.take_orphan()), (Value::Null, json!(-32600)));
    client.expect_answer(900);
    client.send_body(b"{\"jsonrpc\": \"2.0\", \"id\": 900, \"method\": 7}");
    assert_eq!(codes(client.answer(900)), (json!(900), json!(-32600)));
    client.send_body(b"{\"jsonrpc\": \"2.0\", \"id\": 12345, \"result\": null}");
    client.send_bytes(b"no header at all\r\n\r\nContent-Length: x\r\n\r\n");

    for (method, params, code) in [
        ("surmise/noSuchMethod", json!({}), -32601),
        (
            "textDocument/inlineCompletion",
            json!({ "position": "here" }),
            -32602,
        ),
        ("textDocument/completion", Value::Null, -32602),
        (
            "surmise/viewText",
            json!({ "textDocument": { "uri": "file:///not/open.rs" } }),
            -32602,
        ),
        ("initialize", json!({ "capabilities": {} }), -32600),
    ] {
        let id = client.send_request(method, params);
        assert_eq!(client.answer(id)["error"]["code"], code, "{method}");
    }
    client.notify("$/noSuchNotification", json!({}));
    client.notify("textDocument/didOpen", json!({ "textDocument": 7 }));
    client.notify(
        "textDocument/didClose",
        json!({ "textDocument": { "uri": "file:///not/open.rs" } }),
    );
    client.notify("workspace/didChangeConfiguration", json!({}));

    // A change whose range cannot be read is not taken for a change of the whole text.
    let uri = "file:///kept.rs";
    client.open(uri, "rust", "fn kept() {}\n");
    let range = json!({ "start": { "line": -1, "character": 0 }, "end": { "line": 0, "character": 0 } });
    client.notify(
        "textDocument/didChange",
        json!({ "textDocument": { "uri": uri, "version": 2 }, "contentChanges": [{ "range": range, "text": "x" }] }),
    );
    let view = client.request("surmise/viewText", json!({ "textDocument": { "uri": uri } }));
    assert_eq!(view["text"], "fn kept() {}\n");
    assert_eq!(
        (&view["language"], &view["tree"]["errors"]),
        (&json!("rust"), &json!(0))
    );

    // Nothing to suggest in a document that we do not have.
    let params = Client::inline_params("file:///not/open.rs", 0, 0, 1);
    assert_eq!(
        client.request("textDocument/inlineCompletion", params),
        Value::Null
    );
}

#[test]
fn a_settings_file_that_cannot_be_read_is_said_once() {
    let folder = std::env::temp_dir().join(format!("surmise-broken-settings-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("surmise")).expect("a folder for settings");
    std::fs::write(folder.join("surmise/config.toml"), "model = \n").expect("a settings file");
    let mut client = Client::start(ClientOptions {
        config_home: folder.clone(),
        ..options(json!({}))
    });
    client.expect("window/logMessage");
    let mut said: Vec<String> = [(); 2]
        .map(|()| client.take("window/showMessage")["params"]["message"].to_string())
        .into();
    said.retain(|message| message.contains("config.toml"));
    assert_eq!(said.len(), 1, "{said:?}");
    // The model's failure is the other one: nothing more is said when the settings change.
    client.notify("workspace/didChangeConfiguration", json!({}));
    drop(client);
    std::fs::remove_dir_all(folder).expect("the folder is ours");
}

#[test]
fn nothing_is_answered_before_initialize() {
    let mut process = surmise_tests::binary::command()
        .arg("lsp")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the server starts");
    let input = process.stdout.take().expect("stdout is piped");
    let output = process.stdin.take().expect("stdin is piped");
    let mut client = Client::connect(Box::new(input), Box::new(output));
    let id = client.send_request("textDocument/completion", json!({}));
    assert_eq!(client.answer(id)["error"]["code"], -32002);
    client.hang_up();
    assert_eq!(process.wait().expect("it ends").code(), Some(0));
}
