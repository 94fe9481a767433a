"""Random number generators that depend on a key alone: the same numbers on every rank and in every process."""

from __future__ import annotations

import hashlib

import torch


def keyed_generator(*key: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """Returns a generator whose numbers depend on ``key`` alone, on every machine and in every process.

    >>> keyed_generator(42, 7, "mask").initial_seed() == keyed_generator(42, 7, "mask").initial_seed()
    True

    A generator of the CPU keeps 32 bits of its seed, so that about n^2 / 2^33 pairs among n keys give equal numbers:
    one pair among 100,000 keys. Such keys belong to samples that have nothing to do with each other.

    Args:
        key: Purpose of the random numbers, for example (run seed, step, sample, inner update, "mask").
        device: Device of the generator.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    generator = torch.Generator(device=device)
    generator.manual_seed(int.from_bytes(digest, "little") >> 1)
    return generator
