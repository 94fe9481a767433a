"""The table and the picture of several runs of the quickstart: python examples/tiny/multi_seed.py RUN ..."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import yaml
from matplotlib.figure import Figure

from unigrpo.runs.metrics import METRICS_FILE, read_lines
from unigrpo.runs.report_plots import moving_average

matplotlib.use("Agg")
HERE = Path(__file__).parent
SHOWN = {
    "sums": "math_answer_{}/text",
    "understanding": "math_answer_{}/mmu",
    "drawing": "shape_match_{}/t2i",
}
"""Share of held-out prompts answered or drawn right. The rule of shapes.py that reads pictures is never a reward."""


def main() -> None:
    """Reads the runs that the command line names, records them and prints their table."""
    runs = [read(Path(folder)) for folder in sys.argv[1:]]
    record = {
        "command": "bash examples/tiny/multi_seed.sh",
        "commit": runs[0]["commit"],
        "runs": [{key: run[key] for key in ("seed", "steps", "wall_seconds", "eval")} for run in runs],
    }
    (HERE / "multi_seed.json").write_text(json.dumps(record, indent=1) + "\n")
    picture(runs, HERE / "reward_curve.png")
    print(table(runs))


def read(folder: Path) -> dict[str, Any]:
    """What a run folder says of a finished run."""
    text = (folder / "config.yaml").read_text()
    return {
        "seed": yaml.safe_load(text)["train"]["seed"],
        "commit": text.splitlines()[0].removeprefix("# commit: "),
        "metrics": read_lines(folder / METRICS_FILE),
        **json.loads((folder / "summary.json").read_text()),
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row for each seed, before -> after, sampled as in training and the most likely in brackets."""
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


def picture(runs: list[dict[str, Any]], path: Path) -> None:
    """Training reward and held-out points of every task: a column each, a colour for each seed."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    axes = figure.subplots(2, len(SHOWN), sharex=True)
    for column, (title, name) in enumerate(SHOWN.items()):
        top, bottom = axes[0][column], axes[1][column]
        name = name.format("sampled")
        for i, run in enumerate(runs):
            reward = f"reward/total_mean/{name.rpartition('/')[2]}"
            x, y = _points(run["metrics"], reward)
            top.plot(x, y, color=f"C{i}", alpha=0.2, linewidth=1)
            top.plot(x, moving_average(y), color=f"C{i}", label=f"seed {run['seed']}")
            bottom.plot(*_points(run["metrics"], f"eval/{name}"), "o-", color=f"C{i}")
        top.set(title=f"{title}: training reward")
        bottom.set(title=f"{title}: held-out share right", xlabel="step")
    axes[0][0].legend()
    figure.savefig(path, dpi=120)


def _points(metrics: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    rows = [row for row in metrics if name in row]
    return [row["step"] for row in rows], [row[name] for row in rows]


if __name__ == "__main__":
    main()
