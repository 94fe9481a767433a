"""Questions of number puzzles, for data sets that contain only the numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence


def countdown_question(numbers: Sequence[int], target: int) -> str:
    """Returns the request of a Countdown puzzle.

    >>> countdown_question([3, 5, 7], 21)[:54]
    'Reach 21 by a calculation with the numbers 3, 5 and 7.'
    """
    listed = ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
    return (
        f"Reach {target} by a calculation with the numbers {listed}. Use each number exactly once, and +, -, *, / and "
        "brackets as you need them. Give the calculation, such as (1 + 2) / 3, between <answer> and </answer>."
    )


def countdown_label(numbers: Sequence[int], target: int) -> str:
    """Returns the gold of a Countdown puzzle, numbers and target as JSON, because many calculations are right."""
    return json.dumps({"numbers": list(numbers), "target": target})


def sudoku_question(puzzle: str) -> str:
    """Returns the request of a Sudoku.

    Args:
        puzzle: The cells row by row, 0 for an empty one: 16 or 81 digits.
    """
    side = 4 if len(puzzle) == 16 else 9
    box = 2 if side == 4 else 3
    return (
        f"Solve this {side}x{side} Sudoku, given row by row, where 0 is an empty cell: {puzzle}\nEach row, each "
        f"column and each {box}x{box} box holds every digit from 1 to {side} once. Give all {len(puzzle)} digits of "
        "the solution row by row, without spaces, between <answer> and </answer>."
    )


def sudoku_label(puzzle: str, solution: str) -> str:
    """Returns the gold of a Sudoku, puzzle and solution as JSON, because only empty cells count."""
    return json.dumps({"puzzle": puzzle, "solution": solution})
