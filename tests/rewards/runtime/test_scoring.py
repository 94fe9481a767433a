"""Tests the results of a call of a reward: values, or missing values with a reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rewards.base import Reward, RewardInput
from rewards.runtime.scoring import Scores, score

INPUTS = [RewardInput(prompt=str(i), completion="") for i in range(3)]


class Gives(Reward):
    """A reward that returns a given result."""

    name, range, unit = "gives", (0.0, 1.0), "x"

    def __init__(self, answer: Callable[[], Any], numbers: Any = ()) -> None:
        self.answer, self.numbers = answer, numbers

    def __call__(self, inputs: Sequence[RewardInput]) -> Any:
        return self.answer()

    def logs(self) -> Any:
        return self.numbers


def raises(error: BaseException) -> Any:
    raise error


def test_numbers_are_the_scores_and_logged_numbers_go_to_the_metrics() -> None:
    found = score(Gives(lambda: [1, 0.5, True], {"mean": 0.25, "n": 3}), INPUTS)
    assert found == Scores(values=[1.0, 0.5, 1.0], logs={"mean": 0.25, "n": 3.0})


@pytest.mark.parametrize("numbers", [None, {"mean": "high"}, [1.0]])
def test_unreadable_numbers_for_the_metrics_do_not_affect_rewards(numbers: Any) -> None:
    assert score(Gives(lambda: [1.0, 2.0, 3.0], numbers), INPUTS) == Scores(values=[1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("odd", "reason"),
    [(None, "returned None"), (math.nan, "returned nan"), (-math.inf, "returned -inf"), (1e300, "returned 1e+300")],
)
def test_a_value_that_is_no_finite_number_is_missing_for_its_sample_alone(odd: Any, reason: str) -> None:
    found = score(Gives(lambda: [1.0, odd, 0.0]), INPUTS)
    assert (found.values, found.reason, found.has_failed) == ([1.0, None, 0.0], reason, False)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda: (1.0, 2.0, 3.0), "returned tuple; it must return a list of numbers"),
        (lambda: [1.0], "returned 1 values for 3 samples"),
        (lambda: ["1.0", 2.0, 3.0], "returned something that is no number: TypeError: '1.0'"),
        (lambda: [b"1", 2.0, 3.0], "returned something that is no number: TypeError: b'1'"),
        (lambda: raises(SystemExit(3)), "raised SystemExit: 3"),
        (lambda: raises(ZeroDivisionError("in the reward")), "raised ZeroDivisionError: in the reward"),
    ],
)
def test_a_call_that_fails_is_missing_for_every_sample_with_its_reason(answer: Callable[[], Any], reason: str) -> None:
    found = score(Gives(answer), INPUTS)
    assert (found.values, found.has_failed, found.is_out_of_memory) == ([None] * 3, True, False)
    assert found.reason.startswith(reason)


def test_a_call_that_ran_out_of_memory_asks_for_another_process() -> None:
    found = score(Gives(lambda: raises(MemoryError())), INPUTS)
    assert found.is_out_of_memory
    assert "this process has taken all the memory that it may" in found.reason


def test_ctrl_c_is_not_taken_for_an_error_of_the_reward() -> None:
    with pytest.raises(KeyboardInterrupt):
        score(Gives(lambda: raises(KeyboardInterrupt())), INPUTS)
