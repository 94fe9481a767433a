"""The plots of a report: which metrics share a panel, and how the panels are plotted."""

from __future__ import annotations

import re
import statistics
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("Agg")

WINDOW = 10
"""Number of steps of the moving average."""
MAX_COLUMNS = 4
"""Number of panels side by side."""
TITLE_WIDTH = 22
"""Largest number of characters of a line of a panel's title, so that it does not reach into the next panel."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Curve:
    """One metric in a panel."""

    metric: str
    label: str = ""
    is_held_out: bool = False
    """Whether the metric is held-out and plotted as dashed points; training metrics are plotted as moving averages."""


@dataclass(frozen=True)
class Panel:
    """Curves of one unit."""

    title: str
    curves: tuple[Curve, ...]


def write_plots(folder: Path, metrics: Rows) -> dict[str, str]:
    """Plots everything whose metrics the run has, into files of the run directory.

    Args:
        folder: The run directory.
        metrics: The rows of ``metrics.jsonl``. Step 0 is the evaluation before the first step.

    Returns:
        The title of each file.
    """
    steps = [row for row in metrics if row["step"] > 0]
    plots: dict[str, tuple[str, bool, Callable[[Figure], None]]] = {
        file: (title, bool(panels), partial(plot_panels, rows=metrics, panels=panels))
        for file, title, panels in (
            ("reward_curve.png", "Reward", reward_panels(metrics)),
            ("losses.png", "Loss", loss_panels(metrics)),
            ("validation.png", "Held-out loss, nats per token", validation_panels(metrics)),
            ("tasks.png", "Held out, by task and reward, sampled as in training", task_panels(metrics)),
            ("optimization.png", "KL, clipping and gradients", optimization_panels(metrics)),
        )
    }
    plots["time.png"] = "Time of each step", bool(_phases(steps)), partial(plot_time, rows=steps)
    plots["roles.png"] = "Work of each role", bool(mean_seconds(steps)), partial(plot_roles, rows=steps)
    titles: dict[str, str] = {}
    for file, (title, has_data, plot) in plots.items():
        if steps and has_data:
            figure = Figure(figsize=(9, 4), layout="constrained")
            plot(figure)
            figure.savefig(folder / file, dpi=120)
            titles[file] = title
    return titles


def moving_average(values: list[float], window: int = WINDOW) -> list[float]:
    """Returns the mean of each value and up to ``window - 1`` values before it.

    >>> moving_average([1.0, 2.0, 6.0], window=2)
    [1.0, 1.5, 4.0]
    """
    starts = [max(0, i + 1 - window) for i in range(len(values))]
    return [sum(values[a : i + 1]) / (i + 1 - a) for i, a in enumerate(starts)]


def half_widths(values: list[float], window: int = WINDOW) -> list[float]:
    """Returns half the width of the 95% confidence interval of each :func:`moving_average`, from the spread of its
    values. One value has no spread: 0.

    >>> tuple(round(half, 2) for half in half_widths([1.0, 3.0], window=2))
    (0.0, 1.96)
    """
    parts = [values[max(0, i + 1 - window) : i + 1] for i in range(len(values))]
    return [1.96 * statistics.stdev(part) / len(part) ** 0.5 if len(part) > 1 else 0.0 for part in parts]


def reward_panels(rows: Rows) -> list[Panel]:
    """Returns panels of the total and of each reward, or with several tasks of each task's total."""
    names = _names(rows)
    if tasks := _task_metrics(names):
        return [_reward(f"{t}: weighted total", f"total_mean/{t}", f"reward_total_sampled/{t}") for t in tasks]
    if "reward/total_mean" not in names:
        return []
    rewards = sorted({m[1] for name in names if (m := re.fullmatch(r"reward/(.+)_mean", name))} - {"total"})
    panels = [_reward(f"{name}, unweighted", f"{name}_mean", f"{name}_sampled") for name in rewards]
    return [_reward("weighted total", "total_mean", "reward_total"), *panels]


def _reward(title: str, name: str, held_out: str) -> Panel:
    held = Curve(f"eval/{held_out}", "held out, sampled", is_held_out=True)
    return Panel(title, (Curve(f"reward/{name}", "training, mean of the step"), held))


def task_panels(rows: Rows) -> list[Panel]:
    """Returns a panel for each task and reward of a run with several tasks."""
    return [
        _reward(f"{task}: {name}", f"{name}_mean/{task}", f"{name}_sampled/{task}")
        for task, rewards in _task_metrics(_names(rows)).items()
        for name in rewards
    ]


def loss_panels(rows: Rows) -> list[Panel]:
    """Returns a panel for each part of the training loss."""
    names = [name for name in _names(rows) if name.startswith("loss/")]
    return [Panel(name.removeprefix("loss/"), (Curve(name, "training"),)) for name in names]


def validation_panels(rows: Rows) -> list[Panel]:
    """Returns a panel for each modality: its held-out loss over all mask ratios, and over each bin of them."""
    panels: dict[str, list[Curve]] = {}
    for name in sorted(name for name in _names(rows) if name.startswith("validation/")):
        modality, _, low = name.removeprefix("validation/").partition("_nats_per_token")
        label = f"mask ratio from {low.removeprefix('_ratio_')}" if low else "all"
        panels.setdefault(modality, []).append(Curve(name, label, is_held_out=True))
    return [Panel(modality, tuple(curves)) for modality, curves in panels.items()]


def optimization_panels(rows: Rows) -> list[Panel]:
    """Returns panels of the distance to the reference, of clipping, of the gradient norm and of the learning rate."""
    names = _names(rows)
    clipped = sorted(name for name in names if name.startswith("ratio/clipped_fraction_mask_"))
    panels = [
        Panel("KL to the reference, nats per token", (Curve("kl/reference_nats"),)),
        Panel(
            "clipped ratios, fraction of tokens",
            tuple(Curve(name, "mask ratio {}-{}".format(*name.split("_")[-2:])) for name in clipped),
        ),
        Panel("gradient norm", (Curve("grad_norm"),)),
        Panel("learning rate", (Curve("learning_rate"),)),
    ]
    return [panel for panel in panels if any(curve.metric in names for curve in panel.curves)]


def plot_panels(figure: Figure, rows: Rows, panels: list[Panel]) -> None:
    """Plots each panel with axes of its own, since units differ."""
    num_columns = min(len(panels), MAX_COLUMNS)
    num_rows = -(-len(panels) // num_columns)
    figure.set_size_inches(9, 1 + 3 * num_rows)
    grid = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    labels = [tuple(curve.label for curve in panel.curves) for panel in panels if len(panel.curves) > 1]
    is_shared = len(labels) > 1 and len(set(labels)) == 1
    for axes, panel in zip(grid, panels, strict=False):
        for i, curve in enumerate(panel.curves):
            _plot_curve(axes, rows, curve, f"C{i}")
        axes.set_title(textwrap.fill(panel.title, TITLE_WIDTH), fontsize=10)
        axes.set_xlabel("step")
        if len(panel.curves) > 1 and not is_shared:
            axes.legend(fontsize="x-small")
    if is_shared:  # one for all panels, which are narrower than its texts
        labelled = next(axes for axes, panel in zip(grid, panels, strict=False) if len(panel.curves) > 1)
        figure.legend(*labelled.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    for axes in grid[len(panels) :]:
        axes.axis("off")


def _plot_curve(axes: Axes, rows: Rows, curve: Curve, color: str) -> None:
    """Plots values of training thin under their moving average with a confidence band, and held-out ones as points."""
    found = [(row["step"], row[curve.metric]) for row in rows if curve.metric in row]
    steps, values = [step for step, _ in found], [value for _, value in found]
    if curve.is_held_out:
        axes.plot(steps, values, "o--", color=color, markersize=4, label=curve.label)
        return
    marker = "." if len(steps) < WINDOW else ""  # a line of one point cannot be seen
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=1)
    average, half = moving_average(values), half_widths(values)
    low, high = ([a + sign * h for a, h in zip(average, half, strict=True)] for sign in (-1, 1))
    axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(steps, average, color=color, linewidth=2, label=curve.label, marker=marker)


def plot_time(figure: Figure, rows: Rows) -> None:
    """Plots the seconds of each phase of every step, one on top of another."""
    phases = _phases(rows)
    values = [[row.get(f"time/{name}_seconds", 0.0) for row in rows for _ in range(2)] for name in phases]
    total = sum(map(sum, values)) or 1.0
    edges = [row["step"] + side for row in rows for side in (-0.5, 0.5)]
    labels = [f"{name} {sum(one) / total:.0%}" for name, one in zip(phases, values, strict=True)]
    axes = figure.subplots()
    axes.stackplot(edges, values, labels=labels)
    axes.set(title="seconds of each step", xlabel="step")
    figure.legend(loc="outside lower center", ncols=MAX_COLUMNS, frameon=False)


def plot_roles(figure: Figure, rows: Rows) -> None:
    """Plots a bar for each role: the seconds of its methods in the mean step, and its idle rest."""
    axes = figure.subplots()
    work = mean_seconds(rows)
    methods = [*sorted({method for spent in work.values() for method in spent} - {"idle"}), "idle"]
    ends = dict.fromkeys(work, 0.0)
    for i, method in enumerate(methods):
        seconds = {role: spent.get(method, 0.0) for role, spent in work.items()}
        color = "gainsboro" if method == "idle" else f"C{i}"
        axes.barh(
            list(work), list(seconds.values()), left=list(ends.values()), label=method.replace("_", " "), color=color
        )
        ends = {role: end + seconds[role] for role, end in ends.items()}
    axes.set(title="each role in the mean step", xlabel="seconds")
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=len(methods), frameon=False)


def mean_seconds(rows: Rows) -> dict[str, dict[str, float]]:
    """Returns the seconds of each method in the mean step, by role. Every role has an `idle` rest."""
    names = _names(rows)
    work: dict[str, dict[str, float]] = {}
    for role in (match[1] for name in names if (match := re.fullmatch(r"perf/(.+)_idle_seconds", name))):
        for name in names:
            if match := re.fullmatch(rf"perf/{role}_(.+)_seconds", name):
                work.setdefault(role, {})[match[1]] = sum(row.get(name, 0.0) for row in rows) / len(rows)
    return work


def _names(rows: Rows) -> list[str]:
    """Returns the metrics of any row, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _phases(rows: Rows) -> list[str]:
    found = (re.fullmatch(r"time/(.+)_seconds", name) for name in _names(rows))
    return [match[1] for match in found if match and match[1] != "step"]


def _task_metrics(names: list[str]) -> dict[str, list[str]]:
    """Returns the held-out rewards of each task, sampled as in training; none if there is one task."""
    tasks: dict[str, list[str]] = {}
    for name in names:
        match = re.fullmatch(r"eval/(.+)_sampled/([^/]+)", name)
        if match and match[1] != "reward_total":
            tasks.setdefault(match[2], []).append(match[1])
    return tasks
