//! A hole as models see it that were only trained to talk: a request in words, with the first lines of the answer written for
//! them. What the model generates goes on right after the prefix, as with the others, and needs no unwrapping.

use std::sync::Arc;

use crate::{
    answer::AnswerFormat,
    chat_template::{ChatTemplate, Conversation, Value, fence_for},
    error::EngineError,
    request::FimPrompt,
    tokenizer::Tokenizer,
};

/// Lines of the prefix that the answer repeats: so many make it plain where it is.
const REPEATED_LINES: usize = 3;

/// Describes holes in a model's chat template.
#[derive(Debug, Clone)]
pub struct FimConversation {
    chat: Arc<ChatTemplate>,
    answers: AnswerFormat,
}

impl FimConversation {
    /// For a model with this template and answers of this format.
    pub fn new(chat: Arc<ChatTemplate>, answers: AnswerFormat) -> Self {
        Self { chat, answers }
    }

    /// Tokens that end the answer, besides the model's end tokens: whatever begins something else than text.
    pub fn stop_tokens(&self) -> impl Iterator<Item = u32> {
        self.answers.marker_tokens()
    }

    /// What ends the answer to this prompt, besides the model's end tokens.
    pub fn end(prompt: &FimPrompt) -> String {
        format!("\n{}", fence(prompt))
    }

    /// The whole prompt, with BOS if the model wants one; what the model generates next is the middle. The prefix comes last, so typing lengthens only the end of the prompt.
    ///
    /// # Errors
    /// As [`ChatTemplate::prompt_tokens`].
    pub fn layout(&self, tokenizer: &Tokenizer, prompt: &FimPrompt) -> Result<Vec<u32>, EngineError> {
        let fence = fence(prompt);
        let block = |text: &str| format!("{fence}\n{}\n{fence}\n\n", text.trim_end_matches('\n'));
        let mut message = String::new();
        for file in &prompt.files {
            message.push_str(&format!("From `{}`:\n\n{}", file.path, block(&file.text)));
        }
        let file = prompt
            .path
            .as_deref()
            .map_or_else(String::new, |path| format!(" in `{path}`"));
        if !prompt.suffix.trim().is_empty() {
            message.push_str(&format!(
                "Code{file} ends with these lines:\n\n{}",
                block(&prompt.suffix)
            ));
        }
        message.push_str(&format!(
            "This is how it begins{file}. Go on where it breaks off, up to the lines that it ends with and without them. Write code \
             only, in one fenced block, and begin with the last lines of this:\n\n{}",
            block(&prompt.prefix)
        ));
        let conversation = Conversation {
            messages: vec![Value::from_pairs([
                ("role", "user"),
                ("content", message.trim_end()),
            ])],
            wants_answer: true,
            extra: [("enable_thinking".to_owned(), Value::from(false))].into(),
            ..Conversation::default()
        };
        let mut tokens = self.chat.prompt_tokens(tokenizer, &conversation)?;
        self.answers.skip_reasoning(tokenizer, &mut tokens)?;
        tokens.extend(tokenizer.encode(&format!("{fence}\n{}", last_lines(&prompt.prefix)), false)?);
        Ok(tokens)
    }
}

fn fence(prompt: &FimPrompt) -> String {
    let others = prompt.files.iter().map(|file| &file.text);
    fence_for(others.chain([&prompt.prefix, &prompt.suffix]))
}

/// The last lines of a text, the unfinished one counted.
pub(super) fn last_lines(text: &str) -> &str {
    let mut starts = text.rmatch_indices('\n').map(|(at, _)| at + 1);
    starts
        .nth(REPEATED_LINES - 1)
        .map_or(text, |start| &text[start..])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::request::ContextFile;

    #[test]
    fn the_answer_begins_where_the_prefix_ends() {
        let tokenizer = Tokenizer::bytes();
        let source = "{% for it in messages %}<{{ it.role }}>{{ it.content }}{% endfor %}<assistant>";
        let chat = ChatTemplate::new(source, BTreeMap::new()).unwrap();
        let prompt = FimPrompt {
            prefix: "a\nb\nc\nd <|endoftext|>\n  retu".to_owned(),
            suffix: "\n}\n".to_owned(),
            path: Some("x.js".to_owned()),
            files: vec![ContextFile {
                path: "y.js".to_owned(),
                text: "let y = '```';\n".to_owned(),
            }],
            ..FimPrompt::default()
        };
        let answers = AnswerFormat::new(Some(&chat), &tokenizer);
        let tokens = FimConversation::new(chat.into(), answers)
            .layout(&tokenizer, &prompt)
            .unwrap();
        assert_eq!(FimConversation::end(&prompt), "\n```");
        assert!(
            tokens.iter().all(|&it| it < 256),
            "no control token from a user's text"
        );
        let text = tokenizer.decode(&tokens);
        assert!(text.starts_with("<user>From `y.js`:\n\n"), "{text}");
        assert!(
            text.contains("Code in `x.js` ends with these lines:\n\n```\n\n}\n```\n\n"),
            "{text}"
        );
        assert!(
            text.ends_with(
                "```\na\nb\nc\nd <|endoftext|>\n  retu\n```<assistant>```\nc\nd <|endoftext|>\n  retu"
            ),
            "{text}"
        );
    }

    #[test]
    fn reasoning_that_the_template_begins_is_ended() {
        let tokenizer = Tokenizer::bytes();
        let source = "{{ messages[0].content }}{% if '</think>' %}<think>\n{% endif %}";
        let chat = ChatTemplate::new(source, BTreeMap::new()).unwrap();
        let answers = AnswerFormat::new(Some(&chat), &tokenizer);
        let prompt = FimPrompt {
            prefix: "retu".to_owned(),
            ..FimPrompt::default()
        };
        let tokens = FimConversation::new(chat.into(), answers)
            .layout(&tokenizer, &prompt)
            .unwrap();
        let text = tokenizer.decode(&tokens);
        assert!(text.ends_with("<think>\n\n</think>\n\n```\nretu"), "{text}");
    }

    #[test]
    fn short_prefixes_are_repeated_whole() {
        assert_eq!(last_lines(""), "");
        assert_eq!(last_lines("a\nb"), "a\nb");
        assert_eq!(last_lines("a\nb\nc\n"), "b\nc\n");
        assert_eq!(last_lines("a\nb\nc\nd"), "b\nc\nd");
    }
}
