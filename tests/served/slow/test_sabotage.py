"""What no checksum shows keeps the service from becoming ready. The quick form is in test_reload."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from bundle.read import Bundle
from tests.stand_ins.live_server import started
from tests.stand_ins.other_versions import claiming, other_base, with_a_zeroed_adapter, with_swapped_experts

pytestmark = pytest.mark.slow


def refusal_of(bundle: Path, folder: Path, *options: str) -> str:
    with started(bundle, folder, *options) as server:
        server.wait_until_said("engine starting")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health/ready")
        assert server.process.wait(240) == 2
        told = server.err.read_text()
        assert "ready after" not in server.out.read_text()
    assert "Traceback" not in told
    return next(line for line in told.splitlines() if line.startswith("fingerprints.json"))


def test_swapped_experts(bundle: Bundle, tmp_path: Path) -> None:
    refused = refusal_of(with_swapped_experts(bundle, tmp_path / "bundle").folder, tmp_path)
    assert "field 'adapters.expert-0'" in refused
    assert "it says what expert-1 should say" in refused


def test_a_zeroed_adapter(bundle: Bundle, tmp_path: Path) -> None:
    refused = refusal_of(with_a_zeroed_adapter(bundle, tmp_path / "bundle").folder, tmp_path)
    assert "field 'adapters.expert-1'" in refused
    assert "the adapter does nothing" in refused


def test_another_base_of_equal_shape(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    other = other_base(base, tmp_path / "base")
    claimed = claiming(bundle, other, tmp_path / "bundle")
    refused = refusal_of(claimed.folder, tmp_path, "--base-model", str(other))
    assert "field 'base'" in refused
    assert "Give the base model that the bundle was trained on" in refused
