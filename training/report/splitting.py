"""The report's first question: does splitting help on these rows, as it is served?"""

from __future__ import annotations

from typing import Any, Literal

QUESTION = "Does splitting help on your rows?"


def answer(gate: dict[str, Any] | None) -> tuple[Literal["good", "care", "unknown"], str]:
    """Return the level of the finding and the sentence, of what the stage `gate` wrote (None: it was off).

    The loss as served is compared with that of one LoRA on everything, row by row, on held-out rows.
    """
    if gate is None:
        return (
            "unknown",
            "Not measured: router.gate is off, and every expert answers whatever is routed to it.",
        )
    record, served = gate["record"], gate["record"]["served"]
    rows, experts = record["measured_rows"], len(record["labels"])
    kept = sum(label["threshold"] is not None for label in record["labels"])
    where = f"on {rows:,} held-out rows"
    if not kept:
        return "care", (
            f"No: no expert was shown to beat one LoRA on everything {where}, so that one answers everything. If "
            f"the router's choice always answered, the loss less that one's would be {told(gate['ungated'])} nats per "
            "token."
        )
    answering = f"{kept} of {experts} experts answer, where they were shown to help"
    if served["high"] < 0:
        return "good", (
            f"Yes: as served, the loss is {-served['mean']:.4f} nats per token below that of one LoRA on everything "
            f"(95 % interval {-served['high']:.4f} to {-served['low']:.4f}) {where}. {answering}."
        )
    return "care", (
        f"Not for sure: as served, the loss less that of one LoRA on everything is {told(served)} nats per token "
        f"{where}. {answering}."
    )


def told(difference: dict[str, float]) -> str:
    """Say a difference and its 95 % interval."""
    return f"{difference['mean']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"
