"""What stands where in code of a dozen languages, found with regular expressions: literals, calls, fields, the heads of functions."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{2,}")
CALLED = re.compile(r"([A-Za-z_][A-Za-z0-9_]+)!?\(")
STRING = {'"': re.compile(r'"([^"\'\\\n]*)"'), "'": re.compile(r"'([^\"'\\\n]{2,})'")}
KEYWORDS = frozenset(
    "and abstract as assert async await bool break case catch chan class const constexpr continue crate def default defer del delete do "
    "dyn echo elif else elseif elsif end endif enum except export extends extern false fi final finally float fn for foreach from func "
    "function global go goto if impl implements import in include inline instanceof int interface is lambda let local long loop match mod "
    "module move mut namespace new nil None nonlocal not null of or override package pass private protected pub public raise range "
    "readonly rescue require return select self Self short sizeof static str string struct super switch template then this throw throws "
    "trait true True False try type typedef typename typeof undefined union unless until unsafe use using var virtual void when where while "
    "with yield unsigned char double size_t boolean u8 u16 u32 u64 usize i8 i16 i32 i64 isize f32 f64".split())
TYPE_FIRST = frozenset(["java", "csharp", "c", "cpp"])
BRACES = frozenset(["rust", "javascript", "typescript", "go", "c", "cpp", "java", "csharp", "php"])
QUOTED_TWICE = frozenset(["python", "javascript", "typescript", "ruby", "php", "lua", "shell"])
LINE_COMMENT = {"python": "#", "ruby": "#", "shell": "#", "yaml": "#", "toml": "#", "lua": "--", "sql": "--"} | dict.fromkeys(BRACES, "//")
DEFINITION = re.compile(r"\b(?:def|fn|func|function)\s+$")
MEMBER = re.compile(r"(?:\.|->|::)[ \t]*\Z")
KEY = {"python": re.compile(r"\s*=[^=]"), "rust": re.compile(r"\s*:[^:]"), "javascript": re.compile(r"\s*:"), "typescript": re.compile(r"\s*\??:"),
       "go": re.compile(r"\s*:[^=]"), "ruby": re.compile(r":\s"), "php": re.compile(r"\s*:[^:]"), "csharp": re.compile(r"\s*:")}
BRACKETS = {")": "(", "]": "[", "}": "{"}
RECEIVERS = frozenset(["self", "cls", "&self", "&mut self", "mut self", "this"])
# What follows the indentation where a field is declared, and what opens the body that it is declared in.
FIELD = {
    "python": (r"{name}\s*:\s", r"class\b"), "rust": (r"(?:pub(?:\([^)]*\))?\s+)?{name}:\s", r"struct\b"), "go": (r"{name}\s+[\w*\[\].]", r"struct\s*$"),
    "typescript": (r"(?:(?:private|public|protected|readonly|static|declare)\s+)*#?{name}[?!]?\s*[:=;]", r"\b(?:class|interface)\b"),
    "javascript": (r"(?:static\s+)?#?{name}\s*[=;]", r"\bclass\b"),
}
FUNCTION = re.compile(r"\b(?:def|fn|func|function)\b.*\(|^\s*(?!(?:if|for|foreach|fixed|elseif|while|switch|return|else|catch|new|case|await|throw|do|try|match|with|using|lock|synchronized)\b)"
                      r"(?:[\w<>\[\],.?*&:~]+\s+)*[*&]*[\w:~#]+\s*\([^;{}]*\)?[^;=]*\{\s*$")
TYPE = re.compile(r"^\s*(?:export |default |public |private |abstract |final |static |pub(?:\([^)]*\))? )*(?:class|struct|interface|enum|trait|type)\s+\w")


def identifiers(text: str) -> list[str]:
    return [word for word in WORD.findall(text) if word not in KEYWORDS]


def replace_word(text: str, old: str, new: str) -> str:
    return re.sub(rf"\b{re.escape(old)}\b", lambda _: new, text)


@dataclass(frozen=True)
class Piece:
    """A half-open span of a text; what is in braces in a string is code, as it is interpolated there."""

    kind: Literal["code", "comment", "string"]
    start: int
    end: int


def literals(text: str, language: str) -> Iterator[re.Match]:
    """Comments and strings, in order."""
    mark = re.escape(LINE_COMMENT.get(language, "//"))
    if mark == "\\#":
        mark = r"(?<!\S)#"
    # Elsewhere a single quote is a character, or a lifetime.
    single = r"(?:[^'\\\n]|\\.)*" if language in QUOTED_TWICE else r"(?:[^'\\\n]|\\[^']{1,8}|\\')"
    long = r"|'''(?:.|\n)*?'''" if language == "python" else ""
    return re.finditer(rf'{mark}[^\n]*|/\*(?:.|\n)*?\*/|"""(?:.|\n)*?"""{long}|"(?:[^"\\\n]|\\.)*"|\'{single}\'|`[^`]*`', text)


def pieces(text: str, language: str) -> list[Piece]:
    """What is code, comment and string, in order."""
    found, at = [], 0
    for match in literals(text, language):
        found.append(Piece("code", at, match.start()))
        at = match.start()
        is_string = match.group()[0] in "\"'`"
        for inner in re.finditer(r"\{([^{}\n]*)\}", match.group()) if is_string else ():
            found += [Piece("string", at, match.start() + inner.start(1)), Piece("code", match.start() + inner.start(1), match.start() + inner.end(1))]
            at = match.start() + inner.end(1)
        found.append(Piece("string" if is_string else "comment", at, match.end()))
        at = match.end()
    return [piece for piece in (*found, Piece("code", at, len(text))) if piece.start < piece.end]


@dataclass(frozen=True)
class Call:
    """A call, or a definition, that stands in one line; half-open spans, `arguments` without blanks around them and without a receiver."""

    name: str
    start: int
    close: int
    arguments: list[tuple[int, int]]


def calls(text: str, language: str) -> list[Call]:
    strings = [piece for piece in pieces(text, language) if piece.kind != "code"]
    found = []
    for match in CALLED.finditer(text):
        if match.group(1) in KEYWORDS or any(piece.start <= match.start() < piece.end for piece in strings):
            continue
        borders, depth, at = [match.end()], 0, match.end()
        while at < len(text) and text[at] != "\n":
            inside = next((piece for piece in strings if piece.start <= at < piece.end), None)
            if inside is not None:
                at = inside.end
                continue
            if text[at] in BRACKETS:
                if depth == 0:
                    break
                depth -= 1
            elif text[at] in "([{":
                depth += 1
            elif text[at] == "," and depth == 0:
                borders.append(at + 1)
            at += 1
        if at >= len(text) or text[at] != ")":
            continue
        spans = [trimmed(text, start, end - 1) for start, end in zip(borders, [*borders[1:], at + 1])]
        spans = [(start, end) for start, end in spans if start < end and text[start:end] not in RECEIVERS]
        # A comma between angle brackets parts no arguments.
        if all(text.count("<", *span) - text.count(">", *span) + text.count("->", *span) + text.count("=>", *span) == 0 for span in spans):
            if "..." not in text[match.end() : at] and not text[text.rfind("\n", 0, match.start()) + 1 :].lstrip().startswith("#"):
                found.append(Call(match.group(1), match.start(), at, spans))
    return found


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    inside = text[start:end]
    return start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())


def bracket_around(text: str, at: int, within: int = 400) -> int | None:
    """Index of the innermost bracket that is open at `at`, looked for in so many characters before."""
    depth = 0
    for idx in range(at - 1, max(-1, at - within), -1):
        if text[idx] in BRACKETS:
            depth += 1
        elif text[idx] in "([{":
            if depth == 0:
                return idx
            depth -= 1
    return None


def is_key(text: str, match: re.Match, language: str) -> bool:
    """Whether a name is the name of a field or argument that is given a value, rather than a variable: `count` in `f(count=3)`, `{ count: 3 }`."""
    if language not in KEY or not KEY[language].match(text, match.end()):
        return False
    opened = bracket_around(text, match.start())
    if opened is None:
        return False
    before = text[:opened].rstrip()
    if language == "python":
        return text[opened] == "(" and not re.search(r"\bdef\s+\w+$", before)
    return text[opened] == "{" and text[:match.start()].rstrip()[-1] in "{,"


def is_shorthand(text: str, match: re.Match, language: str) -> bool:
    """Whether a name stands for a field and for the variable that it is set to: `{ count }`."""
    if language not in ("rust", "javascript", "typescript"):
        return False
    before, after = text[: match.start()].rstrip(), text[match.end() :].lstrip()
    if not before or before[-1] not in "{," or not after or after[0] not in ",}":
        return False
    opened = bracket_around(text, match.start())
    if opened is None or text[opened] != "{":
        return False
    outside = text[:opened].rstrip()
    return bool(re.search(r"\b[A-Z]\w*$" if language == "rust" else r"[(=:,\[]$|\breturn$", outside))


def declares_field(text: str, match: re.Match, language: str) -> bool:
    """Whether a name is declared there as the field of a class or struct that the text shows."""
    if language not in FIELD:
        return False
    declaration, owner = FIELD[language]
    line_start = text.rfind("\n", 0, match.start()) + 1
    indent = len(text[line_start:]) - len(text[line_start:].lstrip(" \t"))
    if indent == 0 or not re.compile(declaration.format(name=re.escape(match.group()))).match(text, line_start + indent):
        return False
    if language == "python":
        above = (line for line in reversed(text[:line_start].split("\n")) if line.strip() and len(line) - len(line.lstrip()) < indent)
        return re.match(r"\s*" + owner, next(above, "")) is not None
    opened = bracket_around(text, match.start(), 3000)
    return opened is not None and text[opened] == "{" and re.search(owner, text[text.rfind("\n", 0, opened) + 1 : opened].rstrip()) is not None


def has_methods_apart(region: str, name: str, language: str) -> bool:
    """Whether a call of this name is one of a method, which a variable may share its name with: always in Java, but for constructors."""
    return language == "java" and re.search(rf"\b(?:class|record|enum|interface|new)\s+{re.escape(name)}\b", region) is None


def is_definition(region: str, call: Call, language: str) -> bool:
    """Whether something that looks like a call opens a body, as methods do in languages without a word for them."""
    line = region[region.rfind("\n", 0, call.start) + 1 : call.start]
    if DEFINITION.search(line) or language == "go" and re.match(r"func \(.*\) $", line):
        return True
    if language in TYPE_FIRST and any(re.match(r"(?!new |sizeof |\w+ [*&] )[\w:<>,*&\[\]]+[\s*&]+\w+(?: = .*)?$", region[start:end]) for start, end in call.arguments):
        return True
    return language in ("java", "csharp", "c", "cpp", "typescript", "javascript") and re.match(r"\)\s*(?:throws [\w, ]+)?(?:: [\w<>\[\]| ]+ )?(?:const )?\{", region[call.close :]) is not None and (
        line.strip().partition(" ")[0] not in ("if", "for", "while", "switch", "return", "}"))


def arguments_of(region: str, call: Call) -> set[str]:
    return {region[start:end] for start, end in call.arguments}


def blocks(lines: list[str], language: str, *heads: re.Pattern) -> Iterator[tuple[int, int]]:
    """Half-open spans of lines from one that looks like such a head to where its body ends, by indentation."""
    for idx, line in enumerate(lines):
        head_line = line.rstrip() + " {" if idx + 1 < len(lines) and lines[idx + 1].strip() == "{" else line
        if not any(head.search(head_line) for head in heads) or is_comment(line, language):
            continue
        indent = len(line) - len(line.lstrip())
        end = next((n for n in range(idx + 1, len(lines)) if lines[n].strip() and lines[n].strip()[0] not in "{)" and len(lines[n]) - len(lines[n].lstrip()) <= indent), len(lines))
        if end < len(lines) and (lines[end].strip()[0] == "}" or lines[end].strip() == "end"):
            end += 1
        yield idx, end


def end_of_head(lines: list[str], first: int, end: int, *marks: str) -> int:
    """Index of the first line of a body whose head begins at `first`; `end` if there is none."""
    return min(end, next((idx for idx in range(first, min(first + 8, end)) if lines[idx].rstrip().endswith(marks)), end) + 1)


def end_of_docstring(lines: list[str], first: int, end: int) -> int:
    """Index of the line after a docstring that begins at `first`; `first` if none does."""
    if first == end or not lines[first].lstrip().startswith('"""'):
        return first
    return next((idx + 1 for idx in range(first, end) if lines[idx].rstrip().endswith('"""') and (idx > first or lines[idx].count('"""') > 1)), end)


def is_comment(line: str, language: str) -> bool:
    return line.lstrip().startswith((LINE_COMMENT.get(language, "//"), "/*", "*"))
