"""Trains an EAGLE-3 head for a finished network: one layer that predicts what the network will say (Li et al. 2025).

Row t reads the network's states at position t and the token at t + 1, and predicts the token at t + 2. In step s of the unrolled
loss ("training-time test") the head reads what it made of row t in step s - 1 in place of the states, and the token at t + 1 + s; it sees
the rows of step 0 up to t and its own earlier steps at t. The teacher is the network's distribution, cut to the head's vocabulary.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import Network, RMSNorm, Shape, normalised, rope_table, rotate, save
from muon import Muon
from train import PRESETS, Row, Rows

N_STEPS = 5
STEP_WEIGHT = 0.8
WINDOW = 1024
# Matrix products are fast where rows are well aligned.
ROW_MULTIPLE = 64


def target_layers(n_layers: int) -> tuple[int, int, int]:
    """The layers whose input the head reads, as everybody's default has them."""
    return 2, n_layers // 2, n_layers - 3


class Head(nn.Module):
    """Parameters are named as SGLang's published heads name them."""

    def __init__(self, shape: Shape, vocab_size: int) -> None:
        super().__init__()
        hidden, rows = shape.hidden, shape.n_heads * shape.head_dim
        self.shape = shape

        def linear(n_in: int, n_out: int) -> nn.Linear:
            layer = nn.Linear(n_in, n_out, bias=False)
            nn.init.normal_(layer.weight, std=n_in**-0.5 / 2)
            return layer

        self.fc = linear(3 * hidden, hidden)
        self.midlayer = nn.Module()
        self.midlayer.input_layernorm, self.midlayer.hidden_norm = RMSNorm(hidden), RMSNorm(hidden)
        self.midlayer.post_attention_layernorm = RMSNorm(hidden)
        self.midlayer.self_attn, self.midlayer.mlp = nn.Module(), nn.Module()
        self.midlayer.self_attn.q_proj = linear(2 * hidden, rows)
        self.midlayer.self_attn.k_proj = linear(2 * hidden, shape.n_kv_heads * shape.head_dim)
        self.midlayer.self_attn.v_proj = linear(2 * hidden, shape.n_kv_heads * shape.head_dim)
        self.midlayer.self_attn.o_proj = linear(rows, hidden)
        self.midlayer.mlp.gate_proj = linear(hidden, shape.intermediate)
        self.midlayer.mlp.up_proj = linear(hidden, shape.intermediate)
        self.midlayer.mlp.down_proj = linear(shape.intermediate, hidden)
        self.norm = RMSNorm(hidden)
        self.lm_head = linear(hidden, vocab_size)

    def unrolled_loss(self, states: Tensor, embeddings: Tensor, positions: Tensor, example_ids: Tensor, teacher: Tensor,
                      known: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted loss over all steps, and for each step how often the head's first choice is the network's: (N_STEPS,).

        states: (batch, seq, 3 * hidden); embeddings: (batch, seq, hidden); positions, example_ids: (batch, seq); teacher: logits, (batch, seq, vocab);
        known: whether the network's first choice is in the vocabulary, (batch, seq). Where it is not there is nothing to learn.
        """
        mine, mlp, shape = self.midlayer.self_attn, self.midlayer.mlp, self.shape
        n_rows = (states.shape[1] - N_STEPS - 1) // ROW_MULTIPLE * ROW_MULTIPLE
        ids = example_ids[:, :n_rows]
        rows = torch.arange(n_rows, device=states.device)
        seen = (ids[:, None, :, None] == ids[:, None, None, :]) & (rows[:, None] >= rows)
        feature = F.linear(states[:, :n_rows], self.fc.weight.to(states.dtype))
        keys: list[Tensor] = []
        values: list[Tensor] = []
        total, agreement = torch.zeros((), device=states.device), []
        for step in range(N_STEPS):
            now = slice(step + 1, step + 1 + n_rows)
            x = torch.cat((self.normed(embeddings[:, now], self.midlayer.input_layernorm), self.normed(feature, self.midlayer.hidden_norm)), dim=-1)
            cos, sin = rope_table(positions[:, :n_rows].flatten() + step, shape.head_dim, shape.rope_theta)
            q, k, v = (self.heads(x, layer, cos, sin) for layer in (mine.q_proj, mine.k_proj, None))
            keys.append(k)
            values.append(v)
            feature = feature + F.linear(self.mixed(q, keys, values, seen), mine.o_proj.weight.to(x.dtype))
            opened = self.normed(feature, self.midlayer.post_attention_layernorm)
            lifted = F.silu(F.linear(opened, mlp.gate_proj.weight.to(x.dtype))) * F.linear(opened, mlp.up_proj.weight.to(x.dtype))
            feature = feature + F.linear(lifted, mlp.down_proj.weight.to(x.dtype))
            logits = F.linear(self.normed(feature, self.norm), self.lm_head.weight.to(x.dtype)).float()
            wanted = teacher[:, now].float()
            inside = ids == example_ids[:, step + 2 : step + 2 + n_rows]
            counts = inside & known[:, now]
            loss = F.cross_entropy(logits.flatten(0, 1), wanted.softmax(-1).flatten(0, 1), reduction="none").view_as(ids)
            total = total + STEP_WEIGHT**step * (loss * counts).sum() / counts.sum()
            agreement.append(((logits.argmax(-1) == wanted.argmax(-1)) & counts).sum() / inside.sum())
        return total, torch.stack(agreement).detach()

    def normed(self, x: Tensor, norm: RMSNorm) -> Tensor:
        return normalised(x, norm.weight, self.shape.rms_eps)

    def heads(self, x: Tensor, layer: nn.Linear | None, cos: Tensor, sin: Tensor) -> Tensor:
        """(batch, n_heads, seq, head_dim), turned; without a layer the values, which are not. Key and value heads are repeated."""
        batch, seq, _ = x.shape
        weight = (layer or self.midlayer.self_attn.v_proj).weight
        split = F.linear(x, weight.to(x.dtype)).view(batch * seq, -1, self.shape.head_dim)
        split = rotate(split, cos.to(x.dtype), sin.to(x.dtype)) if layer else split
        split = split.repeat_interleave(self.shape.n_heads // split.shape[1], dim=1)
        return split.view(batch, seq, self.shape.n_heads, self.shape.head_dim).transpose(1, 2)

    def mixed(self, q: Tensor, keys: list[Tensor], values: list[Tensor], seen: Tensor) -> Tensor:
        scale = self.shape.head_dim**-0.5
        scores = (q @ keys[0].mT * scale).masked_fill(~seen, float("-inf"))
        own = [(q * k).sum(-1, keepdim=True) * scale for k in keys[1:]]
        # Rows of a length that is no multiple of eight would be slow to multiply.
        padding = scores.new_full((*scores.shape[:-1], 8 - len(own)), float("-inf"))
        weights = torch.cat((scores, *own, padding), dim=-1).softmax(-1)
        n_rows = scores.shape[-1]
        result = weights[..., :n_rows] @ values[0]
        for idx, v in enumerate(values[1:]):
            result = result + weights[..., n_rows + idx, None] * v
        return result.transpose(1, 2).flatten(2)


def teach(network: Network, row: Row, draft_ids: Tensor, window: int) -> tuple[Tensor, ...]:
    """What `unrolled_loss` needs of one row of tokens, cut into windows.

    Runs the network just as its own training does, so that what was compiled there serves here too.
    """
    hidden, captured = network.hidden_states(row.tokens, row.layout, target_layers(network.shape.n_layers))
    with torch.no_grad():
        logits = F.linear(normalised(hidden, network.norm.weight, network.shape.rms_eps), network.embedding.weight.to(hidden.dtype))
        known, teacher = torch.isin(logits.argmax(-1), draft_ids), logits[:, draft_ids]
    embeddings = F.embedding(row.tokens, network.embedding.weight).to(hidden.dtype)
    example_ids = (row.layout.positions == 0).cumsum(0)
    n_tokens = len(row.tokens) // window * window

    def windows(t: Tensor) -> Tensor:
        return t[:n_tokens].detach().view(-1, window, *t.shape[1:])

    states = windows(torch.cat(captured, dim=-1))
    return states, windows(embeddings), windows(row.layout.positions), windows(example_ids), windows(teacher), windows(known)


def frequent_ids(rows: Rows, vocab_size: int, n_ids: int, n_rows: int = 8) -> Tensor:
    """The tokens that occur most, in ascending order."""
    counts = sum(torch.bincount(rows.next().tokens, minlength=vocab_size) for _ in range(n_rows))
    return counts.topk(n_ids).indices.sort().values


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the finished network")
    parser.add_argument("corpus", type=Path, help="folder with train*.jsonl*")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path, help="draft.pt to write")
    parser.add_argument("--preset", choices=PRESETS, default="gpu")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--adam-lr", type=float, default=0.002)
    parser.add_argument("--log-every", type=int, default=20)
    args = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = Rows(args.corpus, args.tokenizer, PRESETS[args.preset], device, args.workers, seed=77)
    state = torch.load(args.checkpoint, map_location=device)
    network = Network(Shape(**state["shape"])).to(device)
    network.load_state_dict(state["weights"])
    torch.manual_seed(0)
    head = Head(network.shape, args.vocab_size).to(device)
    draft_ids = frequent_ids(rows, network.shape.vocab_size, args.vocab_size)
    with torch.no_grad():
        head.lm_head.weight.copy_(network.embedding.weight[draft_ids])
        head.norm.weight.copy_(network.norm.weight)
    matrices = [p for name, p in head.named_parameters() if p.ndim == 2 and "lm_head" not in name]
    others = [p for name, p in head.named_parameters() if p.ndim == 1 or "lm_head" in name]
    muon, adam = Muon(matrices, lr=args.muon_lr), torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    started, step, n_tokens, progress = time.time(), 0, 0, 0.0
    while progress < 1.0:
        progress = min(1.0, (time.time() - started) / args.seconds)
        row = rows.next()
        loss, agreement = head.unrolled_loss(*teach(network, row, draft_ids, min(WINDOW, PRESETS[args.preset].row_tokens)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        factor = min(1.0, (step + 1) / 20) * min(1.0, (1.0 - progress) / 0.7)
        for optimizer, lr in ((muon, args.muon_lr), (adam, args.adam_lr)):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            optimizer.step()
        head.zero_grad(set_to_none=True)
        step, n_tokens = step + 1, n_tokens + row.n_targets
        if step % args.log_every == 0 or progress >= 1.0:
            print(json.dumps({"step": step, "tokens": n_tokens, "loss": round(loss.item(), 4), "agreement": [round(x, 3) for x in agreement.tolist()]}), flush=True)
    rows.stop()
    weights = {name: tensor.cpu() for name, tensor in head.state_dict().items()}
    save({"shape": network.shape.as_dict(), "weights": weights, "draft_ids": draft_ids.cpu(), "tokens_seen": n_tokens}, args.out)


if __name__ == "__main__":
    main()
