"""The whole run on one machine, from a packed bundle to a GGUF file and a table of losses, in one command.

Each stage leaves its result in OUT and is skipped if that is there, so the same command continues a run that was cut. Training
ends by the clock: what the earlier stages took is not added to it.
"""

import argparse
import contextlib
import json
import os
import time
from pathlib import Path

import bundle
import evaluate
import export
import pack
import tokenizer
import train


def stage(name: str, result: Path, make) -> None:
    if result.exists():
        print(f"{name}: already there", flush=True)
        return
    started = time.time()
    make()
    print(f"{name}: {time.time() - started:.0f} s", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder with the parts that bundle.py wrote")
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", choices=train.PRESETS, default="gpu")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--minutes", type=float, default=25, help="of training, compilation included")
    parser.add_argument("--early-minutes", type=float, default=8, help="when to make a decayed checkpoint on the way")
    parser.add_argument("--part-mb", type=float, default=15, help="MiB a part of the exported file")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args(arguments)
    out, corpus = args.out, args.out / "corpus"
    vocab_size = train.PRESETS[args.preset].shape.vocab_size
    vocabulary, windows, held_out = out / "tokenizer.json", out / "train.npy", out / "held_out.npy"
    final = out / "run" / "final.pt"

    def windows_of(split: str, target: Path) -> None:
        pack.main([str(corpus / f"{split}.jsonl"), str(vocabulary), str(target), "--length", str(args.length),
                   "--workers", str(os.cpu_count() if split == "train" else 1)])

    def learn() -> None:
        schedule = out / "schedule.json"
        if not schedule.exists():
            schedule.write_text(json.dumps({"started": time.time()}))
        started = json.loads(schedule.read_text())["started"]
        pad = export.vocabulary_of(vocabulary)[tokenizer.FIM_PAD]
        train.main([str(windows), str(out / "run"), "--preset", args.preset, "--pad", str(pad), "--held-out", str(held_out),
                    "--started", str(started), "--deadline", str(started + 60 * args.minutes),
                    "--early-minutes", str(args.early_minutes), "--early-decay-minutes", str(args.minutes / 25), *(["--no-compile"] if args.no_compile else [])])

    def measure() -> None:
        with (out / "table.md").open("w") as file, contextlib.redirect_stdout(file):
            evaluate.main([str(final), str(vocabulary), str(corpus / "held_out.jsonl"), "--length", str(args.length)])

    def write_model() -> None:
        model = out / "surmise.gguf"
        export.main([str(final), str(vocabulary), str(model), "--context-length", str(args.length)])
        bundle.split(model, args.part_mb)

    stage("unpack", corpus / "train.jsonl", lambda: bundle.unpack(args.bundle, corpus))
    stage("tokenizer", vocabulary,
          lambda: tokenizer.main([str(corpus / "train.jsonl"), str(vocabulary), "--vocab-size", str(vocab_size)]))
    stage("held-out windows", held_out, lambda: windows_of("held_out", held_out))
    stage("windows", windows, lambda: windows_of("train", windows))
    stage("training", final, learn)
    stage("evaluation", out / "table.md", measure)
    stage("export", out / "surmise.gguf.000", write_model)
    print((out / "table.md").read_text())


if __name__ == "__main__":
    main()
