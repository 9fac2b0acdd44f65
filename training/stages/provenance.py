"""What a run or a result was made with: versions of packages, the commit of this software."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_WITHIN_THE_PROJECT = Path("training", "stages", "provenance.py")
_PACKAGES = ("gradientspace", "torch", "transformers", "peft", "datasets", "scikit-learn", "onnxruntime")


def package_versions() -> dict[str, str]:
    """Versions of what shapes the result."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """Commit of this software, if it runs from a git checkout of its own.

    A copy that lies inside another repository (a virtual environment in somebody's project, say) has none: what git
    would answer there is that project's.
    """
    here = Path(__file__).resolve()
    # Neither may a hook's or a shell's GIT_DIR point git at another repository.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=here.parent, env=clean, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # tracked there, not just lying there
        if Path(git("rev-parse", "--show-toplevel")) / _WITHIN_THE_PROJECT != here:
            return None
        return git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None
