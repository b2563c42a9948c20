"""The whole recipe at toy size: filters, tokenizer, windows, a few training steps, evaluation, export.

Run in this folder with `python -m unittest`. Without PyTorch, `tokenizers` and `gguf` only the filters are tested.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock
from pathlib import Path

import bundle
import corpus
import licences

HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "tokenizers", "gguf", "numpy"))


def torch_load(path: Path) -> dict:
    import torch

    return torch.load(path, map_location="cpu")


def python_file(idx: int) -> str:
    """A file that looks written by a person and repeats nothing of another."""
    rng = random.Random(idx)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(40)]
    functions = [f"def {a}({b}, {c}):\n    {c} = {b}.{a}({c})\n    return {c} + {b}\n" for a, b, c in zip(words, words[1:], words[2:])]
    return "\n\n".join(functions)


def write_package(raw: Path, name: str, licence: str, files: list[str]) -> None:
    root = raw / "pip" / name
    info = root / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {name}\nLicense-Expression: {licence}\n\nText")
    for idx, text in enumerate(files):
        (root / f"module_{idx}.py").write_text(text)


class Filters(unittest.TestCase):
    def test_licences(self) -> None:
        for expression in ("MIT", "MIT OR Apache-2.0", "MIT/Apache-2.0", "(MIT OR GPL-3.0) AND BSD-3-Clause", "Apache-2.0 WITH LLVM-exception"):
            self.assertTrue(licences.is_permissive(expression), expression)
        for expression in ("", "GPL-3.0", "MPL-2.0", "MIT AND LGPL-2.1", "Proprietary", "(MIT OR Zlib) AND GPL-2.0", "Expat or GPL-3, and LGPL-2"):
            self.assertFalse(licences.is_permissive(expression), expression)

    def test_licences_of_packages(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            def package(name: str, file: str, text: str) -> Path:
                path = Path(folder) / name / file
                path.parent.mkdir(parents=True)
                path.write_text(text)
                return Path(folder) / name

            crate = package("crate", "Cargo.toml", '[package]\nname = "crate"\nlicense = "MIT OR Apache-2.0"\n')
            self.assertEqual(licences.of_package("cargo", crate), ("MIT OR Apache-2.0", None))
            unstated = package("unstated", "Cargo.toml", '[package]\nname = "unstated"\nlicense-file = "LICENCE"\n')
            self.assertEqual(licences.of_package("cargo", unstated), ("", None))
            script = package("script", "package/package.json", '{"name": "script", "license": "ISC"}')
            self.assertEqual(licences.of_package("npm", script), ("ISC", None))
            several = package("several", "package/package.json", '{"license": {"type": "GPL-3.0"}}')
            self.assertEqual(licences.of_package("npm", several), ("", None))
            wheel = package("wheel", "wheel-1.dist-info/METADATA", "Name: wheel\nClassifier: License :: OSI Approved :: MIT License\n\nText")
            self.assertEqual(licences.of_package("pip", wheel), ("MIT License", None))
            source = package("source", "debian/copyright", "Format: 1.0\n\nFiles: *\nCopyright: A\nLicense: Expat\n Text.\n\n"
                             "Files: extras/* tools/build.c\nCopyright: B\nLicense: GPL-2+\n")
            licence, of_file = licences.of_package("apt", source)
            self.assertEqual(licence, "Expat")
            self.assertEqual([of_file(path) for path in ("main.c", "extras/more.c", "tools/build.c", "tools/run.c")],
                             ["Expat", "GPL-2+", "GPL-2+", "Expat"])

    def test_text_problems(self) -> None:
        text = python_file(0)
        self.assertIsNone(corpus.text_problem(text))
        self.assertEqual(corpus.text_problem("// @generated\n" + text), "generated")
        self.assertEqual(corpus.text_problem("# GNU General Public License\n" + text), "licence in text")
        self.assertEqual(corpus.text_problem(text + "x" * 500), "long lines")
        self.assertEqual(corpus.text_problem("1234567890\n" * 40), "digits")

    def test_repeats(self) -> None:
        seen = corpus.SeenText()
        text = python_file(1)
        self.assertFalse(seen.is_repeat(text))
        self.assertTrue(seen.is_repeat(text))
        self.assertTrue(seen.is_repeat("import os\n" + text))
        self.assertFalse(seen.is_repeat(python_file(2)))


@unittest.skipUnless(HAS_TORCH, "needs torch, tokenizers, gguf and numpy")
class Recipe(unittest.TestCase):
    def test_every_step(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.check(Path(folder))

    def check(self, folder: Path) -> None:
        def run(script: str, *arguments: object) -> str:
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                importlib.import_module(script).main([str(argument) for argument in arguments])
            return output.getvalue()

        raw, built = folder / "raw", folder / "corpus"
        write_package(raw, "trained", "MIT", [python_file(idx) for idx in range(24)])
        write_package(raw, "kept_out", "BSD-3-Clause", [python_file(idx) for idx in range(100, 104)])
        write_package(raw, "tuned_on", "MIT", [python_file(idx) for idx in range(300, 302)])
        write_package(raw, "copyleft", "GPL-3.0-only", [python_file(200)])
        source = raw / "apt" / "source" / "source-1.0"
        (source / "debian").mkdir(parents=True)
        (source / "code.py").write_text(python_file(400))
        (source / "debian" / "rules.py").write_text(python_file(401))
        (source / "tools.py").write_text(python_file(402))
        (raw / "apt" / "source" / "debian").mkdir()
        (raw / "apt" / "source" / "debian" / "test.py").write_text(python_file(403))
        (raw / "apt" / "source" / "debian" / "copyright").write_text(
            "Files: *\nLicense: Expat\n\nFiles: debian/* tools.py\nLicense: GPL-2+\n")
        listing = {"pip": {"packages": [], "held_out": ["kept_out"], "tuning": ["tuned_on"]}}
        with contextlib.redirect_stdout(io.StringIO()):
            corpus.build(raw, built, listing, seed=0)
        manifest = json.loads((built / "manifest.json").read_text())
        self.assertEqual(manifest["files"], {"train": {"python": 25}, "held_out": {"python": 4}, "tuning": {"python": 2}})
        self.assertNotIn("copyleft", (built / "NOTICE").read_text())

        write_package(raw, "newcomer", "MIT", [python_file(500)])
        for cap, n_files in ((0.001, 1), (1.0, 26)):
            with contextlib.redirect_stdout(io.StringIO()), unittest.mock.patch.dict(corpus.LANGUAGE_CAP_MB, python=cap):
                corpus.build(raw, folder / "unseen", listing, seed=0, known=built / "train.jsonl")
            unseen = [record["package"] for record in corpus.records_of(folder / "unseen" / "train.jsonl")]
            self.assertEqual((len(unseen), unseen.count("newcomer")), (n_files, 1))

        vocabulary = folder / "tokenizer.json"
        run("tokenizer", built / "train.jsonl", vocabulary, "--vocab-size", 512)
        run("bundle", built, vocabulary, folder / "bundle", "--parts", 2)
        self.assertEqual(len(list((folder / "bundle").glob("train-*.jsonl.xz"))), 2)
        self.check_late_part(sorted((folder / "bundle").glob("train-*.jsonl.xz"), key=lambda part: part.stat().st_size), vocabulary, folder / "late")
        out = folder / "out"
        command = ["gpu_run", folder / "bundle", out, "--preset", "toy", "--no-compile", "--workers", 1, "--minutes", 10,
                   "--max-steps", 30, "--draft-seconds", 2, "--draft-vocab-size", 128, "--places", 5]
        run(*command)
        self.assertIn("training: already there", run(*command))
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        self.assertLess(log[-1]["held_out"], math.log(512))

        self.assertRegex((out / "report.md").read_text(), r"\| python \| \d\.\d+ \| \d\.\d+ \| \d / 5 \| \d / 1 \|")

        import gguf

        reader = gguf.GGUFReader(out / "surmise.gguf")
        self.assertEqual(reader.get_field("general.architecture").contents(), "qwen3")
        self.assertEqual(reader.get_field("surmise.fim.order").contents(), "spm")
        self.assertEqual(len(reader.get_field("tokenizer.ggml.tokens").contents()), 512)
        self.assertEqual(len(reader.tensors), 2 + 11 * 4)
        run("tokenizer", out / "surmise.gguf", folder / "restored.json")
        self.assertEqual(json.loads((folder / "restored.json").read_text()), json.loads(vocabulary.read_text()))
        again = folder / "again"
        run(*command[:2], again, *command[3:], "--continue-from", out / "surmise.gguf", "--lr-scale", 0.1, "--decay-from", 0)
        continued = [json.loads(line) for line in (again / "log.jsonl").read_text().splitlines()]
        self.assertEqual(continued[0]["tokens"], log[-1]["tokens"])
        self.assertLess(continued[1]["loss"], math.log(512))
        begun, trained, mean = (torch_load(again / f"{name}.pt")["weights"]["norm.weight"] for name in ("begun", "final", "mean"))
        self.assertTrue(mean.allclose(begun + 0.9 * (trained - begun)))
        self.assertFalse(mean.equal(trained))
        head = gguf.GGUFReader(out / "surmise-eagle3.gguf")
        self.assertEqual(list(head.get_field("eagle3.target_layers").contents()), [2, 2, 1])
        self.assertEqual(len(head.tensors), 14)
        self.check_cut([*command[:2], folder / "cut", *command[3:]], folder / "cut")

    def check_late_part(self, parts: list[Path], vocabulary: Path, corpus: Path) -> None:
        """A part that arrives while another is read has its turn before that is over."""
        import pack
        import train
        from tokenizers import Tokenizer

        small, large = parts
        names = re.findall(r"def (\w+)", next(pack.records_of(small))["text"])
        corpus.mkdir()
        shutil.copy(large, corpus / "train-0.jsonl.xz")
        with unittest.mock.patch.object(pack, "RECORDS_AT_ONCE", 1):
            stream = pack.endless(corpus, vocabulary, 256, train.PRESETS["toy"].mix, 0, (0, 1))
            next(stream)
            shutil.copy(small, corpus / "train-1.jsonl.xz")
            tokenizer = Tokenizer.from_file(str(vocabulary))
            texts = [tokenizer.decode(next(stream).tokens, skip_special_tokens=False) for _ in range(20)]
        self.assertTrue(any(name in text for text in texts for name in names))

    def check_cut(self, command: list, out: Path) -> None:
        """The same command goes on with a run that was killed, from its last checkpoint and with the time that was left."""
        script, *arguments = map(str, command)
        process = [sys.executable, f"{script}.py", *arguments, "--save-seconds", "0"]
        here, checkpoint = Path(__file__).parent, out / "checkpoint.pt"
        # With all its workers, as by a machine that is taken away.
        cut = subprocess.Popen(process, cwd=here, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            deadline = time.time() + 60
            while not checkpoint.exists():
                self.assertIsNone(cut.poll())
                self.assertLess(time.time(), deadline)
                time.sleep(0.02)
        finally:
            os.killpg(cut.pid, signal.SIGKILL)
            cut.wait()
        saved = torch_load(checkpoint)
        self.assertGreater(saved["seconds"], 0.0)
        self.assertFalse((out / "final.pt").exists())
        subprocess.run(process, cwd=here, stdout=subprocess.DEVNULL, timeout=120, check=True)
        final = torch_load(out / "final.pt")
        self.assertGreater(final["tokens_seen"], saved["tokens_seen"])
        self.assertGreater(final["seconds"], saved["seconds"])
        starts = [line["tokens"] for line in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if line.get("event") == "start"]
        self.assertEqual(starts, [0, saved["tokens_seen"]])
        self.assertTrue((out / "report.md").exists())


class Edits(unittest.TestCase):
    TEXT = "def area(width, height):\n    # Of a rectangle.\n    return width * height\n\n\nprint(area(2, 3), 'done')"

    def check(self, maker, wanted: str, seeds: range = range(200)) -> None:
        """Some seed gives this edit."""
        found = [maker(self.TEXT, "python", random.Random(seed)) for seed in seeds]
        self.assertIn(wanted, [edit.after for edit in found if edit is not None])

    def test_edits(self) -> None:
        import edits

        self.check(edits.swap_arguments, self.TEXT.replace("width, height", "height, width").replace("2, 3", "3, 2"))
        self.check(edits.change_quotes, self.TEXT.replace("'", '"'))
        self.check(edits.remove_comments, self.TEXT.replace("    # Of a rectangle.\n", ""))
        self.check(edits.add_parameter, self.TEXT.replace("width, height", "width, height, verbose").replace("2, 3", "2, 3, verbose"), range(2000))
        self.check(edits.handle_errors, "def area(width, height):\n    try:\n        # Of a rectangle.\n        return width * height\n    except Exception as error:\n"
                   '        raise RuntimeError("area failed") from error')
        lines = "    b = 1\n    a = 2\n    c = 3"
        edit = edits.sort_lines("def f():\n" + lines + "\n\n", "python", random.Random(1))
        self.assertEqual(edit.after, "    a = 2\n    b = 1\n    c = 3")

    def test_quotes_mean_the_same(self) -> None:
        import edits

        for language, before, after in (
            ("php", "f($a, \"b\");", "f($a, 'b');"),
            ("php", "f(\"$a\");", None),
            ("ruby", "f(\"a #{b}\")", None),
            ("python", "f(\"a\", \"it's\", \"b\")  # don't", "f('a', \"it's\", 'b')  # don't"),
            ("python", "\"\"\"It's.\"\"\"\nf(\"a\")", "\"\"\"It's.\"\"\"\nf('a')"),
            ("rust", "f(\"a\")", None),
        ):
            found = [edits.change_quotes(before, language, random.Random(seed)) for seed in range(20)]
            self.assertIn(after, [edit and edit.after for edit in found])

    def test_rename_means_the_variable(self) -> None:
        import edits

        for language, before, after in (
            ("python", "# The count.\nf(count=count)\nitem.count = 'count'", "# The count.\nf(count=total)\nitem.count = 'count'"),
            ("python", "def f(count=1):\n    return f\"count {count}\"", "def f(total=1):\n    return f\"count {total}\""),
            ("rust", "Entry { from, count }\nlet count: u32 = self.count;", "Entry { from, count: total }\nlet total: u32 = self.count;"),
            ("rust", "fn count(count: u8) { Entry { count: count } }", "fn total(total: u8) { Entry { count: total } }"),
            ("typescript", "push({ run: count, count });", "push({ run: total, count: total });"),
            ("rust", "fn f<'a>(count: &'a str) -> char { 'x' }", "fn f<'a>(total: &'a str) -> char { 'x' }"),
            ("php", "$count = $this->count;", "$total = $this->count;"),
            ("java", "int count() { int count = 0; return count + that.count(); }", "int count() { int total = 0; return total + that.count(); }"),
            ("python", "# The `count`.\nself.count = 1", "# The `count`.\nself.count = 1"),
        ):
            self.assertEqual(edits.renamed(before, "count", "total", language, variables=True, members=False), after)
        java = "int count() { int count = 0; return count; }"
        for seed in range(300):
            edit = edits.rename(java, "java", random.Random(seed))
            if re.search(r"\bcount\b", edit.instruction) and not edit.instruction.startswith("replace"):
                self.assertEqual("int count()" in edit.after, "method" not in edit.instruction, edit)
        self.assertIsNone(edits.rename("if as if", "python", random.Random(1)))
        constructed = "class Count { Count(int a) {} }\nCount b = new Count(1);"
        self.assertEqual(edits.renamed(constructed, "Count", "Total", "java", variables=True, members=False), constructed.replace("Count", "Total"))

    def test_rename_means_the_field(self) -> None:
        import edits

        for language, before, after in (
            ("python", "self.count = count", "self.total = count"),
            ("python", "class Box:\n    count: int = 0\n\n    def f(self, count):\n        self.count = count",
             "class Box:\n    total: int = 0\n\n    def f(self, count):\n        self.total = count"),
            ("rust", "pub struct Box {\n    pub count: u32,\n}\nlet count = b.count; Box { count }", "pub struct Box {\n    pub total: u32,\n}\nlet count = b.total; Box { total: count }"),
            ("go", "type Box struct {\n\tcount int\n}\nfunc f(count int) { b.count = count }", "type Box struct {\n\ttotal int\n}\nfunc f(count int) { b.total = count }"),
            ("typescript", "class Box {\n  private count = 0;\n  f(count: number) { this.count = count; }\n}",
             "class Box {\n  private total = 0;\n  f(count: number) { this.total = count; }\n}"),
        ):
            self.assertEqual(edits.renamed(before, "count", "total", language, variables=False, members=True), after)
        both = "type Box struct {\n\tcount int\n}\nfunc f(count int) { return Box{count: count} }"
        self.assertEqual(edits.renamed(both, "count", "total", "go", variables=True, members=True), both.replace("count", "total"))
        comment = "# Of `count`, or of a_count; a count is one.\ncount = a_count"
        self.assertEqual(edits.renamed(comment, "count", "total", "python", variables=True, members=False), comment.replace("`count`", "`total`").replace("\ncount", "\ntotal"))
        self.assertEqual(edits.renamed(comment, "a_count", "b", "python", variables=True, members=False), comment.replace("a_count", "b"))

    def test_calls(self) -> None:
        import source_code

        def arguments(text: str, language: str) -> list[list[str]]:
            return [[text[start:end] for start, end in call.arguments] for call in source_code.calls(text, language)]

        self.assertEqual(arguments('assert_eq!(f("a, b"), Some((1, 2)))', "rust"), [['f("a, b")', "Some((1, 2))"], ["(1, 2)"]])
        self.assertEqual(arguments("def rest(self, first, last=(1, 2)): pass", "python"), [["first", "last=(1, 2)"]])
        self.assertEqual(arguments("void f(Map<String, Long> a) { log(x...); }", "java"), [])

    def check_each(self, maker, language: str, before: str, after: str) -> None:
        """Whatever the seed, this edit and no other comes of a text."""
        found = [maker(before, language, random.Random(seed)) for seed in range(50)]
        self.assertEqual({(edit.before, edit.after) for edit in found if edit is not None}, {(before, after)})

    def test_arguments_and_types(self) -> None:
        import edits
        import source_code

        self.check_each(edits.swap_arguments, "go", "func cost(width, height int) int {\n\treturn cost(h[0], f(1))\n}", "func cost(height, width int) int {\n\treturn cost(f(1), h[0])\n}")
        seeds = [edits.swap_arguments("def other(c, d): pass\ncost(a, b)\nsize(a, e)", "python", random.Random(seed)).instruction for seed in range(50)]
        self.assertLess(sum("other" in instruction for instruction in seeds), 35, "what is defined first, or looks alike")
        self.assertEqual({word for instruction in seeds for word in instruction.split()} & {"cost", "size", "other"}, {"cost", "size", "other"})
        self.assertFalse(source_code.is_definition("cost(a * b);", source_code.calls("cost(a * b);", "c")[0], "c"))
        self.assertTrue(source_code.is_definition("cost(a *b);", source_code.calls("cost(a *b);", "c")[0], "c"))
        for changed in (edits.change_type("let a: u32 = 1; let b: u32 = 2; let c: f64 = 3;" * 2, "rust", random.Random(seed)) for seed in range(20)):
            self.assertIsNotNone(changed)
        typed = "void a(String name, int n) {}\nvoid b(String name) { String title = name; }"
        found = {edits.change_type(typed, "java", random.Random(seed)).after for seed in range(50)}
        self.assertIn(typed.replace("String name", "Name name"), found)

    def test_braces_in_lines_of_their_own(self) -> None:
        import edits

        before = "int Area(int a)\n{\n    return a * a;\n}"
        after = ('int Area(int a)\n{\n    try\n    {\n        return a * a;\n    }\n    catch (Exception e)\n    {\n'
                 '        throw new InvalidOperationException("Area failed", e);\n    }\n}')
        self.check_each(edits.handle_errors, "csharp", before, after)

    def test_loops_are_no_functions(self) -> None:
        import edits

        self.assertIsNone(edits.handle_errors("foreach (var a in b)\n{\n    f(a);\n}", "csharp", random.Random(1)))

    def test_remove_comments(self) -> None:
        import edits

        for language, before, after in (
            ("java", "/* Of a\n   square. */\nint a; // The side.\nint b; /* first */ int c;", "int a;\nint b; /* first */ int c;"),
            ("python", "# One.\na = '# 2'  # Three.\n\nb = 1", "a = '# 2'\n\nb = 1"),
            ("lua", "-- One.\nlocal a = 1 -- two", "local a = 1"),
        ):
            self.check_each(edits.remove_comments, language, before, after)

    def test_excerpt(self) -> None:
        import edits

        now = [f"line {idx}" for idx in range(60)]
        after = [line + "!" if idx in (20, 40) else line for idx, line in enumerate(now)]
        for seed in range(100):
            before, result = edits.excerpt(now, after, random.Random(seed))
            self.assertIn("line 20!", result)
            self.assertEqual(len(before), len(result))
            self.assertLessEqual(before.index("line 20"), 5)
            self.assertEqual([line.removesuffix("!") for line in result], before)

    def test_document(self) -> None:
        import edits

        for language, before, comment, at in (
            ("python", "def area(a):\n    return a * a", '    """Of a square."""\n', 13),
            ("rust", "#[inline]\npub fn area(a: u8) -> u8 {\n    a * a\n}", "/// Of a square.\n", 0),
            ("java", "int area(int a) {\n    return a * a;\n}", "/** Of a square. */\n", 0),
        ):
            after = before[:at] + comment + before[at:]
            found = [edits.document(after, language, random.Random(seed)) for seed in range(20)]
            self.assertEqual({(edit.before, edit.after) for edit in found}, {(before, after)})
        # Half a comment, or one of something else, is none.
        self.assertIsNone(edits.document(" * Of a square.\n */\nint area(int a) {\n}", "java", random.Random(1)))
        self.assertIsNone(edits.document("// Both.\nif (a) {\n}", "java", random.Random(1)))

    def test_partly_done(self) -> None:
        import edits

        edit = edits.Edit("", "a\nb\na\nd\na", "c\nb\nc\nd\nc")
        found = [edits.partly_done(edit, random.Random(seed)) for seed in range(300)]
        self.assertIn(edits.Continuation([("a", "c")], "b\na\nd\na", "b\nc\nd\nc"), found)
        self.assertIn(edits.Continuation([("a", "c"), ("a", "c")], "c\nb\nc\nd\na", "c\nb\nc\nd\nc"), found)
        self.assertIn(edits.Continuation([("a", "c")] * 3, "c\nb\nc\nd\nc", "c\nb\nc\nd\nc"), found, "nothing is left to do")
        removed = [edits.partly_done(edits.Edit("", "x\na\ny\nb", "x\ny"), random.Random(seed)) for seed in range(300)]
        self.assertIn(edits.Continuation([("a", "")], "y\nb", "y"), removed)


if __name__ == "__main__":
    unittest.main()
