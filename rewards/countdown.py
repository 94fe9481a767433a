"""Reward for a calculation that reaches the target of a Countdown puzzle and uses each number once."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Sequence
from fractions import Fraction

from rewards.base import Reward, RewardInput, check_text_prompt, gold_columns
from rewards.reply import tagged_answer

ALLOWED = re.compile(r"[\d+\-*/().\s]+")
MAX_LENGTH = 200
"""Characters of a calculation. Six numbers with brackets need fewer."""
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


class Countdown(Reward):
    """1 for a right calculation in answer tags, ``format_score`` for other text in answer tags, 0 without answer tags.

    Source: d1 (arXiv:2504.12216), diffu-grpo/reward_func.py, countdown_reward_func. Fractions are exact here; d1
    compares floating-point numbers to 1e-5.
    """

    name = "countdown"
    range = (0.0, 1.0)
    unit = "1 if the target is reached"

    def __init__(self, format_score: float = 0.1) -> None:
        """Sets the reward of a wrong calculation.

        Args:
            format_score: Reward of answer tags with a wrong or impossible calculation inside, from 0 to below 1.

        Raises:
            ValueError: The value is out of range.
        """
        if not 0 <= format_score < 1:
            raise ValueError(f"countdown: format_score is {format_score}; expected 0 to below 1")
        self._format_score = format_score

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [self._score(item) for item in inputs]

    def check_prompt(self, prompt: RewardInput) -> None:
        check_text_prompt(prompt)
        puzzle_of(prompt)

    def _score(self, item: RewardInput) -> float:
        numbers, target = puzzle_of(item)
        found = tagged_answer(item.completion)
        if found is None:
            return 0.0
        return 1.0 if value_of(found.strip(), numbers) == target else self._format_score


def puzzle_of(item: RewardInput) -> tuple[list[int], int]:
    """Returns the numbers and the target of a sample, from its gold answer or its other columns.

    Raises:
        ValueError: There is no such puzzle.
    """
    columns = gold_columns(item)
    numbers, target = columns.get("numbers", columns.get("nums")), columns.get("target")
    if not isinstance(numbers, (list, tuple)) or not all(type(n) is int for n in numbers) or type(target) is not int:
        raise ValueError(
            f'expected a gold like {{"numbers": [3, 5, 7], "target": 21}}, or columns of these names; found '
            f"{item.label!r:.80}"
        )
    return list(numbers), target


def value_of(calculation: str, numbers: Sequence[int]) -> Fraction | None:
    """Returns the exact value of a calculation that uses exactly these numbers; None for any other text.

    >>> value_of("(3 + 5) / 2", [2, 3, 5]), value_of("3 + 5", [2, 3, 5])
    (Fraction(4, 1), None)
    """
    if len(calculation) > MAX_LENGTH or not ALLOWED.fullmatch(calculation):
        return None
    try:
        tree = ast.parse(calculation, mode="eval").body
        used: list[int] = []
        value = _evaluate(tree, used)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None
    return value if sorted(used) == sorted(numbers) else None


def _evaluate(node: ast.expr, used: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _evaluate(node.operand, used)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_evaluate(node.left, used), _evaluate(node.right, used))
    raise ValueError("only +, -, *, / and brackets are allowed")
