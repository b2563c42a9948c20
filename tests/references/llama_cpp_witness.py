#!/usr/bin/env python3
"""Compares llama.cpp, as a second witness, with transformers and with this engine, on the committed GGUF fixtures.

For each tests/fixtures/references/<model>/*.gguf: the logits after each token of the prompt, and 40 tokens that llama.cpp
writes greedily from there, which are then given to this engine, so that a near tie does not end the comparison. Files in
plain numbers are widened to single precision for llama.cpp, which would round activations to the weights' type. Prints a row
for each file, as shares of the spread of the logits (root mean squares; `worst` is that of the worst position):

  transformers  how far llama.cpp is from transformers, in files of plain numbers
  surmise       how far llama.cpp is from this engine
  greedy        of how many of the 40 tokens this engine writes the same; `gap` is the largest distance between the two best
                logits of llama.cpp where it does not

Needs numpy, safetensors, llama-cpp-python, and `cargo build --release -p surmise-engine --example logits`.

usage: llama_cpp_witness.py [MODEL ...]
"""

import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures/references"
LOGITS = ROOT / "target/release/examples/logits"
N_GREEDY = 40
ALL_F32 = 0


def overrides(name: str):
    """Metadata for llama.cpp in place of what it goes by in files of released sizes."""
    changed = (llama_cpp.llama_model_kv_override * 3)()  # An empty key is the end.
    # Of a Phi-3 by name it expects certain tokens.
    changed[0].tag, changed[0].key = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR, b"general.name"
    changed[0].value.val_str = b"fixture"
    # It knows by 27 layers that there is no such rank, and by 47 and a vocabulary that the gate is a sigmoid.
    numbers = {"deepseek-v2-lite": ("attention.q_lora_rank", 0), "glm4-lite": ("expert_gating_func", 2)}
    if name in numbers:
        key, number = numbers[name]
        changed[1].tag, changed[1].key = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT, f"deepseek2.{key}".encode()
        changed[1].value.val_i64 = number
    return changed


def widen(source: Path, target: Path) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = ALL_F32, 1, True
    changed = overrides(source.parent.name)
    params.kv_overrides = ctypes.cast(changed, type(params.kv_overrides))
    if llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(params)) != 0:
        raise RuntimeError(f"llama.cpp could not widen {source}")


class LlamaCpp:
    """A model in llama.cpp, with keys and values in single precision."""

    def __init__(self, path: Path):
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(bytes(path), params)
        if not self.model:
            raise RuntimeError("llama.cpp does not load it")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 512, 512, 1, 1
        params.type_k = params.type_v = 0
        params.flash_attn_type = 0
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.length = 0

    def run(self, ids) -> np.ndarray:
        """Logits after each of some tokens that follow those before, (ids, vocabulary)."""
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index], batch.pos[index], batch.n_seq_id[index] = int(token), self.length + index, 1
            batch.seq_id[index][0], batch.logits[index] = 0, 1
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama.cpp does not run it")
        llama_cpp.llama_batch_free(batch)
        self.length += len(ids)
        rows = [llama_cpp.llama_get_logits_ith(self.context, index) for index in range(len(ids))]
        return np.stack([np.ctypeslib.as_array(row, (self.size,)).copy() for row in rows]).astype(np.float32)

    def close(self) -> None:
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)


def surmise(path: Path, ids) -> np.ndarray:
    output = subprocess.run([LOGITS, path, *map(str, ids)], check=True, capture_output=True).stdout
    return np.frombuffer(output, np.float32).reshape(len(ids), -1)


def distance(found: np.ndarray, expected: np.ndarray) -> str:
    """Root mean square over all positions and at the worst, as shares of the spread."""
    squares = ((found - expected) ** 2).mean(1)
    spread = expected.std()
    return f"{np.sqrt(squares.mean()) / spread:.1e}, worst {np.sqrt(squares.max()) / spread:.1e}"


def compare(path: Path) -> str:
    known = load_file(path.parent / "expected.safetensors")
    prompt = known["input_ids"].ravel().tolist()
    is_plain = path.stem == "bf16"  # But for experts that are published in MXFP4.
    with tempfile.TemporaryDirectory() as folder:
        witness_path = path
        if is_plain:
            witness_path = Path(folder) / "f32.gguf"
            widen(path, witness_path)
        witness = LlamaCpp(witness_path)
        logits, greedy = [witness.run(prompt)], []
        while len(greedy) < N_GREEDY:
            greedy.append(int(logits[-1][-1].argmax()))
            logits.append(witness.run(greedy[-1:]))
        witness.close()
        logits = np.concatenate(logits)
    ours = surmise(path, prompt + greedy)
    far = distance(logits[: len(prompt)], known["logits"].reshape(len(prompt), -1)) if is_plain else ""
    steps = range(len(prompt) - 1, len(prompt) - 1 + N_GREEDY)
    wrong = [step for step in steps if ours[step].argmax() != logits[step].argmax()]
    gaps = [np.diff(np.sort(logits[step])[-2:])[0] for step in wrong]
    gap = f", gap {max(gaps):.2f}" if gaps else ""
    return f"{far} | {distance(ours, logits)} | {N_GREEDY - len(wrong)} of {N_GREEDY}{gap}"


def main() -> None:
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    print("| file | transformers | surmise | greedy |\n| --- | --- | --- | --- |")
    for path in sorted(FIXTURES.glob("*/*.gguf")):
        name = path.parent.name
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        try:
            row = compare(path)
        except RuntimeError as error:
            row = f"{error} | |"
        print(f"| `{name}/{path.name}` | {row} |", flush=True)


if __name__ == "__main__":
    main()
