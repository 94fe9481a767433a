"""The table and the picture of several runs of the quickstart: python examples/tiny/three_seeds.py RUN ..."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import yaml
from matplotlib.figure import Figure

from unigrpo.metrics import METRICS_FILE, read_lines
from unigrpo.report import moving_average

matplotlib.use("Agg")
HERE = Path(__file__).parent
SHOWN = ("math_answer_sampled", "math_answer_greedy", "cot_format_sampled", "reward_total_sampled")


def main() -> None:
    runs = [read(Path(folder)) for folder in sys.argv[1:]]
    record = {
        "command": "bash examples/tiny/three_seeds.sh",
        "commit": runs[0]["commit"],
        "runs": [{key: run[key] for key in ("seed", "steps", "wall_seconds", "eval")} for run in runs],
    }
    (HERE / "three_seeds.json").write_text(json.dumps(record, indent=1) + "\n")
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
    """Markdown: a row for each seed, before -> after."""
    rows = [
        f"| {run['seed']} | "
        + " | ".join(f"{run['eval']['before'][n]:.3f} -> {run['eval']['after'][n]:.3f}" for n in SHOWN)
        + f" | {run['wall_seconds']:.0f} |"
        for run in runs
    ]
    head = "| seed | " + " | ".join(SHOWN) + " | seconds |"
    return "\n".join([head, "|---" * (len(SHOWN) + 2) + "|", *rows])


def picture(runs: list[dict[str, Any]], path: Path) -> None:
    """Training reward of every run, and its held-out points."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, run in enumerate(runs):
        steps = [row for row in run["metrics"] if "reward/total_mean" in row]
        x = [row["step"] for row in steps]
        y = [row["reward/total_mean"] for row in steps]
        left.plot(x, y, color=f"C{i}", alpha=0.2, linewidth=1)
        left.plot(x, moving_average(y), color=f"C{i}", label=f"seed {run['seed']}")
        held_out = [row for row in run["metrics"] if "eval/math_answer_sampled" in row]
        right.plot(
            [row["step"] for row in held_out],
            [row["eval/math_answer_sampled"] for row in held_out],
            "o-",
            color=f"C{i}",
            label=f"seed {run['seed']}",
        )
    left.set(title="training reward (at most 2.5)", xlabel="step")
    right.set(title="held-out share of right answers, sampled", xlabel="step")
    left.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
