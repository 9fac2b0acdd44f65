"""The recipe: every default says where it comes from, every mistake says which key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from tests.stand_ins.tiny_model import ROOT
from training.errors import RecipeError, TrainingError
from training.recipe import Recipe, read_recipe, resolved_values

GIVEN: dict[str, Any] = {"data.files": ["rows.jsonl"], "base.model": "some/base", "output": "run"}
# table1*.yaml are `evaluate`'s, with sections of their own: the tests of evaluation read them.
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.yaml") if not path.name.startswith("table1"))


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def refusal(path: Path | None = None, given: dict[str, Any] | None = None, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, GIVEN if given is None else given, list(overrides))
    assert isinstance(caught.value, TrainingError)
    return str(caught.value)


def leaves(section: type[BaseModel], place: str = "") -> list[str]:
    found = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += leaves(kind, f"{place}{name}.")
        else:
            found.append(f"{place}{name}")
    return found


def test_every_default_says_where_it_comes_from() -> None:
    values = resolved_values(Recipe())
    assert sorted(key for key, *_ in values) == sorted(leaves(Recipe))
    for key, _, tag, why in values:
        assert re.fullmatch(r"paper|ours|anchor:[\w-]+", tag), key
        assert why, key


def test_what_the_paper_states_is_kept() -> None:
    recipe = Recipe()
    tags = {key: tag for key, _, tag, _ in resolved_values(recipe)}
    assert (recipe.lora.rank, tags["lora.rank"]) == (32, "paper")
    assert (recipe.split.warmup, tags["split.warmup"]) == (0.05, "paper")
    assert (min(recipe.clusters.thresholds), max(recipe.clusters.thresholds)) == (0.80, 0.95)
    assert 5 <= recipe.clusters.cache_batches <= 10


def test_a_changed_value_is_tagged_as_the_recipes() -> None:
    tags = {
        key: (value, tag) for key, value, tag, _ in resolved_values(read_recipe(None, GIVEN, ["lora.rank=8"]))
    }
    assert tags["lora.rank"] == ("8", "recipe")
    assert tags["base.model"] == ("some/base", "recipe")
    assert tags["lora.alpha"] == ("64", "ours")


def test_set_goes_over_given_goes_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "lora: {rank: 4, alpha: 5, dropout: 0.1}\nbase: {model: from/file}\nseed: 1\n")
    recipe = read_recipe(path, GIVEN | {"lora.alpha": 6, "lora.rank": 6, "seed": 2}, ["lora.rank=7"])
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout) == (7, 6, 0.1)
    assert (recipe.base.model, recipe.seed) == ("some/base", 2)
    assert recipe.data.files == ("rows.jsonl",)
    assert recipe.output == Path("run")
    last = read_recipe(path, GIVEN, ["seed=3", "seed=4"])
    assert last.seed == 4


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("warmup.learning_rate=1e-4", 1e-4),  # which YAML alone would leave a string
        ("warmup.learning_rate=0.001", 0.001),
        ("clusters.k=5", 5),
        ("clusters.k=null", None),
        ("clusters.thresholds=[0.5, 0.9]", (0.5, 0.9)),
        ("base.revision=main", "main"),
        ("data.licenses=[mit, apache-2.0]", ("mit", "apache-2.0")),
        ("router.encoder=package:some_name", "package:some_name"),
        ("base.chat_template=a=b.jinja", Path("a=b.jinja")),
    ],
)
def test_a_set_value_has_the_keys_type(override: str, value: Any) -> None:
    found: Any = read_recipe(None, GIVEN, [override])
    for name in override.partition("=")[0].split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value) or isinstance(value, Path)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("off", "off"), ("Off", "off"), ("no", "off"), ("false", "off"), ("auto", "auto"), ('"off"', "off")],
)
def test_what_yaml_takes_for_a_truth_value_is_the_choice_of_that_sense(
    word: str, meant: str, tmp_path: Path
) -> None:
    assert read_recipe(None, GIVEN, [f"router.cascade={word}"]).router.cascade == meant
    file = written(tmp_path, f"router: {{cascade: {word}}}\n")
    assert read_recipe(file, GIVEN, []).router.cascade == meant
    assert read_recipe(None, GIVEN | {"router.cascade": False}, []).router.cascade == "off"


def test_a_truth_value_without_a_choice_of_its_sense_is_refused() -> None:
    assert "'auto' or 'off' (given: 'on')" in refusal(None, None, "router.cascade=on")
    assert "base.dtype" in refusal(None, None, "base.dtype=no")


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("base.revision=1234567", "1234567"),
        ("base.revision=2024-01-01", "2024-01-01"),
        ("base.model=on", "on"),
        ("data.licenses=[no, 1.0]", ("no", "1.0")),
        ("data.held_out_texts=no", False),
        ("data.held_out_texts=on", True),
        ("output=007", Path("007")),
    ],
)
def test_a_value_is_read_by_its_key_and_not_by_what_yaml_takes_it_for(
    override: str, value: Any, tmp_path: Path
) -> None:
    key, _, text = override.partition("=")
    section, _, name = key.rpartition(".")
    file = written(tmp_path, f"{section}: {{{name}: {text}}}\n" if section else f"{name}: {text}\n")
    for recipe in (
        read_recipe(None, GIVEN, [override]),
        read_recipe(file, {other: given for other, given in GIVEN.items() if other != key}, []),
    ):
        found: Any = recipe
        for part in key.split("."):
            found = getattr(found, part)
        assert found == value


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * 10**9),
        ("512MB", 512 * 10**6),
        ("1.5GiB", 3 << 29),
        ("2 TB", 2 * 10**12),
        ("8g", 8 * 10**9),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int, tmp_path: Path) -> None:
    assert read_recipe(None, GIVEN, [f"memory_budget={text}"]).memory_budget == size
    assert read_recipe(written(tmp_path, f"memory_budget: {text}\n"), GIVEN, []).memory_budget == size
    assert read_recipe(None, GIVEN | {"memory_budget": text}, []).memory_budget == size
    shown = {
        key: value for key, value, *_ in resolved_values(read_recipe(None, GIVEN, [f"disk_budget={text}"]))
    }
    assert shown["disk_budget"].endswith("B")


@pytest.mark.parametrize("text", ["8XB", "-1GB", "many", "GB", "iB", "0"])
def test_what_is_no_size_is_said(text: str) -> None:
    said = refusal(None, None, f"memory_budget={text}")
    assert said.startswith("Recipe, memory_budget: ")
    assert f"(given: '{text}')" in said


def test_a_key_that_is_nearly_one_is_guessed() -> None:
    assert "Did you mean lora.rank?" in refusal(None, None, "lora.ranks=8")
    assert "Did you mean memory_budget?" in refusal(None, None, "memory_bugdet=8GB")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("lora.ranks=8", "lora.ranks"),
        ("loras.rank=8", "loras"),
        ("lora.rank=eight", "lora.rank"),
        ("lora.rank=0", "lora.rank"),
        ("lora.rank=", "lora.rank"),
        ("lora.rank=2.5", "lora.rank"),
        ("lora.dropout=1", "lora.dropout"),
        ("lora=8", "lora"),
        ("seed.deep=8", "seed.deep"),
        ("base.dtype=float16", "base.dtype"),
        ("router.kind=oracle", "router.kind"),
        ("router.max_tokens=4096", "router.max_tokens"),
        ("clusters.thresholds=[]", "clusters.thresholds"),
        ("clusters.thresholds=[80]", "clusters.thresholds"),
        ("clusters.k_max=1", "clusters.k_max"),
        ("split.validation=0", "split.validation"),
    ],
)
def test_a_wrong_key_or_value_is_named(override: str, named: str) -> None:
    message = (
        refusal(None, None, override)
        if override != "seed.deep=8"
        else refusal(None, GIVEN | {"seed": 1}, override)
    )
    assert message.startswith(f"Recipe, {named}")


def test_k_min_above_k_max() -> None:
    message = refusal(None, None, "clusters.k_min=5", "clusters.k_max=4")
    assert message == "Recipe, clusters.k_min (5) is above k_max (4)."


@pytest.mark.parametrize("override", ["lora.rank", "=8", "", "lora.rank: 8"])
def test_a_set_of_another_form_shows_the_form(override: str) -> None:
    message = refusal(None, None, override)
    assert "section.key=value" in message
    assert repr(override) in message


def test_a_set_that_is_no_yaml_is_a_sentence() -> None:
    assert "clusters.thresholds=[0.8" in refusal(None, None, "clusters.thresholds=[0.8")


@pytest.mark.parametrize(
    ("missing", "what", "remedy"),
    [
        ("data.files", "no rows", "--data"),
        ("base.model", "no base model", "--base-model"),
        ("output", "no run folder", "--output"),
    ],
)
def test_what_must_be_given_is_named(missing: str, what: str, remedy: str) -> None:
    message = refusal(None, {key: value for key, value in GIVEN.items() if key != missing})
    assert message.startswith(f"Recipe, {missing}: {what}")
    assert remedy in message


def test_a_file_that_is_no_recipe(tmp_path: Path) -> None:
    assert str(tmp_path / "no.yaml") in refusal(tmp_path / "no.yaml")
    assert "can't be read" in refusal(written(tmp_path, "lora: [rank"))
    assert "not a mapping of sections" in refusal(written(tmp_path, "- lora\n"))
    (tmp_path / "latin.yaml").write_bytes("base: {model: Grüße}".encode("latin-1"))
    assert "can't be read" in refusal(tmp_path / "latin.yaml")
    assert read_recipe(written(tmp_path, ""), GIVEN, []) == read_recipe(None, GIVEN, [])


def test_a_recipe_survives_json_and_yaml(tmp_path: Path) -> None:
    """The manifest carries it: it must lead to the same run again."""
    recipe = read_recipe(None, GIVEN, ["clusters.k=3", "base.chat_template=t.jinja"])
    stored = recipe.model_dump(mode="json")
    assert read_recipe(written(tmp_path, yaml.safe_dump(stored)), {}, []) == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_of_the_project_parses(path: Path) -> None:
    recipe = read_recipe(path, GIVEN, [])
    assert any(tag == "recipe" for *_, tag, _ in resolved_values(recipe))


@pytest.mark.parametrize("name", ["demo", "demo.yaml", "recipes/demo.yaml", "recipes/demo"])
def test_the_projects_recipes_are_found_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_recipe(Path(name), {}, []) == read_recipe(ROOT / "recipes" / "demo.yaml", {}, [])
    (tmp_path / "demo.yaml").write_text("seed: 7\n")
    assert read_recipe(Path("demo.yaml"), GIVEN, []).seed == 7  # one's own comes first


def test_a_recipe_that_is_not_there_names_those_that_come_along(tmp_path: Path) -> None:
    along = ", ".join(sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml")))
    assert f"there is no such file. These come along: {along}." in refusal(tmp_path / "demo.yaml")
