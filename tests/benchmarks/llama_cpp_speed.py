#!/usr/bin/env python3
"""Measures a GGUF file once with llama.cpp, as `surmise bench --rounds 1` does with Surmise: llama_cpp_speed.py FILE THREADS

Prints JSON. Prompts, answers and steps are as long as there (server/src/bench/speed.rs), but nothing is sampled here. What is
timed is `llama_decode` and its end; Python only fills in the next token between two steps.
"""

import ctypes
import json
import statistics
import sys
import time

import llama_cpp

PREFILL_TOKENS = [32, 64, 128, 256, 512]
DECODE_TOKENS = 64
STEP_ROWS = [1, 2, 4, 8, 12, 16, 24, 32, 64]
STEP_CONTEXT = 128
STEP_SECONDS = 0.04
BATCHES = [1, 2, 4, 8, 16, 32]
BATCH_TOKENS = 32
MAX_ROWS = BATCHES[-1] * BATCH_TOKENS


class Runner:
    """A context, and one batch that every step is laid out in."""

    def __init__(self, path: str, n_threads: int):
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = BATCHES[-1] * 2 * BATCH_TOKENS
        params.n_batch, params.n_ubatch = MAX_ROWS, 512
        params.n_seq_max, params.kv_unified = BATCHES[-1], True
        params.n_threads = params.n_threads_batch = n_threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.batch = llama_cpp.llama_batch_init(MAX_ROWS, 0, 1)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def forget(self) -> None:
        llama_cpp.llama_memory_clear(self.memory, False)

    def run(self, rows: list[tuple[int, int]], wanted: str) -> float:
        """Runs rows of (sequence, position), with the logits of `all`, the `last` or `none` of them; seconds."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for index, (sequence, position) in enumerate(rows):
            batch.token[index] = (sequence + position * 7919 + 1) % self.vocab
            batch.pos[index], batch.n_seq_id[index], batch.seq_id[index][0] = position, 1, sequence
            batch.logits[index] = wanted == "all" or (wanted == "last" and index == len(rows) - 1)
        started = time.perf_counter()
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        llama_cpp.llama_synchronize(self.context)
        return time.perf_counter() - started

    def prefill(self, n_tokens: int) -> float:
        self.forget()
        return n_tokens / self.run([(0, position) for position in range(n_tokens)], "last")

    def decode(self, n_tokens: int) -> float:
        self.prefill(BATCH_TOKENS)
        return n_tokens / sum(self.run([(0, BATCH_TOKENS + index)], "all") for index in range(n_tokens))

    def step_milliseconds(self, n_rows: int) -> float:
        rows = [(0, STEP_CONTEXT + index) for index in range(n_rows)]
        times, started = [], time.perf_counter()
        while len(times) < 4 or time.perf_counter() - started < STEP_SECONDS:
            llama_cpp.llama_memory_seq_rm(self.memory, 0, STEP_CONTEXT, -1)
            times.append(self.run(rows, "all"))
        return statistics.median(times[1:]) * 1e3

    def together(self, n_sequences: int) -> float:
        self.forget()
        prompt = [(sequence, position) for sequence in range(n_sequences) for position in range(BATCH_TOKENS)]
        self.run(prompt, "none")
        steps = ([(sequence, BATCH_TOKENS + index) for sequence in range(n_sequences)] for index in range(BATCH_TOKENS))
        return n_sequences * BATCH_TOKENS / sum(self.run(rows, "all") for rows in steps)


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def say_nothing(_level, _text, _data) -> None:
    """llama.cpp logs to standard error without being asked."""


def main() -> None:
    llama_cpp.llama_log_set(say_nothing, None)
    llama_cpp.llama_backend_init()
    runner = Runner(sys.argv[1], int(sys.argv[2]))
    runner.decode(DECODE_TOKENS // 4)
    results = {
        "decode": runner.decode(DECODE_TOKENS),
        "together": {n: runner.together(n) for n in BATCHES},
        "prefill": {n: runner.prefill(n) for n in PREFILL_TOKENS},
    }
    runner.prefill(STEP_CONTEXT)
    results["step"] = {n: runner.step_milliseconds(n) for n in STEP_ROWS}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
