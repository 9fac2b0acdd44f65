#!/usr/bin/env bash
# Fills .venv from requirements/cpu.lock. Called by `make setup`; does nothing when the lock, the
# project file and this script are those of the last finished installation.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv
torch_version=2.13.0
stamp=$venv/installed.sha256

wanted=$(cat requirements/cpu.lock requirements/install.sh pyproject.toml | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

# The one that was named, else the first that is there. A name can be there and start nothing (pyenv's are so).
python=
for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "setup: no Python 3.11, 3.12 or 3.13 was found${PYTHON:+ as $PYTHON}. Install one, or name it: make setup PYTHON=/path/to/python3" >&2
    exit 1
fi
say() { printf '\n== %s\n' "$*"; }

say "1/4 virtual environment in $venv ($("$python" --version))"
[ -x $venv/bin/python ] || "$python" -m venv $venv
# In the background and waited for, so that a signal to this script ends pip as well.
run() {
    "$@" &
    local child=$!
    trap 'kill $child 2>/dev/null; exit 143' TERM INT
    wait $child
}
pip() { run $venv/bin/python -m pip --disable-pip-version-check "$@"; }

say "2/4 $(grep -cE '^[a-z0-9]' requirements/cpu.lock) pinned packages (about 600 MB the first time)"
pip install --no-deps --require-hashes --progress-bar on -r requirements/cpu.lock

say "3/4 torch $torch_version, CPU build"
# A machine that knows a CPU wheel finds it by itself. Anywhere else pip would take the CUDA build from
# PyPI, several GB, so PyTorch's own CPU index is asked by name, and last of all.
pip install --no-deps --only-binary :all: "torch==$torch_version+cpu" 2>/dev/null ||
    pip install --no-deps --index-url https://download.pytorch.org/whl/cpu "torch==$torch_version"

say "4/4 gradientspace itself, editable"
pip install --no-deps --no-build-isolation -e . --quiet
echo "$wanted" > "$stamp"
say "installed"
