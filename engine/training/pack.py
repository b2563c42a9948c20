"""Cuts the corpus into training examples and lays them end to end in batches of a fixed number of tokens.

The prompt formats, which the engine must build token for token (each {piece} is tokenised on its own, special tokens are single ids):

    SPM, the one to serve   [header] <|fim_suffix|>{suffix}<|fim_prefix|>{prefix}{middle}<|endoftext|>
    PSM                     [header] <|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>{middle}<|endoftext|>
    plain text              [header] {text}<|endoftext|>
    edit by example         [header] [<|edit_from|>{lines before}<|edit_to|>{lines after}]... <|edit_region|>{region}<|edit_result|>{region after}<|endoftext|>
    edit by instruction     [header] <|im_start|>{instruction}<|im_end|><|edit_region|>{region}<|edit_result|>{region after}<|endoftext|>

    header, optional        [<|repo_name|>{name + "\\n"} [<|file_sep|>{path + "\\n"}{text of another file}]...] <|file_sep|>{path + "\\n"}

In SPM typing only lengthens the end of the prefix, so all before it can stay in the KV cache. There the middle continues the prefix
with no token between them, only a token border: what the network knows of running text serves at the cursor at once, where a token
of its own between them (tried first) has to be learned as a jump, which takes more training than a small edition gets.
"""

import itertools
import json
import lzma
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

import edits
import source_code
import tokenizer as names

CHARS_PER_TOKEN = 3.3
MIN_EXAMPLE_TOKENS = 32
FILES_TOGETHER = 6
# Of one part before the next one's turn: parts that arrive late soon have theirs, and those that came first are not learned by heart.
RECORDS_AT_ONCE = 60 * FILES_TOGETHER
IMPORT = re.compile(r"^(import |from \S+ import |use |pub use |#include|require|const .*= require\(|using |package )")
CLOSERS = ")]}\"';,:> "


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of example, each between 0 and 1, and how long they may be, in tokens.

    Edits come on top: `edit` is how many are tried for an example of another kind.
    """

    edit: float = 1.0
    fim: float = 0.75
    spm: float = 0.90
    by_example: float = 0.45
    other_files: float = 0.30
    path_only: float = 0.50
    head_of_file: float = 0.35
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096)
    length_weights: tuple[float, ...] = (0.25, 0.40, 0.27, 0.08)


class Encoder:
    """Text pieces and special tokens to ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.special = {name: tokenizer.token_to_id(name) for name in names.SPECIAL_TOKENS}

    def __call__(self, *pieces: str) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            special = self.special.get(piece)
            ids += self.tokenizer.encode(piece, add_special_tokens=False).ids if special is None else [special]
        return ids


def without_specials(text: str) -> bool:
    return not any(name in text for name in names.SPECIAL_TOKENS)


def choose_middle(text: str, rng: random.Random) -> tuple[int, int]:
    """Start and end, in characters, of what is to be filled in: the cuts that an editor asks for."""
    kind = rng.random()
    if kind < 0.03:
        at = rng.randrange(len(text) + 1)
        return at, at
    if kind < 0.22:
        start = rng.randrange(len(text))
        return start, min(len(text), start + 1 + int(rng.random() ** 2 * 400))
    lines = line_spans(text)
    line_idx = rng.randrange(len(lines))
    start, end = lines[line_idx]
    indent = start - text.rfind("\n", 0, start)
    if rng.random() > 0.25:
        start = rng.randrange(start, end + 1)
    if kind >= 0.80:
        end = end_of_block(text, lines, line_idx, indent)
    elif kind >= 0.57:
        end = lines[min(len(lines) - 1, line_idx + rng.randrange(6))][1]
    elif rng.random() < 0.2:
        # An editor that closes brackets by itself has put these behind the cursor.
        while end > start and text[end - 1] in CLOSERS:
            end -= 1
    return start, end


def end_of_block(text: str, lines: list[tuple[int, int]], line_idx: int, indent: int, max_lines: int = 16) -> int:
    """Where the lines end that are indented at least like this one."""
    end = lines[line_idx][1]
    for start, line_end in lines[line_idx + 1 : line_idx + max_lines]:
        if start - text.rfind("\n", 0, start) < indent:
            break
        end = line_end
    return end


def line_spans(text: str) -> list[tuple[int, int]]:
    """Half-open spans of the lines, from the first character that is not blank to the line's end without its break."""
    spans, at = [], 0
    for line in text.split("\n"):
        body = line.strip()
        if body:
            indent = len(line) - len(line.lstrip())
            spans.append((at + indent, at + len(line)))
        at += len(line) + 1
    return spans or [(0, len(text))]


def fim_pieces(text: str, head: str, mix: Mix, rng: random.Random) -> list[str]:
    start, end = choose_middle(text, rng)
    prefix, middle, suffix = head + text[:start], text[start:end], text[end:]
    if rng.random() < mix.spm:
        return [names.FIM_SUFFIX, suffix, names.FIM_PREFIX, prefix, middle, names.END]
    return [names.FIM_PREFIX, prefix, names.FIM_SUFFIX, suffix, names.FIM_MIDDLE, middle, names.END]


def edit_pieces(text: str, language: str, mix: Mix, rng: random.Random) -> list[str] | None:
    """An edit of some lines of the text, in one of the two forms."""
    if language not in source_code.LINE_COMMENT:
        return None
    lines = text.split("\n")
    by_example = rng.random() < mix.by_example
    size = min(len(lines), int(4 + 90 * rng.random() ** 1.5) if by_example else int(3 + 60 * rng.random() ** 2.5 + 90 * (rng.random() < 0.08)))
    first = rng.randrange(len(lines) - size + 1)
    if not by_example and rng.random() < 0.6:
        starts = [idx for idx in range(len(lines) - 2) if re.search(r"\b(def|fn|func|function|public|private|static)\b.*[:{]$", lines[idx])]
        if starts:
            first = rng.choice(starts)
            size = 1 + next((n for n in range(1, min(150, len(lines) - first)) if lines[first + n].strip() and indent_of(lines[first + n]) <= indent_of(lines[first])), size)
            while first and rng.random() < 0.9 and source_code.is_comment(lines[first - 1], language):
                first, size = first - 1, size + 1
    region = "\n".join(lines[first : first + size])
    edit = edits.make_edit(region, language, edits.BY_EXAMPLE if by_example else edits.BY_INSTRUCTION, rng)
    if edit is None:
        return None
    if not by_example:
        instruction = edit.instruction[0].upper() + edit.instruction[1:] if rng.random() < 0.1 else edit.instruction
        return [names.CHAT_START, instruction, names.CHAT_END, names.EDIT_REGION, edit.before, names.EDIT_RESULT, edit.after, names.END]
    parts = edits.partly_done(edit, rng)
    if parts is None:
        return None
    history = [piece for before, after in parts.done for piece in (names.EDIT_FROM, before, names.EDIT_TO, after)]
    return [*history, names.EDIT_REGION, parts.region, names.EDIT_RESULT, parts.result, names.END]


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def header_pieces(record: dict, neighbours: list[dict], room: int, mix: Mix, rng: random.Random) -> list[str]:
    """`room`: characters that other files may take."""
    path = [names.FILE_SEP, record["path"] + "\n"]
    repository = [names.REPO_NAME, record["package"] + "\n"]
    kind = rng.random()
    if kind < mix.other_files and neighbours and room > 200:
        pieces = list(repository)
        for neighbour in rng.sample(neighbours, min(len(neighbours), rng.randrange(1, 4))):
            text = excerpt(neighbour["text"], rng.randrange(150, 1600), rng)
            if len(text) <= room:
                pieces += [names.FILE_SEP, neighbour["path"] + "\n", text]
                room -= len(text)
        return pieces + path
    kind -= mix.other_files
    return path if kind < mix.path_only else repository + path if kind < mix.path_only + 0.05 else []


def excerpt(text: str, size: int, rng: random.Random) -> str:
    """Whole lines, about `size` characters, from anywhere in the text; half of the time from its start."""
    start = 0 if len(text) <= size or rng.random() < 0.5 else text.find("\n", rng.randrange(len(text) - size)) + 1
    end = text.rfind("\n", start, start + size) + 1
    return text[start:end] if end > start else ""


def head_of_file(text: str, at: int, rng: random.Random) -> str:
    """What the server puts above an excerpt that begins at `at`: imports, and the scopes that begin further up."""
    above = text[:at].split("\n")
    imports = [line for line in above if IMPORT.match(line)][-rng.randrange(1, 16) :]
    indent = indent_of(text[at:].partition("\n")[0])
    scopes: list[str] = []
    for line in reversed(above[-200:]):
        if line.strip() and indent_of(line) < indent and line.rstrip()[-1] in ":{(":
            indent = indent_of(line)
            scopes.insert(0, line)
    return "".join(line + "\n" for line in imports + scopes)


def examples(records: Iterator[dict], encode: Encoder, mix: Mix, rng: random.Random) -> Iterator[list[int]]:
    """Examples of all kinds from groups of files of one package."""
    for group in grouped(records):
        for record in group:
            neighbours = [other for other in group if other is not record]
            text, at = record["text"], 0
            while at < len(text):
                length = rng.choices(mix.lengths, mix.length_weights)[0]
                size = int(length * CHARS_PER_TOKEN * rng.uniform(0.45, 0.9))
                end = text.rfind("\n", at, at + size) + 1 if at + size < len(text) else len(text)
                end = end if end > at else min(len(text), at + size)
                body = text[at:end]
                if body.strip():
                    head = head_of_file(text, at, rng) if at and rng.random() < mix.head_of_file else ""
                    room = int(length * CHARS_PER_TOKEN * 0.9) - len(body) - len(head)
                    pieces = fim_pieces(body, head, mix, rng) if rng.random() < mix.fim else [body, names.END]
                    found = [header_pieces(record, neighbours, room, mix, rng) + pieces]
                    for _ in range(int(mix.edit + rng.random())):
                        edit = edit_pieces(body, record["language"], mix, rng)
                        if edit is not None:
                            found.append(header_pieces(record, [], 0, mix, rng) + edit)
                    for pieces in found:
                        ids = encode(*pieces)
                        if MIN_EXAMPLE_TOKENS <= len(ids) <= max(mix.lengths):
                            yield ids
                at = end


def grouped(records: Iterator[dict]) -> Iterator[list[dict]]:
    group: list[dict] = []
    for record in records:
        if group and (len(group) == FILES_TOGETHER or group[0]["package"] != record["package"]):
            yield group
            group = []
        group.append(record)
    if group:
        yield group


def records_of(path: Path) -> Iterator[dict]:
    """The records of one file (`.jsonl` or `.jsonl.xz`)."""
    with lzma.open(path, "rt") if path.suffix == ".xz" else path.open() as file:
        yield from map(json.loads, file)


def read_part(path: Path, rng: random.Random) -> Iterator[dict]:
    """The records of one file in random order, but neighbours stay together so that one can be the other's context."""
    records = list(records_of(path))
    records = [record for record in records if without_specials(record["text"])]
    groups = list(grouped(iter(records)))
    rng.shuffle(groups)
    for group in groups:
        yield from group


@dataclass(frozen=True)
class Batch:
    """Examples laid end to end: `tokens` (n_tokens,), uint16, and where each begins, ending with n_tokens (n_examples + 1,), int32."""

    tokens: np.ndarray
    borders: np.ndarray

    def longest(self) -> int:
        return int(np.diff(self.borders).max())

    def positions(self) -> np.ndarray:
        """Index of each token in its example: (n_tokens,), int64."""
        lengths = np.diff(self.borders)
        return np.arange(len(self.tokens)) - np.repeat(self.borders[:-1], lengths)

    def targets(self) -> np.ndarray:
        """The token after each; -1 after the last of an example: (n_tokens,), int64."""
        targets = np.empty(len(self.tokens), dtype=np.int64)
        targets[:-1] = self.tokens[1:]
        targets[self.borders[1:] - 1] = -1
        return targets


def batches(stream: Iterator[list[int]], n_tokens: int) -> Iterator[Batch]:
    """The last example of a batch is cut to what is left; what does not fill a batch is dropped."""
    tokens: list[int] = []
    borders = [0]
    for ids in stream:
        tokens += ids[: n_tokens - len(tokens)]
        borders.append(len(tokens))
        if len(tokens) == n_tokens:
            yield Batch(np.array(tokens, dtype=np.uint16), np.array(borders, dtype=np.int32))
            tokens, borders = [], [0]


def parts_of(corpus: Path, split: str) -> list[Path]:
    return sorted(corpus.glob(f"{split}*.jsonl*"))


def endless(corpus: Path, tokenizer: Path, n_tokens: int, mix: Mix, seed: int, share: tuple[int, int]) -> Iterator[Batch]:
    """Batches from one share (index, number of shares) of the parts, some records of each in turn, cut anew each time; parts
    may arrive meanwhile."""
    encode = Encoder(Tokenizer.from_file(str(tokenizer)))
    rng = random.Random(f"{seed} {share[0]}")

    def stream() -> Iterator[list[int]]:
        turns: Counter[Path] = Counter()
        open_parts: dict[Path, Iterator[dict]] = {}
        while parts := parts_of(corpus, "train"):
            mine = parts[share[0] :: share[1]] or parts
            open_parts = {part: reader for part, reader in open_parts.items() if part in mine}
            part = min(mine, key=lambda part: (turns[part], rng.random()))
            reader = open_parts.setdefault(part, read_part(part, rng))
            records = list(itertools.islice(reader, RECORDS_AT_ONCE))
            turns[part] += 1
            if len(records) < RECORDS_AT_ONCE:
                del open_parts[part]
            yield from examples(iter(records), encode, mix, rng)

    return batches(stream(), n_tokens)
