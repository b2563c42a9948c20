"""Trains the network on packed windows, on a CPU or on one CUDA GPU, against the clock.

The learning rate follows the time that has passed between `--started` and `--deadline` (warm-up, stable, then down to zero), so
a run ends on time whatever the speed of the machine. A checkpoint is written every two minutes; a run that was cut is
continued by the same command.

Started by `torch.distributed.run`, several processes share each step: on a busy CPU, one process per core wastes less on waiting
than one process with a thread per core.
"""

import argparse
import copy
import json
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from model import CPU_SHAPE, GPU_SHAPE, Network, Shape
from muon import Muon


@dataclass(frozen=True)
class Preset:
    shape: Shape
    batch: int
    """Windows in one step."""
    micro_batch: int
    """Windows in one forward pass."""
    muon_lr: float = 0.02
    adam_lr: float = 0.004
    autocast: bool = False


PRESETS = {
    "cpu": Preset(CPU_SHAPE, batch=8, micro_batch=8, muon_lr=0.008, adam_lr=0.0016),
    "gpu": Preset(GPU_SHAPE, batch=256, micro_batch=32, autocast=True),
    "toy": Preset(Shape(vocab_size=512, hidden=64, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=32, intermediate=128), batch=4, micro_batch=4),
}
CLIP_NORM = 1.0


def decay(progress: float, begin: float) -> float:
    """Factor on the learning rates: 1 until progress `begin`, then straight down to 0 at progress 1."""
    return max(0.0, min(1.0, (1.0 - progress) / (1.0 - begin)))


class Windows:
    """Packed windows in a fixed random order per pass over the data."""

    def __init__(self, path: Path, pad: int, device: str) -> None:
        self.rows = np.load(path, mmap_mode="r")
        self.pad, self.device = pad, device
        self.rounds, self.order = -1, np.empty(0)

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, each (size, length); a target is -1 where there is padding."""
        rounds, at = divmod(first, len(self.rows))
        if rounds != self.rounds:
            self.rounds, self.order = rounds, np.random.default_rng(rounds).permutation(len(self.rows))
        picked = self.order[np.arange(at, at + size) % len(self.order)]
        tokens = torch.from_numpy(self.rows[np.sort(picked)].astype(np.int64))
        inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
        targets[targets == self.pad] = -1
        return inputs.to(self.device), targets.to(self.device)


class Training:
    def __init__(self, preset: Preset, device: str, compiled: bool) -> None:
        torch.manual_seed(0)
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        torch.set_float32_matmul_precision("high")
        self.preset, self.device = preset, device
        self.network = Network(preset.shape).to(device)
        matrices = [p for name, p in self.network.named_parameters() if p.ndim == 2 and "embedding" not in name]
        others = [p for name, p in self.network.named_parameters() if p.ndim == 1 or "embedding" in name]
        self.muon = Muon(matrices, lr=preset.muon_lr)
        self.adam = torch.optim.AdamW(others, lr=preset.adam_lr, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)
        self.loss = torch.compile(self.network.loss) if compiled else self.network.loss
        self.tokens_seen = 0
        self.windows_seen = 0

    def step(self, windows: Windows, progress: float, warm: float, decay_from: float) -> tuple[float, float]:
        """One update; returns the mean loss in nats and the progress that all processes agreed on."""
        n_parts = self.preset.batch // (self.preset.micro_batch * self.world)
        total = 0.0
        for _ in range(n_parts):
            inputs, targets = windows.batch(self.windows_seen + self.rank * self.preset.micro_batch, self.preset.micro_batch)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.preset.autocast):
                loss = self.loss(inputs, targets)
            (loss / n_parts).backward()
            total += loss.item() / n_parts
            self.windows_seen += self.preset.micro_batch * self.world
            self.tokens_seen += int((targets >= 0).sum()) * self.world
        total, progress = self.average(total, progress)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
        factor = warm * decay(progress, decay_from)
        for optimizer, lr in ((self.muon, self.preset.muon_lr), (self.adam, self.preset.adam_lr)):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            optimizer.step()
        self.network.zero_grad(set_to_none=True)
        return total, progress

    def average(self, *numbers: float) -> list[float]:
        """Averages the gradients, and the numbers, over the processes."""
        if self.world == 1:
            return list(numbers)
        gradients = [parameter.grad for parameter in self.network.parameters()]
        flat = torch.cat([torch.tensor(numbers, device=self.device)] + [gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        at = len(numbers)
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()
        return flat[: len(numbers)].tolist()

    @torch.no_grad()
    def held_out_loss(self, windows: Windows, n_batches: int) -> float:
        losses = []
        for idx in range(n_batches):
            inputs, targets = windows.batch(idx * self.preset.micro_batch, self.preset.micro_batch)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.preset.autocast):
                losses.append(self.network.loss(inputs, targets).item())
        return sum(losses) / len(losses)

    def save(self, path: Path) -> None:
        """Atomic: a reader sees the old checkpoint or the new one."""
        if self.rank != 0:
            return
        state = {
            "shape": self.preset.shape.as_dict(),
            "weights": self.network.state_dict(),
            "tokens_seen": self.tokens_seen,
            "windows_seen": self.windows_seen,
        }
        temporary = path.with_suffix(".partial")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def save_decayed(self, path: Path, windows: Windows, seconds: float) -> None:
        """Lets the learning rate fall to zero on a branch, saves that, and comes back: a model in case the run is cut."""
        state = copy.deepcopy((self.network.state_dict(), self.muon.state_dict(), self.adam.state_dict()))
        begun, progress = time.time(), 0.0
        while progress < 1.0:
            _, progress = self.step(windows, (time.time() - begun) / seconds, warm=1.0, decay_from=0.0)
        self.save(path)
        for part, saved in zip((self.network, self.muon, self.adam), state):
            part.load_state_dict(saved)

    def resume(self, path: Path) -> None:
        """Weights and position in the data; the optimisers start afresh and warm up again."""
        state = torch.load(path, map_location=self.device)
        self.network.load_state_dict(state["weights"])
        self.tokens_seen, self.windows_seen = state["tokens_seen"], state["windows_seen"]


def run(training: Training, windows: Windows, held_out: Windows | None, out: Path, args: argparse.Namespace) -> None:
    log = (out / "log.jsonl").open("a")

    def record(**fields) -> None:
        if training.rank == 0:
            line = json.dumps({"time": round(time.time()), "tokens": training.tokens_seen, **fields})
            print(line, flush=True)
            print(line, file=log, flush=True)

    record(event="start", parameters=sum(p.numel() for p in training.network.parameters()))
    step, progress, smooth = 0, 0.0, math.nan
    early = 60 * args.early_minutes / (args.deadline - args.started) if args.early_minutes else None
    if (out / "early.pt").exists():
        early = None
    last_save = last_eval = time.time()
    while progress < 1.0:
        clock = (time.time() - args.started) / (args.deadline - args.started)
        # Optimiser state is not kept, so every start warms up.
        warm = min(1.0, (step + 1) / args.warmup_steps)
        loss, progress = training.step(windows, max(clock, step / args.max_steps), warm, args.decay_from)
        smooth = loss if math.isnan(smooth) else 0.95 * smooth + 0.05 * loss
        step += 1
        if step % args.log_every == 0:
            record(step=step, progress=round(progress, 4), loss=round(smooth, 4))
        if early and progress > early:
            early = None
            training.save_decayed(out / "early.pt", windows, 60 * args.early_decay_minutes)
            record(event="early checkpoint")
        if time.time() - last_save > args.save_seconds:
            training.save(out / "checkpoint.pt")
            last_save = time.time()
        if held_out and training.rank == 0 and time.time() - last_eval > args.eval_seconds:
            record(event="held out", loss=round(training.held_out_loss(held_out, args.eval_batches), 4))
            last_eval = time.time()
    training.save(out / "checkpoint.pt")
    training.save(out / "final.pt")
    if held_out and training.rank == 0:
        record(event="held out, final", loss=round(training.held_out_loss(held_out, args.eval_batches), 4))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("windows", type=Path, help="packed training windows")
    parser.add_argument("out", type=Path, help="folder for checkpoints and log")
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--pad", type=int, required=True, help="id of <|fim_pad|>")
    parser.add_argument("--held-out", type=Path, help="packed held-out windows")
    parser.add_argument("--minutes", type=float, default=90, help="how long to train, if no --deadline is given")
    parser.add_argument("--started", type=float, help="Unix time at which the schedule began (default: now)")
    parser.add_argument("--deadline", type=float, help="Unix time at which the learning rate reaches zero")
    parser.add_argument("--max-steps", type=int, default=10**9, help="end sooner, the schedule with it")
    parser.add_argument("--warmup-steps", type=int, default=1.0)
    parser.add_argument("--decay-from", type=float, default=0.6, help="progress at which the learning rates start to fall")
    parser.add_argument("--early-minutes", type=float, help="when to branch off a decayed checkpoint, early.pt")
    parser.add_argument("--early-decay-minutes", type=float, default=1.0)
    parser.add_argument("--lr-scale", type=float, default=1.0, help="factor on the preset's learning rates")
    parser.add_argument("--batch", type=int, help="windows in one step, instead of the preset's")
    parser.add_argument("--micro-batch", type=int, help="windows in one forward pass, instead of the preset's")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--save-seconds", type=float, default=1.0)
    parser.add_argument("--eval-seconds", type=float, default=900)
    parser.add_argument("--eval-batches", type=int, default=16)
    args = parser.parse_args(arguments)
    args.started = args.started or time.time()
    args.deadline = args.deadline or args.started + 60 * args.minutes
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    preset = PRESETS[args.preset]
    if args.batch:
        preset = replace(preset, batch=args.batch)
    preset = replace(preset, muon_lr=preset.muon_lr * args.lr_scale, adam_lr=preset.adam_lr * args.lr_scale)
    if args.micro_batch:
        preset = replace(preset, micro_batch=args.micro_batch)
    training = Training(preset, device, compiled=not args.no_compile)
    if (args.out / "checkpoint.pt").exists():
        training.resume(args.out / "checkpoint.pt")
    windows = Windows(args.windows, args.pad, device)
    held_out = Windows(args.held_out, args.pad, device) if args.held_out else None
    run(training, windows, held_out, args.out, args)


if __name__ == "__main__":
    main()
