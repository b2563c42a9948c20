"""Trains the tokenizer: byte-level BPE with Qwen2's pre-tokenizer, no normaliser, special tokens last.

Special tokens are named as Qwen2.5-Coder's, then come the edit task's own (pack.py says how they are used).
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import gguf
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END = "<|endoftext|>"
FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD = "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"
CHAT_START, CHAT_END = "<|im_start|>", "<|im_end|>"
REPO_NAME, FILE_SEP = "<|repo_name|>", "<|file_sep|>"
EDIT_FROM, EDIT_TO, EDIT_REGION, EDIT_RESULT = "<|edit_from|>", "<|edit_to|>", "<|edit_region|>", "<|edit_result|>"
SPECIAL_TOKENS = [
    END, CHAT_START, CHAT_END, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD, REPO_NAME, FILE_SEP,
    EDIT_FROM, EDIT_TO, EDIT_REGION, EDIT_RESULT,
]


def byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    tokenizer = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return tokenizer


def restore(file: Path) -> Tokenizer:
    """The tokenizer in a GGUF file that export.py wrote."""
    reader = gguf.GGUFReader(file)
    tokens, merges = (reader.get_field(f"tokenizer.ggml.{name}").contents() for name in ("tokens", "merges"))
    n_plain = len(tokens) - len(SPECIAL_TOKENS)
    vocabulary = {token: idx for idx, token in enumerate(tokens[:n_plain])}
    tokenizer = byte_level(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    tokenizer.add_special_tokens(tokens[n_plain:])
    return tokenizer


def sampled_texts(corpus: Path, max_mb: float, seed: int = 0) -> Iterator[str]:
    """A random sample of files, about `max_mb` megabytes in all."""
    share = min(1.0, max_mb * 1e6 / corpus.stat().st_size)
    rng = random.Random(seed)
    with corpus.open() as file:
        for line in file:
            if rng.random() < share:
                yield json.loads(line)["text"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="train.jsonl; or a GGUF file whose tokenizer is wanted again")
    parser.add_argument("out", type=Path, help="tokenizer.json to write")
    parser.add_argument("--vocab-size", type=int, default=4096, help="4,096 for the CPU edition, 16,384 for the GPU one")
    parser.add_argument("--sample-mb", type=float, default=24)
    args = parser.parse_args(arguments)
    if args.corpus.suffix == ".gguf":
        tokenizer = restore(args.corpus)
    else:
        tokenizer = train_tokenizer(sampled_texts(args.corpus, args.sample_mb), args.vocab_size)
    tokenizer.save(str(args.out))
    print(f"{tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
