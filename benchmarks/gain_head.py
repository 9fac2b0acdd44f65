"""Would a linear head on the encoder's output serve better than thresholds? `python -m benchmarks.gain_head BUNDLE`.

The head is a ridge regression from a prompt's encoding to each expert's gain over the fallback; where none is expected
to be below 0 the fallback answers. Both policies are judged on the bundle's own `report/gate.parquet`, each fifth of
the rows by what the other four say. What came out stands in docs/measurements/served-gain.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from bundle.manifest import GATE_FILE, HELD_OUT_FILE
from bundle.read import Bundle, read_bundle
from router.encoder_graph import ENCODING, EncoderGraph
from training.gate.gate import per_token
from training.gate.policy import cross_fitted, gains, interval, judged

_STRENGTHS = tuple(np.logspace(-1, 5, 13))


def by_gain_head(
    embeddings: NDArray[np.floating], every_gain: NDArray[np.float64], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the loss less the fallback's [n] if a ridge on embeddings [n, H] of gains [n, K] says who answers."""
    found = np.zeros(len(folds))
    for fold in np.unique(folds):
        out = folds == fold
        expected = RidgeCV(alphas=_STRENGTHS).fit(embeddings[~out], every_gain[~out]).predict(embeddings[out])
        expected = expected.reshape(out.sum(), -1)  # [m, K]: one expert comes back as [m]
        best = expected.argmin(1)
        rows = np.arange(len(best))
        found[out] = np.where(expected[rows, best] < 0, every_gain[out][rows, best], 0.0)
    return found


def policies(bundle: Bundle) -> dict[str, NDArray[np.float64]]:
    """Return the loss less the fallback's of every row [n] under each policy."""
    manifest = bundle.manifest
    table = pq.read_table(bundle.folder / GATE_FILE).to_pydict()
    sums = np.array([table[f"loss_{name}"] for name in ("fallback", *manifest.label_order)]).T  # [n, 1 + K]
    probabilities = np.array([table[f"probability_{name}"] for name in manifest.label_order]).T  # [n, K]
    losses, folds = per_token(sums, np.array(table["tokens"])), np.array(table["fold"])
    embeddings = _embeddings(bundle, table["origin"])
    return {
        "the router's choice, always": gains(losses, probabilities),
        "thresholds, cross-fitted": cross_fitted(losses, probabilities, folds),
        "as decided (thresholds or the fallback alone)": judged(losses, probabilities, folds),
        "gain head, cross-fitted": by_gain_head(embeddings, losses[:, 1:] - losses[:, :1], folds),
        "the best for each row (nobody could)": np.minimum(losses[:, 1:].min(1) - losses[:, 0], 0),
    }


def _embeddings(bundle: Bundle, origins: list[str]) -> NDArray[np.float32]:
    held_out = pq.read_table(bundle.folder / HELD_OUT_FILE, columns=["origin", "text"]).to_pydict()
    text_of = dict(zip(held_out["origin"], held_out["text"], strict=True))
    manifest = bundle.manifest
    text = manifest.routed_text
    outputs = {ENCODING: manifest.router.hidden}
    graph = EncoderGraph(bundle.router_folder, outputs, text.max_tokens, 1, text.keeps)
    return np.concatenate([graph.run([text_of[origin]])[ENCODING] for origin in origins])  # [n, H]


def main() -> None:
    """Print a line for each policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="a bundle of a run with router.gate=measured")
    for name, differences in policies(read_bundle(parser.parse_args().bundle)).items():
        mean, low, high = interval(differences)
        print(f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]  {name}")


if __name__ == "__main__":
    main()
