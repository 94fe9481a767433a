"""Makes the table and the figure of several runs of the quickstart: python examples/tiny/multi_seed.py RUN ..."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib
import yaml
from matplotlib.figure import Figure

from unigrpo.runs.metrics import read_metrics
from unigrpo.runs.report_plots import moving_average

matplotlib.use("Agg")
HERE = Path(__file__).parent
SHOWN = {
    "sums": "math_answer_{}/text",
    "understanding": "math_answer_{}/mmu",
    "text to image": "shape_match_{}/t2i",
}
"""Metrics of the table: the fraction of right held-out answers and images. The rule for images is never a reward."""


def main() -> None:
    """Reads the runs that the command line names, records them and prints their table."""
    runs = [read(Path(folder)) for folder in sys.argv[1:]]
    record = {
        "command": "bash examples/tiny/multi_seed.sh",
        "commit": runs[0]["commit"],
        "runs": [{key: run[key] for key in ("seed", "steps", "wall_seconds", "eval")} for run in runs],
    }
    (HERE / "multi_seed.json").write_text(json.dumps(record, indent=1) + "\n")
    draw_figure(runs, HERE / "reward_curve.png")
    print(table(runs))
    print(gains(runs))


def read(folder: Path) -> dict[str, Any]:
    """Returns the record of a finished run from its run directory."""
    text = (folder / "config.yaml").read_text()
    return {
        "seed": yaml.safe_load(text)["train"]["seed"],
        "commit": text.splitlines()[0].removeprefix("# commit: "),
        "metrics": read_metrics(folder),
        **json.loads((folder / "summary.json").read_text()),
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Returns a Markdown table with a row for each seed: before -> after, sampled as in training (and greedy)."""
    rows: list[list[str]] = []
    for run in runs:
        before, after = run["eval"]["before"], run["eval"]["after"]
        cells = [
            "{:.2f} -> {:.2f} ({:.2f} -> {:.2f})".format(
                *(when[name.format(kind)] for kind in ("sampled", "greedy") for when in (before, after))
            )
            for name in SHOWN.values()
        ]
        rows.append([str(run["seed"]), *cells, f"{run['wall_seconds']:.0f}"])
    head = ["seed", *SHOWN, "seconds"]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def gains(runs: list[dict[str, Any]]) -> str:
    """Returns a sentence with the mean gain of each task and the smallest and largest of the seeds."""
    parts: list[str] = []
    for title, name in SHOWN.items():
        key = name.format("sampled")
        found = [run["eval"]["after"][key] - run["eval"]["before"][key] for run in runs]
        parts.append(f"{title} {statistics.mean(found):+.3f} ({min(found):+.3f} to {max(found):+.3f})")
    return f"Gains, sampled, mean of {len(runs)} seeds with the smallest and largest: {', '.join(parts)}."


def draw_figure(runs: list[dict[str, Any]], path: Path) -> None:
    """Plots the accuracy of each task by step: on training prompts, which are never repeated, as a moving average of
    the seeds with a band from the lowest to the highest seed, and on held-out prompts as points."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, len(SHOWN), sharex=True, sharey=True)
    for axis, (title, name) in zip(axes, SHOWN.items(), strict=True):
        reward, _, task = name.partition("_{}/")
        curves = [_moving_average(run["metrics"], f"reward/{reward}_mean/{task}") for run in runs]
        steps = sorted(set.intersection(*map(set, curves)))  # a step may have no prompt of a task
        seeds = [[curve[step] for curve in curves] for step in steps]
        axis.plot(steps, [statistics.mean(values) for values in seeds], color="C0", label="training prompts")
        axis.fill_between(steps, [min(v) for v in seeds], [max(v) for v in seeds], color="C0", alpha=0.2)
        for run in runs:
            points = _points(run["metrics"], f"eval/{name.format('sampled')}")
            axis.plot(*points, "o", color="C1", label="held-out prompts" if run is runs[0] else None)
        axis.set(title=title, xlabel="step")
    axes[0].set(ylabel="fraction right, sampled")
    axes[0].legend()
    figure.savefig(path, dpi=100)


def _moving_average(metrics: list[dict[str, Any]], name: str) -> dict[int, float]:
    steps, values = _points(metrics, name)
    return dict(zip(steps, moving_average(values), strict=True))


def _points(metrics: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    rows = [row for row in metrics if name in row]
    return [row["step"] for row in rows], [row[name] for row in rows]


if __name__ == "__main__":
    main()
