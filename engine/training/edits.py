"""Makes small edits out of ordinary code: what the network learns to repeat, and to do when told to.

Two forms; pack.py has their prompts. *By example*: one line is shown before and after an edit, the answer is a region with the
rest of the same edit. *By instruction*: a region and a sentence, the answer is the region rewritten. Everything is made with regular
expressions from code as it stands, in a dozen languages; what cannot be done safely so is left alone (None).
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{2,}")
NUMBER = re.compile(r"(?<![\w.])[0-9]{1,4}(?![\w.])")
CALL = re.compile(r"([A-Za-z_][A-Za-z0-9_]{2,})\(([^()\n]*)\)")
STRING = {'"': re.compile(r'"([^"\'\\\n]*)"'), "'": re.compile(r"'([^\"'\\\n]{2,})'")}
KEYWORDS = frozenset(
    "and abstract async await bool break case catch class const continue def default defer del delete elif else end enum except export "
    "extends extern false final finally float for foreach from func function global goto impl import include int interface let local long "
    "match mod module mut namespace new nil None not null package pass private protected pub public raise require return select self Self "
    "short static str string struct super switch template then this throw throws trait true True False try type typedef typeof union "
    "unless until unsafe use using var void when where while with yield unsigned char double size_t".split())
BRACES = frozenset(["rust", "javascript", "typescript", "go", "c", "cpp", "java", "csharp", "php"])
LINE_COMMENT = {"python": "#", "ruby": "#", "shell": "#", "yaml": "#", "toml": "#", "lua": "--", "sql": "--"} | dict.fromkeys(BRACES, "//")
DEFINITION = re.compile(r"\b(?:def|fn|func|function)\s+$")
PARAMETERS = ("verbose", "timeout", "limit", "options", "context", "depth", "strict", "name", "offset", "retries", "logger", "index", "key",
              "flags", "prefix", "count", "config", "force", "default_value", "max_size", "dry_run", "callback", "path", "width", "mode")
PARAMETER_TYPE = {
    "rust": "{name}: {type}", "typescript": "{name}: {type}", "python": "{name}", "javascript": "{name}", "ruby": "{name}", "lua": "{name}",
    "php": "${name}", "go": "{name} {type}", "java": "{type} {name}", "csharp": "{type} {name}", "c": "{type} {name}", "cpp": "{type} {name}",
}
TYPES = {
    "rust": ("usize", "bool", "&str", "u32", "&Options"), "typescript": ("number", "boolean", "string", "Options"),
    "go": ("int", "bool", "string", "context.Context"), "java": ("int", "boolean", "String", "long"), "csharp": ("int", "bool", "string"),
    "c": ("int", "size_t", "const char *"), "cpp": ("int", "bool", "size_t", "const std::string&"),
}
HANDLERS = {
    "python": ("try:", "except Exception as error:", ('raise RuntimeError("{name} failed") from error', 'print(f"{name} failed: {{error}}")\n{indent}raise')),
    "ruby": ("begin", "rescue StandardError => error", ('raise "{name} failed: #{{error.message}}"', "warn error.message\n{indent}raise")),
    "javascript": ("try {", "}} catch (error) {{", ("console.error(error);\n{indent}throw error;", 'throw new Error("{name} failed", {{ cause: error }});')),
    "typescript": ("try {", "}} catch (error) {{", ("console.error(error);\n{indent}throw error;", 'throw new Error("{name} failed", {{ cause: error }});')),
    "java": ("try {", "}} catch (Exception e) {{", ('throw new RuntimeException("{name} failed", e);',)),
    "csharp": ("try\n{indent}{{", "}}\n{indent}catch (Exception e)\n{indent}{{", ('throw new InvalidOperationException("{name} failed", e);',)),
    "php": ("try {", "}} catch (\\Exception $e) {{", ("throw new \\RuntimeException('{name} failed', 0, $e);",)),
    "cpp": ("try {", "}} catch (const std::exception& e) {{", ('std::cerr << "{name} failed: " << e.what() << std::endl;\n{indent}throw;',)),
}


@dataclass(frozen=True)
class Edit:
    """A region of whole lines, without the last line break, before and after."""

    instruction: str
    before: str
    after: str


def identifiers(text: str) -> list[str]:
    return [word for word in WORD.findall(text) if word not in KEYWORDS]


def replace_word(text: str, old: str, new: str) -> str:
    return re.sub(rf"\b{re.escape(old)}\b", lambda _: new, text)


def new_name(old: str, words: list[str], rng: random.Random) -> str:
    """Another name in the style of the old one: another word of the file, or both joined."""
    other = rng.choice(words)
    kind = rng.random()
    if kind < 0.35:
        return other
    if "_" in old or old.islower():
        parts = old.split("_")
        if kind < 0.55 and len(parts) > 1:
            parts[rng.randrange(len(parts))] = other.lower()
            return "_".join(parts)
        return f"{old}_{other.lower()}" if kind < 0.8 else f"{other.lower()}_{old}"
    return old + other[:1].upper() + other[1:] if kind < 0.7 else other[:1].lower() + other[1:] + old[:1].upper() + old[1:]


def rename(region: str, language: str, rng: random.Random) -> Edit | None:
    words = identifiers(region)
    repeated = sorted({word for word in words if words.count(word) > 1} or set(words))
    if not repeated:
        return None
    old = rng.choice(repeated)
    new = new_name(old, words, rng)
    if new == old or new in KEYWORDS or re.search(rf"\b{re.escape(new)}\b", region) and rng.random() < 0.8:
        new = f"{old}_{rng.randrange(2, 10)}" if rng.random() < 0.2 else old + rng.choice(("Id", "_id", "Value", "_new", "2", "Ref", "_item"))
    return Edit(say(rng, f"rename {old} to {new}", f"rename `{old}` to `{new}`", f"change the name {old} to {new}"), region, replace_word(region, old, new))


def change_number(region: str, language: str, rng: random.Random) -> Edit | None:
    numbers = sorted(set(NUMBER.findall(region)))
    if not numbers:
        return None
    old, new = rng.choice(numbers), str(rng.choice((rng.randrange(10), rng.randrange(1000), 2 ** rng.randrange(3, 12))))
    after = re.sub(rf"(?<![\w.]){old}(?![\w.])", new, region)
    return Edit(say(rng, f"change {old} to {new}", f"use {new} instead of {old}", f"replace {old} with {new}"), region, after)


def change_string(region: str, language: str, rng: random.Random) -> Edit | None:
    strings = sorted({match.group() for quote in STRING for match in STRING[quote].finditer(region) if 3 < len(match.group()) < 30})
    words = identifiers(region)
    if not strings or not words:
        return None
    old = rng.choice(strings)
    new = old[0] + rng.choice(words).lower() + old[-1]
    return Edit(say(rng, f"change {old} to {new}", f"replace {old} by {new}"), region, region.replace(old, new))


def add_parameter(region: str, language: str, rng: random.Random) -> Edit | None:
    """At the definition with its type, at every call as an argument."""
    calls = [match for match in CALL.finditer(region) if match.group(1) not in KEYWORDS]
    if not calls or language not in PARAMETER_TYPE:
        return None
    function = rng.choice(calls).group(1)
    name = rng.choice((rng.choice(PARAMETERS), rng.choice(identifiers(region)).lower()))
    declared = PARAMETER_TYPE[language].format(name=name, type=rng.choice(TYPES.get(language, ("",))))
    passed = "$" + name if language == "php" else name

    def extended(match: re.Match) -> str:
        if match.group(1) != function:
            return match.group()
        line = region[region.rfind("\n", 0, match.start()) + 1 : match.start()]
        what = declared if DEFINITION.search(line) or is_method(region, match, language) else passed
        inside = match.group(2).rstrip()
        comma = "" if not inside.strip() else " " if inside.endswith(",") else ", "
        return f"{function}({inside}{comma}{what})"

    return Edit(say(rng, f"add a parameter {declared} to {function}", f"add the parameter {declared} to {function} and pass it on",
                    f"add parameter {name} to {function} and pass {passed}"), region, CALL.sub(extended, region))


def is_method(region: str, call: re.Match, language: str) -> bool:
    """Whether something that looks like a call opens a body, as methods do in languages without a word for them."""
    return language in ("java", "csharp", "c", "cpp", "typescript", "javascript") and region[call.end() :].lstrip(" \n").startswith("{") and (
        region[region.rfind("\n", 0, call.start()) + 1 : call.start()].strip().partition(" ")[0] not in ("if", "for", "while", "switch", "return", "}"))


def swap_arguments(region: str, language: str, rng: random.Random) -> Edit | None:
    calls = [match.group(1) for match in CALL.finditer(region) if match.group(2).count(",") == 1 and match.group(1) not in KEYWORDS]
    if not calls:
        return None
    function = rng.choice(calls)

    def swapped(match: re.Match) -> str:
        first, comma, second = match.group(2).partition(",")
        return f"{function}({second.strip()}, {first.strip()})" if match.group(1) == function and comma else match.group()

    return Edit(say(rng, f"swap the arguments of {function}", f"swap the parameters of {function}"), region, CALL.sub(swapped, region))


def change_quotes(region: str, language: str, rng: random.Random) -> Edit | None:
    if language not in ("python", "javascript", "typescript", "ruby", "php", "lua"):
        return None
    old, new = rng.sample(('"', "'"), 2)
    after = STRING[old].sub(lambda match: new + match.group(1) + new, region)
    name = "double" if new == '"' else "single"
    return Edit(say(rng, f"use {name} quotes", f"change to {name} quotes", f"translate the quotes to {name} quotes"), region, after)


def remove_comments(region: str, language: str, rng: random.Random) -> Edit | None:
    mark = LINE_COMMENT.get(language)
    if mark is None:
        return None
    kept = [line for line in region.split("\n") if not line.lstrip().startswith(mark)]
    return Edit(say(rng, "remove the comments", "delete all comments", "remove comments"), region, "\n".join(kept))


def write_comment(region: str, language: str, rng: random.Random) -> Edit | None:
    """The comments that somebody wrote, given what they are about."""
    edit = remove_comments(region, language, rng)
    if edit is None or region.count("\n") - edit.after.count("\n") not in range(1, 5):
        return None
    return Edit(say(rng, "add comments", "add a comment", "document this", "add documentation"), edit.after, edit.before)


def comment_out(region: str, language: str, rng: random.Random) -> Edit | None:
    mark = LINE_COMMENT.get(language)
    if mark is None:
        return None
    lines = region.split("\n")
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    commented = "\n".join(line[:indent] + f"{mark} {line[indent:]}" if line.strip() else line for line in lines)
    if rng.random() < 0.5:
        return Edit(say(rng, "comment this out", "comment out"), region, commented)
    return Edit(say(rng, "uncomment this", "uncomment"), commented, region)


def sort_lines(region: str, language: str, rng: random.Random) -> Edit | None:
    lines = region.split("\n")
    if len(lines) > 12 or len({len(line) - len(line.lstrip()) for line in lines}) > 1:
        return None
    return Edit(say(rng, "sort these lines", "sort alphabetically", "sort the lines"), region, "\n".join(sorted(lines)))


def convert_case(region: str, language: str, rng: random.Random) -> Edit | None:
    snake = sorted({word for word in identifiers(region) if re.fullmatch(r"[a-z]+(_[a-z]+)+", word)})
    camel = sorted({word for word in identifiers(region) if re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", word)})
    if not snake and not camel:
        return None
    to_camel = not camel or bool(snake) and rng.random() < 0.5
    after = region
    for word in snake if to_camel else camel:
        new = re.sub(r"_([a-z])", lambda m: m.group(1).upper(), word) if to_camel else re.sub(r"([A-Z])", lambda m: "_" + m.group(1).lower(), word)
        after = replace_word(after, word, new)
    return Edit("convert the names to camelCase" if to_camel else "convert the names to snake_case", region, after)


def handle_errors(region: str, language: str, rng: random.Random) -> Edit | None:
    """Wraps the whole body of a function: it moves in by one level."""
    if language not in HANDLERS:
        return None
    lines = region.split("\n")
    head = next((idx for idx, line in enumerate(lines[:8]) if line.rstrip().endswith(":" if language == "python" else ("{", ")", "do"))), None)
    if head is None or head + 1 >= len(lines):
        return None
    outer = len(lines[0]) - len(lines[0].lstrip())
    first = head + 2 if lines[head + 1].strip() == "{" else head + 1
    end = next((idx for idx in range(first, len(lines)) if lines[idx].strip() and len(lines[idx]) - len(lines[idx].lstrip()) <= outer), len(lines))
    body = lines[first:end]
    while body and not body[-1].strip():
        body.pop()
    if not body or (end == len(lines) and language != "python"):
        return None
    indent = body[0][: len(body[0]) - len(body[0].lstrip())]
    step = indent[outer:] or "    "
    names = CALL.findall(lines[0]) or re.findall(r"(\w+)\s*\(", lines[0])
    name = (names[-1][0] if names and isinstance(names[-1], tuple) else names[-1] if names else "operation")
    opening, middle, answers = HANDLERS[language]
    inner = indent + step
    wrapped = [indent + (opening.format(indent=indent) if "{{" in opening else opening.replace("{indent}", indent))]
    wrapped += [step + line if line.strip() else line for line in body]
    wrapped += [indent + middle.format(indent=indent), inner + rng.choice(answers).format(name=name, indent=inner)]
    if language in BRACES:
        wrapped.append(indent + "}")
    elif language == "ruby":
        wrapped.append(indent + "end")
    after = lines[:first] + wrapped + lines[first + len(body) :]
    return Edit(say(rng, "wrap the body in error handling", "add error handling", "wrap in try/catch", "handle errors"), region, "\n".join(after))


def say(rng: random.Random, *ways: str) -> str:
    return rng.choice(ways)


BY_EXAMPLE: tuple[tuple[Callable, float], ...] = (
    (rename, 5), (change_number, 1), (change_string, 1), (add_parameter, 3), (swap_arguments, 1.5), (change_quotes, 0.7),
)
BY_INSTRUCTION: tuple[tuple[Callable, float], ...] = (
    (rename, 4), (change_number, 1), (change_string, 1), (add_parameter, 4), (swap_arguments, 1), (change_quotes, 2), (remove_comments, 1),
    (write_comment, 2), (comment_out, 1), (sort_lines, 0.5), (convert_case, 1), (handle_errors, 3),
)


def make_edit(region: str, language: str, kinds: tuple[tuple[Callable, float], ...], rng: random.Random, tries: int = 4) -> Edit | None:
    makers, weights = zip(*kinds)
    for maker in rng.choices(makers, weights, k=tries):
        edit = maker(region, language, rng)
        if edit is not None and edit.before != edit.after:
            return edit
    return None


def first_change(edit: Edit) -> tuple[str, str, str, str] | None:
    """Splits an edit line by line: the first changed line before and after, and all lines below it before and after.

    None where lines were added or removed, or where nothing is left to do.
    """
    before, after = edit.before.split("\n"), edit.after.split("\n")
    if len(before) != len(after):
        return None
    first = next(idx for idx, (old, new) in enumerate(zip(before, after)) if old != new)
    rest = before[first + 1 :], after[first + 1 :]
    if rest[0] == rest[1]:
        return None
    return before[first], after[first], "\n".join(rest[0]), "\n".join(rest[1])
