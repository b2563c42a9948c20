#!/usr/bin/env python3
"""Small edits with the embedded model by Surmise and by llama.cpp, each with and without drafts. See README.md.

Run with an interpreter that has llama_cpp: `target/benchmarks/llama.cpp/bin/python tests/benchmarks/edits.py`. llama.cpp drafts by prompt
lookup, the only speculation that llama-cpp-python has.
"""

import json
import os
import subprocess
import time
import tomllib
from pathlib import Path

import llama_cpp
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CASES = REPOSITORY / "tests/fixtures/edits/cases.toml"
MODEL = REPOSITORY / "engine/weights/surmise.gguf"
N_THREADS = os.cpu_count()


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


def llama(drafts: LlamaPromptLookupDecoding | None) -> list[dict]:
    model = llama_cpp.Llama(
        str(MODEL), n_ctx=4096, n_threads=N_THREADS, n_threads_batch=N_THREADS, draft_model=drafts, verbose=False
    )
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
    runs = {
        "Surmise, one token a step": lambda: surmise("--no-speculation"),
        "Surmise, drafts": surmise,
        "llama.cpp, one token a step": lambda: llama(None),
        "llama.cpp, prompt lookup of 10 tokens": lambda: llama(LlamaPromptLookupDecoding(num_pred_tokens=10)),
    }
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
