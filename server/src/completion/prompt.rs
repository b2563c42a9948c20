//! The prompt as a pure function of the context, and how large it may be.

use surmise_engine::{Engine, FimSupport, request::FimPrompt};
use surmise_grammars::Budget;

use crate::{completion::context::Context, config::CompletionConfig};

/// Tokens kept free for the template's special tokens and the file's path.
const TEMPLATE_TOKENS: usize = 32;
/// Tokens kept free where the template is a conversation, for its words and for the lines that the answer repeats.
const CONVERSATION_TOKENS: usize = 400;

/// How many tokens may stand on each side of the cursor: three before for each one after.
pub fn budget(engine: &Engine, config: &CompletionConfig) -> Budget {
    let template = match engine.info().fim {
        FimSupport::Conversation => CONVERSATION_TOKENS,
        FimSupport::Trained | FimSupport::None => TEMPLATE_TOKENS,
    };
    let room = engine
        .info()
        .context_length
        .saturating_sub(config.max_tokens + template);
    let tokens = config.prompt_tokens.min(room);
    Budget {
        prefix: tokens - tokens / 4,
        suffix: tokens / 4,
    }
}

/// Tokens in `text`.
pub fn cost(engine: &Engine, text: &str) -> usize {
    engine.count_tokens(text).unwrap_or(usize::MAX)
}

/// Lays the context out: what the excerpt would be lost without comes first, then the excerpt.
pub fn build(context: Context) -> FimPrompt {
    let Context {
        path,
        imports,
        scopes,
        prefix,
        suffix,
        excerpt: _,
    } = context;
    let mut above = String::new();
    for part in imports.iter().chain(&scopes) {
        above.push_str(part);
        above.push('\n');
    }
    FimPrompt {
        prefix: above + &prefix,
        suffix,
        path,
        ..FimPrompt::default()
    }
}
