"""Compares the CPU seconds of a whole step of the tiny run with those of an earlier commit, with one process for each.

python tests/benchmarks/step.py [--commit 55aacb9] [--rounds 5]

Config, model, prompts and rewards are those of the earlier commit. A process of each tree makes its steps in turn.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from trees import ROOT, TreeWorker, ask_in_turn, checked_out, commit_parser

WORKER = Path(__file__).parent / "step_worker.py"
TARGET = 1.3


def main() -> None:
    parser = commit_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="number of measured steps of each tree")
    chosen = parser.parse_args()
    from measure import row, write  # noqa: PLC0415  # this process computes nothing before

    with checked_out(chosen.commit) as tree:
        workers = [TreeWorker(code, WORKER, tree) for code in (tree, ROOT)]
        answers = ask_in_turn(workers, chosen.rounds + 1)[1:]
    before, now = ([float(seconds) for seconds in of] for of in zip(*answers, strict=True))
    rows = [row("a tiny unified step", statistics.median(before), statistics.median(now), "s", TARGET)]
    write("step", rows, baseline_commit=chosen.commit, baseline_seconds=before, seconds=now)


if __name__ == "__main__":
    main()
