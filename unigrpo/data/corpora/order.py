"""The order of samples: shuffled epochs and mixtures as functions of the position, without saved state."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

import torch

from unigrpo import DataError
from unigrpo.rng import keyed_generator

MIXTURE_BLOCK = 1000
"""Number of positions in which every source has its exact number of samples; weights are rounded to this."""
ROUNDS = 4
"""Number of rounds of the shuffle; a Feistel network with four rounds is close to a random permutation."""


def rank_positions(first: int, count: int, rank: int, world_size: int) -> range:
    """Returns the positions of one rank (or loader process) among ``count`` positions from ``first`` on.

    The ranks have no position in common, and together they have the positions of a single rank.

    >>> list(rank_positions(8, 4, 0, 2)), list(rank_positions(8, 4, 1, 2))
    ([8, 10], [9, 11])
    """
    return range(first + rank, first + count, world_size)


def shuffled_index(place: int, size: int, *key: int | str) -> int:
    """Returns the item at a place in endless shuffled epochs: each epoch has every item once, in an order of its own.

    The function needs no memory, whatever the size.

    Args:
        place: Place in the sequence, from 0; the epoch is ``place // size``.
        size: Number of items.
        key: Key of the shuffles.

    Source:
        Format-preserving permutation by cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
        CT-RSA 2002, section 3 and 4. Seen as numbers of two halves, the items go through a Feistel network until the
        result is an item again.
    """
    epoch, index = divmod(place, size)
    half = max((size - 1).bit_length() + 1, 2) // 2
    prefix = repr((*key, epoch)).encode()
    while True:
        left, right = index >> half, index & ((1 << half) - 1)
        for number in range(ROUNDS):
            digest = hashlib.blake2b(prefix + b"|%d|%d" % (number, right), digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(digest, "little") & ((1 << half) - 1))
        index = left << half | right
        if index < size:
            return index


class Mixture:
    """The source of each position, and the number of earlier positions that it served.

    Every block of :data:`MIXTURE_BLOCK` positions has the same number of each source in an order of its own, so that a
    source goes through its epochs without gaps.
    """

    def __init__(self, weights: Mapping[str, float], seed: int) -> None:
        """Computes how often each source occurs in a block.

        Args:
            weights: Sampling weight of each source.
            seed: Seed of the orders.

        Raises:
            ValueError: No sources, or a weight that is too small for one sample in a block.
        """
        if not weights:
            raise DataError("a stream without sources; name at least one")
        self.counts = _counts(weights)
        self._seed = seed
        self._block: tuple[int, list[tuple[str, int]]] = (-1, [])

    def source_at(self, position: int) -> tuple[str, int]:
        """Returns the name of the source of a position, and the place in the source's own order."""
        block, offset = divmod(position, MIXTURE_BLOCK)
        if self._block[0] != block:
            self._block = (block, self._new_block(block))
        name, before = self._block[1][offset]
        return name, block * self.counts[name] + before

    def _new_block(self, block: int) -> list[tuple[str, int]]:
        names = [name for name, count in self.counts.items() for _ in range(count)]
        generator = keyed_generator(self._seed, "mixture", *self.counts, block)
        before: Counter[str] = Counter()
        slots: list[tuple[str, int]] = []
        for i in torch.randperm(MIXTURE_BLOCK, generator=generator).tolist():
            slots.append((names[i], before[names[i]]))
            before[names[i]] += 1
        return slots


def _counts(weights: Mapping[str, float]) -> dict[str, int]:
    """Returns the number of positions of each source in a block: rounded down, and the rest to those that lost
    most."""
    total = sum(weights.values())
    exact = {name: MIXTURE_BLOCK * weight / total for name, weight in weights.items()}
    counts = {name: int(count) for name, count in exact.items()}
    by_loss = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_loss[: MIXTURE_BLOCK - sum(counts.values())]:
        counts[name] += 1
    lost = [name for name, count in counts.items() if not count]
    if lost:
        raise DataError(
            f"weight of source {lost[0]} is {weights[lost[0]]} of {total}, less than one sample in {MIXTURE_BLOCK}; "
            "raise it or remove the source"
        )
    return counts
