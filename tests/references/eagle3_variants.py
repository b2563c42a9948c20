#!/usr/bin/env python3
"""Variants of the EAGLE-3 head in FIXTURES/eagle3/draft, as SGLang and vLLM run them, in plain numpy.

Writes FIXTURES/eagle3/variants/: fc_norm.safetensors and input_norm.safetensors with the weights that two of them have besides,
and expected.safetensors, for each VARIANT below:
  VARIANT.logits   (draft vocabulary)  after the prompt of FIXTURES/eagle3/expected.safetensors
  VARIANT.rolled   (hidden)            what the head makes of the prompt's last row
  VARIANT.chain    (4)                 the most probable tokens from there on, each after the one before

Needs numpy and safetensors. usage: eagle3_variants.py FIXTURES
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

EPSILON, THETA = 1e-6, 1_000_000.0
N_HEADS, N_KV_HEADS, HEAD_DIM = 4, 2, 16

PLAIN = dict(norms=None, norm_before_residual=False, rolls_normed=False, rope=None)
VARIANTS = {
    "plain": {},
    "norm_before_residual": dict(norm_before_residual=True),
    "norm_before_fc": dict(norms="input_norm"),
    "fc_norm": dict(norms="fc_norm"),
    "norm_output": dict(rolls_normed=True),
    "eagle_3.1": dict(norms="fc_norm", rolls_normed=True),
    "llama3": dict(rope="llama3"),
    "yarn": dict(rope="yarn"),
    "linear": dict(rope="linear"),
}


def read_bf16(path):
    """Tensors of a file in bf16, which numpy does not have; others are left out."""
    data = path.read_bytes()
    n_header = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + n_header]).items():
        if name == "__metadata__":
            continue
        start, end = (8 + n_header + it for it in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            halves = np.frombuffer(data[start:end], np.uint16).astype(np.uint32)
            tensors[name] = (halves << 16).view(np.float32).reshape(entry["shape"]).astype(np.float64)
        elif entry["dtype"] == "I64":
            tensors[name] = np.frombuffer(data[start:end], np.int64)
    return tensors


def rms(x, weight):
    return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON)


def frequencies(kind):
    """Radians per position of each pair, and what the rotated pairs are multiplied by; first trained on 16 positions."""
    pairs = np.arange(0, HEAD_DIM, 2)
    plain, original = THETA ** (-pairs / HEAD_DIM), 16
    if kind is None:
        return plain, 1.0
    if kind == "linear":
        return plain / 4.0, 1.0
    turns = original * plain / (2 * math.pi)
    if kind == "llama3":
        mix = np.clip((turns - 0.2) / (1.5 - 0.2), 0, 1)
        return plain * mix + plain / 4.0 * (1 - mix), 1.0
    if kind == "yarn":
        pair = lambda n: HEAD_DIM * math.log(original / (n * 2 * math.pi)) / (2 * math.log(THETA))
        low, high = max(math.floor(pair(2.0)), 0), min(math.ceil(pair(0.1)), HEAD_DIM - 1)
        stretched = np.clip((np.arange(HEAD_DIM // 2) - low) / max(high - low, 0.001), 0, 1)
        return plain / 4.0 * stretched + plain * (1 - stretched), 0.1 * math.log(4.0) + 1
    raise ValueError(kind)


def rotate(x, positions, kind):
    speeds, amplitude = frequencies(kind)
    angles = positions[:, None] * speeds
    cos, sin = np.cos(angles)[:, None] * amplitude, np.sin(angles)[:, None] * amplitude
    left, right = x[..., : HEAD_DIM // 2], x[..., HEAD_DIM // 2 :]
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], -1)


class Head:
    def __init__(self, weights, variant):
        self.weights, self.variant = weights, variant
        self.keys, self.values = np.zeros((0, N_KV_HEADS, HEAD_DIM)), np.zeros((0, N_KV_HEADS, HEAD_DIM))

    def fuse(self, captured):
        w, norms = self.weights, self.variant["norms"]
        if norms == "input_norm":
            captured = rms(captured, w["input_norm.weight"])
        if norms == "fc_norm":
            parts = np.split(captured, 3, -1)
            captured = np.concatenate([rms(it, w[f"fc_norm.{i}.weight"]) for i, it in enumerate(parts)], -1)
        return captured @ w["fc.weight"].T

    def run(self, embeddings, features, first):
        """Appends rows of one sequence; what is rolled on and the scores of each."""
        layer = lambda name: self.weights[f"midlayer.{name}.weight"]
        n_rows, positions = len(features), first + np.arange(len(features))
        normed = rms(features, layer("hidden_norm"))
        x = np.concatenate([rms(embeddings, layer("input_layernorm")), normed], -1)
        heads = lambda name, n: (x @ layer(f"self_attn.{name}_proj").T).reshape(n_rows, n, HEAD_DIM)
        query = rotate(heads("q", N_HEADS), positions, self.variant["rope"])
        key = rotate(heads("k", N_KV_HEADS), positions, self.variant["rope"])
        self.keys = np.concatenate([self.keys, key])
        self.values = np.concatenate([self.values, heads("v", N_KV_HEADS)])
        keys, values = (np.repeat(it, N_HEADS // N_KV_HEADS, 1) for it in (self.keys, self.values))
        scores = np.einsum("nhd,mhd->hnm", query, keys) / math.sqrt(HEAD_DIM)
        scores[:, np.arange(len(keys)) > positions[:, None]] = -np.inf
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        attended = np.einsum("hnm,mhd->nhd", shares, values).reshape(n_rows, -1)
        start = normed if self.variant["norm_before_residual"] else features
        residual = start + attended @ layer("self_attn.o_proj").T
        x = rms(residual, layer("post_attention_layernorm"))
        gate = x @ layer("mlp.gate_proj").T
        residual = residual + (gate / (1 + np.exp(-gate)) * (x @ layer("mlp.up_proj").T)) @ layer("mlp.down_proj").T
        output = rms(residual, self.weights["norm.weight"])
        return output if self.variant["rolls_normed"] else residual, output @ self.weights["lm_head.weight"].T


def main(fixtures):
    folder = Path(fixtures) / "eagle3"
    weights = read_bf16(folder / "draft/model.safetensors")
    embedding = read_bf16(folder / "target/model.safetensors")["model.embed_tokens.weight"]
    prompt = load_file(folder / "expected.safetensors")
    random = np.random.default_rng(7)
    norm = lambda width: (1 + 0.3 * random.standard_normal(width)).astype(np.float32)
    hidden = embedding.shape[1]
    extra = {
        "fc_norm": {f"fc_norm.{i}.weight": norm(hidden) for i in range(3)},
        "input_norm": {"input_norm.weight": norm(3 * hidden)},
    }
    (folder / "variants").mkdir(exist_ok=True)
    for name, tensors in extra.items():
        save_file(tensors, folder / f"variants/{name}.safetensors", {"format": "pt"})
        weights |= {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    tokens = np.concatenate([prompt["input_ids"][1:], prompt["first"]])
    expected = {}
    for name, changes in VARIANTS.items():
        head = Head(weights, PLAIN | changes)
        rolled, logits = head.run(embedding[tokens], head.fuse(prompt["aux"].astype(np.float64)), 0)
        rolled, logits = rolled[-1:], logits[-1:]
        expected |= {f"{name}.rolled": rolled[0], f"{name}.logits": logits[0]}
        chain = []
        for position in range(len(tokens), len(tokens) + 4):
            token = int(logits.argmax())
            chain.append(token + int(weights["d2t"][token]))
            rolled, logits = head.run(embedding[chain[-1:]], rolled, position)
        expected[f"{name}.chain"] = np.array(chain, np.int64)
    assert np.abs(expected["plain.logits"] - prompt["prefill_logits"][-1]).max() < 1e-4
    assert (expected["plain.chain"] == prompt["chain_tokens"]).all()
    # Nobody mistakes one for another.
    rolled = [expected[f"{name}.rolled"] for name in VARIANTS]
    assert min(np.abs(a - b).max() for i, a in enumerate(rolled) for b in rolled[:i]) > 0.05
    kept = {name: it.astype(np.float32) if it.dtype == np.float64 else it for name, it in expected.items()}
    save_file(kept, folder / "variants/expected.safetensors")
    for name in VARIANTS:
        print(name, expected[f"{name}.chain"])


if __name__ == "__main__":
    main(sys.argv[1])
