#!/usr/bin/env bash
# Remakes the lock files: exact pins with hashes for Python 3.11 on x86-64 Linux. Resolved for 3.12 and 3.13 they came
# out the same (December 2026), and the hashes are of every wheel of a version, so cpu.lock serves all three.
#   cpu.lock         what `make setup` installs: training, serving on a CPU, tests
#   serve-cpu.lock   what the CPU image installs: no training, no tests
#   serve-cuda.lock  what the CUDA image installs, torch and CUDA's libraries included
# Needs uv (pip install uv). Run it after a change to pyproject.toml or leave-out.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
lock() {
    uv pip compile pyproject.toml "${@:2}" --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
        --generate-hashes --quiet --output-file "requirements/$1"
}

lock cpu.lock requirements/torch-needs.in --override requirements/leave-out.txt \
    --extra train --extra serve --extra cpu --extra demo --extra dev

# uv keeps the pins that it finds in its output file wherever they fit, so the images get what the tests ran with.
cp requirements/cpu.lock requirements/serve-cpu.lock
lock serve-cpu.lock requirements/torch-needs.in --override requirements/leave-out.txt --extra serve --extra cpu
cp requirements/cpu.lock requirements/serve-cuda.lock
lock serve-cuda.lock --extra serve --extra cuda
