"""A run: every stage a typed property, done when it is first asked for and read back wherever it was done before."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

from training.clusters.results import (
    Assigned,
    Calibrated,
    Checked,
    ClusterStart,
    EncodedPrompts,
    OrdersCompared,
)
from training.errors import TrainingError
from training.gate.gate import Gate, measure_gate
from training.gradients.supply import GradientSupply
from training.memory.plan import Plan
from training.memory.planning import plan_clusters
from training.progress import Narrator
from training.recipe import ClustersSection
from training.router.held_out import LabelledHeldOut, label_held_out
from training.router.making import RouterStage
from training.router.prompt_gradients import PromptGradients
from training.stage_one import warm_up
from training.stage_three import train_experts, train_fallback, train_router, train_shared
from training.stage_two import (
    assign_rows,
    calibrate_centroids,
    check_gradients,
    encode_prompts,
    start_clusters,
)
from training.stage_two_orders import compare_orders
from training.stages.inputs import Inputs, read_inputs
from training.stages.outcome import TrainedAdapter
from training.stages.record import recorded_recipe
from training.stages.store import FinishedStages, StageStore


class Run:
    """What is made of `inputs`, stage by stage, in `store`; use as a context manager.

    Asking for a property does what it needs: `run.assigned` warms up, chooses K, calibrates and assigns, as far as
    the store does not hold that already.
    """

    def __init__(self, inputs: Inputs, store: StageStore, warmup: TrainedAdapter | None = None) -> None:
        """Go on from `warmup` where Stage I is another run's."""
        self.inputs = inputs
        self.store = store
        self._given_warmup = warmup
        self._open = ExitStack()

    def with_clusters(self, clusters: ClustersSection, name: str) -> Run:
        """Return a run on the same rows, warm-up, gradients and prompts, whose clusters are made by another recipe.

        Its stages stand in a folder `name` beside this run's. Whatever is shared is made, and closed, by this run.
        """
        recipe = self.inputs.recipe.model_copy(update={"clusters": clusters})
        store = StageStore(self.store.folder.parent / name, self.store.narrator, self.store.world)
        other = Run(replace(self.inputs, recipe=recipe), store, self.warmup)
        other.checked, other.supply, other.prompts = self.checked, self.supply, self.prompts
        return other

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    @property
    def folder(self) -> Path:
        """The folder that is a training's --output."""
        return self.store.folder.parent

    @cached_property
    def plan(self) -> Plan:
        """What Stage II will take, and how it fits its budget."""
        return plan_clusters(self.inputs, self.store)

    @cached_property
    def warmup(self) -> TrainedAdapter:
        """Stage I."""
        return self._given_warmup or warm_up(self.inputs, self.store)

    @cached_property
    def checked(self) -> Checked:
        """Whether this model's per-row gradients are exact."""
        return check_gradients(self.inputs, self.store, self.warmup)

    @cached_property
    def supply(self) -> GradientSupply:
        """The gradients of the run's rows; its `open` comes before the first use of its source."""
        dimension, source = self.checked.dimension, self.plan.gradients
        return self._open.enter_context(
            GradientSupply(self.inputs, self.store, self.warmup, dimension, source)
        )

    def remove_gradients(self) -> None:
        """Delete the gradients on disk, if this run has opened any: Stage II is done."""
        if "supply" in self.__dict__:
            self.supply.remove()

    @cached_property
    def prompts(self) -> EncodedPrompts:
        """What the router's encoder makes of every prompt."""
        return encode_prompts(self.inputs, self.store)

    @cached_property
    def start(self) -> ClusterStart:
        """K and the first centroids."""
        return start_clusters(self.inputs, self.store, self.prompts, self.checked, self.supply, self.plan)

    @cached_property
    def centroids(self) -> Calibrated:
        """The calibrated centroids."""
        return calibrate_centroids(self.inputs, self.store, self.prompts, self.start, self.supply, self.plan)

    @cached_property
    def assigned(self) -> Assigned:
        """Every row's cluster.

        Raises:
            TrainingError: the rows are others than those that were assigned (only where the run is read back).

        """
        assigned = assign_rows(self.inputs, self.store, self.prompts, self.centroids, self.supply)
        then, now = len(assigned.assignment.labels), len(self.inputs.rows)
        if then != now:
            raise TrainingError(
                f"{self.folder}: it was trained on {then} rows, and its files hold {now} now. Put the rows back, or "
                "train again."
            )
        return assigned

    @cached_property
    def orders(self) -> OrdersCompared:
        """Whether the order of the rows decides the partition."""
        return compare_orders(
            self.inputs, self.store, self.prompts, (self.start, self.centroids), self.supply, self.plan
        )

    @cached_property
    def held_out(self) -> LabelledHeldOut:
        """The held-out rows with their clusters."""
        return label_held_out(
            self.inputs, self.store, self.warmup, self.prompts, self.centroids, self.assigned
        )

    @cached_property
    def shared(self) -> TrainedAdapter:
        """The adapter that every expert starts from."""
        return train_shared(self.inputs, self.store, self.warmup)

    @cached_property
    def experts(self) -> list[TrainedAdapter]:
        """An expert for each cluster [K]."""
        if self.assigned.k == 1 and self.fallback is not None:
            return [self.fallback]  # the same rows, from the same start, as long
        return train_experts(self.inputs, self.store, self.shared, self.assigned)

    @cached_property
    def fallback(self) -> TrainedAdapter | None:
        """The adapter on all rows, if the recipe asks for one."""
        return train_fallback(self.inputs, self.store, self.shared)

    @cached_property
    def router(self) -> RouterStage:
        """The router."""
        return train_router(self.inputs, self.store, self.prompts, self.assigned, self.held_out)

    @cached_property
    def gate(self) -> Gate | None:
        """Who answers what, if that is to be measured."""
        if self.fallback is None or self.inputs.recipe.router.gate == "off":
            return None
        adapters = self.fallback, self.experts
        return measure_gate(self.inputs, self.store, adapters, self.assigned, self.held_out, self.router)

    def prompt_gradients(self) -> PromptGradients:
        """Load the base for comparing prompts' own gradients with the centroids."""
        return PromptGradients(self.inputs, self.warmup, self.centroids, self.assigned)


def finished_run(folder: Path, narrator: Narrator) -> Run:
    """Read back the run of a training's --output: its recipe, and the base, rows and encoder that it names.

    Nothing of it is done again; a stage that is not there raises where it is asked for.

    Raises:
        TrainingError: there is no run of this version, or what it names is gone.

    """
    inputs = read_inputs(recorded_recipe(folder), narrator)
    return Run(inputs, FinishedStages(folder / "stages", narrator))
