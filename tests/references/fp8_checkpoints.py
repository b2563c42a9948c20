#!/usr/bin/env python3
"""Makes small random-weight checkpoints in FP8, in each layout of scales that publishers use, with their logits.

Writes OUT/<model>/: config.json, model.safetensors and expected.safetensors, with a prompt (input_ids) and the logits of a
single-precision pass by Hugging Face transformers over the dequantised weights. Embeddings, heads and norms stay in bf16.

  qwen3-fp8           weight_scale_inv for each block of 128 by 128, as DeepSeek and Qwen publish them
  deepseek-v3-fp8     the same in blocks of 32 by 32, of which heads and experts are no whole number; a layer that drafts
  qwen3.5-fp8         the same with gated delta nets, whose narrowest matrices stay in bf16
  llama3-fp8-k        the first again, with rows that K-quants can be made of
  llama3-fp8-channel  weight_scale for each row, in bf16, as compressed-tensors writes it; one matrix with rows of 80
  ministral3-fp8      weight_scale_inv for each matrix, and scales for activations, in a model that also sees pictures
  qwen2-fp8-tensor    weight_scale for each matrix, and scales for activations and the KV cache, as ModelOpt writes them

Needs torch, transformers 5, safetensors. usage: fp8_checkpoints.py OUT [MODEL ...]
"""

import json
import sys
from pathlib import Path

import checkpoints
import torch
import transformers
from checkpoints import LLAMA, LLAMA_3_ROPE, PROMPT, QWEN, QWEN_3, WIDE
from safetensors.torch import save_file

LARGEST = 448.0
BLOCK, SMALL_BLOCK = 128, 32
# Linear layers that publishers leave as they are.
PLAIN = ("lm_head", "in_proj_a", "in_proj_b")


def block_scales(weight: torch.Tensor, size: int = BLOCK) -> tuple[torch.Tensor, torch.Tensor]:
    """A scale for each block, and the same for each number."""
    rows, columns = (-(-extent // size) for extent in weight.shape)
    scales = torch.empty(rows, columns)
    for row in range(rows):
        for column in range(columns):
            block = weight[row * size : (row + 1) * size, column * size : (column + 1) * size]
            scales[row, column] = block.abs().max() / LARGEST
    spread = scales.repeat_interleave(size, 0).repeat_interleave(size, 1)
    return scales, spread[: weight.shape[0], : weight.shape[1]]


def small_block_scales(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return block_scales(weight, SMALL_BLOCK)


def channel_scales(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scales = (weight.abs().amax(1, keepdim=True) / LARGEST).to(torch.bfloat16)
    return scales, scales.float()


def half_tensor_scale(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = (weight.abs().max() / LARGEST).to(torch.bfloat16)
    return scale, scale.float()


def tensor_scale(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weight.abs().max() / LARGEST
    return scale, scale


FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}
FP8_WHOLE = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}
FP8_SMALL = FP8 | {"weight_block_size": [SMALL_BLOCK, SMALL_BLOCK]}
COMPRESSED = {
    "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
        "num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False,
    }}},
}  # fmt: skip
MODELOPT = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}

# Model type, keys, quantization_config (or none: it stands in a file of its own), scales, what they are called.
MODELS = {
    "qwen3-fp8": (
        "qwen3",
        QWEN_3 | {"hidden_size": 192, "intermediate_size": 160, "head_dim": 64, "num_hidden_layers": 2,
                  "tie_word_embeddings": True},
        FP8, block_scales, "weight_scale_inv",
    ),
    "deepseek-v3-fp8": (*checkpoints.MODELS["deepseek-v3"], FP8_SMALL, small_block_scales, "weight_scale_inv"),
    "qwen3.5-fp8": (*checkpoints.MODELS["qwen3.5"], FP8_SMALL, small_block_scales, "weight_scale_inv"),
    "llama3-fp8-k": (
        "llama", LLAMA | {"rope_scaling": LLAMA_3_ROPE} | WIDE | {"intermediate_size": 256, "num_hidden_layers": 1},
        FP8, block_scales, "weight_scale_inv",
    ),
    "llama3-fp8-channel": (
        "llama", LLAMA | {"rope_scaling": LLAMA_3_ROPE, "intermediate_size": 80}, COMPRESSED, channel_scales, "weight_scale",
    ),
    "ministral3-fp8": (*checkpoints.MODELS["ministral3"], FP8_WHOLE, half_tensor_scale, "weight_scale_inv"),
    "qwen2-fp8-tensor": (
        "qwen2", QWEN | {"rope_theta": 10000.0, "tie_word_embeddings": False, "sliding_window": 128},
        None, tensor_scale, "weight_scale",
    ),
}  # fmt: skip


def matrices(model):
    """What becomes FP8, by the names of checkpoints: linear layers, and the experts that transformers has in one tensor."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith(PLAIN):
            yield name, module.weight
        if hasattr(module, "gate_up_proj") and hasattr(module, "down_proj") and not isinstance(module.down_proj, torch.nn.Module):
            width = module.down_proj.shape[2]
            for index, (both, down) in enumerate(zip(module.gate_up_proj, module.down_proj)):
                yield f"{name}.{index}.gate_proj", both[:width]
                yield f"{name}.{index}.up_proj", both[width:]
                yield f"{name}.{index}.down_proj", down


def make(folder: Path, name: str) -> None:
    model_type, keys, quantization, scales_of, scale_name = MODELS[name]
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    config = transformers.AutoConfig.for_model(model_type, **json.loads(json.dumps(keys)))
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    checkpoints.initialise(model, model_type, generator)
    model.tie_weights()

    tensors = {key: value.to(torch.bfloat16).contiguous() for key, value in model.state_dict().items()}
    if keys["tie_word_embeddings"]:
        tensors.pop("lm_head.weight", None)
    if "moe_intermediate_size" in keys:
        tensors = checkpoints.split_experts(tensors, keys["moe_intermediate_size"])
    for module_name, weight in matrices(model):
        scales, spread = scales_of(weight)
        quantised = (weight / spread).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
        weight.copy_(quantised.float() * spread)
        tensors[f"{module_name}.weight"] = quantised
        tensors[f"{module_name}.{scale_name}"] = scales.clone()
        if quantization is FP8_WHOLE:
            tensors[f"{module_name}.activation_scale"] = torch.tensor(0.5, dtype=torch.bfloat16)
        if quantization is None:
            tensors[f"{module_name}.input_scale"] = torch.tensor(0.5)
            kind = module_name.rsplit(".", 1)[1][0]
            if module_name.endswith(("k_proj", "v_proj")):
                tensors[f"{module_name}.{kind}_scale"] = torch.tensor(1.0)
    if keys.get("num_nextn_predict_layers"):
        further = f"model.layers.{keys['num_hidden_layers']}.eh_proj"
        tensors[f"{further}.weight"] = torch.zeros(64, 128).to(torch.float8_e4m3fn)
        tensors[f"{further}.{scale_name}"] = torch.ones(2, 4)
    ids = torch.randint(3, keys["vocab_size"], (1, PROMPT), generator=generator)
    logits = model(ids, use_cache=False).logits[0].float().contiguous()

    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": [type(model).__name__], "model_type": model_type, "torch_dtype": "bfloat16"} | keys
    if model_type == "ministral3":
        tensors = {f"language_model.{key}": tensor for key, tensor in tensors.items()}
        tensors["vision_tower.ln_pre.weight"] = torch.ones(8, dtype=torch.bfloat16)
        config = {"model_type": "mistral3", "text_config": config}
    if quantization is None:
        (folder / "hf_quant_config.json").write_text(json.dumps(MODELOPT, indent=1) + "\n")
    else:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    save_file({"input_ids": ids[0], "logits": logits}, folder / "expected.safetensors")
    print(f"{name}: logits spread by {logits.std():.2f}, finite: {bool(logits.isfinite().all())}")


def main() -> None:
    torch.cuda.is_current_stream_capturing = lambda: False
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for name in sys.argv[2:] or MODELS:
        make(Path(sys.argv[1]) / name, name)


if __name__ == "__main__":
    main()
