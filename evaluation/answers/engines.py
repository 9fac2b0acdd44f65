"""Who writes a method's answers: vLLM where it is installed, else Transformers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from evaluation.seed.partition import Model
from training.errors import TrainingError
from training.models.base_model import BaseModel
from training.models.finetune import load_adapter
from training.progress import Advance, ignore_progress
from training.rows.answer_end import ends_of

_LEAST_RANK = 64  # room for what experts of small rank merge to, so that the engine needn't start again
_RANKS = (_LEAST_RANK, 128, 256, 320, 512)  # of those that vLLM takes
_STOP_SECONDS = 60


class Engine(Protocol):
    """Writes greedy answers of one model."""

    @property
    def name(self) -> str:
        """What it is called in results."""
        ...

    def answers(self, model: Model, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
        """Answer prompts (token ids, the assistant's turn opened)."""
        ...

    def close(self) -> None:
        """End whatever it started."""
        ...


class TransformersEngine:
    """In this process, without an engine."""

    name = "transformers"

    def __init__(self, base: BaseModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Answers end where `tokenizer`'s chat template ends a turn."""
        self._base = base
        self._tokenizer = tokenizer

    def answers(self, model: Model, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
        """As `Engine.answers`."""
        if model.kind == "whole":
            assert model.folder is not None
            whole = BaseModel(model.folder, self._base.record)
            return greedy_answers(whole, self._tokenizer, None, prompts, max_new_tokens)
        return greedy_answers(self._base, self._tokenizer, model.folder, prompts, max_new_tokens)

    def close(self) -> None:
        """As `Engine.close`: nothing was started."""


class VllmEngine:
    """vLLM's offline engine in a process of its own, which ends with this one, whatever ends it."""

    name = "vllm"

    def __init__(self, base: BaseModel, tokenizer: PreTrainedTokenizerBase, log: Path) -> None:
        """Start nothing yet; answers end where `tokenizer`'s template ends a turn, `log` takes what the engine says."""
        self._base = base
        self._tokenizer = tokenizer
        self._log = log
        self._stack = ExitStack()
        self._worker: subprocess.Popen[str] | None = None
        self._rank = 0

    def answers(self, model: Model, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
        """As `Engine.answers`.

        Raises:
            TrainingError: the engine ended.

        """
        if model.kind == "whole":  # an engine of its own: the base's is still wanted after it
            with _started(str(model.folder), _LEAST_RANK, self._base, self._log) as worker:
                return self._ask(worker, None, prompts, max_new_tokens)
        adapter = str(model.folder) if model.kind == "adapter" else None
        return self._ask(self._serving(_rank_of(model)), adapter, prompts, max_new_tokens)

    def close(self) -> None:
        """As `Engine.close`."""
        self._stack.close()
        self._worker = None

    def _ask(
        self,
        worker: subprocess.Popen[str],
        adapter: str | None,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
    ) -> list[str]:
        assert worker.stdin is not None
        assert worker.stdout is not None
        asked = {
            "adapter": adapter,
            "prompts": [list(ids) for ids in prompts],
            "max_new_tokens": max_new_tokens,
            "ends": ends_of(self._tokenizer),
        }
        try:
            worker.stdin.write(json.dumps(asked) + "\n")
            worker.stdin.flush()
            answered = worker.stdout.readline()
        except BrokenPipeError:
            answered = ""
        if not answered:
            self.close()
            raise TrainingError(f"vLLM ended before it answered; {self._log} says why.")
        # Decoded here: an engine's own text lacks what a last, unfinished character would have been.
        return list(self._tokenizer.batch_decode(json.loads(answered)["ids"], skip_special_tokens=True))

    def _serving(self, rank: int) -> subprocess.Popen[str]:
        if self._worker is None or rank > self._rank:
            self.close()
            self._rank = rank
            self._worker = self._stack.enter_context(
                _started(str(self._base.folder), rank, self._base, self._log)
            )
        return self._worker


def engine_for(base: BaseModel, tokenizer: PreTrainedTokenizerBase, log: Path) -> Engine:
    """Return vLLM's engine if vLLM is installed, else that of Transformers."""
    if importlib.util.find_spec("vllm") is None:
        return TransformersEngine(base, tokenizer)
    return VllmEngine(base, tokenizer, log)


def _rank_of(model: Model) -> int:
    if model.kind != "adapter":
        return _LEAST_RANK
    assert model.folder is not None
    config = json.loads((model.folder / "adapter_config.json").read_text(encoding="utf-8"))
    return next((rank for rank in _RANKS if rank >= config["r"]), _RANKS[-1])


@contextmanager
def _started(folder: str, rank: int, base: BaseModel, log: Path) -> Iterator[subprocess.Popen[str]]:
    with log.open("a", encoding="utf-8") as said:
        worker = subprocess.Popen(
            [
                *(sys.executable, "-m", f"{__package__}.vllm_worker", folder),
                *("--dtype", base.record.dtype, "--max-rank", str(rank)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=_environment(),
        )
        try:
            yield worker
        finally:
            _end(worker)


def _environment() -> dict[str, str]:
    environment = dict(os.environ) | {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    environment.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    environment.setdefault("OMP_NUM_THREADS", "1")
    # In one process, so that it ends when its standard input does and leaves no engine behind.
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return environment


def _end(worker: subprocess.Popen[str]) -> None:
    if worker.stdin is not None:
        with suppress(BrokenPipeError):
            worker.stdin.close()
    try:
        worker.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


_BATCH_ROWS = 64


@torch.no_grad()
def greedy_answers(
    base: BaseModel,
    tokenizer: PreTrainedTokenizerBase,
    adapter: Path | None,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    advance: Advance = ignore_progress,
) -> list[str]:
    """Answer prompts (token ids, the assistant's turn opened) and return the texts without special tokens.

    An answer is over where the tokenizer's chat template ends a turn, or the base its text.
    """
    model: Any = base.load() if adapter is None else load_adapter(base, adapter, trainable=False)
    model.eval()
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for start in range(0, len(order), _BATCH_ROWS):
        places = order[start : start + _BATCH_ROWS]
        batch = tokenizer.pad(
            {"input_ids": [list(prompts[place]) for place in places]},
            padding_side="left",
            return_tensors="pt",
        ).to(model.device)  # [b, T]
        generated = model.generate(
            **batch,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=list(ends_of(tokenizer)),
        )  # [b, T + new]
        texts = tokenizer.batch_decode(generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for place, text in zip(places, texts, strict=True):
            answers[place] = text
        advance(len(places))
    return answers
