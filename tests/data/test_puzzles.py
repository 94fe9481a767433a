"""Tests that generated puzzles can be solved, a Sudoku in one way only, and that held-out ones are not in the training
set."""

import itertools
import json
import operator

from unigrpo.data.puzzles import (
    SUDOKU_GRIDS,
    countdown_label,
    countdown_puzzle,
    is_held_out,
    sudoku_label,
    sudoku_puzzle,
)

OPERATIONS = (operator.add, operator.sub, operator.mul, operator.floordiv)


def reachable(numbers: tuple[int, ...]) -> set[int]:
    """Returns all positive integers that calculations without fractions give, by enumeration."""
    if len(numbers) == 1:
        return {numbers[0]}
    found: set[int] = set()
    for a, b in itertools.permutations(range(len(numbers)), 2):
        rest = [n for i, n in enumerate(numbers) if i not in (a, b)]
        for operation in OPERATIONS:
            if operation is operator.floordiv and numbers[a] % numbers[b]:
                continue
            value = operation(numbers[a], numbers[b])
            if value > 0:
                found |= reachable((*rest, value))
    return found


def test_every_target_can_be_reached():
    puzzles = [countdown_puzzle(1, index) for index in range(40)]
    assert {len(numbers) for numbers, _ in puzzles} == {3, 4}
    for numbers, target in puzzles:
        assert 10 <= target <= 100 and target in reachable(tuple(numbers))
    assert puzzles[3] == countdown_puzzle(1, 3) != countdown_puzzle(2, 3)


def is_complete(grid: str) -> bool:
    rows = [grid[4 * i : 4 * i + 4] for i in range(4)]
    columns = ["".join(row[i] for row in rows) for i in range(4)]
    boxes = [rows[r][c : c + 2] + rows[r + 1][c : c + 2] for r in (0, 2) for c in (0, 2)]
    return all(sorted(part) == list("1234") for part in (*rows, *columns, *boxes))


def solutions(puzzle: str) -> int:
    """Returns the number of ways to fill a puzzle, which are tried cell by cell."""
    if "0" not in puzzle:
        return int(is_complete(puzzle))
    place = puzzle.index("0")
    row, column = divmod(place, 4)
    seen = {puzzle[i] for i in range(16) if i // 4 == row or i % 4 == column
            or (i // 8 == row // 2 and i % 4 // 2 == column // 2)}  # fmt: skip
    return sum(solutions(puzzle[:place] + digit + puzzle[place + 1 :]) for digit in "1234" if digit not in seen)


def test_there_are_all_grids():
    assert len(set(SUDOKU_GRIDS)) == 288  # the known number of grids
    assert all(map(is_complete, SUDOKU_GRIDS))


def test_a_sudoku_has_one_solution():
    for index in range(40):
        puzzle, solution = sudoku_puzzle(1, index)
        assert puzzle.count("0") >= 4 and solutions(puzzle) == 1 and is_complete(solution)
        assert all(cell in ("0", digit) for cell, digit in zip(puzzle, solution, strict=True))


def test_about_a_tenth_is_held_out_depending_only_on_the_gold_answer():
    labels = [countdown_label(*countdown_puzzle(0, index)) for index in range(100)]
    labels += [sudoku_label(*sudoku_puzzle(0, index)) for index in range(100)]
    assert 5 <= sum(map(is_held_out, labels)) <= 40
    assert json.loads(labels[0])["target"] == countdown_puzzle(0, 0)[1]
