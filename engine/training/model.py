"""The network: Qwen3's architecture, small (query/key norm, no biases, SwiGLU, rotary half-rotation, tied embeddings)."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    rope_theta: float = 10_000.0
    rms_eps: float = 1e-6

    def as_dict(self) -> dict:
        return asdict(self)


CPU_SHAPE = Shape()
GPU_SHAPE = Shape(vocab_size=16_384, hidden=512, n_layers=12, n_heads=8, n_kv_heads=2, intermediate=1_536)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = shape.n_heads, shape.n_kv_heads, shape.head_dim
        self.q = nn.Linear(shape.hidden, shape.n_heads * shape.head_dim, bias=False)
        self.k = nn.Linear(shape.hidden, shape.n_kv_heads * shape.head_dim, bias=False)
        self.v = nn.Linear(shape.hidden, shape.n_kv_heads * shape.head_dim, bias=False)
        self.output = nn.Linear(shape.n_heads * shape.head_dim, shape.hidden, bias=False)
        self.q_norm = RMSNorm(shape.head_dim, shape.rms_eps)
        self.k_norm = RMSNorm(shape.head_dim, shape.rms_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: (batch, seq, hidden)."""
        batch, seq, _ = x.shape
        q = self.q_norm(self.q(x).view(batch, seq, self.n_heads, self.head_dim)).transpose(1, 2)
        k = self.k_norm(self.k(x).view(batch, seq, self.n_kv_heads, self.head_dim)).transpose(1, 2)
        v = self.v(x).view(batch, seq, self.n_kv_heads, self.head_dim).transpose(1, 2)
        group = self.n_heads // self.n_kv_heads
        k = rotate(k, cos, sin).repeat_interleave(group, dim=1)
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), k, v.repeat_interleave(group, dim=1), is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(batch, seq, -1))


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.hidden, shape.rms_eps)
        self.attention = Attention(shape)
        self.mlp_norm = RMSNorm(shape.hidden, shape.rms_eps)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.mlp(self.mlp_norm(x))


class Network(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab_size, shape.hidden)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layers))
        self.norm = RMSNorm(shape.hidden, shape.rms_eps)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for block in self.blocks:
            for linear in (block.attention.q, block.attention.k, block.attention.v, block.mlp.gate, block.mlp.up):
                nn.init.normal_(linear.weight, std=shape.hidden**-0.5 / 2)
            nn.init.zeros_(block.attention.output.weight)
            nn.init.zeros_(block.mlp.down.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (batch, seq), integers. Returns logits (batch, seq, vocab), f32."""
        x = self.embedding(tokens)
        cos, sin = rope_table(tokens.shape[1], self.shape, x)
        for block in self.blocks:
            x = block(x, cos, sin)
        return F.linear(self.norm(x), self.embedding.weight).float()

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean negative log-likelihood in nats; targets below zero do not count."""
        return F.cross_entropy(self(tokens).flatten(0, 1), targets.flatten(), ignore_index=-1)


def rope_table(seq: int, shape: Shape, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (seq, head_dim / 2)."""
    half = shape.head_dim // 2
    frequencies = shape.rope_theta ** (-torch.arange(half, device=like.device, dtype=torch.float32) / half)
    angles = torch.arange(seq, device=like.device, dtype=torch.float32)[:, None] * frequencies
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (i, i + head_dim / 2); x: (batch, heads, seq, head_dim)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
