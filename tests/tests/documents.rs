//! The server's copy of a document is the editor's, whatever is typed and however fast.

use serde_json::{Value, json};
use surmise_grammars::{Language, Syntax};
use surmise_tests::{
    Client, ClientOptions,
    random::{Random, position},
};

/// What people type, and what breaks naive position arithmetic.
const PIECES: [&str; 20] = [
    "a",
    "fn f() {",
    "}",
    "(",
    ")",
    "\"",
    "\r\n",
    "\n",
    "\r",
    "    ",
    "é",
    "😀",
    "e\u{301}",
    "👩\u{200d}👩\u{200d}👧",
    "\u{2028}",
    "\u{85}",
    "// ü\n",
    "let x = 1;\n",
    "漢字",
    "\t",
];

fn random_edits_leave_the_server_with_the_text(encoding: &str, seed: u64) {
    let mut client = Client::start(ClientOptions {
        args: vec![
            "lsp".to_owned(),
            "--model".to_owned(),
            "no-such-model.gguf".to_owned(),
        ],
        capabilities: json!({ "general": { "positionEncodings": [encoding] } }),
        ..ClientOptions::default()
    });
    client.expect("window/showMessage");
    client.expect("window/logMessage");
    let uri = "file:///random/edits.rs";
    let mut text = "// 😀 the beginning\r\nfn main() {\r\n    let e\u{301} = 1;\r\n}\n".to_owned();
    client.open(uri, "rust", &text);
    let mut random = Random::new(seed);
    for version in 2..302 {
        // One to three changes in a message, each about the text that the one before left.
        let changes: Vec<Value> = (0..=random.below(3))
            .map(|_| {
                let (range, inserted) = random.edit(&text, &PIECES);
                let place = |at| {
                    let (line, character) = position(&text, at, encoding == "utf-16");
                    json!({ "line": line, "character": character })
                };
                let change = json!({
                    "range": { "start": place(range.start), "end": place(range.end) },
                    "rangeLength": 0,
                    "text": inserted,
                });
                text.replace_range(range, &inserted);
                change
            })
            .collect();
        let document = json!({ "uri": uri, "version": version });
        client.notify(
            "textDocument/didChange",
            json!({ "textDocument": document, "contentChanges": changes }),
        );
    }
    let view = client.request("surmise/viewText", json!({ "textDocument": { "uri": uri } }));
    assert_eq!(view["text"], text);
    assert_eq!(view["version"], 301);

    // The tree that followed the edits is the tree of the text.
    let fresh = Syntax::parse(Language::Rust, &ropey::Rope::from_str(&text));
    let n_nodes = fresh.tree().expect("a tree").root_node().descendant_count();
    assert_eq!(
        view["tree"],
        json!({ "errors": fresh.error_count(), "nodes": n_nodes, "stale": false }),
        "{text}"
    );
}

#[test]
fn three_hundred_random_edits_in_utf_16() {
    random_edits_leave_the_server_with_the_text("utf-16", 1);
}

#[test]
fn three_hundred_random_edits_in_utf_8() {
    random_edits_leave_the_server_with_the_text("utf-8", 2);
}

#[test]
fn a_document_can_be_replaced_closed_and_opened_again() {
    let mut client = Client::start(ClientOptions {
        args: vec![
            "lsp".to_owned(),
            "--model".to_owned(),
            "no-such-model.gguf".to_owned(),
        ],
        capabilities: json!({}),
        ..ClientOptions::default()
    });
    client.expect("window/showMessage");
    client.expect("window/logMessage");
    let uri = "untitled:Untitled-1";
    let about = json!({ "textDocument": { "uri": uri } });
    client.open(uri, "python", "x = 1\n");
    client.notify(
        "textDocument/didChange",
        json!({ "textDocument": { "uri": uri, "version": 5 }, "contentChanges": [{ "text": "y = (\n" }] }),
    );
    let view = client.request("surmise/viewText", about.clone());
    assert_eq!(
        (&view["text"], &view["version"], &view["language"]),
        (&json!("y = (\n"), &json!(5), &json!("python"))
    );
    assert_ne!(view["tree"]["errors"], 0);
    client.notify("textDocument/didClose", about.clone());
    let id = client.send_request("surmise/viewText", about.clone());
    assert_eq!(client.answer(id)["error"]["message"], format!("not open: {uri}"));
    client.open(uri, "plaintext", "again");
    assert_eq!(client.request("surmise/viewText", about)["text"], "again");
}
