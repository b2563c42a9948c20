"""Packs the corpus into parts that are small enough to be sent to another machine, and unpacks them there."""

import argparse
import tarfile
from collections.abc import Iterable
from pathlib import Path

FILES = ("train.jsonl", "held_out.jsonl", "NOTICE", "manifest.json")


def split(file: Path, part_mb: float) -> list[Path]:
    """Replaces the file by `file.000`, `file.001`... of at most so many MiB."""
    parts = []
    with file.open("rb") as source:
        while block := source.read(int(part_mb * 2**20)):
            parts.append(file.with_name(f"{file.name}.{len(parts):03}"))
            parts[-1].write_bytes(block)
    file.unlink()
    return parts


def join(parts: Iterable[Path], file: Path) -> None:
    with file.open("wb") as target:
        for part in sorted(parts):
            target.write(part.read_bytes())


def pack(corpus: Path, out: Path, part_mb: float) -> None:
    out.mkdir(parents=True, exist_ok=True)
    archive = out / "corpus.tar.xz"
    with tarfile.open(archive, "w:xz", preset=6) as tar:
        for name in FILES:
            tar.add(corpus / name, arcname=name)
    for part in split(archive, part_mb):
        print(f"{part.name}: {part.stat().st_size / 2**20:.1f} MiB")


def unpack(bundle: Path, corpus: Path) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    archive = corpus / "corpus.tar.xz"
    join(bundle.glob("corpus.tar.xz.*"), archive)
    with tarfile.open(archive) as tar:
        tar.extractall(corpus, filter="data")
    archive.unlink()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder written by corpus.py")
    parser.add_argument("out", type=Path)
    parser.add_argument("--part-mb", type=float, default=58, help="MiB a part")
    args = parser.parse_args(arguments)
    pack(args.corpus, args.out, args.part_mb)


if __name__ == "__main__":
    main()
