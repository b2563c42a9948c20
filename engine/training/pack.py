"""Cuts the corpus into training windows of a fixed number of tokens: windows.npy, uint16, (n_windows, length + 1).

A window holds whole examples, one after the other, each ending in <|endoftext|>, then padding. The prompt formats, which the
engine must build token for token (each {piece} is tokenised on its own, special tokens are single ids):

    SPM, the one to serve   [header] <|fim_suffix|>{suffix}<|fim_prefix|>{prefix}{middle}<|endoftext|>
    PSM                     [header] <|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>{middle}<|endoftext|>
    plain text              [header] {text}<|endoftext|>
    edit                    [header] <|edit_from|>{line before}<|edit_to|>{line after}<|edit_region|>{region}<|edit_result|>{region after}<|endoftext|>

    header, optional        [<|repo_name|>{name + "\\n"} [<|file_sep|>{path + "\\n"}{text of another file}]...] <|file_sep|>{path + "\\n"}

In SPM typing only lengthens the end of the prefix, so all before it can stay in the KV cache. There the middle continues the prefix
with no token between them, only a token border: what the network knows of running text serves at the cursor at once, where a token
of its own between them (tried first) has to be learned as a jump, which takes more training than a small edition gets.
"""

import argparse
import concurrent.futures
import functools
import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

import tokenizer as names

BYTES_PER_TOKEN = 3.0
MIN_EXAMPLE_TOKENS = 48
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{2,}")
NUMBER = re.compile(r"\b[0-9]{1,4}\b")


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of example, each between 0 and 1."""

    fim: float = 0.70
    edit: float = 0.04
    spm: float = 0.50
    repository_only: float = 0.15
    repository_and_file: float = 0.20
    other_file: float = 0.15


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
    if kind < 0.30:
        start = rng.randrange(len(text))
        return start, min(len(text), start + 1 + int(rng.random() ** 2 * 400))
    lines = line_spans(text)
    line_idx = rng.randrange(len(lines))
    start, end = lines[line_idx]
    start = rng.randrange(start, end + 1)
    if kind >= 0.65:
        end = lines[min(len(lines) - 1, line_idx + rng.randrange(6))][1]
    return start, end


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


def fim_pieces(text: str, mix: Mix, rng: random.Random) -> list[str]:
    start, end = choose_middle(text, rng)
    prefix, middle, suffix = text[:start], text[start:end], text[end:]
    if rng.random() < mix.spm:
        return [names.FIM_SUFFIX, suffix, names.FIM_PREFIX, prefix, middle, names.END]
    return [names.FIM_PREFIX, prefix, names.FIM_SUFFIX, suffix, names.FIM_MIDDLE, middle, names.END]


def edit_pieces(text: str, rng: random.Random) -> list[str] | None:
    """One line is changed by hand (a renamed word, another number); the rest of the same change is the answer."""
    lines = text.split("\n")
    size = rng.randrange(4, 13)
    if len(lines) < size + 1:
        return None
    first = rng.randrange(len(lines) - size)
    line, region = lines[first], "\n".join(lines[first + 1 : first + size])
    pattern = NUMBER if rng.random() < 0.2 else WORD
    shared = sorted(set(pattern.findall(line)) & set(pattern.findall(region)))
    if not shared:
        return None
    old = rng.choice(shared)
    new = str(rng.randrange(1000)) if pattern is NUMBER else new_name(old, text, rng)
    replace = re.compile(rf"\b{re.escape(old)}\b")
    return [names.EDIT_FROM, line, names.EDIT_TO, replace.sub(new, line), names.EDIT_REGION, region,
            names.EDIT_RESULT, replace.sub(new, region), names.END]


def new_name(old: str, text: str, rng: random.Random) -> str:
    """Another word of the file, alone or joined to the old one in the old one's style."""
    other = rng.choice(WORD.findall(text))
    if rng.random() < 0.5:
        return other
    return f"{old}_{other.lower()}" if "_" in old or old.islower() else old + other[:1].upper() + other[1:]


def header_pieces(record: dict, neighbour: dict | None, mix: Mix, rng: random.Random) -> list[str]:
    path = [names.FILE_SEP, record["path"] + "\n"]
    repository = [names.REPO_NAME, record["package"] + "\n"]
    kind = rng.random()
    if kind < mix.other_file and neighbour is not None:
        excerpt = neighbour["text"][: rng.randrange(200, 900)].rpartition("\n")[0]
        if excerpt:
            return [*repository, names.FILE_SEP, neighbour["path"] + "\n", excerpt + "\n", *path]
    kind -= mix.other_file
    if kind < mix.repository_and_file:
        return repository + path
    return path if kind < mix.repository_and_file + mix.repository_only else []


def excerpts(text: str, length: int, rng: random.Random) -> Iterator[str]:
    """The file in pieces that begin and end at line breaks, of various sizes up to about one window."""
    at = 0
    while at < len(text):
        size = int(length * BYTES_PER_TOKEN * rng.choice((0.3, 0.5, 0.85, 0.85)))
        end = text.rfind("\n", at, at + size) + 1 if at + size < len(text) else len(text)
        if end <= at:
            end = min(len(text), at + size)
        yield text[at:end]
        at = end


def examples(records: Iterator[dict], encode: Encoder, length: int, mix: Mix, rng: random.Random) -> Iterator[list[int]]:
    previous: dict | None = None
    for record in records:
        if not without_specials(record["text"]):
            continue
        neighbour = previous if previous and previous["package"] == record["package"] else None
        for text in excerpts(record["text"], length, rng):
            if not text.strip():
                continue
            pieces = edit_pieces(text, rng) if rng.random() < mix.edit else None
            if pieces is None:
                pieces = fim_pieces(text, mix, rng) if rng.random() < mix.fim else [text, names.END]
            ids = encode(*header_pieces(record, neighbour, mix, rng), *pieces)
            if MIN_EXAMPLE_TOKENS <= len(ids) <= length + 1:
                yield ids
        previous = record


def fill_windows(stream: Iterator[list[int]], length: int, pad: int, n_open: int = 400) -> Iterator[list[int]]:
    """Puts each example into the fullest open window with room for it; the fullest window leaves when there are too many."""
    def padded(window: list[int]) -> list[int]:
        return window + [pad] * (length + 1 - len(window))

    windows: list[list[int]] = []
    for ids in stream:
        fitting = [window for window in windows if len(window) + len(ids) <= length + 1]
        if fitting:
            max(fitting, key=len).extend(ids)
        else:
            windows.append(list(ids))
        if len(windows) > n_open:
            fullest = max(range(len(windows)), key=lambda idx: len(windows[idx]))
            yield padded(windows.pop(fullest))
    yield from map(padded, windows)


def read_groups(corpus: Path, rng: random.Random, share: tuple[int, int], group_size: int = 4) -> Iterator[dict]:
    """Records in random order, but a few files of one package stay together so that one can be the other's context.

    `share` (index, number of shares) says which part of the groups to read.
    """
    with corpus.open() as file:
        offsets = [0]
        offsets += [file.tell() for _ in iter(file.readline, "")][:-1]
        groups = [offsets[i : i + group_size] for i in range(0, len(offsets), group_size)][share[0] :: share[1]]
        rng.shuffle(groups)
        for group in groups:
            for offset in group:
                file.seek(offset)
                yield json.loads(file.readline())


def pack(corpus: Path, tokenizer: Path, length: int, max_tokens: float, mix: Mix, seed: int, share: tuple[int, int]) -> np.ndarray:
    """One share of the corpus as windows, in no particular order."""
    rng = random.Random(f"{seed} {share[0]}")
    encode = Encoder(Tokenizer.from_file(str(tokenizer)))
    stream = examples(read_groups(corpus, rng, share), encode, length, mix, rng)
    rows: list[np.ndarray] = []
    for window in fill_windows(stream, length, encode.special[names.FIM_PAD]):
        rows.append(np.array(window, dtype=np.uint16))
        if len(rows) * length >= max_tokens / share[1]:
            break
    return np.stack(rows) if rows else np.empty((0, length + 1), dtype=np.uint16)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="train.jsonl or held_out.jsonl")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path, help="windows.npy to write")
    parser.add_argument("--length", type=int, default=1024, help="tokens that the network sees at once")
    parser.add_argument("--max-tokens", type=float, default=float("inf"))
    parser.add_argument("--fim", type=float, default=Mix.fim)
    parser.add_argument("--spm", type=float, default=Mix.spm, help="share of the FIM examples in SPM order")
    parser.add_argument("--edit", type=float, default=Mix.edit, help="share of edit examples; about half of the tries find one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes; their number is part of what decides the cuts")
    args = parser.parse_args(arguments)
    mix, started = Mix(fim=args.fim, spm=args.spm, edit=args.edit), time.time()
    shares = [(idx, args.workers) for idx in range(args.workers)]
    do = functools.partial(pack, args.corpus, args.tokenizer, args.length, args.max_tokens, mix, args.seed)
    if args.workers == 1:
        windows = do(shares[0])
    else:
        with concurrent.futures.ProcessPoolExecutor(args.workers) as pool:
            windows = np.concatenate(list(pool.map(do, shares)))
    np.random.default_rng(args.seed).shuffle(windows)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.save(args.out, windows)
    print(f"{len(windows)} windows, {windows.size / 1e6:.1f} M tokens, {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
