"""What a method's models make of rows: loss per response token, and tokens that they would have written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from evaluation.seed.partition import Fitted, Model
from evaluation.seed.seed_run import SeedRun
from training.gradients.row_gradients import micro_batches
from training.models.base_model import BaseModel, device
from training.models.row_loss import pad_rows
from training.progress import Advance
from training.rows.rendering import IGNORED, TokenRow
from training.stages.store import Stage

_TOKENS = 4096  # padded tokens per forward pass
_HEAD_CHUNK = 512  # positions whose logits exist at once, once per model


@dataclass(frozen=True)
class Scores:
    """Of each row [n]: summed loss of its response's tokens, how many they are, how many are the likeliest one."""

    loss: NDArray[np.float64]
    tokens: NDArray[np.int64]
    right: NDArray[np.int64]

    def per_token(self) -> NDArray[np.float64]:
        """Return the mean loss per response token of each row [n], in nats."""
        return self.loss / self.tokens


def score(run: SeedRun, name: str, fitted: Fitted, places: NDArray[np.int64]) -> dict[str, Scores]:
    """Score rows by every way of choosing among the models; a stage of its own, computed once."""

    def work(folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        rows = run.pick(places)
        with (
            loaded(run.inputs.base, fitted.models) as models,
            run.store.narrator.bar("scoring", len(fitted.weights) * len(rows), "rows") as advance,
        ):
            known: dict[tuple[int, bytes], NDArray[np.float64]] = {}
            for route, weights in fitted.weights.items():
                table = _score(models, rows, weights[places], run.pad_id, known, advance)  # [n, 3]
                loss, tokens, right = table.T.tolist()
                found[route] = {"loss": loss, "tokens": tokens, "right": right}
        return found

    depends_on = {
        "models": fitted.digest(places),
        "rows": places.tolist(),
        "inputs": [run.inputs.digest, run.test_digest],
    }
    facts = run.store.run(
        Stage(f"scores-{name}", f"{name}: {len(places):,} rows scored", depends_on), work
    ).facts
    return {
        route: Scores(
            np.asarray(columns["loss"]),
            np.asarray(columns["tokens"], dtype=np.int64),
            np.asarray(columns["right"], dtype=np.int64),
        )
        for route, columns in facts.items()
    }


class LoadedModels:
    """Models over one copy of the base, made ready one at a time."""

    def __init__(self, models: Sequence[Model], peft: PeftModel | None, plain: dict[str, PreTrainedModel]):
        self.models = models
        self._peft = peft
        self._plain = plain

    @contextmanager
    def using(self, place: int) -> Iterator[PreTrainedModel]:
        """Give the model at this place, in eval mode, adapter layers in place."""
        model = self.models[place]
        if model.kind != "adapter":
            yield self._plain[model.name]
            return
        assert self._peft is not None
        self._peft.set_adapter(model.name)
        self._peft.requires_grad_(False)
        yield cast("PreTrainedModel", self._peft.get_base_model())


@contextmanager
def loaded(base: BaseModel, models: Sequence[Model]) -> Iterator[LoadedModels]:
    """Load models in float32: adapters share one base."""
    peft: PeftModel | None = None
    plain: dict[str, PreTrainedModel] = {}
    for model in models:
        if model.kind == "base":
            plain[model.name] = base.load(torch.float32).eval()
        elif model.kind == "whole":
            whole = AutoModelForCausalLM.from_pretrained(
                str(model.folder), dtype=torch.float32, trust_remote_code=False
            )
            plain[model.name] = cast("PreTrainedModel", torch.nn.Module.to(whole, device())).eval()
        elif peft is None:
            peft = PeftModel.from_pretrained(base.load(torch.float32), str(model.folder), model.name).eval()
        else:
            peft.load_adapter(str(model.folder), model.name)
    yield LoadedModels(models, peft, plain)


@torch.inference_mode()
def _score(
    models: LoadedModels,
    rows: Sequence[TokenRow],
    weights: NDArray[np.float64],
    pad_id: int,
    known: dict[tuple[int, bytes], NDArray[np.float64]],
    advance: Advance,
) -> NDArray[np.float64]:
    """Return loss, tokens and right tokens of rows [n, 3], mixing models' logits by weights [n, M].

    `known` keeps what was computed, by row and weights: the ways of choosing agree on most rows.
    """
    keys = [(place, weights[place].tobytes()) for place in range(len(rows))]
    asked = weights > 0  # [n, M]
    for group in np.unique(asked, axis=0):
        alike = np.flatnonzero((asked == group).all(axis=1))
        missing = [int(place) for place in alike if keys[place] not in known]
        advance(len(alike) - len(missing))
        used = [int(model) for model in np.flatnonzero(group)]
        for batch in micro_batches([len(rows[place].input_ids) for place in missing], _TOKENS):
            places = [missing[place] for place in batch]
            mixing = torch.from_numpy(weights[places][:, used]).float()  # [b, m]
            found = _score_batch(models, used, [rows[place] for place in places], mixing, pad_id)
            for place, numbers in zip(places, found, strict=True):
                known[keys[place]] = numbers
            advance(len(places))
    return np.stack([known[key] for key in keys])


def _score_batch(
    models: LoadedModels, used: Sequence[int], rows: Sequence[TokenRow], mixing: Tensor, pad_id: int
) -> NDArray[np.float64]:
    batch = pad_rows(rows, pad_id, device())
    targets = batch.labels[:, 1:]  # [b, T-1]: position t predicts token t+1
    row_of, position = torch.nonzero(targets != IGNORED, as_tuple=True)  # [n], [n]
    wanted = targets[row_of, position].to(device())  # [n]
    states, heads = [], []
    for place in used:
        with models.using(place) as model:
            hidden = model.get_decoder()(input_ids=batch.input_ids, use_cache=False).last_hidden_state
            states.append(hidden[row_of, position])  # [n, h]
            heads.append(model.get_output_embeddings())
    shares = mixing.to(device())[row_of]  # [n, m]
    losses, right = [], []
    for start in range(0, len(wanted), _HEAD_CHUNK):
        part = slice(start, start + _HEAD_CHUNK)
        logits = sum(
            shares[part, place, None] * head(state[part]).float()
            for place, (state, head) in enumerate(zip(states, heads, strict=True))
        )  # [c, V]
        assert isinstance(logits, Tensor)
        losses.append(torch.nn.functional.cross_entropy(logits, wanted[part], reduction="none"))
        right.append(logits.argmax(1) == wanted[part])
    columns = (torch.cat(losses).double(), torch.ones(len(wanted)).double(), torch.cat(right).double())
    table = torch.zeros(len(rows), 3, dtype=torch.float64)
    for number, column in enumerate(columns):
        table[:, number].index_add_(0, row_of, column.cpu())
    return table.numpy()
