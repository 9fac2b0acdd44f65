#!/usr/bin/env bash
# Remakes requirements/cpu.lock: exact pins with hashes for Python 3.11 on x86-64 Linux.
# Needs uv (pip install uv). Run it after a change to pyproject.toml or leave-out.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
uv pip compile pyproject.toml requirements/torch-needs.in \
    --extra train --extra serve --extra cpu --extra demo --extra dev \
    --override requirements/leave-out.txt \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --generate-hashes --quiet --output-file requirements/cpu.lock
