"""Packs the corpus into parts that are small enough to be sent to another machine; train.py reads them as they are.

Packages are dealt out to the parts, so each part is a sample of the whole.
"""

import argparse
import concurrent.futures
import json
import lzma
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

# Half of what a part holds when unpacked would do; more costs nothing.
DICTIONARY_BYTES = 64 * 2**20
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": DICTIONARY_BYTES, "lc": 4, "lp": 0, "pb": 0}]


def packages(corpus: Path) -> Iterator[list[str]]:
    """The lines of train.jsonl, package by package."""
    lines: list[str] = []
    name = None
    with corpus.open() as file:
        for line in file:
            package = json.loads(line)["package"]
            if lines and package != name:
                yield lines
                lines = []
            name = package
            lines.append(line)
    if lines:
        yield lines


def deal(corpus: Path, n_parts: int, seed: int = 0) -> list[list[list[str]]]:
    """Packages in random order, each to the part that has least so far."""
    everything = list(packages(corpus))
    random.Random(seed).shuffle(everything)
    parts: list[list[list[str]]] = [[] for _ in range(n_parts)]
    sizes = [0] * n_parts
    for lines in everything:
        smallest = sizes.index(min(sizes))
        parts[smallest].append(lines)
        sizes[smallest] += sum(map(len, lines))
    for part in parts:
        # Like beside like packs tighter.
        part.sort(key=lambda lines: json.loads(lines[0])["language"])
    return parts


def compress(lines: Iterable[str], out: Path) -> Path:
    with lzma.open(out, "wt", format=lzma.FORMAT_XZ, filters=FILTERS) as file:
        file.writelines(lines)
    return out


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder written by corpus.py")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--parts", type=int, default=28)
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.copy(args.tokenizer, args.out / "tokenizer.json")
    held_out = (args.corpus / "held_out.jsonl").read_text().splitlines(keepends=True)
    with concurrent.futures.ProcessPoolExecutor() as pool:
        jobs = [pool.submit(compress, held_out, args.out / "held_out.jsonl.xz")]
        for idx, part in enumerate(deal(args.corpus / "train.jsonl", args.parts)):
            jobs.append(pool.submit(compress, [line for lines in part for line in lines], args.out / f"train-{idx:03}.jsonl.xz"))
        for job in jobs:
            out = job.result()
            print(f"{out.name}: {out.stat().st_size / 2**20:.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
