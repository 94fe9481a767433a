"""Grades random responses that look like LaTeX: every grade has a result, in limited time and memory.

python tests/fuzz/answer_texts.py --seconds 300 --seed 0

The run ends with a status other than 0 at the first exception, at the first grade that takes too long, and if the
memory of the grading process exceeds its limit. The message has the response, the gold answer and the kind.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path

from rewards.grading.grader import KINDS, Grader

CASES = Path(__file__).parents[1] / "fixtures" / "grading"
LONGEST_SECONDS = 120.0
"""Limit of the seconds of a grade on a busy machine."""
MOST_MEMORY = 1024**3
"""Limit of the resident memory of the grading process in bytes; the process of sympy limits itself to 2 GiB."""
WORDS = r"""
    \boxed{ \fbox{ \frac{ \sqrt{ \sqrt[3]{ \text{ \mathrm{ \left( \right) \left[ \right] \{ \} \begin{pmatrix}
    \end{pmatrix} \begin{array}{cc} \end{array} \\ \cdot \times \pm \infty \pi \theta ^ _ ^{ _{ & ! | : ; , . ?
    \ldots \le \ge \ne \in \cup \overline{ \sum_{i=1}^{n} \int \log_2 \sin \ln ^\circ \% \$ \, \! \quad
    $ $$ \( \) \[ \] { } ( ) [ ] = < > + - * / ** // == 0 1 2 7 12 0.5 .5 5. 1,000 1/2 10^9 9^9^9 1e9 e i x y n
    and or not either wait answer is: A B C D (A) yes no twelve half thousand cm km/h dollars a.m. #### <think>
    </think> <answer> </answer> <|eot_id|> <|mdm_mask|> √ ² ½ ∞ ≤ π × ° € 答案 选 厘米 １２ ٣
    """
PIECES = (*WORDS.split(), " ", " ", " ", "\n", "\u200b", "\ud800", "\x00", "The answer is ", "x = ", "in base 7")
NESTED = (("{", "}"), ("(", ")"), ("\\frac{1}{", "}"), ("\\sqrt{", "}"), ("\\text{", "}"), ("\\left(", "\\right)"),
          ("\\boxed{", "}"), ("x^{", "}"), ("-(", ")"), ("[", "]"), ("\\{", "\\}"), ("|", "|"))  # fmt: skip


class Texts:
    """Random gold answers, and responses to them: random pieces, nested brackets, and changed fixtures."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        rows = [json.loads(line) for file in sorted(CASES.glob("*.jsonl")) for line in file.open(encoding="utf-8")]
        self._responses = [row["prediction"] for row in rows if len(row["prediction"]) < 500]
        self._golds = sorted({row["gold"] for row in rows})

    def draw(self) -> tuple[str, str, str]:
        """Returns a response, a gold answer and a kind."""
        drawn = self._random
        write = drawn.choice((self._pieces, self._nested, self._changed, self._changed))
        gold = self._pieces() if drawn.random() < 0.1 else drawn.choice(self._golds)
        return write(), gold, drawn.choice(KINDS)

    def _pieces(self) -> str:
        text = "".join(self._random.choices(PIECES, k=self._random.randint(1, 30)))
        return f"\\boxed{{{text}}}" if self._random.random() < 0.5 else text

    def _nested(self) -> str:
        depth = self._random.choice((3, 10, 29, 31, 49, 51, 400, 5000))
        kinds = self._random.choices(NESTED, k=self._random.randint(1, 3))
        opened = "".join(kinds[level % len(kinds)][0] for level in range(depth))
        closed = "".join(kinds[level % len(kinds)][1] for level in reversed(range(depth)))
        return f"\\boxed{{{opened}{self._random.choice(PIECES)}{closed}}}"

    def _changed(self) -> str:
        text = list(self._random.choice(self._responses))
        for _ in range(self._random.randint(1, 4)):
            place, end = sorted(self._random.choices(range(len(text) + 1), k=2))
            change = self._random.random()
            if change < 0.4:
                text.insert(place, self._random.choice(PIECES))
            elif change < 0.7:
                del text[place : place + self._random.randint(1, 3)]
            else:
                text[place:place] = text[place:end]
        return "".join(text)


def run(seed: int, seconds: float = float("inf"), count: int | None = None) -> Counter[str]:
    """Grades random responses.

    Args:
        seed: Seed of the responses.
        seconds: Wall-clock seconds after which no further response is graded.
        count: Number of responses; None for as many as the time allows.

    Returns:
        The number of grades by status, and the number of gold answers that were refused.

    Raises:
        AssertionError: A grade raised an exception, took too long, or left too much memory.
    """
    texts, grader, outcomes = Texts(seed), Grader(deadline=1.0), Counter[str]()
    started = time.monotonic()
    try:
        while time.monotonic() - started < seconds and (count is None or outcomes.total() < count):
            response, gold, kind = texts.draw()
            faulthandler.dump_traceback_later(LONGEST_SECONDS, exit=True)
            try:
                outcomes[grader(response, gold, kind).status] += 1
            except ValueError as error:
                outcomes["unusable gold"] += 1
                assert "expected" in str(error), (response, gold, kind)
            except Exception as error:
                raise AssertionError(f"grading raised {error!r} on {(response, gold, kind)!r}") from error
            memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            assert memory < MOST_MEMORY or "pytest" in sys.modules, (memory, response, gold, kind)
    finally:
        faulthandler.cancel_dump_traceback_later()
        grader.close()
    return outcomes


def main() -> None:
    """Runs for the given time and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long to run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the responses (default: %(default)s)")
    given = parser.parse_args()
    sys.stdout.write(f"{dict(run(given.seed, given.seconds))}\n")


if __name__ == "__main__":
    main()
