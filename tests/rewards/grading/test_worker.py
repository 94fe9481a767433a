"""The process that compares expressions, spoken to by lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_each_line_has_an_outcome_and_an_error_is_null():
    questions = [["\\sqrt{8}", "2\\sqrt{2}"], ["x+1", "x+2"], ["only one"], ["1", "1"]]
    done = subprocess.run(
        [sys.executable, "-m", "rewards.grading.worker", "10"],
        input="".join(json.dumps(question) + "\n" for question in questions),
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert [json.loads(line) for line in done.stdout.splitlines()] == [True, False, None, True]
