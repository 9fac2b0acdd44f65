from __future__ import annotations

from pathlib import Path

import pytest

from bundle.hub_name import HubName, hub_name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("me/bundle", HubName("me/bundle", None)),
        ("me/bundle@main", HubName("me/bundle", "main")),
        ("me/bundle@refs/pr/3", HubName("me/bundle", "refs/pr/3")),
        ("me.too/a-b_c.d@0a1b2c", HubName("me.too/a-b_c.d", "0a1b2c")),
        *(
            (path, None)
            for path in ("bundle", "./me/bundle", "../me/bundle", "/me/bundle", "~/bundle", "a/b/c", "")
        ),
    ],
)
def test_ids_are_told_from_paths(given: str, name: HubName | None) -> None:
    assert hub_name(given) == name


def test_a_folder_that_is_there_is_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "me" / "bundle").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_name("me/bundle") is None
