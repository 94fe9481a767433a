"""Writes README.md of this folder from the results.

python tests/benchmarks/table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
INTRODUCTION = """# Benchmarks

`table.py` writes this page from `results/<device>/*.json`, which also have settings, memory, rates and versions.

Each script measures two implementations of the same work in turn in one process, and stops if results that must be
equal differ. `baseline` is usually the plain code (`plain.py`): it computes logits of the whole vocabulary at every
position, draws float64 noise for all of them, and pads image prompts to the full length and batches to equal lengths.
`--size small` (default) runs on a CPU in a few minutes; `--size 8b` needs a GPU with 80 GB. Times on a CPU are CPU
seconds of one thread. `ray_overhead`, `weight_sync`, `grader` and `image_rewards` use several processes, and their
times are wall-clock seconds. A plus after a commit means that files differed from it. `grader.py --against COMMIT`
compares the CPU seconds of the grader at two commits instead: 2.88 s per 1,000 answers at 55aacb9 and 1.79 s
at 34a00eb, on the machine below. `wire.py` compares the cost of a step of 384 samples with images of 256 pixels,
without the work of its workers, at two commits in turn: 474 MB through the driver, 2.85 s and 0.95 s of CPU time of
the driver at 55aacb9, and 11 MB, 2.18 s and 0.18 s at 27f0928, on 2 busy cores of an Intel Xeon (medians of two runs).

`driver.py` simulates the driver of 64 GPUs: the workers compute nothing, and the rewards of texts are included.
"""


def main() -> None:
    parts = [INTRODUCTION]
    for folder in sorted(path for path in (FOLDER / "results").iterdir() if path.is_dir()):
        results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        parts.append(f"## {machine(results[0]['machine'])}\n\n{table(results)}\n")
        parts += [caches(result) for result in results if result["benchmark"] == "caches"]
    (FOLDER / "README.md").write_text("\n".join(parts))


def machine(values: dict[str, Any]) -> str:
    """Returns the machine on which the results were measured."""
    versions = f"Python {values['python']}, torch {values['torch']}"
    if values["gpu"] != "none":
        return f"{values['gpu']}, {versions}"
    return f"{values['processor']}, {values['cpus']} cores, no GPU, {versions}"


def table(results: list[dict[str, Any]]) -> str:
    """Returns a table with a line for each comparison."""
    rows = [["benchmark", "what", "baseline", "ours", "result", "target", "equal", "commit"]]
    for result in results:
        for one in result["rows"]:
            costs = [f"{one[name]:g} {one['unit']}" for name in ("baseline", "ours")]
            rest = [one[name] for name in ("result", "target", "equal")]
            rows.append([result["benchmark"], one["what"], *costs, *rest, result["commit"]])
    return markdown(rows)


def caches(result: dict[str, Any]) -> str:
    """Returns the section about caches, with a table by task."""
    rows = []
    for task, variants in result["tasks"].items():
        for name, values in variants.items():
            rows = rows or [["task", "cache", *(key.replace("_", " ") for key in values)]]
            rows.append([task, name, *(f"{value:.4g}" for value in values.values())])
    about = (
        f"`{result['model']}` on {result['prompts']} held-out prompts, with the same random numbers for all rows. "
        "Tokens are compared with those sampled without a cache, and log-probabilities (nats) with those of the "
        "training path."
    )
    return f"### What the caches change\n\n{about}\n\n{markdown(rows)}\n"


def markdown(rows: list[list[str]]) -> str:
    """Returns a Markdown table whose first row is the header."""
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))


if __name__ == "__main__":
    main()
