"""llama.cpp with and without drafts, for the scripts that compare it with Surmise. Needs llama_cpp."""

import ctypes
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp.llama_speculative import LlamaDraftModel, LlamaPromptLookupDecoding

REPOSITORY = Path(__file__).resolve().parents[2]
EMBEDDED_MODEL = REPOSITORY / "engine/weights/surmise.gguf"
N_THREADS = os.cpu_count()
N_DRAFTED = 10


def half_size(model: Path) -> Path:
    """The same model with weights of 4 bits, made at most once: a draft model for one with 8."""
    path = REPOSITORY / f"target/benchmarks/{model.stem}-q4_0.gguf"
    if not path.exists() or path.stat().st_mtime < model.stat().st_mtime:
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
        params.allow_requantize = True
        path.parent.mkdir(parents=True, exist_ok=True)
        if llama_cpp.llama_model_quantize(bytes(model), bytes(path), ctypes.byref(params)) != 0:
            raise RuntimeError(f"llama.cpp could not quantise {model}")
    return path


class DraftModel(LlamaDraftModel):
    """Drafts what a smaller model writes; it keeps what it has read of the text."""

    def __init__(self, path: Path, n_ctx: int = 4096) -> None:
        self.model = load(path, None, n_ctx)

    def __call__(self, input_ids: np.ndarray, /, **_: object) -> np.ndarray:
        tokens = self.model.generate(input_ids.tolist(), temp=0.0)
        ending = itertools.takewhile(lambda token: token != self.model.token_eos(), tokens)
        return np.fromiter(itertools.islice(ending, N_DRAFTED), dtype=np.intc)


def drafters(draft_model: Path, n_ctx: int = 4096) -> dict[str, Callable[[], LlamaDraftModel | None]]:
    """By what is said of each; made anew for each run."""
    return {
        "one token a step": lambda: None,
        "prompt lookup": lambda: LlamaPromptLookupDecoding(num_pred_tokens=N_DRAFTED),
        "a draft model": lambda: DraftModel(draft_model, n_ctx),
    }


@dataclass
class Answer:
    """What came after the first token, which belongs to reading the prompt, as in Surmise."""

    n_tokens: int
    seconds: float
    n_steps: int


class Llama(llama_cpp.Llama):
    """Counts its forward passes, and writes what it is told to: the passes are run, and their results replaced."""

    n_steps = 0
    dictated: list[int] | None = None
    """The prompt and the answer."""

    def eval(self, tokens: list[int]) -> None:
        self.n_steps += 1
        super().eval(tokens)

    def sample(self, *args: object, idx: int | None = None, **kwargs: object) -> int:
        token = super().sample(*args, idx=idx, **kwargs)
        # As in Surmise, the last token goes on for ever.
        return token if self.dictated is None else self.dictated[min(idx + 1, len(self.dictated) - 1)]

    def answer(self, prompt: list[int], max_tokens: int, dictated: list[int] | None) -> Answer:
        self.dictated = dictated and prompt + dictated
        self.reset()
        tokens = itertools.islice(self.generate(prompt, temp=0.0), max_tokens)
        if dictated is None:
            tokens = itertools.takewhile(lambda token: token != self.token_eos(), tokens)
        next(tokens, None)
        self.n_steps, started = 0, time.perf_counter()
        n_tokens = sum(1 for _ in tokens)
        return Answer(n_tokens, time.perf_counter() - started, self.n_steps)


def load(path: Path, drafts: LlamaDraftModel | None, n_ctx: int = 4096) -> Llama:
    # Without `logits_all` there is room for the scores of one batch only, which drafts after a long prompt run out of.
    return Llama(str(path), n_ctx=n_ctx, n_threads=N_THREADS, n_threads_batch=N_THREADS, draft_model=drafts, logits_all=drafts is not None, verbose=False)
