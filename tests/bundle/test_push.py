"""`gradientspace push` against a stand-in of a hub: every byte arrives, in one commit, or nothing does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundle.read import read_bundle
from tests.stand_ins.hub_stand_in import TOKEN, Branch, Hub, Repository, running_hub
from tests.stand_ins.small_bundle import reseal
from training.bundling.push import PushError
from training.bundling.push import push as upload

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def environment(hub: Hub, home: Path, **changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    # hf_xet speaks a storage protocol of its own, which the stand-in does not know.
    ours = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    return {name: value for name, value in (kept | ours | changes).items() if value}


def push(
    hub: Hub, home: Path, bundle: Path, *arguments: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "push", str(bundle), *arguments],
        cwd=ROOT,
        env=environment(hub, home, **changes),
        capture_output=True,
        text=True,
        timeout=600,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    *_, sentence = done.stderr.strip().splitlines()
    assert TOKEN not in done.stderr
    return sentence


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def uploaded(branch: Branch) -> dict[str, bytes]:
    return {name: data for name, data in branch.files.items() if name != ".gitattributes"}


def test_every_file_arrives_byte_for_byte_in_one_commit(hub: Hub, pristine: Path, tmp_path: Path) -> None:
    done = push(hub, tmp_path, pristine, "me/bundle", "--private", "--message", "first try")
    assert done.returncode == 0, done.stderr
    main = hub.main("me/bundle")
    assert hub.repositories["me/bundle"].private
    assert uploaded(main) == bytes_of(pristine)
    assert [message for _, message in main.commits] == ["initial commit", "first try"]
    assert f"{hub.url}/me/bundle/tree/main" in done.stdout
    assert main.head in done.stdout
    assert f"{len(bytes_of(pristine))} files" in done.stdout
    assert "report/ shows rows" in done.stderr


def test_what_was_downloaded_opens_as_a_bundle(hub: Hub, pristine: Path, tmp_path: Path) -> None:
    assert push(hub, tmp_path, pristine, "me/bundle").returncode == 0
    local = tmp_path / "downloaded"
    for name, data in hub.main("me/bundle").files.items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(data)
    cache = local / ".cache" / "huggingface" / "download"  # where `hf download --local-dir` keeps its notes
    cache.mkdir(parents=True)
    (cache / "bundle.json.metadata").write_text("etag")
    assert read_bundle(local).digest == read_bundle(pristine).digest


def test_a_bundle_takes_the_place_of_an_older_one_and_its_own_branch(
    hub: Hub, pristine: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    (bundle_folder / "report" / "old.txt").write_text("old")
    reseal(bundle_folder, lambda content: content["files"].update({"report/old.txt": ""}))
    assert push(hub, tmp_path, bundle_folder, "me/bundle").returncode == 0
    branch = push(hub, tmp_path, pristine, "me/bundle", "--revision", "next/one")
    assert branch.returncode == 0, branch.stderr
    assert "report/old.txt" in hub.main("me/bundle").files
    assert uploaded(hub.repositories["me/bundle"].branches["next/one"]) == bytes_of(pristine)
    again = push(hub, tmp_path, pristine, "me/bundle")
    assert "removed there: report/old.txt" in again.stdout
    assert uploaded(hub.main("me/bundle")) == bytes_of(pristine)
    digest = read_bundle(pristine).digest
    assert hub.main("me/bundle").commits[-1][1] == f"Bundle {digest}: 3 experts on tiny"


def test_a_damaged_bundle_is_refused_before_anything_is_asked(
    hub: Hub, bundle_folder: Path, tmp_path: Path
) -> None:
    (bundle_folder / "chat_template.jinja").write_text("another")
    assert "chat_template.jinja" in refused(push(hub, tmp_path, bundle_folder, "me/bundle"))
    assert hub.asked == []


@pytest.mark.parametrize("name", ["bundle", "me/", "me/b@d", "me/a--b", "a/b/c"])
def test_a_name_that_is_none(pristine: Path, name: str) -> None:
    with pytest.raises(PushError) as caught:
        upload(read_bundle(pristine), name, private=False, revision=None, message=None)
    assert str(caught.value).startswith(repr(name))
    assert "\n" not in str(caught.value)


def test_no_token(hub: Hub, pristine: Path, tmp_path: Path) -> None:
    sentence = refused(push(hub, tmp_path, pristine, "me/bundle", HF_TOKEN=""))
    assert sentence == "There is no token for the hub. Run `hf auth login`, or set HF_TOKEN."
    assert hub.asked == []


def test_the_token_of_a_login(hub: Hub, pristine: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    assert push(hub, tmp_path, pristine, "me/bundle", HF_TOKEN="").returncode == 0


def test_a_token_that_the_hub_does_not_accept(hub: Hub, pristine: Path, tmp_path: Path) -> None:
    sentence = refused(push(hub, tmp_path, pristine, "me/bundle", HF_TOKEN="hf_old"))
    assert f"{hub.url} answered 401. The hub does not accept the token" in sentence


def test_a_token_that_may_not_write_there(hub: Hub, pristine: Path, tmp_path: Path) -> None:
    sentence = refused(push(hub, tmp_path, pristine, "them/bundle"))
    assert "them/bundle" in sentence
    assert "answered 403. The token may not write there" in sentence


@pytest.mark.parametrize(("at", "status"), [("/commit/", 400), ("/commit/", 412), ("/preupload/", 403)])
def test_a_refusal_midway_leaves_the_repository_as_it_was(
    hub: Hub, pristine: Path, tmp_path: Path, at: str, status: int
) -> None:
    hub.answer_with = {at: status}
    assert f"answered {status}" in refused(push(hub, tmp_path, pristine, "me/bundle"))
    assert uploaded(hub.main("me/bundle")) == {}


def test_no_network(hub: Hub, pristine: Path, tmp_path: Path) -> None:
    sentence = refused(push(hub, tmp_path, pristine, "me/bundle", HF_ENDPOINT="http://127.0.0.1:9"))
    assert "me/bundle: the upload to http://127.0.0.1:9 failed" in sentence


def test_a_repository_with_something_else_in_it_is_left_alone(
    hub: Hub, pristine: Path, tmp_path: Path
) -> None:
    theirs = {".gitattributes": b"", "model.safetensors": b"weights", "README.md": b"mine"}
    hub.repositories["me/model"] = Repository(branches={"main": Branch(dict(theirs))})
    sentence = refused(push(hub, tmp_path, pristine, "me/model"))
    assert "holds something that is no bundle, README.md among it" in sentence
    assert hub.main("me/model").files == theirs


def test_private_refuses_a_public_repository(hub: Hub, pristine: Path, tmp_path: Path) -> None:
    hub.repositories["me/public"] = Repository()
    assert "is there already and public" in refused(push(hub, tmp_path, pristine, "me/public", "--private"))
    assert uploaded(hub.main("me/public")) == {}


def test_a_kill_midway_leaves_the_repository_as_it_was(hub: Hub, pristine: Path, tmp_path: Path) -> None:
    hub.hang_at = "/large/"
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "push", str(pristine), "me/bundle"],
        cwd=ROOT,
        env=environment(hub, tmp_path),
        stderr=subprocess.DEVNULL,
    )
    try:
        assert hub.hanging.wait(60)
    finally:
        process.kill()
        process.wait(30)
    assert uploaded(hub.main("me/bundle")) == {}
    assert len(hub.main("me/bundle").commits) == 1
    hub.hang_at = None
    assert push(hub, tmp_path, pristine, "me/bundle").returncode == 0
    assert uploaded(hub.main("me/bundle")) == bytes_of(pristine)


def test_there_is_no_flag_for_a_token(hub: Hub, pristine: Path, tmp_path: Path) -> None:
    done = push(hub, tmp_path, pristine, "me/bundle", "--token", TOKEN)
    assert done.returncode != 0
    assert hub.asked == []
    assert "No such option" in done.stderr
