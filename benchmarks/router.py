"""How right and how fast is the router? `python -m benchmarks.router BUNDLE [--quick] [--json FILE]`.

Table 3 of the paper for this machine: keyword, embedding, gradient and semantic router in one process, one thread
each, judged on held-out rows that nothing was fitted on, timed in turn through the service's own thread, with no memory
of prompts. The served router stands with its cascade, its encoder alone, and its encoder in the other precision.
Throughput stands beside Transformers' eager text-classification pipeline on the same encoder, and agreement beside the
ceiling: a router that also sees the response.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from tokenizers import Tokenizer

from benchmarks.machine import machine
from benchmarks.router_contenders import (
    ceiling,
    encoder_of,
    gradient_router,
    other_precision,
    routers_of,
)
from benchmarks.router_eager import EagerPipeline
from benchmarks.router_rows import JudgingRows, held_out_rows, router_rows, run_of, training_inputs
from benchmarks.router_table import print_record
from benchmarks.router_timing import (
    LENGTHS,
    at_once,
    latencies,
    percentiles,
    texts_of_length,
    throughputs,
)
from benchmarks.serving_servers import BenchmarkError
from bundle.errors import BundleError
from bundle.read import ROUTER_HEAD, Bundle, read_bundle
from router.cascade import CascadeRouter
from router.encoder_graph import TOKENIZER_FILE
from router.protocol import Router
from training.errors import TrainingError
from training.models.encoder import Encoder
from training.router.quality import coverage_at, quality
from training.stages.inputs import Inputs

Say = Callable[[str], None]
Record = dict[str, Any]


@dataclass(frozen=True)
class _Sizes:
    """How many rows or texts each part takes."""

    judged: int | None
    gradient: int
    timed: int
    per_length: int
    at_once: int
    rounds: int
    ceiling: int | None


_SIZES = {
    True: _Sizes(judged=1000, gradient=150, timed=150, per_length=20, at_once=96, rounds=1, ceiling=300),
    False: _Sizes(judged=None, gradient=1000, timed=600, per_length=60, at_once=256, rounds=3, ceiling=None),
}
_EAGER, _EAGER_BATCHED = "eager, one by one", "eager, batches of 8"
_SLOW = "gradient"
_SLOW_SHARE = 5  # a router that takes a hundred times as long is timed on a fifth of the texts


def main(
    bundle: Annotated[
        Path, typer.Argument(help="The folder that `gradientspace train` wrote.", show_default=False)
    ],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rows: about four minutes.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Print agreement, calibration and cost of every router, on the bundle's held-out rows."""
    begin = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begin:5.0f} s  {line}", file=sys.stderr, flush=True)

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        with tempfile.TemporaryDirectory(prefix="router-benchmark-") as scratch:
            record = measured(read_bundle(bundle), _SIZES[quick], Path(scratch), say)
    except (BenchmarkError, BundleError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error
    record |= {
        "quick": quick,
        "seconds": time.monotonic() - begin,
        "machine": machine("onnxruntime", "torch", "transformers", "tokenizers"),
    }
    print_record(record)
    if json_file is not None:
        json_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def measured(bundle: Bundle, sizes: _Sizes, scratch: Path, say: Say) -> Record:
    """Return the figures of one bundle.

    Raises:
        BenchmarkError: the bundle holds no held-out rows.
        BundleError: its router can't be opened.

    """
    held_out = held_out_rows(bundle)
    notes: list[str] = []
    routers = routers_of(bundle)
    encoder = _or_note(lambda: encoder_of(bundle), notes)
    inputs = _or_note(lambda: training_inputs(bundle), notes)
    if encoder is not None and bundle.manifest.router.kind == "semantic":
        name, router = other_precision(bundle, encoder, held_out.fitted.texts[:256], scratch / "other")
        routers[name] = router
    gradient = _gradient(bundle, inputs, held_out, notes)
    if gradient is not None:
        routers[_SLOW] = gradient
    say(f"opened {', '.join(routers)}")
    record = _judged(routers, held_out, sizes, say)
    _timed(record, routers, bundle.router_folder / TOKENIZER_FILE, held_out, sizes, say)
    served = bundle.manifest.router.kind
    record["texts_per_s"] = _throughput(bundle, routers, encoder, held_out, sizes, say)
    say("the ceiling: prompt and response")
    found = _ceiling(bundle, encoder, inputs, held_out, sizes)
    return record | {
        "served": served,
        **over_eager(record["texts_per_s"], served),
        "ceiling": found[0] if found else None,
        "ceiling_rows": found[1] if found else 0,
        "cascade": _cascade(routers, served, held_out, sizes),
        "precision": bundle.manifest.router.precision,
        "bundle": bundle.digest,
        "experts": len(bundle.manifest.label_order),
        "notes": notes,
    }


def _or_note(work: Callable[[], Any], notes: list[str]) -> Any:
    try:
        return work()
    except (BenchmarkError, TrainingError) as error:
        notes.append(str(error))
        return None


def _gradient(
    bundle: Bundle, inputs: Inputs | None, held_out: JudgingRows, notes: list[str]
) -> Router | None:
    run = run_of(bundle, inputs)
    if inputs is None:
        return None  # said already
    if run is None:
        notes.append("No gradient router: the bundle does not lie in the run folder that holds its centroids")
        return None
    router: Router | None = _or_note(lambda: gradient_router(bundle, run, held_out.fitted.first(100)), notes)
    return router


def _judged(routers: dict[str, Router], held_out: JudgingRows, sizes: _Sizes, say: Say) -> Record:
    figures: dict[str, Record] = {}
    for name, router in routers.items():
        rows = held_out.judged.first(
            sizes.gradient if name == _SLOW else sizes.judged or len(held_out.judged)
        )
        say(f"{name}: {len(rows):,} held-out rows")
        probabilities = router.probabilities(rows.texts)
        figures[name] = quality(probabilities, rows.labels).summary() | {
            "coverage_at": coverage_at(probabilities, rows.labels)
        }
    return {"routers": figures}


def _timed(
    record: Record,
    routers: dict[str, Router],
    tokenizer: Path,
    held_out: JudgingRows,
    sizes: _Sizes,
    say: Say,
) -> None:
    """Add each router's latencies: over the held-out rows as they come, and by length."""
    texts = {"rows": held_out.judged.texts[: sizes.timed]}
    if tokenizer.is_file():  # a keyword router has none
        counted = Tokenizer.from_file(str(tokenizer))
        texts |= {
            str(length): texts_of_length(held_out.judged, counted, length, sizes.per_length)
            for length in LENGTHS
        }
    fast = {name: router for name, router in routers.items() if name != _SLOW}
    for what, chosen in texts.items():
        say(f"one text at a time, {what}: {len(chosen)} texts")
        found = latencies(fast, chosen)
        if _SLOW in routers:
            found |= latencies({_SLOW: routers[_SLOW]}, chosen[: max(1, len(chosen) // _SLOW_SHARE)])
        for name, milliseconds in found.items():
            mine = record["routers"][name]
            if what == "rows":
                mine |= percentiles(milliseconds)
            else:
                mine.setdefault("by_tokens", {})[what] = percentiles(milliseconds)
    record["timed_texts"] = {what: len(chosen) for what, chosen in texts.items()}


def _throughput(
    bundle: Bundle,
    routers: dict[str, Router],
    encoder: Encoder | None,
    held_out: JudgingRows,
    sizes: _Sizes,
    say: Say,
) -> dict[str, float]:
    """Return everybody's texts per second, the pipeline's both as it comes and in batches."""
    texts = held_out.judged.texts[: sizes.at_once]
    windows = {name: at_once(router) for name, router in routers.items() if name != _SLOW}
    served = bundle.manifest.router.kind
    if encoder is not None and served == "semantic":
        pipeline = EagerPipeline(encoder, bundle.folder / ROUTER_HEAD, bundle.manifest.routed_text.max_tokens)
        windows |= {_EAGER: pipeline.window(1), _EAGER_BATCHED: pipeline.window(8)}
    say(f"eight callers at once, {len(texts)} texts")
    return throughputs(windows, texts, sizes.rounds)


def over_eager(rates: dict[str, float], served: str) -> dict[str, float | None]:
    """Return the served router's texts per second over the eager pipeline's; None where that was not measured.

    The first is over the pipeline as it comes, which reads its texts one by one, as callers who ask one each do. The
    second is over batches of eight, which somebody would have to collect.
    """
    keys = {"throughput_over_eager": _EAGER, "throughput_over_eager_batched": _EAGER_BATCHED}
    return {key: rates[served] / rates[name] if name in rates else None for key, name in keys.items()}


def _ceiling(
    bundle: Bundle, encoder: Encoder | None, inputs: Inputs | None, held_out: JudgingRows, sizes: _Sizes
) -> tuple[float, int] | None:
    if encoder is None or inputs is None:
        return None
    judged = held_out.judged.first(sizes.ceiling or len(held_out.judged))
    known = router_rows(bundle, inputs, held_out)
    k, seed = len(bundle.manifest.label_order), inputs.recipe.seed
    return ceiling(encoder, bundle.manifest.routed_text.max_tokens, known, judged, k, seed)


def _cascade(routers: dict[str, Router], served: str, held_out: JudgingRows, sizes: _Sizes) -> Record | None:
    """Return what share of the held-out rows the cascade's first stage answers, and how right that is.

    All against the encoder alone in one precision: what an int8 that comes first changes is in it.
    """
    router = routers.get(served)
    if not isinstance(router, CascadeRouter):
        return None
    alone = routers[f"{served}-encoder"]
    rows = held_out.judged.first(sizes.judged or len(held_out.judged))
    answers, sure = router.answered(rows.texts)
    found = answers.probabilities
    behind = router.encoder.probabilities(rows.texts).argmax(1)
    encoder = alone.probabilities(rows.texts).argmax(1)
    same = found.argmax(1) == encoder
    return {
        "share": float(sure.mean()),
        "agrees_with_encoder": float(same[sure].mean()) if sure.any() else None,
        "agreement_lost": float((encoder == rows.labels).mean() - (found.argmax(1) == rows.labels).mean()),
        "left_as_alone": float((behind == encoder).mean()),
        "rows": len(rows),
    }


if __name__ == "__main__":
    typer.run(main)
