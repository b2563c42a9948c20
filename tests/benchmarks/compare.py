#!/usr/bin/env python3
"""Runs Surmise and llama.cpp in turns on the same GGUF files and prints both side by side. See README.md."""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
LLAMA_CPP_PYTHON = "llama-cpp-python==0.3.36"
SHAPES = ["40m", "0.5b", "1.5b"]
KINDS = ["q8_0", "q4_0", "q4_k_m"]
UNQUANTISED = ["bf16", "f16"]
# The whole of llama.cpp's library for this very machine, and none of its programs.
CMAKE_ARGS = [
    "-DGGML_NATIVE=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAVA_BUILD=OFF",
]


# For machines that say they have tiles and end a program of llama.cpp's that uses them, as some virtual ones do.
WITHOUT_AMX = [f"-DCMAKE_{language}_FLAGS='-mno-amx-tile -mno-amx-int8 -mno-amx-bf16'" for language in ("C", "CXX")]
TRIAL = """
from sys import argv
from llama_cpp import Llama
Llama(argv[1], n_ctx=128, verbose=False).eval(range(64))
"""


def build_peer(folder: Path) -> Path:
    """An interpreter with llama.cpp built for this machine; built at most once."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / "complete"
    if not done.exists():
        print(f"building {LLAMA_CPP_PYTHON} from source; this takes a while", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        install(python, CMAKE_ARGS)
        outcome = subprocess.run([python, "-c", TRIAL, REPOSITORY / "engine/weights/surmise.gguf"]).returncode
        if outcome == -signal.SIGILL:
            print("it uses an instruction that this machine does not run; building it once more without AMX", file=sys.stderr)
            install(python, CMAKE_ARGS + WITHOUT_AMX)
        elif outcome != 0:
            sys.exit(f"llama.cpp was built and does not run: it ended with {outcome}")
        done.touch()
    return python


def install(python: Path, cmake_args: list[str]) -> None:
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "numpy", "gguf"], check=True)
    command = [*pip, "--force-reinstall", "--no-cache-dir", "--no-binary", "llama-cpp-python", LLAMA_CPP_PYTHON]
    subprocess.run(command, check=True, env=os.environ | {"CMAKE_ARGS": " ".join(cmake_args)})


def measure_surmise(binary: Path, model: Path, n_threads: int) -> dict:
    """One round, in the form of llama_cpp_speed.py's answer."""
    command = [binary, "bench", "--model", model, "--threads", str(n_threads), "--rounds", "1", "--json"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    speed = lambda row: row["tokens_per_second"]["median"]
    return {
        "decode": speed(report["decode"]),
        "together": {str(row["n_sequences"]): speed(row) for row in report["batches"]},
        "prefill": {str(row["n_tokens"]): speed(row) for row in report["prefill"]},
        "step": {str(row["n_rows"]): row["milliseconds"]["median"] for row in report["steps"]},
        "share_of_bandwidth": report["decode"]["share_of_bandwidth"],
        "memory": report["memory"],
    }


def measure_llama_cpp(python: Path, model: Path, n_threads: int) -> dict:
    command = [python, HERE / "llama_cpp_speed.py", model, str(n_threads)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def median(rounds: list[dict], *path: str) -> float:
    values = []
    for result in rounds:
        for key in path:
            result = result[key]
        values.append(result)
    return statistics.median(values)


def compare(model: Path, ours: list[dict], theirs: list[dict]) -> dict:
    """Medians of both, and how many times as fast (or, for steps, as dear) ours are."""
    rows = {}

    def row(name: str, *path: str) -> None:
        our, their = median(ours, *path), median(theirs, *path)
        rows[name] = {"surmise": our, "llama.cpp": their, "ratio": our / their}

    for n in ours[0]["prefill"]:
        row(f"prefill {n}", "prefill", n)
    row("decode", "decode")
    for n in ours[0]["together"]:
        row(f"{n} together", "together", n)
    for n in ours[0]["step"]:
        # Each against its own step of one row: what verifying n - 1 drafts costs.
        our, their = (
            statistics.median(result["step"][n] / result["step"]["1"] for result in rounds) for rounds in (ours, theirs)
        )
        rows[f"step of {n}"] = {"surmise": our, "llama.cpp": their, "ratio": our / their}
    memory = ours[0]["memory"]
    return {
        "file": model.name,
        "bytes": model.stat().st_size,
        "rows": rows,
        "share_of_bandwidth": median(ours, "share_of_bandwidth"),
        "memory_relative": memory and memory["resident_bytes"] / (memory["weight_bytes"] + memory["kv_bytes"]),
    }


def markdown(comparisons: list[dict], n_threads: int, n_rounds: int) -> str:
    out = [f"{n_threads} threads, medians of {n_rounds} rounds in turns. A step of n rows is relative to one row.\n"]
    for it in comparisons:
        out.append(f"### {it['file']}, {it['bytes'] / 1e6:.0f} MB\n")
        out.append(f"Decode reads weights at {it['share_of_bandwidth']:.0%} of what memory gives.")
        if it["memory_relative"]:
            out[-1] += f" Memory is {it['memory_relative']:.2f} times weights and KV cache."
        out.append("\n| | Surmise | llama.cpp | ratio |\n| --- | --: | --: | --: |")
        for name, row in it["rows"].items():
            is_step = name.startswith("step")
            unit, digits = (" x", 2) if is_step else (" tokens/s", 1 if row["surmise"] < 100 else 0)
            cells = (f"{row[who]:,.{digits}f}{unit}" for who in ("surmise", "llama.cpp"))
            out.append(f"| {name} | {' | '.join(cells)} | {row['ratio']:.2f} |")
        out.append("")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=Path, nargs="+", help="GGUF files to run instead of random weights")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--kinds", nargs="+", choices=KINDS + UNQUANTISED, default=KINDS)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", type=Path, help="interpreter that has llama_cpp, gguf and numpy")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "target/benchmarks")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    python = args.python or build_peer(args.out / "llama.cpp")
    binary = REPOSITORY / "target/release" / ("surmise.exe" if os.name == "nt" else "surmise")
    if not binary.exists():
        sys.exit("no target/release/surmise; run `cargo build --release` first")
    models = args.files
    if not models:
        models = [args.out / f"{shape}-{kind}.gguf" for shape in args.shapes for kind in args.kinds]
        for model in models:
            if not model.exists():
                shape, kind = model.stem.split("-")
                subprocess.run([python, HERE / "random_weights.py", shape, kind, model], check=True)

    comparisons = []
    for model in models:
        ours, theirs = [], []
        for round_idx in range(args.rounds):
            print(f"{model.name}: round {round_idx + 1} of {args.rounds}", file=sys.stderr)
            ours.append(measure_surmise(binary, model, args.threads))
            theirs.append(measure_llama_cpp(python, model, args.threads))
        comparisons.append(compare(model, ours, theirs))
        # After every file: a run takes long, and someone may end it.
        text = markdown(comparisons, args.threads, args.rounds)
        (args.out / "results.md").write_text(text)
        (args.out / "results.json").write_text(json.dumps(comparisons, indent=1))
    print(text)


if __name__ == "__main__":
    main()
