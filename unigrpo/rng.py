"""Random number generators that depend only on a key: every rank and every process gets the same numbers."""

from __future__ import annotations

import hashlib

import torch


def keyed_generator(*key: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """Returns a generator whose numbers depend only on ``key``, on every machine and in every process.

    >>> keyed_generator(42, 7, "mask").initial_seed() == keyed_generator(42, 7, "mask").initial_seed()
    True

    A generator of the CPU uses 32 bits of its seed, so that about n^2 / 2^33 pairs of n keys give equal numbers: one
    pair of 100,000 keys. The samples of such a pair are unrelated.

    Args:
        key: Purpose of the random numbers, for example (run seed, step, sample, inner update, "mask").
        device: Device of the generator.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    generator = torch.Generator(device=device)
    generator.manual_seed(int.from_bytes(digest, "little") >> 1)
    return generator
