"""Writes what llama.cpp generates greedily with the embedded model: the reference for the engine's whole forward pass.

    pip install llama-cpp-python==0.3.36
    python embedded_greedy.py ../../engine/weights/surmise.gguf ../fixtures/embedded/greedy.json

Each case: `prompt` (token ids), `greedy` (32 token ids; end tokens do not stop it), and per step `gap`, the likeliest token's
logit less the second one's. Where a gap is small, another summation order may choose the other token; a test should stop
comparing there. Cache f32, flash attention off.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
from llama_cpp import GGML_TYPE_F32, Llama, __version__

N_TOKENS = 32
SUFFIX, PREFIX, FILE, REPO = "<|fim_suffix|>", "<|fim_prefix|>", "<|file_sep|>", "<|repo_name|>"

# Name and pieces; special tokens are pieces of their own. Holes are in SPM order, as served: the middle follows the prefix.
CASES: list[tuple[str, list[str]]] = [
    ("rust, rest of line", [FILE, "src/lib.rs\n", SUFFIX, "\n    }\n    total\n}\n", PREFIX,
     "/// Sums the even numbers.\npub fn sum_even(numbers: &[u32]) -> u32 {\n    let mut total = 0;\n    for number in numbers {\n        if "]),
    ("rust, struct literal", [SUFFIX, "\n}\n", PREFIX,
     "pub struct Point {\n    pub x: f32,\n    pub y: f32,\n}\n\npub fn origin() -> Point {\n    Point { x: 0.0, "]),
    ("rust, other file", [REPO, "shapes\n", FILE, "src/circle.rs\n", "pub struct Circle {\n    pub radius: f64,\n}\n", FILE, "src/area.rs\n",
     SUFFIX, "\n}\n", PREFIX, "use crate::circle::Circle;\n\npub fn area(circle: &Circle) -> f64 {\n    "]),
    ("python, method", [FILE, "stack.py\n", SUFFIX, "\n\n    def peek(self):\n        return self.items[-1]\n", PREFIX,
     "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n        self.items.append(item)\n\n    def pop(self):\n        "]),
    ("python, nothing to add", [SUFFIX, "\n    return total\n", PREFIX, "def add(a, b):\n    total = a + b"]),
    ("typescript", [FILE, "src/user.ts\n", SUFFIX, "\n}\n", PREFIX,
     "export interface User {\n  id: number;\n  name: string;\n}\n\nexport function greet(user: User): string {\n  return "]),
    ("javascript", [SUFFIX, "\n});\n", PREFIX, "const express = require('express');\nconst app = express();\n\napp.get('/', (req, res) => {\n  "]),
    ("go", [FILE, "main.go\n", SUFFIX, "\n\treturn data, nil\n}\n", PREFIX,
     "package main\n\nfunc read(path string) ([]byte, error) {\n\tdata, err := os.ReadFile(path)\n\tif err != nil {\n\t\t"]),
    ("c", [SUFFIX, "\n    return n;\n}\n", PREFIX, "#include <stddef.h>\n\nsize_t length(const char *s) {\n    size_t n = 0;\n    while (s[n] != "]),
    ("java", [FILE, "Counter.java\n", SUFFIX, "\n    }\n}\n", PREFIX,
     "public class Counter {\n    private int count;\n\n    public int getCount() {\n        "]),
    ("plain rust", ["use std::collections::HashMap;\n\nfn main() {\n    let mut counts: HashMap<String, usize> = HashMap::new();\n"]),
    ("plain text, not ASCII", ["# Grüße — 你好, мир 🦀\n\ndef "]),
]


def generate(model: Llama, prompt: list[int]) -> dict:
    model.reset()
    model.eval(prompt)
    greedy, gaps = [], []
    for _ in range(N_TOKENS):
        logits = np.array(model.scores[model.n_tokens - 1])
        second, first = np.argsort(logits)[-2:]
        greedy.append(int(first))
        gaps.append(round(float(logits[first] - logits[second]), 5))
        model.eval([int(first)])
    return {"prompt": prompt, "greedy": greedy, "gap": gaps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    model = Llama(str(args.model), n_ctx=512, n_threads=1, n_threads_batch=1, logits_all=True, flash_attn=False,
                  type_k=GGML_TYPE_F32, type_v=GGML_TYPE_F32, verbose=False)
    cases = []
    for name, pieces in CASES:
        prompt = [token for piece in pieces for token in model.tokenize(piece.encode(), add_bos=False, special=piece.startswith("<|"))]
        case = {"name": name, **generate(model, prompt)}
        case["text"] = model.detokenize(case["greedy"], special=True).decode(errors="replace")
        cases.append(case)
    result = {
        "model_sha256": hashlib.sha256(args.model.read_bytes()).hexdigest(),
        "llama_cpp_python": __version__,
        "cases": cases,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n")


if __name__ == "__main__":
    main()
