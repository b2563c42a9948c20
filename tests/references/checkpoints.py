#!/usr/bin/env python3
"""Makes small random-weight checkpoints of every family, with the numbers that Hugging Face transformers gives for them.

Writes OUT/<model>/: config.json with the keys that released checkpoints use, model.safetensors (bf16; gpt-oss with
MXFP4 experts) and expected.safetensors:
  input_ids         (40)              a prompt
  logits            (40, vocabulary)  from a single-precision pass over the bf16 weights
  hidden.K          (40, hidden)      residual stream after layer K; 0 is the embedding
  long.input_ids    (240)             a prompt far beyond windows and the contexts that RoPE is stretched from
  long.logits       (4, vocabulary)   of its last tokens
  within.input_ids  (24)              with LongRoPE, a prompt within the context of the first training
  within.logits     (24, vocabulary)
Weights are scaled so that logits spread over several nats: with the usual 0.02 all logits are nearly equal, and a wrong
layer would go unnoticed.

Needs torch, transformers 5, safetensors. usage: checkpoints.py OUT [MODEL ...]
"""

import json
import math
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
warnings.filterwarnings("ignore")

import torch
import transformers
from safetensors.torch import save_file

HIDDEN, VOCAB, PROMPT = 64, 256, 40
LONG_PROMPT, N_LAST, SHORT_PROMPT = 240, 4, 24
SMALL = {
    "hidden_size": HIDDEN, "intermediate_size": 96, "vocab_size": VOCAB, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_hidden_layers": 3, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA_3_ROPE = {
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
    "rope_type": "llama3",
}  # fmt: skip
LLAMA = SMALL | {
    "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False, "attention_bias": False,
    "mlp_bias": False, "hidden_act": "silu",
}  # fmt: skip
QWEN = SMALL | {"hidden_act": "silu", "use_sliding_window": False, "sliding_window": None, "max_window_layers": 3}
QWEN_3 = QWEN | {"head_dim": 32, "rope_theta": 1000000.0, "attention_bias": False}
MOE = {
    "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "tie_word_embeddings": False,
}  # fmt: skip
STARCODER = {
    "hidden_size": HIDDEN, "intermediate_size": 128, "vocab_size": VOCAB, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_hidden_layers": 3, "max_position_embeddings": 128, "norm_epsilon": 1e-5,
    "norm_type": "layer_norm", "mlp_type": "default", "hidden_act": "gelu_pytorch_tanh", "use_bias": True,
    "rope_theta": 100000.0, "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": True,
    "residual_dropout": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip
PHI = SMALL | {
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "hidden_act": "silu",
    "original_max_position_embeddings": 32, "pad_token_id": 0, "sliding_window": None, "rope_scaling": None,
}  # fmt: skip
GEMMA_4 = SMALL | {
    "head_dim": 32, "global_head_dim": 64, "num_global_key_value_heads": 1, "attention_k_eq_v": True,
    "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8,
    "hidden_activation": "gelu_pytorch_tanh", "final_logit_softcapping": 6.0, "attention_bias": False,
    "tie_word_embeddings": True, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "enable_moe_block": False,
    "use_double_wide_mlp": False, "use_bidirectional_attention": None, "vocab_size_per_layer_input": VOCAB,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
    },
}  # fmt: skip
GEMMA_2 = SMALL | {
    "head_dim": 32, "num_hidden_layers": 4, "query_pre_attn_scalar": 32, "rope_theta": 10000.0, "sliding_window": 8,
    "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "final_logit_softcapping": 6.0,
    "attn_logit_softcapping": 3.0, "tie_word_embeddings": True,
}  # fmt: skip
# Values are narrower than keys, and the part of a key without positions is as wide as neither.
DEEPSEEK = SMALL | {
    "num_key_value_heads": 4, "rope_theta": 10000.0, "tie_word_embeddings": False, "attention_bias": False,
    "hidden_act": "silu", "q_lora_rank": None, "kv_lora_rank": 48, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16,
    "v_head_dim": 24, "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_routed_experts": 8, "n_shared_experts": 2,
    "num_experts_per_tok": 3, "moe_intermediate_size": 32, "norm_topk_prob": False, "routed_scaling_factor": 1.0,
    "scoring_func": "softmax", "topk_method": "greedy", "n_group": 1, "topk_group": 1,
    "rope_scaling": {
        "type": "yarn", "factor": 4.0, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 32,
    },
}  # fmt: skip
# Three layers with a state to one with attention; value heads that share the heads of keys, a quarter of a head rotated.
QWEN_35 = SMALL | {
    "num_hidden_layers": 4, "head_dim": 32, "hidden_act": "silu", "attention_bias": False, "attn_output_gate": True,
    "max_position_embeddings": 2048,
    "full_attention_interval": 4, "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25, "mrope_interleaved": True,
        "mrope_section": [2, 1, 1],
    },
}  # fmt: skip
# Rows of 256, as K-quants need them.
WIDE = {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "head_dim": 64,
}  # fmt: skip

MODELS = {
    "llama3": ("llama", LLAMA | {"rope_scaling": LLAMA_3_ROPE}),
    "mistral": ("mistral", LLAMA | {"head_dim": 32, "sliding_window": 12, "rope_theta": 10000.0}),
    "mistral-nowindow": ("mistral", LLAMA | {"head_dim": 32, "sliding_window": None, "rope_theta": 1000000.0}),
    "ministral3": ("ministral3", {key: value for key, value in LLAMA.items() if key != "rope_theta"} | {
        "head_dim": 32, "sliding_window": None, "rope_parameters": {
            "type": "yarn", "rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 32, "llama_4_scaling_beta": 0.5,
        },
    }),
    "qwen2": ("qwen2", QWEN | {"rope_theta": 1000000.0, "tie_word_embeddings": True, "sliding_window": 128}),
    "r1-distill-qwen": ("qwen2", QWEN | {"rope_theta": 10000.0, "tie_word_embeddings": False, "sliding_window": 128}),
    "qwen3": ("qwen3", QWEN_3 | {"tie_word_embeddings": True}),
    "qwen3-moe": ("qwen3_moe", QWEN_3 | MOE),
    "qwen3.5": ("qwen3_5_text", QWEN_35 | {"tie_word_embeddings": True}),
    "qwen3.5-moe": ("qwen3_5_moe_text", {key: value for key, value in QWEN_35.items() if key != "intermediate_size"} | {
        "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 32,
        "num_hidden_layers": 2, "full_attention_interval": 2, "layer_types": ["linear_attention", "full_attention"],
        "tie_word_embeddings": False,
    }),
    "qwen3-next": ("qwen3_next", {
        key: value for key, value in QWEN_35.items() if not key.startswith(("mtp", "rope", "layer_types"))
    } | MOE | {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 32,
        "num_hidden_layers": 2, "full_attention_interval": 2, "rope_theta": 10000000.0, "partial_rotary_factor": 0.25,
        "rope_scaling": None,
    }),
    "granite": ("granite", LLAMA | {
        "embedding_multiplier": 3.0, "residual_multiplier": 0.22, "attention_multiplier": 0.1, "logits_scaling": 2.0,
        "tie_word_embeddings": True,
    }),
    "phi3": ("phi3", PHI | {"sliding_window": 12}),
    "phi3-long": ("phi3", PHI | {
        "partial_rotary_factor": 0.75, "max_position_embeddings": 128, "tie_word_embeddings": True,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
            "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0],
        },
    }),
    "gemma": ("gemma", SMALL | {
        "head_dim": 32, "rope_theta": 10000.0, "hidden_act": "gelu", "hidden_activation": None, "attention_bias": False,
        "tie_word_embeddings": True,
    }),
    "gemma2": ("gemma2", GEMMA_2),
    "gemma3": ("gemma3_text", SMALL | {
        "head_dim": 32, "num_hidden_layers": 7, "intermediate_size": 64, "query_pre_attn_scalar": 32,
        "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 8, "sliding_window_pattern": 6, "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False, "final_logit_softcapping": None, "attn_logit_softcapping": None,
        "tie_word_embeddings": True,
    }),
    "gemma4": ("gemma4_text", GEMMA_4),
    "gemma4-unified": ("gemma4_unified_text", GEMMA_4),
    "gemma4-moe": ("gemma4_text", GEMMA_4 | {
        "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "enable_moe_block": True,
        "num_experts": 8, "top_k_experts": 3, "moe_intermediate_size": 32,
    }),
    "gemma4-e": ("gemma4_text", GEMMA_4 | {
        "num_hidden_layers": 6, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 3, "use_double_wide_mlp": True, "hidden_size_per_layer_input": 16,
        "attention_k_eq_v": False, "num_global_key_value_heads": None, "intermediate_size": 64,
    }),
    "gpt-oss": ("gpt_oss", SMALL | {
        "head_dim": 32, "num_hidden_layers": 4, "intermediate_size": 64, "rms_norm_eps": 1e-5, "num_local_experts": 4,
        "num_experts_per_tok": 2, "experts_per_token": 2, "sliding_window": 8, "rope_theta": 150000.0,
        "attention_bias": True, "layer_types": ["sliding_attention", "full_attention"] * 2, "hidden_act": "silu",
        "swiglu_limit": 7.0, "tie_word_embeddings": False,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
            "original_max_position_embeddings": 32,
        },
    }),
    "starcoder2": ("starcoder2", STARCODER | {"sliding_window": 16}),
    "starcoder2-nowindow": ("starcoder2", STARCODER | {"sliding_window": None}),
    "starcoder": ("gpt_bigcode", {
        "n_embd": HIDDEN, "n_inner": 4 * HIDDEN, "vocab_size": VOCAB, "n_head": 4, "n_layer": 2, "n_positions": LONG_PROMPT,
        "layer_norm_epsilon": 1e-5, "activation_function": "gelu_pytorch_tanh", "multi_query": True, "bos_token_id": 0,
        "eos_token_id": 0, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "tie_word_embeddings": True,
    }),
    "deepseek-v2-lite": ("deepseek_v2", DEEPSEEK),
    "deepseek-v2": ("deepseek_v2", DEEPSEEK | {
        "q_lora_rank": 40, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2,
        "routed_scaling_factor": 3.0, "num_hidden_layers": 2,
    }),
    "deepseek-v3": ("deepseek_v3", DEEPSEEK | {
        "q_lora_rank": 40, "topk_method": "noaux_tc", "scoring_func": "sigmoid", "n_group": 4, "topk_group": 2,
        "routed_scaling_factor": 2.5, "norm_topk_prob": True, "num_hidden_layers": 2, "num_nextn_predict_layers": 1,
        "rms_norm_eps": 1e-5,
    }),
    "glm4-lite": ("glm4_moe_lite", {key: value for key, value in DEEPSEEK.items() if key != "scoring_func"} | {
        "q_lora_rank": 40, "topk_method": "noaux_tc", "routed_scaling_factor": 1.8, "norm_topk_prob": True,
        "num_hidden_layers": 2, "num_nextn_predict_layers": 1, "rms_norm_eps": 1e-5, "rope_scaling": None,
    }),
    "llama3-k": ("llama", LLAMA | {"rope_scaling": LLAMA_3_ROPE} | WIDE),
    "llama3-types": ("llama", LLAMA | {"rope_scaling": LLAMA_3_ROPE} | WIDE | {
        "intermediate_size": 256, "num_hidden_layers": 1,
    }),
    "qwen2-k": ("qwen2", QWEN | {"rope_theta": 1000000.0, "tie_word_embeddings": True, "sliding_window": 128} | {
        key: value for key, value in WIDE.items() if key != "head_dim"
    }),
    "qwen3-moe-k": ("qwen3_moe", QWEN_3 | MOE | WIDE | {
        "num_hidden_layers": 1, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
    }),
    "qwen3.5-k": ("qwen3_5_text", QWEN_35 | WIDE | {
        "intermediate_size": 256, "full_attention_interval": 2, "layer_types": ["linear_attention", "full_attention"],
        "linear_key_head_dim": 64, "linear_value_head_dim": 64, "tie_word_embeddings": True,
    }),
    "deepseek-v2-k": ("deepseek_v2", DEEPSEEK | {
        "hidden_size": 256, "first_k_dense_replace": 0, "num_hidden_layers": 1, "q_lora_rank": 256, "kv_lora_rank": 256,
        "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64, "n_routed_experts": 4, "n_shared_experts": 1,
        "num_experts_per_tok": 2, "moe_intermediate_size": 256,
    }),
}  # fmt: skip


# Those whose checkpoint describes more than text.
NESTED = {"gemma4-unified"}


def initialise(model, model_type: str, generator) -> None:
    """Gives every parameter random numbers. Some families store norms as differences from 1."""
    norms_around_zero = model_type.startswith(("gemma3", "qwen3_5", "qwen3_next")) or model_type in ("gemma", "gemma2")
    narrow_embedding = model_type.startswith(("gemma", "qwen3_5", "qwen3_next"))
    for name, parameter in model.named_parameters():
        x = torch.randn(parameter.shape, generator=generator)
        if name.endswith("bias"):
            x = 0.3 * x
        elif name.endswith("A_log"):
            x = 1.5 * x - 2  # States that fade within one to some hundred positions.
        elif name.endswith("conv1d.weight"):
            x = 0.7 * x
        elif name.endswith("linear_attn.norm.weight"):
            x = 1 + 0.2 * x
        elif name.endswith("sinks"):
            pass
        elif "norm" in name or ".ln_" in name or name.endswith("scale"):
            x = 0.2 * x if norms_around_zero else 1 + 0.2 * x
        elif "embed_tokens" in name or name.endswith(("wte.weight", "wpe.weight")):
            x = (0.15 if narrow_embedding else 0.7) * x
        else:
            n_inputs = parameter.shape[1] if parameter.ndim == 3 else parameter.shape[-1]
            x = 1.5 * x / math.sqrt(n_inputs)
        parameter.copy_(x.to(torch.bfloat16).float())
    for name, buffer in model.named_buffers():
        if name.endswith(("e_score_correction_bias", "layer_scalar")):
            x = 0.1 * torch.randn(buffer.shape, generator=generator)
            if name.endswith("scalar"):
                x = 0.8 + x
            buffer.copy_(x.to(torch.bfloat16).float())


def mxfp4_experts(model, generator) -> dict:
    """Gives gpt-oss experts that MXFP4 holds exactly, and the packed tensors of its checkpoints."""
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    packed = {}
    for index, layer in enumerate(model.model.layers):
        for name in ("gate_up_proj", "down_proj"):
            weight = getattr(layer.mlp.experts, name)  # (experts, inputs, outputs)
            n_experts, n_inputs, n_outputs = weight.shape
            shape = (n_experts, n_outputs, n_inputs // 32)
            blocks = torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8)
            scales = torch.randint(122, 127, shape, generator=generator, dtype=torch.uint8)
            numbers = torch.empty(*shape, 32)
            numbers[..., 0::2] = values[(blocks & 15).long()]
            numbers[..., 1::2] = values[(blocks >> 4).long()]
            numbers = numbers * torch.exp2(scales.float() - 127)[..., None]
            weight.copy_(numbers.reshape(n_experts, n_outputs, n_inputs).transpose(1, 2))
            packed[f"model.layers.{index}.mlp.experts.{name}_blocks"] = blocks
            packed[f"model.layers.{index}.mlp.experts.{name}_scales"] = scales
    return packed


def split_experts(tensors: dict, width: int) -> dict:
    """Transformers 5 fuses the experts in memory; released checkpoints of Qwen3-MoE and DeepSeek hold each matrix on its own."""
    result = {}
    for name, tensor in tensors.items():
        prefix, part = name.rsplit(".", 1)
        if ".experts." not in name:
            result[name] = tensor
            continue
        for index, weight in enumerate(tensor):
            if part == "gate_up_proj":
                result[f"{prefix}.{index}.gate_proj.weight"] = weight[:width].contiguous()
                result[f"{prefix}.{index}.up_proj.weight"] = weight[width:].contiguous()
            else:
                result[f"{prefix}.{index}.{part}.weight"] = weight.contiguous()
    return result


def multi_token_prediction(model, generator) -> dict:
    """The drafting layer that released Qwen 3 Next and 3.5 checkpoints hold besides the model, of which transformers reads nothing."""
    hidden, last = model.config.hidden_size, len(model.model.layers) - 1
    prefix = f"model.layers.{last}."
    shapes = {
        f"mtp.layers.0.{name.removeprefix(prefix)}": parameter.shape
        for name, parameter in model.named_parameters()
        if name.startswith(prefix)
    }
    shapes["mtp.fc.weight"] = (hidden, 2 * hidden)
    shapes |= {f"mtp.{part}.weight": (hidden,) for part in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")}
    return {name: torch.randn(shape, generator=generator).to(torch.bfloat16) for name, shape in shapes.items()}


def make(out: Path, name: str) -> None:
    model_type, keys = MODELS[name]
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    config = transformers.AutoConfig.for_model(model_type, **json.loads(json.dumps(keys)))
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    initialise(model, model_type, generator)
    packed = mxfp4_experts(model, generator) if model_type == "gpt_oss" else {}
    model.tie_weights()
    ids = torch.randint(3, keys["vocab_size"], (1, PROMPT), generator=generator)
    output = model(ids, output_hidden_states=True, use_cache=False)

    tensors = {key: value.to(torch.bfloat16).contiguous() for key, value in model.state_dict().items()}
    if keys["tie_word_embeddings"]:
        tensors.pop("lm_head.weight", None)
    for key in packed:
        tensors.pop(key.removesuffix("_blocks").removesuffix("_scales"), None)
    if model_type.startswith(("qwen3_5", "qwen3_next")):
        tensors |= multi_token_prediction(model, generator)
    if model_type in ("qwen3_moe", "qwen3_next", "deepseek_v2", "deepseek_v3", "glm4_moe_lite"):
        tensors = split_experts(tensors, keys["moe_intermediate_size"])
    if keys.get("num_nextn_predict_layers"):
        # A further layer that predicts more tokens, which transformers leaves out. Of GLM's, llama.cpp wants all tensors.
        last, further = (f"model.layers.{keys['num_hidden_layers'] + idx}." for idx in (-1, 0))
        if model_type == "glm4_moe_lite":
            layer = {key.removeprefix(last): tensor for key, tensor in tensors.items() if key.startswith(last)}
            tensors |= {f"{further}{key}": tensor.clone() for key, tensor in layer.items()}
            for part in ("enorm", "hnorm", "shared_head.norm"):
                tensors[f"{further}{part}.weight"] = torch.ones(HIDDEN, dtype=torch.bfloat16)
        tensors[f"{further}eh_proj.weight"] = torch.zeros(HIDDEN, 2 * HIDDEN, dtype=torch.bfloat16)
        tensors[f"{further}input_layernorm.weight"] = torch.ones(HIDDEN, dtype=torch.bfloat16)
    config = {"architectures": [type(model).__name__], "model_type": model_type, "torch_dtype": "bfloat16"} | keys
    if name in NESTED:
        # As released: other parts stand beside the text model.
        text_config = transformers.AutoConfig.for_model(model_type, **keys).to_diff_dict()
        config = {"model_type": model_type.removesuffix("_text"), "torch_dtype": "bfloat16", "text_config": text_config}
        tensors = {f"model.language_model.{key.removeprefix('model.')}": tensor for key, tensor in tensors.items()}
        tensors["model.embed_vision.embedding_projection.weight"] = torch.ones(2, 2, dtype=torch.bfloat16)
    if packed:
        config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.embed_tokens"]}
    expected = {"input_ids": ids[0], "logits": output.logits[0].float().contiguous()}
    for index, state in enumerate(output.hidden_states):
        expected[f"hidden.{index}"] = state[0].float().contiguous().clone()
    prompts = {"long": (LONG_PROMPT, N_LAST)}
    if (keys.get("rope_scaling") or {}).get("type") == "longrope":
        prompts["within"] = (SHORT_PROMPT, SHORT_PROMPT)
    for kind, (length, n_last) in prompts.items():
        ids = torch.randint(3, keys["vocab_size"], (1, length), generator=generator)
        logits = model(ids, use_cache=False).logits[0, -n_last:]
        expected |= {f"{kind}.input_ids": ids[0], f"{kind}.logits": logits.float().contiguous()}

    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors | packed, folder / "model.safetensors", {"format": "pt"})
    save_file(expected, folder / "expected.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    print(f"{name}: logits spread by {output.logits.std():.2f}, finite: {bool(output.logits.isfinite().all())}")


def main() -> None:
    # Without the CUDA runtime, asking it would end the process.
    torch.cuda.is_current_stream_capturing = lambda: False
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for name in sys.argv[2:] or MODELS:
        make(Path(sys.argv[1]), name)


if __name__ == "__main__":
    main()
