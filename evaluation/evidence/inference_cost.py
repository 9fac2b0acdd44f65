"""What one answer costs: one routed expert against an ensemble of all of them (section 6.5, Table 4).

FLOPs are counted on the real modules (`evaluation.evidence.flop_count`), latency is measured with Transformers and
PEFT. Served latency is benchmarks/serving.py's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure

from evaluation.errors import EvidenceError
from evaluation.evidence.cost_contenders import NEW_TOKENS, Contenders, Work
from evaluation.evidence.exhibit import ACCENT, INK, SECOND, Exhibit, Table, canvas
from evaluation.evidence.flop_count import FlopCount
from training.models.encoder import mean_pooled
from training.rows.rendering import TokenRow
from training.run import Run
from training.stages.inputs import Inputs

_WARM = 2  # answers before the clock counts


def inference_cost(run: Run, prompts: int) -> Exhibit:
    """Table 4 of a finished run: FLOPs of the first token, and latency, on `prompts` of its validation rows.

    Raises:
        TrainingError: the run is not finished, or holds fewer validation rows.

    """
    inputs, assignment = run.inputs, run.assigned.assignment
    rows = inputs.split.validation[:prompts]
    if not rows:
        raise EvidenceError(f"{run.folder}: it has no validation rows to take prompts from.")
    work = [Work(_prompt(inputs.rows[row]), int(assignment.labels[row])) for row in rows]
    contenders = Contenders(run)
    counted = _count(contenders, inputs, work)
    latency = _latencies(contenders, work)
    k, base = contenders.k, counted["base"]
    lora = counted["one expert"] - base
    formula = {"one routed expert": base + lora, "ELREA": (1 + k) * base + (3 + k) * lora}
    totals = {
        "one routed expert": counted["one expert"] + counted["router"],
        "ensemble of K + 1": counted["ensemble"],
        "ELREA": counted["ensemble"] + counted["gradient"],
    }
    routing = {
        "one routed expert": counted["router"],
        "ensemble of K + 1": 0.0,
        "ELREA": counted["gradient"],
    }
    milliseconds = {
        "one routed expert": [a + b for a, b in zip(latency["route"], latency["one"], strict=True)],
        "ensemble of K + 1": latency["ensemble"],
        "ELREA": [a + b for a, b in zip(latency["gradient"], latency["ensemble"], strict=True)],
    }
    table = Table(
        f"K = {k}, {len(work)} prompts of {_mean_length(work):.0f} tokens on average",
        (
            "method",
            "router MFLOPs",
            "total MFLOPs",
            "in base passes",
            "latency ms, median (quartiles)",
            "times one",
        ),
        [
            (
                name,
                f"{routing[name] / 1e6:,.1f}",
                f"{totals[name] / 1e6:,.1f}",
                f"{totals[name] / base:.2f}",
                _spread(milliseconds[name]),
                f"{np.median(milliseconds[name]) / np.median(milliseconds['one routed expert']):.2f}",
            )
            for name in totals
        ],
    )
    parts = Table(
        "Parts",
        ("part", "MFLOPs", "latency ms, median (quartiles)"),
        [
            ("F_base: one pass of the base over the prompt", f"{base / 1e6:,.1f}", ""),
            ("F_LoRA: what one adapter adds to it", f"{lora / 1e6:,.1f}", ""),
            (
                "F_SP: the router's encoder and head",
                f"{counted['router'] / 1e6:,.1f}",
                _spread(latency["route"]),
            ),
            (
                "the prompt's gradient, and its cosine with K centroids",
                f"{counted['gradient'] / 1e6:,.1f}",
                _spread(latency["gradient"]),
            ),
            (
                "the paper's formula for that gradient, F_base + 3 F_LoRA",
                f"{(base + 3 * lora) / 1e6:,.1f}",
                "",
            ),
        ],
    )
    notes = [
        "FLOPs are those up to the answer's first token, mean over the prompts. The ensemble runs the base adapter and "
        "every expert and averages their probabilities at every token.",
        f"Latency: greedy answers of {NEW_TOKENS} tokens, batch of one, float32, Transformers and PEFT with all "
        "adapters laid over one base; the router in ONNX, as served. The time that PEFT takes to switch between "
        "adapters is left out.",
        f"The paper's formula gives ELREA {formula['ELREA'] / base:.2f} base passes; "
        f"counted, they are {totals['ELREA'] / base:.2f}: the gradient goes back through the frozen base too.",
        f"The paper takes F_SP << F_LoRA; here F_SP is {counted['router'] / lora:.1f} times F_LoRA and "
        f"{counted['router'] / base:.2f} times F_base.",
        "Served, through vLLM: docs/measurements/serving-speed.md, contender `ensemble`.",
    ]
    figures = {
        "k": k,
        "prompts": len(work),
        "mean_prompt_tokens": _mean_length(work),
        "flops": counted | {"lora": lora},
        "formula": formula,
        "totals": totals,
        "milliseconds": milliseconds | {f"part {name}": each for name, each in latency.items()},
    }
    return Exhibit(
        "table4",
        "Table 4: what an answer costs",
        [table, parts],
        figures,
        notes,
        picture=_bars(totals, base, milliseconds),
        seeds=(inputs.recipe.seed,),
    )


def _prompt(row: TokenRow) -> TokenRow:
    ids = list(row.input_ids[: row.prompt_length])
    return TokenRow(row.origin, row.source, row.routed_text, ids, len(ids))


def _mean_length(work: Sequence[Work]) -> float:
    return float(np.mean([len(one.prompt.input_ids) for one in work]))


def _count(contenders: Contenders, inputs: Inputs, work: Sequence[Work]) -> dict[str, float]:
    """FLOPs of each part, mean over the prompts."""
    found: dict[str, list[float]] = {}
    for one in work:
        ids = torch.tensor([list(one.prompt.input_ids)], device=contenders.model.device)  # [1, P]
        contenders.model.set_adapter(f"expert-{one.expert}")
        expert = _flops(partial(contenders.model, input_ids=ids, logits_to_keep=1))
        router = _flops(partial(_encode, inputs, one.prompt.routed_text))
        parts = {
            "base": _flops(partial(contenders.base_model, input_ids=ids, logits_to_keep=1)),
            "one expert": expert,
            "ensemble": expert * len(contenders.adapters),  # adapters of one shape: each pass costs the same
            "router": router + 2.0 * inputs.encoder.hidden * contenders.k,
        }
        for name, flops in parts.items():
            found.setdefault(name, []).append(flops)
    with contenders.source:
        found["gradient"] = [_flops(partial(contenders.elrea_weights, one), grad=True) for one in work]
    return {name: float(np.mean(each)) for name, each in found.items()}


def _flops(call: Callable[[], object], grad: bool = False) -> float:
    with torch.set_grad_enabled(grad), FlopCount() as count:
        call()
    return float(count.total)


def _encode(inputs: Inputs, text: str) -> None:
    for _, ids, mask in inputs.encoder.tokens(inputs.recipe.router.max_tokens).batches([text]):
        device = inputs.encoder.model.device
        mean_pooled(inputs.encoder.model, torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))


def _latencies(contenders: Contenders, work: Sequence[Work]) -> dict[str, list[float]]:
    """Milliseconds per prompt of each part; the parts take turns, so that a busy moment meets all of them."""
    calls: dict[str, Callable[[Work], float]] = {
        "route": contenders.route,
        "one": contenders.one,
        "ensemble": contenders.ensemble,
        "gradient": contenders.elrea_weights,
    }
    found: dict[str, list[float]] = {name: [] for name in calls}
    with contenders.source:
        for turn, one in enumerate([*work[:_WARM], *work]):
            for name, call in calls.items():
                began = time.perf_counter()
                switching = call(one)
                if turn >= min(_WARM, len(work)):
                    found[name].append(1000 * (time.perf_counter() - began - switching))
    return found


def _spread(milliseconds: Sequence[float]) -> str:
    low, middle, high = np.quantile(milliseconds, [0.25, 0.5, 0.75])
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def _bars(totals: dict[str, float], base: float, milliseconds: dict[str, list[float]]) -> Figure:
    figure = canvas(7.2, 2.0, panels=2)
    left, right = figure.axes
    names = list(totals)
    left.barh(names, [totals[name] / base for name in names], color=ACCENT, height=0.6)
    left.set_title("passes of the base, to the first token", fontsize=9, loc="left")
    right.barh(names, [float(np.median(milliseconds[name])) for name in names], color=SECOND, height=0.6)
    right.set_title(f"ms for {NEW_TOKENS} tokens, median", fontsize=9, loc="left")
    right.set_yticks([])
    left.tick_params(axis="y", colors=INK)
    for axes in figure.axes:
        axes.invert_yaxis()
        axes.grid(visible=False)
    return figure
