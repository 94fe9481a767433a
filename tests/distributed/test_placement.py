"""Which bundle of a placement group each rank takes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from unigrpo.distributed.placement import sorted_by_node


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("AAAA", [0, 1, 2, 3]),
        ("ABBAAB", [0, 3, 4, 1, 2, 5]),
        # Four nodes with eight GPUs each, as Ray filled them.
        (
            "ABBBBBBBBAAAAAAACDDDDDDDDCCCCCCC",
            [0, *range(9, 16), *range(1, 9), 16, *range(25, 32), *range(17, 25)],
        ),
    ],
)
def test_ranks_of_one_node_follow_each_other(nodes: str, expected: list[int]) -> None:
    bundles = sorted_by_node(dict(reversed(list(enumerate(nodes)))))
    assert bundles == expected
    along_the_ranks = [nodes[bundle] for bundle in bundles]
    changes = sum(before != after for before, after in pairwise(along_the_ranks))
    assert changes == len(set(nodes)) - 1
