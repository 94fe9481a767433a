"""Compares DAPO's soft punishment of long responses with calculations by hand."""

from __future__ import annotations

import pytest

from rewards.base import RewardInput
from rewards.loading import load_reward


def punished(num_tokens: int, *, is_full_length: bool = False, **options: bool) -> float | None:
    reward = load_reward("overlong", {"max_tokens": 100, "cache_tokens": 20, **options})
    item = RewardInput(prompt="p", completion="c", num_tokens=num_tokens, is_full_length=is_full_length)
    return reward([item])[0]


@pytest.mark.parametrize(
    ("num_tokens", "expected"), [(0, 0.0), (79, 0.0), (80, 0.0), (85, -0.25), (99, -0.95), (100, -1.0), (300, -1.0)]
)
def test_the_punishment_falls_linearly_over_the_last_tokens(num_tokens: int, expected: float) -> None:
    assert punished(num_tokens) == pytest.approx(expected, abs=1e-12)


def test_texts_that_end_can_be_exempt() -> None:
    assert punished(100, full_length_only=True) == 0.0
    assert punished(100, full_length_only=True, is_full_length=True) == -1.0


def test_wrong_lengths_and_tasks_without_text_are_refused() -> None:
    for cache_tokens in (0, 101):
        with pytest.raises(ValueError, match=rf"cache_tokens is {cache_tokens}; it must lie in \(0, 100\]"):
            load_reward("overlong", {"max_tokens": 100, "cache_tokens": cache_tokens})
    with pytest.raises(ValueError, match="'t2i' generates no text"):
        load_reward("overlong", {"max_tokens": 9, "cache_tokens": 3}).check_prompt(
            RewardInput(prompt="p", completion="", task="t2i")
        )
