"""Several runs on one page: their curves in the same plots, their held-out metrics, and the settings that differ."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from unigrpo import ConfigError
from unigrpo.runs.config_file import NOT_COMPARED, flat_settings
from unigrpo.runs.metrics import METRICS_FILE, read_metrics, read_scores
from unigrpo.runs.report import read_config, read_summary, run_facts, template
from unigrpo.runs.report_plots import MAX_COLUMNS, Rows, moving_average
from unigrpo.runs.scores import Gain, Scores, paired_gain, scores_at

SHOWN = (
    "reward/total_mean", "eval/reward_total", "validation/", "loss/total", "kl/reference_nats", "grad_norm",
    "ratio/clipped_fraction", "rollout/length_mean", "time/step_seconds",
)  # fmt: skip
"""Metrics that are plotted. A name includes its values by task; a name with a slash at its end is a prefix."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The content of a run directory."""

    name: str
    folder: Path
    metrics: Rows
    settings: dict[str, Any]
    """Values of the settings by dotted name."""
    scores: Scores
    """Held-out scores of the last evaluation."""
    values: dict[str, float]
    """Metrics of the last evaluation."""
    facts: dict[str, str]


def read_run(folder: Path) -> Run:
    """Reads a run directory.

    Raises:
        ConfigError: The folder holds no metrics.
    """
    metrics = read_metrics(folder)
    if not metrics:
        raise ConfigError(f"{folder}: no {METRICS_FILE} with a step in it; name the folder of a run")
    scores = read_scores(folder)
    evaluated = [row for row in metrics if any(name.startswith("eval/") for name in row)]
    last = evaluated[-1] if evaluated else {}
    return Run(
        name=folder.resolve().name,
        folder=folder,
        metrics=metrics,
        settings=flat_settings(read_config(folder)),
        scores=scores_at(scores, max((row["step"] for row in scores), default=0)),
        values={name.removeprefix("eval/"): value for name, value in last.items() if name.startswith("eval/")},
        facts=run_facts(folder, read_summary(folder), metrics),
    )


def write_comparison(folders: Sequence[Path], page: Path) -> Path:
    """Writes a page that compares runs.

    Args:
        folders: At least two run directories. The first is the one with which the others are compared.
        page: The HTML file to write.

    Returns:
        The path of the page.

    Raises:
        ConfigError: A folder holds no metrics.
    """
    runs = _with_unique_names([read_run(folder) for folder in folders])
    text = template("comparison.html.jinja").render(
        name=", ".join(run.name for run in runs),
        runs=runs,
        curves=curves(runs),
        held_out=held_out_rows(runs),
        settings=changed_settings(runs),
    )
    page.write_text(text, encoding="utf-8", errors="backslashreplace")
    return page


def changed_settings(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Returns the settings that are not the same in all runs, with their value in each."""
    names = dict.fromkeys(name for run in runs for name in run.settings if name not in NOT_COMPARED)
    rows = [(name, [str(run.settings.get(name, "(absent)")) for run in runs]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def held_out_rows(runs: Sequence[Run]) -> list[tuple[str, list[tuple[float | None, Gain | None]]]]:
    """Returns each held-out metric with its last value in each run.

    From the second run on, a value comes with the gain over the first run on the prompts that both have scored.
    """
    names = dict.fromkeys(name for run in runs for name in run.values)
    first = runs[0]
    rows: list[tuple[str, list[tuple[float | None, Gain | None]]]] = []
    for name in names:
        metric, _, task = name.partition("/")
        gains = [None, *(paired_gain(first.scores, run.scores, metric, task) for run in runs[1:])]
        rows.append((name, [(run.values.get(name), gain) for run, gain in zip(runs, gains, strict=True)]))
    return rows


def curves(runs: Sequence[Run]) -> str:
    """Returns a PNG as base64 with a panel for each metric of :data:`SHOWN`, and a line in it for each run."""
    names = [name for name in dict.fromkeys(n for run in runs for row in run.metrics for n in row) if _is_shown(name)]
    if not names:
        return ""
    num_columns = min(len(names), MAX_COLUMNS - 1)
    num_rows = -(-len(names) // num_columns)
    figure = Figure(figsize=(9, 1 + 3 * num_rows), layout="constrained")
    grid = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for axes, name in zip(grid, names, strict=False):
        for i, run in enumerate(runs):
            found = [(row["step"], row[name]) for row in run.metrics if name in row]
            steps, values = [step for step, _ in found], [value for _, value in found]
            is_held_out = name.startswith(("eval/", "validation/"))
            smooth = values if is_held_out else moving_average(values)
            axes.plot(steps, smooth, "o--" if is_held_out else "-", color=f"C{i}", markersize=4, label=run.name)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("step")
    for axes in grid[len(names) :]:
        axes.axis("off")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    return base64.b64encode(data.getvalue()).decode()


def _is_shown(name: str) -> bool:
    """Whether a metric is one of :data:`SHOWN`, or the value of one for a task."""
    return any(name.startswith(one if one.endswith("/") else f"{one}/") or name == one for one in SHOWN)


def _with_unique_names(runs: list[Run]) -> list[Run]:
    """Returns the runs, with the parent folder in the name if two directories have the same name."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return runs
    return [
        Run(**{**vars(run), "name": "/".join(run.folder.resolve().parts[-2:]) + f" ({i})"})
        for i, run in enumerate(runs, start=1)
    ]
