"""The processes of one run: one alone, or several that `torchrun` or `accelerate launch` started.

Every process runs the same line of stages. Where they work together, each takes its own rows and they add up
sums; where a stage is one process's work, the others wait. Whatever comes out of these methods is the same in
every process, so they always take the same turns.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from training.errors import TrainingError

T = TypeVar("T")

# A rank may wait while another fine-tunes; that a rank is lost shows in its closed connection, not in the time.
_LONGEST_WAIT = timedelta(days=7)
_LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class World:
    """This process among the run's processes: number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Add up every process's tensor, in place, in all of them."""
        if self.size > 1:
            with _naming_the_lost():
                dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        """Fill the tensor with the owner's, in place, in all processes."""
        if self.size > 1:
            with _naming_the_lost():
                dist.broadcast(tensor, owner)
        return tensor

    def from_first(self, value: T) -> T:
        """Return the first process's value in all of them."""
        return self.gather(value)[0]

    def gather(self, value: T) -> list[T]:
        """Return every process's value, by rank, in all of them; nobody goes on before all have come here."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _naming_the_lost():
            dist.all_gather_object(values, value)
        return values

    def shares(self, lengths: Sequence[int]) -> list[int]:
        """Deal out rows of these lengths: the rank of each, so that all ranks get nearly the same tokens."""
        ranks = [0] * len(lengths)
        for turn, place in enumerate(sorted(range(len(lengths)), key=lambda place: (lengths[place], place))):
            ranks[place] = turn % self.size
        return ranks


@contextmanager
def join_world() -> Iterator[World]:
    """Join the processes that a launcher started beside this one, or be alone; leave at the end.

    Raises:
        TrainingError: inside the block, when another process is lost.

    """
    before = dict(os.environ)
    try:
        _see_one_device(int(os.environ.get("LOCAL_RANK", "0")))
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            yield World()
        else:
            with _joined() as world:
                yield world
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _joined() -> Iterator[World]:
    world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _naming_the_lost():
        dist.init_process_group(backend, timeout=_LONGEST_WAIT)
    for name in _LAUNCHER_VARIABLES:
        # Fine-tuning is one process's work: Transformers' Trainer must not take the others for its own.
        os.environ.pop(name, None)
    before = signal.signal(signal.SIGTERM, _end_with_a_message)
    try:
        yield world
    except BaseException:
        # The launcher is about to end this process too: not before it has said why it ends.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    signal.signal(signal.SIGTERM, before)
    dist.destroy_process_group()


def _see_one_device(local_rank: int) -> None:
    # Before CUDA wakes up: every process has one GPU, and Trainer finds no others to spread over by itself.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible != "":  # empty: the user wants none
        devices = visible.split(",") if visible else []
        os.environ["CUDA_VISIBLE_DEVICES"] = (
            devices[local_rank] if local_rank < len(devices) else str(local_rank)
        )


def _end_with_a_message(number: int, frame: object) -> None:
    raise TrainingError(
        "The launcher ended this process, most likely because another one was lost; its own messages say which. "
        "What was finished is kept: the same command goes on from there."
    )


@contextmanager
def _naming_the_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingError(
            f"Another process of this run can't be reached any more ({first_line}). What was finished is kept: start "
            "the same command again and it goes on from there."
        ) from error
