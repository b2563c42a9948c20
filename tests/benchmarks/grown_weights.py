#!/usr/bin/env python3
"""Makes a larger model that says what the model inside the program says: grown_weights.py OUT.gguf

Every matrix of the model inside is padded with zeros to a shape of 0.4 billion weights, and layers are added that add nothing (function-preserving
growth: Chen et al. 2016, "Net2Net"). What it costs to run is what a model of that size costs, and what it writes is written, not dictated: so
drafts are measured on real answers at the cost of a model that memory limits. With --head HEAD.gguf, an EAGLE-3 head of the model inside is grown
in the same way instead, to one of the larger model's. Q8_0.
"""

import argparse
import os
from pathlib import Path

import gguf
import numpy as np

EMBEDDED_MODEL = Path(__file__).resolve().parents[2] / "engine/weights/surmise.gguf"
N_LAYERS, HIDDEN, FEED_FORWARD, N_HEADS, N_KV_HEADS = 24, 1024, 4864, 16, 4
Q8_0 = gguf.GGMLQuantizationType.Q8_0


def padded(values: np.ndarray, *shape: int) -> np.ndarray:
    out = np.zeros(shape, dtype=np.float32)
    out[tuple(slice(length) for length in values.shape)] = values
    return out


class Growth:
    """A file, read, and the larger one, written."""

    def __init__(self, old: Path, out: Path) -> None:
        reader = gguf.GGUFReader(old)
        self.fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.arch = self.fields["general.architecture"].contents()
        self.out, self.temporary = out, out.with_suffix(".partial")
        self.writer = gguf.GGUFWriter(self.temporary, self.arch)
        self.hidden, n_heads, n_kv_heads, self.head_dim = (
            self.value(key) for key in ("embedding_length", "attention.head_count", "attention.head_count_kv", "attention.key_length")
        )
        if n_heads // n_kv_heads != N_HEADS // N_KV_HEADS:
            raise SystemExit(f"expected {N_HEADS // N_KV_HEADS} heads for each pair of key and value, found {n_heads // n_kv_heads}")
        # Zeros make the mean square of a vector smaller by this factor, and what a norm gives larger by its root.
        self.share = self.hidden / HIDDEN

    def value(self, key: str):
        return self.fields[f"{self.arch}.{key}"].contents()

    def values(self, name: str) -> np.ndarray:
        tensor = self.tensors[name]
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type)

    def fill_header(self, **sizes: int) -> None:
        """All fields as they were, but for the sizes."""
        new = {
            "embedding_length": HIDDEN, "feed_forward_length": FEED_FORWARD, "attention.head_count": N_HEADS, "attention.head_count_kv": N_KV_HEADS,
            "attention.layer_norm_rms_epsilon": self.value("attention.layer_norm_rms_epsilon") * self.share, **sizes,
        }
        for key, field in self.fields.items():
            if key.startswith("GGUF.") or key == "general.architecture":
                continue
            kind = field.types[0]
            contents = new.get(key.removeprefix(f"{self.arch}."), field.contents())
            if key == "general.name":
                contents += ", grown"
            if kind == gguf.GGUFValueType.ARRAY:
                self.writer.add_array(key, contents)
            else:
                self.writer.add_key_value(key, contents, kind)

    def matrix(self, name: str, rows: int, inputs: int = 1, width: int = HIDDEN) -> None:
        """A matrix that reads `inputs` vectors of `width` laid end to end. One that was not there before is all zeros."""
        values = np.zeros((rows, inputs * width), dtype=np.float32)
        if name in self.tensors:
            parts = np.split(self.values(name), inputs, axis=1)
            values = np.concatenate([padded(part, rows, width) for part in parts], axis=1)
        self.writer.add_tensor(name, gguf.quants.quantize(values, Q8_0), raw_dtype=Q8_0)

    def norm(self, name: str, like: str | None = None) -> None:
        self.writer.add_tensor(name, padded(self.values(like or name) * np.float32(self.share**0.5), HIDDEN))

    def layer(self, layer: int, attention_inputs: int = 1) -> None:
        queries, keys = N_HEADS * self.head_dim, N_KV_HEADS * self.head_dim
        self.matrix(f"blk.{layer}.attn_q.weight", queries, attention_inputs)
        self.matrix(f"blk.{layer}.attn_k.weight", keys, attention_inputs)
        self.matrix(f"blk.{layer}.attn_v.weight", keys, attention_inputs)
        self.matrix(f"blk.{layer}.attn_output.weight", HIDDEN, width=queries)
        self.matrix(f"blk.{layer}.ffn_gate.weight", FEED_FORWARD)
        self.matrix(f"blk.{layer}.ffn_up.weight", FEED_FORWARD)
        self.matrix(f"blk.{layer}.ffn_down.weight", HIDDEN, width=FEED_FORWARD)

    def finish(self) -> None:
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()
        os.replace(self.temporary, self.out)


def grow_model(out: Path) -> None:
    growth = Growth(EMBEDDED_MODEL, out)
    growth.fill_header(block_count=N_LAYERS)
    growth.matrix("token_embd.weight", growth.value("vocab_size"))
    growth.norm("output_norm.weight")
    n_old = growth.value("block_count")
    for layer in range(N_LAYERS):
        like = layer % n_old
        for part in ("attn_norm", "ffn_norm"):
            growth.norm(f"blk.{layer}.{part}.weight", f"blk.{like}.{part}.weight")
        for part in ("attn_q_norm", "attn_k_norm"):
            growth.writer.add_tensor(f"blk.{layer}.{part}.weight", growth.values(f"blk.{like}.{part}.weight"))
        growth.layer(layer)
    growth.finish()


def grow_head(head: Path, out: Path) -> None:
    growth = Growth(head, out)
    growth.fill_header(target_hidden_size=HIDDEN)
    growth.matrix("fc.weight", HIDDEN, inputs=len(growth.value("target_layers")))
    for part in ("blk.0.attn_norm", "blk.0.attn_norm_2", "blk.0.ffn_norm", "output_norm"):
        growth.norm(f"{part}.weight")
    # Of what the head reads, one half is the token and the other the target's feature.
    growth.layer(0, attention_inputs=2)
    growth.matrix("output.weight", growth.tensors["d2t"].shape[0])
    growth.writer.add_tensor("d2t", growth.tensors["d2t"].data)
    growth.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--head", type=Path, help="an EAGLE-3 head of the model inside, to be grown instead")
    args = parser.parse_args()
    if args.head:
        grow_head(args.head, args.out)
    else:
        grow_model(args.out)


if __name__ == "__main__":
    main()
