"""The recipe: every choice of a training run, typed, each default tagged with where it comes from.

Tags: `paper` (stated there), `anchor:<project>` (what that project does), `ours` (our own choice).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ByteSize, Field, ValidationError, field_validator

from training.errors import RecipeError
from training.recipe_stage_three import ExpertsSection, FallbackSection, RouterSection
from training.recipe_values import Section, Size, choice, columns_of, plain_yaml

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
"""In a checkout as in an installation."""


class DataSection(Section):
    """Which rows, and which of them can be used."""

    files: tuple[str, ...] = choice(
        (), "ours", "files, folders or hub data set ids (ID:CONFIG:SPLIT): docs/data.md"
    )
    columns: dict[str, tuple[str, ...]] = choice(
        {},
        "ours",
        "which column is what, where its name does not say it, e.g. {prompt: Frage, answer: Antwort}",
    )
    train_on: Literal["last", "all"] = choice(
        "last", "ours", "answers of a conversation: the last alone, or all; never one of weight 0"
    )
    max_length: int = choice(
        1024, "anchor:trl", "tokens of prompt and completion; longer rows are left out", ge=8
    )
    max_unusable: float = choice(0.05, "ours", "share of unusable rows above which the run stops", ge=0, le=1)
    licenses: tuple[str, ...] = choice((), "ours", "licences of the data, for the bundle's manifest")
    held_out: tuple[str, ...] = choice(
        (),
        "ours",
        "further files, seen by no expert: a third teaches the router, the rest fits and judges it and the experts",
    )
    held_out_texts: bool = choice(
        True, "ours", "whether the bundle's report/held_out.parquet holds their prompts and responses"
    )

    @field_validator("columns", mode="before")
    @classmethod
    def _one_column_is_a_list(cls, value: Any) -> Any:
        return columns_of(value)


class BaseSection(Section):
    """The base model, frozen throughout."""

    model: str = choice("", "ours", "hub id, folder, GGUF file, or package:NAME of a Python package with one")
    revision: str | None = choice(None, "ours", "hub revision")
    dtype: Literal["auto", "float32", "bfloat16"] = choice(
        "auto",
        "ours",
        "trained and served in; auto: bfloat16 on CUDA, float32 on CPU. Stage II is always float32",
    )
    chat_template: Path | None = choice(
        None, "ours", "a Jinja file; none: the tokenizer's own, else training/rows/chat_template.jinja"
    )


class LoraSection(Section):
    """The shape of every adapter, which is on linear layers of the blocks, never on embeddings or head."""

    rank: int = choice(32, "paper", "section 6.2", ge=1)
    alpha: int = choice(64, "ours", "twice the rank; the paper is silent", ge=1)
    dropout: float = choice(0.05, "ours", "while fine-tuning; 0 in Stage II", ge=0, lt=1)
    target_modules: str | tuple[str, ...] = choice(
        "all-linear",
        "paper",
        "all-linear, attention (for mixtures of experts), a list of names, or a regular expression of whole names",
    )


class SplitSection(Section):
    """Which rows play which part, drawn with the recipe's seed."""

    validation: float = choice(
        0.05, "ours", "half stops trainings, the other half says who is served", gt=0, lt=0.5
    )
    validation_at_least: int = choice(200, "ours", "rows", ge=1)
    warmup: float = choice(0.05, "paper", "section 5.2", gt=0, lt=1)
    probe: float = choice(0.05, "ours", "rows that K is chosen on, disjoint from the warm-up", gt=0, lt=1)
    probe_at_least: int = choice(256, "ours", "rows", ge=8)
    probe_at_most: int = choice(1024, "ours", "rows", ge=8)


class TrainSection(Section):
    """How every adapter is trained. None of it changes what is learned by more than rounding."""

    report_to: tuple[str, ...] = choice(
        ("tensorboard",),
        "ours",
        "who is told of the losses: tensorboard (into the run's logs/), wandb, mlflow, ... as Transformers names them; "
        "all; none",
        min_length=1,
    )
    micro_batch_rows: int | None = choice(
        None, "ours", "rows per backward pass at most; none: as many as fit memory_budget", ge=1
    )
    gradient_checkpointing: Literal["auto", "on", "off"] = choice(
        "auto", "ours", "compute activations twice to keep fewer; auto: if one row does not fit otherwise"
    )

    threads: int | None = choice(
        None,
        "ours",
        "of a CPU; none: as OMP_NUM_THREADS says, else the fewest that are as fast as any in a trial",
        ge=1,
    )

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: Any) -> Any:
        if value is None:
            return ("none",)
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


class WarmupSection(Section):
    """Stage I (section 5.2)."""

    epochs: int = choice(4, "anchor:less", "a few, says the paper", ge=1)
    at_least_steps: int = choice(
        50, "ours", "5 % of a small data set is too few steps to move B from zero", ge=1
    )
    learning_rate: float = choice(2e-4, "ours", "peak of a cosine", gt=0)
    batch_rows: int = choice(16, "ours", "rows per optimiser step", ge=1)


class ClustersSection(Section):
    """Stage II (section 5.3)."""

    k: int | None = choice(None, "ours", "fix the number of clusters; none: clusters.rule chooses", ge=1)
    rule: Literal["routed", "paper"] = choice(
        "routed", "ours", "how K is chosen and clusters start: docs/cluster-count.md; paper: the silhouette"
    )
    k_min: int = choice(1, "ours", "smallest K tried; the paper's rule can't judge 1", ge=1)
    k_max: int = choice(10, "ours", "largest K tried", ge=2)
    thresholds: tuple[Annotated[float, Field(gt=0, le=1)], ...] = choice(
        (0.80, 0.85, 0.90, 0.95), "paper", "explained variance kept, 80-95 %", min_length=1
    )
    n_init: int = choice(10, "anchor:mttl", "K-means starts per point of the grid", ge=1)
    readable: float = choice(
        0.1, "ours", "weight of log p(cluster | prompt) beside the cosine; paper: 0 (docs/stage-two.md)", ge=0
    )
    batch_rows: int = choice(16, "ours", "|B|: rows per centroid update", ge=1)
    cache_batches: int = choice(8, "paper", "alpha: the cache holds alpha * |B| gradients; 5 to 10", ge=1)
    beta: float = choice(0.9, "ours", "smoothing of the moving average", ge=0, lt=1)
    max_epochs: int = choice(5, "ours", "of calibration", ge=1)
    max_drift: float = choice(
        1e-3, "ours", "converged: no centroid's 1 - cosine to the last epoch above", gt=0
    )
    max_churn: float = choice(0.005, "ours", "converged: share of rows that changed cluster below", gt=0)
    min_rows: int = choice(32, "ours", "a smaller cluster is merged into the nearest", ge=1)
    micro_batch_tokens: int = choice(
        512,
        "ours",
        "padded tokens per backward pass; changes no label. Measured on CPUs; a GPU wants more, as memory allows",
        ge=1,
    )
    cache: Literal["auto", "exact", "ring"] = choice(
        "auto", "ours", "exact: the paper's; ring: alpha sums per cluster; auto: exact if it fits the budget"
    )
    gradients: Literal["auto", "disk", "recompute"] = choice(
        "auto", "ours", "disk: computed once, kept until Stage II ends; auto: disk if they fit the budget"
    )
    orders: Literal["probe", "all"] = choice(
        "probe",
        "ours",
        "rows on which two other orders are compared with the run's own: the probe takes a second or two, all training "
        "rows two calibrations more",
    )
    checkpoint_seconds: float = choice(
        60.0, "ours", "a kill in Stage II loses at most this and the rows under way, 64 in each process", ge=0
    )


class Recipe(Section):
    """One training run."""

    data: DataSection = DataSection()
    base: BaseSection = BaseSection()
    lora: LoraSection = LoraSection()
    split: SplitSection = SplitSection()
    train: TrainSection = TrainSection()
    warmup: WarmupSection = WarmupSection()
    clusters: ClustersSection = ClustersSection()
    experts: ExpertsSection = ExpertsSection()
    router: RouterSection = RouterSection()
    fallback: FallbackSection = FallbackSection()
    train_only: bool = choice(False, "ours", "go on where the engine could serve no experts on the base")
    seed: int = choice(0, "ours", "of the split, the shuffles, K-means and the adapters")
    memory_budget: Size | None = choice(
        None, "ours", "of each process, in every stage, e.g. 8GB; none: 60 % of the device's memory", gt=0
    )
    disk_budget: Size | None = choice(
        None, "ours", "for gradients on disk, e.g. 100GB; none: half of what is free; 0: recompute", ge=0
    )
    output: Path | None = choice(None, "ours", "the run folder")


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


def find_recipe(path: Path) -> Path:
    """Return the file that is meant: `path` if it is there, else the recipe of that name that comes along.

    So `demo` and `recipes/demo.yaml` name the project's own from any folder.
    """
    own = RECIPES / path.with_suffix(".yaml").name
    return own if not path.is_file() and path.parent in (Path(), Path("recipes")) and own.is_file() else path


def read_recipe(path: Path | None, given: dict[str, Any], overrides: list[str]) -> Recipe:
    """As `read_recipe_of`, of one training run."""
    return read_recipe_of(Recipe, path, given, overrides)


def read_recipe_of(
    kind: type[AnyRecipe], path: Path | None, given: dict[str, Any], overrides: list[str]
) -> AnyRecipe:
    """Read a YAML recipe; lay `given` (values by `section.key`) and then `section.key=value` strings over it.

    Relative paths in it are taken from the working directory, as those on the command line are.

    Raises:
        RecipeError: the file, a key or a value is wrong.

    """
    tree: dict[str, Any] = {}
    if path is not None:
        path = find_recipe(path)
        try:
            tree = plain_yaml(path.read_text(encoding="utf-8")) or {}
        except FileNotFoundError as error:
            along = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
            raise RecipeError(
                f"The recipe {path} can't be read: there is no such file. These come along: {along}."
            ) from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RecipeError(f"The recipe {path} can't be read: {error}") from error
        if not isinstance(tree, dict):
            raise RecipeError(f"The recipe {path} is not a mapping of sections. See recipes/ for examples.")
    for key, value in given.items():
        _set(tree, key, value)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set {override!r} is not of the form section.key=value, e.g. lora.rank=8")
        try:
            parsed = plain_yaml(value)
        except yaml.YAMLError as error:
            raise RecipeError(
                f"--set {override!r}: its value is not YAML. Quote it, or close its brackets."
            ) from error
        _set(tree, key, parsed)
    try:
        recipe = kind.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(_what_is_wrong(kind, error)) from error
    _check_sense(recipe)
    return recipe


def _what_is_wrong(kind: type[Recipe], error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    lists = "`gradientspace train --help-recipe` lists every key."
    if first["type"] != "extra_forbidden":
        return f"Recipe, {key}: {first['msg']} (given: {first['input']!r}). {lists}"
    near = difflib.get_close_matches(key, [known for known, *_ in _fields(kind())], n=1, cutoff=0.75)
    meant = f" Did you mean {near[0]}?" if near else ""
    return f"Recipe, {key}: there is no such key (given: {first['input']!r}).{meant} {lists}"


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    place = tree
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise RecipeError(f"Recipe, {key}: {section!r} is a value, not a section")
    place[last] = value


def _check_sense(recipe: Recipe) -> None:
    if not recipe.data.files:
        raise RecipeError("Recipe, data.files: no rows are given. Use --data FILE or set data.files.")
    if not recipe.base.model:
        raise RecipeError("Recipe, base.model: no base model is given. Use --base-model ID_OR_FOLDER.")
    if recipe.output is None:
        raise RecipeError("Recipe, output: no run folder is given. Use --output FOLDER.")
    if recipe.clusters.k_min > recipe.clusters.k_max:
        raise RecipeError(
            f"Recipe, clusters.k_min ({recipe.clusters.k_min}) is above k_max ({recipe.clusters.k_max})."
        )
    if recipe.router.gate == "measured" and recipe.fallback.train == "warmup":
        raise RecipeError(
            "Recipe, fallback.train: the gate compares every expert with one LoRA on everything, and the fallback is "
            "to be the warm-up adapter. Set router.gate=off too, or leave fallback.train at everything."
        )


def resolved_values(recipe: Recipe) -> list[tuple[str, str, str, str]]:
    """Every (key, value, tag, why) of a recipe; the tag is `recipe` where the default was changed."""
    lines: list[tuple[str, str, str, str]] = []
    for key, section, name in _fields(recipe):
        field, value = type(section).model_fields[name], getattr(section, name)
        extra = field.json_schema_extra
        tag = str(extra["tag"]) if isinstance(extra, dict) else ""
        changed = value != field.default
        shown = value.human_readable(decimal=True) if isinstance(value, ByteSize) else str(value)
        lines.append((key, shown, "recipe" if changed else tag, field.description or ""))
    return lines


def _fields(recipe: Recipe) -> Iterator[tuple[str, BaseModel, str]]:
    """Every value of a recipe: its key, the section that holds it, its name there."""
    for place, section in (
        ("", recipe),
        *((name, getattr(recipe, name)) for name in type(recipe).model_fields),
    ):
        if not isinstance(section, BaseModel):
            continue
        for name in type(section).model_fields:
            if not isinstance(getattr(section, name), BaseModel):
                yield f"{place}.{name}" if place else name, section, name
