"""Number puzzles: questions for data sets that contain only the numbers, and new puzzles."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence

import torch

from unigrpo.rng import keyed_generator


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
    """Returns the gold answer of a Countdown puzzle: numbers and target as JSON, since many calculations are right."""
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
    """Returns the gold answer of a Sudoku: puzzle and solution as JSON, because only empty cells are scored."""
    return json.dumps({"puzzle": puzzle, "solution": solution})


def countdown_puzzle(seed: int, index: int) -> tuple[list[int], int]:
    """Returns numbers and a target that can be reached with each of them once.

    Three or four numbers below 100 are combined in random order by operations whose results are positive integers,
    until one is left that lies between 10 and 100, as in Countdown-Tasks-3to4.

    Args:
        seed: Chooses the puzzles.
        index: Number of the puzzle.
    """
    generator = keyed_generator(seed, "countdown", index)
    while True:
        numbers = [_integer(generator, 1, 100) for _ in range(_integer(generator, 3, 5))]
        left = list(numbers)
        while len(left) > 1:
            a, b = (left.pop(_integer(generator, 0, len(left))) for _ in range(2))
            results = [a + b, a * b, *([a - b] if a > b else []), *([a // b] if a % b == 0 else [])]
            left.append(results[_integer(generator, 0, len(results))])
        if 10 <= left[0] <= 100:
            return numbers, left[0]


def sudoku_puzzle(seed: int, index: int) -> tuple[str, str]:
    """Returns a 4x4 Sudoku that has one solution only, and this solution.

    Args:
        seed: Chooses the puzzles.
        index: Number of the puzzle.
    """
    generator = keyed_generator(seed, "sudoku", index)
    grids = SUDOKU_GRIDS
    solution = grids[_integer(generator, 0, len(grids))]
    cells = list(solution)
    num_empty = _integer(generator, 6, 13)
    for place in torch.randperm(16, generator=generator).tolist():
        kept, cells[place] = cells[place], "0"
        fitting = sum(all(cell in ("0", digit) for cell, digit in zip(cells, grid, strict=True)) for grid in grids)
        if fitting > 1:
            cells[place] = kept
        if cells.count("0") == num_empty:
            break
    return "".join(cells), solution


def is_held_out(label: str) -> bool:
    """Whether a puzzle belongs to the tenth of puzzles that no training file has; this depends only on its gold."""
    return hashlib.blake2b(label.encode(), digest_size=8).digest()[0] % 10 == 0


def _integer(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high, (1,), generator=generator))


def _sudoku_grids() -> list[str]:
    """Returns all 288 complete 4x4 grids."""
    rows = list(itertools.permutations("1234"))
    grids: list[tuple[tuple[str, ...], ...]] = [()]
    for number in range(4):
        grids = [(*grid, row) for grid in grids for row in rows if _row_fits(grid, row, number)]
    return ["".join("".join(row) for row in grid) for grid in grids]


def _row_fits(grid: tuple[tuple[str, ...], ...], row: tuple[str, ...], number: int) -> bool:
    if any(row[i] == above[i] for above in grid for i in range(4)):
        return False
    return number % 2 == 0 or all(len({*row[i : i + 2], *grid[-1][i : i + 2]}) == 4 for i in (0, 2))


SUDOKU_GRIDS = _sudoku_grids()
