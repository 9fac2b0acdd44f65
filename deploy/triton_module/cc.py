#!/opt/gradientspace/bin/python
"""Stands where Triton looks for a C compiler, and gives it the one module that it compiles: `build.py` has done so.

Triton calls `$CC SOURCE ... -o MODULE ...`. A source that the module was not made of is refused.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

MODULE, SOURCE_SHA256 = "cuda_utils.so", "source.sha256"
"""Beside this file: the module, and which source it was made of."""


def main(arguments: list[str]) -> int:
    """Copy the module to where it is wanted; return an exit status."""
    folder = Path(__file__).parent
    made_of = (folder / SOURCE_SHA256).read_text(encoding="utf-8")
    sources = [Path(each) for each in arguments if each.endswith(".c")]
    if [hashlib.sha256(each.read_bytes()).hexdigest() for each in sources] != [made_of]:
        print(
            f"{' '.join(arguments)}: this image has no C compiler, only Triton's module ready made, and this is not "
            "its source. Install gcc and libc6-dev, and unset CC.",
            file=sys.stderr,
        )
        return 1
    shutil.copy(folder / MODULE, arguments[arguments.index("-o") + 1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
