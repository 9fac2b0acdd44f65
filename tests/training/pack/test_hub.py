from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.errors import PackError
from training.pack import hub


def test_an_adapter_of_a_hub_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = tmp_path / "models--me--sums" / "snapshots" / "0a1b2c"

    def download(repo_id: str, **given: Any) -> str:
        assert (repo_id, given["revision"]) == ("me/sums", "main")
        assert "adapter_model.safetensors" in given["allow_patterns"]
        return str(commit)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert hub.adapter_folder("me/sums@main") == commit
    assert hub.origin_of(commit) == "me/sums@0a1b2c"
    assert hub.origin_of(Path("adapters/sums")) == "sums"
    assert hub.adapter_folder("adapters") == Path("adapters")


def test_what_the_hub_does_not_give_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(repo_id: str, **given: Any) -> str:
        raise OSError("no route")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(PackError, match=r"--adapter me/sums: there is no such folder, .*no route"):
        hub.adapter_folder("me/sums")
