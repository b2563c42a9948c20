//! The real binary with its embedded model, on a folder of files: what is in those that are not open can be copied, where that is
//! wanted and they are anybody's business.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::json;
use surmise_tests::{Client, ClientOptions, client::PATIENCE};

/// A folder that goes when the test ends.
struct Workspace(PathBuf);

impl Workspace {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let root = std::env::temp_dir().join(format!("surmise-{name}-{}", std::process::id()));
        let workspace = Self(root);
        for (name, text) in files {
            workspace.write(name, text);
        }
        workspace
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder is made");
        fs::write(path, text).expect("a file is written");
    }

    fn uri(&self, name: &str) -> String {
        format!("file://{}", self.0.join(name).display())
    }

    fn client(&self, options: ClientOptions) -> Client {
        let mut client = Client::start(ClientOptions {
            folders: vec![self.0.clone()],
            ..options
        });
        client.wait_until_ready();
        client
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A function that returns a name which nothing but copying could guess.
fn returns(name: &str) -> String {
    format!("def compute():\n    return {name}\n")
}

/// What is suggested after `typed`, at the end of a Python file that says nothing else.
fn suggested(client: &mut Client, uri: &str, typed: &str) -> String {
    let text = format!("def here():\n    return {typed}");
    client.open(uri, "python", &text);
    let answer = client.request(
        "textDocument/inlineCompletion",
        Client::inline_params(uri, 1, text.len() - "def here():\n".len(), 1),
    );
    answer["items"][0]["insertText"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Asks until `rest` is suggested: files are read beside everything else.
#[track_caller]
fn wait_for(client: &mut Client, uri: &str, typed: &str, rest: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = suggested(client, uri, typed);
        if shown.starts_with(rest) {
            return;
        }
        assert!(Instant::now() < deadline, "after {typed:?}: {shown:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[track_caller]
fn check_unknown(client: &mut Client, uri: &str, typed: &str, rest: &str) {
    let shown = suggested(client, uri, typed);
    assert!(!shown.starts_with(rest), "after {typed:?}: {shown:?}");
}

#[test]
fn names_come_from_files_that_are_not_open_unless_they_are_private() {
    let workspace = Workspace::new(
        "nearby",
        &[
            (".gitignore", "made/\n"),
            ("lib/settle.py", &returns("sensor_drift_estimate")),
            ("made/ignored.py", &returns("tenant_migration_plan")),
            ("secrets.py", &returns("vault_rotation_passphrase")),
            (".env", "TOKEN = quarterly_embargo_window\n"),
            (".hidden/cache.py", &returns("orbital_docking_schedule")),
        ],
    );
    let mut client = workspace.client(ClientOptions::default());
    let uri = workspace.uri("main.py");
    wait_for(&mut client, &uri, "sensor_dri", "ft_estimate");
    for (typed, rest) in [
        ("tenant_migra", "tion_plan"),
        ("vault_rota", "tion_passphrase"),
        ("quarterly_emb", "argo_window"),
        ("orbital_dock", "ing_schedule"),
    ] {
        check_unknown(&mut client, &uri, typed, rest);
    }
}

#[test]
fn what_the_editor_has_of_a_file_counts_and_what_changes_on_disk_is_seen() {
    let workspace = Workspace::new("changes", &[("settle.py", &returns("sensor_drift_estimate"))]);
    let mut client = workspace.client(ClientOptions::default());
    let uri = workspace.uri("main.py");
    wait_for(&mut client, &uri, "sensor_dri", "ft_estimate");
    workspace.write("settle.py", &returns("sensor_noise_floor_by_year"));
    workspace.write("new.py", &returns("tenant_migration_plan"));
    wait_for(&mut client, &uri, "sensor_noise_fl", "oor_by_year");
    check_unknown(&mut client, &uri, "sensor_dri", "ft_estimate");
    wait_for(&mut client, &uri, "tenant_migra", "tion_plan");
    client.open(&workspace.uri("settle.py"), "python", "# nothing left\n");
    check_unknown(&mut client, &uri, "sensor_noise_fl", "oor_by_year");
}

#[test]
fn no_files_are_read_where_that_is_switched_off_or_no_folder_is_open() {
    let workspace = Workspace::new("off", &[("settle.py", &returns("sensor_drift_estimate"))]);
    let uri = workspace.uri("main.py");
    let switched_off = ClientOptions {
        settings: json!({ "completion": { "nearby_files": false } }),
        ..ClientOptions::default()
    };
    let mut clients = [
        workspace.client(switched_off),
        Client::start(ClientOptions::default()),
    ];
    clients[1].wait_until_ready();
    for client in &mut clients {
        for _ in 0..3 {
            check_unknown(client, &uri, "sensor_dri", "ft_estimate");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn a_client_that_watches_files_says_when_there_are_new_ones() {
    let workspace = Workspace::new("watched", &[("settle.py", &returns("sensor_drift_estimate"))]);
    let mut options = ClientOptions::default();
    options.capabilities["workspace"]["didChangeWatchedFiles"] = json!({ "dynamicRegistration": true });
    let mut client = workspace.client(options);
    let registered = client.take("client/registerCapability");
    let method = &registered["params"]["registrations"][0]["method"];
    assert_eq!(*method, json!("workspace/didChangeWatchedFiles"));
    let uri = workspace.uri("main.py");
    wait_for(&mut client, &uri, "sensor_dri", "ft_estimate");
    workspace.write("new.py", &returns("tenant_migration_plan"));
    let change = json!({ "uri": workspace.uri("new.py"), "type": 1 });
    client.notify("workspace/didChangeWatchedFiles", json!({ "changes": [change] }));
    wait_for(&mut client, &uri, "tenant_migra", "tion_plan");
}

#[test]
fn folders_come_and_go() {
    let workspace = Workspace::new("folders", &[("settle.py", &returns("sensor_drift_estimate"))]);
    let uri = workspace.uri("main.py");
    let mut client = Client::start(ClientOptions::default());
    client.wait_until_ready();
    let offered = &client.server["capabilities"]["workspace"]["workspaceFolders"];
    assert_eq!(
        *offered,
        json!({ "supported": true, "changeNotifications": true })
    );
    let folder = json!([{ "uri": workspace.uri(""), "name": "work" }]);
    client.notify(
        "workspace/didChangeWorkspaceFolders",
        json!({ "event": { "added": folder, "removed": [] } }),
    );
    wait_for(&mut client, &uri, "sensor_dri", "ft_estimate");
    client.notify(
        "workspace/didChangeWorkspaceFolders",
        json!({ "event": { "added": [], "removed": folder } }),
    );
    check_unknown(&mut client, &uri, "sensor_dri", "ft_estimate");
}

#[test]
fn what_was_cut_out_is_suggested_elsewhere_and_not_where_it_stood() {
    let mut client = Client::start(ClientOptions::default());
    client.wait_until_ready();
    let from = "file:///tmp/from.py";
    client.open(from, "python", "def there():\n    return sensor_drift_estimate\n");
    let mut change = |version: i32, end_line: usize, text: &str| {
        let range = json!({
            "start": { "line": 1, "character": 0 },
            "end": { "line": end_line, "character": 0 },
        });
        client.notify(
            "textDocument/didChange",
            json!({
                "textDocument": { "uri": from, "version": version },
                "contentChanges": [{ "range": range, "text": text }],
            }),
        );
    };
    change(2, 2, "");
    let typed = "    return sensor_dri";
    change(3, 1, typed);
    let answer = client.request(
        "textDocument/inlineCompletion",
        Client::inline_params(from, 1, typed.len(), 1),
    );
    let shown = answer["items"][0]["insertText"].as_str().unwrap_or_default();
    assert!(!shown.starts_with("ft_estimate"), "{answer}");
    client.notify(
        "textDocument/didClose",
        json!({ "textDocument": { "uri": from } }),
    );
    wait_for(&mut client, "file:///tmp/to.py", "sensor_dri", "ft_estimate");
}
