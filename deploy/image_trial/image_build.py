"""The Dockerfile, built by buildah on a base that debootstrap makes: no registry is asked for anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from steps import run, say

ROOT = Path(__file__).parents[2]
STAND_IN = "localhost/python-stand-in:3.11"
IMAGE = "localhost/gradientspace:tried"


class Buildah:
    """buildah with a storage of its own, so that nothing of the machine's is touched or left."""

    def __init__(self, work: Path) -> None:
        """`work` is an empty folder with room for the image several times over."""
        self._work = work
        storage: dict[str, str | Path] = {"--root": work / "store", "--runroot": work / "run"}
        self._command = [
            "buildah",
            "--storage-driver",
            "vfs",
            *(part for pair in storage.items() for part in pair),
        ]
        self._environment = os.environ | {"TMPDIR": str(work), "BUILDAH_ISOLATION": "chroot"}

    def _run(self, *arguments: str | Path) -> str:
        return run(*self._command, *arguments, env=self._environment, cwd=ROOT)

    def import_base(self, folder: Path) -> None:
        """Make the stand-in for the Dockerfile's base: Python 3.11 where the official image has it."""
        start = time.monotonic()
        packages = "python3.11,python3.11-venv,python3-distutils,ca-certificates"
        run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", folder)
        for name in ("python", "python3", "python3.11"):
            (folder / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
        shutil.rmtree(folder / "var/cache/apt/archives")
        run("tar", "-C", folder, "-cf", self._work / "base.tar", ".")
        shutil.rmtree(folder)
        base = self._run("from", "--name", "base", "scratch").strip()
        self._run("add", base, self._work / "base.tar", "/")
        self._run("commit", "--rm", base, STAND_IN)
        (self._work / "base.tar").unlink()
        say(f"stand-in base made in {time.monotonic() - start:.0f} s")

    def build(self) -> dict[str, Any]:
        """Build the CPU variant of the Dockerfile; return how the image wants to be run."""
        start = time.monotonic()
        self._run(
            *("bud", "--pull-never", "--network", "host", "--format", "docker", "--tag", IMAGE),
            *("--build-arg", f"PYTHON_IMAGE={STAND_IN}", "--build-arg", "VARIANT=cpu"),
            *(part for mount in pip_mounts(self._work) for part in ("--volume", f"{mount}:ro")),
            ROOT,
        )
        image = json.loads(self._run("inspect", "--type", "image", IMAGE))
        base = json.loads(self._run("images", "--json", STAND_IN))[0]["size"]
        whole = json.loads(self._run("images", "--json", IMAGE))[0]["size"]
        say(f"built in {time.monotonic() - start:.0f} s: {whole}, of which the stand-in base {base}")
        return dict(image["Docker"]["config"])

    def file_system(self) -> Path:
        """Return the root of a file system made from the image."""
        name = self._run("from", "--pull-never", IMAGE).strip()
        return Path(self._run("mount", name).strip())

    def forget(self) -> None:
        """Unmount and remove everything."""
        for arguments in (("umount", "--all"), ("rm", "--all"), ("rmi", "--all", "--force")):
            subprocess.run(
                [*self._command, *arguments], env=self._environment, capture_output=True, check=False
            )


def pip_mounts(work: Path) -> list[str]:
    """Return what a build has to see for its pip to be set up as this machine's is: PATH:PATH of each.

    The Dockerfile knows nothing of it: a package index is the builder's affair, the hashes are the image's.
    """
    options = dict(
        re.findall(r"^[^.]+\.([a-z-]+)='(.*)'$", run(sys.executable, "-m", "pip", "config", "list"), re.M)
    )
    (work / "pip.conf").write_text(
        "[global]\n" + "".join(f"{key} = {value}\n" for key, value in options.items())
    )
    mounts = {f"{work / 'pip.conf'}:/etc/pip.conf"}
    for word in " ".join(options.values()).split():
        # The pages of an index in a folder point to files beside that folder.
        path = Path(word.removeprefix("file://")).parent if word.startswith("file:///") else Path(word)
        if path.is_absolute() and path.exists():
            mounts.add(f"{path}:{path}")
    return sorted(mounts)
