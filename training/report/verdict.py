"""Whether to trust a partition: what was measured, judged one question at a time, in plain words."""

from __future__ import annotations

from typing import Any, Literal

from scipy.stats import binomtest

from training.report.splitting import QUESTION, answer

Level = Literal["good", "care", "bad", "unknown"]

# Where a finding turns. All of them ours; docs/report.md says why.
SAME_PARTITION, LIKE_PARTITION = 0.9, 0.7  # adjusted Rand index over data orders
BETTER_THAN_RANDOM, WORTHWHILE = 2.0, 0.05  # variance reduction: times the random one, and by itself
ROUTER_AGREES = 0.9
ONE_FOR_ALL = 0.8  # share of the rows in the largest cluster


def judge(report: dict[str, Any]) -> dict[str, Any]:
    """Return the verdict on a whole report (see `training.report.report.write_report`).

    Returns:
        level: the worst of the findings that were made. headline: one sentence. findings: [{topic, level, text}].
        warnings: all that the stages warned of, [str].

    """
    questions = _OF_ONE_CLUSTER if report["clusters"]["k"] == 1 else _OF_A_PARTITION
    level, text = answer(report.get("gate"))
    findings = [_finding(QUESTION, level, text), *(question(report) for question in questions)]
    warnings = [
        warning
        for part in ("spectrum", "calibration", "clusters", "plan")
        for warning in (report.get(part) or {}).get("warnings") or []
    ]
    if report["rows"]["unusable"]:
        count = len(report["rows"]["unusable"])
        warnings.append(f"{_count(count, 'row')} could not be used; the list stands at the end of the page.")
    levels = [finding["level"] for finding in findings]
    worst: Level = "bad" if "bad" in levels else "care" if "care" in levels else "good"
    return {
        "level": worst,
        "headline": _headline(report["clusters"]["k"], levels),
        "findings": findings,
        "warnings": warnings,
    }


def missing(report: dict[str, Any], part: str) -> str:
    """Say that a part of the report was not measured, and why if the run told."""
    reason = (report.get("not_measured") or {}).get(part)
    return f"Not measured: {reason}." if reason else "Not measured in this run."


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share that was seen in `count` trials."""
    interval = binomtest(round(share * count), count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _headline(k: int, levels: list[str]) -> str:
    bad, care, unknown = (levels.count(level) for level in ("bad", "care", "unknown"))
    clusters = _count(k, "cluster")
    open_ = f" {_count(unknown, 'question')} went unmeasured." if unknown else ""
    if bad:
        return f"{clusters}. Don't rely on them yet: {_count(bad, 'problem')} below.{open_}"
    if care:
        return f"{clusters}. Usable, with {_count(care, 'caution')} below.{open_}"
    return f"{clusters}. Nothing that was measured speaks against them.{open_}"


def _count(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def _finding(topic: str, level: Level, text: str) -> dict[str, Any]:
    return {"topic": topic, "level": level, "text": text}


def _one(report: dict[str, Any]) -> dict[str, Any]:
    return _finding(
        "Is there a partition?",
        "care",
        "No: all rows lie in one cluster, so this is one LoRA for all of them, and nothing below can compare clusters.",
    )


def _distinguishable(report: dict[str, Any]) -> dict[str, Any]:
    topic = "Is the number of clusters real?"
    spectrum = report["spectrum"]
    tried = {point["k"] for point in spectrum["grid"]}
    if len(tried) == 1:
        return _finding(
            topic,
            "unknown",
            f"K = {spectrum['k']} was given, not found: no other number of clusters was tried.",
        )
    if spectrum.get("distinguishable") is None:
        return _finding(topic, "unknown", missing(report, "distinguishable"))
    range_ = f"{min(tried)} to {max(tried)}"
    if spectrum["distinguishable"]:
        text = (
            f"K = {spectrum['k']} of {range_} beats its neighbours in nearly all random splits of the probe."
        )
        return _finding(topic, "good", text)
    text = (
        f"K = {spectrum['k']} of {range_} is not distinguishable from all its neighbours: another draw of the probe "
        "could choose another. The partition may be useful all the same, but the number itself says little."
    )
    return _finding(topic, "care", text)


def _repeatable(report: dict[str, Any]) -> dict[str, Any]:
    """Never bad: half a probe is far less than what the clusters were made of."""
    topic = "Would other rows give the same clusters?"
    spectrum = report["spectrum"]
    halves = {each["k"]: each for each in (spectrum.get("halves") or {"by_k": []})["by_k"]}
    if len({point["k"] for point in spectrum["grid"]}) == 1:
        return _finding(topic, "unknown", "Not measured: K was given, so the probe was not split.")
    if spectrum["k"] not in halves:
        return _finding(topic, "unknown", missing(report, "halves"))
    found = halves[spectrum["k"]]["agreement"]
    said = (
        f"clusters made of one half of the {report['rows']['probe']:,} probe rows and of the other agree to an "
        f"adjusted Rand index of {found['mean']:.2f} (5 to 95 % of the splits: {found['low']:.2f} to "
        f"{found['high']:.2f})"
    )
    if found["mean"] >= LIKE_PARTITION:
        return _finding(topic, "good", f"Mostly: {said}.")
    return _finding(
        topic, "care", f"Only in part: {said}. More rows steady the clusters, or there is little to find."
    )


def _stable(report: dict[str, Any]) -> dict[str, Any]:
    topic = "Does the order of the rows decide it?"
    shuffle = report.get("shuffle")
    if not shuffle:
        return _finding(topic, "unknown", missing(report, "shuffle"))
    lowest = min(pair["ari"] for pair in shuffle["pairs"])
    said = (
        f"{shuffle['orders']} data orders over {shuffle['rows']:,} rows ({shuffle['on']}) agree with each other to an "
        f"adjusted Rand index of at least {lowest:.2f}"
    )
    if lowest >= SAME_PARTITION:
        return _finding(topic, "good", f"No: {said} (1 is the same partition).")
    if lowest >= LIKE_PARTITION:
        return _finding(topic, "care", f"In part: {said}, so some rows could as well lie elsewhere.")
    return _finding(topic, "bad", f"Yes: {said} only. Another order gives another partition.")


def _variance(report: dict[str, Any]) -> dict[str, Any]:
    topic = "Do gradients agree more inside clusters?"
    quality = report.get("quality")
    if not quality:
        return _finding(topic, "unknown", missing(report, "quality"))
    found = quality["unit"]
    exceeding = len(found["exceeding"])
    said = (
        f"The weighted mean of the clusters' gradient variance is {100 * found['reduction']:.1f} % below the whole's; "
        f"clusters of these sizes dealt out at random would reach {100 * found['at_random']:.1f} %. "
        + (
            "No cluster's own variance is above the whole's."
            if not exceeding
            else f"{_count(exceeding, 'cluster')} by itself is above the whole's."
            if exceeding == 1
            else f"{_count(exceeding, 'cluster')} by themselves are above the whole's."
        )
    )
    if found["reduction"] < BETTER_THAN_RANDOM * found["at_random"]:
        return _finding(topic, "bad", f"Hardly more than by chance. {said}")
    if found["reduction"] < WORTHWHILE:
        return _finding(topic, "care", f"A little. {said}")
    return _finding(topic, "good", said)


def _router(report: dict[str, Any]) -> dict[str, Any]:
    topic = "Can the router tell the clusters apart?"
    router = report["router"]
    low, high = wilson(router["agreement"], router["held_out_rows"])
    largest = max(report["clusters"]["share"])
    said = (
        f"From the prompt alone it names the cluster of {100 * router['agreement']:.1f} % of "
        f"{router['held_out_rows']:,} held-out rows (95 % interval {100 * low:.0f} to {100 * high:.0f} %). Always "
        f"naming the largest cluster would be right for about {100 * largest:.0f} %"
    )
    if low <= largest:
        return _finding(topic, "bad", f"{said}, which it does not surely beat.")
    return _finding(topic, "good" if router["agreement"] >= ROUTER_AGREES else "care", f"{said}.")


def _sizes(report: dict[str, Any]) -> dict[str, Any]:
    topic = "Is each cluster large enough to train on?"
    rows = report["clusters"]["rows"]
    largest = max(report["clusters"]["share"])
    said = f"The smallest has {_count(min(rows), 'training row')}, the largest {max(rows):,} ({100 * largest:.0f} %)"
    if largest >= ONE_FOR_ALL:
        return _finding(topic, "care", f"{said}: one expert does almost all the work.")
    if report["clusters"]["warnings"]:
        return _finding(topic, "care", f"{said}, after clusters were merged; see the warnings.")
    return _finding(topic, "good", f"{said}.")


def _converged(report: dict[str, Any]) -> dict[str, Any]:
    topic = "Have the clusters settled?"
    epochs = report["calibration"]["epochs"]
    last = epochs[-1]
    said = f"in the last of {_count(len(epochs), 'epoch')}, {100 * last['churn']:.2f} % of the rows changed cluster"
    if report["calibration"]["converged"]:
        return _finding(topic, "good", f"Yes: {said}.")
    return _finding(topic, "care", f"Not by the recipe's measure: it stopped at the epoch limit; {said}.")


def _diagnosed(report: dict[str, Any]) -> dict[str, Any]:
    topic = "Are the gradients themselves right?"
    checks = report.get("diagnosis")
    if not checks:
        return _finding(topic, "unknown", missing(report, "diagnosis"))
    failed = [check["check"] for check in checks if check["passed"] is False]
    passed = sum(check["passed"] is True for check in checks)
    if failed:
        return _finding(topic, "bad", f"Not all: {', '.join(failed)} failed on this base and adapter.")
    if not passed:
        return _finding(topic, "unknown", "No check could be made on this base and adapter.")
    return _finding(
        topic, "good", f"Yes: {_count(passed, 'check')} on this base and adapter passed, none failed."
    )


_OF_ONE_CLUSTER = (_one, _diagnosed)
_OF_A_PARTITION = (
    *(_distinguishable, _repeatable, _stable, _variance),
    *(_router, _sizes, _converged, _diagnosed),
)
