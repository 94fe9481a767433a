"""Samples that cannot be used: why, and when there are too many of them."""

from __future__ import annotations


class BadSample(Exception):
    """A sample that cannot be used."""

    def __init__(self, reason: str, message: str) -> None:
        """Args:
        reason: A few words that are the same for all samples with this trouble; counted.
        message: What was found, with the file and line or member; logged.
        """
        super().__init__(message)
        self.reason = reason
