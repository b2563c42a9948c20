#!/usr/bin/env python3
"""Small edits with the embedded model by Surmise and by llama.cpp, each with and without drafts. See README.md.

Run with an interpreter that has llama_cpp: `target/benchmarks/llama.cpp/bin/python tests/benchmarks/edits.py`. The draft model of both is
the same model with weights of half the size.
"""

import json
import subprocess
import time
import tomllib

from llama_cpp_drafts import EMBEDDED_MODEL, REPOSITORY, LlamaDraftModel, drafters, half_size, load

CASES = REPOSITORY / "tests/fixtures/edits/cases.toml"


def surmise(*options: str) -> list[dict]:
    """The outcome of every case: `after`, `elapsed_ms`."""
    command = [REPOSITORY / "target/release/surmise", "eval", "--edits", CASES, "--json", *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["edits"]


def prompts() -> list[str]:
    found = []
    for case in tomllib.loads(CASES.read_text())["case"]:
        first, last = case["lines"]
        lines = (CASES.parent / case["file"]).read_text().split("\n")
        region = "\n".join(lines[first - 1 : last])
        found.append(
            f"<|file_sep|>{case['file']}\n<|im_start|>{case['instruction']}<|im_end|><|edit_region|>{region}<|edit_result|>"
        )
    return found


def llama(drafts: LlamaDraftModel | None) -> list[dict]:
    model = load(EMBEDDED_MODEL, drafts)
    outcomes = []
    for prompt in prompts():
        tokens = model.tokenize(prompt.encode(), add_bos=False, special=True)
        model.reset()
        started = time.perf_counter()
        answer = model.create_completion(tokens, max_tokens=1024, temperature=0.0)
        elapsed_ms = (time.perf_counter() - started) * 1e3
        outcomes.append({"after": answer["choices"][0]["text"], "elapsed_ms": elapsed_ms})
    return outcomes


def main() -> None:
    draft_model = half_size(EMBEDDED_MODEL)
    runs = {
        "Surmise, one token a step": lambda: surmise("--no-speculation"),
        "Surmise, drafts": surmise,
        "Surmise, drafts and a draft model": lambda: surmise("--draft-model", draft_model),
    }
    for name, make in drafters(draft_model).items():
        runs[f"llama.cpp, {name}"] = lambda make=make: llama(make())
    # In turns, so that all see the machine in the same moods; the fastest of three counts.
    rounds = {name: [] for name in runs}
    for _ in range(3):
        for name, run in runs.items():
            rounds[name].append(run())
    texts = {name: [outcome["after"] for outcome in of[0]] for name, of in rounds.items()}
    reference = [after.get("Ok") for after in texts["Surmise, one token a step"]]
    print("| | ms for all 50 edits | same text as Surmise without drafts |\n| --- | --: | --: |")
    for name, of in rounds.items():
        total = min(sum(outcome["elapsed_ms"] for outcome in outcomes) for outcomes in of)
        same = sum((it.get("Ok") if isinstance(it, dict) else it) == other for it, other in zip(texts[name], reference))
        print(f"| {name} | {total:,.0f} | {same} |")


if __name__ == "__main__":
    main()
