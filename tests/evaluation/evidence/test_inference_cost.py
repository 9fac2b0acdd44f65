from __future__ import annotations

import pytest

from evaluation.evidence.inference_cost import inference_cost
from training.run import Run


def test_the_ensemble_costs_k_plus_one_passes_and_elrea_its_gradient_beside_them(tiny_run: Run) -> None:
    found = inference_cost(tiny_run, prompts=2).figures
    flops, totals = found["flops"], found["totals"]
    assert found["k"] == 2
    assert totals["ensemble of K + 1"] == pytest.approx(3 * flops["one expert"])
    assert totals["ELREA"] == pytest.approx(totals["ensemble of K + 1"] + flops["gradient"])
    assert totals["one routed expert"] == pytest.approx(flops["one expert"] + flops["router"])
    assert found["formula"]["ELREA"] == pytest.approx(3 * flops["base"] + 5 * flops["lora"])
    # A gradient is a forward pass and one back through the frozen base, which the paper leaves out.
    assert flops["gradient"] > flops["base"] + 3 * flops["lora"]
    assert 0 < flops["lora"] < flops["base"]
    assert all(len(each) == 2 for each in found["milliseconds"].values())
