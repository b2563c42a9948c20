//! What a file brings in from elsewhere, and where one more import would go.

use std::collections::HashMap;
use std::ops::Range;

use ropey::Rope;
use tree_sitter::Node;

use crate::query::{self, Capture, Purpose};
use crate::{Syntax, TextEdit, text};

/// Imports stand near the top of the tree: in an `#ifdef`, a `try` or a namespace at the deepest.
const MAX_DEPTH: u32 = 5;
/// And near the top of the file: further down, what is imported is imported for one function.
const HEAD_BYTES: usize = 16 * 1024;

/// One imported module. A statement that imports several gives several, with the same range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The whole statement, in bytes of the rope.
    pub range: Range<usize>,
    /// What is imported, as written but without quotes: a path, a file name or a module name.
    pub module: String,
}

/// The imports of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imports {
    /// By where they start.
    pub items: Vec<Import>,
    /// Start of the line (byte offset) where a new import belongs: after the first group of imports, else
    /// after what must come before imports (a `package` clause, `<?php`, a licence comment), else 0.
    ///
    /// At the end of a file whose last line has no `\n`, the caller adds one.
    pub insert_at: usize,
}

impl Imports {
    /// The byte at which what they follow from ends.
    pub(crate) fn read_to(&self) -> usize {
        let items = self.items.iter().map(|import| import.range.end);
        items.chain([HEAD_BYTES, self.insert_at]).max().unwrap_or(0)
    }

    /// What most likely becomes of them with an edit: with one that stays in a line, below where imports belong, and touches none.
    pub(crate) fn after(&self, edit: &TextEdit) -> Option<Self> {
        let items = self.items.iter().map(|import| {
            let is_apart = import.range.end < edit.start_byte || edit.old_end_byte < import.range.start;
            Some(Import {
                range: edit.moved(&import.range).filter(|_| is_apart)?,
                ..import.clone()
            })
        });
        let items = items.collect::<Option<_>>()?;
        (edit.start_byte > self.insert_at && edit.is_in_one_line()).then_some(Self {
            items,
            insert_at: self.insert_at,
        })
    }
}

/// The imports of the text, nested ones included, as far as they stand in its first 16 KiB. Visits the top levels of
/// the tree there, once for all that is changed further down.
pub fn imports(syntax: &Syntax, rope: &Rope) -> Imports {
    syntax.imports.get_or_init(|| find(syntax, rope)).clone()
}

/// The imports that end before the byte `before`, in order. Where somebody types in a line below them they are those of before:
/// nobody waits for a parse to learn that nothing is imported there.
pub fn imports_above(syntax: &Syntax, rope: &Rope, before: usize) -> Vec<Import> {
    let known = syntax.imports.get().or(syntax.old_imports.as_deref());
    let mut above = known.map_or_else(|| imports(syntax, rope).items, |it| it.items.clone());
    above.retain(|import| import.range.end <= before);
    above
}

pub(crate) fn find(syntax: &Syntax, rope: &Rope) -> Imports {
    let mut items = Vec::new();
    let mut nodes: HashMap<usize, Node<'_>> = HashMap::new();
    let mut header_end = 0;
    query::for_each_match(
        syntax,
        rope,
        Purpose::Imports,
        MAX_DEPTH,
        0..HEAD_BYTES,
        |_, captured| {
            if let Some(header) = query::first(captured, Capture::Header) {
                header_end = header_end.max(header.end_byte());
            }
            if let Some(import) = query::first(captured, Capture::Import) {
                let module = query::first(captured, Capture::Module).unwrap_or(import);
                items.push(Import {
                    range: text::snap_range(rope, import.byte_range()),
                    module: query::clean_name(&text::text(rope, module.byte_range())),
                });
                nodes.entry(import.start_byte()).or_insert(import);
            }
        },
    );
    items.sort_by_key(|import| (import.range.start, usize::MAX - import.range.end));
    // `local x = require "y"` is an import, and so is the call in it.
    items.dedup_by(|inner, outer| inner.module == outer.module && inner.range.end <= outer.range.end);
    let end = match nodes.values().min_by_key(|node| node.start_byte()) {
        Some(&first) => end_of_group(first, &nodes),
        None => header_end.max(end_of_opening_comment(syntax, rope)),
    };
    Imports {
        items,
        insert_at: if end == 0 { 0 } else { line_after(rope, end) },
    }
}

/// End of the last import that follows `first` with nothing but imports and comments between.
fn end_of_group(first: Node<'_>, imports: &HashMap<usize, Node<'_>>) -> usize {
    let mut end = first.end_byte();
    let mut next = first.next_sibling();
    while let Some(node) = next {
        if imports.contains_key(&node.start_byte()) {
            end = node.end_byte();
        } else if node.is_named() && !node.is_extra() {
            break;
        }
        next = node.next_sibling();
    }
    end
}

/// End of the comments a file begins with, if a blank line sets them apart from the code.
fn end_of_opening_comment(syntax: &Syntax, rope: &Rope) -> usize {
    let Some(tree) = syntax.tree() else { return 0 };
    let mut cursor = tree.walk();
    let (mut end, mut apart) = (0, 0);
    let mut more = cursor.goto_first_child();
    while more {
        let node = cursor.node();
        if end > 0 && text::text(rope, end..node.start_byte()).matches('\n').count() > 1 {
            apart = end;
        }
        if !node.is_extra() {
            return apart;
        }
        // Some comments end with their line break and some without it.
        end = text::snap(rope, node.end_byte());
        while end > node.start_byte() && text::text(rope, end - 1..end) == "\n" {
            end -= 1;
        }
        more = cursor.goto_next_sibling();
    }
    end
}

/// Start of the line after the one that holds the byte before `end`.
fn line_after(rope: &Rope, end: usize) -> usize {
    text::next_line(rope, end.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::{Expect, expect};

    use super::*;
    use crate::{Language, TextEdit};

    /// The modules, then the text with `ˇ` where a new import would go.
    fn check(language: Language, code: &str, expected: Expect) {
        let rope = Rope::from_str(code);
        let imports = imports(&Syntax::parse(language, &rope), &rope);
        let modules: Vec<_> = imports
            .items
            .iter()
            .map(|import| import.module.as_str())
            .collect();
        let mut marked = code.to_owned();
        marked.insert(imports.insert_at, 'ˇ');
        expected.assert_eq(&format!("{modules:?}\n{marked}"));
    }

    #[test]
    fn imports_follow_edits_where_they_stand_and_outlive_those_further_down() {
        let filler = "fn f() {}\n".repeat(HEAD_BYTES / 10 + 1);
        let mut rope = Rope::from_str(&format!("use std::fs;\n\n{filler}"));
        let mut syntax = Syntax::parse(Language::Rust, &rope);
        let mut edited = |at: usize, text: &str| {
            let edit = TextEdit::apply(&mut rope, at..at, text);
            syntax.edit(&edit, &rope);
            let found = imports(&syntax, &rope);
            assert_eq!(found, imports(&Syntax::parse(Language::Rust, &rope), &rope));
            (found.items.len(), Arc::clone(&syntax.imports))
        };
        let (first, known) = edited(HEAD_BYTES, "// ");
        let (below, still_known) = edited(HEAD_BYTES + 20, "use not::looked::at;\n");
        assert!(Arc::ptr_eq(&known, &still_known));
        let (above, _) = edited(0, "use std::io;\n");
        assert_eq!((first, below, above), (1, 1, 2));
        // Asked only after the next edit, a snapshot knows its own.
        let (old_syntax, old_rope) = (syntax.clone(), rope.clone());
        let edit = TextEdit::apply(&mut rope, 0..13, "");
        syntax.edit(&edit, &rope);
        assert_eq!(imports(&old_syntax, &old_rope).items.len(), 2);
        assert_eq!(imports(&syntax, &rope).items.len(), 1);
    }

    #[test]
    fn imports_above_do_not_wait_for_a_parse_while_a_line_is_typed() {
        let code = "use std::fs;\nuse std::io;\n\nfn f() {\n    g\n    use h::h;\n}\n";
        let mut rope = Rope::from_str(code);
        let mut syntax = Syntax::parse(Language::Rust, &rope);
        imports(&syntax, &rope);
        let mut edited = |range: Range<usize>, inserted: &str| {
            let edit = TextEdit::apply(&mut rope, range, inserted);
            syntax.edit(&edit, &rope);
            let above = imports_above(&syntax, &rope, 1000).into_iter();
            let texts = above.map(|it| text::text(&rope, it.range).into_owned());
            (texts.collect::<Vec<_>>(), syntax.imports.get().is_some())
        };
        let all = ["use std::fs;", "use std::io;", "use h::h;"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(edited(41..41, "(1"), (all.clone(), false));
        assert_eq!(edited(43..43, ")"), (all.clone(), false));
        // A line more may import something.
        assert_eq!(edited(44..44, ";\n"), (all, true));
        assert_eq!(edited(0..0, "use std::env;\n").0.len(), 4);
        assert_eq!(
            edited(14..27, "").0,
            ["use std::env;", "use std::io;", "use h::h;"]
        );
        assert_eq!(edited(25..25, "::fmt").0[1], "use std::io::fmt;");
        assert_eq!(imports_above(&syntax, &rope, 20).len(), 1);
    }

    #[test]
    fn a_new_import_goes_after_the_first_group() {
        check(
            Language::Rust,
            "//! Doc.\n\nuse std::fs;\n// Why.\nuse a::{b, c};\n\nfn f() {\n    use inner::X;\n}\n",
            expect![[r#"
                ["std::fs", "a::{b, c}", "inner::X"]
                //! Doc.

                use std::fs;
                // Why.
                use a::{b, c};
                ˇ
                fn f() {
                    use inner::X;
                }
            "#]],
        );
        check(
            Language::Python,
            "\"\"\"Doc.\"\"\"\nimport os, sys\nfrom . import a\n\nx = 1\nimport late\n",
            expect![[r#"
                ["os", "sys", ".", "late"]
                """Doc."""
                import os, sys
                from . import a
                ˇ
                x = 1
                import late
            "#]],
        );
        check(
            Language::C,
            "#ifndef A_H\n#define A_H\n#include <stdio.h>\n#include \"a.h\"\n\nint f(void);\n#endif\n",
            expect![[r#"
                ["<stdio.h>", "a.h"]
                #ifndef A_H
                #define A_H
                #include <stdio.h>
                #include "a.h"
                ˇ
                int f(void);
                #endif
            "#]],
        );
        check(
            Language::Go,
            "package main\n\nimport (\n\t\"fmt\"\n\t\"os\"\n)\n\nfunc main() {}\n",
            expect![[r#"
                ["fmt", "os"]
                package main

                import (
                	"fmt"
                	"os"
                )
                ˇ
                func main() {}
            "#]],
        );
        check(
            Language::Lua,
            "local a = require(\"a\")\nlocal b = require 'b'\nprint(a)\n",
            expect![[r#"
                ["a", "b"]
                local a = require("a")
                local b = require 'b'
                ˇprint(a)
            "#]],
        );
    }

    #[test]
    fn without_imports_it_goes_after_what_must_come_first() {
        check(
            Language::Go,
            "package main\n\nfunc main() {}\n",
            expect![[r#"
                []
                package main
                ˇ
                func main() {}
            "#]],
        );
        check(
            Language::Php,
            "<?php\nnamespace A;\n\nclass B {}\n",
            expect![[r#"
                []
                <?php
                namespace A;
                ˇ
                class B {}
            "#]],
        );
        check(
            Language::Rust,
            "// Licence.\n\n// About f.\nfn f() {}\n",
            expect![[r#"
                []
                // Licence.
                ˇ
                // About f.
                fn f() {}
            "#]],
        );
        check(
            Language::Rust,
            "// About f.\nfn f() {}\n",
            expect![[r#"
                []
                ˇ// About f.
                fn f() {}
            "#]],
        );
        check(
            Language::Bash,
            "#!/bin/sh\necho a\n",
            expect![[r#"
                []
                #!/bin/sh
                ˇecho a
            "#]],
        );
        check(
            Language::PlainText,
            "hello",
            expect![[r#"
                []
                ˇhello"#]],
        );
        check(
            Language::Python,
            "",
            expect![[r#"
                []
                ˇ"#]],
        );
    }
}
