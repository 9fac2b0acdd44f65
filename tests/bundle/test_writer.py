"""Half a bundle never exists."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bundle.errors import BundleError
from bundle.manifest import MANIFEST_FILE, Manifest
from bundle.read import read_bundle
from bundle.write import BundleWriter


def fill(writer: BundleWriter, source: Path) -> Manifest:
    shutil.copytree(source, writer.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST_FILE))
    return read_bundle(source).manifest


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with BundleWriter(tmp_path / "bundle") as writer:
            (writer.folder / "chat_template.jinja").write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk"):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_read_is_never_put_in_place(pristine: Path, tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "bundle") as writer:
        manifest = fill(writer, pristine)
        shutil.rmtree(writer.folder / "experts" / "expert-1")
        shutil.copytree(writer.folder / "experts" / "expert-0", writer.folder / "experts" / "expert-1")
        with pytest.raises(BundleError, match="experts/expert-1, field 'digest'"):
            writer.finish(lambda files: manifest.model_copy(update={"files": files}))
    assert list(tmp_path.iterdir()) == []


def test_the_remains_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    left_over = tmp_path / ".bundle.partial-1"
    left_over.mkdir()
    with BundleWriter(tmp_path / "bundle"):
        assert not left_over.exists()


def test_an_existing_bundle_is_replaced(pristine: Path, bundle_folder: Path) -> None:
    old = read_bundle(bundle_folder).digest
    with BundleWriter(bundle_folder) as writer:
        manifest = fill(writer, pristine)
        (writer.folder / "chat_template.jinja").write_text("another template")
        assert read_bundle(bundle_folder).digest == old  # until the very end the old one serves
        new = writer.finish(lambda files: manifest.model_copy(update={"files": files}))
    assert new.folder == bundle_folder
    assert read_bundle(bundle_folder).digest == new.digest != old
    assert new.chat_template.read_text() == "another template"
    assert [path.name for path in bundle_folder.parent.iterdir()] == ["bundle"]


def test_a_failed_replacement_keeps_the_old_bundle(pristine: Path, bundle_folder: Path) -> None:
    old = read_bundle(bundle_folder).digest
    with BundleWriter(bundle_folder) as writer:
        manifest = fill(writer, pristine)
        (writer.folder / "router" / "head.safetensors").unlink()
        with pytest.raises(BundleError):
            writer.finish(lambda files: manifest.model_copy(update={"files": files}))
    assert read_bundle(bundle_folder).digest == old
