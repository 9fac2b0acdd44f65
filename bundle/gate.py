"""What measured loss decided: which of the router's labels an expert answers, and from which confidence on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LossDifference(_Record):
    """A mean difference of losses, in nats per completion token, and its 95 % interval; below 0 is a gain."""

    mean: float
    low: float
    high: float


class GatedLabel(_Record):
    """One of the router's labels: a cluster of the training rows, and who answers what is routed to it."""

    rows: int = Field(ge=0, description="training rows of its cluster")
    share: float = Field(ge=0, le=1, description="of all training rows")
    threshold: float | None = Field(
        ge=0, le=1, description="the router's confidence from which on its expert answers; None: never"
    )
    measured_rows: int = Field(ge=0, description="held-out rows that the router gives this label")
    gain: LossDifference | None = Field(
        description="the expert's loss less the fallback's on those; None: too few to tell"
    )


class GateRecord(_Record):
    """Who answers for which label, in label order, and what that is worth."""

    labels: tuple[GatedLabel, ...] = Field(min_length=1)
    measured_rows: int = Field(ge=1, description="held-out rows, none of which any training has seen")
    served: LossDifference = Field(
        description="the loss as served less the fallback's, each row judged by thresholds that others chose"
    )
