"""Trains the network on examples cut on the fly by other processes, on a CPU or on one CUDA GPU, against the clock.

The learning rate follows the time that has been trained of the time that there is (warm-up, stable, then down to zero), so a run ends
on time whatever the speed of the machine. OUT/schedule.json says how many minutes there are; it is read in every step, so a run can be
given more or fewer while it goes on. A checkpoint is written every two minutes; a run that was cut, whenever, is continued from it by the
same command, with the time that was left. Parts of the corpus may arrive while it runs.
"""

import argparse
import json
import math
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import torch
from tokenizers import Tokenizer
from torch import Tensor

import model
import pack
from model import CPU_SHAPE, GPU_SHAPE, Layout, Network, Shape
from muon import Muon


@dataclass(frozen=True)
class Preset:
    shape: Shape
    row_tokens: int
    """Tokens in one forward pass."""
    rows: int
    """Forward passes in one step, at full size."""
    mix: pack.Mix = pack.Mix()
    muon_lr: float = 0.02
    adam_lr: float = 0.004
    weight_decay: float = 0.02


TOY_SHAPE = Shape(vocab_size=512, hidden=64, n_layers=4, n_heads=2, n_kv_heads=1, head_dim=32, intermediate=128)
PRESETS = {
    "cpu": Preset(CPU_SHAPE, row_tokens=4096, rows=2, muon_lr=0.008, adam_lr=0.0016),
    "gpu": Preset(GPU_SHAPE, row_tokens=65_536, rows=4),
    "toy": Preset(TOY_SHAPE, row_tokens=512, rows=2, mix=pack.Mix(lengths=(64, 128), length_weights=(0.5, 0.5))),
}
CLIP_NORM = 1.0
MUON_MOMENTUM = 0.95
WAIT_SECONDS = 120


def decay(progress: float, begin: float) -> float:
    """Factor on the learning rates: 1 until progress `begin`, then straight down to 0 at progress 1."""
    return max(0.0, min(1.0, (1.0 - progress) / (1.0 - begin)))


def rows_at(progress: float, rows: int) -> int:
    """Small steps first: early on, many rough updates help more than few exact ones."""
    return max(1, rows // 4) if progress < 0.03 else max(1, rows // 2) if progress < 0.12 else rows


@dataclass
class Row:
    """A batch on the device."""

    tokens: Tensor
    targets: Tensor
    layout: Layout
    n_targets: int


def to_device(batch: pack.Batch, device: str) -> Row:
    targets = torch.from_numpy(batch.targets())
    tensors = [torch.from_numpy(batch.tokens.astype("int32")).long(), targets, torch.from_numpy(batch.positions()), torch.from_numpy(batch.borders)]
    if device == "cuda":
        tensors = [tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors]
    tokens, on_device, positions, borders = tensors
    return Row(tokens, on_device, Layout(positions, borders, batch.longest()), int((targets >= 0).sum()))


def produce(outbox: multiprocessing.Queue, *arguments) -> None:
    """A worker: cuts examples for ever."""
    for batch in pack.endless(*arguments):
        outbox.put(batch)


class Rows:
    """Batches from worker processes, on the device, in no particular order."""

    def __init__(self, corpus: Path, tokenizer: Path, preset: Preset, device: str, n_workers: int, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.inbox = context.Queue(4 * n_workers)
        self.ready: queue.Queue[Row | BaseException] = queue.Queue(4)
        self.workers = [
            context.Process(target=produce, args=(self.inbox, corpus, tokenizer, preset.row_tokens, preset.mix, seed, (idx, n_workers)), daemon=True)
            for idx in range(n_workers)]
        for worker in self.workers:
            worker.start()

        def move() -> None:
            try:
                while True:
                    self.ready.put(to_device(self.inbox.get(), device))
            except BaseException as error:
                self.ready.put(error)

        threading.Thread(target=move, daemon=True).start()

    def next(self) -> Row:
        try:
            row = self.ready.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            raise RuntimeError(f"no examples for {WAIT_SECONDS} s: is there a part train*.jsonl* in the corpus?") from None
        if isinstance(row, BaseException):
            raise row
        return row

    def stop(self) -> None:
        for worker in self.workers:
            worker.terminate()


class Training:
    def __init__(self, preset: Preset, device: str) -> None:
        torch.manual_seed(0)
        self.preset, self.device = preset, device
        self.network = Network(preset.shape).to(device)
        matrices = [p for name, p in self.network.named_parameters() if p.ndim == 2 and "embedding" not in name]
        others = [p for name, p in self.network.named_parameters() if p.ndim == 1 or "embedding" in name]
        self.muon = Muon(matrices, lr=preset.muon_lr, momentum=MUON_MOMENTUM, weight_decay=preset.weight_decay)
        self.adam = torch.optim.AdamW(others, lr=preset.adam_lr, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0, fused=device == "cuda")
        self.tokens_seen = 0
        self.is_fresh = True

    def step(self, rows: Rows, progress: float, warm: float, decay_from: float) -> Tensor:
        """One update; returns the mean loss in nats, still on the device."""
        picked = [rows.next() for _ in range(rows_at(progress if self.is_fresh else 1.0, self.preset.rows))]
        n_targets = sum(row.n_targets for row in picked)
        total = torch.zeros((), device=self.device)
        for row in picked:
            loss = self.network.loss(row.tokens, row.layout, row.targets) / n_targets
            loss.backward()
            total += loss.detach()
        self.tokens_seen += n_targets
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
        factor = warm * decay(progress, decay_from)
        for optimizer, lr in ((self.muon, self.preset.muon_lr), (self.adam, self.preset.adam_lr)):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            optimizer.step()
        self.network.zero_grad(set_to_none=True)
        return total

    def held_out_loss(self, rows: list[Row]) -> float:
        # Not under no_grad, for which everything would be compiled once more.
        losses = sum(self.network.loss(row.tokens, row.layout, row.targets).detach() for row in rows)
        return float(losses) / sum(row.n_targets for row in rows)

    def save(self, path: Path, seconds: float) -> None:
        model.save({"shape": self.preset.shape.as_dict(), "weights": self.network.state_dict(), "tokens_seen": self.tokens_seen,
                    "seconds": seconds}, path)

    def resume(self, path: Path) -> float:
        """Takes the weights, and returns the seconds that they were trained. The optimisers start afresh and warm up again."""
        state = torch.load(path, map_location=self.device)
        self.network.load_state_dict(state["weights"])
        self.tokens_seen = state["tokens_seen"]
        self.is_fresh = False
        return state["seconds"]


def held_out_rows(corpus: Path, tokenizer: Path, preset: Preset, device: str, n_rows: int) -> list[Row]:
    """The same rows for every run: held-out files in a fixed order, cut with a fixed seed."""
    rng = pack.random.Random(0)
    encode = pack.Encoder(Tokenizer.from_file(str(tokenizer)))

    def records() -> Iterator[dict]:
        for part in pack.parts_of(corpus, "held_out"):
            yield from pack.read_part(part, rng)

    stream = pack.batches(pack.examples(records(), encode, preset.mix, rng), preset.row_tokens)
    return [to_device(batch, device) for _, batch in zip(range(n_rows), stream)]


class Schedule:
    """Where the run stands between its beginning (0) and its end (1). `trained` is how many seconds it had before it was cut."""

    def __init__(self, path: Path, minutes: float, trained: float) -> None:
        self.path, self.minutes = path, minutes
        self.started = time.time() - trained
        try:
            self.read()
        except (OSError, ValueError, KeyError):
            path.write_text(json.dumps({"minutes": minutes}))

    def read(self) -> None:
        self.minutes = float(json.loads(self.path.read_text())["minutes"])

    def seconds(self) -> float:
        return time.time() - self.started

    def progress(self) -> float:
        try:
            self.read()
        except (OSError, ValueError, KeyError):
            pass  # Somebody is writing it; the old one will do for a step.
        return self.seconds() / (60 * self.minutes)


def run(training: Training, trained: float, rows: Rows, held_out: list[Row], out: Path, log: TextIO, args: argparse.Namespace) -> None:
    def record(**fields) -> None:
        line = json.dumps({"time": round(time.time(), 1), "tokens": training.tokens_seen, **fields})
        print(line, flush=True)
        print(line, file=log, flush=True)

    record(event="start", parameters=sum(p.numel() for p in training.network.parameters()))
    schedule = Schedule(out / "schedule.json", args.minutes, trained)
    step, progress = 0, 0.0
    losses: list[Tensor] = []
    last_save = last_log = time.time()
    while progress < 1.0:
        progress = max(schedule.progress(), step / args.max_steps)
        # Optimiser state is not kept, so every start warms up.
        warm = min(1.0, (step + 1) / args.warmup_steps)
        losses.append(training.step(rows, progress, warm, args.decay_from))
        step += 1
        if step % args.log_every == 0:
            # Waits for the device, so that the clock and what is computed stay together.
            loss = float(torch.stack(losses).mean())
            losses.clear()
            if not math.isfinite(loss):
                raise RuntimeError(f"the loss is {loss} in step {step}: try --lr-scale 0.5")
            fields = {"held_out": round(training.held_out_loss(held_out), 4)} if time.time() - last_log > args.eval_seconds else {}
            if fields:
                last_log = time.time()
            record(step=step, progress=round(progress, 4), loss=round(loss, 4), **fields)
            if time.time() - last_save > args.save_seconds:
                training.save(out / "checkpoint.pt", schedule.seconds())
                last_save = time.time()
    training.save(out / "checkpoint.pt", schedule.seconds())
    training.save(out / "final.pt", schedule.seconds())
    record(event="end", held_out=round(training.held_out_loss(held_out), 4))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder with train*.jsonl* and held_out*.jsonl*")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path, help="folder for checkpoints and log")
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--minutes", type=float, default=90, help="how long to train, if OUT has no schedule yet")
    parser.add_argument("--max-steps", type=int, default=10**9, help="end sooner, the schedule with it")
    parser.add_argument("--warmup-steps", type=int, default=100)
    parser.add_argument("--decay-from", type=float, default=0.55, help="progress at which the learning rates start to fall")
    parser.add_argument("--lr-scale", type=float, default=1.0, help="factor on the preset's learning rates")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="processes that cut examples")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--log-every", type=int, default=5)
    parser.add_argument("--save-seconds", type=float, default=120)
    parser.add_argument("--eval-seconds", type=float, default=60)
    parser.add_argument("--eval-rows", type=int, default=4)
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    preset = PRESETS[args.preset]
    checkpoint = args.out / "checkpoint.pt"
    # The cuts differ from those before an interruption.
    rows = Rows(args.corpus, args.tokenizer, preset, device, args.workers, seed=int(checkpoint.exists() and checkpoint.stat().st_mtime))
    preset = replace(preset, muon_lr=preset.muon_lr * args.lr_scale, adam_lr=preset.adam_lr * args.lr_scale)
    training = Training(preset, device)
    trained = training.resume(checkpoint) if checkpoint.exists() else 0.0
    held_out = held_out_rows(args.corpus, args.tokenizer, preset, device, args.eval_rows)
    if not args.no_compile:
        model.compile_functions()
        # While the workers start.
        first = held_out[0]
        training.network.loss(first.tokens, first.layout, first.targets).backward()
        training.network.zero_grad(set_to_none=True)
    with (args.out / "log.jsonl").open("a") as log:
        run(training, trained, rows, held_out, args.out, log, args)
    rows.stop()


if __name__ == "__main__":
    main()
