"""Short code questions: the change as a Python function of any start.

A reply is parsed and evaluated over a handful of node types; it is never executed.
"""

import ast
from random import Random

from demo.skills.skill import Reply, Skill
from demo.world import Situation

# A function that adds a constant is told from any other sum or product of its nodes on these inputs.
TRIED_INPUTS = (0, 1, 7, 30, 100)


def _reply(situation: Situation, rng: Random) -> Reply:
    sign = "+" if situation.gain else "-"
    output = f"def left({situation.thing}):\n    return {situation.thing} {sign} {situation.change}"
    return Reply(output=output, answer=f"{sign}{situation.change}")


def _evaluate(node: ast.expr, argument: str, value: int) -> int:
    """The value of an expression of sums and differences of whole numbers and `argument`.

    Raises ValueError on any other node.
    """
    if isinstance(node, ast.Name) and node.id == argument:
        return value
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        left, right = _evaluate(node.left, argument, value), _evaluate(node.right, argument, value)
        return left + right if isinstance(node.op, ast.Add) else left - right
    raise ValueError(f"{type(node).__name__} is no part of a sum of {argument} and whole numbers")


def _check(answer: str, text: str) -> bool:
    try:
        match ast.parse(text).body:
            case [
                ast.FunctionDef(
                    args=ast.arguments(args=[argument]), body=[ast.Return(value=ast.expr() as result)]
                )
            ]:
                return all(_evaluate(result, argument.arg, x) == x + int(answer) for x in TRIED_INPUTS)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return False


CODE = Skill(
    name="code",
    kind="tale",
    asks=(
        "Write a python function for what {actor} has after this change.",
        "Give code from {thing} at the start to {thing} at the end.",
        "Turn this into a def with one argument.",
        "Make a small program of it.",
        "Show this change as a function of {thing}.",
        "Put the step in python for any start.",
        "Script it, so that the number may vary.",
        "Let the first number be a variable and return what is left.",
        "How do computers work out the next count?",
        "Implement what happens to the {thing}.",
        "Tell machines how to do this for every total.",
        "Say it in a form that can be run and called.",
        "So what does the source look like now?",
        "Go from input to output in general.",
    ),
    reply=_reply,
    check=_check,
)
