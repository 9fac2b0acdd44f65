"""What `gradientspace diagnose` says of one property that Stage II rests on: a number, its limit, what to change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

# A row's cosine with any centroid moves by at most the relative error of its gradient: below this limit only a row
# whose two best cosines lie within 2e-3 of each other can change its cluster.
AGREEMENT = 1e-3
LOSS_AGREEMENT = 1e-4  # relative, of one row's loss, two ways: float32 rounding is a hundred times smaller


@dataclass(frozen=True)
class Check:
    """One check: `value` is held against `limit` in the sense of `bound`.

    `passed` is None where nothing can fail: information, or not measured (then `value` is None, and `meaning` says
    why). `advice` is what to change if it fails.
    """

    check: str
    value: float | None
    limit: float
    bound: str  # "at most" or "above"
    passed: bool | None
    meaning: str
    advice: str


class Property(Enum):
    """Every property that is checked, in the order of the report: name, bound, limit, what to change."""

    WRAPPED = (
        "wrapped modules",
        "at most",
        0,
        "Load the base plain: without torch.compile, FSDP, DDP or DeepSpeed wrappers and without quantisation.",
    )
    ADAPTER = ("adapter", "at most", 0, "Use plain LoRA on the linear layers of the blocks.")
    SHARED = (
        "shared LoRA weights",
        "at most",
        0,
        "Give every adapted module its own A and B, and adapt no module that the model uses in two places.",
    )
    FLOAT32 = (
        "weights in float32",
        "at most",
        0,
        "Load base and adapter with dtype=torch.float32; training can be in bfloat16, Stage II can't.",
    )
    PRODUCTS = (
        "products in float32",
        "at most",
        0,
        'Call torch.set_float32_matmul_precision("highest") and run outside autocast (and unset '
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE).",
    )
    EVALUATION = (
        "evaluation mode",
        "at most",
        0,
        "Let these modules follow model.eval(): one of them overrides train().",
    )
    ROWS = (
        "gradients of the rows",
        "at most",
        0,
        "Take these rows out; if it is most rows, the adapter is broken: lower warmup.learning_rate and train again.",
    )
    DROPOUT = (
        "dropout off",
        "at most",
        AGREEMENT,
        "Turn off what is random in the forward pass even in evaluation mode (dropout with training=True, noise).",
    )
    WARM = (
        "B is warmed up",
        "above",
        0,
        "Every B is zero, so A has no gradient: train the adapter first (Stage I; warmup.at_least_steps above 0).",
    )
    A_SET = (
        "A is not zero",
        "above",
        0,
        "Every A is zero, so B has no gradient and never will: initialise A at random and train the adapter again.",
    )
    HEAD = (
        "head against own logits",
        "at most",
        LOSS_AGREEMENT,
        "Use another base model: this one changes its hidden states or logits around the head (scaling, capping).",
    )
    HOOKS = (
        "hooks against autograd",
        "at most",
        AGREEMENT,
        "Use another base model or adapter: this one uses its LoRA weights elsewhere than in lora_B(lora_A(x)).",
    )
    PADDING = (
        "padding invariance",
        "at most",
        AGREEMENT,
        "Use another base model: this one lets padding reach the loss; or one row a batch, with "
        "clusters.micro_batch_tokens=1.",
    )
    BATCH = (
        "batch invariance",
        "at most",
        AGREEMENT,
        "Use another base model: this one mixes the rows of a batch (batch statistics, expert capacity); or one row "
        "a batch, with clusters.micro_batch_tokens=1.",
    )
    ORDER = (
        "row order",
        "at most",
        AGREEMENT,
        "Use another base model: in this one a row's place in the batch changes its gradient.",
    )
    PRECISION = (
        "float32 against float64",
        "at most",
        AGREEMENT,
        "Use another base model: float32 is not enough for this one (activations that nearly cancel, a norm of "
        "nearly nothing).",
    )
    BFLOAT16 = ("bfloat16, if it were used", "at most", AGREEMENT, "Nothing: Stage II runs in float32.")
    TF32 = ("TF32, if it were used", "at most", AGREEMENT, "Nothing: Stage II runs in full float32.")

    @property
    def title(self) -> str:
        """Its name in the report."""
        return self.value[0]

    @property
    def is_information(self) -> bool:
        """Whether it says what another precision would give, which nothing can fail by."""
        return self in (Property.BFLOAT16, Property.TF32)

    def measured(self, value: float, meaning: str) -> Check:
        """Judge a number; what is no number fails, and stands in the meaning alone."""
        _, bound, limit, advice = self.value
        known = math.isfinite(value)
        passed = known and (value > limit if bound == "above" else value <= limit)
        return Check(
            check=self.title,
            value=value if known else None,
            limit=limit,
            bound=bound,
            passed=None if self.is_information else passed,
            meaning=meaning if known else f"{meaning} (it is {value})",
            advice=advice,
        )

    def not_measured(self, why: str) -> Check:
        """Say why there is no number."""
        _, bound, limit, advice = self.value
        return Check(self.title, None, limit, bound, None, f"not measured: {why}", advice)


def counted(what: str, found: Sequence[str]) -> str:
    """Say what was counted, and name the first three found."""
    return f"{what}: {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}" if found else what
