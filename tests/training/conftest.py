"""Fixtures of the training room. Nothing here reaches the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.stand_ins.tiny_model import dozen_rows, save_base
from training.models.base_model import BaseModel, find_base
from training.recipe import BaseSection
from training.rows.rendering import TokenRow


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the caches of `datasets` out of the home folder, and the hub out of reach."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        datasets.disable_progress_bars()
        yield


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("tiny") / "tiny-base")


@pytest.fixture(scope="session")
def base(base_folder: Path) -> BaseModel:
    return find_base(BaseSection(model=str(base_folder), dtype="float32"))


@pytest.fixture
def tokenizer(base_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(base_folder)


@pytest.fixture(scope="session")
def rows() -> list[TokenRow]:
    return dozen_rows()
