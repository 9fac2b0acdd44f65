"""The loss of held-out rows under each adapter: one forward pass each, a stage for each adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel

from training.gradients.row_gradients import micro_batches
from training.models.finetune import load_adapter
from training.models.row_loss import pad_rows, token_losses
from training.progress import Advance
from training.rows.rendering import TokenRow
from training.stages.inputs import Inputs
from training.stages.outcome import TrainedAdapter
from training.stages.store import Stage, StageStore, Work

_TOKENS = 4096  # padded, per forward pass
_FILE = "losses.npy"


def measure_losses(
    inputs: Inputs,
    store: StageStore,
    adapters: Mapping[str, TrainedAdapter],
    rows: Sequence[TokenRow],
    rows_digest: str,
) -> tuple[NDArray[np.float64], list[str]]:
    """Return the summed loss of each row's completion tokens under each adapter [n, A], and the stages' digests [A].

    Several processes measure several adapters at once; a kill loses the adapters under way.
    """
    jobs = [_job(inputs, store, name, adapter, rows, rows_digest) for name, adapter in adapters.items()]
    done = store.deal_out(jobs)
    return np.stack([np.load(stage.folder / _FILE) for stage in done], axis=1), [
        stage.digest for stage in done
    ]


def _job(
    inputs: Inputs,
    store: StageStore,
    name: str,
    adapter: TrainedAdapter,
    rows: Sequence[TokenRow],
    rows_digest: str,
) -> tuple[Stage, Work]:
    def work(folder: Path) -> dict[str, Any]:
        model = load_adapter(inputs.base, adapter.folder, trainable=False)
        with store.narrator.bar("measuring", len(rows), "rows") as advance:
            losses = summed_losses(model, rows, int(inputs.tokenizer.pad_token_id), advance)
        np.save(folder / _FILE, losses)
        return {"rows": len(rows), "tokens": sum(row.trained_tokens for row in rows)}

    depends_on = {"adapter": adapter.digest, "rows": rows_digest}
    title = f"Stage III: the loss of {name} on {len(rows):,} held-out rows"
    return Stage(f"losses-{name}", title, depends_on), work


def summed_losses(
    model: PeftModel, rows: Sequence[TokenRow], pad_id: int, advance: Advance
) -> NDArray[np.float64]:
    """Return the sum of the loss over each row's completion tokens [n], in nats, in eval mode."""
    model.eval()
    device, found = model.device, np.zeros(len(rows))
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        for places in micro_batches([len(row.input_ids) for row in rows], _TOKENS):
            batch = pad_rows([rows[place] for place in places], pad_id, device)
            losses, row_of = token_losses(model, batch)  # [t], [t]
            found[places] = np.bincount(
                row_of.cpu().numpy(), losses.double().cpu().numpy(), minlength=len(places)
            )
            advance(len(places))
    return found
