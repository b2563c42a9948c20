//! Code actions and the command `surmise.edit`, with a model that says what the test wants it to say.

use std::time::Duration;

use expect_test::{Expect, expect};
use serde_json::{Value, json};
use surmise_tests::{
    Client, ClientOptions,
    edits::apply,
    scripted::{Script, start},
};

const URI: &str = "file:///project/sum.py";
const TEXT: &str = "def greet(name):\n    # Say it.\n    text = \"😀\" + \"hello\"\n    return text + name\n";

/// What the model answers: by what it is told, in a fence, after a few words.
const SCRIPT: Script = Script {
    replies: &[
        ("use single quotes", "Here:\n```\n    text = '😀' + 'hello'\n```"),
        ("use double quotes", "Here:\n```\n    text = \"bye\"\n```"),
        ("comment this out", "Here:\n```\n    return text + name\n```"),
        ("simpler and easier", "Here:\n```\n    return (text\n```"),
        (
            "What to do: shout",
            "Here:\n```\n    return (text + name).upper()\n```",
        ),
        (
            "fix this problem",
            "Here:\n```\ndef greet(name):\n    # Say it.\n    return \"hello\" + name\n```",
        ),
    ],
    step_time: Duration::ZERO,
    load_time: Duration::ZERO,
};

/// The same, but slow enough to be interrupted.
const SLOW: Script = Script {
    step_time: Duration::from_millis(40),
    ..SCRIPT
};

/// A client that can do all that there is for code actions, as VS Code can.
fn capable() -> ClientOptions {
    let mut options = ClientOptions::default();
    options.capabilities["textDocument"]["codeAction"] = json!({
        "codeActionLiteralSupport": { "codeActionKind": { "valueSet": ["refactor", "quickfix"] } },
        "dataSupport": true,
        "resolveSupport": { "properties": ["edit"] },
        "tagSupport": { "valueSet": [1] },
    });
    options.capabilities["workspace"]["workspaceEdit"] =
        json!({ "documentChanges": true, "changeAnnotationSupport": {} });
    options
}

fn ready(script: Script, options: ClientOptions) -> Client {
    let mut client = start(script, options);
    client.wait_until_ready();
    client.open(URI, "python", TEXT);
    client
}

/// A selection from the start of one line to the end of another.
fn lines(first: usize, last: usize) -> Value {
    let end = TEXT.lines().nth(last).expect("a line").encode_utf16().count();
    json!({ "start": { "line": first, "character": 0 }, "end": { "line": last, "character": end } })
}

fn cursor(line: usize, character: usize) -> Value {
    let at = json!({ "line": line, "character": character });
    json!({ "start": at, "end": at })
}

fn question(range: Value, context: Value) -> Value {
    json!({ "textDocument": { "uri": URI }, "range": range, "context": context })
}

fn ask(client: &mut Client, range: Value) -> Vec<Value> {
    let params = question(range, json!({ "diagnostics": [] }));
    let actions = client.request("textDocument/codeAction", params);
    actions.as_array().expect("a list").clone()
}

fn titles(actions: &[Value]) -> String {
    let titles = actions
        .iter()
        .map(|it| format!("{}\n", it["title"].as_str().unwrap_or_default()));
    titles.collect()
}

/// The action with this title at a place.
#[track_caller]
fn chosen(client: &mut Client, range: Value, title: &str) -> Value {
    let actions = ask(client, range);
    let found = actions.iter().find(|it| it["title"] == title);
    found
        .unwrap_or_else(|| panic!("no {title:?} in {}", titles(&actions)))
        .clone()
}

fn edit_order(range: Value, instruction: &str) -> Value {
    let order = json!({ "uri": URI, "version": 1, "range": range, "instruction": instruction });
    json!({ "command": "surmise.edit", "arguments": [order] })
}

fn type_something(client: &mut Client) {
    let change = json!({ "range": cursor(0, 0), "text": "\n" });
    let document = json!({ "uri": URI, "version": 2 });
    client.notify(
        "textDocument/didChange",
        json!({ "textDocument": document, "contentChanges": [change] }),
    );
}

#[test]
fn what_makes_sense_is_offered() {
    let mut client = ready(SCRIPT, capable());
    let provider = &client.server["capabilities"]["codeActionProvider"];
    assert_eq!(
        *provider,
        json!({ "codeActionKinds": ["refactor.rewrite", "quickfix"], "resolveProvider": true })
    );
    assert_eq!(
        client.server["capabilities"]["executeCommandProvider"]["commands"],
        json!(["surmise.edit", "surmise.runAction"])
    );
    let mut check = |range, expected: Expect| expected.assert_eq(&titles(&ask(&mut client, range)));
    check(
        cursor(2, 5),
        expect![[r#"
            Use Single Quotes
            Handle Errors in `greet`
            Comment Out
            Remove the Comments in `greet`
            Add a Doc Comment to `greet`
        "#]],
    );
    check(
        lines(1, 3),
        expect![[r#"
            Use Single Quotes
            Handle Errors in `greet`
            Remove the Comments in the Selection
            Add a Doc Comment to `greet`
            Simplify
        "#]],
    );
    check(cursor(4, 0), expect![[r#""#]]);
}

#[test]
fn nobody_is_bothered_with_what_was_not_asked_for() {
    let mut client = ready(SCRIPT, capable());
    let mut n_offered = |range: Value, context: Value| {
        let offered = client.request("textDocument/codeAction", question(range, context));
        offered.as_array().map(Vec::len)
    };
    for (only, n) in [
        (json!(["source.organizeImports"]), 0),
        (json!(["refactor.extract"]), 0),
        (json!(["refactor"]), 5),
        (json!(["refactor.rewrite"]), 5),
        (json!([""]), 5),
        (Value::Null, 5),
    ] {
        let context = json!({ "diagnostics": [], "only": only });
        assert_eq!(n_offered(cursor(2, 5), context), Some(n), "{only}");
    }
    // A cursor that passes by, and a selection that somebody made.
    let automatic = json!({ "diagnostics": [], "triggerKind": 2 });
    assert_eq!(n_offered(cursor(2, 5), automatic.clone()), Some(0));
    assert_eq!(n_offered(lines(2, 2), automatic), Some(5));
    let unknown = json!({ "textDocument": { "uri": "file:///no" }, "range": cursor(0, 0), "context": { "diagnostics": [] } });
    assert_eq!(client.request("textDocument/codeAction", unknown), Value::Null);
}

#[test]
fn a_chosen_action_gets_its_edit() {
    let mut client = ready(SCRIPT, capable());
    let action = chosen(&mut client, cursor(2, 5), "Use Single Quotes");
    assert_eq!(
        (&action["kind"], &action["tags"]),
        (&json!("refactor.rewrite"), &json!([1]))
    );
    assert!(
        action.get("edit").is_none() && action.get("command").is_none(),
        "{action}"
    );
    let mut resolved = client.request("codeAction/resolve", action.clone());
    let edit = resolved["edit"].take();
    // Only what changes; an emoji takes two columns.
    expect![[r#"{"documentChanges":[{"textDocument":{"version":1,"uri":"file:///project/sum.py"},"edits":[{"range":{"start":{"line":2,"character":11},"end":{"line":2,"character":25}},"newText":"'😀' + 'hello'"}]}]}"#]]
        .assert_eq(&edit.to_string());
    assert_eq!(apply(TEXT, &edit), TEXT.replace('"', "'"));
    resolved.as_object_mut().expect("an object").remove("edit");
    assert_eq!(resolved, action, "all else is as it was");
}

#[test]
fn edits_are_what_the_client_can_read() {
    let mut options = capable();
    options.capabilities["workspace"]["workspaceEdit"] = json!({});
    let mut client = ready(SCRIPT, options);
    let action = chosen(&mut client, cursor(2, 5), "Use Single Quotes");
    let edit = &client.request("codeAction/resolve", action)["edit"];
    assert!(edit.get("documentChanges").is_none(), "{edit}");
    assert_eq!(apply(TEXT, edit), TEXT.replace('"', "'"));
}

#[test]
fn line_breaks_are_those_of_the_document() {
    let mut client = ready(SCRIPT, capable());
    let text = TEXT.replace('\n', "\r\n");
    client.open(URI, "python", &text);
    let problem = json!({ "range": lines(2, 2), "message": "text is assigned\nand used once" });
    let offered = client.request(
        "textDocument/codeAction",
        question(
            cursor(2, 5),
            json!({ "diagnostics": [problem], "triggerKind": 2 }),
        ),
    );
    assert_eq!(
        titles(offered.as_array().expect("a list")),
        "Fix: text is assigned…\n"
    );
    assert_eq!(offered[0]["kind"], "quickfix");
    // What may be anything is shown first, which editors do with what a command applies. Some resolve it all the same.
    let resolved = client.request("codeAction/resolve", offered[0].clone());
    assert_eq!(resolved, offered[0]);
    let answer = client.request("workspace/executeCommand", offered[0]["command"].clone());
    assert_eq!(answer["applied"], true);
    let asked = client.take("workspace/applyEdit");
    let edit = &asked["params"]["edit"];
    let expected = "def greet(name):\r\n    # Say it.\r\n    return \"hello\" + name\r\n";
    assert_eq!(apply(&text, edit), expected);
    assert_eq!(edit["changeAnnotations"]["surmise"]["needsConfirmation"], true);
    assert_eq!(edit["documentChanges"][0]["edits"][0]["annotationId"], "surmise");
}

#[test]
fn clients_that_resolve_nothing_get_commands() {
    let mut options = capable();
    options.capabilities["textDocument"]["codeAction"]["resolveSupport"] = Value::Null;
    let mut client = ready(SCRIPT, options);
    let command = chosen(&mut client, cursor(2, 5), "Use Single Quotes")["command"].clone();
    let answer = client.request("workspace/executeCommand", command);
    assert_eq!(answer, json!({ "applied": true, "reason": null }));
    let asked = client.take("workspace/applyEdit");
    assert_eq!(asked["params"]["label"], "Use Single Quotes");
    assert_eq!(apply(TEXT, &asked["params"]["edit"]), TEXT.replace('"', "'"));

    let mut options = capable();
    options.capabilities["textDocument"]["codeAction"] = json!({});
    let mut client = ready(SCRIPT, options);
    let command = chosen(&mut client, cursor(2, 5), "Use Single Quotes");
    assert_eq!(command["command"], "surmise.runAction");
}

#[test]
fn lines_are_edited_as_the_user_says() {
    let mut client = ready(SCRIPT, capable());
    // To the start of the next line, as editors select whole lines.
    let range = json!({ "start": { "line": 3, "character": 2 }, "end": { "line": 4, "character": 0 } });
    let answer = client.request("workspace/executeCommand", edit_order(range, " shout\n"));
    assert_eq!(answer["applied"], true);
    let asked = client.take("workspace/applyEdit");
    assert_eq!(asked["params"]["label"], "shout");
    let edit = &asked["params"]["edit"];
    assert_eq!(
        apply(TEXT, edit),
        TEXT.replace("text + name", "(text + name).upper()")
    );
    assert_eq!(edit["changeAnnotations"]["surmise"]["label"], "shout");

    client.apply_answer = json!({ "applied": false, "failureReason": "discarded" });
    let answer = client.request("workspace/executeCommand", edit_order(cursor(3, 0), "shout"));
    assert_eq!(answer, json!({ "applied": false, "reason": "discarded" }));
    client.take("workspace/applyEdit");
}

#[test]
fn what_a_model_gets_wrong_is_not_applied() {
    let mut client = ready(SCRIPT, capable());
    let mut check = |range: Value, title: &str, expected: &str| {
        let action = chosen(&mut client, range, title);
        match action.get("command") {
            Some(command) => {
                let answer = client.request("workspace/executeCommand", command.clone());
                assert_eq!(answer, json!({ "applied": false, "reason": expected }));
            }
            None => assert_eq!(
                client.request("codeAction/resolve", action.clone()),
                action,
                "no edit"
            ),
        }
        let shown = client.take("window/showMessage");
        assert_eq!(
            shown["params"]["message"],
            format!("Surmise: {title}: {expected}")
        );
        assert_eq!(shown["params"]["type"], 2);
    };
    check(
        lines(3, 3),
        "Simplify",
        "nothing was changed: what the model wrote has syntax errors; try fewer lines or other words",
    );
    check(
        cursor(3, 6),
        "Comment Out",
        "the model sees nothing to change here",
    );
    let other = TEXT.replace('"', "'");
    client.open(URI, "python", &other);
    let action = chosen(&mut client, cursor(2, 6), "Use Double Quotes");
    assert_eq!(client.request("codeAction/resolve", action.clone()), action);
    assert_eq!(
        client.take("window/showMessage")["params"]["message"],
        "Surmise: Use Double Quotes: nothing was changed: the model would have changed more than the quotes"
    );
    // A command says it in its answer.
    let id = client.send_request(
        "workspace/executeCommand",
        edit_order(cursor(3, 0), "comment this out"),
    );
    let error = &client.answer(id)["error"];
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!(-32803), &json!("the model sees nothing to change here"))
    );
}

#[test]
fn an_edit_for_another_text_is_an_error() {
    let mut client = ready(SLOW, capable());
    let action = chosen(&mut client, cursor(2, 5), "Use Single Quotes");
    let under_way = client.send_request("codeAction/resolve", action.clone());
    type_something(&mut client);
    let too_late = client.send_request("codeAction/resolve", action.clone());
    let command = client.send_request("workspace/executeCommand", edit_order(cursor(2, 5), "shout"));
    for id in [under_way, too_late] {
        assert_eq!(client.answer(id)["error"]["code"], -32801);
        let shown = client.take("window/showMessage")["params"]["message"].to_string();
        assert!(shown.contains("the text has changed"), "{shown}");
    }
    assert_eq!(client.answer(command)["error"]["code"], -32801);
    // The same text, opened anew, is another one too.
    client.open(URI, "python", TEXT);
    let id = client.send_request("codeAction/resolve", action.clone());
    assert_eq!(client.answer(id)["error"]["code"], -32801);
    client.notify("textDocument/didClose", json!({ "textDocument": { "uri": URI } }));
    let id = client.send_request("codeAction/resolve", action);
    assert_eq!(client.answer(id)["error"]["message"], format!("not open: {URI}"));
    client.expect("window/showMessage");
}

#[test]
fn edits_can_be_cancelled() {
    let mut client = ready(SLOW, capable());
    // By the request.
    let action = chosen(&mut client, cursor(2, 5), "Use Single Quotes");
    let id = client.send_request("codeAction/resolve", action);
    client.notify("$/cancelRequest", json!({ "id": id }));
    assert_eq!(client.answer(id)["error"]["code"], -32800);

    // By the progress that the server began, and by one that the client gave.
    while client.take("$/progress")["params"]["value"]["kind"] != "end" {}
    for token in [Value::Null, json!("mine")] {
        let mut order = edit_order(cursor(3, 0), "shout");
        order["workDoneToken"] = token.clone();
        let id = client.send_request("workspace/executeCommand", order);
        let begun = client.take("$/progress")["params"].clone();
        assert_eq!(begun["value"]["title"], "Surmise: shout", "{begun}");
        assert_eq!(begun["value"]["cancellable"], true);
        assert!(token.is_null() || begun["token"] == token, "{begun}");
        client.notify(
            "window/workDoneProgress/cancel",
            json!({ "token": begun["token"] }),
        );
        assert_eq!(client.answer(id)["error"]["code"], -32800);
        let ended = client.take("$/progress")["params"].clone();
        assert_eq!(
            (&ended["token"], &ended["value"]["kind"]),
            (&begun["token"], &json!("end"))
        );
    }

    // Progress ends with a request that is cancelled.
    let id = client.send_request("workspace/executeCommand", edit_order(cursor(3, 0), "shout"));
    assert_eq!(client.take("$/progress")["params"]["value"]["kind"], "begin");
    client.notify("$/cancelRequest", json!({ "id": id }));
    assert_eq!(client.answer(id)["error"]["code"], -32800);
    assert_eq!(client.take("$/progress")["params"]["value"]["kind"], "end");
    // There is no such progress; nobody minds.
    client.notify("window/workDoneProgress/cancel", json!({ "token": 7 }));
}

#[test]
fn typing_goes_on_while_the_model_edits() {
    let mut client = ready(SLOW, capable());
    let id = client.send_request("workspace/executeCommand", edit_order(cursor(3, 0), "shout"));
    let params = Client::inline_params(URI, 2, 5, 2);
    assert!(
        client
            .request("textDocument/inlineCompletion", params)
            .is_object()
    );
    assert_eq!(client.result(id)["applied"], true);
    client.take("workspace/applyEdit");
}

#[test]
fn without_a_model_nothing_is_offered_and_commands_say_why() {
    let script = Script {
        load_time: Duration::from_millis(800),
        ..SCRIPT
    };
    let mut client = start(script, capable());
    client.open(URI, "python", TEXT);
    assert_eq!(ask(&mut client, cursor(2, 5)), [] as [Value; 0]);
    let id = client.send_request("workspace/executeCommand", edit_order(cursor(2, 5), "shout"));
    assert_eq!(
        client.answer(id)["error"]["message"],
        "the model is still loading; try again in a moment"
    );
    client.wait_until_ready();
    assert_eq!(ask(&mut client, cursor(2, 5)).len(), 5);

    let options = ClientOptions {
        settings: json!({ "model": "missing" }),
        ..capable()
    };
    let mut client = start(SCRIPT, options);
    client.take("window/showMessage");
    client.open(URI, "python", TEXT);
    assert_eq!(ask(&mut client, cursor(2, 5)), [] as [Value; 0]);
    let id = client.send_request("workspace/executeCommand", edit_order(cursor(2, 5), "shout"));
    assert_eq!(
        client.answer(id)["error"]["message"],
        "there is no model: the engine has stopped: no such model"
    );
}

#[test]
fn wrong_arguments_are_refused_with_a_reason() {
    let mut client = ready(SCRIPT, capable());
    let mut check = |method: &str, params: Value, expected: &str| {
        let id = client.send_request(method, params.clone());
        let message = client.answer(id)["error"]["message"].to_string();
        assert!(message.contains(expected), "{message} for {params}");
    };
    const EXECUTE: &str = "workspace/executeCommand";
    check(
        EXECUTE,
        json!({ "command": "surmise.dance" }),
        "only surmise.edit and surmise.runAction",
    );
    check(
        EXECUTE,
        json!({ "command": "surmise.edit" }),
        "the argument of `surmise.edit`",
    );
    check(
        EXECUTE,
        json!({ "command": "surmise.edit", "arguments": [{ "uri": URI, "range": cursor(0, 0) }] }),
        "missing field `instruction`",
    );
    check(EXECUTE, edit_order(cursor(0, 0), " "), "the instruction is empty");
    check(
        "codeAction/resolve",
        json!({ "title": "of another server" }),
        "not an action of Surmise",
    );
    let mut order = edit_order(cursor(0, 0), "shout");
    order["arguments"][0]["uri"] = json!("file:///no");
    check(EXECUTE, order, "not open: file:///no");
}
