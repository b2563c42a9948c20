#!/usr/bin/env python3
"""Small edits with the embedded model by Surmise and by llama.cpp, each with and without drafts. See README.md.

Run with an interpreter that has llama_cpp: `target/benchmarks/llama.cpp/bin/python tests/benchmarks/edits.py`. The draft model of both is
the same model with weights of half the size.
"""

import ctypes
import itertools
import json
import os
import subprocess
import time
import tomllib
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp.llama_speculative import LlamaDraftModel, LlamaPromptLookupDecoding

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CASES = REPOSITORY / "tests/fixtures/edits/cases.toml"
MODEL = REPOSITORY / "engine/weights/surmise.gguf"
DRAFT_MODEL = REPOSITORY / "target/benchmarks/surmise-q4_0.gguf"
N_THREADS = os.cpu_count()
N_DRAFTED = 10


def make_draft_model() -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    params.allow_requantize = True
    DRAFT_MODEL.parent.mkdir(parents=True, exist_ok=True)
    if llama_cpp.llama_model_quantize(bytes(MODEL), bytes(DRAFT_MODEL), ctypes.byref(params)) != 0:
        raise RuntimeError(f"llama.cpp could not quantise {MODEL}")


class DraftModel(LlamaDraftModel):
    """Drafts what a smaller model writes; it keeps what it has read of the text."""

    def __init__(self) -> None:
        self.model = load(DRAFT_MODEL, None)

    def __call__(self, input_ids: np.ndarray, /, **_: object) -> np.ndarray:
        tokens = self.model.generate(input_ids.tolist(), temp=0.0)
        ending = itertools.takewhile(lambda token: token != self.model.token_eos(), tokens)
        return np.fromiter(itertools.islice(ending, N_DRAFTED), dtype=np.intc)


def load(path: Path, drafts: LlamaDraftModel | None) -> llama_cpp.Llama:
    return llama_cpp.Llama(
        str(path), n_ctx=4096, n_threads=N_THREADS, n_threads_batch=N_THREADS, draft_model=drafts, verbose=False
    )


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
    model = load(MODEL, drafts)
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
    make_draft_model()
    runs = {
        "Surmise, one token a step": lambda: surmise("--no-speculation"),
        "Surmise, drafts": surmise,
        "Surmise, drafts and a draft model": lambda: surmise("--draft-model", DRAFT_MODEL),
        "llama.cpp, one token a step": lambda: llama(None),
        "llama.cpp, prompt lookup": lambda: llama(LlamaPromptLookupDecoding(num_pred_tokens=N_DRAFTED)),
        "llama.cpp, a draft model": lambda: llama(DraftModel()),
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
