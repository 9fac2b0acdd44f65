"""The demo's rows: deterministic, split by facts, exactly checked, and not given away by a keyword."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from random import Random

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from demo.row_file import prompt_of
from demo.rows import SKILLS, is_correct, make_rows
from demo.skills import ALL_SKILLS
from demo.world import draw_situation, draw_situations

ROOT = Path(__file__).resolve().parents[2]
TALE_SKILLS = {skill.name for skill in ALL_SKILLS if skill.kind == "tale"}
# The best rule "the prompt (does not) hold this word" may decide a skill with at most this balanced accuracy.
ONE_WORD_BOUND = 0.75
WORD = r"[A-Za-z]+"


@pytest.fixture(scope="module")
def train() -> list[dict[str, str]]:
    return make_rows(400, 0, "train")


@pytest.fixture(scope="module")
def heldout() -> list[dict[str, str]]:
    return make_rows(400, 0, "heldout")


def test_rows_follow_from_their_arguments_alone(train: list[dict[str, str]]) -> None:
    assert make_rows(400, 0, "train") == train
    assert make_rows(400, 1, "train") != train
    assert {key for row in train for key in row} == {"instruction", "input", "output", "source", "answer"}
    assert all(sum(row["source"] == name for row in train) == 400 for name in SKILLS)
    # The skills come mixed, and the request with and without an input of its own.
    assert len({row["source"] for row in train[:40]}) == len(SKILLS)
    assert 0.2 < sum(bool(row["input"]) for row in train) / len(train) < 0.5


def test_no_prompt_repeats_within_or_across_splits_at_any_count_or_seed() -> None:
    sides: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for split, seed, count in (
        ("train", 0, 1500),
        ("heldout", 0, 1500),
        ("train", 7, 700),
        ("heldout", 7, 700),
    ):
        prompts = [prompt_of(row) for row in make_rows(count, seed, split)]
        assert len(prompts) == len(set(prompts)) == count * len(SKILLS)
        sides[split] |= set(prompts)
    assert not sides["train"] & sides["heldout"]


def test_no_facts_repeat_within_or_across_splits() -> None:
    # Enough of the fewer kind that chance alone would repeat some hundreds.
    train = [situation.facts for situation in draw_situations("account", 8000, 0, "train")]
    heldout = [situation.facts for situation in draw_situations("account", 4000, 1, "heldout")]
    assert len(set(train)) == 8000
    assert len(set(heldout)) == 4000
    assert not set(train) & set(heldout)


def test_every_fact_shows_in_the_situation() -> None:
    rng = Random(0)
    for kind in ("tale", "account"):
        for _ in range(300):
            situation = draw_situation(kind, rng)
            shown = {situation.actor, situation.other, str(situation.start), str(situation.change)}
            assert shown <= set(re.findall(r"\w+", situation.text))
            assert kind == "account" or situation.thing in situation.text
            change = situation.change if situation.gain else -situation.change
            assert value_of(situation.end) == situation.start + change >= 1
            assert value_of(situation.reversed_end) == situation.start - change


def test_every_reference_output_passes_its_own_check(train: list[dict[str, str]]) -> None:
    for row in train:
        assert is_correct(row, row["output"]), row
        assert is_correct(row, f" {row['output']}</s><|user|>What else?"), row


def _wrong(row: dict[str, str]) -> list[str]:
    """Replies that are each wrong in one point."""
    output = row["output"]
    if row["source"] == "code":
        name = re.search(r"\((\w+)\)", output).group(1)  # type: ignore[union-attr]
        number = int(output.split()[-1])
        return [
            output.replace("+", "*").replace("-", "*"),
            output.replace("-", "~").replace("+", "-").replace("~", "+"),
            output.replace(f" {number}", f" {number + 1}"),
            output.replace("return", "print"),
            output.replace("def ", "async def "),
            f"def left({name}):\n    return {number}",
            f"def left({name}):\n    return __import__('os').getcwd() or {name} + {number}",
            f"{output}\n{output}",
            f"import os\n{output}",
            f"Answer: {number}",
        ]
    if row["source"] == "story":
        return [
            output.replace(row["answer"], "things"),
            output.removesuffix(" The end."),
            output.replace(" The end.", " All slept. The end."),
            output.replace("The end.", "9 slept. The end."),
            f"{output} And then",
        ]
    start, sign, change = row["answer"].split()
    return [
        f"Answer: {start} {'-' if sign == '+' else '+'} {change}",
        f"Answer: {int(start) + 1} {sign} {change}",
        f"Answer: {start} {sign} {change}0",
        f"Answer: {value_of(row['answer'])}",
        f"{row['answer']}",
        f"{output} coins",
    ]


def value_of(sum_: str) -> int:
    start, sign, change = sum_.split()
    return int(start) + (int(change) if sign == "+" else -int(change))


def test_wrong_replies_fail(train: list[dict[str, str]]) -> None:
    for row in train:
        for text in ("", "</s>", *_wrong(row)):
            assert not is_correct(row, text), (row, text)


def test_code_is_judged_by_what_it_computes_whatever_its_names() -> None:
    row = {"source": "code", "answer": "-5"}
    assert is_correct(row, "def f(x):\n    return x - 5")
    assert is_correct(row, "def f(x):\n    return x - 2 - 3")
    assert not is_correct(row, "def f(x):\n    return 5 - x")
    assert not is_correct(row, "def f(x):\n    return y - 5")
    assert not is_correct(row, "def f(x, y):\n    return x - 5")


def test_no_skill_replies_to_another_skills_request(train: list[dict[str, str]]) -> None:
    """Arithmetic and reversal share situations and the form of answer, and never agree on one."""
    by_situation: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for row in make_rows(400, 0, "train"):
        if row["input"]:
            by_situation[row["input"]][row["source"]] = row
    pairs = [rows for rows in by_situation.values() if {"arithmetic", "reversal"} <= rows.keys()]
    assert len(pairs) > 20
    for rows in pairs:
        assert rows["arithmetic"]["answer"] != rows["reversal"]["answer"]
        assert not is_correct(rows["arithmetic"], rows["reversal"]["output"])


def test_tale_skills_tell_the_same_situations_and_finance_none_of_them(train: list[dict[str, str]]) -> None:
    told: dict[str, set[str]] = defaultdict(set)
    for row in train:
        if row["input"]:
            told[row["source"]].add(row["input"])
    everything = {
        name: "\n".join(prompt_of(row) for row in train if row["source"] == name) for name in SKILLS
    }
    for name in TALE_SKILLS:
        for situation in told[name]:
            assert all(situation in everything[other] for other in TALE_SKILLS)
    assert not any(situation in everything["arithmetic"] for situation in told["finance"])


def test_finance_and_arithmetic_do_the_same_sum_in_the_same_form(train: list[dict[str, str]]) -> None:
    for row in train:
        if row["source"] in ("arithmetic", "finance", "reversal"):
            assert re.fullmatch(r"Answer: \d{1,2} [-+] \d", row["output"])
    row = {"source": "finance", "answer": "12 - 3"}
    assert is_correct(row, "Answer: 12 - 3")
    assert not is_correct(row, "Answer: 12 + 3")


def test_no_single_word_decides_a_skill_and_a_linear_model_does(
    train: list[dict[str, str]], heldout: list[dict[str, str]]
) -> None:
    sources = np.array([row["source"] for row in train])
    words = CountVectorizer(binary=True, token_pattern=WORD)
    present = words.fit_transform([prompt_of(row) for row in train]).toarray()
    for name in SKILLS:
        inside, outside = present[sources == name].mean(0), present[sources != name].mean(0)
        balanced = 0.5 + np.abs(inside - outside) / 2
        best = balanced.argmax()
        assert balanced[best] <= ONE_WORD_BOUND, (name, words.get_feature_names_out()[best], balanced[best])
    for one, other in ((a, b) for a in TALE_SKILLS for b in TALE_SKILLS if a < b):
        gap = np.abs(present[sources == one].mean(0) - present[sources == other].mean(0))
        assert 0.5 + gap.max() / 2 <= ONE_WORD_BOUND, (
            one,
            other,
            words.get_feature_names_out()[gap.argmax()],
        )

    bigrams = CountVectorizer(ngram_range=(1, 2), token_pattern=WORD)
    linear = LogisticRegression(max_iter=300).fit(
        bigrams.fit_transform([prompt_of(r) for r in train]), sources
    )
    right = linear.predict(bigrams.transform([prompt_of(r) for r in heldout])) == [
        r["source"] for r in heldout
    ]
    assert right.mean() > 0.95


def test_the_command_writes_the_same_rows(tmp_path: Path) -> None:
    output = tmp_path / "new" / "rows.jsonl"
    command = [sys.executable, "-m", "demo.rows", "--per-skill", "5", "--seed", "4", "--split", "heldout"]
    done = subprocess.run([*command, "--output", str(output)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "25 rows of 5 skills" in done.stdout
    assert [json.loads(line) for line in output.read_text().splitlines()] == make_rows(5, 4, "heldout")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split: 'test' is none of train, heldout"):
        make_rows(1, 0, "test")  # type: ignore[arg-type]
