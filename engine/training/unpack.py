"""Writes the files of a held_out.jsonl or tuning.jsonl into a folder, for tools that read source files: FOLDER/<package>/<path>."""

import argparse
import json
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, help="held_out.jsonl or tuning.jsonl")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args(arguments)
    for line in args.files.open():
        record = json.loads(line)
        path = args.folder / record["package"] / record["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record["text"])


if __name__ == "__main__":
    main()
