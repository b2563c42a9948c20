//! The languages we know, one table row each: how a file is recognised, how it is parsed, how it comments.

use std::path::Path;
use std::sync::OnceLock;

use tree_sitter_language::LanguageFn;

/// A language a text can be parsed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each variant is the language it is named after")]
pub enum Language {
    Rust,
    Python,
    JavaScript,
    TypeScript,
    Tsx,
    Go,
    C,
    Cpp,
    Java,
    CSharp,
    Ruby,
    Php,
    Lua,
    Bash,
    Html,
    Css,
    Json,
    Yaml,
    Toml,
    Markdown,
    Sql,
    /// Everything else: text without a tree, which still has lines, indentation and brackets.
    PlainText,
}

/// What we know about one language. Names are compared without regard to case.
struct Row {
    language: Language,
    name: &'static str,
    grammar: Option<LanguageFn>,
    /// LSP `languageId`s, Neovim file types and Zed language names.
    editor_ids: &'static [&'static str],
    extensions: &'static [&'static str],
    file_names: &'static [&'static str],
    /// Interpreters in a first line `#!/usr/bin/env interpreter`, without version numbers.
    interpreters: &'static [&'static str],
    line_comment: Option<&'static str>,
    block_comment: Option<(&'static str, &'static str)>,
}

const SLASHES: Option<&str> = Some("//");
const HASH: Option<&str> = Some("#");
const SLASH_STAR: Option<(&str, &str)> = Some(("/*", "*/"));
const XML: Option<(&str, &str)> = Some(("<!--", "-->"));

/// In the order of the variants of [`Language`], so that a language indexes its row.
#[rustfmt::skip]
static ROWS: [Row; 22] = [
    Row {
        language: Language::Rust, name: "rust", grammar: Some(tree_sitter_rust::LANGUAGE),
        editor_ids: &["rust"], extensions: &["rs"], file_names: &[], interpreters: &["rust-script"],
        line_comment: SLASHES, block_comment: SLASH_STAR,
    },
    Row {
        language: Language::Python, name: "python", grammar: Some(tree_sitter_python::LANGUAGE),
        editor_ids: &["python"], extensions: &["py", "pyi", "pyw", "bzl"],
        file_names: &["SConstruct", "SConscript", "wscript", "BUILD", "BUILD.bazel", "WORKSPACE"],
        interpreters: &["python", "pypy", "uv"],
        line_comment: HASH, block_comment: None,
    },
    Row {
        language: Language::JavaScript, name: "javascript", grammar: Some(tree_sitter_javascript::LANGUAGE),
        editor_ids: &["javascript", "javascriptreact", "js", "jsx"], extensions: &["js", "jsx", "mjs", "cjs"],
        file_names: &["Jakefile"], interpreters: &["node", "nodejs", "bun"],
        line_comment: SLASHES, block_comment: SLASH_STAR,
    },
    Row {
        language: Language::TypeScript, name: "typescript",
        grammar: Some(tree_sitter_typescript::LANGUAGE_TYPESCRIPT),
        editor_ids: &["typescript", "ts"], extensions: &["ts", "mts", "cts"], file_names: &[],
        interpreters: &["deno", "ts-node", "tsx"],
        line_comment: SLASHES, block_comment: SLASH_STAR,
    },
    Row {
        language: Language::Tsx, name: "tsx", grammar: Some(tree_sitter_typescript::LANGUAGE_TSX),
        editor_ids: &["typescriptreact", "tsx"], extensions: &["tsx"], file_names: &[], interpreters: &[],
        line_comment: SLASHES, block_comment: SLASH_STAR,
    },
    Row {
        language: Language::Go, name: "go", grammar: Some(tree_sitter_go::LANGUAGE),
        editor_ids: &["go", "golang"], extensions: &["go"], file_names: &[], interpreters: &[],
        line_comment: SLASHES, block_comment: SLASH_STAR,
    },
    Row {
        language: Language::C, name: "c", grammar: Some(tree_sitter_c::LANGUAGE),
        editor_ids: &["c"], extensions: &["c", "h"], file_names: &[], interpreters: &["tcc"],
        line_comment: SLASHES, block_comment: SLASH_STAR,
    },
    Row {
        language: Language::Cpp, name: "cpp", grammar: Some(tree_sitter_cpp::LANGUAGE),
        editor_ids: &["cpp", "c++", "cuda", "cuda-cpp", "arduino"],
        extensions: &[
            "cc", "cpp", "cxx", "c++", "hh", "hpp", "hxx", "h++", "ipp", "inl", "tpp", "cu", "cuh", "ino",
        ],
        file_names: &[], interpreters: &[],
        line_comment: SLASHES, block_comment: SLASH_STAR,
    },
    Row {
        language: Language::Java, name: "java", grammar: Some(tree_sitter_java::LANGUAGE),
        editor_ids: &["java"], extensions: &["java"], file_names: &[], interpreters: &["java"],
        line_comment: SLASHES, block_comment: SLASH_STAR,
    },
    Row {
        language: Language::CSharp, name: "csharp", grammar: Some(tree_sitter_c_sharp::LANGUAGE),
        editor_ids: &["csharp", "c#", "cs", "c_sharp"], extensions: &["cs", "csx"], file_names: &[],
        interpreters: &["dotnet-script"],
        line_comment: SLASHES, block_comment: SLASH_STAR,
    },
    Row {
        language: Language::Ruby, name: "ruby", grammar: Some(tree_sitter_ruby::LANGUAGE),
        editor_ids: &["ruby"], extensions: &["rb", "rake", "gemspec", "ru", "podspec"],
        file_names: &["Rakefile", "Gemfile", "Podfile", "Vagrantfile", "Brewfile", "Fastfile", "Guardfile"],
        interpreters: &["ruby", "jruby"],
        line_comment: HASH, block_comment: Some(("=begin", "=end")),
    },
    Row {
        language: Language::Php, name: "php", grammar: Some(tree_sitter_php::LANGUAGE_PHP),
        editor_ids: &["php"], extensions: &["php", "phtml", "php5", "phps"], file_names: &[],
        interpreters: &["php"],
        line_comment: SLASHES, block_comment: SLASH_STAR,
    },
    Row {
        language: Language::Lua, name: "lua", grammar: Some(tree_sitter_lua::LANGUAGE),
        editor_ids: &["lua", "luau"], extensions: &["lua", "rockspec"], file_names: &[".luacheckrc"],
        interpreters: &["lua", "luajit", "texlua"],
        line_comment: Some("--"), block_comment: Some(("--[[", "]]")),
    },
    Row {
        language: Language::Bash, name: "bash", grammar: Some(tree_sitter_bash::LANGUAGE),
        editor_ids: &["shellscript", "bash", "sh", "zsh", "ksh", "shell script", "shell"],
        extensions: &["sh", "bash", "zsh", "ksh", "bats", "ebuild"],
        file_names: &[
            ".bashrc", ".bash_profile", ".bash_aliases", ".bash_logout", ".profile", ".zshrc", ".zshenv",
            ".zprofile", "PKGBUILD", "APKBUILD",
        ],
        interpreters: &["sh", "bash", "dash", "zsh", "ksh", "ash"],
        line_comment: HASH, block_comment: None,
    },
    Row {
        language: Language::Html, name: "html", grammar: Some(tree_sitter_html::LANGUAGE),
        editor_ids: &["html"], extensions: &["html", "htm", "xhtml"], file_names: &[], interpreters: &[],
        line_comment: None, block_comment: XML,
    },
    Row {
        language: Language::Css, name: "css", grammar: Some(tree_sitter_css::LANGUAGE),
        editor_ids: &["css"], extensions: &["css"], file_names: &[], interpreters: &[],
        line_comment: None, block_comment: SLASH_STAR,
    },
    Row {
        language: Language::Json, name: "json", grammar: Some(tree_sitter_json::LANGUAGE),
        editor_ids: &["json", "jsonc", "json5"],
        extensions: &["json", "jsonc", "json5", "geojson", "webmanifest", "ipynb"],
        file_names: &[".prettierrc", ".babelrc", ".eslintrc", "flake.lock", "composer.lock"],
        interpreters: &[],
        line_comment: None, block_comment: None,
    },
    Row {
        language: Language::Yaml, name: "yaml", grammar: Some(tree_sitter_yaml::LANGUAGE),
        editor_ids: &["yaml", "yml", "dockercompose", "github-actions-workflow"], extensions: &["yaml", "yml"],
        file_names: &[".clang-format", ".clang-tidy", "CITATION.cff"], interpreters: &[],
        line_comment: HASH, block_comment: None,
    },
    Row {
        language: Language::Toml, name: "toml", grammar: Some(tree_sitter_toml_ng::LANGUAGE),
        editor_ids: &["toml"], extensions: &["toml"],
        file_names: &["Cargo.lock", "Pipfile", "poetry.lock", "uv.lock"], interpreters: &[],
        line_comment: HASH, block_comment: None,
    },
    Row {
        language: Language::Markdown, name: "markdown", grammar: Some(tree_sitter_md::LANGUAGE),
        editor_ids: &["markdown", "md", "mdx"], extensions: &["md", "markdown", "mkd", "mdown"], file_names: &[],
        interpreters: &[],
        line_comment: None, block_comment: XML,
    },
    Row {
        language: Language::Sql, name: "sql", grammar: Some(tree_sitter_sequel::LANGUAGE),
        editor_ids: &["sql", "mysql", "postgres", "postgresql", "plsql", "sqlite"],
        extensions: &["sql", "psql", "pgsql", "ddl"], file_names: &[], interpreters: &[],
        line_comment: Some("--"), block_comment: SLASH_STAR,
    },
    Row {
        language: Language::PlainText, name: "plaintext", grammar: None,
        editor_ids: &["plaintext", "plain text", "text", "txt"], extensions: &["txt", "text", "log"],
        file_names: &[], interpreters: &[],
        line_comment: None, block_comment: None,
    },
];

impl Language {
    /// The language of a document: by the editor's id if it names a language we know, else by path, else by
    /// a `#!` line, else plain text.
    ///
    /// An editor that says "plain text" usually means "I do not know", so that answer yields to the others.
    pub fn detect(path: Option<&Path>, editor_id: Option<&str>, first_line: &str) -> Language {
        editor_id
            .and_then(Language::from_editor_id)
            .filter(|&language| language != Language::PlainText)
            .or_else(|| path.and_then(Language::from_path))
            .or_else(|| Language::from_shebang(first_line))
            .unwrap_or(Language::PlainText)
    }

    /// By LSP `languageId`, Neovim file type (the part before a `.`) or Zed language name, in any case.
    pub fn from_editor_id(id: &str) -> Option<Language> {
        let id = id.trim();
        let first = id.split('.').next().unwrap_or(id);
        find(|row| contains(row.editor_ids, id)).or_else(|| find(|row| contains(row.editor_ids, first)))
    }

    /// By file name first (`Gemfile`), then by extension, both in any case.
    pub fn from_path(path: &Path) -> Option<Language> {
        let name = path.file_name()?.to_str()?;
        let extension = path
            .extension()
            .and_then(|extension| extension.to_str())
            .unwrap_or("");
        find(|row| contains(row.file_names, name)).or_else(|| find(|row| contains(row.extensions, extension)))
    }

    /// By the interpreter in a line such as `#!/usr/bin/env -S python3 -u`.
    pub fn from_shebang(first_line: &str) -> Option<Language> {
        let mut words = first_line
            .trim_start_matches('\u{feff}')
            .strip_prefix("#!")?
            .split_whitespace();
        let mut program = words.next()?.rsplit('/').next()?;
        if program == "env" {
            // Options and assignments come before the program's name.
            program = words
                .find(|word| !word.starts_with('-') && !word.contains('='))?
                .rsplit('/')
                .next()?;
        }
        let bare = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
        find(|row| contains(row.interpreters, program) || contains(row.interpreters, bare))
    }

    /// Lower-case name, for logs and prompts; also the folder of its queries.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// What begins a comment that ends with the line.
    pub fn line_comment(self) -> Option<&'static str> {
        self.row().line_comment
    }

    /// What begins and ends a comment that may span lines.
    pub fn block_comment(self) -> Option<(&'static str, &'static str)> {
        self.row().block_comment
    }

    /// Every language, plain text last.
    pub fn all() -> &'static [Language] {
        static ALL: OnceLock<Vec<Language>> = OnceLock::new();
        ALL.get_or_init(|| ROWS.iter().map(|row| row.language).collect())
    }

    /// The tree-sitter grammar; none for plain text.
    pub(crate) fn grammar(self) -> Option<&'static tree_sitter::Language> {
        static GRAMMARS: [OnceLock<Option<tree_sitter::Language>>; ROWS.len()] =
            [const { OnceLock::new() }; ROWS.len()];
        GRAMMARS[self as usize]
            .get_or_init(|| self.row().grammar.map(tree_sitter::Language::new))
            .as_ref()
    }

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }
}

fn find(matches: impl Fn(&Row) -> bool) -> Option<Language> {
    ROWS.iter().find(|row| matches(row)).map(|row| row.language)
}

fn contains(names: &[&str], name: &str) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_variants() {
        for (idx, row) in ROWS.iter().enumerate() {
            assert_eq!(row.language as usize, idx, "{}", row.name);
        }
    }

    #[test]
    fn every_grammar_has_an_abi_we_can_read() {
        for language in Language::all() {
            if let Some(grammar) = language.grammar() {
                let known = tree_sitter::Parser::new().set_language(grammar);
                assert!(known.is_ok(), "{}: {known:?}", language.name());
            }
        }
    }

    #[test]
    fn no_name_is_claimed_twice() {
        for names in [
            |row: &Row| row.editor_ids,
            |row: &Row| row.extensions,
            |row: &Row| row.file_names,
        ] {
            let mut all: Vec<_> = ROWS
                .iter()
                .flat_map(names)
                .map(|name| name.to_lowercase())
                .collect();
            all.sort();
            let n_all = all.len();
            all.dedup();
            assert_eq!(all.len(), n_all, "{all:?}");
        }
    }

    #[test]
    fn editors_spell_languages_in_many_ways() {
        let cases = [
            ("rust", Language::Rust),
            ("Rust", Language::Rust),
            ("typescriptreact", Language::Tsx),
            ("TSX", Language::Tsx),
            ("javascript.jsx", Language::JavaScript),
            ("C++", Language::Cpp),
            ("c#", Language::CSharp),
            ("cs", Language::CSharp),
            ("Shell Script", Language::Bash),
            ("sh", Language::Bash),
            ("jsonc", Language::Json),
            ("yaml.ansible", Language::Yaml),
            ("Plain Text", Language::PlainText),
        ];
        for (id, language) in cases {
            assert_eq!(Language::from_editor_id(id), Some(language), "{id}");
        }
        assert_eq!(Language::from_editor_id("brainfuck"), None);
    }

    #[test]
    fn paths_are_known_by_name_then_extension() {
        let cases = [
            ("src/main.rs", Some(Language::Rust)),
            ("a/b.TSX", Some(Language::Tsx)),
            ("Gemfile", Some(Language::Ruby)),
            ("/home/me/.bashrc", Some(Language::Bash)),
            ("Cargo.lock", Some(Language::Toml)),
            ("kernel.cu", Some(Language::Cpp)),
            ("notes.txt", Some(Language::PlainText)),
            ("Makefile", None),
            ("picture.svg", None),
        ];
        for (path, language) in cases {
            assert_eq!(Language::from_path(Path::new(path)), language, "{path}");
        }
    }

    #[test]
    fn shebangs_name_the_interpreter() {
        let cases = [
            ("#!/bin/sh", Some(Language::Bash)),
            ("#!/usr/bin/env python3.12", Some(Language::Python)),
            (
                "#! /usr/bin/env -S FOO=1 node --harmony\r\n",
                Some(Language::JavaScript),
            ),
            ("#!/usr/local/bin/lua5.4", Some(Language::Lua)),
            ("#!/usr/bin/env", None),
            ("#![allow(dead_code)]", None),
            ("", None),
        ];
        for (line, language) in cases {
            assert_eq!(Language::from_shebang(line), language, "{line}");
        }
    }

    #[test]
    fn detection_asks_the_editor_then_the_path_then_the_text() {
        let path = Some(Path::new("a.py"));
        assert_eq!(Language::detect(path, Some("rust"), ""), Language::Rust);
        assert_eq!(Language::detect(path, Some("unheard-of"), ""), Language::Python);
        assert_eq!(Language::detect(path, Some("plaintext"), ""), Language::Python);
        assert_eq!(
            Language::detect(Some(Path::new("run")), None, "#!/bin/bash"),
            Language::Bash
        );
        assert_eq!(Language::detect(None, None, "hello"), Language::PlainText);
    }
}
