"""The whole run on one GPU, from a packed bundle to GGUF files and a report on what they can do, in one command.

Each stage leaves its result in OUT and is skipped if that is there, so the same command continues a run that was cut. Training
ends when its minutes are over (train.py has the schedule), and so does the head's, which gets `--draft-seconds` after it. Where training
continued from other weights, the result is a mean of both (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
"""

import argparse
import time
from pathlib import Path

import torch

import draft
import evaluate
import export
import model
import pack
import train


def stage(name: str, result: Path, make) -> None:
    if result.exists():
        print(f"{name}: already there", flush=True)
        return
    started = time.time()
    make()
    print(f"{name}: {time.time() - started:.0f} s", flush=True)


def check_attention() -> None:
    """The fast attention against the slow one, forward and backward, in bf16 on three examples of odd lengths."""
    torch.manual_seed(0)
    borders = torch.tensor([0, 37, 300, 1024], dtype=torch.int32, device="cuda")
    layout = model.Layout(torch.empty(0), borders, 724)
    inputs = [torch.randn(1024, heads, 64, device="cuda") for heads in (8, 2, 2)]
    results = []
    for attend, dtype in ((model.attend, torch.bfloat16), (model.attend_slowly, torch.float32)):
        q, k, v = (t.to(dtype).requires_grad_() for t in inputs)
        mixed = attend(q, k, v, layout)
        mixed.float().square().sum().backward()
        results.append([t.float() for t in (mixed, q.grad, k.grad, v.grad)])
    for name, fast, slow in zip(("output", "q", "k", "v"), *results):
        error = ((fast - slow).norm() / slow.norm()).item()
        print(f"attention, {name}: relative error {error:.1e}", flush=True)
        # bf16 keeps 8 bits.
        if not error < 2e-2:
            raise RuntimeError(f"attention on this GPU is wrong: {name} differs by {error}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder with the parts that bundle.py wrote; more may arrive")
    parser.add_argument("out", type=Path)
    parser.add_argument("--continue-from", type=Path, metavar="GGUF", help="begin with these weights")
    parser.add_argument("--share", type=float, default=0.9, help="of the weights with which training ends in the mean of them and those it began with")
    parser.add_argument("--lr-scale", type=float, default=1.0)
    parser.add_argument("--decay-from", type=float, default=0.55)
    parser.add_argument("--preset", choices=train.PRESETS, default="gpu")
    parser.add_argument("--minutes", type=float, default=25, help="of training, after compilation")
    parser.add_argument("--draft-seconds", type=float, default=240)
    parser.add_argument("--draft-vocab-size", type=int, default=4096)
    parser.add_argument("--places", type=int, default=200, help="places of each language in the report")
    parser.add_argument("--max-steps", type=int, default=10**9, help="end training sooner")
    parser.add_argument("--save-seconds", type=float, default=120, help="between checkpoints, which is what a cut costs at most")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args(arguments)
    out, vocabulary = args.out, args.bundle / "tokenizer.json"
    begun, trained, head = out / "begun.pt", out / "final.pt", out / "draft.pt"
    final = out / "mean.pt" if args.continue_from else trained
    shared = ["--preset", args.preset, *(["--workers", str(args.workers)] if args.workers else [])]
    if torch.cuda.is_available():
        check_attention()

    def learn() -> None:
        train.main([str(args.bundle), str(vocabulary), str(out), *shared, "--minutes", str(args.minutes), "--lr-scale", str(args.lr_scale),
                    "--decay-from", str(args.decay_from), "--save-seconds", str(args.save_seconds),
                    "--max-steps", str(args.max_steps), *(["--no-compile"] if args.no_compile else [])])

    def learn_to_draft() -> None:
        # What compiling takes would be more than it gives in so short a time.
        draft.main([str(final), str(args.bundle), str(vocabulary), str(head), *shared, "--vocab-size", str(args.draft_vocab_size),
                    "--seconds", str(args.draft_seconds)])

    def report() -> None:
        length = min(1024, train.PRESETS[args.preset].row_tokens // 4)
        evaluate.main([str(final), str(vocabulary), str(pack.parts_of(args.bundle, "held_out")[0]), "--out", str(out / "report.md"),
                       "--length", str(length), "--places", str(args.places), "--edits", str(args.places // 5)])

    out.mkdir(parents=True, exist_ok=True)
    if args.continue_from:
        stage("weights to begin with", begun, lambda: export.restore(args.continue_from, begun))
        stage("the first checkpoint", out / "checkpoint.pt", lambda: model.save_mean(begun, begun, 1.0, out / "checkpoint.pt"))
    stage("training", trained, learn)
    if args.continue_from:
        stage("mean", final, lambda: model.save_mean(begun, trained, args.share, final))
    model_file, head_file = out / "surmise.gguf", out / "surmise-eagle3.gguf"
    stage("export", model_file, lambda: export.main([str(final), str(vocabulary), str(model_file)]))
    stage("head", head, learn_to_draft)
    stage("export of the head", head_file, lambda: export.main([str(head), str(vocabulary), str(head_file), "--head"]))
    # The last, as it can be had anywhere later.
    stage("report", out / "report.md", report)


if __name__ == "__main__":
    main()
