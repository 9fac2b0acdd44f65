from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evaluation.evidence import misrouting as module
from evaluation.evidence.misrouting import misrouting
from evaluation.seed.partition import ORACLE, ROUTER, Fitted, Model
from evaluation.seed.scoring import Scores

TOKENS = np.array([1, 1, 1, 1])


def _scores(*losses: float) -> Scores:
    return Scores(np.array(losses), TOKENS, TOKENS * 0)


@pytest.fixture
def experts(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Fitted]:
    """Three experts, four rows: a row's own expert loses 1, the next one 2, the last one 6; one row is sent astray."""
    by_expert = {"e0": _scores(1, 6, 2, 1), "e1": _scores(2, 1, 6, 2), "e2": _scores(6, 2, 1, 6)}
    models = tuple(Model(name, "adapter", None, name) for name in by_expert)
    each = np.eye(3)
    fitted = Fitted(models, {ORACLE: each[[0, 1, 2, 0]], ROUTER: each[[0, 1, 2, 2]]}, 0)
    monkeypatch.setattr(
        module, "score", lambda run, name, fitted, places: {"all": by_expert[fitted.models[0].name]}
    )
    return SimpleNamespace(rows=range(4), judged=np.arange(4)), fitted


def test_random_errors_cost_the_mean_of_the_other_experts(experts: tuple[Any, Fitted]) -> None:
    found = misrouting(*experts, one=_scores(2, 2, 2, 2))
    assert found.by_share[0.0] == 1.0
    assert found.by_share[1.0] == 4.0  # (2 + 6) / 2
    assert found.by_share[0.5] == 2.5
    assert found.break_even == pytest.approx(1 / 3)  # 1 + 3 e = 2


def test_the_routers_own_errors_are_told_apart_from_what_it_gets_right(experts: tuple[Any, Fitted]) -> None:
    found = misrouting(*experts, one=_scores(2, 2, 2, 2))
    assert found.errors == 0.25
    assert found.router == pytest.approx((1 + 1 + 1 + 6) / 4)
    assert found.agreed == 1.0
    assert found.elsewhere == 6.0
    assert found.elsewhere_by_own == 1.0


def test_where_experts_never_or_always_win_there_is_no_break_even(experts: tuple[Any, Fitted]) -> None:
    assert misrouting(*experts, one=_scores(0.5, 0.5, 0.5, 0.5)).break_even is None
    assert "at no share" in misrouting(*experts, one=_scores(9, 9, 9, 9)).notes()[0]
