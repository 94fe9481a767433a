"""Tests the rewards of Countdown and Sudoku as d1 defines them, and checks of gold answers before a run."""

import json
from fractions import Fraction

import pytest

from rewards.base import RewardInput
from rewards.countdown import Countdown, value_of
from rewards.sudoku import Sudoku

PUZZLE = json.dumps({"numbers": [3, 5, 7], "target": 26})


def countdown(completion, label: str | None = PUZZLE, **metadata):
    return Countdown()([RewardInput(prompt="?", completion=completion, label=label, metadata=metadata)])[0]


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("<think>3*7=21</think><answer>3 * 7 + 5</answer>", 1.0),
        ("<answer>\n5 + 7*3\n</answer>", 1.0),
        ("<answer>1</answer> no: <answer>(7)*3--5</answer>", 1.0),
        ("<answer>3 * 7 + 5 = 26</answer>", 0.1),
        ("<answer>3 * 7 + 4</answer>", 0.1),
        ("<answer>26</answer>", 0.1),
        ("<answer>3 + 5 + 7</answer>", 0.1),
        ("<answer>35 - 7</answer>", 0.1),
        ("<answer>3 ** 5 - 7</answer>", 0.1),
        ("<answer>3 // 5 + 7</answer>", 0.1),
        ("<answer>3 / (5 - 5) + 7</answer>", 0.1),
        ("<answer>__import__('os')</answer>", 0.1),
        ("<answer></answer>", 0.1),
        ("3 * 7 + 5", 0.0),
        ("<answer>3 * 7 + 5", 0.0),
        ("", 0.0),
    ],
)
def test_a_calculation_has_the_reward_of_d1(completion, reward):
    assert countdown(completion) == reward


def test_values_are_exact():
    assert value_of("1 / 3 + 1 / 3 + 1 / 3", [1, 1, 1, 3, 3, 3]) == 1
    assert value_of("100 / 99", [99, 100]) == Fraction(100, 99)
    assert value_of("((((" * 100, []) is None
    assert value_of("-" * 150 + "1", [1]) in (1, None)


def test_the_puzzle_may_be_in_columns():
    assert countdown("<answer>3*7+5</answer>", label=None, nums=[3, 5, 7], target=26) == 1.0
    assert countdown("<answer>3*7+5</answer>", label="26", numbers=[7, 3, 5], target=26) == 1.0


@pytest.mark.parametrize("label", [None, "26", "[3, 5]", '{"numbers": [3, "5"], "target": 8}', '{"numbers": [3, 5]}'])
def test_a_prompt_without_a_puzzle_is_refused_before_the_run(label):
    with pytest.raises(ValueError, match=r'expected a gold like \{"numbers"'):
        Countdown().check_prompt(RewardInput(prompt="?", completion="", label=label))


def test_the_reward_of_the_format_can_be_chosen_below_1():
    with pytest.raises(ValueError, match="format_score is 1; expected 0 to below 1"):
        Countdown(format_score=1)


SUDOKU = json.dumps({"puzzle": "1030340020434321", "solution": "1234341221434321"})
"""A Sudoku with four empty cells."""


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("<answer>1234341221434321</answer>", 1.0),
        ("<answer>\n1234 3412\n2143 4321\n</answer>", 1.0),
        ("<answer>1234341221434321999</answer>", 1.0),
        ("<answer>1134341221434321</answer>", 0.8),
        ("<answer>1234</answer>", 0.4),
        ("<answer>1030340020434321</answer>", 0.0),
        ("<answer></answer>", 0.0),
        ("1234341221434321", 0.0),
    ],
)
def test_the_empty_cells_are_counted(completion, reward):
    item = RewardInput(prompt="?", completion=completion, label=SUDOKU)
    assert Sudoku()([item]) == [pytest.approx(reward)]


@pytest.mark.parametrize(
    ("puzzle", "solution"),
    [("", ""), ("1" * 16, "1" * 16), ("0" * 16, "0" * 16), ("0" * 15, "1" * 15), ("0" * 16, "1" * 81),
     ("." * 16, "1" * 16)],
)  # fmt: skip
def test_a_gold_that_is_no_sudoku_is_refused(puzzle, solution):
    label = json.dumps({"puzzle": puzzle, "solution": solution})
    with pytest.raises(ValueError, match="expected a gold like"):
        Sudoku().check_prompt(RewardInput(prompt="?", completion="", label=label))
