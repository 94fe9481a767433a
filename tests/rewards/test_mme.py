"""Tests how MME reads answers."""

from __future__ import annotations

import pytest
from builders import graded


@pytest.mark.parametrize(
    ("answer", "said"),
    [("Yes", "yes"), ("YES.", "yes"), ("no", "no"), ("No, it is", "no"), ("not", "no"), (" Yes", "yes"),
     ("A. Yes", "other"), ("The answer is yes.", "other"), ("", "other")],
)  # fmt: skip
def test_mme_reads_the_first_four_characters(answer: str, said: str) -> None:
    assert [graded("mme", answer, gold) for gold in ("Yes", "No")] == [float(said == "yes"), float(said == "no")]
