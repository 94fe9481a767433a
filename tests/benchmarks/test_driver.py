"""The simulated step over many GPUs sends what a step on Ray sends: samples once to each group, and no images."""

from __future__ import annotations

import pytest
from driver import SimulatedGroup, measured


class Doubler:
    def double(self, items: list[int], plus: int) -> list[int]:
        return [2 * item + plus for item in items]

    def tell(self, word: str) -> str:
        return word


def test_a_simulated_group_deals_items_and_counts_what_it_sends_and_gets() -> None:
    group = SimulatedGroup([Doubler() for _ in range(3)])
    assert group.map(Doubler.double, [1, 2, 3, 4], 5) == [7, 9, 11, 13]
    sent = group.num_bytes
    assert group.call(Doubler.tell, "x" * 1000) == ["x" * 1000] * 3
    assert 6 * 1000 < group.num_bytes - sent < 6 * 1200, "a thousand letters to each of three workers and back"


def test_bytes_grow_with_the_samples_and_not_with_the_images() -> None:
    small, large, twice = (measured(*sizes, num_steps=1) for sizes in ((2, 16, 16), (2, 16, 64), (4, 16, 16)))
    assert small["megabytes"] == large["megabytes"]
    assert twice["megabytes"][0] == pytest.approx(2 * small["megabytes"][0], rel=0.05)
    # Tokens, masks, steps and log-probabilities of 360 positions go out and back several times, without pixels.
    assert 0.01 < small["megabytes"][0] / 32 < 0.05
