#!/usr/bin/env python3
"""Makes a GGUF file with the shape of a real model and random weights: random_weights.py SHAPE KIND OUT.gguf

Random weights cost as much time as trained ones. The vocabulary is that of the model inside the program, so that code
has about as many tokens as it should, and made-up words up to the size of the real one.
"""

import argparse
import ctypes
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import gguf
import llama_cpp
import numpy as np


@dataclass(frozen=True)
class Shape:
    n_layers: int
    hidden: int
    feed_forward: int
    n_heads: int
    n_kv_heads: int
    vocab: int
    context_length: int


# The first two are Qwen2.5-Coder's; the last is what a model inside the program may grow to.
SHAPES = {
    "0.5b": Shape(24, 896, 4864, 14, 2, 151_936, 32_768),
    "1.5b": Shape(28, 1536, 8960, 12, 2, 151_936, 32_768),
    "40m": Shape(12, 512, 1280, 8, 2, 16_384, 4_096),
}
# llama.cpp's numbers for them.
KINDS = {"f16": 1, "q4_0": 2, "q8_0": 7, "q4_k_m": 15, "bf16": 32}
EMBEDDED_MODEL = Path(__file__).resolve().parents[2] / "engine/weights/surmise.gguf"


def add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    field = gguf.GGUFReader(EMBEDDED_MODEL).get_field
    tokens, types, merges, end = (
        field(f"tokenizer.ggml.{name}").contents() for name in ("tokens", "token_type", "merges", "eos_token_id")
    )
    n_words = size - len(tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens + [f"<made-up word {index}>" for index in range(n_words)])
    writer.add_token_types(types + [gguf.TokenType.NORMAL] * n_words)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(end)


def write_half_precision(shape: Shape, name: str, path: Path) -> None:
    """Writes the weights as F16, with the tied embedding and the biases of a Qwen2."""
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name(name)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    add_vocabulary(writer, shape.vocab)

    def matrix(tensor: str, outputs: int, inputs: int) -> None:
        weights = random.standard_normal((outputs, inputs), dtype=np.float32)
        weights *= 1 / np.sqrt(inputs)
        writer.add_tensor(f"{tensor}.weight", weights.astype(np.float16))

    def vector(tensor: str, values: np.ndarray) -> None:
        writer.add_tensor(tensor, values.astype(np.float32))

    hidden, feed_forward = shape.hidden, shape.feed_forward
    key_width = hidden // shape.n_heads * shape.n_kv_heads
    matrix("token_embd", shape.vocab, hidden)
    vector("output_norm.weight", np.ones(hidden))
    for layer in range(shape.n_layers):
        block = f"blk.{layer}"
        vector(f"{block}.attn_norm.weight", np.ones(hidden))
        vector(f"{block}.ffn_norm.weight", np.ones(hidden))
        for part, width in [("q", hidden), ("k", key_width), ("v", key_width)]:
            matrix(f"{block}.attn_{part}", width, hidden)
            vector(f"{block}.attn_{part}.bias", random.standard_normal(width) * 0.1)
        matrix(f"{block}.attn_output", hidden, hidden)
        matrix(f"{block}.ffn_gate", feed_forward, hidden)
        matrix(f"{block}.ffn_up", feed_forward, hidden)
        matrix(f"{block}.ffn_down", hidden, feed_forward)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source: Path, target: Path, kind: str) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = KINDS[kind]
    if llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(params)) != 0:
        raise RuntimeError(f"llama.cpp could not quantise {source}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    # Written beside its place and then moved there: a file that exists is whole.
    with tempfile.TemporaryDirectory(dir=args.out.parent) as folder:
        whole, quantised = Path(folder) / "f16.gguf", Path(folder) / "quantised.gguf"
        write_half_precision(SHAPES[args.shape], f"{args.shape} {args.kind}, random weights", whole)
        quantise(whole, quantised, args.kind)
        os.replace(quantised, args.out)


if __name__ == "__main__":
    main()
