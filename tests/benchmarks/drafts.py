#!/usr/bin/env python3
"""Completions, edits of whole functions and quotations by Surmise and by llama.cpp, each with and without drafts. See README.md.

Run with an interpreter that has llama_cpp: `target/benchmarks/llama.cpp/bin/python tests/benchmarks/drafts.py FOLDER`.
"""

import argparse
import json
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from llama_cpp_drafts import EMBEDDED_MODEL, REPOSITORY, Answer, drafters, half_size, load

WORKLOADS = ["complete", "rename", "add parameter", "wrap", "quotes", "quote"]
PLAIN = "one token a step"
# Tokens that a step may hold beyond the answer.
ROOM = 64


class Speeds:
    """Tokens/s of each round, and tokens a step, by workload and by who wrote."""

    def __init__(self) -> None:
        self.rounds = defaultdict(list)
        self.tokens_per_step = {}

    def add(self, workload: str, who: tuple[str, str], tokens_per_second: float, tokens_per_step: float) -> None:
        self.rounds[workload, who].append(tokens_per_second)
        self.tokens_per_step[workload, who] = tokens_per_step

    def table(self) -> Iterator[str]:
        yield "| | | | tokens/s | over its own plain decoding | tokens a step |"
        yield "| --- | --- | --- | --: | --: | --: |"
        for (workload, (engine, drafts)), speeds in sorted(self.rounds.items(), key=lambda it: WORKLOADS.index(it[0][0])):
            pairs = zip(speeds, self.rounds[workload, (engine, PLAIN)])
            gain = statistics.median(speed / plain for speed, plain in pairs)
            tokens_per_step = self.tokens_per_step[workload, (engine, drafts)]
            speed = statistics.median(speeds)
            yield f"| {workload} | {engine} | {drafts} | {speed:,.{0 if speed >= 100 else 1}f} | {gain:.2f}x | {tokens_per_step:.2f} |"


def surmise(args: argparse.Namespace, *options: str | Path) -> list[dict]:
    """What `surmise bench --speculation` reports of each workload, after one round."""
    command = [REPOSITORY / "target/release/surmise", "bench", "--speculation", "--model", args.model, "--json"]
    command += ["--with-tokens", "--folder", args.folder, "--tasks", str(args.tasks), "--rounds", "1"]
    command += [part for workload in args.workload for part in ("--workload", workload)]
    output = subprocess.run([*command, *options], check=True, stdout=subprocess.PIPE).stdout
    return json.loads(output)["workloads"]


def add_surmise(speeds: Speeds, workloads: list[dict], drafts: str, with_plain: bool) -> None:
    for it in workloads:
        counts, plain = it["counts"], it["plain_tokens_per_second"]["median"]
        if with_plain:
            speeds.add(it["name"], ("Surmise", PLAIN), plain, 1.0)
        # Plain decoding ran in turns with these drafts; relative to the plain decoding of the table.
        speed = speeds.rounds[it["name"], ("Surmise", PLAIN)][-1] * it["gain"]["median"]
        speeds.add(it["name"], ("Surmise", drafts), speed, counts["emitted"] / counts["steps"])


def add_llama_cpp(speeds: Speeds, workloads: list[dict], model: Path, draft_model: Path) -> None:
    tasks = [task for it in workloads for task in it["tokens"]]
    n_ctx = max(len(task["prompt"]) + task["max_tokens"] for task in tasks) + ROOM
    for drafts, make in drafters(draft_model, n_ctx).items():
        llama = load(model, make(), n_ctx)
        for it in workloads:
            answers = [llama.answer(task["prompt"], task["max_tokens"], task["dictated"]) for task in it["tokens"]]
            sums = Answer(*(sum(column) for column in zip(*(vars(answer).values() for answer in answers))))
            tokens_per_step = sums.n_tokens / max(sums.n_steps, 1)
            speeds.add(it["name"], ("llama.cpp", drafts), sums.n_tokens / sums.seconds, tokens_per_step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="source files that the model was not trained on")
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL, help="a GGUF file")
    parser.add_argument("--draft-model", type=Path, help="for both; the model itself in 4 bits if there is none")
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="these only; may be given several times")
    parser.add_argument("--tasks", type=int, default=2, help="of each workload")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.workload = args.workload or []
    draft_model = args.draft_model or half_size(args.model)
    speeds = Speeds()
    # In turns, so that all see the machine in the same moods.
    for _ in range(args.rounds):
        workloads = surmise(args)
        add_surmise(speeds, workloads, "drafts", with_plain=True)
        add_surmise(speeds, surmise(args, "--draft-model", draft_model), "drafts and a draft model", with_plain=False)
        add_llama_cpp(speeds, workloads, args.model, draft_model)
    print(f"{args.model.name}: medians of {args.rounds} rounds in turns, {args.tasks} tasks of each kind.\n")
    print("\n".join(speeds.table()))


if __name__ == "__main__":
    main()
