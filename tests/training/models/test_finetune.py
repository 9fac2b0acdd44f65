"""Fine-tuning: the adapter alone, on the completions alone, the same every time."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase, Trainer

from training.errors import RecipeError, TrainingError
from training.models.base_model import BaseModel, find_base
from training.models.finetune import Fit, Schedule, Tuned, finetune_lora, load_adapter, new_adapter
from training.models.loss_curves import plan_validation, validation_loss
from training.models.reporters import Reporting, reporters
from training.progress import ignore_progress
from training.recipe import BaseSection, LoraSection
from training.rows.rendering import TokenRow

LORA = LoraSection(rank=4, alpha=8, dropout=0.1)
QUICK = Schedule(epochs=4, learning_rate=3e-3, batch_rows=4)
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclasses.dataclass
class Tuner:
    base: BaseModel
    tokenizer: PreTrainedTokenizerBase
    rows: list[TokenRow]

    def __call__(self, model: PeftModel, save_to: Path, schedule: Schedule = QUICK, **changes: Any) -> Tuned:
        settings = {"rows": self.rows, "seed": 0, "advance": ignore_progress} | changes
        return finetune_lora(model, self.tokenizer, schedule=schedule, save_to=save_to, **settings)

    def fresh(self, seed: int = 0) -> PeftModel:
        return new_adapter(self.base, LORA, seed)


@pytest.fixture(scope="module")
def base(base_folder: Path) -> BaseModel:
    """As if it came from the hub: its id is not its folder."""
    found = find_base(BaseSection(model=str(base_folder), dtype="float32"))
    return dataclasses.replace(found, record=found.record.model_copy(update={"id": "tiny"}))


@pytest.fixture
def tune(base: BaseModel, tokenizer: PreTrainedTokenizerBase, rows: list[TokenRow]) -> Tuner:
    return Tuner(base, tokenizer, rows)


@pytest.fixture(scope="module")
def warmed(
    base: BaseModel, base_folder: Path, rows: list[TokenRow], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("warmup")
    Tuner(base, base.tokenizer(), rows)(new_adapter(base, LORA, 0), folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_adapter_is_on_every_linear_layer_of_the_blocks_and_nowhere_else(tune: Tuner) -> None:
    model = tune.fresh()
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    config = model.peft_config["default"]
    assert isinstance(config, LoraConfig)
    assert {name.split(".")[-1] for name in config.target_modules or ()} == linear
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 8, 0.1)
    trained = {
        name.split(".lora_")[0].split(".")[-1] for name, _ in model.named_parameters() if "lora_" in name
    }
    assert trained == linear


def test_only_lora_moves_and_the_loss_falls(tune: Tuner, tmp_path: Path) -> None:
    model = tune.fresh()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    tuned = tune(model, tmp_path, Schedule(epochs=15, learning_rate=1e-2, batch_rows=4))
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    assert tuned.last_loss < 0.7 * tuned.first_loss


def test_steps_and_row_visits(tune: Tuner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visits: list[int] = []
    step = Trainer.training_step

    def counting(self: Trainer, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        visits.append(len(inputs["input_ids"]))
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", counting)
    advanced: list[int] = []
    tuned = tune(tune.fresh(), tmp_path, Schedule(2, 1e-4, batch_rows=5), advance=advanced.append)
    assert (tuned.steps, tuned.row_visits) == (6, 24)
    assert sum(advanced) == 6
    assert sorted(visits) == [2, 2, 5, 5, 5, 5]
    visits.clear()
    at_least = tune(tune.fresh(), tmp_path, Schedule(1, 1e-4, batch_rows=5, at_least_steps=5))
    assert (at_least.steps, at_least.row_visits) == (5, 22)
    assert sum(visits) == 22


def test_a_run_of_one_step_learns_something(tune: Tuner, tmp_path: Path) -> None:
    model = tune.fresh()
    tuned = tune(model, tmp_path, Schedule(epochs=1, learning_rate=3e-3, batch_rows=100))
    moved = [float(w.detach().abs().max()) for n, w in model.named_parameters() if ".lora_B." in n]
    assert tuned.steps == 1
    assert min(moved) > 0


def test_the_same_seed_gives_the_same_adapter_to_the_bit(tune: Tuner, tmp_path: Path) -> None:
    schedule = Schedule(1, 1e-3, batch_rows=4)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tune(tune.fresh(seed), tmp_path / name, schedule, seed=seed)
    same, again, other = (digests(tmp_path / name) for name in "abc")
    assert same[WEIGHTS] == again[WEIGHTS] != other[WEIGHTS]
    assert same[CONFIG] == again[CONFIG]


def test_the_saved_config_is_the_same_on_every_machine(tune: Tuner, warmed: Path, tmp_path: Path) -> None:
    """No order of a set, no folder of a cache: the digest of an adapter must not depend on them."""
    tune(load_adapter(tune.base, warmed, trainable=True), tmp_path, Schedule(1, 1e-4, 12))
    for folder in (warmed, tmp_path):
        config = json.loads((folder / CONFIG).read_text())
        assert config["target_modules"] == sorted(config["target_modules"])
        assert config["base_model_name_or_path"] == tune.base.record.id == "tiny"


def test_an_expert_starts_from_the_warm_up_adapter_and_leaves_it_alone(
    tune: Tuner, warmed: Path, tmp_path: Path, rows: list[TokenRow]
) -> None:
    before = digests(warmed)
    saved = load_file(warmed / WEIGHTS)
    model = load_adapter(tune.base, warmed, trainable=True)
    started = {name: weight for name, weight in model.named_parameters() if "lora_" in name}
    assert len(started) == len(saved)
    for name, weight in started.items():
        assert weight.requires_grad
        assert torch.equal(weight, saved[name.replace(".default", "")])
    assert not any(w.requires_grad for name, w in model.named_parameters() if "lora_" not in name)
    tune(model, tmp_path / "expert", rows=rows[:6])
    expert = load_file(tmp_path / "expert" / WEIGHTS)
    assert expert.keys() == saved.keys()
    assert all(not torch.equal(expert[name], saved[name]) for name in saved)
    assert digests(warmed) == before


def test_what_is_saved_is_what_was_trained(tune: Tuner, tmp_path: Path, rows: list[TokenRow]) -> None:
    model = tune.fresh()
    tune(model, tmp_path)
    ids = torch.tensor([rows[2].input_ids])
    again = load_adapter(tune.base, tmp_path, trainable=False, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(model.eval()(input_ids=ids).logits, again(input_ids=ids).logits)
    assert not any(weight.requires_grad for weight in again.parameters())


def test_prompts_are_not_learned(tune: Tuner, tmp_path: Path, rows: list[TokenRow], monkeypatch: Any) -> None:
    """With every completion token ignored but one, the loss is that token's alone."""
    seen: list[torch.Tensor] = []
    collate = DataCollatorForSeq2Seq.__call__

    def watching(self: Any, features: Any, *args: Any, **kwargs: Any) -> Any:
        batch = collate(self, features, *args, **kwargs)
        seen.append(batch["labels"])
        return batch

    monkeypatch.setattr(DataCollatorForSeq2Seq, "__call__", watching)
    tune(tune.fresh(), tmp_path, Schedule(1, 1e-4, batch_rows=12))
    learned = sum(int((labels != -100).sum()) for labels in seen)
    assert learned == sum(len(row.input_ids) - row.prompt_length for row in rows)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_with_a_sentence(tune: Tuner, tmp_path: Path, value: float) -> None:
    model = tune.fresh()
    with torch.no_grad():
        model.get_base_model().model.norm.weight.fill_(value)
    with pytest.raises(TrainingError, match=r"loss became (nan|inf) at step 1\. Lower the learning rate"):
        tune(model, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_model_that_would_train_more_than_the_adapter_is_refused(tune: Tuner, tmp_path: Path) -> None:
    model = tune.fresh()
    model.get_base_model().model.norm.weight.requires_grad_(True)
    with pytest.raises(TrainingError, match=r"norm\.weight would be trained"):
        tune(model, tmp_path)
    with pytest.raises(TrainingError, match="nothing would be trained"):
        tune(tune.fresh().requires_grad_(False), tmp_path)


def test_nothing_is_left_in_the_working_directory(
    tune: Tuner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tune(tune.fresh(), tmp_path / "adapter", Schedule(1, 1e-4, 12))
    assert list((tmp_path / "here").iterdir()) == []
    assert capfd.readouterr().out == ""  # standard output is for results


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("micro_batch_rows", [1, 2, 4])
def test_an_optimiser_step_in_pieces_is_the_same_step(
    tune: Tuner, tmp_path: Path, micro_batch_rows: int, checkpointing: bool
) -> None:
    """Rows are of unlike length: pieces weigh by their tokens, not alike."""
    schedule = Schedule(epochs=2, learning_rate=1e-3, batch_rows=4)
    lora = LoraSection(rank=4, alpha=8, dropout=0.0)  # which is drawn anew for every piece
    whole = tune(new_adapter(tune.base, lora, 0), tmp_path / "whole", schedule)
    fit = Fit(micro_batch_rows, checkpointing)
    pieces = tune(new_adapter(tune.base, lora, 0), tmp_path / "pieces", schedule, fit=fit)
    assert (pieces.steps, pieces.row_visits) == (whole.steps, whole.row_visits)
    assert [loss for _, loss in pieces.losses] == pytest.approx([loss for _, loss in whole.losses], rel=1e-4)
    for name, weight in _weights(tmp_path / "whole").items():
        assert torch.allclose(_weights(tmp_path / "pieces")[name], weight, atol=2e-5), name
    assert (pieces.micro_batch_rows, pieces.gradient_checkpointing) == (micro_batch_rows, checkpointing)


def test_pieces_of_a_model_without_loss_arguments_weigh_by_their_tokens_too(
    tune: Tuner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Schedule(epochs=1, learning_rate=1e-3, batch_rows=4)
    lora = LoraSection(rank=4, alpha=8, dropout=0.0)
    tune(new_adapter(tune.base, lora, 0), tmp_path / "whole", schedule)
    model = new_adapter(tune.base, lora, 0)
    monkeypatch.setattr(type(model.get_base_model()), "accepts_loss_kwargs", False, raising=False)
    tune(model, tmp_path / "pieces", schedule, fit=Fit(1))
    for name, weight in _weights(tmp_path / "whole").items():
        assert torch.allclose(_weights(tmp_path / "pieces")[name], weight, atol=2e-5), name


def test_curves_are_kept_and_watching_changes_no_bit(
    tune: Tuner, tmp_path: Path, rows: list[TokenRow]
) -> None:
    schedule = Schedule(epochs=6, learning_rate=3e-3, batch_rows=4)
    plain = tune(tune.fresh(), tmp_path / "plain", schedule, rows=rows[:8])
    watched = tune(
        tune.fresh(),
        tmp_path / "watched",
        schedule,
        rows=rows[:8],
        validation=rows[8:],
        report_to=Reporting(("tensorboard",), tmp_path / "logs", "run/adapter"),
    )
    assert digests(tmp_path / "plain") == digests(tmp_path / "watched")
    assert plain.validation_losses == []
    assert [step for step, _ in watched.losses] == list(range(1, 13))
    steps = [step for step, _ in watched.validation_losses]
    assert (steps[0], steps[-1], watched.validation_rows) == (0, 12, 4)
    assert watched.validation_losses[-1][1] != watched.validation_losses[0][1]
    json.dumps(dataclasses.asdict(watched), allow_nan=False)
    told = _scalars(tmp_path / "logs")
    assert told["train/loss"] == pytest.approx([loss for _, loss in watched.losses], rel=1e-4)
    assert told["eval/loss"] == pytest.approx([loss for _, loss in watched.validation_losses], rel=1e-4)


def _scalars(folder: Path) -> dict[str, list[float]]:
    """Read back what TensorBoard would show: its records are lengths, checksums and events."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.glob("events.out.tfevents.*")
    raw, found, place = file.read_bytes(), {}, 0
    while place < len(raw):
        size = int.from_bytes(raw[place : place + 8], "little")
        event = Event.FromString(raw[place + 12 : place + 12 + size])
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append(value.simple_value)
        place += 16 + size
    return found


def test_the_validation_loss_is_the_mean_over_all_completion_tokens(
    tune: Tuner, rows: list[TokenRow]
) -> None:
    model = tune.fresh()
    model.train()
    summed = tokens = 0.0
    for row in rows:
        with torch.no_grad():
            logits = model.eval()(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        places = range(row.prompt_length, len(row.input_ids))
        summed -= sum(float(logits[place - 1, row.input_ids[place]]) for place in places)
        tokens += len(places)
    model.train()
    assert validation_loss(model, tune.tokenizer, rows, 5) == pytest.approx(summed / tokens, rel=1e-5)
    assert model.training


def test_validation_takes_no_more_than_its_share(rows: list[TokenRow]) -> None:
    many = rows * 100
    for steps, batch_rows in ((50, 16), (1000, 4), (1, 16)):
        planned = plan_validation(many, steps, batch_rows)
        assert {0, steps} <= planned.steps
        cost = len(planned.steps) * len(planned.rows) / 3
        assert cost <= max(0.05 * steps * batch_rows, len(planned.steps) * 8 / 3)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("tensorbord",), "'tensorbord' is not one of"),
        (("tensorboard", "comet_ml"), "comet_ml is not installed. Install it (pip install comet-ml)"),
    ],
)
def test_who_can_not_be_told_is_said_before_anything_is_trained(asked: tuple[str, ...], says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        reporters(asked)
    assert says in str(caught.value)


def test_a_missing_writer_for_tensorboard_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    import training.models.reporters as module

    monkeypatch.setattr(module, "get_available_reporting_integrations", list)
    names, warning = reporters(("tensorboard",))
    assert names == ()
    assert "pip install tensorboardX" in str(warning)
    assert reporters(("none",)) == ((), None)


def test_each_adapters_run_at_weights_and_biases_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left open, the next adapter's curves would go on in it. What it writes goes below the run folder."""
    import training.models.reporters as module

    ended: list[str] = []
    client = types.SimpleNamespace(finish=lambda: ended.append(os.environ["WANDB_DIR"]))
    monkeypatch.setitem(sys.modules, "wandb", client)
    monkeypatch.setattr(module, "get_reporting_integration_callbacks", lambda names: [])
    monkeypatch.delenv("WANDB_DIR", raising=False)
    with module.reporting(Reporting(("wandb",), tmp_path / "logs" / "warmup", "run/warmup")):
        assert ended == []
    assert ended == [str(tmp_path / "logs")]
    assert "WANDB_DIR" not in os.environ
