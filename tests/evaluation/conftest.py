"""Fixtures of the evaluation room: a tiny comparison, and the training room's tiny models."""

from __future__ import annotations

from collections.abc import Iterator

import datasets
import pytest

from tests.stand_ins.tiny_comparison import Files, make_files


@pytest.fixture(scope="session", autouse=True)
def datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the caches of `datasets` out of the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        datasets.disable_progress_bars()
        yield


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("evaluation"))
