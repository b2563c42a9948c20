//! Edits as the server sends them, applied to a text as an editor would.

use serde_json::Value;

/// `text` with the text edits of a workspace edit for one document; columns count UTF-16 units.
///
/// # Panics
/// If it is not the edit of one document, or its edits overlap.
#[track_caller]
pub fn apply(text: &str, edit: &Value) -> String {
    let edits = match edit["documentChanges"].as_array() {
        Some(documents) => {
            assert_eq!(documents.len(), 1, "one document: {edit}");
            &documents[0]["edits"]
        }
        None => {
            let documents = edit["changes"].as_object().expect("changes");
            assert_eq!(documents.len(), 1, "one document: {edit}");
            documents.values().next().expect("one document")
        }
    };
    let edits = edits.as_array().expect("a list of edits");
    let mut places: Vec<(usize, usize, &str)> = edits
        .iter()
        .map(|edit| {
            let at = |end: &str| offset(text, &edit["range"][end]);
            (at("start"), at("end"), edit["newText"].as_str().expect("text"))
        })
        .collect();
    places.sort_unstable();
    assert!(
        places.windows(2).all(|it| it[0].1 <= it[1].0),
        "edits overlap: {edit}"
    );
    let mut text = text.to_owned();
    for (start, end, new) in places.into_iter().rev() {
        text.replace_range(start..end, new);
    }
    text
}

fn offset(text: &str, position: &Value) -> usize {
    let number = |name: &str| position[name].as_u64().expect("a number") as usize;
    let line: usize = text
        .split_inclusive('\n')
        .take(number("line"))
        .map(str::len)
        .sum();
    let mut units = number("character");
    let rest = &text[line..];
    let mut at = line;
    for c in rest.chars().take_while(|&c| c != '\n') {
        if units == 0 {
            break;
        }
        units -= c.len_utf16();
        at += c.len_utf8();
    }
    assert_eq!(units, 0, "a position that there is: {position}");
    at
}
