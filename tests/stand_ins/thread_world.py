"""Several processes of a run, played by threads: what they send each other goes through one table."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from training.stages.processes import World

T = TypeVar("T")


class Table:
    """Where the threads meet."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=30)
        self.places: list[Any] = [None] * size

    def exchange(self, rank: int, value: T) -> list[T]:
        """Put down a value, wait for everyone's, take them all."""
        self.places[rank] = value
        self.barrier.wait()
        everyone = list(self.places)
        self.barrier.wait()
        return everyone


@dataclass(frozen=True)
class ThreadWorld(World):
    """One thread among `size`."""

    table: Table = field(default_factory=lambda: Table(1))

    def all_reduce(self, tensor: Tensor) -> Tensor:
        tensors = self.table.exchange(self.rank, tensor.clone())
        return tensor.copy_(sum(tensors[1:], tensors[0]))

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        return tensor.copy_(self.table.exchange(self.rank, tensor.clone())[owner])

    def gather(self, value: T) -> list[T]:
        return self.table.exchange(self.rank, value)


def together(size: int, work: Callable[[World], T]) -> list[T]:
    """Let `size` threads do the work, each in its own world; return what they found, by rank."""
    table = Table(size)

    def one(rank: int) -> T:
        try:
            return work(ThreadWorld(rank, size, table))
        except BaseException:
            table.barrier.abort()  # the others must not wait for this one
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
        errors = [error for future in futures if (error := future.exception()) is not None]
        for error in errors:
            if not isinstance(error, threading.BrokenBarrierError):
                raise error
        return [future.result() for future in futures]
