from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.bundle_source import bundle_folder
from service.usage_error import UsageError


def test_a_folder_is_itself_and_a_link_what_it_names_now(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "one")
    assert bundle_folder(tmp_path / "current") == (tmp_path / "one").resolve()
    assert bundle_folder(tmp_path / "missing") == tmp_path / "missing"  # which reading it then says


@pytest.mark.parametrize(("given", "revision"), [("me/bundle", None), ("me/bundle@0a1b2c", "0a1b2c")])
def test_a_hubs_bundle_is_one_commit_and_the_start_says_which(
    given: str, revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = tmp_path / "snapshots" / "0a1b2c3d"
    asked: list[Any] = []
    said: list[str] = []
    monkeypatch.setattr("service.console.say", said.append)

    def download(repo_id: str, revision: str | None) -> str:
        asked.append((repo_id, revision))
        return str(commit)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert bundle_folder(Path(given)) == commit
    assert asked == [("me/bundle", revision)]
    assert "commit 0a1b2c3d" in said[0]
    assert ("me/bundle@0a1b2c3d asks for just this" in said[0]) == (revision is None)


def test_what_the_hub_does_not_give_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(repo_id: str, revision: str | None) -> str:
        raise OSError("401 Client Error")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(
        UsageError, match=r"me/bundle: there is no such folder, and the hub .*401.*ID@REVISION"
    ):
        bundle_folder(Path("me/bundle"))
