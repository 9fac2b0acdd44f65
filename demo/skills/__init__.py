"""The five skills of the demo's instruction rows, one a file."""

from demo.skills.arithmetic import ARITHMETIC
from demo.skills.code import CODE
from demo.skills.finance import FINANCE
from demo.skills.reversal import REVERSAL
from demo.skills.skill import Reply, Skill
from demo.skills.story import STORY

ALL_SKILLS = (ARITHMETIC, REVERSAL, CODE, STORY, FINANCE)

__all__ = ["ALL_SKILLS", "Reply", "Skill"]
