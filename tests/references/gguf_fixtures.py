#!/usr/bin/env python3
"""Turns small Hugging Face checkpoints into the fixtures of engine/tests/forward.rs and quantized.rs.

Reads SOURCE/<model>/{config.json, model.safetensors, expected.safetensors}, as checkpoints.py writes them, and
writes OUT/<model>/: the checkpoint itself, the file that llama.cpp's own converter makes of it (bf16), or its quantised
siblings, and expected.safetensors: the ids and the logits that transformers gave, also of a long prompt, for one model the residual stream
around each layer too, and for quantised files llama.cpp's logits (single-precision cache, no flash attention).
OUT/blocks.safetensors has blocks of every type with the numbers that they stand for.

Needs torch, safetensors, gguf, and llama.cpp as vendored by the source distribution of PyPI's llama-cpp-python:
LLAMA_CPP (the folder of convert_hf_to_gguf.py), LLAMA_CPP_LIB_PATH (the built libraries), and the package's
Python half on PYTHONPATH.

usage: gguf_fixtures.py SOURCE OUT [MODEL ...]
"""

import ctypes
import json
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

LLAMA_CPP = os.environ["LLAMA_CPP"]
sys.path[:0] = [LLAMA_CPP, LLAMA_CPP + "/gguf-py"]

import gguf
import llama_cpp
import numpy as np
import torch
from conversion import ModelBase, get_model_class
from safetensors.numpy import load_file, save_file

UNQUANTISED = [
    "llama3", "mistral-nowindow", "ministral3", "qwen2", "r1-distill-qwen", "qwen3", "qwen3-moe", "granite", "phi3",
    "phi3-long", "gemma", "gemma2", "gemma3", "gpt-oss", "starcoder", "starcoder2-nowindow", "qwen3.5", "qwen3.5-moe", "qwen3-next", "deepseek-v2-lite", "deepseek-v2",
    "deepseek-v3", "glm4-lite", "gemma4", "gemma4-moe", "gemma4-e",
]  # fmt: skip
CHECKPOINTS = [
    "llama3", "mistral", "ministral3", "qwen2", "qwen3", "qwen3-moe", "granite", "phi3", "phi3-long", "gemma", "gemma2",
    "gemma3", "gpt-oss", "starcoder2", "qwen3.5", "qwen3.5-moe", "qwen3-next", "deepseek-v2-lite", "deepseek-v2", "deepseek-v3", "glm4-lite", "gemma4",
    "gemma4-moe", "gemma4-e",
]  # fmt: skip
QUANTISED = {
    "llama3-k": ["q8_0", "q4_0"],
    "llama3-types": ["q4_1", "q5_0", "q5_1", "q2_k", "q3_k_m", "q6_k", "iq4_nl", "iq4_xs"], "qwen2-k": ["q4_k_m", "q5_k_m"], "qwen3-moe-k": ["q4_k_m"],
    "deepseek-v2-k": ["q4_k_m", "joined-q4_k_m"], "qwen3.5-k": ["q4_k_m"],
}  # fmt: skip
# As converters wrote DeepSeek before 2025: one matrix makes keys and values of what the cache holds.
JOINED = "joined-"
WITH_RESIDUALS = "qwen3"
FILE_TYPES = {
    "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k_m": 12, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18,
    "iq4_nl": 25, "iq4_xs": 30,
}  # fmt: skip


def byte_vocabulary(model) -> None:
    """Stands in for the tokenizer, which random weights do not have."""
    size = model.hparams["vocab_size"]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = 256 - len(printable)
    tokens = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(others)]
    tokens = (tokens + [f"x{index}" for index in range(size)])[:size]
    model.gguf_writer.add_tokenizer_model("gpt2")
    model.gguf_writer.add_tokenizer_pre("qwen2")
    model.gguf_writer.add_token_list(tokens)
    model.gguf_writer.add_token_types([1] * size)
    model.gguf_writer.add_token_merges(["a b"])


def join_latents(model_class):
    """The class without its step that splits the matrix of keys and values."""

    class Joined(model_class):
        model_arch = model_class.model_arch

        def set_gguf_parameters(self):
            super().set_gguf_parameters()
            keys = self.gguf_writer.kv_data[0]
            for part in ("key_length", "value_length"):
                split = keys.pop(f"deepseek2.attention.{part}_mla")
                keys[f"deepseek2.attention.{part}"].value = split.value
            keys["deepseek2.attention.head_count_kv"].value = self.hparams["num_attention_heads"]

        def modify_tensors(self, data_torch, name, bid):
            if name.endswith("kv_b_proj.weight"):
                yield self.map_tensor_name(name), data_torch
            else:
                yield from super().modify_tensors(data_torch, name, bid)

    return Joined


def convert(source: Path, target: Path, file_type: gguf.LlamaFileType, is_joined: bool = False) -> None:
    hparams = ModelBase.load_hparams(source, False)
    model_class = get_model_class(hparams["architectures"][0])
    # Mistral's class only chooses between two others.
    for each in (model_class, getattr(model_class, "Ministral3Model", model_class)):
        each.set_vocab = byte_vocabulary
    if is_joined:
        model_class = join_latents(model_class)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / source.name
        folder.mkdir()
        for name in ("config.json", "model.safetensors"):
            (folder / name).symlink_to((source / name).resolve())
        # Gemma's embedding is cut to the tokens that this file counts.
        vocabulary = {f"x{index}": index for index in range(hparams["vocab_size"])}
        tokenizer = {"model": {"vocab": vocabulary}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        model_class(folder, file_type, target).write()


def quantise(source: Path, target: Path, file_type: int) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = 1
    if llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(params)) != 0:
        raise RuntimeError(f"llama.cpp could not quantise {source}")


def llama_cpp_logits(path: Path, ids: np.ndarray) -> np.ndarray:
    """Logits after every id, (ids, vocabulary)."""
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(bytes(path), model_params)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 256, 512, 1, 1
    params.type_k = params.type_v = 0
    params.flash_attn_type = 0
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for index, token in enumerate(ids):
        batch.token[index], batch.pos[index], batch.n_seq_id[index] = int(token), index, 1
        batch.seq_id[index][0], batch.logits[index] = 0, 1
    if llama_cpp.llama_decode(context, batch) != 0:
        raise RuntimeError(f"llama.cpp could not run {path}")
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rows = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), (size,)).copy() for i in range(len(ids))]
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return np.stack(rows).astype(np.float32)


BLOCK_TYPES = "Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4".split()


def blocks(n_blocks: int = 4) -> dict[str, np.ndarray]:
    """Random blocks of every type, and the numbers that they stand for to the gguf package."""
    random = np.random.default_rng(1)
    tensors = {}
    for name in BLOCK_TYPES:
        kind = gguf.GGMLQuantizationType[name]
        length, size = gguf.GGML_QUANT_SIZES[kind]
        rows = []
        while len(rows) < n_blocks:
            block = random.integers(0, 256, size, dtype=np.uint8)
            with np.errstate(invalid="ignore", over="ignore"):
                numbers = gguf.quants.dequantize(block, kind)
            if np.isfinite(numbers).all():
                rows.append((block, numbers.astype(np.float32)))
        tensors[f"{name}.blocks"] = np.concatenate([block for block, _ in rows])
        tensors[f"{name}.numbers"] = np.concatenate([numbers for _, numbers in rows])
    return tensors


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    logging.basicConfig(level=logging.ERROR)
    torch.cuda.is_current_stream_capturing = lambda: False
    llama_cpp.llama_backend_init()
    save_file(blocks(), out / "blocks.safetensors")
    for name in sys.argv[3:] or dict.fromkeys([*CHECKPOINTS, *UNQUANTISED, *QUANTISED]):
        (out / name).mkdir(parents=True, exist_ok=True)
        known = load_file(source / name / "expected.safetensors")
        expected = {"input_ids": known["input_ids"].astype(np.uint32), "logits": known["logits"].astype(np.float32)}
        kept = ("hidden.", "long.", "within.") if name == WITH_RESIDUALS else ("long.", "within.")
        if name not in QUANTISED:
            for key, value in known.items():
                if key.startswith(kept):
                    expected[key] = value.astype(np.uint32 if key.endswith("input_ids") else np.float32)
        if name in CHECKPOINTS:
            for file in ("config.json", "model.safetensors"):
                shutil.copy(source / name / file, out / name / file)
        if name in UNQUANTISED:
            convert(source / name, out / name / "bf16.gguf", gguf.LlamaFileType.MOSTLY_BF16)
        if name in QUANTISED:
            with tempfile.TemporaryDirectory() as folder:
                for kind in QUANTISED[name]:
                    whole, target = Path(folder) / f"{kind}.gguf", out / name / f"{kind}.gguf"
                    convert(source / name, whole, gguf.LlamaFileType.ALL_F32, kind.startswith(JOINED))
                    quantise(whole, target, FILE_TYPES[kind.removeprefix(JOINED)])
                    expected[f"llama_cpp.{kind}"] = llama_cpp_logits(target, expected["input_ids"].ravel())
        save_file(expected, out / name / "expected.safetensors")
        print(name, *(f"{path.name} {path.stat().st_size // 1024} KiB" for path in sorted((out / name).iterdir())))


if __name__ == "__main__":
    main()
