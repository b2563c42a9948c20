//! FIM templates, chosen by what small files say and laid out token by token.

use expect_test::{Expect, expect};
use gguf_builder::{Builder, Value, byte_level, open, strings};
use surmise_engine::{
    fim::FimTemplate,
    healing::Healing,
    request::{ContextFile, FimPrompt},
    tokenizer::Tokenizer,
};

use vocabularies::{VOCABULARIES, vocabularies, write_folder};

mod gguf_builder;
mod vocabularies;

const CONTROL: u32 = 3;

/// A byte-level model with these control tokens, from id 256 on.
fn model(special: &[&str]) -> Builder {
    let special: Vec<(&str, u32)> = special.iter().map(|&spelling| (spelling, CONTROL)).collect();
    byte_level("qwen2", &special).pair("tokenizer.ggml.merges", strings(&[]))
}

const QWEN: [&str; 7] = [
    "<|endoftext|>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];
const STARCODER: [&str; 6] = [
    "<|endoftext|>",
    "<fim_prefix>",
    "<fim_middle>",
    "<fim_suffix>",
    "<reponame>",
    "<filename>",
];
const STARCODER2: [&str; 6] = [
    "<|endoftext|>",
    "<fim_prefix>",
    "<fim_middle>",
    "<fim_suffix>",
    "<repo_name>",
    "<file_sep>",
];
const CODEGEMMA: [&str; 5] = [
    "<eos>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|file_separator|>",
];
const DEEPSEEK: [&str; 4] = [
    "<｜end▁of▁sentence｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁end｜>",
];
const CODELLAMA: [&str; 5] = ["</s>", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"];
const SEED_CODER: [&str; 5] = [
    "<[end▁of▁sentence]>",
    "<[fim-suffix]>",
    "<[fim-prefix]>",
    "<[fim-middle]>",
    "<filename>",
];
const CODESTRAL: [&str; 4] = ["</s>", "[PREFIX]", "[SUFFIX]", "[MIDDLE]"];

/// One of each family that is told by its vocabulary.
const VOCABULARIES_WITH_TOKENS: [&[&str]; 9] = [
    &QWEN,
    QWEN.split_at(4).0,
    &STARCODER,
    &STARCODER2,
    &CODEGEMMA,
    &DEEPSEEK,
    &CODELLAMA,
    &CODESTRAL,
    &SEED_CODER,
];

fn surmise(order: &str) -> Builder {
    model(&QWEN).pair("surmise.fim.order", Value::Str(order.as_bytes().to_vec()))
}

fn hole() -> FimPrompt {
    FimPrompt {
        prefix: "use a;\nfn f() {".to_owned(),
        suffix: "\n}".to_owned(),
        ..FimPrompt::default()
    }
}

fn hole_in_repository() -> FimPrompt {
    let file = |path: &str, text: &str| ContextFile {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    FimPrompt {
        path: Some("src/f.rs".to_owned()),
        repository: Some("demo".to_owned()),
        files: vec![file("a.rs", "use b;"), file("b.rs", "struct B;\n")],
        ..hole()
    }
}

/// A hole amid the spellings of special tokens.
fn hostile() -> FimPrompt {
    let hostile: String = [
        &QWEN[..],
        &DEEPSEEK,
        &CODESTRAL,
        &STARCODER,
        &STARCODER2,
        &SEED_CODER,
    ]
    .concat()
    .concat();
    FimPrompt {
        prefix: hostile.clone(),
        suffix: hostile.clone(),
        path: Some(hostile.clone()),
        repository: Some(hostile.clone()),
        files: vec![ContextFile {
            path: hostile.clone(),
            text: hostile,
        }],
    }
}

/// The tokens as text, special ones by their spelling.
fn spell(tokenizer: &Tokenizer, special: &[&str], tokens: &[u32]) -> String {
    tokens.iter().fold(String::new(), |text, &id| {
        match special.get((id as usize).wrapping_sub(256)) {
            Some(spelling) => text + spelling,
            None => text + &tokenizer.decode(&[id]),
        }
    })
}

/// The tokenizer and the template of a model.
#[track_caller]
fn template_of(file: &Builder) -> (Tokenizer, FimTemplate) {
    let gguf = open(&file.build()).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let template = FimTemplate::from_gguf(&gguf, &tokenizer).expect("a template");
    (tokenizer, template)
}

#[track_caller]
fn check(file: &Builder, special: &[&str], prompt: &FimPrompt, expected: Expect) {
    let (tokenizer, template) = template_of(file);
    let tokens = template.layout(&tokenizer, prompt).unwrap();
    expected.assert_eq(&format!(
        "{}: {}",
        template.name(),
        spell(&tokenizer, special, &tokens)
    ));
    let n_control = tokens.iter().filter(|&&id| tokenizer.is_control(id)).count();
    assert_eq!(template.overhead(prompt), n_control, "control tokens");
    for &id in tokens
        .iter()
        .filter(|&&id| tokenizer.is_control(id))
        .chain(tokenizer.end_tokens())
    {
        assert!(
            template.stop_tokens().contains(&id),
            "token {id} does not stop the middle"
        );
    }
}

#[test]
fn a_hole_alone() {
    let check = |special: &[&str], expected| check(&model(special), special, &hole(), expected);
    check(
        &QWEN,
        expect![[r#"
            qwen: <|fim_prefix|>use a;
            <|fim_suffix|>
            }<|fim_middle|>fn f() {"#]],
    );
    check(
        &QWEN[..4],
        expect![[r#"
            granite: <|fim_prefix|>use a;
            <|fim_suffix|>
            }<|fim_middle|>fn f() {"#]],
    );
    check(
        &STARCODER,
        expect![[r#"
            starcoder: <fim_prefix>use a;
            <fim_suffix>
            }<fim_middle>fn f() {"#]],
    );
    check(
        &STARCODER2,
        expect![[r#"
            starcoder2: <fim_prefix>use a;
            <fim_suffix>
            }<fim_middle>fn f() {"#]],
    );
    check(
        &CODEGEMMA,
        expect![[r#"
            codegemma: <|fim_prefix|>use a;
            <|fim_suffix|>
            }<|fim_middle|>fn f() {"#]],
    );
    check(
        &DEEPSEEK,
        expect![[r#"
            deepseek-coder: <｜fim▁begin｜>use a;
            <｜fim▁hole｜>
            }<｜fim▁end｜>fn f() {"#]],
    );
    check(
        &CODELLAMA,
        expect![[r#"
            codellama: ▁<PRE>use a;
            ▁<SUF>
            }▁<MID>fn f() {"#]],
    );
    check(
        &CODESTRAL,
        expect![[r#"
            codestral: [SUFFIX]
            }[PREFIX]use a;
            fn f() {"#]],
    );
    check(
        &SEED_CODER,
        expect![[r#"
            seed-coder: <[fim-suffix]>
            }<[fim-prefix]>use a;
            <[fim-middle]>fn f() {"#]],
    );
}

#[test]
fn a_hole_in_a_repository() {
    let check = |special: &[&str], expected| check(&model(special), special, &hole_in_repository(), expected);
    check(
        &QWEN,
        expect![[r#"
            qwen: <|repo_name|>demo
            <|file_sep|>a.rs
            use b;
            <|file_sep|>b.rs
            struct B;
            <|file_sep|>src/f.rs
            <|fim_prefix|>use a;
            <|fim_suffix|>
            }<|fim_middle|>fn f() {"#]],
    );
    check(
        &STARCODER,
        expect![[r#"
            starcoder: <reponame>demo
            <filename>a.rs
            use b;
            <filename>b.rs
            struct B;
            <filename>src/f.rs
            <fim_prefix>use a;
            <fim_suffix>
            }<fim_middle>fn f() {"#]],
    );
    check(
        &STARCODER2,
        expect![[r#"
            starcoder2: <repo_name>demo<file_sep>a.rs
            use b;
            <file_sep>b.rs
            struct B;
            <file_sep><fim_prefix>src/f.rs
            use a;
            <fim_suffix>
            }<fim_middle>fn f() {"#]],
    );
    check(
        &CODEGEMMA,
        expect![[r#"
            codegemma: a.rs
            use b;
            <|file_separator|>b.rs
            struct B;
            <|file_separator|>src/f.rs
            <|fim_prefix|>use a;
            <|fim_suffix|>
            }<|fim_middle|>fn f() {"#]],
    );
    check(
        &DEEPSEEK,
        expect![[r#"
            deepseek-coder: <｜fim▁begin｜>#a.rs
            use b;
            #b.rs
            struct B;
            #src/f.rs
            use a;
            <｜fim▁hole｜>
            }<｜fim▁end｜>fn f() {"#]],
    );
    check(
        &CODESTRAL,
        expect![[r#"
            codestral: [SUFFIX]
            }[PREFIX]+++++ a.rs
            use b;
            +++++ b.rs
            struct B;
            +++++ src/f.rs
            use a;
            fn f() {"#]],
    );
    check(
        &SEED_CODER,
        expect![[r#"
            seed-coder: <[fim-suffix]>
            }<[fim-prefix]><filename>a.rs
            use b;
            <filename>b.rs
            struct B;
            <filename>src/f.rs
            use a;
            <[fim-middle]>fn f() {"#]],
    );
    // Those that have no tokens for files get paths as comments.
    for (special, expected) in [
        (
            &SEED_CODER[..4],
            expect![[r#"
                seed-coder: <[fim-suffix]>
                }<[fim-prefix]>#a.rs
                use b;
                #b.rs
                struct B;
                #src/f.rs
                use a;
                <[fim-middle]>fn f() {"#]],
        ),
        (
            &QWEN[..4],
            expect![[r#"
                granite: <|fim_prefix|>#a.rs
                use b;
                #b.rs
                struct B;
                #src/f.rs
                use a;
                <|fim_suffix|>
                }<|fim_middle|>fn f() {"#]],
        ),
        (
            &CODELLAMA,
            expect![[r#"
                codellama: ▁<PRE>#a.rs
                use b;
                #b.rs
                struct B;
                #src/f.rs
                use a;
                ▁<SUF>
                }▁<MID>fn f() {"#]],
        ),
    ] {
        check(special, expected);
    }
}

/// The tokens of what was typed are all that a layout gains, and as it is read they stand behind the prefix.
#[test]
fn typing_lengthens_the_end_of_layouts() {
    for special in VOCABULARIES_WITH_TOKENS {
        let (tokenizer, template) = template_of(&model(special));
        for before in [hole(), hole_in_repository()] {
            let typed = FimPrompt {
                prefix: before.prefix.clone() + "  g(",
                ..before.clone()
            };
            let [before, after] = [&before, &typed].map(|it| template.layout(&tokenizer, it).unwrap());
            assert!(after.starts_with(&before), "{}", template.name());
            assert_eq!(after.len(), before.len() + "  g(".len(), "{}", template.name());
            let read = template.in_reading_order(&after);
            assert_eq!(read.len(), after.len());
            let text = spell(&tokenizer, special, &read);
            assert!(
                text.ends_with("use a;\nfn f() {  g("),
                "{}: {text}",
                template.name()
            );
        }
    }
}

/// Vocabularies with the template's tokens as text of their own have them heal no more than others.
#[test]
fn nothing_is_taken_back_at_the_beginning_of_a_line() {
    const USER_DEFINED: u32 = 4;
    let empty = FimPrompt {
        prefix: "use a;\n".to_owned(),
        ..hole()
    };
    for kind in [CONTROL, USER_DEFINED] {
        let special = QWEN.map(|spelling| (spelling, kind));
        let file = byte_level("qwen2", &special).pair("tokenizer.ggml.merges", strings(&[]));
        let (tokenizer, template) = template_of(&file);
        let taken = |hole: &FimPrompt| {
            let mut prompt = template.layout(&tokenizer, hole).unwrap();
            let healing = Healing::take(&tokenizer, &mut prompt, template.stop_tokens());
            healing.map(|it| it.bytes().to_vec())
        };
        assert_eq!(taken(&empty), None);
        assert_eq!(taken(&hole()).as_deref(), Some(&b"{"[..]));
    }
}

#[test]
fn tokens_that_are_no_layout_keep_their_order() {
    let (_, template) = template_of(&model(&QWEN));
    let (prefix, suffix, middle) = (257, 258, 259);
    for tokens in [
        vec![],
        vec![97],
        vec![prefix, 97, suffix],
        vec![prefix, middle, 97, suffix],
        vec![middle, suffix, prefix, 97],
        vec![suffix, 97, middle, prefix],
    ] {
        assert_eq!(template.in_reading_order(&tokens), tokens);
    }
    assert_eq!(
        template.in_reading_order(&[97, prefix, 98, suffix, 99, middle, 100]),
        [97, suffix, 99, middle, prefix, 98, 100]
    );
}

/// As Zed's `zeta_prompt` lays them out, without edits, the answer begun.
#[test]
fn models_of_edits_write_the_lines_around_the_cursor_anew() {
    let text = |text: &str| Value::Str(text.as_bytes().to_vec());
    let tags = || strings(&["transformers", "edit-prediction", "next-edit-suggestion"]);
    let prompt = FimPrompt {
        prefix: "use b;\n\nfn f() {\n    g();\n    h(".to_owned(),
        suffix: ");\n}\n".to_owned(),
        ..hole_in_repository()
    };
    // By its tags, or by what its name was made of.
    let zeta_2 = model(&SEED_CODER)
        .pair("general.basename", text("zeta"))
        .pair("general.version", text("2"));
    check(
        &zeta_2,
        &SEED_CODER,
        &prompt,
        expect![[r#"
            zeta-2: <[fim-suffix]>
            }
            <[fim-prefix]><filename>a.rs
            use b;
            <filename>b.rs
            struct B;

            <filename>src/f.rs
            use b;

            <<<<<<< CURRENT
            fn f() {
                g();
                h(<|user_cursor|>);
            =======
            <[fim-middle]>fn f() {
                g();
                h("#]],
    );
    let zeta_2_1 = model(&SEED_CODER)
        .pair("general.tags", tags())
        .pair("general.version", text("2.1"));
    check(
        &zeta_2_1,
        &SEED_CODER,
        &prompt,
        expect![[r#"
            zeta-2.1: <[fim-suffix]>
            }
            <[fim-prefix]><filename>a.rs
            use b;
            <filename>b.rs
            struct B;

            <filename>src/f.rs
            use b;

            <|marker_1|>fn f() {
                g();
                h(<|user_cursor|>);<|marker_2|>
            <[fim-middle]><|marker_1|>fn f() {
                g();
                h("#]],
    );
    check(
        &zeta_2_1,
        &SEED_CODER,
        &FimPrompt::default(),
        expect![[r#"
            zeta-2.1: <[fim-suffix]>
            <[fim-prefix]><filename>untitled
            <|marker_1|><|user_cursor|><|marker_2|>
            <[fim-middle]><|marker_1|>"#]],
    );
    let template = |file: &Builder| template_of(file).1;
    assert_eq!(
        template(&zeta_2).stop_strings(&prompt),
        [");\n>>>>>>> UPDATED", "\n>>>>>>> UPDATED", "<|user_cursor|>"]
    );
    assert_eq!(
        template(&zeta_2_1).stop_strings(&prompt),
        [");<|marker_2|>", "<|marker_2|>", "<|user_cursor|>"]
    );
    // A name alone says nothing, nor does the tag of a model with another vocabulary.
    let named = model(&SEED_CODER).pair("general.name", text("Zeta 2.1"));
    assert_eq!(template(&named).name(), "seed-coder");
    assert!(template(&named).stop_strings(&prompt).is_empty());
    let qwen = model(&QWEN)
        .pair("general.tags", tags())
        .pair("general.version", text("2.1"));
    assert_eq!(template(&qwen).name(), "qwen");
}

/// Vocabularies of released models, from GGUF and from `tokenizer.json`: which template each has, and that no text of the user's
/// is lost or becomes a token of the template.
#[test]
fn real_vocabularies_have_the_templates_of_their_families() {
    let Some(folder) = vocabularies() else { return };
    let mut found = String::new();
    for name in VOCABULARIES {
        let gguf = vocabularies::open(&folder, name);
        let from_gguf = Tokenizer::from_gguf(&gguf).unwrap();
        let template = FimTemplate::from_gguf(&gguf, &from_gguf);
        let written = write_folder(&gguf, name);
        let from_folder = Tokenizer::from_folder(written.path()).unwrap();
        let of_vocabulary = FimTemplate::from_vocabulary(&from_folder);
        let Some((template, of_vocabulary)) = template.as_ref().zip(of_vocabulary.as_ref()) else {
            assert_eq!(template, of_vocabulary, "{name}");
            continue;
        };
        assert_eq!(template.name(), of_vocabulary.name(), "{name}");
        assert_eq!(template.stop_tokens(), of_vocabulary.stop_tokens(), "{name}");
        for prompt in [&hole(), &hole_in_repository(), &hostile()] {
            let tokens = template.layout(&from_gguf, prompt).unwrap();
            let bos = from_gguf.bos().into_iter().len();
            let same = of_vocabulary.layout(&from_folder, prompt).unwrap();
            assert_eq!(
                tokens[bos..],
                same[from_folder.bos().into_iter().len()..],
                "{name}"
            );
            let stops = template.stop_tokens();
            let n_own = tokens[bos..].iter().filter(|it| stops.contains(it)).count();
            assert_eq!(n_own, template.overhead(prompt), "{name}");
            let read = template.in_reading_order(&tokens).into_iter();
            let text: Vec<u32> = read.filter(|it| !stops.contains(it)).collect();
            let text = from_gguf.decode(&text);
            assert!(
                text.contains(&prompt.prefix) && text.contains(&prompt.suffix),
                "{name}: {text}"
            );
        }
        found.push_str(&format!("{name}: {}\n", template.name()));
    }
    expect![[r#"
        deepseek-coder: deepseek-coder
        refact: starcoder
        starcoder: starcoder2
    "#]]
    .assert_eq(&found);
}

/// As `engine/training/pack.py` cuts the examples.
#[test]
fn our_own_format_is_the_one_trained() {
    check(
        &surmise("spm"),
        &QWEN,
        &hole(),
        expect![[r#"
            surmise: <|fim_suffix|>
            }<|fim_prefix|>use a;
            fn f() {"#]],
    );
    check(
        &surmise("spm"),
        &QWEN,
        &hole_in_repository(),
        expect![[r#"
            surmise: <|repo_name|>demo
            <|file_sep|>a.rs
            use b;
            <|file_sep|>b.rs
            struct B;
            <|file_sep|>src/f.rs
            <|fim_suffix|>
            }<|fim_prefix|>use a;
            fn f() {"#]],
    );
    let with_path = FimPrompt {
        path: Some("f.rs".to_owned()),
        ..hole()
    };
    check(
        &surmise("spm"),
        &QWEN,
        &with_path,
        expect![[r#"
            surmise: <|file_sep|>f.rs
            <|fim_suffix|>
            }<|fim_prefix|>use a;
            fn f() {"#]],
    );
    let with_repository = FimPrompt {
        repository: Some("demo".to_owned()),
        ..with_path
    };
    check(
        &surmise("spm"),
        &QWEN,
        &with_repository,
        expect![[r#"
            surmise: <|repo_name|>demo
            <|file_sep|>f.rs
            <|fim_suffix|>
            }<|fim_prefix|>use a;
            fn f() {"#]],
    );
    let without_path = FimPrompt {
        path: None,
        ..hole_in_repository()
    };
    check(
        &surmise("spm"),
        &QWEN,
        &without_path,
        expect![[r#"
            surmise: <|repo_name|>demo
            <|file_sep|>a.rs
            use b;
            <|file_sep|>b.rs
            struct B;
            <|file_sep|>untitled
            <|fim_suffix|>
            }<|fim_prefix|>use a;
            fn f() {"#]],
    );
}

#[test]
fn empty_prefix_and_suffix() {
    check(
        &surmise("spm"),
        &QWEN,
        &FimPrompt::default(),
        expect!["surmise: <|fim_suffix|><|fim_prefix|>"],
    );
    check(
        &model(&CODESTRAL),
        &CODESTRAL,
        &FimPrompt::default(),
        expect!["codestral: [SUFFIX][PREFIX]"],
    );
}

#[test]
fn bos_comes_first_where_the_model_wants_it() {
    let file = model(&DEEPSEEK)
        .pair("tokenizer.ggml.bos_token_id", Value::U32(256))
        .pair("tokenizer.ggml.add_bos_token", Value::Bool(1));
    let (tokenizer, template) = template_of(&file);
    assert_eq!(template.layout(&tokenizer, &hole()).unwrap()[..2], [256, 257]);
}

#[test]
fn tokens_named_by_the_metadata() {
    let names = ["[end]", "[a]", "[b]", "[c]"];
    let file = model(&names)
        .pair("tokenizer.ggml.eos_token_id", Value::U32(256))
        .pair("tokenizer.ggml.fim_pre_token_id", Value::U32(257))
        .pair("tokenizer.ggml.fim_suf_token_id", Value::U32(258))
        .pair("tokenizer.ggml.fim_mid_token_id", Value::U32(259));
    check(
        &file,
        &names,
        &hole(),
        expect![[r#"
            generic: [a]use a;
            [b]
            }[c]fn f() {"#]],
    );
}

#[test]
fn mellum_puts_the_suffix_first() {
    let special: Vec<(&str, u32)> = STARCODER.iter().map(|&spelling| (spelling, CONTROL)).collect();
    let file = byte_level("mellum", &special).pair("tokenizer.ggml.merges", strings(&[]));
    check(
        &file,
        &STARCODER,
        &hole_in_repository(),
        expect![[r#"
            mellum: <reponame>demo
            <filename>a.rs
            use b;
            <filename>b.rs
            struct B;
            <filename>src/f.rs
            <fim_suffix>
            }<fim_prefix>use a;
            <fim_middle>fn f() {"#]],
    );
}

#[test]
fn no_template_without_the_tokens() {
    for file in [model(&["<|endoftext|>"]), model(&QWEN[..3]), surmise("psm")] {
        let gguf = open(&file.build()).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        assert_eq!(FimTemplate::from_gguf(&gguf, &tokenizer), None);
    }
}

#[test]
fn spellings_in_the_text_stay_text() {
    let prompt = hostile();
    for special in VOCABULARIES_WITH_TOKENS {
        let (tokenizer, template) = template_of(&model(special));
        let tokens = template.layout(&tokenizer, &prompt).unwrap();
        let n_control = tokens.iter().filter(|&&id| tokenizer.is_control(id)).count();
        assert_eq!(n_control, template.overhead(&prompt), "{}", template.name());
    }
}

#[test]
fn the_template_for_tests_fits_the_byte_tokenizer() {
    let tokenizer = Tokenizer::bytes();
    let tokens = FimTemplate::for_tests().layout(&tokenizer, &hole()).unwrap();
    expect!["[258, 10, 125, 257, 117, 115, 101, 32, 97, 59, 10, 102, 110, 32, 102, 40, 41, 32, 123]"]
        .assert_eq(&format!("{tokens:?}"));
    assert_eq!(
        FimTemplate::qwen(&tokenizer)
            .unwrap()
            .layout(&tokenizer, &hole())
            .unwrap()[0],
        257
    );
    assert_eq!(tokenizer.end_tokens(), [256]);
}
