//! The prompt as a pure function of the context, and how large it may be.

use surmise_engine::{Engine, FimSupport, request::FimPrompt};

use crate::{completion::context::Context, config::CompletionConfig};

/// Tokens kept free for the template's special tokens and the file's path.
const TEMPLATE_TOKENS: usize = 32;
/// Tokens kept free where the template is a conversation, for its words and for the lines that the answer repeats.
const CONVERSATION_TOKENS: usize = 400;

/// What is always read of the prompt that was asked for, as a divisor, however slow the model is.
const LEAST_READ: usize = 4;
/// Shorter prompts are a multiple of this long.
const GRAIN: usize = 32;

/// How much text may stand on each side of the cursor, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// For the text before the cursor.
    pub prefix: usize,
    /// For the text after the cursor.
    pub suffix: usize,
}

/// How many tokens may stand on each side of the cursor: three before for each one after. As many as the model has the time to read
/// where it has read none of them before.
pub fn budget(engine: &Engine, config: &CompletionConfig) -> Budget {
    let template = match engine.info().fim {
        FimSupport::Conversation => CONVERSATION_TOKENS,
        FimSupport::Trained | FimSupport::None => TEMPLATE_TOKENS,
    };
    let room = engine
        .info()
        .context_length
        .saturating_sub(config.max_tokens + template);
    let speed = engine.status().read_speed;
    let tokens = readable(config.prompt_tokens, speed, config.prompt_ms).min(room);
    Budget {
        prefix: tokens - tokens / 4,
        suffix: tokens / 4,
    }
}

/// Tokens of `wanted` that can be read in `ms` milliseconds at `speed` tokens per second.
fn readable(wanted: usize, speed: Option<usize>, ms: u64) -> usize {
    let in_time = speed.map_or(usize::MAX, |it| it.saturating_mul(ms as usize) / 1000);
    if in_time >= wanted {
        return wanted;
    }
    (in_time / GRAIN * GRAIN).max(wanted / LEAST_READ)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_model_reads_less() {
        assert_eq!(readable(1024, None, 200), 1024);
        assert_eq!(readable(1000, Some(5_050), 200), 1000);
        assert_eq!(readable(1024, Some(3_500), 200), 672);
        assert_eq!(readable(1024, Some(40), 200), 256);
    }
}
