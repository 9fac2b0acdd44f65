"""Plain words for numbers: where each finding turns."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stand_ins.small_report import small_gate, small_report
from training.report.verdict import judge, wilson


def finding(report: dict[str, Any], topic: str) -> dict[str, Any]:
    (found,) = [each for each in judge(report)["findings"] if topic in each["topic"]]
    return found


def with_shuffle(lowest: float) -> dict[str, Any]:
    pairs = [{"orders": [0, 1], "ari": 0.99}, {"orders": [0, 2], "ari": lowest}]
    return small_report(shuffle={"orders": 3, "rows": 1800, "on": "the probe", "pairs": pairs})


def with_variance(reduction: float, at_random: float, exceeding: list[int]) -> dict[str, Any]:
    quality = small_report()["quality"]
    quality["unit"] |= {"reduction": reduction, "at_random": at_random, "exceeding": exceeding}
    return small_report(quality=quality)


def with_router(agreement: float, held_out: int = 200) -> dict[str, Any]:
    router = small_report()["router"] | {"agreement": agreement, "held_out_rows": held_out}
    return small_report(router=router)


def with_agreement(mean: float) -> dict[str, Any]:
    report = small_report()
    report["spectrum"]["halves"]["by_k"][0]["agreement"] = {
        "mean": mean,
        "low": mean - 0.1,
        "high": mean + 0.1,
    }
    return report


@pytest.mark.parametrize(("lowest", "level"), [(0.9, "good"), (0.89, "care"), (0.7, "care"), (0.69, "bad")])
def test_the_least_agreement_between_orders_counts(lowest: float, level: str) -> None:
    found = finding(with_shuffle(lowest), "order of the rows")
    assert found["level"] == level
    assert f"at least {lowest:.2f}" in found["text"]
    assert "3 data orders over 1,800 rows (the probe)" in found["text"]


@pytest.mark.parametrize(("mean", "level"), [(0.7, "good"), (0.69, "care"), (0.0, "care")])
def test_halves_that_disagree_are_a_caution_at_most(mean: float, level: str) -> None:
    found = finding(with_agreement(mean), "other rows")
    assert found["level"] == level
    assert f"index of {mean:.2f} (5 to 95 % of the splits: {mean - 0.1:.2f} to" in found["text"]


@pytest.mark.parametrize(
    ("reduction", "at_random", "level"),
    [(0.2, 0.01, "good"), (0.04, 0.01, "care"), (0.019, 0.01, "bad"), (0.3, 0.2, "bad")],
)
def test_variance_has_to_fall_by_more_than_chance(reduction: float, at_random: float, level: str) -> None:
    found = finding(with_variance(reduction, at_random, []), "agree more inside")
    assert found["level"] == level
    assert f"{100 * reduction:.1f} % below" in found["text"]
    assert f"would reach {100 * at_random:.1f} %" in found["text"]


def test_clusters_above_the_whole_are_counted_in_words() -> None:
    said = [finding(with_variance(0.2, 0.01, found), "agree more")["text"] for found in ([], [1], [0, 1])]
    assert "No cluster's own variance is above" in said[0]
    assert "1 cluster by itself is above" in said[1]
    assert "2 clusters by themselves are above" in said[2]


@pytest.mark.parametrize(
    ("agreement", "held_out", "level"),
    [(0.95, 200, "good"), (0.85, 200, "care"), (0.72, 200, "bad"), (0.85, 10, "bad")],
)
def test_the_router_has_to_beat_the_largest_cluster_surely(
    agreement: float, held_out: int, level: str
) -> None:
    assert finding(with_router(agreement, held_out), "router")["level"] == level  # the largest has 67 %


def test_wilsons_interval_is_the_known_one() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_a_number_that_was_given_is_not_called_found() -> None:
    spectrum = small_report()["spectrum"]
    only = small_report(spectrum=spectrum | {"grid": spectrum["grid"][:1]})
    found = finding(only, "number of clusters")
    assert found["level"] == "unknown"
    assert "K = 2 was given, not found" in found["text"]
    only["spectrum"]["halves"] = None
    assert finding(only, "other rows")["text"] == "Not measured: K was given, so the probe was not split."


@pytest.mark.parametrize(("distinguishable", "level"), [(True, "good"), (False, "care"), (None, "unknown")])
def test_a_number_that_noise_decided_is_said_to_be_one(distinguishable: bool | None, level: str) -> None:
    spectrum = small_report()["spectrum"] | {"distinguishable": distinguishable}
    found = finding(small_report(spectrum=spectrum), "number of clusters")
    assert found["level"] == level
    assert ("not distinguishable" in found["text"]) == (level == "care")


def test_a_failed_check_is_named_and_information_is_not_a_failure() -> None:
    checks = small_report()["diagnosis"]
    found = finding(small_report(), "gradients themselves")
    assert found["level"] == "good"
    assert "1 check on this base" in found["text"]
    failed = [*checks, checks[0] | {"check": "dropout off", "passed": False}]
    found = finding(small_report(diagnosis=failed), "gradients themselves")
    assert found["level"] == "bad"
    assert "dropout off failed" in found["text"]


def test_one_cluster_for_nearly_all_is_a_caution() -> None:
    clusters = small_report()["clusters"] | {"rows": [95, 5], "share": [0.95, 0.05], "warnings": []}
    found = finding(small_report(clusters=clusters), "large enough")
    assert found["level"] == "care"
    assert "the largest 95 (95 %): one expert does almost all the work" in found["text"]


def test_one_cluster_is_no_partition() -> None:
    clusters = small_report()["clusters"] | {"k": 1, "rows": [6], "share": [1.0], "warnings": []}
    found = judge(small_report(clusters=clusters))
    assert found["headline"] == "1 cluster. Usable, with 1 caution below."
    assert [each["level"] for each in found["findings"]] == ["good", "care", "good"]
    assert "one LoRA for all of them" in found["findings"][1]["text"]


def test_what_was_not_measured_is_said_with_its_reason() -> None:
    report = small_report(shuffle=None, quality=None, diagnosis=None)
    report["not_measured"] = {"shuffle": "one row"}
    assert finding(report, "order")["text"] == "Not measured: one row."
    assert finding(report, "agree more")["text"] == "Not measured in this run."
    assert "3 questions went unmeasured" in judge(report)["headline"]


def test_the_headline_is_the_worst_that_was_found() -> None:
    good = small_report(calibration=small_report()["calibration"] | {"converged": True})
    good["clusters"] |= {"warnings": []}
    good["router"] |= {"agreement": 0.95}
    found = judge(good)
    assert found["level"] == "good", found
    assert found["headline"] == "2 clusters. Nothing that was measured speaks against them."
    assert judge(small_report())["level"] == "care"
    assert judge(small_report())["headline"] == "2 clusters. Usable, with 3 cautions below."
    assert judge(with_shuffle(0.2))["level"] == "bad"
    assert judge(with_shuffle(0.2))["headline"] == "2 clusters. Don't rely on them yet: 1 problem below."


def test_warnings_of_all_stages_come_together() -> None:
    spectrum = small_report()["spectrum"] | {"warnings": ["K is noise."]}
    assert judge(small_report(spectrum=spectrum))["warnings"] == [
        "K is noise.",
        "A cluster is tiny.",
        "1 row could not be used; the list stands at the end of the page.",
    ]


@pytest.mark.parametrize(
    ("gate", "level", "said"),
    [
        (
            small_gate(),
            "good",
            "Yes: as served, the loss is 0.0182 nats per token below that of one LoRA",
        ),
        (
            small_gate(),
            "good",
            "(95 % interval 0.0048 to 0.0336) on 1,234 held-out rows. 1 of 2 experts answer",
        ),
        (small_gate((-0.01, -0.03, 0.01), kept=2), "care", "Not for sure: as served"),
        (small_gate((-0.01, -0.03, 0.01), kept=2), "care", "is -0.0100 [-0.0300, +0.0100] nats"),
        (small_gate((0, 0, 0), kept=0), "care", "No: no expert was shown to beat one LoRA"),
        (small_gate((0, 0, 0), kept=0), "care", "would be +0.0231 [+0.0123, +0.0345] nats"),
        (None, "unknown", "Not measured: router.gate is off"),
    ],
)
def test_the_first_question_is_whether_splitting_helps(
    gate: dict[str, Any] | None, level: str, said: str
) -> None:
    first = judge(small_report(gate=gate))["findings"][0]
    assert (first["topic"], first["level"]) == ("Does splitting help on your rows?", level)
    assert said in first["text"]
