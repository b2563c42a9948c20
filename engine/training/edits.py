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

from source_code import (
    BRACES, BRACKETS, FIELD, FUNCTION, KEYWORDS, LINE_COMMENT, MEMBER, RECEIVERS, STRING, TYPE, TYPE_FIRST, arguments_of, blocks, calls,
    declares_field, end_of_docstring, end_of_head, has_methods_apart, identifiers, is_comment, is_definition, is_key, is_shorthand, literals, pieces,
    replace_word,
)

NUMBER = re.compile(r"(?<![\w.])[0-9]{1,4}(?![\w.])")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TYPE_NAMES = ("int", "string", "long", "short", "float", "double", "bool", "str", "boolean", "u8", "u16", "u32", "u64", "usize", "i8", "i16", "i32",
              "i64", "isize", "f32", "f64")
DOCUMENTATION = ("document this", "document this", "add documentation", "add a doc comment", "write the documentation", "add a comment", "describe what this does")
NEW_NAMES = ("item", "value", "result", "total", "entry", "node", "data", "buffer", "user", "count", "amount", "source", "target", "state", "key", "record",
             "token", "field", "task", "message", "length", "size", "rank", "done", "info", "line", "word", "lower", "upper", "first", "last", "current",
             "next_item", "parent", "child", "left", "right", "score", "weight", "owner", "label", "title", "handler", "output", "input", "page", "row", "column", "duration")
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
# One way in each language: what an answer will be can be told beforehand.
HANDLERS = {
    "python": ("try:", "except Exception as error:", 'raise RuntimeError("{name} failed") from error'),
    "ruby": ("begin", "rescue StandardError => error", 'raise "{name} failed: #{{error.message}}"'),
    "javascript": ("try {", "}} catch (error) {{", "console.error(error);\n{indent}throw error;"),
    "typescript": ("try {", "}} catch (error) {{", "console.error(error);\n{indent}throw error;"),
    "java": ("try {", "}} catch (Exception e) {{", 'throw new RuntimeException("{name} failed", e);'),
    "csharp": ("try\n{indent}{{", "}}\n{indent}catch (Exception e)\n{indent}{{", 'throw new InvalidOperationException("{name} failed", e);'),
    "php": ("try {", "}} catch (\\Exception $e) {{", "throw new \\RuntimeException('{name} failed', 0, $e);"),
    "cpp": ("try {", "}} catch (const std::exception& e) {{", 'std::cerr << "{name} failed: " << e.what() << std::endl;\n{indent}throw;'),
}


@dataclass(frozen=True)
class Edit:
    """A region of whole lines, without the last line break, before and after."""

    instruction: str
    before: str
    after: str


def renamed(region: str, old: str, new: str, language: str, *, variables: bool, members: bool) -> str:
    """A name changed where it means a variable or function, a field or method, or both; in comments where it can be nothing but a name,
    and only if the code has it."""
    word = re.compile(rf"(?<![\w$']){re.escape(old)}\b(?!-)" if language != "php" else rf"\b{re.escape(old)}\b")
    is_mere_name = re.search(r"_|[a-z][A-Z]", old) is not None
    kinds = pieces(region, language)
    methods_apart = has_methods_apart(region, old, language)
    result, at, is_in_code = [], 0, False
    for match in word.finditer(region):
        kind = next(piece.kind for piece in kinds if piece.start <= match.start() < piece.end)
        if kind == "string" or kind == "comment" and not (is_mere_name or region[match.start() - 1 : match.end() + 1] == f"`{old}`"):
            continue
        is_member = bool(MEMBER.search(region, max(0, match.start() - 4), match.start())) or declares_field(region, match, language)
        if language == "php":
            is_member = is_member or not region[: match.start()].endswith("$")
        elif methods_apart:
            is_member = is_member or region[match.end() :].lstrip(" ").startswith("(")
        if kind == "comment":
            text = new
        elif is_shorthand(region, match, language):
            text = f"{new if members else old}: {new if variables else old}" if variables != members else new
        else:
            text = new if (members if is_member or is_key(region, match, language) else variables) else old
        is_in_code = is_in_code or kind == "code" and text != old
        result += [region[at : match.start()], text]
        at = match.end()
    return "".join([*result, region[at:]]) if is_in_code else region


def new_name(old: str, words: list[str], rng: random.Random) -> str:
    """Another name in the style of the old one: one of everyday, another word of the file, or the old one with more to it."""
    kind = rng.random()
    if kind < 0.4:
        new = rng.choice(NEW_NAMES)
        if "_" not in old and re.search(r"[a-z][A-Z]", old):
            other = rng.choice(NEW_NAMES).replace("_", "")
            new = new.replace("_", "") + other[:1].upper() + other[1:]
        return new[:1].upper() + new[1:].replace("_", "") if old[:1].isupper() else new
    other = rng.choice([word for word in words if word != old] or ["other"])
    if kind < 0.55:
        return other
    if "_" in old or old.islower():
        parts = old.split("_")
        if kind < 0.7 and len(parts) > 1:
            parts[rng.randrange(len(parts))] = other.lower()
            return "_".join(parts)
        return f"{old}_{other.lower()}" if kind < 0.85 else f"{other.lower()}_{old}"
    return old + other[:1].upper() + other[1:] if kind < 0.8 else other[:1].lower() + other[1:] + old[:1].upper() + old[1:]


def rename(region: str, language: str, rng: random.Random) -> Edit | None:
    code = "\n".join(region[piece.start : piece.end] for piece in pieces(region, language) if piece.kind == "code")
    words = [word for word in NAME.findall(code) if word not in KEYWORDS and word not in RECEIVERS]
    repeated = sorted({word for word in words if words.count(word) > 1} or set(words))
    if not repeated:
        return None
    old = rng.choice(repeated)
    new = new_name(old, words, rng)
    if new == old or new in KEYWORDS or re.search(rf"\b{re.escape(new)}\b", region) and rng.random() < 0.8:
        new = f"{old}_{rng.randrange(2, 10)}" if rng.random() < 0.2 else old + rng.choice(("Id", "_id", "Value", "_new", "2", "Ref", "_item"))
    if rng.random() < 0.06:
        return Edit(say(rng, f"replace {old} with {new}", f"replace all {old} by {new}"), region, replace_word(region, old, new))
    variables = renamed(region, old, new, language, variables=True, members=False)
    members = renamed(region, old, new, language, variables=False, members=True)
    is_called = re.search(rf"\b{re.escape(old)}\s*\(", region) is not None
    if language in FIELD and any(declares_field(region, match, language) for match in re.finditer(rf"\b{re.escape(old)}\b", region)):
        # A field that is declared here is what a bare name means, and what is called the same goes with it.
        after, what = (members, say(rng, "field ", "the field ")) if rng.random() < 0.4 else (renamed(region, old, new, language, variables=True, members=True), "")
        if rng.random() < 0.3:
            after, what = members, ""
    elif variables != region:
        is_function = not has_methods_apart(region, old, language) and re.search(rf"(?<![\w.>:]){re.escape(old)}\s*\(", region) is not None
        what, after = say(rng, "", "function ") if is_function else say(rng, "", "", "variable ", "parameter "), variables
        if members != region and not is_function:
            # It takes a word to say which of the two.
            what, after = rng.choice(((say(rng, "variable ", "parameter "), variables), ("method " if is_called else "field ", members)))
    else:
        what = say(rng, "", "method ", "the method ") if is_called else say(rng, "", "field ", "the field ")
        after = members
    the = "the " if what and not what.startswith("the ") and rng.random() < 0.6 else ""
    return Edit(say(rng, f"rename {the}{what}{old} to {new}", f"rename {the}{what}`{old}` to `{new}`", f"change the name {'of ' + the + what if what else ''}{old} to {new}",
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
    found = calls(region, language)
    if not found or language not in PARAMETER_TYPE:
        return None
    # What is defined in the first line is what people mean most of the time.
    function = (found[0] if found[0].start < region.find("\n") and rng.random() < 0.6 else rng.choice(found)).name
    name = rng.choice((rng.choice(PARAMETERS), rng.choice(identifiers(region) or PARAMETERS).lower()))
    declared = PARAMETER_TYPE[language].format(name=name, type=rng.choice(TYPES.get(language, ("",))))
    passed = "$" + name if language == "php" else name
    after = region
    for call in sorted(found, key=lambda call: -call.close):
        if call.name == function:
            head = region[call.start : call.close].rstrip()
            comma = "" if head.endswith("(") else " " if head.endswith(",") else ", "
            new = declared if is_definition(region, call, language) else passed
            after = after[: call.start] + head + comma + new + after[call.close :] if after[call.start : call.close] == region[call.start : call.close] else after
    return Edit(say(rng, f"add a parameter {declared} to {function}", f"add the parameter {declared} to {function} and pass it on",
                    f"add a parameter {declared} to {function} and pass it on", f"add parameter {name} to {function} and pass {passed}"), region, after)


def swap_arguments(region: str, language: str, rng: random.Random) -> Edit | None:
    """Those of every call, and the parameters of the definition, where there are two."""
    every = calls(region, language)
    found = [call for call in every if len(call.arguments) == 2]
    if not found:
        return None
    # Another call with one of the arguments is what misleads: a network copies from there.
    alike = [call for call in found if any(other.name != call.name and arguments_of(region, other) & arguments_of(region, call) for other in every)]
    function = (found[0] if found[0].start < region.find("\n") and rng.random() < 0.5 else rng.choice(alike or found)).name
    found = [call for call in found if call.name == function]
    if any(one.start < other.start < one.close for one in found for other in found):
        return None
    after = region
    for call in reversed(found):
        first, second = (region[start:end] for start, end in call.arguments)
        if "=" in first + second:
            return None
        if language == "go" and is_definition(region, call, language) and " " in second and " " not in first:
            # One type for both, behind the last.
            name, _, kind = second.partition(" ")
            first, second = f"{first} {kind}", name
        (start, end), (start2, end2) = call.arguments
        after = after[:start] + second + region[end:start2] + first + after[end2:]
    return Edit(say(rng, f"swap the arguments of {function}", f"swap the parameters of {function}", f"swap the two parameters of {function}"), region, after)


def change_type(region: str, language: str, rng: random.Random) -> Edit | None:
    """Of everything that is declared with one name."""
    if language in TYPE_FIRST:
        declared = re.compile(r"\b(\w+)\s+(\w+)(?=[,);=]| =)")
        kind, name = 1, 2
    elif language in ("typescript", "rust", "python"):
        declared = re.compile(r"\b(\w+)\??: (&?\w+)(?=[,);=]| =)")
        kind, name = 2, 1
    else:
        return None
    code = [piece for piece in pieces(region, language) if piece.kind == "code"]
    declarations = [match for match in declared.finditer(region) if any(piece.start <= match.start() < piece.end for piece in code)]
    found = [(match.group(kind), match.group(name)) for match in declarations]
    found = [pair for pair in found if not set(pair) & KEYWORDS or pair[0] in TYPE_NAMES]
    repeated = sorted({pair for pair in found if found.count(pair) > 1})
    if not repeated:
        return None
    old = rng.choice(repeated)
    new = rng.choice((rng.choice(found)[0], "".join(part[:1].upper() + part[1:] for part in old[1].split("_")), old[1][:1].upper() + old[1][1:] + old[0].lstrip("&").capitalize()))

    after = region
    for match in reversed(declarations):
        if (match.group(kind), match.group(name)) == old:
            after = after[: match.start(kind)] + new + after[match.end(kind) :]
    return Edit(say(rng, f"change the type of {old[1]} to {new}", f"make {old[1]} a {new}"), region, after)


def change_quotes(region: str, language: str, rng: random.Random) -> Edit | None:
    if language not in ("python", "javascript", "typescript", "ruby", "php", "lua"):
        return None
    old, new = rng.sample(('"', "'"), 2)
    strings = [match for match in literals(region, language) if STRING[old].fullmatch(match.group())]
    interpolated = {"php": "$", "ruby": "#"}.get(language)
    if interpolated and any(interpolated in string.group() for string in strings):
        return None
    after = region
    for string in reversed(strings):
        after = after[: string.start()] + new + string.group()[1:-1] + new + after[string.end() :]
    name = "double" if new == '"' else "single"
    return Edit(say(rng, f"use {name} quotes", f"change to {name} quotes", f"translate the quotes to {name} quotes"), region, after)


def remove_comments(region: str, language: str, rng: random.Random) -> Edit | None:
    if language not in LINE_COMMENT:
        return None
    after, at = [], 0
    for piece in pieces(region, language):
        line_start = region.rfind("\n", 0, piece.start) + 1
        if piece.kind != "comment" or piece.end < len(region) and region[piece.end] != "\n":
            continue
        alone = not region[line_start : piece.start].strip()
        after.append(region[at:line_start] if alone else region[at : piece.start].rstrip())
        at = min(len(region), piece.end + 1) if alone else piece.end
    kept = "".join([*after, region[at:]])
    if not kept.strip():
        return None
    return Edit(say(rng, "remove the comments", "delete all comments", "remove comments"), region, kept)


def document(region: str, language: str, rng: random.Random) -> Edit | None:
    """The comment above a function, or the docstring in it, that somebody wrote: as if it were still to be written."""
    lines = region.split("\n")
    found = []
    for idx, end in blocks(lines, language, FUNCTION, TYPE):
        top = idx
        while top and lines[top - 1].lstrip()[:1] in ("@", "[") or top and lines[top - 1].lstrip().startswith("#["):
            top -= 1
        if language == "python":
            first = end_of_head(lines, idx, end, ":")
            last = end_of_docstring(lines, first, end)
            if first < last < first + 10:
                found.append((top, first, last, end))
            continue
        first = top
        while first and is_comment(lines[first - 1], language):
            first -= 1
        if 0 < top - first < 12 and not lines[first].lstrip().startswith("*"):
            found.append((first, first, top, end))
    if not found:
        return None
    top, first, last, end = rng.choice(found)
    while end > last and not lines[end - 1].strip():
        end -= 1
    if end - last > 40:
        # The start of something long is as good.
        end = last + rng.randrange(1, 40)
    before, after = lines[top:first] + lines[last:end], lines[top:end]
    ways = DOCUMENTATION + ("add a docstring", "write a docstring") * (language == "python")
    return Edit(say(rng, *ways), "\n".join(before), "\n".join(after))


def write_comment(region: str, language: str, rng: random.Random) -> Edit | None:
    """The comments that somebody wrote, given what they are about."""
    edit = remove_comments(region, language, rng)
    if edit is None or region.count("\n") - edit.after.count("\n") not in range(1, 5):
        return None
    return Edit(say(rng, "add comments", "write comments", "comment the code"), edit.after, edit.before)


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
    every = region.split("\n")
    found = list(blocks(every, language, FUNCTION))
    if not found:
        return None
    top, end = rng.choice(found)
    if language != "python" and (end == top + 1 or every[end - 1].strip() not in ("}", "},", "};", "end", "});")):
        return None
    lines = every[top:end]
    while not lines[-1].strip():
        lines.pop()
    end = len(lines) if language == "python" else len(lines) - 1
    first = end_of_head(lines, 0, end, *((":",) if language == "python" else ("{",) if language != "ruby" else (")", "do") if "(" in lines[0] else (lines[0].rstrip(),)))
    if language == "python":
        # A docstring stays the first thing in the body.
        first = end_of_docstring(lines, first, end)
    while first < end and not lines[first].strip():
        first += 1
    body = lines[first:end]
    if not any(line.strip() for line in body) or body[0].strip() in ("try:", "begin", "...", "pass") or body[0].strip().startswith("try"):
        return None
    indent = body[0][: len(body[0]) - len(body[0].lstrip())]
    step = indent[len(lines[0]) - len(lines[0].lstrip()) :] or "    "
    names = re.findall(r"(\w+)\s*\(", lines[0])
    name = names[0] if names else re.search(r"(\w+)\W*$", lines[0]).group(1)
    opening, middle, answer = HANDLERS[language]
    inner = indent + step
    wrapped = [indent + (opening.format(indent=indent) if "{{" in opening else opening)]
    wrapped += [step + line if line.strip() else line for line in body]
    wrapped += [indent + middle.format(indent=indent), inner + answer.format(name=name, indent=inner)]
    if language in BRACES:
        wrapped.append(indent + "}")
    elif language == "ruby":
        wrapped.append(indent + "end")
    after = lines[:first] + wrapped + lines[end:]
    return Edit(say(rng, "wrap the body in error handling", "add error handling", "wrap in try/catch", "handle errors"), "\n".join(lines), "\n".join(after))


def related_lines(region: str, language: str, rng: random.Random) -> Edit | None:
    """Whole lines that mention one name, all written or all removed."""
    lines = region.split("\n")
    mentions: dict[str, set[int]] = {}
    code = [piece for piece in pieces(region, language) if piece.kind == "code"]
    starts = [0, *(match.end() for match in re.finditer("\n", region))]
    for idx, line in enumerate(lines):
        if not any(piece.start <= starts[idx] < piece.end for piece in code):
            continue
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
    (rename, 8), (change_number, 1), (change_string, 1), (add_parameter, 3), (swap_arguments, 2.5), (change_quotes, 0.7), (convert_case, 0.5),
    (change_type, 2), (related_lines, 3),
)
BY_INSTRUCTION: tuple[tuple[Callable, float], ...] = (
    (rename, 8), (change_number, 1), (change_string, 2.5), (add_parameter, 3.5), (swap_arguments, 3), (change_type, 0.7), (change_quotes, 1.5),
    (remove_comments, 1.2), (write_comment, 0.7), (document, 3.5), (comment_out, 2), (sort_lines, 1.5), (convert_case, 1), (handle_errors, 3),
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
    if rng.random() < 0.85:
        now, after = excerpt(now, after, rng)
    return Continuation(history, "\n".join(now), "\n".join(after))


def excerpt(now: list[str], after: list[str], rng: random.Random) -> tuple[list[str], list[str]]:
    """A few lines around what is left to do first, if anything is."""
    changes = [code[1:] for code in difflib.SequenceMatcher(None, now, after, autojunk=False).get_opcodes() if code[0] != "equal"]
    if not changes:
        size = min(len(now), rng.randrange(1, 17))
        start = rng.randrange(len(now) - size + 1)
        return now[start : start + size], after[start : start + size]
    n_changes = min(len(changes), rng.choice((1, 1, 2, 3)))
    first, last = changes[0], changes[n_changes - 1]
    above = min(first[0], rng.randrange(6))
    room = (changes[n_changes][0] if n_changes < len(changes) else len(now)) - last[1]
    below = min(room, rng.randrange(8))
    return now[first[0] - above : last[1] + below], after[first[2] - above : last[3] + below]
