"""The shop's rows: deterministic, nothing shared between their parts, and judged by rules that can say no."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import get_args

import pytest

from demo.row_file import Record, prompt_of
from demo.shop.database import rows_of, shop_database
from demo.shop.letter import draw_letters
from demo.shop.rows import SHOP, is_correct, make_rows
from demo.shop.skills import ALL_SKILLS
from demo.shop.words import WORDS
from demo.split import Split

ROOT = Path(__file__).resolve().parents[2]
PARTS: tuple[Split, ...] = get_args(Split)
PER_SKILL = 60


@pytest.fixture(scope="module")
def rows() -> dict[Split, list[Record]]:
    return {part: make_rows(PER_SKILL, 0, part) for part in PARTS}


def _one(rows: dict[Split, list[Record]], skill: str, **facts: str) -> tuple[Record, str]:
    """A held-out row of this skill with these facts, and its own reply."""
    row = next(
        row
        for row in rows["heldout"]
        if row["source"] == skill and facts.items() <= json.loads(row["answer"]).items()
    )
    return row, row["output"]


def test_rows_follow_from_their_arguments_alone(rows: dict[Split, list[Record]]) -> None:
    assert make_rows(PER_SKILL, 0, "train") == rows["train"]
    assert make_rows(PER_SKILL, 1, "train") != rows["train"]
    with pytest.raises(ValueError, match="'test' is none of train, heldout, routing"):
        make_rows(1, 0, "test")  # type: ignore[arg-type]


@pytest.mark.parametrize("part", PARTS)
def test_the_same_letters_for_every_skill(rows: dict[Split, list[Record]], part: Split) -> None:
    orders = {
        skill: sorted(json.loads(row["answer"])["order"] for row in rows[part] if row["source"] == skill)
        for skill in SHOP.skills
    }
    assert all(found == orders["triage"] for found in orders.values())
    assert len(set(orders["triage"])) == PER_SKILL


@pytest.mark.parametrize("part", PARTS)
def test_every_reply_is_right_and_no_other_skill_s(rows: dict[Split, list[Record]], part: Split) -> None:
    assert all(is_correct(row, row["output"]) for row in rows[part])
    replies = {(json.loads(row["answer"])["order"], row["source"]): row["output"] for row in rows[part]}
    for row in rows[part]:
        order = json.loads(row["answer"])["order"]
        others = [replies[order, skill] for skill in SHOP.skills if skill != row["source"]]
        assert not any(is_correct(row, reply) for reply in others)


@pytest.mark.parametrize(("one", "other"), list(combinations(PARTS, 2)))
def test_parts_share_no_words_of_their_own(one: Split, other: Split) -> None:
    for field in ("first_names", "last_names", "products"):
        assert not {*getattr(WORDS[one], field)} & {*getattr(WORDS[other], field)}
    for field in ("problems", "wishes", "hurry"):
        said = [
            {text for texts in getattr(WORDS[part], field).values() for text in texts if text}
            for part in (one, other)
        ]
        assert not said[0] & said[1]
    orders = [{letter.order for letter in draw_letters(500, 3, part)} for part in (one, other)]
    assert not orders[0] & orders[1]
    for skill in ALL_SKILLS:
        assert not {ask.text for ask in skill.asks[one]} & {ask.text for ask in skill.asks[other]}
        assert {ask.about for ask in skill.asks[one]} == {ask.about for ask in skill.asks[other]}


@pytest.mark.parametrize("part", PARTS)
def test_no_request_stands_for_two_skills(part: Split) -> None:
    texts = [ask.text for skill in ALL_SKILLS for ask in skill.asks[part]]
    assert len(set(texts)) == len(texts)


def test_a_ticket_has_these_fields_and_these_values(rows: dict[Split, list[Record]]) -> None:
    row, reply = _one(rows, "triage", category="damage", urgency="high")
    ticket = json.loads(reply)
    assert is_correct(row, f" {json.dumps(ticket, indent=2)}\n")
    for broken in (
        ticket | {"category": "delivery"},
        ticket | {"urgency": "low"},
        ticket | {"order": ticket["order"] + 1},
        ticket | {"order": str(ticket["order"])},
        ticket | {"note": "please"},
        {"category": "damage", "urgency": "high"},
    ):
        assert not is_correct(row, json.dumps(broken))
    assert not is_correct(row, f"Here you are: {reply}")
    assert not is_correct(row, reply[:-1])


def test_an_answer_keeps_the_house_s_rules(rows: dict[Split, list[Record]]) -> None:
    row, reply = _one(rows, "answer", wish="refund", urgency="high")
    greeting, body, sign_off = reply.splitlines()
    assert is_correct(
        row, f"{greeting}\nwe are glad that you wrote about {body.partition('about ')[2]}\n{sign_off}"
    )
    order = json.loads(row["answer"])["order"]
    for broken in (
        f"Dear customer,\n{body}\n{sign_off}",
        f"{greeting}\n{body}",
        f"{greeting}\n{body}\nKind regards",
        reply.replace(str(order), str(order + 1)),
        reply.replace("pay the money back", "send a correct invoice"),
        reply.replace("today", "this week"),
        reply.replace(" We will pay", " We will call. We will pay"),
        reply.replace("today.", "today. It will take 5 days."),
        reply.replace("thank you", "thank you very much!"),
        f"{greeting}\n{'really ' * 40}\n{body}\n{sign_off}",
    ):
        assert broken != reply
        assert not is_correct(row, broken)


def test_a_summary_has_two_lines_with_what_and_who(rows: dict[Split, list[Record]]) -> None:
    row, reply = _one(rows, "summary", category="damage", wish="replacement")
    first, second = reply.splitlines()
    facts = json.loads(row["answer"])
    assert is_correct(row, f"{first[:-1]}, sadly.\n{second}")
    for broken in (
        f"{first} {second}",
        f"{second}\n{first}",
        f"{reply}\nThat is all.",
        reply.replace(str(facts["order"]), "the order"),
        reply.replace("is damaged", "has not arrived"),
        reply.replace("a new one", "the money back"),
        reply.replace("a new one", "a new one and the money back"),
        reply.replace(facts["customer"], "The customer"),
        reply.replace(facts["product"], "thing"),
        f"{first}\n{'really ' * 10}{second}",
    ):
        assert broken != reply
        assert not is_correct(row, broken)


@pytest.mark.parametrize("about", ["status", "paid", "stock", "history", "buyers"])
def test_a_query_is_judged_by_what_it_finds(rows: dict[Split, list[Record]], about: str) -> None:
    row, reply = _one(rows, "sql", about=about)
    column, _, table_and_condition = reply.removeprefix("SELECT ").partition(" FROM ")
    table, _, condition = table_and_condition.rstrip(";").partition(" WHERE ")
    assert is_correct(row, f"select t.{column} from {table} as t where {condition} order by 1 desc")
    for broken in (
        f"SELECT {column} FROM {table};",
        f"SELECT * FROM {table} WHERE {condition};",
        f"SELECT {column} FROM {table} WHERE NOT {condition};",
        f"SELECT {column} FROM clients WHERE {condition};",
        f"SELECT {column} FROM {table} WHERE 1 = 0;",
        f"{reply} DROP TABLE orders;",
        f"The query is: {reply}",
        "",
    ):
        assert not is_correct(row, broken)


def test_questions_about_a_letter_find_different_rows(rows: dict[Split, list[Record]]) -> None:
    """Else a query of the wrong kind could be right by chance."""
    asked = {json.loads(row["answer"])["about"]: row for row in rows["heldout"] if row["source"] == "sql"}
    letter = draw_letters(1, 0, "heldout")[0]
    facts = {"customer": letter.customer, "product": letter.product, "order": letter.order}
    found = []
    with shop_database(letter) as connection:
        for row in asked.values():
            its = json.loads(row["answer"])
            query = row["output"]
            for name, value in facts.items():
                query = query.replace(str(its[name]), str(value))
            found.append(rows_of(connection, query))
            assert found[-1]
    assert len(found) == 5
    assert all(one != other for one, other in combinations(found, 2))


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM orders;",
        "PRAGMA query_only = OFF;",
        "ATTACH 'elsewhere.db' AS elsewhere;",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n;",
    ],
)
def test_a_query_changes_nothing_and_comes_to_an_end(query: str) -> None:
    with shop_database(draw_letters(1, 0, "train")[0]) as connection:
        assert rows_of(connection, query) is None
        assert rows_of(connection, "SELECT count(*) FROM orders")


def test_prompts_are_short_and_no_two_parts_share_one(rows: dict[Split, list[Record]]) -> None:
    prompts = {part: {prompt_of(row) for row in rows[part]} for part in PARTS}
    assert all(not prompts[one] & prompts[other] for one, other in list(combinations(PARTS, 2)))
    assert all(len(re.findall(r"\w+", prompt)) <= 40 for part in PARTS for prompt in prompts[part])


def test_the_command_writes_the_rows(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "rows.jsonl"
    command = [sys.executable, "-m", "demo.shop", "--per-skill", "5", "--seed", "4", "--split", "heldout"]
    done = subprocess.run(
        [*command, "--output", str(file)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"20 rows of 4 skills (heldout, seed 4) in {file}\n"
    assert [json.loads(line) for line in file.read_text().splitlines()] == make_rows(5, 4, "heldout")
