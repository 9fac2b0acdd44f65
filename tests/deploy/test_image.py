"""The image, built and run: see deploy/image_trial for what holds when it ends well."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bundle.manifest import MANIFEST_FILE, Manifest
from tests.stand_ins.deploy_files import ROOT


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_image_answers_locked_down(demo_bundle: Path) -> None:
    missing = [tool for tool in ("buildah", "debootstrap", "nsenter", "ip") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(
            f"NOT TESTED: the image (as root: apt-get install buildah debootstrap iproute2; no {missing})"
        )
    manifest = Manifest.model_validate_json((demo_bundle / MANIFEST_FILE).read_text())
    base = (ROOT / manifest.base.id).resolve()
    done = subprocess.run(
        [sys.executable, "deploy/image_trial", demo_bundle, "--base-model", base],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
