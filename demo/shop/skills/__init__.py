"""The four things that the desk does with a letter, one a file."""

from demo.shop.skills.answer import ANSWER
from demo.shop.skills.skill import Ask, Skill
from demo.shop.skills.sql import SQL
from demo.shop.skills.summary import SUMMARY
from demo.shop.skills.triage import TRIAGE

ALL_SKILLS = (TRIAGE, ANSWER, SQL, SUMMARY)

__all__ = ["ALL_SKILLS", "Ask", "Skill"]
