//! Every code action that the embedded model (or `SURMISE_TEST_MODEL`) is offered for, done by it in several languages.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use surmise::actions::ACTIONS;
use surmise_tests::{Client, ClientOptions, binary, edits::apply, random::position};

/// An action in a file: its text, with what is selected between two `ˇ` or the cursor at one, and the text that shall be. Error
/// handling has `…` where any wording will do.
struct Case {
    action: &'static str,
    file: &'static str,
    text: &'static str,
    expected: &'static str,
}

const fn case(action: &'static str, file: &'static str, text: &'static str, expected: &'static str) -> Case {
    Case {
        action,
        file,
        text,
        expected,
    }
}

const CASES: &[Case] = &[
    case(
        "single-quotes",
        "settings.py",
        "def load(folder):\n    ˇpath = os.path.join(folder, \"settings.json\")\n    with open(path, \"r\", encoding=\"utf-8\") as file:ˇ\n        return json.load(file)\n",
        "def load(folder):\n    path = os.path.join(folder, 'settings.json')\n    with open(path, 'r', encoding='utf-8') as file:\n        return json.load(file)\n",
    ),
    case(
        "single-quotes",
        "server.ts",
        "import { readFile } from \"node:fs/promises\";\nˇimport { join } from \"node:path\";ˇ\n",
        "import { readFile } from \"node:fs/promises\";\nimport { join } from 'node:path';\n",
    ),
    case(
        "double-quotes",
        "server.js",
        "ˇconst http = require('http');\nconst port = process.env.PORT || '8080';ˇ\n",
        "const http = require(\"http\");\nconst port = process.env.PORT || \"8080\";\n",
    ),
    case(
        "double-quotes",
        "report.rb",
        "def title\n  ˇ['Report', name].join(' of ')ˇ\nend\n",
        "def title\n  [\"Report\", name].join(\" of \")\nend\n",
    ),
    case(
        "handle-errors",
        "Store.java",
        "class Store {\n    List<String> names() {ˇ\n        List<String> names = new ArrayList<>();\n        for (Item item : items) {\n            names.add(item.name());\n        }\n        return names;\n    }\n}\n",
        "class Store {\n    List<String> names() {\n        try {\n            List<String> names = new ArrayList<>();\n            for (Item item : items) {\n                names.add(item.name());\n            }\n            return names;\n        } catch (Exception e) {…}\n    }\n}\n",
    ),
    case(
        "handle-errors",
        "Store.php",
        "<?php\n\nclass Store\n{\n    public function names(): array\n    {\n        $names = [];ˇ\n        foreach ($this->items as $item) {\n            $names[] = $item->name;\n        }\n        return $names;\n    }\n}\n",
        "<?php\n\nclass Store\n{\n    public function names(): array\n    {\n        try {\n            $names = [];\n            foreach ($this->items as $item) {\n                $names[] = $item->name;\n            }\n            return $names;\n        } catch (\\Exception $e) {…}\n    }\n}\n",
    ),
    case(
        "handle-errors",
        "users.js",
        "async function loadUser(id) {\n  const response = await fetch(`/users/${id}`);ˇ\n  const user = await response.json();\n  return user;\n}\n",
        "async function loadUser(id) {\n  try {\n    const response = await fetch(`/users/${id}`);\n    const user = await response.json();\n    return user;\n  } catch (error) {…}\n}\n",
    ),
    case(
        "handle-errors",
        "queue.ts",
        "export async function drain(queue: Queue): Promise<void> {\n  const jobs = await queue.takeAll();ˇ\n  await Promise.all(jobs.map((job) => job.run()));\n}\n",
        "export async function drain(queue: Queue): Promise<void> {\n  try {\n    const jobs = await queue.takeAll();\n    await Promise.all(jobs.map((job) => job.run()));\n  } catch (error) {…}\n}\n",
    ),
    case(
        "comment-out",
        "cache.go",
        "func (c *Cache) Get(key string) string {\n\tc.mu.Lock()\n\tˇlog.Printf(\"get %s\", key)ˇ\n\tdefer c.mu.Unlock()\n\treturn c.entries[key]\n}\n",
        "func (c *Cache) Get(key string) string {\n\tc.mu.Lock()\n\t// log.Printf(\"get %s\", key)\n\tdefer c.mu.Unlock()\n\treturn c.entries[key]\n}\n",
    ),
    case(
        "comment-out",
        "main.py",
        "def main():\n    arguments = parse()\n    ˇprint(arguments)\n    print(len(arguments))ˇ\n    return run(arguments)\n",
        "def main():\n    arguments = parse()\n    # print(arguments)\n    # print(len(arguments))\n    return run(arguments)\n",
    ),
    case(
        "uncomment",
        "main.rs",
        "fn main() {\n    let config = Config::load();\n    ˇ// println!(\"{config:?}\");ˇ\n    run(config);\n}\n",
        "fn main() {\n    let config = Config::load();\n    println!(\"{config:?}\");\n    run(config);\n}\n",
    ),
    case(
        "uncomment",
        "deploy.sh",
        "set -e\nˇ# export DEBUG=1ˇ\n./build\n",
        "set -e\nexport DEBUG=1\n./build\n",
    ),
    case(
        "snake-case",
        "limits.py",
        "ˇmaxSize = readSize(path)\nif maxSize > upperLimit:\n    maxSize = upperLimitˇ\n",
        "max_size = read_size(path)\nif max_size > upper_limit:\n    max_size = upper_limit\n",
    ),
    case(
        "snake-case",
        "limits.c",
        "int clamp(int value) {\nˇ    int maxValue = readLimit();\n    return value > maxValue ? maxValue : value;ˇ\n}\n",
        "int clamp(int value) {\n    int max_value = read_limit();\n    return value > max_value ? max_value : value;\n}\n",
    ),
    case(
        "camel-case",
        "limits.ts",
        "ˇconst max_size = read_size(path);\nconst is_large = max_size > 1024;ˇ\n",
        "const maxSize = readSize(path);\nconst isLarge = maxSize > 1024;\n",
    ),
    case(
        "camel-case",
        "limits.go",
        "func clamp(value int) int {\nˇ\tmax_value := readLimit()\n\tif value > max_value {\n\t\treturn max_value\n\t}ˇ\n\treturn value\n}\n",
        "func clamp(value int) int {\n\tmaxValue := readLimit()\n\tif value > maxValue {\n\t\treturn maxValue\n\t}\n\treturn value\n}\n",
    ),
];

/// A client that resolves actions, and hears of what goes wrong.
fn client() -> Client {
    let mut options = ClientOptions::default();
    options.capabilities["textDocument"]["codeAction"] = json!({
        "codeActionLiteralSupport": { "codeActionKind": { "valueSet": ["refactor"] } },
        "dataSupport": true,
        "resolveSupport": { "properties": ["edit"] },
    });
    let mut client = Client::start(options);
    client.wait_until_ready();
    client.expect("window/showMessage");
    client
}

/// The text after the action, or what kept it from being done.
fn done(client: &mut Client, case: &Case) -> Result<String, String> {
    let marks: Vec<usize> = case.text.match_indices('ˇ').map(|(at, _)| at).collect();
    let text = case.text.replace('ˇ', "");
    let place = |idx: usize| {
        let at = marks[idx.min(marks.len() - 1)] - idx.min(marks.len() - 1) * 'ˇ'.len_utf8();
        let (line, character) = position(&text, at, true);
        json!({ "line": line, "character": character })
    };
    let uri = format!("file:///project/{}", case.file);
    client.open(&uri, "", &text);
    let offered = client.request(
        "textDocument/codeAction",
        json!({
            "textDocument": { "uri": uri },
            "range": { "start": place(0), "end": place(1) },
            "context": { "diagnostics": [] },
        }),
    );
    let offered = offered.as_array().expect("a list");
    let chosen = offered.iter().find(|it| it["data"]["action"] == case.action);
    let chosen = chosen.ok_or_else(|| format!("not offered, only {offered:?}"))?;
    let resolved = client.request("codeAction/resolve", chosen.clone());
    match &resolved["edit"] {
        Value::Null => Err(client.take("window/showMessage")["params"]["message"].to_string()),
        edit => Ok(apply(&text, edit)),
    }
}

#[test]
fn the_embedded_model_does_what_is_offered() {
    let mut client = client();
    let mut wrong = Vec::new();
    for case in CASES {
        let done = done(&mut client, case);
        let is_right = done
            .as_ref()
            .is_ok_and(|text| match case.expected.split_once('…') {
                Some((head, tail)) => text.starts_with(head) && text.ends_with(tail),
                None => text == case.expected,
            });
        if !is_right {
            wrong.push(format!("{} in {}: {done:#?}", case.action, case.file));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_trained_action_is_tried_in_several_languages() {
    for action in ACTIONS.iter().filter(|it| it.trained_lines.is_some()) {
        let cases = CASES.iter().filter(|it| it.action == action.id);
        let languages: BTreeSet<&str> = cases.filter_map(|it| it.file.rsplit('.').next()).collect();
        assert!(
            languages.len() >= 2,
            "{} is tried in {languages:?} only",
            action.id
        );
    }
}

#[test]
fn the_embedded_model_is_offered_nothing_that_it_does_badly() {
    let mut client = client();
    let text = "def f(a):\n    # Says it.\n    return a\n";
    let uri = "file:///project/f.py";
    client.open(uri, "python", text);
    let problem = json!({
        "range": { "start": { "line": 2, "character": 4 }, "end": { "line": 2, "character": 10 } },
        "message": "no",
    });
    let range = json!({ "start": { "line": 0, "character": 0 }, "end": { "line": 3, "character": 0 } });
    let params =
        json!({ "textDocument": { "uri": uri }, "range": range, "context": { "diagnostics": [problem] } });
    let offered = client.request("textDocument/codeAction", params);
    let ids: Vec<&Value> = offered
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| &it["data"]["action"])
        .collect();
    assert_eq!(ids, ["handle-errors"]);
}

/// What is offered is what the model does well: most of it comes to something, and what does not changes nothing.
#[test]
fn what_is_offered_is_mostly_done() {
    let output = binary::command()
        .args(["eval", "editors", "--actions", "--holes", "12", "--json"])
        .args(binary::model_arguments())
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let places = report["places"].as_array().expect("places");
    let n_done = places
        .iter()
        .filter(|place| ["complete", "applied"].contains(&place["result"].as_str().expect("a result")))
        .count();
    println!("{n_done} of {} actions came to something", places.len());
    assert!(places.len() >= 15, "{} places", places.len());
    assert!(n_done * 3 >= places.len() * 2, "{n_done} of {}", places.len());
    let actions: BTreeSet<&str> = places
        .iter()
        .filter_map(|place| place["action"].as_str())
        .collect();
    assert!(actions.len() >= 4, "{actions:?}");
}
