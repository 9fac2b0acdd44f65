"""Which rule for K gives the lower validation loss? `python -m benchmarks.cluster_rules RECIPE --output FOLDER`.

Trains, for each K, the experts of a partition into K clusters (real Stage II on the training rows, the start of rule
`routed`) from the recipe's warm-up adapter, and measures held-out rows by the expert of their true cluster (known
from their own gradient: this peeks at the answer) and by the router's choice. Beside it: the paper's start, one LoRA
on all rows (K = 1), a random partition of the same sizes. Then it lets both rules choose K on many probes, and what
they choose says what loss to expect of them. Everything trained is kept in FOLDER and not trained again.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers.utils import logging as transformers_logging

from benchmarks.partition_losses import Losses, partition_losses, warmup_losses
from benchmarks.redrawn_probes import RULES, redraw, share_by_k
from evaluation.evidence.finished_run import FinishedRun
from evaluation.seed.partition import Partition
from training.bundling.bundle import git_commit
from training.clusters.centroids import Movement, calibrate
from training.clusters.count import choose_clusters
from training.clusters.gram import ProbeGradients
from training.clusters.row_orders import InCoordinates
from training.gradients.source import Recomputed
from training.gradients.supply import row_gradients
from training.progress import Narrator, ignore_progress
from training.recipe import read_recipe
from training.router.head import fit_head
from training.run.checkpoint import Checkpoint
from training.run.inputs import Inputs, read_inputs
from training.run.processes import World
from training.run.stages import Stage, StageResult, StageStore
from training.stage_one import warm_up

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Ground:
    """Rows of the benchmark (numbers in the run), the cosines of all their gradients, and their prompts' encodings.

    `places` gives a row's place in `gram` [N, N] and `embeddings` [N, H]; `pool` are the rows probes are drawn from.
    """

    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    pool: NDArray[np.int64]
    places: dict[int, int]
    gram: NDArray[np.float64]
    embeddings: NDArray[np.float32]

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of these rows."""
        return np.array([self.places[int(row)] for row in rows])


def main(
    recipe: Annotated[
        Path, typer.Argument(help="A recipe; its experts section is what experts are trained by.")
    ],
    output: Annotated[Path, typer.Option(help="The folder for all that is computed.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
    train_rows: Annotated[
        int, typer.Option(help="Rows to cluster and train on; the others are held out.")
    ] = 640,
    max_tokens: Annotated[int, typer.Option(help="Longer rows are left out.")] = 256,
    ks: Annotated[str, typer.Option(help="K to train, with the start of rule routed.")] = "1,2,3,4,5,6",
    paper_ks: Annotated[str, typer.Option(help="K to train with the paper's start, too.")] = "2,4",
    random_ks: Annotated[str, typer.Option(help="K to train on permuted labels, too.")] = "4",
    seeds: Annotated[int, typer.Option(help="Seeds of the experts' training.")] = 1,
    probes: Annotated[str, typer.Option(help="Rows per probe that K is chosen on.")] = "256,512",
    draws: Annotated[int, typer.Option(help="Probes of each size.")] = 12,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Print validation loss by K, each rule's choices, and the loss to expect of it."""
    transformers_logging.disable_progress_bar()
    narrator = Narrator()
    inputs = read_inputs(read_recipe(recipe, {"output": output}, overrides or []), narrator)
    store = StageStore(output / "stages", narrator, World())
    warmup = warm_up(inputs, store)
    run = FinishedRun(output, inputs)  # as far as experts ask: to its warm-up
    ground = _ground(inputs, store, warmup, train_rows, max_tokens)
    wanted = [("routed", k) for k in _numbers(ks)] + [("paper", k) for k in _numbers(paper_ks)]
    wanted += [("random", k) for k in _numbers(random_ks)]
    losses: dict[tuple[str, int], Losses] = {}
    agreements: dict[tuple[str, int], float] = {}
    for start, k in wanted:
        partition = _partition(inputs, store, warmup, ground, start, k)
        losses[start, k] = partition_losses(
            run, store, partition, ground.train, ground.held_out, range(seeds)
        )
        own, sent = partition.labels[ground.held_out], partition.routes[ground.held_out]
        agreements[start, k] = float((sent == own).mean())
    redrawn = [_redrawn(inputs, store, warmup, ground, rows, draws) for rows in _numbers(probes)]
    before = float(warmup_losses(run, store, ground.held_out).mean())
    record = {
        "rows": {"train": len(ground.train), "held_out": len(ground.held_out), "pool": len(ground.pool)},
        "warm_up_loss": before,
        "losses": [
            {
                "start": start,
                "k": k,
                "by_label": float(found.by_label.mean()),
                "by_route": float(found.by_route.mean()),
                "router_agreement": agreements[start, k],
                "by_label_over_one": _difference(found.by_label, losses["routed", 1].by_route),
                "by_route_over_one": _difference(found.by_route, losses["routed", 1].by_route),
            }
            for (start, k), found in losses.items()
        ],
        "redrawn": redrawn,
        "expected": [_expected(one, losses) for one in redrawn],
        "seeds": seeds,
        "recipe": inputs.recipe.model_dump(mode="json"),
        "commit": git_commit(),
    }
    _print(record)
    if json_file is not None:
        json_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _ground(
    inputs: Inputs, store: StageStore, warmup: StageResult, train_rows: int, max_tokens: int
) -> Ground:
    lengths = inputs.lengths
    pool = [row for row in inputs.split.train if lengths[row] <= max_tokens]
    train = pool[:train_rows]
    held_out = [row for row in inputs.split.validation if lengths[row] <= max_tokens] + pool[train_rows:]
    rows = pool + [row for row in held_out if row not in set(pool)]

    def gram(folder: Path) -> dict[str, Any]:
        with (
            row_gradients(inputs, warmup) as source,
            store.narrator.bar("row gradients", len(rows), "rows") as advance,
        ):
            probe = ProbeGradients(Recomputed(source, inputs.rows, World()), rows, len(rows), World())
            never = Checkpoint(folder, "", math.inf, World())
            save_file({"gram": probe.gram(never, advance)}, folder / "gram.safetensors")
        return {}

    def embeddings(folder: Path) -> dict[str, Any]:
        texts = [inputs.rows[row].routed_text for row in rows]
        with store.narrator.bar("encoding prompts", len(rows), "rows") as advance:
            found = inputs.encoder.embed(texts, inputs.recipe.router.max_tokens, advance)
        save_file({"embeddings": torch.from_numpy(found)}, folder / "embeddings.safetensors")
        return {}

    depends_on = {"warmup": warmup.digest, "rows": rows}
    cosines = store.run(Stage("gram", "Cosines of all rows' gradients", depends_on), gram)
    encoded = store.run(
        Stage("embeddings", "Prompts", depends_on | {"encoder": inputs.encoder.sha256}), embeddings
    )
    return Ground(
        train=np.array(train),
        held_out=np.array(held_out),
        pool=np.array(pool),
        places={row: place for place, row in enumerate(rows)},
        gram=load_file(cosines.folder / "gram.safetensors")["gram"].numpy(),
        embeddings=load_file(encoded.folder / "embeddings.safetensors")["embeddings"].numpy(),
    )


def _partition(
    inputs: Inputs, store: StageStore, warmup: StageResult, ground: Ground, start: str, k: int
) -> Partition:
    """Stage II in the coordinates of all gradients' own span: exact, and no gradient is computed again."""
    section = inputs.recipe.clusters
    by = "routed" if start == "random" else start
    train, held_out = ground.at(ground.train), ground.at(ground.held_out)

    def work(folder: Path) -> dict[str, Any]:
        cosines = torch.from_numpy(np.ascontiguousarray(ground.gram[np.ix_(train, train)]))
        chosen = choose_clusters(cosines, section.model_copy(update={"k": k, "rule": by}), inputs.recipe.seed)
        source = InCoordinates(torch.from_numpy(ground.gram))
        first = normalize(chosen.weights.T.float() @ source.vectors[train], dim=1)  # [K, N]
        never, movement = Checkpoint(folder, "", math.inf, World()), Movement("exact", 1)
        final = calibrate(
            source, train.tolist(), first, section, movement, inputs.recipe.seed, never, ignore_progress
        ).centroids
        labels = (source.vectors @ final.T).argmax(1).numpy()
        by_size = np.argsort(np.argsort(-np.bincount(labels[train], minlength=k), kind="stable"))
        labels = by_size[labels]
        return {"train": labels[train].tolist(), "held_out": labels[held_out].tolist()}

    choices = section.model_dump(exclude={"k", "rule"}) | {"k": k, "rule": by}
    depends_on = {
        "warmup": warmup.digest,
        "train": ground.train.tolist(),
        "held_out": ground.held_out.tolist(),
        "clusters": choices,
        "seed": inputs.recipe.seed,
    }
    facts = store.run(Stage(f"partition-{by}-{k}", f"{k} clusters, start {by}", depends_on), work).facts
    labels, held_out_labels = np.array(facts["train"]), np.array(facts["held_out"])
    head = fit_head(ground.embeddings[train], labels, k, inputs.recipe.seed)
    sent = head.logits(ground.embeddings[held_out]).argmax(1)
    if start == "random":
        shuffler = np.random.default_rng(inputs.recipe.seed)
        labels, held_out_labels = shuffler.permutation(labels), shuffler.permutation(held_out_labels)
        sent = held_out_labels  # nothing can be learned of it: where a row goes is chance either way
    every, routes = np.zeros(len(inputs.rows), np.int64), np.zeros(len(inputs.rows), np.int64)
    every[ground.train], every[ground.held_out] = labels, held_out_labels
    routes[ground.train], routes[ground.held_out] = labels, sent
    return Partition(f"{start}-{k}" if k > 1 else "one", every, routes, k)


def _redrawn(
    inputs: Inputs, store: StageStore, warmup: StageResult, ground: Ground, rows: int, draws: int
) -> dict[str, Any]:
    section, pool = inputs.recipe.clusters.model_copy(update={"k": None}), ground.at(ground.pool)

    def work(folder: Path) -> dict[str, Any]:
        cosines = np.ascontiguousarray(ground.gram[np.ix_(pool, pool)])
        return redraw(cosines, ground.embeddings[pool], section, rows, draws)

    depends_on = {
        "warmup": warmup.digest,
        "pool": ground.pool.tolist(),
        "clusters": section.model_dump(),
        "draws": draws,
        "rows": rows,
    }
    return store.run(Stage(f"probes-{rows}", f"{draws} probes of {rows} rows", depends_on), work).facts


def _expected(redrawn: dict[str, Any], losses: dict[tuple[str, int], Losses]) -> dict[str, Any]:
    """The loss to expect of each rule: over the K that its probes chose, with one and the same partition per K."""
    expected: dict[str, Any] = {"probe_rows": redrawn["probe_rows"]}
    rows: dict[str, NDArray[np.float64]] = {}
    for rule in RULES:
        shares = share_by_k(redrawn[rule]["ks"])
        missing = sorted(k for k in shares if ("routed", k) not in losses)
        if missing:
            expected[rule] = {"untrained": missing}
            continue
        rows[rule] = np.sum([share * losses["routed", k].by_route for k, share in shares.items()], axis=0)
        expected[rule] = {"by_route": float(rows[rule].mean())}
    if len(rows) == len(RULES):
        expected["routed_over_paper"] = _difference(rows["routed"], rows["paper"])
    return expected


def _difference(losses: NDArray[np.float64], others: NDArray[np.float64]) -> dict[str, float]:
    """Mean difference over held-out rows, with a 95 % interval by resampling the rows, in pairs."""
    differences = losses - others
    chooser = np.random.default_rng(0)
    means = [chooser.choice(differences, len(differences)).mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(differences.mean()), "low": float(low), "high": float(high)}


def _print(record: dict[str, Any]) -> None:
    typer.echo(
        f"Held-out rows: {record['rows']['held_out']}. After the warm-up: {record['warm_up_loss']:.4f}"
    )
    typer.echo(
        "| start | K | by true cluster (peeks) | over one LoRA | routed | over one LoRA | router agrees |"
    )
    typer.echo("|---|---|---|---|---|---|---|")
    for line in record["losses"]:
        typer.echo(
            f"| {line['start']} | {line['k']} | {line['by_label']:.4f} | {_said(line['by_label_over_one'])} "
            f"| {line['by_route']:.4f} | {_said(line['by_route_over_one'])} | {100 * line['router_agreement']:.0f} % |"
        )
    for redrawn, expected in zip(record["redrawn"], record["expected"], strict=True):
        typer.echo(f"\nProbes of {redrawn['probe_rows']} rows:")
        for rule in RULES:
            found = redrawn[rule]
            chosen = ", ".join(f"{k}: {100 * share:.0f} %" for k, share in share_by_k(found["ks"]).items())
            typer.echo(
                f"- {rule} chose K = {chosen}; pairs agree on K in {100 * found['same_k']:.0f} %, on the partition to "
                f"{found['ari']:.2f}; expected loss: {_shown(expected[rule])}"
            )
        if "routed_over_paper" in expected:
            typer.echo(f"- routed over paper: {_said(expected['routed_over_paper'])}")


def _shown(expected: dict[str, Any]) -> str:
    if "untrained" in expected:
        return f"not known, K = {expected['untrained']} was not trained"
    return f"{expected['by_route']:.4f}"


def _said(difference: dict[str, float]) -> str:
    return f"{difference['mean']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"


if __name__ == "__main__":
    typer.run(main)
