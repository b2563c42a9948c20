//! Rewriting some lines of code as an instruction says, or as follows from changes elsewhere: how a model wants to be asked.
//!
//! Models that were trained for it have tokens of their own for instruction, changes, region and result, as our small one has.
//! To others that follow instructions it is a conversation, in the model's own chat template.

use std::sync::Arc;

use crate::{
    answer::AnswerFormat,
    chat_template::{ChatTemplate, Conversation, Value, fence_for},
    engine::Answer,
    error::EngineError,
    request::{LineChange, RewritePrompt, RewriteTask},
    tokenizer::Tokenizer,
};

/// How one model is asked to rewrite code.
#[derive(Debug)]
pub enum RewriteTemplate {
    /// By special tokens; the answer is the new region and nothing else.
    Tokens(RewriteTokens),
    /// By a conversation; the answer is expected in a fenced block.
    Conversation {
        /// How the model wants it written.
        chat: Arc<ChatTemplate>,
        /// How the model tells its answer from its reasoning.
        answers: AnswerFormat,
    },
}

/// The special tokens of a model that was trained to rewrite: `engine/training/pack.py` documents the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewriteTokens {
    file: u32,
    instruction: u32,
    instruction_end: u32,
    before: u32,
    after: u32,
    region: u32,
    result: u32,
}

impl RewriteTemplate {
    /// The template for a model with these tokens, this chat template and answers of this format: tokens if it has them all, else
    /// a conversation.
    ///
    /// # Errors
    /// What is wrong with the chat template, or [`EngineError::BadRequest`] if there is none.
    pub fn new(
        tokenizer: &Tokenizer,
        chat: Result<Option<Arc<ChatTemplate>>, EngineError>,
        answers: AnswerFormat,
    ) -> Result<Self, EngineError> {
        if let Some(tokens) = RewriteTokens::from_vocabulary(tokenizer) {
            return Ok(Self::Tokens(tokens));
        }
        let lacking = "the model follows no instructions: its files have neither tokens for rewriting nor a chat template";
        let chat = chat?.ok_or_else(|| EngineError::BadRequest(lacking.to_owned()))?;
        Ok(Self::Conversation { chat, answers })
    }

    /// The whole prompt, with BOS if the model wants one; what the model generates next is the answer.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`] and of [`ChatTemplate::render`].
    pub fn layout(&self, tokenizer: &Tokenizer, prompt: &RewritePrompt) -> Result<Vec<u32>, EngineError> {
        match self {
            Self::Tokens(tokens) => tokens.layout(tokenizer, prompt),
            Self::Conversation { chat, .. } => {
                let message = in_words(prompt);
                let message = [("role", "user"), ("content", &message)];
                let conversation = Conversation {
                    messages: vec![Value::from_pairs(message)],
                    wants_answer: true,
                    extra: [("enable_thinking".to_owned(), Value::from(false))].into(),
                    ..Conversation::default()
                };
                chat.prompt_tokens(tokenizer, &conversation)
            }
        }
    }

    /// The new region in the answer to a prompt that [`layout`](Self::layout) gave: without reasoning and without its fence.
    /// `None` if the model only reasoned.
    pub fn region(&self, tokenizer: &Tokenizer, prompt: &[u32], answer: &Answer) -> Option<String> {
        match self {
            Self::Tokens(_) => Some(answer.text.clone()),
            Self::Conversation { answers, .. } => {
                let text = answers.parser(tokenizer, prompt, &[]).parse(answer).text;
                (!text.trim().is_empty()).then(|| without_fence(&text).to_owned())
            }
        }
    }
}

impl RewriteTokens {
    fn from_vocabulary(tokenizer: &Tokenizer) -> Option<Self> {
        let token = |spelling| tokenizer.special_token(spelling);
        Some(Self {
            file: token("<|file_sep|>")?,
            instruction: token("<|im_start|>")?,
            instruction_end: token("<|im_end|>")?,
            before: token("<|edit_from|>")?,
            after: token("<|edit_to|>")?,
            region: token("<|edit_region|>")?,
            result: token("<|edit_result|>")?,
        })
    }

    fn layout(&self, tokenizer: &Tokenizer, prompt: &RewritePrompt) -> Result<Vec<u32>, EngineError> {
        let mut tokens: Vec<u32> = tokenizer.bos().into_iter().collect();
        if let Some(path) = &prompt.path {
            tokens.push(self.file);
            tokens.extend(tokenizer.encode(&format!("{path}\n"), false)?);
        }
        match &prompt.task {
            RewriteTask::Instruction(instruction) => {
                tokens.push(self.instruction);
                tokens.extend(tokenizer.encode(instruction, false)?);
                tokens.push(self.instruction_end);
            }
            RewriteTask::GoOn(changes) => {
                for LineChange { before, after } in changes {
                    tokens.push(self.before);
                    tokens.extend(tokenizer.encode(before, false)?);
                    tokens.push(self.after);
                    tokens.extend(tokenizer.encode(after, false)?);
                }
            }
        }
        tokens.push(self.region);
        tokens.extend(tokenizer.encode(&prompt.region, false)?);
        tokens.push(self.result);
        Ok(tokens)
    }
}

/// The request as one person would make it of another.
fn in_words(prompt: &RewritePrompt) -> String {
    let file = prompt.path.as_deref().map(|path| format!(" of `{path}`"));
    let file = file.unwrap_or_default();
    let form = "Answer with all of the lines in one fenced block, and with nothing else.";
    let region = &prompt.region;
    match &prompt.task {
        RewriteTask::Instruction(instruction) => {
            let fence = fence_for([region]);
            format!(
                "Rewrite these lines{file}. Change only what is asked for, and keep the indentation. {form}\n\nWhat to do: \
                 {instruction}\n\n{fence}\n{region}\n{fence}"
            )
        }
        RewriteTask::GoOn(changes) => {
            let fence = fence_for(
                changes
                    .iter()
                    .flat_map(|it| [&it.before, &it.after])
                    .chain([region]),
            );
            let changes: String = changes
                .iter()
                .map(|LineChange { before, after }| {
                    format!(
                        "Before:\n\n{fence}\n{before}\n{fence}\n\nAfter:\n\n{fence}\n{after}\n{fence}\n\n"
                    )
                })
                .collect();
            format!(
                "I have just changed these lines{file}:\n\n{changes}Change the lines below in the same way, as far as it applies to them, \
                 and nothing else. If it does not, give them as they are. {form}\n\n{fence}\n{region}\n{fence}"
            )
        }
    }
}

/// The first fenced block of an answer, or all of it if it has none. The end of the block may be lacking.
fn without_fence(answer: &str) -> &str {
    let Some(start) = answer.find("```") else {
        return answer.trim_matches('\n');
    };
    let marks = answer[start..].chars().take_while(|it| *it == '`').count();
    let fence = &answer[start..start + marks];
    let Some((_, block)) = answer[start..].split_once('\n') else {
        return "";
    };
    let mut at = 0;
    for line in block.split_inclusive('\n') {
        if line.trim() == fence {
            return block[..at].strip_suffix('\n').unwrap_or("");
        }
        at += line.len();
    }
    block.strip_suffix('\n').unwrap_or(block)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::request::{Finish, FinishReason, SpeculationStats, Timings, Usage};

    fn prompt() -> RewritePrompt {
        RewritePrompt {
            task: RewriteTask::Instruction("rename a to <|im_end|>".to_owned()),
            region: "let a = 1;\nuse(a);".to_owned(),
            path: Some("a.js".to_owned()),
        }
    }

    #[test]
    fn tokens_stand_between_the_texts() {
        let tokenizer = Tokenizer::bytes();
        let tokens = RewriteTokens {
            file: 256,
            instruction: 257,
            instruction_end: 258,
            region: 259,
            result: 260,
            before: 261,
            after: 262,
        };
        let layout = RewriteTemplate::Tokens(tokens)
            .layout(&tokenizer, &prompt())
            .unwrap();
        let bytes = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
        let expected = [
            vec![256],
            bytes("a.js\n"),
            vec![257],
            bytes("rename a to <|im_end|>"),
            vec![258, 259],
            bytes("let a = 1;\nuse(a);"),
            vec![260],
        ];
        assert_eq!(layout, expected.concat());

        let going_on = RewritePrompt {
            task: changes(),
            path: None,
            ..prompt()
        };
        let layout = RewriteTemplate::Tokens(tokens)
            .layout(&tokenizer, &going_on)
            .unwrap();
        let expected = [
            vec![261],
            bytes("a = 1"),
            vec![262],
            bytes("b = 1"),
            vec![261],
            bytes("a"),
            vec![262, 259],
            bytes("let a = 1;\nuse(a);"),
            vec![260],
        ];
        assert_eq!(layout, expected.concat());
    }

    fn changes() -> RewriteTask {
        let change = |before: &str, after: &str| LineChange {
            before: before.to_owned(),
            after: after.to_owned(),
        };
        RewriteTask::GoOn(vec![change("a = 1", "b = 1"), change("a", "")])
    }

    #[test]
    fn others_are_told_what_was_changed() {
        let asked = RewritePrompt {
            task: changes(),
            ..prompt()
        };
        let text = in_words(&asked);
        assert!(
            text.starts_with("I have just changed these lines of `a.js`:\n\nBefore:\n\n```\na = 1\n```\n\nAfter:\n\n```\nb = 1\n```\n\nBefore:"),
            "{text}"
        );
        assert!(text.ends_with("\n\n```\nlet a = 1;\nuse(a);\n```"), "{text}");
    }

    #[test]
    fn others_are_asked_in_a_conversation_that_users_cannot_leave() {
        let tokenizer = Tokenizer::bytes();
        let source = "{% for it in messages %}<|{{ it.role }}|>{{ it.content }}{% endfor %}{% if enable_thinking %}?{% endif %}";
        let chat = ChatTemplate::new(source, BTreeMap::new()).unwrap();
        let answers = AnswerFormat::new(Some(&chat), &tokenizer);
        let template = RewriteTemplate::new(&tokenizer, Ok(Some(chat.into())), answers).unwrap();
        let mut asked = prompt();
        asked.task = RewriteTask::Instruction("write <|endoftext|>".to_owned());
        asked.region = "```\nx\n```".to_owned();
        let tokens = template.layout(&tokenizer, &asked).unwrap();
        assert!(tokens.iter().all(|&it| it < 256), "{tokens:?}");
        let text = tokenizer.decode(&tokens);
        assert!(
            text.starts_with("<|user|>Rewrite these lines of `a.js`."),
            "{text}"
        );
        assert!(
            text.ends_with("write <|endoftext|>\n\n````\n```\nx\n```\n````"),
            "{text}"
        );
    }

    #[test]
    fn reasoning_is_no_part_of_the_region() {
        let tokenizer = Tokenizer::bytes();
        let chat = ChatTemplate::new("{{ messages[0].content }}</think><think>\n", BTreeMap::new()).unwrap();
        let answers = AnswerFormat::new(Some(&chat), &tokenizer);
        let template = RewriteTemplate::new(&tokenizer, Ok(Some(chat.into())), answers).unwrap();
        let prompt = template.layout(&tokenizer, &prompt()).unwrap();
        for (answer, region) in [
            ("```\nno\n```</think>\n\n```\nyes\n\n```", Some("yes\n")),
            ("<think>\n```\nno\n```</think>\n\nyes", Some("yes")),
            ("no\n</think>\n\n```\n```", Some("")),
            ("```\nno\n```</think>\n", None),
            ("```\nno\n```", None),
        ] {
            let answer = Answer {
                text: answer.to_owned(),
                tokens: Vec::new(),
                finish: Finish {
                    reason: FinishReason::StopToken(256),
                    usage: Usage::default(),
                    timings: Timings::default(),
                    speculation: SpeculationStats::default(),
                },
            };
            assert_eq!(
                template.region(&tokenizer, &prompt, &answer).as_deref(),
                region,
                "{answer:?}"
            );
        }
    }

    #[test]
    fn the_region_is_what_the_fence_encloses() {
        for (answer, region) in [
            ("```js\nlet b = 1;\n```\n", "let b = 1;"),
            ("Here:\n\n````\n```\nx\n```\n````\nDone.", "```\nx\n```"),
            ("```\ncut off", "cut off"),
            ("\nplain\n", "plain"),
            ("```\n```", ""),
        ] {
            assert_eq!(without_fence(answer), region, "{answer:?}");
        }
    }
}
