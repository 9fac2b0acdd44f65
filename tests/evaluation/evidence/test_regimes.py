from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demo.conflict import make_conflict_rows
from evaluation.evidence import conflict_point as one_point
from evaluation.evidence import conflict_suite as module
from evaluation.evidence.conflict_point import ConflictPoint, Outcome, measure_conflict_point
from evaluation.evidence.conflict_suite import Dials, Point, regimes
from evaluation.seed.scoring import Scores
from tests.stand_ins.tiny_comparison import silent
from tests.stand_ins.tiny_encoder import save_encoder
from tests.stand_ins.tiny_model import save_base
from training.errors import TrainingError
from training.recipe import Recipe
from training.recipe_stage_three import RouterSection

TOKENS = np.full(40, 5)


def _rows(count: int, conflict: float, seed: int, held_out: bool) -> list[dict[str, str]]:
    return make_conflict_rows(count, conflict, seed, "heldout" if held_out else "train")


def _outcome(**gains: float) -> Outcome:
    """Every method loses 2 per token, less its gain."""
    keys = {
        "one-lora": ["all"],
        "kmeans": ["oracle", "router"],
        "true-skill": ["oracle", "router"],
        "gradientspace": ["oracle", "router"],
    }
    scores = {
        f"{name}/{route}": Scores(TOKENS * (2.0 - gains.get(f"{name}_{route}", 0.0)), TOKENS, TOKENS)
        for name, routes in keys.items()
        for route in routes
    }
    return Outcome(scores, 0.0, 0.0, 0.0, 0.5, dict.fromkeys(keys, 1.0), dict.fromkeys(keys, 10))


def test_the_dials_are_all_conflicts_by_all_rows_and_then_the_other_ranks_in_the_hardest_corner() -> None:
    assert [conflict_point.name for conflict_point in Dials((0.0, 0.5, 1.0), (8, 32), (4, 1)).regimes] == [
        "conflict-1-rows-8-rank-4",
        "conflict-0-rows-8-rank-4",
        "conflict-0.5-rows-8-rank-4",
        "conflict-1-rows-32-rank-4",
        "conflict-0-rows-32-rank-4",
        "conflict-0.5-rows-32-rank-4",
        "conflict-1-rows-32-rank-1",
    ]


def test_a_gain_is_the_rivals_loss_minus_ours() -> None:
    point = Point(
        ConflictPoint(1.0, 8, 4), [_outcome(gradientspace_router=0.25), _outcome(gradientspace_router=0.25)]
    )
    assert point.gain("gradientspace/router", "one-lora/all").mean == pytest.approx(0.25)
    assert point.gain("one-lora/all", "gradientspace/router").mean == pytest.approx(-0.25)
    assert point.loss("gradientspace/router") == pytest.approx(1.75)


def test_the_verdict_counts_wins_and_names_where_no_split_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(conflict_point: ConflictPoint, seed: int, *others: object) -> Outcome:
        if conflict_point.conflict == 0.5:
            raise TrainingError("too few rows")
        return _outcome(gradientspace_router=0.2 * conflict_point.conflict, true_skill_router=0.0)

    monkeypatch.setattr(module, "measure_conflict_point", measured)
    dials = Dials((0.0, 0.5, 1.0), (8,), (4, 1))
    first, *_, exhibit = regimes(dials, range(2), _rows, 4, tmp_path, tmp_path, silent())
    assert "1 of 4 regimes measured." in first.notes
    assert exhibit.failures == [f"conflict-0.5-rows-8-rank-4, seed {seed}: too few rows" for seed in (0, 1)]
    assert (
        "Routed GradientSpace against one LoRA: ahead in 2 of 3 regimes, behind in 0, not told apart in 1."
        in (exhibit.notes)
    )
    assert exhibit.notes[-1] == "No routed split beats one LoRA in 1 of 3: conflict-0-rows-8-rank-4."
    assert [point["conflict"] for point in exhibit.figures["points"]] == [0.0, 1.0, 1.0]
    assert exhibit.picture is not None


def test_a_tiny_regime_end_to_end_gives_every_method_the_same_row_visits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = one_point._recipe

    def tiny(conflict_point: ConflictPoint, seed: int, base: Path, rows: Path) -> Recipe:
        recipe = made(conflict_point, seed, base, rows)
        router = RouterSection(encoder=str(save_encoder(tmp_path / "encoder")), max_tokens=64)
        changes = {
            "router": router,
            "warmup": recipe.warmup.model_copy(update={"at_least_steps": 4}),
            "clusters": recipe.clusters.model_copy(update={"min_rows": 1}),
        }
        return recipe.model_copy(update=changes)

    monkeypatch.setattr(one_point, "_recipe", tiny)
    base = save_base(tmp_path / "base")
    outcome = measure_conflict_point(
        ConflictPoint(1.0, 8, 2), 0, _rows, 3, base, tmp_path / "conflict_point", silent()
    )
    assert len(set(outcome.visits.values())) == 1
    assert all(len(scores.loss) == 12 for scores in outcome.scores.values())
    assert set(outcome.scores) == {
        "one-lora/all",
        *(
            f"{name}/{route}"
            for name in ("kmeans", "true-skill", "gradientspace")
            for route in ("oracle", "router")
        ),
    }
    assert -1 <= outcome.skill_cosine <= 1
    assert not (tmp_path / "conflict_point" / "gradients").exists()
