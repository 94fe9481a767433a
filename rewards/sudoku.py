"""Reward for Sudokus: the fraction of the empty cells that are filled as in the solution."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.base import Reward, RewardInput, check_text_prompt, gold_columns
from rewards.reply import tagged_answer


class Sudoku(Reward):
    """The fraction of the empty cells with the right digit in the answer tags; 0 without answer tags.

    Missing digits count as wrong, and digits after the last cell are ignored.

    Source: d1 (arXiv:2504.12216), diffu-grpo/reward_func.py, sudoku_reward_func.
    """

    name = "sudoku"
    range = (0.0, 1.0)
    unit = "fraction of the empty cells"

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [_score(item) for item in inputs]

    def check_prompt(self, prompt: RewardInput) -> None:
        check_text_prompt(prompt)
        puzzle_of(prompt)


def puzzle_of(item: RewardInput) -> tuple[str, str]:
    """Returns the puzzle, with 0 for an empty cell, and its solution, from the gold answer or the other columns.

    Raises:
        ValueError: There is no such puzzle.
    """
    columns = gold_columns(item)
    puzzle, solution = str(columns.get("puzzle", "")), str(columns.get("solution", ""))
    fits = len(puzzle) == len(solution) and len(puzzle) in (16, 81)
    if not fits or not (puzzle + solution).isdigit() or "0" not in puzzle or "0" in solution:
        raise ValueError(
            'expected a gold like {"puzzle": "10..", "solution": "12.."} of 16 or 81 digits with an empty cell, or '
            f"columns of these names; found {item.label!r:.80}"
        )
    return puzzle, solution


def _score(item: RewardInput) -> float:
    puzzle, solution = puzzle_of(item)
    found = tagged_answer(item.completion)
    if found is None:
        return 0.0
    digits = "".join(letter for letter in found if letter in "0123456789").ljust(len(puzzle), "0")
    empty = [place for place, cell in enumerate(puzzle) if cell == "0"]
    return sum(digits[place] == solution[place] for place in empty) / len(empty)
