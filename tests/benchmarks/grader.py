"""Answers per second of the grader against math-verify alone, on the same predictions in the same run.

python tests/benchmarks/grader.py
"""

from __future__ import annotations

import json
from pathlib import Path

from math_verify import parse, verify
from measure import interleaved, row, write

from rewards.grading.grader import Grader

CASES = Path(__file__).parent.parent / "fixtures" / "grading"
ROUNDS = 3


def solutions(count: int) -> list[tuple[str, str, str]]:
    """Ordinary solutions (text, gold, kind): a short derivation and the answer, every fifth one wrong."""
    return [
        (f"<think>There are {i} eggs and {i + 3} more.\n{i} + {i + 3} = {2 * i + 3}</think>The answer is \\boxed{{"
         f"{2 * i + 3 + (i % 5 == 0)}}}.", str(2 * i + 3), "gsm8k")
        for i in range(count)
    ]  # fmt: skip


def mathematics() -> list[tuple[str, str, str]]:
    """The hard cases of the tests that are mathematics."""
    rows = [json.loads(line) for line in (CASES / "math.jsonl").read_text().splitlines()]
    return [(row["prediction"], row["gold"], row["kind"]) for row in rows]


def main() -> None:
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
