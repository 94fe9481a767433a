"""A grader for all tests of grading, so that they share a process that compares expressions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rewards.grading.grader import Grader


@pytest.fixture(scope="session")
def grader() -> Iterator[Grader]:
    grader = Grader(deadline=10.0)
    yield grader
    grader.close()
