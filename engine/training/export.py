"""Writes a checkpoint and its tokenizer as one GGUF file of architecture `qwen3`, or an EAGLE-3 head as one of `eagle3`; llama.cpp loads both.

`restore` is the way back, to train on what was shipped.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import torch

import tokenizer as names
from draft import target_layers
from model import Network, Shape, save

LAYER_TENSORS = {
    "attention_norm.weight": "attn_norm.weight",
    "attention.q.weight": "attn_q.weight",
    "attention.k.weight": "attn_k.weight",
    "attention.v.weight": "attn_v.weight",
    "attention.output.weight": "attn_output.weight",
    "attention.q_norm.weight": "attn_q_norm.weight",
    "attention.k_norm.weight": "attn_k_norm.weight",
    "mlp_norm.weight": "ffn_norm.weight",
    "mlp.gate.weight": "ffn_gate.weight",
    "mlp.up.weight": "ffn_up.weight",
    "mlp.down.weight": "ffn_down.weight",
}
FILE_TYPES = {
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
}


def gguf_name(name: str) -> str:
    if name == "embedding.weight":
        return "token_embd.weight"
    if name == "norm.weight":
        return "output_norm.weight"
    _, layer_idx, rest = name.split(".", 2)
    return f"blk.{layer_idx}.{LAYER_TENSORS[rest]}"


def add_shape(writer: gguf.GGUFWriter, shape: Shape, context_length: int) -> None:
    writer.add_context_length(context_length)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.rms_eps)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_vocab_size(shape.vocab_size)


def vocabulary_of(tokenizer: Path) -> dict[str, int]:
    data = json.loads(tokenizer.read_text())
    return data["model"]["vocab"] | {token["content"]: token["id"] for token in data["added_tokens"]}


def add_tokenizer(writer: gguf.GGUFWriter, path: Path) -> None:
    data = json.loads(path.read_text())
    vocabulary = vocabulary_of(path)
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    special = {token["content"] for token in data["added_tokens"]}
    kinds = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]])
    end = vocabulary[names.END]
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_eot_token_id(end)
    writer.add_pad_token_id(vocabulary[names.FIM_PAD])
    writer.add_add_bos_token(False)
    for key, name in (("pre", names.FIM_PREFIX), ("suf", names.FIM_SUFFIX), ("mid", names.FIM_MIDDLE),
                      ("pad", names.FIM_PAD), ("rep", names.REPO_NAME), ("sep", names.FILE_SEP)):
        writer.add_uint32(f"tokenizer.ggml.fim_{key}_token_id", vocabulary[name])


def add_matrix(writer: gguf.GGUFWriter, name: str, tensor: torch.Tensor, matrix_type: gguf.GGMLQuantizationType) -> None:
    values = np.ascontiguousarray(tensor.float().numpy())
    if values.ndim == 1:
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, matrix_type), raw_dtype=matrix_type)


def add_origin(writer: gguf.GGUFWriter, name: str, file_type: gguf.LlamaFileType, tokens_seen: int) -> None:
    writer.add_name(name)
    writer.add_license("MIT OR Apache-2.0")
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_uint64("surmise.tokens_seen", tokens_seen)


def finish(writer: gguf.GGUFWriter, temporary: Path, out: Path, tokens_seen: int) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(temporary, out)
    print(f"{out.name}: {out.stat().st_size / 1e6:.1f} MB, {tokens_seen / 1e6:.1f} M tokens seen")


def export(checkpoint: Path, tokenizer: Path, out: Path, file_type: str, context_length: int, name: str) -> None:
    state = torch.load(checkpoint, map_location="cpu")
    shape = Shape(**state["shape"])
    matrix_type, general_type = FILE_TYPES[file_type]
    temporary = out.with_suffix(".partial")
    writer = gguf.GGUFWriter(temporary, "qwen3")
    add_origin(writer, name, general_type, state["tokens_seen"])
    # Which order of the pieces to serve: suffix first, so that typing keeps the KV cache valid.
    writer.add_string("surmise.fim.order", "spm")
    # A model this small gains from copying out of the prompt: `engine/src/copy.rs`.
    writer.add_bool("surmise.copy", True)
    add_shape(writer, shape, context_length)
    add_tokenizer(writer, tokenizer)
    for name, tensor in state["weights"].items():
        add_matrix(writer, gguf_name(name), tensor, matrix_type)
    finish(writer, temporary, out, state["tokens_seen"])


def restore(file: Path, checkpoint: Path) -> None:
    """Makes a checkpoint of a file that `export` wrote."""
    reader = gguf.GGUFReader(file)

    def field(key: str):
        return reader.get_field(key).contents()

    shape = Shape(vocab_size=field("qwen3.vocab_size"), hidden=field("qwen3.embedding_length"), n_layers=field("qwen3.block_count"),
                  n_heads=field("qwen3.attention.head_count"), n_kv_heads=field("qwen3.attention.head_count_kv"),
                  head_dim=field("qwen3.attention.key_length"), intermediate=field("qwen3.feed_forward_length"),
                  rope_theta=field("qwen3.rope.freq_base"), rms_eps=field("qwen3.attention.layer_norm_rms_epsilon"))
    ours = {gguf_name(name): name for name in Network(shape).state_dict()}
    weights = {ours[tensor.name]: torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
               for tensor in reader.tensors}
    save({"shape": shape.as_dict(), "weights": weights, "tokens_seen": field("surmise.tokens_seen"), "seconds": 0.0}, checkpoint)


HEAD_TENSORS = {
    "fc.weight": "fc.weight",
    "midlayer.input_layernorm.weight": "blk.0.attn_norm.weight",
    "midlayer.hidden_norm.weight": "blk.0.attn_norm_2.weight",
    "midlayer.self_attn.q_proj.weight": "blk.0.attn_q.weight",
    "midlayer.self_attn.k_proj.weight": "blk.0.attn_k.weight",
    "midlayer.self_attn.v_proj.weight": "blk.0.attn_v.weight",
    "midlayer.self_attn.o_proj.weight": "blk.0.attn_output.weight",
    "midlayer.post_attention_layernorm.weight": "blk.0.ffn_norm.weight",
    "midlayer.mlp.gate_proj.weight": "blk.0.ffn_gate.weight",
    "midlayer.mlp.up_proj.weight": "blk.0.ffn_up.weight",
    "midlayer.mlp.down_proj.weight": "blk.0.ffn_down.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def interleaved(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows reordered for rotary pairs (2i, 2i + 1), which GGUF's `eagle3` has, from pairs (i, i + head_dim / 2)."""
    heads = weight.view(-1, 2, head_dim // 2, weight.shape[1])
    return heads.transpose(1, 2).reshape(weight.shape)


def export_head(checkpoint: Path, out: Path, file_type: str, context_length: int, name: str) -> None:
    """An EAGLE-3 head (draft.py) as llama.cpp lays it out."""
    state = torch.load(checkpoint, map_location="cpu")
    shape = Shape(**state["shape"])
    matrix_type, general_type = FILE_TYPES[file_type]
    temporary = out.with_suffix(".partial")
    writer = gguf.GGUFWriter(temporary, "eagle3")
    add_origin(writer, name, general_type, state["tokens_seen"])
    add_shape(writer, replace(shape, n_layers=1), context_length)
    writer.add_array("eagle3.target_layers", list(target_layers(shape.n_layers)))
    writer.add_uint32("eagle3.target_hidden_size", shape.hidden)
    writer.add_bool("eagle3.norm_before_residual", False)
    for name, tensor in state["weights"].items():
        is_turned = name.endswith(("q_proj.weight", "k_proj.weight"))
        add_matrix(writer, HEAD_TENSORS[name], interleaved(tensor, shape.head_dim) if is_turned else tensor, matrix_type)
    writer.add_tensor("d2t", state["draft_ids"].numpy().astype(np.int64))
    finish(writer, temporary, out, state["tokens_seen"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="of train.py, or with --head of draft.py")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--head", action="store_true", help="write an EAGLE-3 head")
    parser.add_argument("--type", choices=FILE_TYPES, default="q8_0")
    parser.add_argument("--context-length", type=int, default=4096)
    parser.add_argument("--name", default="Surmise FIM")
    args = parser.parse_args(arguments)
    if args.head:
        export_head(args.checkpoint, args.out, args.type, args.context_length, args.name + " EAGLE-3")
    else:
        export(args.checkpoint, args.tokenizer, args.out, args.type, args.context_length, args.name)


if __name__ == "__main__":
    main()
