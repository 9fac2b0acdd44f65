"""Every method by name, in the order of the table."""

from __future__ import annotations

from evaluation.methods.elrea import Elrea, ElreaPaper
from evaluation.methods.full_finetuning import FullFinetuning
from evaluation.methods.gradientspace import GradientSpace
from evaluation.methods.kmeans import KMeansOnEmbeddings
from evaluation.methods.merging import Merging
from evaluation.methods.one_lora import OneLora
from evaluation.methods.protocol import Method
from evaluation.methods.random_clusters import RandomClusters
from evaluation.methods.readable import Readable
from evaluation.methods.served import Served
from evaluation.methods.share_then_split import ShareThenKMeans, ShareThenSplit
from evaluation.methods.zero_shot import ZeroShot
from training.errors import RecipeError

METHODS: tuple[Method, ...] = (
    ZeroShot(),
    FullFinetuning(),
    OneLora(),
    RandomClusters(),
    KMeansOnEmbeddings(),
    Merging(),
    ElreaPaper(),
    Elrea(),
    GradientSpace(),
    *(ShareThenSplit(percent) for percent in (25, 50, 75)),
    ShareThenKMeans(75),
    Readable(),
    Served(),
)


def choose_methods(names: str) -> list[Method]:
    """Return the methods of `all`, or of a list of names with commas, in the order of the table.

    Raises:
        RecipeError: a name is no method's.

    """
    known = {method.name: method for method in METHODS}
    asked = list(known) if names == "all" else [name.strip() for name in names.split(",")]
    for name in asked:
        if name not in known:
            raise RecipeError(f"--methods: {name!r} is no method. There are: all, {', '.join(known)}.")
    return [method for method in METHODS if method.name in asked]
