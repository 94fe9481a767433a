"""Compares the answers per second of the grader and of math-verify alone, on the same predictions in the same run.

python tests/benchmarks/grader.py
python tests/benchmarks/grader.py --against 55aacb9   (seconds per 1,000 answers of this tree and of another commit)
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from math_verify import parse, verify
from measure import interleaved, row, write
from trees import ROOT, checked_out, environment

from rewards.grading.grader import Grader

CASES = ROOT / "tests" / "fixtures" / "grading"
ROUNDS = 3


def solutions(count: int) -> list[tuple[str, str, str]]:
    """Returns ordinary solutions (text, gold, kind) with a short derivation and an answer; every fifth answer is
    wrong."""
    return [
        (f"<think>There are {i} eggs and {i + 3} more.\n{i} + {i + 3} = {2 * i + 3}</think>The answer is \\boxed{{"
         f"{2 * i + 3 + (i % 5 == 0)}}}.", str(2 * i + 3), "gsm8k")
        for i in range(count)
    ]  # fmt: skip


def mathematics() -> list[tuple[str, str, str]]:
    """Returns the hard mathematical cases of the tests."""
    rows = [json.loads(line) for line in (CASES / "math.jsonl").read_text().splitlines()]
    return [(row["prediction"], row["gold"], row["kind"]) for row in rows]


def grade_once() -> None:
    """Prints the CPU seconds per 1,000 answers of the grader that is imported, including those of its sympy
    process."""
    cases = solutions(2000) + mathematics()
    started = _cpu_seconds()
    grader = Grader()
    for text, gold, kind in cases:
        grader(text, gold, kind)
    grader.close()
    sys.stdout.write(f"{1000 * (_cpu_seconds() - started) / len(cases)}\n")


def _cpu_seconds() -> float:
    """Returns the CPU seconds of this process and of the child processes that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def compare(commit: str) -> None:
    """Prints the median seconds of this tree and of another commit, which grade the same answers in turn."""
    with checked_out(commit) as other:
        seconds: dict[Path, list[float]] = {other: [], ROOT: []}
        for _ in range(ROUNDS):
            for tree, measured in seconds.items():
                command = [sys.executable, __file__, "--grade_once"]
                done = subprocess.run(
                    command, cwd=tree, env=environment(tree), capture_output=True, text=True, check=True
                )
                measured.append(float(done.stdout))
    before, now = (statistics.median(measured) for measured in seconds.values())
    sys.stdout.write(
        f"CPU seconds per 1,000 answers: {before:.2f} at {commit}, {now:.2f} now, ratio {now / before:.2f}\n"
    )


def main() -> None:
    """Runs the benchmark that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit instead of math-verify")
    parser.add_argument("--grade_once", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.grade_once:
        grade_once()
    elif given.against:
        compare(given.against)
    else:
        against_math_verify()


def against_math_verify() -> None:
    """Writes the seconds and the answers per second of the grader and of math-verify."""
    rows, rates = [], {}
    grader = Grader()
    for name, cases in (("ordinary solutions", solutions(500)), ("hard mathematics", mathematics())):
        seconds = interleaved(
            {
                "unigrpo": lambda cases=cases: [grader(text, gold, kind) for text, gold, kind in cases],
                "math-verify": lambda cases=cases: [verify(parse(gold), parse(text)) for text, gold, _ in cases],
            },
            ROUNDS,
        )
        rows.append(row(f"grading {len(cases)} {name}", seconds["math-verify"], seconds["unigrpo"], "s"))
        rates[name] = {who: round(len(cases) / s, 1) for who, s in seconds.items()}
    grader.close()
    write("grader", rows, answers_per_second=rates)


if __name__ == "__main__":
    main()
