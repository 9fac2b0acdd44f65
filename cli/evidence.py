"""`gradientspace evidence`: the paper's tables, figures and ablations, each measured by a command of its own."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.fail import fail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evaluation.evidence.exhibit import Exhibit
    from training.progress import Narrator
    from training.run import Run
    from training.stages.store import StageStore

evidence = typer.Typer(
    name="evidence",
    help="Measure the paper's tables, figures and ablations. Each writes NAME.md, NAME.json and NAME.png into "
    "--output; stopped, the same command goes on where it was.",
    no_args_is_help=True,
)

RunFolder = Annotated[Path, typer.Argument(help="The folder of a finished training: its --output.")]
Output = Annotated[
    Path, typer.Option("--output", help="Folder for the table, the figures and what was computed.")
]
HeldOutFiles = Annotated[
    list[str] | None,
    typer.Option("--held-out", help="Rows to judge on that the run never saw; without, its validation rows."),
]
Train = Annotated[
    bool, typer.Option("--train/--no-train", help="Train experts for held-out losses; without, minutes.")
]
_HELD_OUT = 100  # held-out rows per skill and surface of the controlled suite


@evidence.command("cluster-terms")
def cluster_terms(run: RunFolder, output: Output) -> None:
    """Table 2 and Figure 5: TF-IDF terms per cluster, and sources by cluster."""
    from evaluation.evidence.cluster_terms import cluster_terms as measure

    _make(output, run, lambda found, store: measure(found))


@evidence.command("inference-cost")
def inference_cost(
    run: RunFolder,
    output: Output,
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="Validation rows to answer.")] = 32,
) -> None:
    """Table 4: FLOPs and latency of one routed expert against the ensemble and ELREA."""
    from evaluation.evidence.inference_cost import inference_cost as measure

    _make(output, run, lambda found, store: measure(found, prompts))


@evidence.command("sentence-pairs")
def sentence_pairs(
    run: RunFolder,
    output: Output,
    pairs: Annotated[
        Path, typer.Option("--pairs", help="STS-B as JSON Lines: sentence1, sentence2, score (0 to 5).")
    ],
    count: Annotated[int, typer.Option("--count", min=3, help="Pairs drawn from it.")] = 500,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
) -> None:
    """Figure 4: gradient against embedding similarity of sentence pairs."""
    from evaluation.evidence.sentence_pairs import read_pairs
    from evaluation.evidence.sentence_pairs import sentence_pairs as measure

    with _telling():
        drawn = read_pairs(pairs, count, seed)
    _make(output, run, lambda found, store: measure(found, store, drawn, seed))


@evidence.command("variance")
def variance(run: RunFolder, output: Output) -> None:
    """Section 4: gradient variance within and across clusters, sources, text clusters and random parts."""
    from evaluation.evidence.gradient_variance import variance_by_partition

    _make(output, run, variance_by_partition)


@evidence.command("ablations")
def ablations(
    run: RunFolder,
    output: Output,
    held_out: HeldOutFiles = None,
    train: Train = True,
) -> None:
    """Label agreement, cohesion and held-out loss with one choice of Stages II and III changed at a time."""
    from evaluation.evidence.ablations import ablations as measure
    from evaluation.evidence.rerun import read_held_out

    _make(
        output,
        run,
        lambda found, store: measure(found, store, read_held_out(held_out or [], found.inputs), train),
    )


@evidence.command("cluster-cohesion")
def cluster_cohesion(
    run: RunFolder,
    output: Output,
    ks: Annotated[str, typer.Option("--ks", help="Numbers of clusters, with commas.")] = "2,3,4,5,6,7,8,9,10",
    held_out: HeldOutFiles = None,
    train: Train = True,
) -> None:
    """Figure 6: cohesion of the clusters, and loss of their experts, over K."""
    from evaluation.evidence.cluster_cohesion import cluster_cohesion as measure
    from evaluation.evidence.rerun import read_held_out

    numbers = _numbers(ks)
    _make(
        output,
        run,
        lambda found, store: measure(
            found, store, numbers, read_held_out(held_out or [], found.inputs), train
        ),
    )


@evidence.command("routed-cosine")
def routed_cosine(
    run: RunFolder,
    output: Output,
    ks: Annotated[str, typer.Option("--ks", help="Numbers of clusters, with commas.")] = "2,4,6,8",
    held_out: HeldOutFiles = None,
) -> None:
    """What experts gain over the routed cosine of their partition: by gradients, prompts, both, sources and chance."""
    from evaluation.evidence.rerun import read_held_out
    from evaluation.evidence.routed_cosine import routed_cosine as measure

    numbers = _numbers(ks)
    _make(
        output,
        run,
        lambda found, store: measure(found, store, numbers, read_held_out(held_out or [], found.inputs)),
    )


@evidence.command("curves")
def curves(run: RunFolder, output: Output, held_out: HeldOutFiles = None) -> None:
    """Held-out loss over the share of shared row visits, over rows per expert, and over routing errors."""
    from evaluation.evidence.curves import curves as measure
    from evaluation.evidence.rerun import read_held_out

    _make(
        output,
        run,
        lambda found, store: measure(found, store, read_held_out(held_out or [], found.inputs)),
    )


@evidence.command("regimes")
def regimes(
    output: Output,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer points and two seeds: about half an hour on one core.")
    ] = False,
) -> None:
    """The controlled suite: gain of GradientSpace over conflict, rows per skill and adapter rank.

    On the demo's base and generated rows whose interference is known.
    """
    import demo
    from demo.conflict import make_conflict_rows
    from evaluation.evidence.conflict_suite import Dials
    from evaluation.evidence.conflict_suite import regimes as measure

    dials, seeds = (
        (Dials((0.0, 0.5, 1.0), (60, 240), (4, 1)), range(2))
        if quick
        else (Dials((0.0, 0.25, 0.5, 0.75, 1.0), (60, 240, 960), (4, 1, 16)), range(3))
    )

    def rows(count: int, conflict: float, seed: int, held_out: bool) -> list[dict[str, str]]:
        return make_conflict_rows(count, conflict, seed, "heldout" if held_out else "train")

    with _telling():
        narrator, _ = _store(output)
        base = Path(demo.__file__).parent / "base"
        for exhibit in measure(dials, seeds, rows, _HELD_OUT, base, output, narrator):
            exhibit.write(output, _command())  # what there is so far, should it be stopped
        _show(exhibit, output)


def _numbers(given: str) -> list[int]:
    try:
        return [int(number) for number in given.split(",")]
    except ValueError:
        fail(f"--ks {given!r}: give whole numbers with commas, such as 2,3,4.")


def _make(output: Path, run: Path, measure: Callable[[Run, StageStore], Exhibit]) -> None:
    """Measure one exhibit of a finished run, and end with 1 if a part of it failed."""
    from training.run import finished_run

    with _telling():
        narrator, store = _store(output)
        exhibit = measure(finished_run(run, narrator), store)
        _show(exhibit, output)


def _store(output: Path) -> tuple[Narrator, StageStore]:
    from transformers.utils import logging

    from training.progress import Narrator
    from training.stages.processes import World
    from training.stages.store import StageStore

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    narrator = Narrator()
    return narrator, StageStore(output / "stages", narrator, World())


def _show(exhibit: Exhibit, output: Path) -> None:
    for path in exhibit.write(output, _command()):
        typer.echo(path)
    for failure in exhibit.failures:
        typer.secho(failure, fg=typer.colors.RED, err=True)
    if exhibit.failures:
        raise typer.Exit(1)


def _command() -> str:
    return shlex.join(["gradientspace", *sys.argv[1:]])


@contextmanager
def _telling() -> Iterator[None]:
    """End with one sentence on what the user can mend."""
    from bundle.errors import BundleError
    from training.errors import TrainingError

    try:
        yield
    except (TrainingError, BundleError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("Stopped. The same command goes on where it was.", code=130)
