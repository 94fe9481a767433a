"""Tests that a simulated step over many GPUs sends the same data as on Ray: samples once to each group, and no
images."""

from __future__ import annotations

import pytest
from driver import SimulatedGroup, measured


class Doubler:
    def double(self, items: list[int], plus: int) -> list[int]:
        return [2 * item + plus for item in items]

    def tell(self, word: str) -> str:
        return word


def test_a_simulated_group_distributes_items_and_counts_the_bytes_that_it_sends_and_receives() -> None:
    group = SimulatedGroup([Doubler() for _ in range(3)])
    assert group.map(Doubler.double, [1, 2, 3, 4], 5) == [7, 9, 11, 13]
    sent = group.num_bytes
    assert group.call(Doubler.tell, "x" * 1000) == ["x" * 1000] * 3
    assert 6 * 1000 < group.num_bytes - sent < 6 * 1200, "three workers get and return a thousand letters each"


def test_bytes_grow_with_the_samples_and_not_with_the_images() -> None:
    small, large, twice = (measured(*sizes, num_steps=1) for sizes in ((2, 16, 16), (2, 16, 64), (4, 16, 16)))
    assert small["megabytes"] == large["megabytes"]
    assert twice["megabytes"][0] == pytest.approx(2 * small["megabytes"][0], rel=0.05)
    # Tokens, masks, steps and log-probabilities of 360 positions are sent several times, and pixels are not.
    assert 0.01 < small["megabytes"][0] / 32 < 0.05
