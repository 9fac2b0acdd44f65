"""Compile Triton's one C module while the CUDA image is built: `python -m deploy.triton_module.build FOLDER`.

Triton compiles it, from a file of its own, when it first meets a GPU. Nothing in that file depends on the GPU, so it is
compiled here, where there is a compiler, and `cc.py` hands it out where there is none.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path

from deploy.triton_module.cc import MODULE, SOURCE_SHA256

DRIVER = "libcuda.so.1"


def main() -> None:
    """Compile the module of the Triton that this interpreter has."""
    found = find_spec("triton")
    if found is None or found.origin is None:
        sys.exit("Triton is not installed for this interpreter: nothing to compile")
    compile_module(Path(found.origin).parent / "backends" / "nvidia", Path(sys.argv[1]))


def compile_module(backend: Path, folder: Path) -> None:
    """Compile `backend/driver.c` into `folder`, and note which source it was.

    The driver's library is the host's and comes with the GPU: an empty one of its name is linked in its place.
    """
    source = backend / "driver.c"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as stub:
        empty = ["gcc", "-shared", f"-Wl,-soname,{DRIVER}", "-o", f"{stub}/{DRIVER}", "-x", "c", "/dev/null"]
        subprocess.run(empty, check=True)
        module = ["gcc", str(source), "-O3", "-shared", "-fPIC", "-Wno-psabi", "-o", str(folder / MODULE)]
        places = [f"-I{backend / 'include'}", f"-I{sysconfig.get_paths()['include']}", f"-L{stub}"]
        # The stub has none of its functions, so the linker would find that it is not needed.
        subprocess.run([*module, *places, "-Wl,--no-as-needed", f"-l:{DRIVER}"], check=True)
    (folder / SOURCE_SHA256).write_text(hashlib.sha256(source.read_bytes()).hexdigest(), encoding="utf-8")


if __name__ == "__main__":
    main()
