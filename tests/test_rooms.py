"""The house's rule of who may import whom, and that nothing of one machine is in the project."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "bundle": set(),
    "router": {"bundle"},
    "training": {"bundle", "router"},
    "evaluation": {"training", "router", "bundle"},
    "service": {"bundle", "router"},
    "demo": set(),
    # The controlled suite's rows are the demo's.
    "cli": {"bundle", "router", "training", "evaluation", "service", "demo"},
}


def _imported(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            rooms |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            rooms.add(node.module.split(".")[0])
    return rooms & set(MAY_IMPORT)


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = {
        str(path.relative_to(ROOT)): sorted(_imported(path) - MAY_IMPORT[room] - {room})
        for path in files
        if _imported(path) - MAY_IMPORT[room] - {room}
    }
    assert wrong == {}


def test_the_serving_rooms_never_touch_torch_or_scikit_learn() -> None:
    for room in ("bundle", "router"):
        for path in (ROOT / room).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {
                alias.name.split(".")[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.Import)
                for alias in node.names
            } | {
                (node.module or "").split(".")[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom)
            }
            assert not names & {"torch", "sklearn", "transformers"}, path


def test_no_file_grew_past_its_idea() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for room in MAY_IMPORT
        for path in (ROOT / room).rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}


def test_no_path_of_one_machine_is_committed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("NOT TESTED: not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    pieces = ("/root" + "/", "/home" + "/")
    for name in filter(None, listed.stdout.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        found = [piece for piece in pieces if piece.encode() in content]
        assert not found, f"{name} holds {found}"
