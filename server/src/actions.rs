//! Edits that an editor can offer without being told what to do: what they are called, where they make sense, how a model is
//! asked for them, and what none of them may change, whatever the model writes.

mod attempt;
mod place;
mod promise;

use std::ops::Range;

use surmise_engine::RewriteSupport;

use crate::document::Document;
pub use attempt::{Unusable, first_usable};
pub use place::Place;
pub(crate) use place::{selected_lines, strings_in_either_quote};
pub use promise::Promise;

/// An edit with a name.
#[derive(Debug)]
pub struct Action {
    /// What editors send back; never changes its meaning.
    pub id: &'static str,
    /// What it is called in a menu; `{}` stands for the function that it is about.
    pub title: &'static str,
    /// What the model is told, in the words that the embedded one was trained on (`engine/training/edits.py`) if it was. It is
    /// told again in the next ones if what it wrote cannot be used: at a tenth of a second each that is worth it.
    pub wordings: &'static [&'static str],
    /// Where it makes sense.
    pub place: Place,
    /// What it leaves alone.
    pub promise: Promise,
    /// The most lines in which the embedded model does it well; none if it takes a model that follows any instruction.
    pub trained_lines: Option<usize>,
}

/// All of them, in the order of a menu.
pub const ACTIONS: &[Action] = &[
    Action {
        id: "single-quotes",
        title: "Use Single Quotes",
        wordings: &[
            "use single quotes",
            "change to single quotes",
            "translate the quotes to single quotes",
        ],
        place: Place::Strings { quote: '"' },
        promise: Promise::OnlyQuotes,
        trained_lines: Some(12),
    },
    Action {
        id: "double-quotes",
        title: "Use Double Quotes",
        wordings: &[
            "use double quotes",
            "change to double quotes",
            "translate the quotes to double quotes",
        ],
        place: Place::Strings { quote: '\'' },
        promise: Promise::OnlyQuotes,
        trained_lines: Some(12),
    },
    Action {
        id: "handle-errors",
        title: "Handle Errors in {}",
        wordings: &[
            "wrap the body in error handling",
            "add error handling",
            "wrap in try/catch",
            "handle errors",
        ],
        place: Place::FunctionBody,
        promise: Promise::RaisesAgain,
        trained_lines: Some(20),
    },
    Action {
        id: "comment-out",
        title: "Comment Out",
        wordings: &["comment this out", "comment out"],
        place: Place::Code,
        promise: Promise::OnlyCommentMarks,
        trained_lines: Some(8),
    },
    Action {
        id: "uncomment",
        title: "Uncomment",
        wordings: &["uncomment this", "uncomment"],
        place: Place::CommentedOut,
        promise: Promise::OnlyCommentMarks,
        trained_lines: Some(8),
    },
    Action {
        id: "remove-comments",
        title: "Remove the Comments in {}",
        wordings: &["remove the comments", "delete all comments", "remove comments"],
        place: Place::CommentedCode,
        promise: Promise::OnlyComments,
        trained_lines: None,
    },
    Action {
        id: "snake-case",
        title: "Convert the Names to snake_case",
        wordings: &["convert the names to snake_case"],
        place: Place::Names { to_camel: false },
        promise: Promise::OnlyCase,
        trained_lines: Some(12),
    },
    Action {
        id: "camel-case",
        title: "Convert the Names to camelCase",
        wordings: &["convert the names to camelCase"],
        place: Place::Names { to_camel: true },
        promise: Promise::OnlyCase,
        trained_lines: Some(12),
    },
    Action {
        id: "document",
        title: "Add a Doc Comment to {}",
        wordings: &[
            "add a documentation comment, in the style of the language, that says what this does; change no code",
        ],
        place: Place::Function,
        promise: Promise::OnlyComments,
        trained_lines: None,
    },
    Action {
        id: "simplify",
        title: "Simplify",
        wordings: &["make this simpler and easier to read, and keep what it does"],
        place: Place::Selection,
        promise: Promise::Nothing,
        trained_lines: None,
    },
];

/// What [`fix`] offers.
const FIX: &Action = &Action {
    id: "fix",
    title: "Fix",
    wordings: &["fix this problem, which a compiler or linter found, and change nothing else"],
    place: Place::Function,
    promise: Promise::Nothing,
    trained_lines: None,
};

/// Longest message of a diagnostic in a title, in characters.
const MAX_TITLE: usize = 60;

/// An action at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The [`Action::id`].
    pub id: &'static str,
    /// What a menu shows.
    pub title: String,
    /// Lines that it is about, from 0.
    pub lines: Range<usize>,
    /// What the model is told besides: the problem that is to be fixed.
    pub problem: Option<String>,
}

/// The actions that make sense for a selection, in bytes, and that a model does well. Runs no model, and looks at no more than the
/// selected lines and the function around them.
pub fn offers(document: &Document, selection: Range<usize>, support: RewriteSupport) -> Vec<Offer> {
    let selected = selected_lines(document, selection.clone());
    let offer = |action: &Action| {
        let most_lines = match support {
            RewriteSupport::Trained => action.trained_lines?,
            RewriteSupport::Conversation => usize::MAX,
            RewriteSupport::None => return None,
        };
        if selected.len() > most_lines {
            return None;
        }
        let found = action.place.find(document, selection.clone())?;
        if found.lines.len() > most_lines {
            return None;
        }
        let about = found.function.map(|name| format!("`{name}`"));
        Some(Offer {
            id: action.id,
            title: action
                .title
                .replace("{}", about.as_deref().unwrap_or("the Selection")),
            lines: found.lines,
            problem: None,
        })
    };
    ACTIONS.iter().filter_map(offer).collect()
}

/// The repair of what a diagnostic says of a range, in bytes; for models that follow any instruction.
pub fn fix(
    document: &Document,
    range: Range<usize>,
    message: &str,
    support: RewriteSupport,
) -> Option<Offer> {
    if support != RewriteSupport::Conversation {
        return None;
    }
    let at = selected_lines(document, range.clone());
    let lines = FIX
        .place
        .find(document, range)
        .map_or(at.clone(), |found| found.lines);
    let message = message.trim();
    let first_line = message.lines().next().unwrap_or_default();
    let mut title: String = first_line.chars().take(MAX_TITLE).collect();
    if title.len() < message.len() {
        title.push('…');
    }
    Some(Offer {
        id: FIX.id,
        title: format!("{}: {title}", FIX.title),
        problem: Some(format!("line {}, {message}", at.start - lines.start + 1)),
        lines,
    })
}

/// The action with this id.
pub fn action(id: &str) -> Option<&'static Action> {
    ACTIONS.iter().chain([FIX]).find(|it| it.id == id)
}
