"""GradientSpace as it is served: share until it stops, then experts, one LoRA beside them, and the gate."""

from __future__ import annotations

import numpy as np

from evaluation.methods.protocol import Method, Tuning
from evaluation.seed.experts import train_adapter, train_partition
from evaluation.seed.partition import ROUTER, Fitted
from evaluation.seed.scoring import score
from evaluation.seed.seed_run import SeedRun
from router.softmax import softmax
from training.gate.gate import per_token
from training.gate.policy import decide, draw_folds
from training.models.expert_schedules import schedule_after_it, shared_schedule
from training.router.head import fit_head, fit_temperature
from training.rows.split import prompt_key


class Served(Method):
    """By the functions of `gradientspace train`, with `experts.shared` and `router.gate` at their defaults.

    The clusters are the recipe's: readable ones, unless it says otherwise.

    Half of the validation rows stop the trainings and fit the router's temperature, the other half decides who answers.
    No adapter that answers has seen a row more often than one LoRA's.
    """

    name = "served"
    title = "GradientSpace, as served"
    tuning: Tuning = "adapters"

    def fit(self, run: SeedRun, learning_rate: float) -> Fitted:
        """As `Method.fit`."""
        section = run.inputs.recipe.experts.model_copy(update={"shared": "until_it_stops"})
        found, stopping = run.readable_clusters, np.asarray(run.inputs.split.stopping)
        partition = run.routed(self.name, found.labels, found.k)
        shared = train_adapter(
            run,
            f"{self.name}-shared",
            run.train,
            shared_schedule(section, learning_rate),
            validation=stopping,
        )
        after = schedule_after_it(section, learning_rate, len(run.train), shared.row_visits)
        fallback = train_adapter(run, f"{self.name}-fallback", run.train, after, shared, stopping)
        experts = train_partition(run, partition, after, shared, stopping)
        models = (fallback, *experts)

        head = fit_head(run.embeddings[run.train], partition.labels[run.train], partition.k, run.seed)
        logits = head.logits(run.embeddings)  # [N + T, K]
        temperature = fit_temperature(logits[stopping], partition.labels[stopping])
        probabilities = softmax(logits, temperature)

        free = np.array([row for row in run.validation if row not in set(stopping.tolist())])
        alone = np.eye(len(models))
        each = {model.name: np.tile(alone[place], (len(run.rows), 1)) for place, model in enumerate(models)}
        scores = score(run, f"{self.name}-gate-at-{learning_rate:g}", Fitted(models, each, 0), free)
        sums = np.stack([scores[model.name].loss for model in models], axis=1)  # [n, 1 + K]
        losses = per_token(sums, scores[fallback.name].tokens)
        folds = draw_folds([prompt_key(row.routed_text) for row in run.pick(free)], run.seed)
        thresholds = decide(losses, probabilities[free], folds)

        label = probabilities.argmax(1)
        answering = np.where(probabilities.max(1) >= thresholds[label], 1 + label, 0)  # [N + T]
        visits = shared.row_visits + sum(model.row_visits for model in experts)
        return Fitted(models, {ROUTER: np.eye(1 + partition.k)[answering]}, visits)
