"""What a router's errors cost: loss over the share of rows that go to another expert than their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from evaluation.evidence.exhibit import ACCENT, MUTED, SECOND, Table
from evaluation.evidence.rerun import Rerun
from evaluation.seed.partition import ONLY, ORACLE, ROUTER, Fitted, alone
from evaluation.seed.scoring import Scores, score

_SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Misrouting:
    """Losses per token: by share of rows sent to a random other expert, of the router, of one LoRA.

    errors: the share of rows that the router sends elsewhere. agreed and elsewhere: loss of the rows that it sends
    to their own expert and of those it does not, each beside what their own expert gives. break_even: the share of
    random errors at which the experts are no better than one LoRA; None if they never are, or always.
    """

    by_share: dict[float, float]
    router: float
    one_lora: float
    errors: float
    agreed: float
    elsewhere: float
    elsewhere_by_own: float
    break_even: float | None

    def table(self) -> Table:
        """The curve, and where the router stands on it."""
        rows = [
            (f"{share:.0%} to a random other expert", f"{loss:.4f}") for share, loss in self.by_share.items()
        ]
        rows.append((f"{self.errors:.0%}, the router's own", f"{self.router:.4f}"))
        rows.append(("one LoRA", f"{self.one_lora:.4f}"))
        return Table("The router's errors: rows not sent to their own expert", ("rows", "loss"), rows)

    def notes(self) -> list[str]:
        """What to read from it."""
        at = "at no share" if self.break_even is None else f"at {self.break_even:.0%}"
        return [
            f"Random errors make the experts as bad as one LoRA {at}; the router errs on {self.errors:.0%}. The "
            f"rows that it sends elsewhere lose {self.elsewhere:.4f} there and {self.elsewhere_by_own:.4f} at their "
            "own expert; its errors are dearer than random ones where its loss lies above the line.",
        ]

    def draw(self, axes: Axes) -> None:
        """The line of random errors, the router's point, one LoRA's level."""
        axes.plot(
            [100 * share for share in self.by_share],
            list(self.by_share.values()),
            color=ACCENT,
            label="random",
        )
        axes.plot([100 * self.errors], [self.router], color=SECOND, marker="o", ls="none", label="router")
        axes.axhline(self.one_lora, color=MUTED, lw=0.9, ls="--", label="one LoRA")
        axes.set_title("errors of routing", fontsize=10, loc="left")
        axes.set_xlabel("rows not at their own expert, %")
        axes.legend(frameon=False, fontsize=8)


def misrouting(run: Rerun, experts: Fitted, one: Scores) -> Misrouting:
    """Score every judged row with every expert; `one` are one LoRA's scores of the same rows.

    A random error sends a row to each of the other experts alike, so its loss is their mean: nothing is drawn.
    """
    own = experts.weights[ORACLE][run.judged].argmax(1)  # [n]
    chosen = experts.weights[ROUTER][run.judged].argmax(1)  # [n]
    each = [
        score(run, f"all-rows-by-{expert.name}", alone(expert, len(run.rows)), run.judged)[ONLY]
        for expert in experts.models
    ]
    table = np.stack([scores.loss for scores in each], axis=1)  # [n, K]
    tokens = one.tokens
    at = np.arange(len(own))
    by_own = table[at, own]
    by_others = (table.sum(1) - by_own) / max(1, table.shape[1] - 1)
    by_router = table[at, chosen]
    right, wrong = (float(losses.sum() / tokens.sum()) for losses in (by_own, by_others))
    level = float(one.loss.sum() / tokens.sum())
    crosses = right < level < wrong
    agree = own == chosen
    return Misrouting(
        by_share={share: (1 - share) * right + share * wrong for share in _SHARES},
        router=float(by_router.sum() / tokens.sum()),
        one_lora=level,
        errors=float(1 - agree.mean()),
        agreed=_mean(by_router, tokens, agree),
        elsewhere=_mean(by_router, tokens, ~agree),
        elsewhere_by_own=_mean(by_own, tokens, ~agree),
        break_even=(level - right) / (wrong - right) if crosses else None,
    )


def _mean(losses: Sequence[float] | np.ndarray, tokens: np.ndarray, rows: np.ndarray) -> float:
    return float(np.asarray(losses)[rows].sum() / max(1, tokens[rows].sum()))
