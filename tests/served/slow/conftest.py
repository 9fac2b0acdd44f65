"""A server on a real language model, for all who ask it: tests/stand_ins/real_base.py trains its experts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bundle.read import Bundle, read_bundle
from tests.stand_ins.live_server import LiveServer, started
from tests.stand_ins.made_once import MadeOnce
from tests.stand_ins.real_base import skip_without_it, train_on_it


@pytest.fixture(scope="session")
def real_run(made_once: MadeOnce) -> Path:
    """The folder with `rows.jsonl` and `run/`."""
    skip_without_it()
    return made_once("real-base", train_on_it)


@pytest.fixture(scope="session")
def real_bundle(real_run: Path) -> Bundle:
    return read_bundle(real_run / "run" / "bundle")


@pytest.fixture(scope="session")
def real_server(real_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Ready: what base and experts said in training (fingerprints, the end of an answer) is what the engine says."""
    folder = tmp_path_factory.mktemp("real")
    with started(real_run / "run" / "bundle", folder, "--", "--max-model-len", "1024") as server:
        server.wait_until_ready()
        yield server
