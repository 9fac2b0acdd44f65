"""What the pages name is there: links, paths, modules, functions, settings, tests.

The pages under docs/measurements/ are a notebook, and CHANGELOG.md tells what went: they may name files, commands and
settings of an earlier commit. Their links have to lead somewhere all the same.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client import CollectorRegistry, Metric
from pydantic import BaseModel

from bundle.manifest import Manifest, RouterKind
from evaluation.methods.registry import METHODS
from evaluation.table_one.recipe import EvaluationRecipe
from service.settings import Settings
from service.telemetry.metrics import Metrics
from training.recipe import ClustersSection

ROOT = Path(__file__).parents[1]
ROOMS = (
    *("benchmarks", "bundle", "cli", "demo", "deploy", "docs", "evaluation", "recipes", "requirements"),
    *("router", "service", "tests", "training"),
)
NOTEBOOK = ROOT / "docs" / "measurements"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
HOW_TO = [page for page in PAGES if not page.is_relative_to(NOTEBOOK) and page.name != "CHANGELOG.md"]
# What a bundle holds stands in the same words as the rooms that make and read it.
IN_A_BUNDLE = re.compile(r"router/(head\.safetensors|tokenizer|model\.onnx)|bundle/report/.*")

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_PATH = re.compile(rf"(?<![\w./<$-])(?:{'|'.join(ROOMS)})/[\w./*-]*")
_MODULE = re.compile(rf"(?<![\w./-])(?:{'|'.join(ROOMS)})(?:\.\w+)+")


def _named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


@cache
def _anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, spaces to hyphens, everything else but words and hyphens gone."""
    headings = re.findall(r"^#+ +(.+?)\s*$", _prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _there(path: str) -> bool:
    return any(ROOT.glob(path)) if "*" in path else (ROOT / path).exists()


def _resolve(dotted: str) -> Any:
    """The module, class or function of that name; AttributeError or ImportError if there is none."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        try:
            value = importlib.import_module(name)
        except ModuleNotFoundError as missing:
            if missing.name is None or not (name == missing.name or name.startswith(f"{missing.name}.")):
                raise
            continue
        for part in parts[length:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(dotted)


def _is_field(model: type[BaseModel], dotted: str) -> bool:
    """Whether a recipe or manifest can hold that key, as `clusters.rule` or `router.cascade`."""
    first, _, rest = dotted.partition(".")
    if first not in model.model_fields:
        return False
    kinds = [model.model_fields[first].annotation]
    models = [kind for kind in (*kinds, *get_args(kinds[0])) if isinstance(kind, type)]
    return not rest or any(issubclass(kind, BaseModel) and _is_field(kind, rest) for kind in models)


def _families() -> Iterable[Metric]:
    registry = CollectorRegistry()
    Metrics(registry)
    return registry.collect()


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in _LINK.findall(_prose(page)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        to = (page.parent / path).resolve() if path else page
        if not to.exists() or (anchor and anchor not in _anchors(to)):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", HOW_TO, ids=_named)
def test_paths_exist(page: Path) -> None:
    paths = {path.rstrip(".") for path in _PATH.findall(page.read_text(encoding="utf-8"))}
    assert [path for path in sorted(paths) if not IN_A_BUNDLE.match(path) and not _there(path)] == []


@pytest.mark.parametrize("page", HOW_TO, ids=_named)
def test_names_resolve(page: Path) -> None:
    wrong = []
    text = page.read_text(encoding="utf-8")
    names = {name for code in _CODE.findall(_prose(page)) for name in _MODULE.findall(code)}
    for name in sorted(names | set(re.findall(r"-m ([a-z_]+(?:\.\w+)+)", text))):
        if _is_field(EvaluationRecipe, name) or _is_field(Manifest, name):
            continue
        try:
            _resolve(name)
        except (ImportError, AttributeError) as error:
            wrong.append(f"{name}: {error}")
    assert wrong == []


@pytest.mark.parametrize("page", HOW_TO, ids=_named)
def test_settings_are_settings(page: Path) -> None:
    sections = "|".join(name for name in EvaluationRecipe.model_fields if name not in ROOMS)
    keys = re.findall(rf"(?:`|--set \"?)((?:{sections})\.\w+)", page.read_text(encoding="utf-8"))
    unknown = {key for key in keys if not _is_field(EvaluationRecipe, key) and not _is_field(Manifest, key)}
    variables = re.findall(r"\bGRADIENTSPACE_([A-Z_]+)\b", page.read_text(encoding="utf-8"))
    unknown |= {
        name
        for name in variables
        if name.lower() not in Settings.model_fields
        and not name.startswith("TEST_")
        and name not in ("CONFIG", "SHARED")
    }
    assert unknown == set()


def _rows_of_the_paper() -> list[tuple[str, str]]:
    rows = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8").splitlines()
    cells = [row.strip("|").split("|") for row in rows if row.startswith("|")]
    return [(row[2], row[3]) for row in cells[2:]]


def test_the_paper_s_functions_and_tests_are_there() -> None:
    """`training.clusters.cache.ExactCache`, `RingCache`: a bare name stands beside the one before it."""
    wrong = []
    for functions, tests in _rows_of_the_paper():
        beside = ""
        for name in _CODE.findall(functions):
            if name.split(".")[0] in ROOMS:
                beside = name.rpartition(".")[0]
            elif name.isidentifier():
                name = f"{beside}.{name}"
            else:
                continue
            try:
                _resolve(name)
            except (ImportError, AttributeError) as error:
                wrong.append(f"{name}: {error}")
        for name in re.findall(r"[\w/]*test_\w+\.py", tests):
            if not (ROOT / name).exists() and not any((ROOT / "tests").rglob(name)):
                wrong.append(name)
    assert wrong == []


def _tree() -> dict[str, str]:
    """Return what the README's tree says of each folder."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [block for block in _FENCED.findall(readme) if "\nbundle/ " in block]
    (block,) = blocks
    folders, room = {}, ""
    for indent, name, says in re.findall(r"^( *)([\w.]+/) +(.+)$", block, flags=re.MULTILINE):
        room = room if indent else name
        folders[f"{room}{name}" if indent else name] = says
    return folders


def test_the_tree_of_the_readme_is_the_house() -> None:
    tree = _tree()
    assert [name for name in tree if not (ROOT / name).is_dir()] == []
    tracked = {path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    rooms = {f"{path.parts[0]}/" for path in tracked}
    sub_rooms = {
        f"{path.parts[0]}/{path.parts[1]}/"
        for path in tracked
        if len(path.parts) > 1 and path.parts[0] in ("training", "service", "evaluation")
    }
    assert sorted((rooms | sub_rooms) - tree.keys()) == []


def test_every_page_stands_in_its_index() -> None:
    for index in (ROOT / "docs" / "README.md", NOTEBOOK / "README.md"):
        linked = {(index.parent / target).resolve() for target in _LINK.findall(_prose(index))}
        assert sorted(set(index.parent.glob("*.md")) - {index} - linked) == []


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("monitoring.md", sorted(family.name for family in _families())),
        ("evaluate.md", [method.name for method in METHODS]),
        ("router.md", list(get_args(RouterKind))),
        ("cluster-count.md", list(get_args(ClustersSection.model_fields["rule"].annotation))),
    ],
)
def test_what_the_code_offers_stands_on_its_page(page: str, names: list[str]) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert [name for name in names if not re.search(rf"`{re.escape(name)}(?:_total)?`", text)] == []


@pytest.mark.parametrize("room", ["training", "service", "evaluation"])
def test_the_opening_of_a_room_names_its_sub_rooms(room: str) -> None:
    """The first thing that is read there; `clusters.count` names a file of a sub-room."""
    opening = importlib.import_module(room).__doc__ or ""
    sub_rooms = {path.parent.name for path in (ROOT / room).glob("*/__init__.py")}
    named = set(re.findall(r"\b[a-z_]+(?:\.[a-z_]+)*\b", opening))
    missing = [name for name in sorted(sub_rooms) if not any(word.split(".")[0] == name for word in named)]
    dotted = [word for word in named if "." in word and word.split(".")[0] in sub_rooms]
    for word in sorted(dotted):
        _resolve(f"{room}.{word}")
    assert missing == []
