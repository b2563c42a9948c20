//! Chat templates that are broken, or that were made to take all the time or memory there is: each is refused with a
//! sentence, quickly and in little memory.

use std::fs;

use limits::within_limits;
use surmise_engine::{
    EngineError,
    chat_template::{ChatTemplate, Conversation, Value},
};

mod chat_templates;
mod limits;

/// What is made of a short conversation by the template of a folder.
fn rendered(source: &str, at: &str) -> Result<usize, EngineError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("chat_template.jinja"), source).unwrap();
    within_limits(at, || {
        let template = ChatTemplate::from_folder(folder.path())?.expect("there is a template");
        let message = Value::from_pairs([("role", "user"), ("content", "x = 1")]);
        let conversation = Conversation {
            messages: vec![message.clone(), message],
            ..Conversation::default()
        };
        template.render(&conversation).map(|text| text.len())
    })
}

/// Each with words of its refusal.
const BROKEN: &[(&str, &str)] = &[
    // What cannot be read.
    ("{% for m in messages %}{{ m.content }}", "syntax error"),
    ("{{ messages", "syntax error"),
    ("{% if %}", "syntax error"),
    ("{% unknown %}", "syntax error"),
    ("{{ 'a' + }}", "syntax error"),
    ("{{ messages | nosuchfilter }}", "nosuchfilter"),
    ("{{ nosuchfunction() }}", "nosuchfunction"),
    ("{{ messages[0].content.nosuchmethod() }}", "nosuchmethod"),
    ("{% if messages is nosuchtest %}{% endif %}", "nosuchtest"),
    ("{% include 'other' %}", "other"),
    ("{% extends 'default' %}", "chat template"),
    ("{{ messages.content.role.x }}", "undefined"),
    // What does not come to an end.
    (
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
        "steps",
    ),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    (
        "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('ab') }}",
        "chat template",
    ),
    (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}x{% endmacro %}{{ f(40) }}",
        "steps",
    ),
    (
        "{%- for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "recursion",
    ),
    // What doubles.
    (
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "MB",
    ),
    (
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "MB",
    ),
    (
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x * 2 %}{% endfor %}",
        "MB",
    ),
    (
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
        "MB",
    ),
    (
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}",
        "MB",
    ),
    (
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('b', 'bab') %}{% endfor %}",
        "MB",
    ),
    (
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x | replace('b', 'bab') %}{% endfor %}",
        "MB",
    ),
    (
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = '%s%s' | format(ns.x, ns.x) %}{% endfor %}",
        "MB",
    ),
    (
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | tojson }}",
        "MB",
    ),
    (
        "{% set ns = namespace(x=['a', 'b']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "MB",
    ),
    (
        "{% set ns = namespace(x={'a': 1}) %}{% for i in range(60) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x }}",
        "MB",
    ),
    // What is made at once.
    ("{{ 'x' * 90000000 }}", "MB"),
    (
        "{{ ('x' * 1000000).split('') | list | length }}{{ ([1] * 999999999) | tojson }}",
        "MB",
    ),
    ("{{ ([1] * 999999999) | list | length }}", "chat template"),
    ("{{ messages | tojson(indent=999999999) }}", "MB"),
    (
        "{{ range(99999) | tojson(separators=['x' * 100000, ':']) }}",
        "MB",
    ),
    (
        "{{ 'x'.center(999999999) }}{{ 'x' | indent(999999999) }}",
        "chat template",
    ),
    ("{{ 'ab'.join(['x' * 1000000] * 1000) }}", "MB"),
    // What is nested: dropping it would overflow the stack.
    (
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}",
        "nested more than 64 deep",
    ),
    (
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = dict(x=ns.x) %}{% endfor %}",
        "nested more than 64 deep",
    ),
    (
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = ns.x | batch(1) %}{% endfor %}",
        "nested more than 64 deep",
    ),
    (
        "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set n = namespace() %}{% set n.x = ns.x %}{% set ns.x = n %}{% endfor %}",
        "cannot hold a namespace",
    ),
    (
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ [ns] }}",
        "cannot hold a namespace",
    ),
    // Lists that are joined to lists.
    (
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = ns.x + [i] %}{% endfor %}",
        "MB",
    ),
    (
        "{% macro f(x, n) %}{% if n %}{{ f(x + x, n - 1) }}{% endif %}{% endmacro %}{{ f([1], 60) }}",
        "MB",
    ),
    (
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] | sum(start=[]) %}{% endfor %}",
        "MB",
    ),
    (
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x * 2 %}{% endfor %}",
        "MB",
    ),
];

// One test, so that nothing else allocates meanwhile.
#[test]
fn broken_templates_are_refused_in_time() {
    for (source, words) in BROKEN {
        let outcome = rendered(source, source);
        let error = outcome.err().unwrap_or_else(|| panic!("{source}: rendered"));
        let text = error.to_string();
        assert!(text.contains(words) && text.len() < 2000, "{source}: {text}");
    }
    let long = "{{ messages }}".repeat(1 << 20);
    let error = rendered(&long, "a long template").unwrap_err().to_string();
    assert!(
        error.contains("has 14680064 bytes, expected 262144 at most"),
        "{error}"
    );
    damaged_templates();
}

/// Templates of released models, cut and changed in many places.
fn damaged_templates() {
    let Some(folder) = chat_templates::folder() else {
        return;
    };
    let mut state = 0x5eedu64;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % bound
    };
    let mut n_refused = 0;
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|it| it.unwrap().path())
        .collect();
    paths.sort();
    paths.retain(|path| path.extension().is_some_and(|it| it == "jinja"));
    for path in &paths {
        let source = fs::read_to_string(path).unwrap();
        for round in 0..20 {
            let mut bytes = source.clone().into_bytes();
            match round % 3 {
                0 => bytes.truncate(below(bytes.len())),
                1 => {
                    let at = below(bytes.len());
                    bytes[at] = b" {}%'[]()|~+*0x"[below(15)];
                }
                _ => {
                    let (from, to) = (below(bytes.len()), below(bytes.len()));
                    let end = (from + 40).min(bytes.len());
                    let piece = bytes[from..end].to_vec();
                    bytes.splice(to..to, piece);
                }
            }
            let at = format!("{}, damage {round}", path.display());
            let outcome = rendered(&String::from_utf8_lossy(&bytes), &at);
            n_refused += usize::from(outcome.is_err());
        }
    }
    assert!(n_refused > 300, "{n_refused} of {} refused", paths.len() * 20);
}
