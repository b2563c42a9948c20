"""Measures a checkpoint on held-out packages, per language: loss on plain text, and infilling of the rest of a line.

Infilling is greedy, in SPM order, at random columns. A place counts as exact if greedy decoding gives the rest of the line and
then ends or breaks the line; this holds when every true token is the likeliest one after the true tokens before it, so one forward
pass decides it. (The same text cut into other tokens is counted as wrong.)
"""

import argparse
import math
import random
from collections import defaultdict
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

import tokenizer as names
from model import Network, Shape, one_example
from pack import Encoder, Mix, edit_pieces, line_spans, records_of

LANGUAGES = ["rust", "python", "typescript", "javascript", "go", "c", "cpp", "java", "php", "ruby", "lua", "shell"]


def load(checkpoint: Path) -> tuple[Network, dict]:
    state = torch.load(checkpoint, map_location="cpu")
    network = Network(Shape(**state["shape"]))
    network.load_state_dict(state["weights"])
    return network.to("cuda" if torch.cuda.is_available() else "cpu").eval(), state


def read_by_language(corpus: Path, seed: int) -> dict[str, list[dict]]:
    files = defaultdict(list)
    for record in records_of(corpus):
        files[record["language"]].append(record)
    for records in files.values():
        random.Random(seed).shuffle(records)
    return files


@torch.no_grad()
def text_loss(network: Network, encode: Encoder, records: list[dict], length: int, n_windows: int) -> tuple[float, float]:
    """Nats per token and bits per byte, each window starting with nothing known but the path."""
    nats = n_tokens = n_bytes = 0
    for record in records[:n_windows]:
        head = encode(names.FILE_SEP, record["path"] + "\n")
        body = encode(record["text"][: 6 * length])[: length - len(head)]
        tokens = torch.tensor(head + body, device=network.embedding.weight.device)
        loss = torch.nn.functional.cross_entropy(network(tokens, one_example(tokens))[len(head) - 1 : -1], tokens[len(head) :], reduction="sum")
        nats += loss.item()
        n_tokens += len(body)
        n_bytes += len(encode.tokenizer.decode(body).encode())
    return nats / n_tokens, nats / math.log(2) / n_bytes


def rest_of_line(record: dict, length: int, rng: random.Random) -> tuple[str, str, str]:
    """Prefix, middle and suffix around a random column, cut to about what fits."""
    text = record["text"]
    start, end = rng.choice([span for span in line_spans(text) if span[1] - span[0] > 3])
    cut = rng.randrange(start, end - 1)
    return text[max(0, cut - int(1.5 * length)) : cut], text[cut:end], text[end : end + length // 2]


@torch.no_grad()
def follows(network: Network, prompt: list[int], answer: list[int]) -> tuple[bool, Tensor]:
    """Whether greedy decoding after the prompt gives the answer, and the logits of what comes after it."""
    tokens = torch.tensor(prompt + answer, device=network.embedding.weight.device)
    logits = network(tokens, one_example(tokens))[len(prompt) - 1 :]
    return logits[:-1].argmax(-1).tolist() == answer, logits[-1]


def infilling(network: Network, encode: Encoder, records: list[dict], length: int, n_places: int, seed: int) -> tuple[int, int]:
    """Places filled exactly, places tried."""
    rng = random.Random(seed)
    exact = tried = 0
    while tried < n_places:
        record = rng.choice(records)
        if not any(end - start > 3 for start, end in line_spans(record["text"])):
            continue
        prefix, middle, suffix = rest_of_line(record, length, rng)
        prompt = encode(names.FILE_SEP, record["path"] + "\n", names.FIM_SUFFIX, suffix, names.FIM_PREFIX, prefix)
        answer = encode(middle)
        if len(prompt) + len(answer) > length:
            continue
        tried += 1
        matches, after = follows(network, prompt, answer)
        following = encode.tokenizer.decode([int(after.argmax())], skip_special_tokens=False)
        exact += matches and (following == names.END or following.startswith("\n"))
    return exact, tried


def edits(network: Network, encode: Encoder, records: list[dict], length: int, n_places: int, seed: int) -> tuple[int, int]:
    """Edit examples answered exactly, examples tried."""
    rng = random.Random(seed)
    exact = tried = attempts = 0
    while tried < n_places and attempts < 50 * n_places:
        attempts += 1
        record = rng.choice(records)
        at = rng.randrange(max(1, len(record["text"]) - length))
        pieces = edit_pieces(record["text"][at : at + length], record["language"], Mix(), rng)
        if pieces is None:
            continue
        prompt, answer = encode(*pieces[:-2]), encode(*pieces[-2:])
        if len(prompt) + len(answer) <= length:
            tried += 1
            exact += follows(network, prompt, answer)[0]
    return exact, tried


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("held_out", type=Path, help="held_out.jsonl, or .jsonl.xz")
    parser.add_argument("--out", type=Path, help="file for what is printed, too")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=30, help="windows of plain text per language")
    parser.add_argument("--places", type=int, default=200, help="infilling places per language")
    parser.add_argument("--edits", type=int, default=40, help="edit examples per language")
    parser.add_argument("--languages", nargs="+", default=LANGUAGES)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)
    network, state = load(args.checkpoint)
    encode = Encoder(Tokenizer.from_file(str(args.tokenizer)))
    by_language = read_by_language(args.held_out, args.seed)
    report = []

    def tell(line: str) -> None:
        print(line, flush=True)
        report.append(line + "\n")

    tell(f"{state['tokens_seen'] / 1e6:.1f} M tokens seen\n")
    tell("| language | nats/token | bits/byte | rest of line, exact | edit, exact |\n| --- | --- | --- | --- | --- |")
    for language in args.languages:
        if records := by_language.get(language):
            nats, bits = text_loss(network, encode, records, args.length, args.windows)
            exact, tried = infilling(network, encode, records, args.length, args.places, args.seed)
            repeated, asked = edits(network, encode, records, args.length, args.edits, args.seed)
            tell(f"| {language} | {nats:.3f} | {bits:.3f} | {exact} / {tried} | {repeated} / {asked} |")
    if args.out:
        args.out.write_text("".join(report))


if __name__ == "__main__":
    main()
