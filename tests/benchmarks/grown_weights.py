#!/usr/bin/env python3
"""Makes a larger model that says what the model inside the program says: grown_weights.py OUT.gguf

Every matrix of the model inside is padded with zeros to a shape of 0.4 billion weights, and layers are added that add nothing (function-preserving
growth: Chen et al. 2016, "Net2Net"). What it costs to run is what a model of that size costs, and what it writes is written, not dictated: so
drafts are measured on real answers at the cost of a model that memory limits. Q8_0.
"""

import argparse
import os
from pathlib import Path

import gguf
import numpy as np

EMBEDDED_MODEL = Path(__file__).resolve().parents[2] / "engine/weights/surmise.gguf"
ARCH = "qwen3"
N_LAYERS, HIDDEN, FEED_FORWARD, N_HEADS, N_KV_HEADS = 24, 1024, 4864, 16, 4
Q8_0 = gguf.GGMLQuantizationType.Q8_0


def padded(values: np.ndarray, *shape: int) -> np.ndarray:
    out = np.zeros(shape, dtype=np.float32)
    out[tuple(slice(length) for length in values.shape)] = values
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    reader = gguf.GGUFReader(EMBEDDED_MODEL)
    old = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}

    def value(key: str):
        return reader.get_field(key).contents()

    hidden, n_heads, n_kv_heads, head_dim = (
        value(f"{ARCH}.{key}") for key in ("embedding_length", "attention.head_count", "attention.head_count_kv", "attention.key_length")
    )
    if n_heads // n_kv_heads != N_HEADS // N_KV_HEADS:
        raise SystemExit(f"expected {N_HEADS // N_KV_HEADS} heads for each pair of key and value, found {n_heads // n_kv_heads}")
    # Zeros make the mean square of a vector smaller by this factor, and what a norm gives larger by its root.
    share = hidden / HIDDEN
    sizes = {
        "embedding_length": HIDDEN, "block_count": N_LAYERS, "feed_forward_length": FEED_FORWARD, "attention.head_count": N_HEADS,
        "attention.head_count_kv": N_KV_HEADS, "attention.layer_norm_rms_epsilon": value(f"{ARCH}.attention.layer_norm_rms_epsilon") * share,
    }
    temporary = args.out.with_suffix(".partial")
    writer = gguf.GGUFWriter(temporary, ARCH)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        contents = sizes.get(key.removeprefix(f"{ARCH}."), field.contents())
        if key == "general.name":
            contents += ", grown to 0.4 B"
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, contents)
        else:
            writer.add_key_value(key, contents, kind)

    def matrix(name: str, rows: int, columns: int, empty: bool = False) -> None:
        values = np.zeros((rows, columns), dtype=np.float32) if empty else padded(old[name], rows, columns)
        writer.add_tensor(name, gguf.quants.quantize(values, Q8_0), raw_dtype=Q8_0)

    def norm(name: str, like: str) -> None:
        writer.add_tensor(name, padded(old[like] * np.float32(share**0.5), HIDDEN))

    matrix("token_embd.weight", old["token_embd.weight"].shape[0], HIDDEN)
    norm("output_norm.weight", "output_norm.weight")
    n_old = value(f"{ARCH}.block_count")
    widths = {"attn_q": (N_HEADS * head_dim, HIDDEN), "attn_k": (N_KV_HEADS * head_dim, HIDDEN), "attn_v": (N_KV_HEADS * head_dim, HIDDEN),
              "attn_output": (HIDDEN, N_HEADS * head_dim), "ffn_gate": (FEED_FORWARD, HIDDEN), "ffn_up": (FEED_FORWARD, HIDDEN), "ffn_down": (HIDDEN, FEED_FORWARD)}
    for layer in range(N_LAYERS):
        like = f"blk.{layer % n_old}"
        for part in ("attn_norm", "ffn_norm"):
            norm(f"blk.{layer}.{part}.weight", f"{like}.{part}.weight")
        for part in ("attn_q_norm", "attn_k_norm"):
            writer.add_tensor(f"blk.{layer}.{part}.weight", old[f"{like}.{part}.weight"])
        for part, (rows, columns) in widths.items():
            matrix(f"blk.{layer}.{part}.weight", rows, columns, empty=layer >= n_old)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(temporary, args.out)


if __name__ == "__main__":
    main()
