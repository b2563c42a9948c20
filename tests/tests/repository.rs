//! Checks of the repository itself: what a reviewer should not have to look for.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use surmise_tests::binary::repository;

/// What may stand at the top level, besides names that begin with a dot.
const TOP_LEVEL: [&str; 11] = [
    "ARCHITECTURE.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "editors",
    "engine",
    "grammars",
    "rust-toolchain.toml",
    "server",
    "tests",
];

/// Files that git keeps, relative to the root; none if this is not a checkout.
fn tracked_files() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(repository())
        .output();
    let listed = output.map(|output| output.stdout).unwrap_or_default();
    let listed = String::from_utf8_lossy(&listed);
    listed
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .collect()
}

/// Tracked files with text in them, and the text.
fn texts(is_wanted: impl Fn(&Path) -> bool) -> Vec<(PathBuf, String)> {
    let wanted = tracked_files().into_iter().filter(|path| is_wanted(path));
    wanted
        .filter_map(|path| {
            Some((
                path.clone(),
                std::fs::read_to_string(repository().join(path)).ok()?,
            ))
        })
        .collect()
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension()
        .is_some_and(|extension| extensions.iter().any(|known| extension == *known))
}

#[test]
fn the_top_level_holds_what_the_design_names() {
    for path in tracked_files() {
        let top = path
            .components()
            .next()
            .expect("a path")
            .as_os_str()
            .to_string_lossy()
            .into_owned();
        assert!(
            top.starts_with('.') || TOP_LEVEL.contains(&top.as_str()),
            "{top} has no place at the top level"
        );
    }
}

#[test]
fn every_module_says_what_it_is() {
    let is_source = |path: &Path| has_extension(path, &["rs"]) && !path.starts_with("tests/fixtures");
    let silent: Vec<_> = texts(is_source)
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    assert!(silent.is_empty(), "without a line `//!` at the top: {silent:?}");
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    // The first two are spelt so that this file does not find itself.
    let mut folders = vec![["/wor", "k/"].concat(), ["/ro", "ot/"].concat()];
    folders.push(format!("{}/", repository().display()));
    folders.extend(
        std::env::var("HOME")
            .ok()
            .filter(|home| home.len() > 1)
            .map(|home| home + "/"),
    );
    let is_text = |path: &Path| {
        let ours = [
            "rs", "toml", "md", "py", "ts", "mjs", "lua", "json", "scm", "yml", "yaml", "sh", "",
        ];
        has_extension(path, &ours) || path.extension().is_none()
    };
    let mut found = Vec::new();
    for (path, text) in texts(is_text) {
        for (idx, line) in text.lines().enumerate() {
            if folders.iter().any(|folder| mentions(line, folder)) {
                found.push(format!("{}:{}: {}", path.display(), idx + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "paths of one machine:\n{}", found.join("\n"));
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for (path, text) in texts(|path| has_extension(path, &["md"])) {
        let folder = repository().join(path.parent().expect("a file lies in a folder"));
        for target in link_targets(&text) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !folder.join(file).exists() {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "links to files that do not exist:\n{}",
        broken.join("\n")
    );
}

/// Targets of `[text](target)` and `src="target"` that are paths, in Markdown without its code blocks.
fn link_targets(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    let targets = prose.flat_map(|prose| {
        let inline = prose
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', ' ']).next());
        let images = prose
            .split("src=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next());
        inline.chain(images)
    });
    targets.filter(|target| !target.contains(':')).collect()
}

/// Whether `line` has `folder` as the beginning of an absolute path, not as a part of a longer one or a URI.
fn mentions(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "/._-~*}".contains(c))
    })
}

#[test]
fn every_setting_of_the_schema_is_a_setting_in_vs_code() {
    let manifest =
        std::fs::read_to_string(repository().join("editors/vscode/package.json")).expect("the manifest");
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    let in_editor = &manifest["contributes"]["configuration"]["properties"];
    let schema = surmise::config::Config::schema();
    let mut settings = BTreeMap::new();
    collect(&schema, &schema, &schema["default"], "surmise", &mut settings);
    assert!(settings.len() > 5, "{settings:?}");
    for (key, (kind, default)) in &settings {
        let theirs = &in_editor[key];
        assert_eq!(
            (&theirs["type"], &theirs["default"]),
            (kind, default),
            "{key} differs; in editors/vscode: surmise config schema | npm run settings"
        );
    }
    let own = ["surmise.path", "surmise.trace.server"];
    let unknown: Vec<&String> = in_editor
        .as_object()
        .expect("an object")
        .keys()
        .filter(|key| !settings.contains_key(*key) && !own.contains(&key.as_str()))
        .collect();
    assert!(
        unknown.is_empty(),
        "settings that the server does not know: {unknown:?}"
    );
}

/// Type and default of every leaf of a schema, by its dotted key.
fn collect(
    root: &Value,
    schema: &Value,
    default: &Value,
    key: &str,
    found: &mut BTreeMap<String, (Value, Value)>,
) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => root.pointer(&reference[1..]).expect("the reference resolves"),
        None => schema,
    };
    match schema["properties"].as_object() {
        Some(properties) => {
            for (name, property) in properties {
                let default = if default[name].is_null() {
                    &property["default"]
                } else {
                    &default[name]
                };
                collect(root, property, default, &format!("{key}.{name}"), found);
            }
        }
        None => {
            let kind = if schema["oneOf"].is_array() {
                json!("string")
            } else {
                schema["type"].clone()
            };
            found.insert(key.to_owned(), (kind, default.clone()));
        }
    }
}
