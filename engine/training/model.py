"""The network: Qwen3's architecture, small (query/key norm, no biases, SwiGLU, rotary half-rotation, tied embeddings).

It reads examples laid end to end in one row of tokens; attention stays within each example. All functions between two
attentions are plain functions of tensors, so that `compile_functions` compiles each once for all layers.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def save(state: dict, path: Path) -> None:
    """Atomic: whoever comes finds the old file or the new one, whenever this is cut."""
    temporary = path.with_suffix(".partial")
    torch.save(state, temporary)
    os.replace(temporary, path)


def save_mean(first: Path, second: Path, share: float, out: Path) -> None:
    """Each weight is the mean of two checkpoints of one shape; `share` is how much the second counts for. The rest is the second's."""
    one, other = (torch.load(path, map_location="cpu") for path in (first, second))
    weights = {name: torch.lerp(one["weights"][name].float(), weight.float(), share) for name, weight in other["weights"].items()}
    save(other | {"weights": weights}, out)


@dataclass(frozen=True)
class Shape:
    """Sizes of the network. Row lengths are multiples of 256 so that every GGUF quantisation applies."""

    vocab_size: int = 4096
    hidden: int = 256
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 64
    intermediate: int = 768
    rope_theta: float = 100_000.0
    rms_eps: float = 1e-6

    def as_dict(self) -> dict:
        return asdict(self)


CPU_SHAPE = Shape()
GPU_SHAPE = Shape(vocab_size=16_384, hidden=512, n_layers=12, n_heads=8, n_kv_heads=2, intermediate=1_536)


@dataclass
class Layout:
    """Where the examples of one row of tokens stand. positions: (n_tokens,); borders: (n_examples + 1,), int32."""

    positions: Tensor
    borders: Tensor
    longest: int


class RMSNorm(nn.Module):
    """Only the weight; `normalised` does the work."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.q = nn.Linear(shape.hidden, shape.n_heads * shape.head_dim, bias=False)
        self.k = nn.Linear(shape.hidden, shape.n_kv_heads * shape.head_dim, bias=False)
        self.v = nn.Linear(shape.hidden, shape.n_kv_heads * shape.head_dim, bias=False)
        self.output = nn.Linear(shape.n_heads * shape.head_dim, shape.hidden, bias=False)
        self.q_norm = RMSNorm(shape.head_dim)
        self.k_norm = RMSNorm(shape.head_dim)


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down = nn.Linear(shape.intermediate, shape.hidden, bias=False)


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_dim, self.eps = shape.head_dim, shape.rms_eps
        self.attention_norm = RMSNorm(shape.hidden)
        self.attention = Attention(shape)
        self.mlp_norm = RMSNorm(shape.hidden)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> Tensor:
        """x: (n_tokens, hidden)."""
        mine, mlp = self.attention, self.mlp
        q, k, v = queries_keys_values(x, self.attention_norm.weight, mine.q.weight, mine.k.weight, mine.v.weight,
                                      mine.q_norm.weight, mine.k_norm.weight, cos, sin, self.head_dim, self.eps)
        mixed = attend(q, k, v, layout)
        return rest_of_block(x, mixed, mine.output.weight, self.mlp_norm.weight, mlp.gate.weight, mlp.up.weight, mlp.down.weight, self.eps)


class Network(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab_size, shape.hidden)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layers))
        self.norm = RMSNorm(shape.hidden)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for block in self.blocks:
            for linear in (block.attention.q, block.attention.k, block.attention.v, block.mlp.gate, block.mlp.up):
                nn.init.normal_(linear.weight, std=shape.hidden**-0.5 / 2)
            nn.init.zeros_(block.attention.output.weight)
            nn.init.zeros_(block.mlp.down.weight)

    def hidden_states(self, tokens: Tensor, layout: Layout, entering: tuple[int, ...] = ()) -> tuple[Tensor, list[Tensor]]:
        """What leaves the last block, and what enters the named ones: each (n_tokens, hidden). On a GPU in bf16.

        tokens: (n_tokens,), integers.
        """
        x = F.embedding(tokens, self.embedding.weight)
        x = x.bfloat16() if x.is_cuda else x
        cos, sin = rope_table(layout.positions, self.shape.head_dim, self.shape.rope_theta)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        entered = []
        for block in self.blocks:
            entered.append(x)
            x = block(x, cos, sin, layout)
        return x, [entered[layer_idx] for layer_idx in entering]

    def forward(self, tokens: Tensor, layout: Layout) -> Tensor:
        """Logits (n_tokens, vocab), f32."""
        x, _ = self.hidden_states(tokens, layout)
        return F.linear(normalised(x, self.norm.weight, self.shape.rms_eps), self.embedding.weight.to(x.dtype)).float()

    def loss(self, tokens: Tensor, layout: Layout, targets: Tensor) -> Tensor:
        """Sum of the negative log-likelihoods in nats; targets below zero do not count."""
        x, _ = self.hidden_states(tokens, layout)
        return negative_log_likelihood(x, self.norm.weight, self.embedding.weight, targets, self.shape.rms_eps)


def normalised(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def rope_table(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (n_tokens, 1, head_dim / 2), f32."""
    half = head_dim // 2
    frequencies = theta ** (-torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    angles = positions[:, None, None].float() * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (i, i + head_dim / 2); x: (n_tokens, heads, head_dim)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def queries_keys_values(x: Tensor, norm: Tensor, q: Tensor, k: Tensor, v: Tensor, q_norm: Tensor, k_norm: Tensor, cos: Tensor, sin: Tensor,
                        head_dim: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Each (n_tokens, heads, head_dim), queries and keys normalised and turned."""
    joined = F.linear(normalised(x, norm, eps), torch.cat((q, k, v)).to(x.dtype)).view(len(x), -1, head_dim)
    q_heads, kv_heads = len(q) // head_dim, len(k) // head_dim
    queries, keys, values = joined.split((q_heads, kv_heads, kv_heads), dim=1)
    return (rotate(normalised(queries, q_norm, eps), cos, sin), rotate(normalised(keys, k_norm, eps), cos, sin), values.contiguous())


def rest_of_block(x: Tensor, mixed: Tensor, output: Tensor, norm: Tensor, gate: Tensor, up: Tensor, down: Tensor, eps: float) -> Tensor:
    x = x + F.linear(mixed.flatten(1), output.to(x.dtype))
    opened, lifted = F.linear(normalised(x, norm, eps), torch.cat((gate, up)).to(x.dtype)).chunk(2, dim=-1)
    return x + F.linear(F.silu(opened) * lifted, down.to(x.dtype))


def negative_log_likelihood(x: Tensor, norm: Tensor, embedding: Tensor, targets: Tensor, eps: float) -> Tensor:
    logits = F.linear(normalised(x, norm, eps), embedding.to(x.dtype)).float()
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")


def attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """Causal attention within each example; q: (n_tokens, heads, head_dim), k and v with fewer heads."""
    if not q.is_cuda:
        return attend_slowly(q, k, v, layout)
    from torch.nn.attention.varlen import varlen_attn

    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    return varlen_attn(q, k, v, layout.borders, layout.borders, layout.longest, layout.longest, window_size=(-1, 0))


def attend_slowly(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """The reference for `attend`: one example after the other."""
    borders = layout.borders.tolist()
    mixed = []
    for start, end in zip(borders, borders[1:]):
        heads = (t[start:end].transpose(0, 1)[None] for t in (q, k, v))
        mixed.append(F.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)[0].transpose(0, 1))
    return torch.cat(mixed)


def compile_functions() -> None:
    """Replaces the functions between attentions by compiled ones, for the whole process."""
    for name in ("queries_keys_values", "rest_of_block", "negative_log_likelihood"):
        globals()[name] = torch.compile(globals()[name], dynamic=False, fullgraph=True)


def one_example(tokens: Tensor) -> Layout:
    """The layout of a row that is a single example."""
    n_tokens = len(tokens)
    return Layout(torch.arange(n_tokens, device=tokens.device), torch.tensor([0, n_tokens], dtype=torch.int32, device=tokens.device), n_tokens)
