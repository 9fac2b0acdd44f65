"""Model merging: our experts made one adapter, its weight change the mean of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.methods.gradientspace import gradient_experts
from evaluation.methods.protocol import Method, Tuning
from evaluation.seed.partition import Fitted, Model, alone
from evaluation.seed.seed_run import SeedRun
from training.models.finetune import load_adapter
from training.stages.store import Stage

MERGED = "merged"


class Merging(Method):
    """PEFT's `cat`: A's below each other, B's beside each other, so that the change is exactly sum of w_k B_k A_k.

    `linear` would add up A's and B's apart and multiply the sums: every expert's B with every other's A.
    """

    name = "merging"
    title = "Model merging"
    tuning: Tuning = "adapters"

    def fit(self, run: SeedRun, learning_rate: float) -> Fitted:
        """As `Method.fit`."""
        _, experts = gradient_experts(run, learning_rate)

        def work(folder: Path) -> dict[str, Any]:
            merge(run, experts, folder)
            return {}

        depends_on = {"experts": [expert.digest for expert in experts]}
        stage = Stage(f"merged-at-{learning_rate:g}", f"Merging {len(experts)} experts", depends_on)
        done = run.store.run(stage, work)
        visits = sum(expert.row_visits for expert in experts)
        return alone(Model(MERGED, "adapter", done.folder, done.digest, visits), len(run.rows))


def merge(run: SeedRun, experts: tuple[Model, ...], folder: Path) -> None:
    """Save the mean of the experts' weight changes as one adapter of their ranks' sum."""
    first, *others = experts
    assert first.folder is not None
    model = load_adapter(run.inputs.base, first.folder, trainable=False)
    names = [model.active_adapters[0]]
    for expert in others:
        model.load_adapter(str(expert.folder), expert.name)
        names.append(expert.name)
    model.add_weighted_adapter(names, [1 / len(names)] * len(names), MERGED, combination_type="cat")
    model.set_adapter(MERGED)
    # Only the merged one, and not in a folder of its name, which is what PEFT does with more than one adapter.
    for name in names:
        model.delete_adapter(name)
    model.save_pretrained(str(folder), selected_adapters=[MERGED], save_embedding_layers=False)
    inner = folder / MERGED
    for file in inner.iterdir():
        file.rename(folder / file.name)
    inner.rmdir()
