"""The CUDA image has no C compiler: Triton's one module is compiled while it is built, and handed out on demand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.triton_module.build import DRIVER, compile_module
from deploy.triton_module.cc import MODULE
from tests.stand_ins.deploy_files import ROOT

CC = ROOT / "deploy" / "triton_module" / "cc.py"
SOURCE = "#include <Python.h>\n#include <given.h>\nint cuInit(unsigned);\nint answer(void) { return cuInit(GIVEN); }\n"


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc on this machine: Triton's module can't be compiled")
    (tmp_path / "backend" / "include").mkdir(parents=True)
    (tmp_path / "backend" / "driver.c").write_text(SOURCE)
    (tmp_path / "backend" / "include" / "given.h").write_text("#define GIVEN 0\n")
    return tmp_path / "backend"


def as_triton_calls(folder: Path, source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    shutil.copy(CC, folder)
    flags = ["-O3", "-shared", "-fPIC", "-o", target, f"-l:{DRIVER}"]
    command = [sys.executable, folder / "cc.py", source, *flags]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": ""}, check=False)


def test_the_module_is_handed_out_where_there_is_no_compiler(backend: Path, tmp_path: Path) -> None:
    folder = tmp_path / "triton"
    compile_module(backend, folder)
    compiled = (folder / MODULE).read_bytes()
    # Loaded with the module, where the driver is; else the driver's functions are not found.
    assert DRIVER.encode() in compiled
    copied = tmp_path / "cuda_utils.c"  # Triton writes its source anew, under another name
    copied.write_text(SOURCE)
    done = as_triton_calls(folder, copied, tmp_path / "wanted.so")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "wanted.so").read_bytes() == compiled


def test_another_source_is_refused_in_one_sentence(backend: Path, tmp_path: Path) -> None:
    compile_module(backend, tmp_path / "triton")
    other = tmp_path / "other.c"
    other.write_text(SOURCE + "\n")
    done = as_triton_calls(tmp_path / "triton", other, tmp_path / "wanted.so")
    assert done.returncode == 1
    assert "this image has no C compiler" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "wanted.so").exists()


def test_no_stage_that_serves_installs_a_compiler_and_triton_is_told_of_the_stand_in() -> None:
    _, *served = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.M)[1:]
    assert len(served) == 3
    assert not [stage for stage in served if re.search(r"\b(gcc|g\+\+|clang|build-essential)\b", stage)]
    installed = re.search(r"cc\.py (/opt/\S+/cc\.py)", (ROOT / "Dockerfile").read_text())
    assert installed is not None
    assert f"CC={installed.group(1)} " in served[1]
    assert CC.read_text().startswith("#!/opt/gradientspace/bin/python\n")
