"""What a partition is worth: experts trained on its clusters, judged on rows that nothing has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedModel

from training.finetune import Schedule, finetune, load_adapter
from training.inputs import Inputs
from training.micro_batches import micro_batches
from training.rendering import TokenRow
from training.row_loss import pad_rows, row_losses
from training.stage_store import Stage, StageResult, StageStore

_TOKENS = 4096  # padded tokens per forward pass


@dataclass(frozen=True)
class Partition:
    """Training rows [n] (numbers in the run) and their labels, held-out rows [V], their labels and their routes."""

    name: str
    train: NDArray[np.int64]
    labels: NDArray[np.int64]
    held_out: NDArray[np.int64]
    held_out_labels: NDArray[np.int64]
    routes: NDArray[np.int64]


@dataclass(frozen=True)
class Losses:
    """Mean completion-token loss of each held-out row [V], by its true cluster's expert and by the router's."""

    by_label: NDArray[np.float64]
    by_route: NDArray[np.float64]


def partition_losses(
    inputs: Inputs, store: StageStore, warmup: StageResult, partition: Partition, seed: int
) -> Losses:
    """Train an expert per cluster from the warm-up adapter, and measure the held-out rows' losses.

    An expert is a stage of its own: what is trained once is not trained again.
    """
    by_label = np.full(len(partition.held_out), np.nan)
    by_route = by_label.copy()
    for label in range(int(partition.labels.max()) + 1):
        asked = (partition.held_out_labels == label) | (partition.routes == label)  # [V]
        members = partition.train[partition.labels == label].tolist()
        found = _expert(inputs, store, warmup, f"{partition.name}-{label}", members, seed)
        losses = _losses(inputs, store, found, partition.held_out[asked].tolist())
        for losses_of, chosen in (
            (by_label, partition.held_out_labels[asked]),
            (by_route, partition.routes[asked]),
        ):
            losses_of[np.flatnonzero(asked)[chosen == label]] = losses[chosen == label]
    return Losses(by_label, by_route)


def warmup_losses(
    inputs: Inputs, store: StageStore, warmup: StageResult, held_out: Sequence[int]
) -> NDArray[np.float64]:
    """Losses [V] with the adapter that all experts start from."""
    return _losses(inputs, store, warmup, held_out)


def _expert(
    inputs: Inputs, store: StageStore, warmup: StageResult, name: str, members: Sequence[int], seed: int
) -> StageResult:
    section = inputs.recipe.experts
    schedule = Schedule(section.epochs, section.learning_rate, section.batch_rows)

    def work(folder: Path) -> dict[str, Any]:
        model = load_adapter(inputs.base, warmup.folder, trainable=True)
        rows = inputs.pick(members)
        with store.narrator.bar("fine-tuning", schedule.steps(len(rows)), "steps") as advance:
            return asdict(finetune(model, inputs.tokenizer, rows, schedule, seed, folder, advance))

    depends_on = {
        "warmup": warmup.digest,
        "rows": list(members),
        "schedule": asdict(schedule),
        "seed": seed,
    }
    title = f"{name}, seed {seed}: {len(members):,} rows"
    return store.run(Stage(f"expert-{name}-seed-{seed}", title, depends_on), work)


def _losses(
    inputs: Inputs, store: StageStore, adapter: StageResult, places: Sequence[int]
) -> NDArray[np.float64]:
    rows = inputs.pick(places)

    def work(folder: Path) -> dict[str, Any]:
        model = load_adapter(inputs.base, adapter.folder, trainable=False, dtype=torch.float32)
        with store.narrator.bar("held-out rows", len(rows), "rows") as advance:
            return {"losses": _forward(model, rows, int(inputs.tokenizer.pad_token_id), advance)}

    name = f"losses-{adapter.folder.name}"
    stage = Stage(name, f"{name}: {len(rows):,} rows", {"adapter": adapter.digest, "rows": list(places)})
    return np.asarray(store.run(stage, work).facts["losses"])


@torch.inference_mode()
def _forward(model: PeftModel, rows: Sequence[TokenRow], pad_id: int, advance: Any) -> list[float]:
    base = cast(PreTrainedModel, model.eval().get_base_model())
    losses = np.full(len(rows), np.nan)
    for batch in micro_batches([len(row.input_ids) for row in rows], _TOKENS):
        padded = pad_rows([rows[place] for place in batch], pad_id, model.device)
        losses[batch] = row_losses(base, padded).double().cpu().numpy()
        advance(len(batch))
    return [float(loss) for loss in losses]
