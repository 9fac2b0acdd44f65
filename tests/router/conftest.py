"""Fixtures of the router's room."""

from __future__ import annotations

import pytest

from tests.stand_ins.exported_router import Exported, export


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tmp_path_factory.mktemp("router"))
