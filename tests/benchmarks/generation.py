"""Compares the generation of a tiny step with that of an earlier commit: CPU seconds in one run, and equal tokens.

python tests/benchmarks/generation.py [--commit 55aacb9] [--prompts 8]

The tasks are text, image understanding and text to image, with the sampling settings of
launch/configs/tiny/unigrpo.yaml and eight samples per prompt. The earlier commit is checked out into a temporary
folder, and a process of each tree generates in turn.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from trees import ROOT, TreeWorker, ask_in_turn, checked_out, commit_parser

WORKER = Path(__file__).parent / "generation_worker.py"
ROUNDS = 3
TARGET = 1.3


def compare(baseline: Path, ours: Path, num_prompts: int, rounds: int) -> dict[str, Any]:
    """Returns the CPU seconds of each task in both trees, and whether all tokens are equal.

    Args:
        baseline: Tree of the earlier commit.
        ours: Tree to compare with it.
        num_prompts: Number of prompts of each task.
        rounds: Number of measurements of each tree, after one that is not counted.
    """
    # Both read the model and the prompts of this tree.
    workers = [TreeWorker(tree, WORKER, ROOT, str(num_prompts)) for tree in (baseline, ours)]
    results = [[json.loads(line) for line in pair] for pair in ask_in_turn(workers, rounds + 1)]
    found: dict[str, Any] = {}
    for task in results[0][0]["seconds"]:
        before, now = (statistics.median(pair[i]["seconds"][task] for pair in results[1:]) for i in (0, 1))
        same = all(pair[0]["tokens"][task] == pair[1]["tokens"][task] for pair in results)
        found[task] = {"baseline": before, "ours": now, "equal_tokens": same}
    return found


def main() -> None:
    parser = commit_parser(__doc__)
    parser.add_argument("--prompts", type=int, default=8, help="number of prompts of each task")
    chosen = parser.parse_args()
    from measure import row, write  # noqa: PLC0415  # this process computes nothing before

    with checked_out(chosen.commit) as tree:
        found = compare(tree, ROOT, chosen.prompts, ROUNDS)
    different = [task for task, one in found.items() if not one["equal_tokens"]]
    if different:
        raise AssertionError(f"the tokens of {', '.join(different)} differ from those of {chosen.commit}")
    rows = [row(f"generating {task}", one["baseline"], one["ours"], "s") for task, one in found.items()]
    total = [sum(one[side] for one in found.values()) for side in ("baseline", "ours")]
    rows.append(row("generating a tiny unified step", total[0], total[1], "s", TARGET, "all tokens"))
    write("generation", rows, baseline_commit=chosen.commit, prompts=chosen.prompts)


if __name__ == "__main__":
    main()
