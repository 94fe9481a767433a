"""Grades the gold answers of the fixtures as answers to each other: no gold answer is right for another value.

python tests/fuzz/answer_pairs.py --count 60000 --seed 0

tests/fixtures/grading/equal_golds.json lists the pairs that are one answer, such as 0.5 and 1/2. The list was
made of the pairs that the grader accepted, from which a reader removed wrong ones, so it shows changes better than
missing pairs. Every other pair must be wrong, and a pair must have the same verdict in either order, with two
exceptions: 10\\% may be given as 0.1, and 0.1 may not be given as 10\\%; 0<x<1 may be given as (0,1), which may also
be a point.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rewards.grading.grader import Grader, prepare

CASES = Path(__file__).parents[1] / "fixtures" / "grading"
KINDS = ("auto", "math")


class Pair(NamedTuple):
    """A gold answer, another gold answer that answers it, and the kind of the comparison."""

    gold: str
    answer: str
    kind: str

    def swapped(self) -> Pair:
        """Returns the same pair in the other order."""
        return Pair(self.answer, self.gold, self.kind)


def equal_pairs() -> set[Pair]:
    """Returns the pairs of equal answers."""
    rows = json.loads((CASES / "equal_golds.json").read_text(encoding="utf-8"))
    return {Pair(row["gold"], row["answer"], kind) for row in rows for kind in row["kinds"]}


def golds() -> list[str]:
    """Returns the distinct gold answers of the fixtures without markers such as boxes, and without letters of
    options."""
    found = set()
    for file in sorted(CASES.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            try:
                found.update(prepare(row["gold"], kind)[1] for kind in (row["kind"], *KINDS))
            except ValueError:  # a letter in brackets is no mathematical gold answer
                continue
    return sorted(gold for gold in found if not re.fullmatch(r"\(?[A-J]\)?|\\text\{\([A-J]\)\}", gold))


def random_pairs(count: int, seed: int) -> list[Pair]:
    """Returns pairs of different gold answers in random order."""
    texts, drawn = golds(), random.Random(seed)
    pairs = [(gold, answer) for gold in texts for answer in texts if gold != answer]
    return [Pair(*pair, drawn.choice(KINDS)) for pair in drawn.sample(pairs, min(count, len(pairs)))]


def wrong_verdicts(grader: Grader, pairs: Iterable[Pair]) -> list[str]:
    """Returns a sentence for each wrong verdict."""
    equal, problems = equal_pairs(), []
    for pair in pairs:
        grade = grader(f"\\boxed{{{pair.answer}}}", pair.gold, pair.kind)
        if grade.status not in ("ok", "no_answer"):
            problems.append(f"{pair} ended with the status {grade.status}")
        elif grade.correct != (pair in equal):
            problems.append(f"{pair} is {'paid' if grade.correct else 'not paid'}")
        elif grade.correct and pair.swapped() not in equal and not re.search("[%<]", pair.gold):
            problems.append(f"{pair} is paid in one order alone")
    return problems


def main() -> None:
    """Grades the pairs and ends with status 1 if a verdict is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60_000, help="number of pairs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pairs (default: %(default)s)")
    given = parser.parse_args()
    grader = Grader(deadline=10.0)
    pairs = random_pairs(given.count, given.seed)
    problems = wrong_verdicts(grader, pairs)
    grader.close()
    sys.stdout.write("".join(f"{problem}\n" for problem in problems))
    sys.stdout.write(f"{len(pairs)} pairs, {len(problems)} wrong verdicts\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
