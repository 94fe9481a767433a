"""A reward in a separate file, because each process of a reward imports the file of its function."""

from __future__ import annotations

from typing import Any


def digits_reward(*, completions: list[str], **_: Any) -> list[float]:
    """Returns the fraction of digits in each completion, which differs between samples of a random model."""
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]
