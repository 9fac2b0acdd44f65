"""Write a bundle: beside its final place first, renamed at the end, so half a bundle never exists."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from bundle.digests import file_sha256
from bundle.manifest import MANIFEST_FILE, Manifest
from bundle.read import Bundle, read_bundle


class BundleWriter:
    """A bundle in the making.

    Fill `folder`, then `finish`. As a context manager it removes what was not finished::

        with BundleWriter(run / "bundle") as writer:
            shutil.copy(template, writer.folder / "chat_template.jinja")
            bundle = writer.finish(lambda files: Manifest(..., files=files))
    """

    def __init__(self, final: Path) -> None:
        """Make the folder to fill, beside `final`."""
        self.final = final
        self.folder = final.with_name(f".{final.name}.partial-{os.getpid()}")
        final.parent.mkdir(parents=True, exist_ok=True)
        for left_over in final.parent.glob(f".{final.name}.partial-*"):
            shutil.rmtree(left_over)
        self.folder.mkdir()

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def finish(self, manifest_of: Callable[[dict[str, str]], Manifest]) -> Bundle:
        """Seal the manifest over all files, verify the whole, and move it into place.

        `manifest_of` gets the sha256 of every file by path. A bundle that already stands there is
        replaced, and only after the new one was verified.

        Raises:
            BundleError: what was written would not be readable.

        """
        # safetensors writes for its owner alone; a bundle is read by other users too, in a container say.
        for path in self.folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        files = {
            str(path.relative_to(self.folder)): file_sha256(path)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        manifest = manifest_of(files).sealed()
        (self.folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        fingerprints = read_bundle(self.folder).fingerprints
        if self.final.exists():
            old = self.final.with_name(f".{self.final.name}.partial-old-{os.getpid()}")
            self.final.rename(old)
            self.folder.rename(self.final)
            shutil.rmtree(old)
        else:
            self.folder.rename(self.final)
        return Bundle(self.final, manifest, fingerprints)
