//! Fill in the middle: the order in which a model wants prefix, suffix and context, as token ids.
//!
//! A template is chosen by what the model file itself says, its metadata and its vocabulary, never by its name.
//! Each piece of text is tokenised on its own, so no spelling in a user's code becomes a special token.
//!
//! Where a token begins the middle, the line that the cursor is in follows it: to the model the hole begins where the line does,
//! and the middle is begun. So typing lengthens the end of the prompt even where the suffix stands behind the prefix, and what
//! was read before stays in the KV cache; and a word that typing has cut in two can be healed. llama.cpp's `/infill` has `prompt`
//! for the same.

mod conversation;
mod region;

use self::region::Region;
use crate::{
    error::EngineError,
    request::FimPrompt,
    tokenizer::{TextStart, Tokenizer},
    weights::Gguf,
};

pub use conversation::FimConversation;

/// Which of prefix and suffix comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Prefix, suffix, middle.
    Psm,
    /// Suffix, prefix, middle.
    Spm,
}

/// How the paths and texts of files are told apart. `R` is the token before a repository's name, `F` the one before
/// or after a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileStyle {
    /// `R name \n F path \n text \n F path \n` and then the hole.
    Separators,
    /// `R name F path \n text F`, the hole, and the path of its file right after the prefix token.
    PathInPrefix,
    /// `path \n text F path \n` and then the hole.
    Terminators,
    /// Within the prefix: `F` if there is one, this mark as text, `path \n text \n`.
    Headings(&'static str),
}

/// How a family of models spells and orders its prompts.
#[derive(Debug, Clone, Copy)]
struct Family {
    name: &'static str,
    prefix: &'static str,
    suffix: &'static str,
    /// Token at which the middle begins; without one it begins right after the last piece.
    middle: Option<&'static str>,
    repository: Option<&'static str>,
    file: Option<&'static str>,
    order: Order,
    files: FileStyle,
    /// Where whole lines around the cursor are written anew.
    region: Option<Region>,
}

/// Trained by this project: `engine/training/pack.py` documents the format, and why nothing stands between prefix and
/// middle.
const SURMISE: Family = Family {
    name: "surmise",
    middle: None,
    order: Order::Spm,
    ..QWEN
};

/// Source: Hui et al. 2024, "Qwen2.5-Coder Technical Report", and the model card's section on repository level completion.
const QWEN: Family = Family {
    name: "qwen",
    prefix: "<|fim_prefix|>",
    suffix: "<|fim_suffix|>",
    middle: Some("<|fim_middle|>"),
    repository: Some("<|repo_name|>"),
    file: Some("<|file_sep|>"),
    order: Order::Psm,
    files: FileStyle::Separators,
    region: None,
};

/// Source: the model card of JetBrains' Mellum-4b-base.
const MELLUM: Family = Family {
    name: "mellum",
    prefix: "<fim_prefix>",
    suffix: "<fim_suffix>",
    middle: Some("<fim_middle>"),
    repository: Some("<reponame>"),
    file: Some("<filename>"),
    order: Order::Spm,
    files: FileStyle::Separators,
    region: None,
};

/// Source: ByteDance Seed 2025, "Seed-Coder: Let the Code Model Curate Data for Itself", section on fill in the middle; files
/// stand where Zed puts them for its fine-tune, Zeta 2.
const SEED_CODER: Family = Family {
    name: "seed-coder",
    prefix: "<[fim-prefix]>",
    suffix: "<[fim-suffix]>",
    middle: Some("<[fim-middle]>"),
    repository: None,
    file: Some("<filename>"),
    order: Order::Spm,
    files: FileStyle::Headings(""),
    region: None,
};

/// All families that are told apart by their vocabularies. The first whose tokens are all there is taken, so those
/// that need more tokens come first.
const FAMILIES: [Family; 11] = [
    // Source: "CodeGemma: Open Code Models Based on Gemma", 2024, and its documentation of the prompt structure.
    Family {
        name: "codegemma",
        repository: None,
        file: Some("<|file_separator|>"),
        files: FileStyle::Terminators,
        ..QWEN
    },
    QWEN,
    // Granite 4 has the hole's tokens without those of files.
    Family {
        name: "granite",
        repository: None,
        file: None,
        files: FileStyle::Headings("#"),
        ..QWEN
    },
    // Source: Lozhkov et al. 2024, "StarCoder 2 and The Stack v2", section on repository context.
    Family {
        name: "starcoder2",
        repository: Some("<repo_name>"),
        file: Some("<file_sep>"),
        order: Order::Psm,
        files: FileStyle::PathInPrefix,
        ..MELLUM
    },
    // Source: Li et al. 2023, "StarCoder: may the source be with you!". Granite Code has the same vocabulary.
    Family {
        name: "starcoder",
        order: Order::Psm,
        ..MELLUM
    },
    Family {
        name: "starcoder",
        repository: None,
        file: None,
        order: Order::Psm,
        files: FileStyle::Headings("#"),
        ..MELLUM
    },
    SEED_CODER,
    Family {
        file: None,
        files: FileStyle::Headings("#"),
        ..SEED_CODER
    },
    // Source: Guo et al. 2024, "DeepSeek-Coder", and the repository's examples.
    Family {
        name: "deepseek-coder",
        prefix: "<｜fim▁begin｜>",
        suffix: "<｜fim▁hole｜>",
        middle: Some("<｜fim▁end｜>"),
        repository: None,
        file: None,
        order: Order::Psm,
        files: FileStyle::Headings("#"),
        region: None,
    },
    // Source: Rozière et al. 2023, "Code Llama", and the reference implementation's `infilling_prompt_tokens`.
    Family {
        name: "codellama",
        prefix: "▁<PRE>",
        suffix: "▁<SUF>",
        middle: Some("▁<MID>"),
        repository: None,
        file: None,
        order: Order::Psm,
        files: FileStyle::Headings("#"),
        region: None,
    },
    // Source: mistral-common's `encode_fim`.
    Family {
        name: "codestral",
        prefix: "[PREFIX]",
        suffix: "[SUFFIX]",
        middle: None,
        repository: None,
        file: None,
        order: Order::Spm,
        files: FileStyle::Headings("+++++ "),
        region: None,
    },
];

/// Path of a file that has none, where the format needs one.
const UNNAMED: &str = "untitled";

/// Zed's models of edits, which were made of Seed-Coder and have its vocabulary. The edits so far, which Zed sends besides, are
/// not sent.
fn zeta(region: Region) -> Family {
    Family {
        name: if region == region::ZETA_2 {
            "zeta-2"
        } else {
            "zeta-2.1"
        },
        region: Some(region),
        ..SEED_CODER
    }
}

/// How one model wants its holes described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FimTemplate {
    name: &'static str,
    order: Order,
    files: FileStyle,
    prefix: u32,
    suffix: u32,
    middle: Option<u32>,
    repository: Option<u32>,
    file: Option<u32>,
    region: Option<Region>,
    stop_tokens: Vec<u32>,
}

impl FimTemplate {
    /// The template of the model in the file; `None` if the model was not trained to fill holes, or not in a way that
    /// is known here.
    ///
    /// Tokens come from `tokenizer.ggml.fim_*_token_id` where the file has these keys, and else from well-known
    /// spellings among the vocabulary's special tokens. The key `surmise.fim.order` (`spm`) marks our own format; `general.tags`,
    /// `general.basename` and `general.version` tell Zeta from the Seed-Coder that it was made of.
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Option<Self> {
        let metadata = gguf.metadata();
        let text = |key: &str| metadata.get_str(key).ok().flatten();
        let id = |names: &[&str]| {
            let mut ids = names.iter().filter_map(|name| {
                metadata
                    .get_u32(&format!("tokenizer.ggml.{name}_token_id"))
                    .ok()
                    .flatten()
            });
            ids.find(|&id| (id as usize) < tokenizer.vocab_size())
        };
        let named = NamedTokens {
            prefix: id(&["fim_pre", "prefix"]),
            suffix: id(&["fim_suf", "suffix"]),
            middle: id(&["fim_mid", "middle"]),
            repository: id(&["fim_rep"]),
            file: id(&["fim_sep"]),
            pad: id(&["fim_pad"]),
        };
        if let Some(order) = text("surmise.fim.order") {
            return match order {
                "spm" => Self::new(SURMISE, tokenizer, &named),
                _ => None,
            };
        }
        if text("tokenizer.ggml.pre") == Some("mellum")
            && let Some(template) = Self::new(MELLUM, tokenizer, &named)
        {
            return Some(template);
        }
        Region::from_metadata(metadata)
            .map(zeta)
            .into_iter()
            .chain(FAMILIES)
            .find_map(|family| Self::new(family, tokenizer, &named))
            .or_else(|| Self::unnamed(tokenizer, &named))
    }

    /// The template of the family whose tokens the vocabulary has, if any.
    pub fn from_vocabulary(tokenizer: &Tokenizer) -> Option<Self> {
        let families = FAMILIES.into_iter();
        families
            .filter_map(|family| Self::new(family, tokenizer, &NamedTokens::default()))
            .next()
    }

    /// Qwen's template, if the vocabulary has its tokens.
    pub fn qwen(tokenizer: &Tokenizer) -> Option<Self> {
        Self::new(QWEN, tokenizer, &NamedTokens::default())
    }

    /// Our own template, suffix first, for [`Tokenizer::bytes`].
    ///
    /// # Panics
    /// If the vocabulary lacks one of the tokens.
    pub fn for_tests() -> Self {
        let template = Self::new(SURMISE, &Tokenizer::bytes(), &NamedTokens::default());
        template.expect("the byte tokenizer has the tokens of the template")
    }

    /// `None` unless every token of the family is there.
    fn new(family: Family, tokenizer: &Tokenizer, named: &NamedTokens) -> Option<Self> {
        let spelled = |spelling: &str| tokenizer.special_token(spelling);
        // A token that the metadata names must have the family's spelling; otherwise the family is another one.
        let find = |named: Option<u32>, spelling: &str| match named {
            Some(id) => (spelled(spelling) == Some(id)).then_some(id),
            None => spelled(spelling),
        };
        let find_optional = |named: Option<u32>, spelling: Option<&str>| match spelling {
            Some(spelling) => find(named, spelling).map(Some),
            None => Some(None),
        };
        let mut template = Self {
            name: family.name,
            order: family.order,
            files: family.files,
            prefix: find(named.prefix, family.prefix)?,
            suffix: find(named.suffix, family.suffix)?,
            middle: find_optional(named.middle, family.middle)?,
            repository: find_optional(named.repository, family.repository)?,
            file: find_optional(named.file, family.file)?,
            region: family.region,
            stop_tokens: Vec::new(),
        };
        let pad = named
            .pad
            .or_else(|| ["<|fim_pad|>", "<fim_pad>"].into_iter().find_map(spelled));
        // A token for the middle ends it too, even where the format does without one.
        template.collect_stop_tokens(tokenizer, [named.middle, pad]);
        Some(template)
    }

    /// A model of no known family whose metadata names the three tokens.
    fn unnamed(tokenizer: &Tokenizer, named: &NamedTokens) -> Option<Self> {
        let mut template = Self {
            name: "generic",
            order: Order::Psm,
            files: if named.file.is_some() {
                FileStyle::Separators
            } else {
                FileStyle::Headings("#")
            },
            prefix: named.prefix?,
            suffix: named.suffix?,
            middle: Some(named.middle?),
            repository: named.repository,
            file: named.file,
            region: None,
            stop_tokens: Vec::new(),
        };
        template.collect_stop_tokens(tokenizer, [named.middle, named.pad]);
        Some(template)
    }

    fn collect_stop_tokens(&mut self, tokenizer: &Tokenizer, others: [Option<u32>; 2]) {
        let own = [
            Some(self.prefix),
            Some(self.suffix),
            self.middle,
            self.repository,
            self.file,
        ];
        self.stop_tokens = own
            .into_iter()
            .chain(others)
            .flatten()
            .chain(tokenizer.end_tokens().iter().copied())
            .collect();
        self.stop_tokens.sort_unstable();
        self.stop_tokens.dedup();
    }

    /// Name of the family, for people.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Tokens that end the middle: the model's end tokens, and every token that this template itself uses. Sorted.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop_tokens
    }

    /// Strings that end the middle of this prompt, besides those tokens.
    pub fn stop_strings(&self, prompt: &FimPrompt) -> Vec<String> {
        let ends = self.region.map(|region| region.ends(prompt));
        ends.into_iter().flatten().collect()
    }

    /// Token after which the prefix stands.
    pub fn prefix_token(&self) -> u32 {
        self.prefix
    }

    /// The whole prompt, with BOS if the model wants one; what the model generates next is the middle, or the rest of it.
    ///
    /// Context goes before the hole. A file's text gets a line break at its end if it has none, a file without a path
    /// is `untitled` where the format needs one. Nothing is shortened: the caller knows the budget.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] for text that the vocabulary cannot spell.
    pub fn layout(&self, tokenizer: &Tokenizer, prompt: &FimPrompt) -> Result<Vec<u32>, EngineError> {
        let mut pieces = Pieces {
            tokenizer,
            tokens: tokenizer.bos().into_iter().collect(),
        };
        if let Some(region) = self.region {
            self.push_region(region, &mut pieces, prompt)?;
            return Ok(pieces.tokens);
        }
        match self.files {
            FileStyle::Separators => {
                self.push_repository(&mut pieces, prompt, "\n")?;
                for file in &prompt.files {
                    pieces.special(self.file);
                    pieces.text(&with_line_end(&file.path), TextStart::Continued)?;
                    pieces.text(&with_line_end(&file.text), TextStart::Continued)?;
                }
                if let Some(path) = path_where_needed(prompt) {
                    pieces.special(self.file);
                    pieces.text(&with_line_end(path), TextStart::Continued)?;
                }
            }
            FileStyle::PathInPrefix => {
                self.push_repository(&mut pieces, prompt, "")?;
                for file in &prompt.files {
                    pieces.special(self.file);
                    pieces.text(&with_line_end(&file.path), TextStart::Continued)?;
                    pieces.text(&with_line_end(&file.text), TextStart::Continued)?;
                }
                pieces.special(self.file.filter(|_| path_where_needed(prompt).is_some()));
            }
            FileStyle::Terminators => {
                for file in &prompt.files {
                    pieces.text(&with_line_end(&file.path), TextStart::Continued)?;
                    pieces.text(&with_line_end(&file.text), TextStart::Continued)?;
                    pieces.special(self.file);
                }
                if let Some(path) = path_where_needed(prompt) {
                    pieces.text(&with_line_end(path), TextStart::Continued)?;
                }
            }
            FileStyle::Headings(_) => {}
        }
        let (prefix, begun) = match self.middle {
            Some(_) => prompt.prefix.split_at(last_line_start(&prompt.prefix)),
            None => (prompt.prefix.as_str(), ""),
        };
        match self.order {
            Order::Psm => {
                self.push_prefix(&mut pieces, prompt, prefix)?;
                self.push_suffix(&mut pieces, prompt)?;
            }
            Order::Spm => {
                self.push_suffix(&mut pieces, prompt)?;
                self.push_prefix(&mut pieces, prompt, prefix)?;
            }
        }
        pieces.special(self.middle);
        pieces.text(begun, TextStart::Continued)?;
        Ok(pieces.tokens)
    }

    /// The tokens of a [laid out](Self::layout) prompt as the text reads: what the middle begins with right behind the prefix. Any
    /// other tokens are left as they are, and so are lines to be written anew.
    pub fn in_reading_order(&self, prompt: &[u32]) -> Vec<u32> {
        let place = |token: u32| prompt.iter().rposition(|&it| it == token);
        let places = (
            place(self.prefix),
            place(self.suffix),
            self.middle.and_then(place),
        );
        let (Some(prefix), Some(suffix), Some(middle)) = places else {
            return prompt.to_vec();
        };
        let prefix_end = if suffix > prefix { suffix } else { middle };
        if self.region.is_some() || prefix > prefix_end || prefix_end > middle {
            return prompt.to_vec();
        }
        let (before, prefix) = prompt[..prefix_end].split_at(prefix);
        let (behind, begun) = prompt[prefix_end..].split_at(middle + 1 - prefix_end);
        [before, behind, prefix, begun].concat()
    }

    /// Suffix first, other files and the current one in the prefix, and the beginning of the answer.
    fn push_region(
        &self,
        region: Region,
        pieces: &mut Pieces<'_>,
        prompt: &FimPrompt,
    ) -> Result<(), EngineError> {
        pieces.special(Some(self.suffix));
        pieces.text(&with_line_end(Region::after(prompt)), TextStart::Continued)?;
        pieces.special(Some(self.prefix));
        for (idx, file) in prompt.files.iter().enumerate() {
            let end = if idx + 1 == prompt.files.len() { "\n" } else { "" };
            let text = format!("{}{}{end}", with_line_end(&file.path), with_line_end(&file.text));
            pieces.special(self.file);
            pieces.text(&text, TextStart::Continued)?;
        }
        let path = with_line_end(prompt.path.as_deref().unwrap_or(UNNAMED));
        pieces.special(self.file);
        pieces.text(&format!("{path}{}", region.marked(prompt)), TextStart::Continued)?;
        pieces.special(self.middle);
        pieces.text(&region.answer(prompt), TextStart::Continued)
    }

    /// Control tokens in the layout of `prompt`, BOS not counted: what the template costs beside the texts.
    pub fn overhead(&self, prompt: &FimPrompt) -> usize {
        let n_hole = 2 + usize::from(self.middle.is_some());
        if self.region.is_some() {
            return n_hole + prompt.files.len() + 1;
        }
        let n_repository = usize::from(self.repository.is_some() && prompt.repository.is_some());
        let n_current = usize::from(path_where_needed(prompt).is_some());
        n_hole
            + match self.files {
                FileStyle::Separators | FileStyle::PathInPrefix => {
                    n_repository + prompt.files.len() + n_current
                }
                FileStyle::Terminators => prompt.files.len(),
                FileStyle::Headings(_) if self.file.is_none() => 0,
                FileStyle::Headings(_) => prompt.files.len() + n_current,
            }
    }

    fn push_repository(
        &self,
        pieces: &mut Pieces<'_>,
        prompt: &FimPrompt,
        end: &str,
    ) -> Result<(), EngineError> {
        let (Some(token), Some(name)) = (self.repository, &prompt.repository) else {
            return Ok(());
        };
        pieces.special(Some(token));
        pieces.text(&format!("{name}{end}"), TextStart::Continued)
    }

    fn push_prefix(
        &self,
        pieces: &mut Pieces<'_>,
        prompt: &FimPrompt,
        prefix: &str,
    ) -> Result<(), EngineError> {
        pieces.special(Some(self.prefix));
        let mut start = TextStart::Fresh;
        if let FileStyle::Headings(mark) = self.files {
            for file in &prompt.files {
                pieces.special(self.file);
                pieces.text(&format!("{mark}{}", with_line_end(&file.path)), start)?;
                start = TextStart::Continued;
                pieces.text(&with_line_end(&file.text), start)?;
            }
            if let Some(path) = path_where_needed(prompt) {
                pieces.special(self.file);
                pieces.text(&format!("{mark}{}", with_line_end(path)), start)?;
                start = TextStart::Continued;
            }
        }
        if self.files == FileStyle::PathInPrefix
            && let Some(path) = path_where_needed(prompt)
        {
            pieces.text(&with_line_end(path), start)?;
            start = TextStart::Continued;
        }
        pieces.text(prefix, start)
    }

    fn push_suffix(&self, pieces: &mut Pieces<'_>, prompt: &FimPrompt) -> Result<(), EngineError> {
        pieces.special(Some(self.suffix));
        pieces.text(&prompt.suffix, TextStart::Continued)
    }
}

/// Tokens that the file's metadata names.
#[derive(Default)]
struct NamedTokens {
    prefix: Option<u32>,
    suffix: Option<u32>,
    middle: Option<u32>,
    repository: Option<u32>,
    file: Option<u32>,
    pad: Option<u32>,
}

struct Pieces<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
}

impl Pieces<'_> {
    fn special(&mut self, token: Option<u32>) {
        self.tokens.extend(token);
    }

    fn text(&mut self, text: &str, start: TextStart) -> Result<(), EngineError> {
        self.tokens
            .extend(self.tokenizer.encode_from(text, false, start)?);
        Ok(())
    }
}

/// Path of the file with the hole: what the caller says, or a stand-in if other files have to be told apart from it.
fn path_where_needed(prompt: &FimPrompt) -> Option<&str> {
    let stand_in = (prompt.repository.is_some() || !prompt.files.is_empty()).then_some(UNNAMED);
    prompt.path.as_deref().or(stand_in)
}

/// Where the last line of a text begins, behind a line break or at its start.
fn last_line_start(text: &str) -> usize {
    text.rfind('\n').map_or(0, |line_break| line_break + 1)
}

fn with_line_end(text: &str) -> String {
    if text.ends_with('\n') {
        text.to_owned()
    } else {
        format!("{text}\n")
    }
}
