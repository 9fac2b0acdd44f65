"""The house's rules of who may import whom, and that nothing of one machine is in the project."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
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


SUB_ROOMS: dict[str, tuple[str, ...]] = {
    # From the ground up: each may import what stands before it in its room, and nothing that stands behind it. What
    # is no folder is a file on the top of the room.
    "training": (
        *("errors", "progress", "recipe_values", "recipe_stage_three", "recipe"),
        *("rows", "models", "stages", "gradients", "diagnosis", "memory", "clusters"),
        *("router", "gate", "report", "bundling", "pack"),
        *("stage_one", "stage_two", "stage_two_orders", "split_estimate", "stage_three", "run", "pipeline"),
    ),
    "evaluation": (
        *("errors", "intervals", "record", "seed", "methods", "answers", "table_one", "evidence", "served"),
    ),
    "service": (
        *("logs", "usage_error", "errors", "headers", "settings"),
        *("request", "engine", "console", "bundle_source", "telemetry", "lifecycle"),
        *("dispatch", "versions", "routes", "layers"),
        *("http_server", "app", "assembly", "serve"),
    ),
}
KNOWS_VLLM = "service/engine"
"""A new vLLM touches this folder and no other: all modules of its that are named stand here."""
ASKS_VLLM = ("evaluation/answers/vllm_worker.py", "training/models/servable.py")
"""What uses the interface that vLLM documents for scripts, or reads its registry, and may not import the service."""


def _names(path: Path) -> Iterator[str]:
    """Yield every dotted name that a file imports, for the type checker alone or late included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _imported(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _names(path)} & set(MAY_IMPORT)


def _imports(root: Path, rooms: Sequence[str]) -> dict[str, set[str]]:
    """Return which files each file of these rooms imports, all by dotted name."""
    files = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for room in rooms
        for path in (root / room).rglob("*.py")
    }

    def meant(name: str) -> str | None:
        """A file, or the file that the name stands in."""
        return next((one for one in (name, name.rpartition(".")[0]) if one in files), None)

    return {
        module: {found for name in _names(path) if (found := meant(name)) is not None} - {module}
        for module, path in files.items()
    }


def _upward(imports: Mapping[str, set[str]], room: str, order: Sequence[str]) -> list[str]:
    """Return the imports of a room that go up its order, and what has no place in it."""
    place = {name: number for number, name in enumerate(order)}
    inside = {module: module.split(".")[1] for module in imports if module.startswith(f"{room}.")}
    unplaced = [f"{sub_room} has no place in the order" for sub_room in sorted({*inside.values()} - {*order})]
    gone = [f"{name} does not exist" for name in sorted({*order} - {*inside.values()})]
    return [
        *unplaced,
        *gone,
        *(
            f"{module} imports {other}"
            for module, sub_room in sorted(inside.items())
            for other in sorted(imports[module] & inside.keys())
            if place.get(sub_room, 0) < place.get(inside[other], 0)
        ),
    ]


def _circle(imports: Mapping[str, set[str]]) -> list[str]:
    """Return the files of a circle of imports, none if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


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


@pytest.mark.parametrize("room", sorted(SUB_ROOMS))
def test_no_sub_room_imports_upward(room: str) -> None:
    assert _upward(_imports(ROOT, [room]), room, SUB_ROOMS[room]) == []


@pytest.mark.parametrize("room", sorted(SUB_ROOMS))
def test_no_import_goes_in_a_circle(room: str) -> None:
    assert _circle(_imports(ROOT, [room])) == []


def test_an_import_upward_a_circle_and_an_unplaced_folder_are_seen(tmp_path: Path) -> None:
    for file, text in {
        "house/__init__.py": "",
        "house/low/__init__.py": "",
        "house/low/one.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.high.two import Two\n",
        "house/high/__init__.py": "",
        "house/high/two.py": "def late():\n    from house.low import one\n",
        "house/new.py": "import house.high.two\n",
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / file).write_text(text)
    imports = _imports(tmp_path, ["house"])
    assert _upward(imports, "house", ["low", "high", "gone"]) == [
        "new has no place in the order",
        "gone does not exist",
        "house.low.one imports house.high.two",
        "house.new imports house.high.two",
    ]
    assert set(_circle(imports)) == {"house.low.one", "house.high.two"}


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_only_one_folder_knows_the_inside_of_vllm(room: str) -> None:
    outside = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / room).rglob("*.py"))
        if not path.relative_to(ROOT).as_posix().startswith((f"{KNOWS_VLLM}/", *ASKS_VLLM))
        for name in (*_names(path), *_texts(path))
        if (name == "vllm" and name in _names(path)) or re.fullmatch(r"vllm\.(?!log$)[\w.]+", name)
    ]
    assert outside == []


def _texts(path: Path) -> Iterator[str]:
    """Yield every text in a file's code; what is said in docstrings and comments is none."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


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


def test_no_test_imports_a_test_and_nothing_touches_the_search_path() -> None:
    """What tests share is in tests/stand_ins/, and is imported by its whole name."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports by a relative name"
                names = [f"{node.module}.{name.name}" for name in node.names]
            elif isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            else:
                touches = isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"
                assert not touches, f"{path}:{node.lineno} touches sys.path"
                continue
            for name in names:
                parts = name.split(".")
                assert not any(part.startswith("test_") or part == "conftest" for part in parts), (
                    f"{path}: {name}"
                )
                assert parts[0] != "tests" or parts[1] == "stand_ins", f"{path} imports {name}"
                assert name != "sys.path", f"{path} touches sys.path"


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
