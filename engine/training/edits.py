"""Makes small edits out of ordinary code: what the network learns to go on with, and to do when told to.

Two forms; pack.py has their prompts. *By example*: what somebody has just changed in a few places is shown before and after, the answer
is a region with the rest of the same edit, or as it was if nothing is left to do. *By instruction*: a region and a sentence, the answer is
the region rewritten. Everything is made with regular expressions from code as it stands, in a dozen languages; what cannot be done
safely so is left alone (None).
"""

import difflib
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
QUOTED_TWICE = frozenset(["python", "javascript", "typescript", "ruby", "php", "lua", "shell"])
LINE_COMMENT = {"python": "#", "ruby": "#", "shell": "#", "yaml": "#", "toml": "#", "lua": "--", "sql": "--"} | dict.fromkeys(BRACES, "//")
DEFINITION = re.compile(r"\b(?:def|fn|func|function)\s+$")
MEMBER = re.compile(r"(?:\.|->|::)\s*$")
KEY = {"python": re.compile(r"\s*=[^=]"), "rust": re.compile(r"\s*:[^:]"), "javascript": re.compile(r"\s*:"), "typescript": re.compile(r"\s*\??:"),
       "go": re.compile(r"\s*:[^=]"), "ruby": re.compile(r":\s"), "php": re.compile(r"\s*:[^:]"), "csharp": re.compile(r"\s*:")}
BRACKETS = {")": "(", "]": "[", "}": "{"}
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


def code_spans(text: str, language: str) -> list[tuple[int, int]]:
    """Half-open spans of what is neither comment nor string; what is in braces in a string counts as code, as it is interpolated there."""
    mark = re.escape(LINE_COMMENT.get(language, "//"))
    # Elsewhere a single quote is a character, or a lifetime.
    single = r"(?:[^'\\\n]|\\.)*" if language in QUOTED_TWICE else r"(?:[^'\\\n]|\\[^']{1,8}|\\')"
    spans, at = [], 0
    for match in re.finditer(rf'{mark}[^\n]*|/\*(?:.|\n)*?\*/|"""(?:.|\n)*?"""|"(?:[^"\\\n]|\\.)*"|\'{single}\'|`[^`]*`', text):
        spans.append((at, match.start()))
        if match.group()[0] in "\"'`":
            spans += [(match.start() + inner.start(1), match.start() + inner.end(1)) for inner in re.finditer(r"\{([^{}\n]*)\}", match.group())]
        at = match.end()
    return [*spans, (at, len(text))]


def bracket_around(text: str, at: int) -> int | None:
    """Index of the innermost bracket that is open at `at`, looked for in the lines just before."""
    depth = 0
    for idx in range(at - 1, max(-1, at - 400), -1):
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


def renamed(region: str, old: str, new: str, language: str, of_members: bool) -> str:
    """A variable's name changed wherever it means the variable; or, with `of_members`, that of a field or method."""
    word = re.compile(rf"(?<![\w$]){re.escape(old)}\b(?!-)" if language != "php" else rf"\b{re.escape(old)}\b")
    spans = code_spans(region, language)
    result, at = [], 0
    for match in word.finditer(region):
        if not any(start <= match.start() < end for start, end in spans):
            continue
        is_member = bool(MEMBER.search(region, max(0, match.start() - 4), match.start()))
        if language == "php":
            is_member = is_member or not region[: match.start()].endswith("$")
        key, short = is_key(region, match, language), is_shorthand(region, match, language)
        if of_members:
            text = f"{new}: {old}" if short else new if is_member or key else old
        else:
            text = f"{old}: {new}" if short else old if is_member or key else new
        result += [region[at : match.start()], text]
        at = match.end()
    return "".join([*result, region[at:]])


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
    words = identifiers("\n".join(region[start:end] for start, end in code_spans(region, language)))
    repeated = sorted({word for word in words if words.count(word) > 1} or set(words))
    if not repeated:
        return None
    old = rng.choice(repeated)
    new = new_name(old, words, rng)
    if new == old or new in KEYWORDS or re.search(rf"\b{re.escape(new)}\b", region) and rng.random() < 0.8:
        new = f"{old}_{rng.randrange(2, 10)}" if rng.random() < 0.2 else old + rng.choice(("Id", "_id", "Value", "_new", "2", "Ref", "_item"))
    if rng.random() < 0.1:
        return Edit(say(rng, f"replace {old} with {new}", f"replace all {old} by {new}"), region, replace_word(region, old, new))
    free = renamed(region, old, new, language, of_members=False)
    if free != region:
        what = say(rng, "", "", "", "variable ", "parameter ") if re.search(rf"\b{re.escape(old)}\b(?!\s*\()", region) else say(rng, "", "function ")
        after = free
    else:
        after = renamed(region, old, new, language, of_members=True)
        what = say(rng, "", "field ", "the field ") if not re.search(rf"\b{re.escape(old)}\s*\(", region) else say(rng, "", "method ", "the method ")
    the = "the " if what and not what.startswith("the ") and rng.random() < 0.6 else ""
    return Edit(say(rng, f"rename {the}{what}{old} to {new}", f"rename {the}{what}`{old}` to `{new}`", f"change the name {old} to {new}",
                    f"call {the}{what}{old} {new}", f"rename {the}{what}{old} to {new}"), region, after)


def change_number(region: str, language: str, rng: random.Random) -> Edit | None:
    numbers = sorted(set(NUMBER.findall(region)))
    if not numbers:
        return None
    old, new = rng.choice(numbers), str(rng.choice((rng.randrange(10), rng.randrange(1000), 2 ** rng.randrange(3, 12))))
    after = re.sub(rf"(?<![\w.]){old}(?![\w.])", new, region)
    return Edit(say(rng, f"change {old} to {new}", f"use {new} instead of {old}", f"replace {old} with {new}"), region, after)


def change_string(region: str, language: str, rng: random.Random) -> Edit | None:
    strings = sorted({match.group() for quote in STRING for match in STRING[quote].finditer(region) if len(match.group()) < 60})
    strings += ['""'] * ('""' in strings)
    words = identifiers(region)
    if not strings or not words:
        return None
    old = rng.choice(strings)
    parts = re.findall(r"[A-Za-z]+(?: [a-z]+)*", old)
    if len(old) > 8 and parts and rng.random() < 0.6:
        # Some words of it, with or without the quotes that stand around all of it.
        part = rng.choice(parts)
        new = " ".join(word.lower() for word in rng.sample(words, min(len(words), rng.randrange(1, 4))))
        return Edit(say(rng, f'change "{part}" to "{new}"', f"replace {part} with {new}", f"say {new} instead of {part}", f"change the text {part} to {new}"),
                    region, region.replace(old, old.replace(part, new)))
    new = old[0] + say(rng, rng.choice(words).lower(), rng.choice(words)) + old[-1]
    return Edit(say(rng, f"change {old} to {new}", f"replace {old} by {new}", f"use {new} instead of {old}"), region, region.replace(old, new))


def add_parameter(region: str, language: str, rng: random.Random) -> Edit | None:
    """At the definition with its type, at every call as an argument."""
    calls = [match for match in CALL.finditer(region) if match.group(1) not in KEYWORDS]
    if not calls or language not in PARAMETER_TYPE:
        return None
    # What is defined in the first line is what people mean most of the time.
    function = (calls[0] if calls[0].start() < region.find("\n") and rng.random() < 0.6 else rng.choice(calls)).group(1)
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
    """Three to twelve neighbours of the same depth, none of which opens or closes anything."""
    lines = region.split("\n")
    runs: list[list[str]] = [[]]
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if not line.strip() or line.count("(") != line.count(")") or line.count("{") != line.count("}") or line.rstrip()[-1] in ":{([":
            runs.append([])
        elif runs[-1] and depth != len(runs[-1][0]) - len(runs[-1][0].lstrip()):
            runs.append([line])
        else:
            runs[-1].append(line)
    runs = [run for run in runs if len(run) >= 3]
    if not runs:
        return None
    run = rng.choice(runs)
    first = rng.randrange(max(1, len(run) - 3))
    run = run[first : first + rng.randrange(3, 13)]
    before = rng.sample(run, len(run)) if rng.random() < 0.5 else run
    return Edit(say(rng, "sort these lines", "sort alphabetically", "sort the lines", "sort"), "\n".join(before), "\n".join(sorted(before)))


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
    if language == "python" and lines[first].lstrip().startswith('"""'):
        # A docstring stays the first thing in the body.
        last = next((idx for idx in range(first, end) if lines[idx].rstrip().endswith('"""') and (idx > first or lines[idx].count('"""') > 1)), end)
        first = last + 1
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


def related_lines(region: str, language: str, rng: random.Random) -> Edit | None:
    """Whole lines that mention one name, all written or all removed."""
    lines = region.split("\n")
    mentions: dict[str, set[int]] = {}
    for idx, line in enumerate(lines):
        for word in identifiers(line):
            mentions.setdefault(word, set()).add(idx)
    alone = {idx for idx, line in enumerate(lines) if line.strip() and line.rstrip()[-1] not in ":{([" and line.strip()[0] not in ")]}*/#-"
             and all(line.count(opening) == line.count(closing) for closing, opening in BRACKETS.items())}
    names = sorted(word for word, where in mentions.items() if 2 <= len(where) <= 4 and where <= alone)
    if not names:
        return None
    gone = mentions[rng.choice(names)]
    without = "\n".join(line for idx, line in enumerate(lines) if idx not in gone)
    return Edit("", region, without) if rng.random() < 0.5 else Edit("", without, region)


def say(rng: random.Random, *ways: str) -> str:
    return rng.choice(ways)


BY_EXAMPLE: tuple[tuple[Callable, float], ...] = (
    (rename, 6), (change_number, 1), (change_string, 1), (add_parameter, 3), (swap_arguments, 1), (change_quotes, 0.7), (convert_case, 0.5),
    (related_lines, 3),
)
BY_INSTRUCTION: tuple[tuple[Callable, float], ...] = (
    (rename, 6), (change_number, 1), (change_string, 2), (add_parameter, 4), (swap_arguments, 1), (change_quotes, 2), (remove_comments, 1),
    (write_comment, 2), (comment_out, 1.5), (sort_lines, 1), (convert_case, 1), (handle_errors, 3),
)


def make_edit(region: str, language: str, kinds: tuple[tuple[Callable, float], ...], rng: random.Random, tries: int = 4) -> Edit | None:
    makers, weights = zip(*kinds)
    for maker in rng.choices(makers, weights, k=tries):
        edit = maker(region, language, rng)
        if edit is not None and edit.before != edit.after:
            return edit
    return None


@dataclass(frozen=True)
class Continuation:
    """What somebody has changed so far, oldest first, each before and after; and some lines as they are now and as they should be."""

    done: list[tuple[str, str]]
    region: str
    result: str


def partly_done(edit: Edit, rng: random.Random) -> Continuation | None:
    """Does the first few changes of an edit, in one place each. Seldom nothing is left to do in the region, which then stays as it is."""
    before, after = edit.before.split("\n"), edit.after.split("\n")
    changes = [code[1:] for code in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes() if code[0] != "equal"]
    # Neighbouring lines that change one by one are places of their own: people type one line after the other.
    places = [(b, b + 1, a, a + 1) for b1, b2, a1, a2 in changes if b2 - b1 == a2 - a1 for b, a in zip(range(b1, b2), range(a1, a2))]
    places = sorted(places + [change for change in changes if change[1] - change[0] != change[3] - change[2]])
    if not places:
        return None
    n_done = min(len(places), rng.choices((1, 2, 3), (0.6, 0.25, 0.15))[0])
    if n_done == len(places) and rng.random() > 0.15:
        n_done -= 1
    if n_done == 0:
        return None
    first = 0 if rng.random() < 0.6 else rng.randrange(len(places) - n_done + 1)
    done = range(first, first + n_done)
    now: list[str] = []
    at = below = 0
    for idx, (b1, b2, a1, a2) in enumerate(places):
        now += before[at:b1]
        now += after[a1:a2] if idx in done else before[b1:b2]
        at = b2
        if idx == done[-1]:
            below = len(now), a2
    now += before[at:]
    history = [("\n".join(before[b1:b2]), "\n".join(after[a1:a2])) for b1, b2, a1, a2 in (places[idx] for idx in done)]
    if done[-1] + 1 < len(places) and rng.random() < 0.4:
        now, after = now[below[0] :], after[below[1] :]
    return Continuation(history, "\n".join(now), "\n".join(after))
