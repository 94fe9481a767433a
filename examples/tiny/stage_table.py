"""Prints a table with a row for each stage and a column for each task, from the results of `unigrpo evaluate`.

python examples/tiny/stage_table.py runs/tiny_world/evaluation/results.json

With --record, the table and the training of the stages are also written to training.json in the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import yaml
from multi_seed import SHOWN

COLUMNS = {**SHOWN, "thinking, then text to image": "shape_match_{}/r2i"}


def main() -> None:
    """Prints the table of an evaluation, and records it with the last model if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.json of `unigrpo evaluate`")
    parser.add_argument("--record", action="store_true", help="write training.json into the last checkpoint")
    arguments = parser.parse_args()
    models = json.loads(arguments.results.read_text())["models"]
    print(table(models))
    if arguments.record:
        *_, last = models
        (Path(last) / "training.json").write_text(json.dumps(record(models), indent=1) + "\n")


def table(models: dict[str, dict[str, Any]]) -> str:
    """Returns a Markdown table: accuracy of samples as in training (and of greedy answers)."""
    rows = [["after", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    for folder, metrics in models.items():
        names = {kind: [name.format(kind) for name in COLUMNS.values()] for kind in ("sampled", "greedy")}
        values = zip(*([metrics[name] for name in names[kind]] for kind in names), strict=True)
        rows.append([stage_name(folder), *(f"{s:.2f} ({g:.2f})" for s, g in values)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def record(models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns command and machine, and for each stage its seed, seconds and held-out metrics."""
    stages = {}
    for folder, metrics in models.items():
        run = Path(folder).parent
        stages[stage_name(folder)] = stage = {}
        if (run / "summary.json").exists():
            config = (run / "config.yaml").read_text()
            summary = json.loads((run / "summary.json").read_text())
            stage["commit"] = config.splitlines()[0].removeprefix("# commit: ")
            stage["seed"] = yaml.safe_load(config)["train"]["seed"]
            stage |= {name: summary[name] for name in ("steps", "wall_seconds")}
        stage["held_out"] = {
            name.format(kind): round(metrics[name.format(kind)], 4)
            for name in COLUMNS.values()
            for kind in ("sampled", "greedy")
        }
    return {
        "command": "bash examples/tiny/run_all.sh",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU threads",
        "stages": stages,
    }


def stage_name(folder: str) -> str:
    """Returns the name of the run of a checkpoint."""
    path = Path(folder)
    return (path.parent if path.name == "policy" else path).name


if __name__ == "__main__":
    main()
