"""Are the per-row gradients of this base with this adapter what Stage II takes them for? Measured on a few rows.

One fault gives one failure: what rests on a property that failed is not measured, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from training.diagnosis.autograd_reference import (
    gathered_gradient,
    in_float64,
    lengthened,
    own_gradient,
    trainable,
)
from training.diagnosis.properties import Check, Property, counted
from training.diagnosis.structure import structure_checks
from training.errors import AdapterRefused, TrainingError
from training.gradients.row_gradients import RowGradients, micro_batches
from training.models.architecture import max_positions
from training.models.row_loss import attention_kernels, pad_rows
from training.rows.rendering import TokenRow

_EXTRA_PADDING = 16  # tokens beyond the longest row
_FLOAT64_WEIGHTS = 200_000_000  # a float64 copy of at most 1.6 GB
_PRECISION_ROWS = 2


def diagnose(model: PeftModel, rows: Sequence[TokenRow], pad_id: int, token_budget: int) -> list[Check]:
    """Check everything that the exactness of the rows' gradients rests on, in the order of `Property`.

    Stage II runs it before its first row. It costs about ten gradients of each row and, at the peak, three times
    `[len(rows), d]` float32 besides the model, and a float64 copy of a model of up to 200 million weights.

    Args:
        model: base and adapter as Stage II would use them; it is frozen and set to evaluation mode, as there.
        rows: a few rows; batches are only checked where two of them share one.
        pad_id: as for `RowGradients`.
        token_budget: as for `RowGradients`.

    """
    return _Diagnosis(model, rows, pad_id, token_budget).run()


def diagnose_base(model: PeftModel, rows: Sequence[TokenRow], pad_id: int, token_budget: int) -> list[Check]:
    """`diagnose` a base alone, under a fresh adapter whose B this fills with small random numbers.

    With B = 0 every gradient in A would be zero, and half of what is compared would be compared with nothing.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.copy_(0.01 * torch.randn(weight.shape, generator=generator))
    why = "no adapter was given, a fresh one with a random B stands in"
    ours = {stood_in.title: stood_in.not_measured(why) for stood_in in (Property.WARM, Property.A_SET)}
    return [ours.get(check.check, check) for check in diagnose(model, rows, pad_id, token_budget)]


def require_healthy(checks: Sequence[Check]) -> None:
    """Stop at the first failed check.

    Raises:
        AdapterRefused: names it, with its number, its limit, what that says and what to change.

    """
    for check in checks:
        if check.passed is False:
            value = "no number" if check.value is None else f"{check.value:.3g}"
            raise AdapterRefused(
                f"Stage II would cluster wrong gradients. {check.check}: {value}, must be {check.bound} "
                f"{check.limit:g} ({check.meaning}). {check.advice}"
            )


class _Diagnosis:
    def __init__(self, model: PeftModel, rows: Sequence[TokenRow], pad_id: int, token_budget: int) -> None:
        self.model = model
        self.rows = list(rows)
        self.pad_id = pad_id
        self.token_budget = token_budget
        batches = micro_batches([len(row.input_ids) for row in rows], token_budget)
        self.sharing = sum(len(batch) for batch in batches if len(batch) > 1)  # rows that share a batch
        self.found: dict[str, Check] = {}

    def run(self) -> list[Check]:
        for check in structure_checks(self.model):
            self.found[check.check] = check
        if not self._blocked():
            try:
                self._measure()
            except AdapterRefused as error:  # some is only seen when the model runs
                self.found[Property.ADAPTER.title] = Property.ADAPTER.measured(1, str(error))
        return [
            self.found.get(checked.title) or checked.not_measured(self._blocked())
            for checked in Property
            if checked is not Property.TF32 or torch.cuda.is_available()
        ]

    def _measure(self) -> None:
        source = RowGradients(self.model, self.pad_id, self.token_budget)
        self.base = cast("PreTrainedModel", self.model.get_base_model())
        self.weights = [self.model.get_parameter(f"{factor.name}.weight") for factor in source.factors]
        self._check_evaluation()
        if self._blocked():
            return
        with source:
            alone = self._check_rows(source)  # [n, d]
            if self._blocked():
                return
            self._check_dropout(source, alone)
        if self._blocked():
            return
        self._check_shares(source, alone)
        self._check_by_autograd(alone)
        with source:
            self._check_batch(source, alone)
        self._check_precision(alone)

    def _blocked(self, *needed: Property) -> str:
        """Name the first property that failed or, of those `needed`, was not measured; or nothing."""
        names = [checked.title for checked in needed]
        for name, check in self.found.items():
            if check.passed is False and (name in names or not names):
                return f"{name} failed"
            if check.passed is None and name in names:
                return f"{name} was not measured"
        return ""

    def _needs(self, checked: Property, *needed: Property) -> bool:
        """Whether what `checked` rests on holds; where it does not, note that it is not measured."""
        why = self._blocked(*needed)
        if why:
            self._add(checked.not_measured(why))
        return not why

    def _add(self, check: Check) -> None:
        self.found[check.check] = check

    def _add_worst(
        self, checked: Property, errors: Sequence[float], what: str, rows: Sequence[TokenRow] = ()
    ) -> None:
        worst = int(torch.tensor(errors).argmax())  # of a NaN, if there is one
        named = f"; the worst row: {(rows or self.rows)[worst].origin}" if errors[worst] else ""
        self._add(checked.measured(errors[worst], f"{what}{named}"))

    def _check_evaluation(self) -> None:
        training = [name for name, module in self.model.named_modules() if module.training]
        what = counted("modules that stay in training mode", training)
        self._add(Property.EVALUATION.measured(len(training), what))

    def _check_rows(self, source: RowGradients) -> Tensor:
        alone = torch.zeros(len(self.rows), source.dimension, device=source.device)  # [n, d]
        bad: list[str] = []
        for place, row in enumerate(self.rows):
            try:
                alone[place] = source.whole([row])[0]
            except AdapterRefused:
                raise
            except TrainingError as error:
                bad.append(str(error))
                continue
            norm = float(alone[place].norm())
            if not 0 < norm < float("inf"):
                bad.append(f"Row {row.origin}: the norm of its gradient is {norm}.")
        what = f"of {len(self.rows)} rows, those with a gradient that is zero or no number"
        self._add(Property.ROWS.measured(len(bad), counted(what, bad)))
        return alone

    def _check_dropout(self, source: RowGradients, alone: Tensor) -> None:
        again = (source.whole([row])[0] for row in self.rows)
        self._add_worst(
            Property.DROPOUT,
            _errors(again, alone),
            "relative change of a row's gradient in a second, equal pass",
        )

    def _check_shares(self, source: RowGradients, alone: Tensor) -> None:
        squares = {False: torch.zeros(len(alone)).double(), True: torch.zeros(len(alone)).double()}
        for factor in source.factors:
            squares[factor.is_b] += alone[:, factor.start : factor.stop].square().sum(1).double().cpu()  # [n]
        share_b = float((squares[True] / (squares[False] + squares[True])).mean())
        share_a = float((squares[False] / (squares[False] + squares[True])).mean())
        what = "mean share of a gradient's squared norm that lies in"
        self._add(Property.WARM.measured(share_a, f"{what} A; nothing does while B is zero"))
        self._add(Property.A_SET.measured(share_b, f"{what} B; nothing does while A is zero"))

    def _check_by_autograd(self, alone: Tensor) -> None:
        losses, hooks, padding = [], [], []
        longer = self._padded_length()
        with trainable(self.weights):
            for row, gradient in zip(self.rows, alone, strict=True):
                own_loss, own = own_gradient(self.base, self.weights, row)
                batch = pad_rows([row], self.pad_id, alone.device)
                with attention_kernels(alone.device):
                    loss, plain = gathered_gradient(self.base, self.weights, batch)
                    padded = gathered_gradient(
                        self.base, self.weights, lengthened(batch, self.pad_id, longer)
                    )[1]
                losses.append(abs(loss - own_loss) / max(abs(own_loss), 1e-6))
                hooks.append(_error(gradient, own))
                padding.append(_error(padded, plain))
        what = "relative difference between a row's loss as Stage II computes it and that of the model's own logits"
        self._add_worst(Property.HEAD, losses, what)
        if self._needs(Property.HOOKS, Property.HEAD):
            self._add_worst(
                Property.HOOKS, hooks, "relative error of a row's gradient against a plain loop of autograd"
            )
        if self.sharing:
            what = f"relative change of a row's gradient when the row is padded to {longer} tokens"
            self._add_worst(Property.PADDING, padding, what)
        else:  # nor would Stage II ever pad or batch them
            why = f"no two of these rows share a batch of {self.token_budget} tokens (clusters.micro_batch_tokens)"
            self._add(Property.PADDING.not_measured(why))

    def _padded_length(self) -> int:
        # Where positions have an end nothing is padded beyond it; the shorter rows still are.
        longest = max(len(row.input_ids) for row in self.rows)
        end = max_positions(self.base.config)
        return max(longest, min(longest + _EXTRA_PADDING, end))

    def _check_batch(self, source: RowGradients, alone: Tensor) -> None:
        if self._needs(Property.BATCH, Property.PADDING):
            what = (
                "relative change of a row's gradient when it is computed in a batch instead of alone "
                f"({self.sharing} of {len(self.rows)} rows shared one)"
            )
            try:
                together = source.whole(self.rows)  # [n, d]
            except AdapterRefused:
                raise
            except TrainingError as error:
                self._add(Property.BATCH.measured(float("nan"), f"{what}: {error}"))
            else:
                self._add_worst(Property.BATCH, _errors(together, alone), what)
        if self._needs(Property.ORDER, Property.BATCH):
            backwards = source.whole(self.rows[::-1]).flip(0)  # [n, d]
            what = "relative change of a row's gradient when the rows are given backwards"
            self._add_worst(Property.ORDER, _errors(backwards, together), what)

    def _check_precision(self, alone: Tensor) -> None:
        by_length = sorted(range(len(self.rows)), key=lambda place: len(self.rows[place].input_ids))
        places = by_length[:_PRECISION_ROWS]  # the shortest: other precisions are slow
        rows, ours = [self.rows[place] for place in places], alone[places]
        truth, named = ours, "float32"
        size = sum(weight.numel() for weight in self.model.parameters())
        if size > _FLOAT64_WEIGHTS:
            why = f"{size / 1e6:,.0f} million weights are too many for a float64 copy"
            self._add(Property.PRECISION.not_measured(why))
        elif self._needs(Property.PRECISION, Property.HOOKS):
            what = "relative error of a row's gradient against the same model in float64"
            try:
                with in_float64(self.model):
                    truth, named = self._own_gradients(rows), "float64"
            except RuntimeError as error:  # a model that makes float32 tensors of its own
                reason = str(error).splitlines()[0]
                self._add(Property.PRECISION.not_measured(f"the model does not run in float64 ({reason})"))
            else:
                self._add_worst(Property.PRECISION, _errors(ours, truth), what, rows)
        what = (
            f"relative error of a row's gradient against {named}: a row whose two best cosines are closer than "
            "twice this could change its cluster"
        )
        if self._needs(Property.BFLOAT16, Property.HOOKS):
            with torch.autocast(ours.device.type, torch.bfloat16):
                low = self._own_gradients(rows)
            self._add_worst(Property.BFLOAT16, _errors(low, truth), what, rows)
        if ours.is_cuda and self._needs(Property.TF32, Property.HOOKS):
            torch.set_float32_matmul_precision("high")
            try:
                low = self._own_gradients(rows)
            finally:
                torch.set_float32_matmul_precision("highest")  # as it was: PRODUCTS passed
            self._add_worst(Property.TF32, _errors(low, truth), what, rows)

    def _own_gradients(self, rows: Sequence[TokenRow]) -> Tensor:
        with trainable(self.weights):
            return torch.stack([own_gradient(self.base, self.weights, row)[1] for row in rows])  # [n, d]


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _errors(found: Iterable[Tensor], expected: Tensor) -> list[float]:
    return [_error(one, other) for one, other in zip(found, expected, strict=True)]
