"""A reward in a file of its own, because each process of a reward imports the file of its function."""

from __future__ import annotations

from typing import Any


def digits_reward(*, completions: list[str], **_: Any) -> list[float]:
    """Returns the share of digits in each completion, in which samples of a random model already differ."""
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]
