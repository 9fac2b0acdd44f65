"""A trial of seconds on this machine: how fast it trains, computes gradients and encodes, and with how many threads.

More threads are not always faster: on two busy cores two were seen to be five times slower than one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from training.gradients.row_gradients import RowGradients, WholeRows
from training.models.base_model import BaseModel, device
from training.models.finetune import new_adapter
from training.models.row_loss import pad_rows, token_losses
from training.recipe import LoraSection
from training.rows.rendering import TokenRow

SECONDS = 10.0  # of all measurements together, beside loading and one step that starts late
_CLEARLY_FASTER = 1.05  # more threads than the fewest that are as fast only take what others need
_ROWS = 4  # of one measured pass
_ENOUGH = 3  # passes of one measurement


@dataclass(frozen=True)
class Trial:
    """What was measured; speeds are per second, with `threads` threads. `tried`: threads -> tokens trained on."""

    threads: int
    tried: dict[str, float]
    trained_tokens: float
    gradient_tokens: float
    encoded_texts: float | None


def may_choose_threads() -> bool:
    """Whether nobody has chosen: not a variable, not a GPU, which does the work itself."""
    return "OMP_NUM_THREADS" not in os.environ and device().type == "cpu" and torch.get_num_threads() > 1


def has_weights(model: str) -> bool:
    """Whether the weights are in a folder here, so that a trial downloads nothing."""
    return Path(model).is_dir() and any(Path(model).glob("*.safetensors"))


def try_out(
    base: BaseModel,
    lora: LoraSection,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[TokenRow],
    encode: Callable[[Sequence[str]], object] | None,
) -> Trial:
    """Train on a few of the rows, compute their gradients, encode their prompts; nothing of it is kept."""
    with _as_it_was():
        model = new_adapter(base, lora, seed=0)
        model.train()
        some = sorted(rows, key=lambda row: len(row.input_ids))[len(rows) // 2 :][
            :_ROWS
        ]  # of middling length
        tokens = sum(len(row.input_ids) for row in some)
        batch = pad_rows(some, int(tokenizer.pad_token_id), model.device)  # type: ignore[arg-type]

        def train() -> None:
            token_losses(model, batch)[0].mean().backward()

        train()  # what is set up once
        candidates = _candidates() if may_choose_threads() else [torch.get_num_threads()]
        share = SECONDS / 2 / len(candidates)
        tried = {}
        for count in candidates:
            torch.set_num_threads(count)
            tried[count] = tokens * _per_second(train, share)
        fastest = max(tried.values())
        threads = min(count for count in tried if _CLEARLY_FASTER * tried[count] >= fastest)
        torch.set_num_threads(threads)
        model.zero_grad()
        if base.dtype != torch.float32:
            model.float()
        with RowGradients(model, int(tokenizer.pad_token_id), tokens) as source:  # type: ignore[arg-type]
            sink = WholeRows(torch.empty(len(some), source.dimension, device=source.device))
            gradients = tokens * _per_second(lambda: source.stream(some, sink), SECONDS / 4)
        texts = [row.routed_text or "a prompt" for row in some]
        encoded = None if encode is None else len(texts) * _per_second(lambda: encode(texts), SECONDS / 4)
    return Trial(threads, {str(each): tried[each] for each in tried}, tried[threads], gradients, encoded)


def _candidates() -> list[int]:
    """All threads, half of them, a quarter, ... one."""
    counts = [torch.get_num_threads()]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    return counts


def _per_second(work: Callable[[], object], most_seconds: float) -> float:
    began, passes = time.perf_counter(), 0
    while passes == 0 or (passes < _ENOUGH and time.perf_counter() - began < most_seconds):
        work()
        passes += 1
    return passes / (time.perf_counter() - began)


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Threads and random numbers are afterwards as if nothing had been tried."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            torch.set_num_threads(threads)
