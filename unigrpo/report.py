"""A run folder -> one page: reward curves, before and after, KL and clipping, where the time went, samples."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unigrpo.metrics import METRICS_FILE, ROLLOUTS_FILE, read_lines
from unigrpo.pages import DRAWINGS

matplotlib.use("Agg")

WINDOW = 10
"""Steps of the moving average."""
MAX_SAMPLES = 24
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd }
img { max-width: 100% } table { border-collapse: collapse }
td, th { padding: .25rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #eee }
td.n { text-align: right; font-variant-numeric: tabular-nums }
pre, code { white-space: pre-wrap; overflow-wrap: anywhere } .good { color: #0a7a2f } .bad { color: #b3261e }
"""

Rows = list[dict[str, Any]]


def write_report(folder: Path) -> Path:
    """Draws the pictures of a run and writes its page; a run that is still going or died has one too.

    Args:
        folder: A run folder.

    Returns:
        The page, ``report.html``.

    Raises:
        ValueError: The folder holds no metrics.
    """
    metrics = read_lines(folder / METRICS_FILE)
    if not metrics:
        raise ValueError(f"{folder}: no {METRICS_FILE} with a step in it; name the folder of a run")
    summary_file = folder / "summary.json"
    summary = json.loads(summary_file.read_text()) if summary_file.exists() else {}
    steps = [row for row in metrics if "reward/total_mean" in row]
    pictures: list[tuple[str, str]] = []
    for name, title, draw in (
        ("reward_curve.png", "Reward", _draw_rewards),
        ("tasks.png", "Held out, by task", _draw_tasks),
        ("policy.png", "Distance to the reference, and clipping", _draw_policy),
        ("time.png", "Where the time went", _draw_time),
    ):
        shown = metrics if draw in (_draw_rewards, _draw_tasks) else steps
        if steps and (draw is not _draw_tasks or _task_metrics(metrics)):
            _picture(folder / name, draw, shown)
            pictures.append((name, title))
    pictures += _drawings(folder)
    page = folder / "report.html"
    config_file = folder / "config.yaml"
    config = config_file.read_text() if config_file.exists() else ""
    page.write_text(_page(folder.name, steps, summary, pictures, read_lines(folder / ROLLOUTS_FILE), config))
    return page


def moving_average(values: list[float], window: int = WINDOW) -> list[float]:
    """Mean of each value and up to ``window - 1`` before it.

    >>> moving_average([1.0, 2.0, 6.0], window=2)
    [1.0, 1.5, 4.0]
    """
    starts = [max(0, i + 1 - window) for i in range(len(values))]
    return [sum(values[a : i + 1]) / (i + 1 - a) for i, a in enumerate(starts)]


def _picture(path: Path, draw: Callable[[Figure, Rows], None], rows: Rows) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    draw(figure, rows)
    figure.savefig(path, dpi=120)


def _series(rows: Rows, name: str) -> tuple[list[int], list[float]]:
    found = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in found], [value for _, value in found]


def _plot(axes: Axes, rows: Rows, name: str, label: str, color: str) -> None:
    """The values, thin, under their moving average."""
    steps, values = _series(rows, name)
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=1)
    axes.plot(steps, moving_average(values), color=color, linewidth=2, label=label)


def _reward_names(rows: Rows) -> list[str]:
    """Rewards of a run, by their name in the config."""
    names = {k for row in rows for k in row if k.startswith("reward/") and k.endswith("_mean")}
    return sorted(k[len("reward/") : -len("_mean")] for k in names - {"reward/total_mean"})


def _draw_rewards(figure: Figure, rows: Rows) -> None:
    left, right = figure.subplots(1, 2)
    _plot(left, rows, "reward/total_mean", "training, mean of the step", "C0")
    steps, values = _series(rows, "eval/reward_total")
    if steps:
        left.plot(steps, values, "o--", color="C3", label="held out, sampled")
    left.set(title="weighted total", xlabel="step")
    left.legend()
    for i, name in enumerate(_reward_names(rows)):
        _plot(right, rows, f"reward/{name}_mean", name, f"C{i + 1}")
    right.set(title="each reward, unweighted", xlabel="step")
    right.legend()


def _task_metrics(rows: Rows) -> dict[str, list[str]]:
    """Held-out rewards of each task, sampled as in training; none if there is one task."""
    names = dict.fromkeys(k for row in rows for k in row if k.startswith("eval/") and k.count("/") == 2)
    tasks: dict[str, list[str]] = {}
    for name in names:
        if "_sampled/" in name and "reward_total" not in name:
            tasks.setdefault(name.rpartition("/")[2], []).append(name)
    return tasks


def _draw_tasks(figure: Figure, rows: Rows) -> None:
    """A panel for each task: its rewards relative to those before training, since their units differ."""
    tasks = _task_metrics(rows)
    for axes, (task, names) in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True):
        for i, name in enumerate(names):
            steps, values = _series(rows, name)
            label = f"{name.removeprefix('eval/').partition('_sampled/')[0]}, from {values[0]:.2f}"
            axes.plot(steps, [value - values[0] for value in values], "o-", color=f"C{i}", label=label)
        axes.axhline(0, color="grey", linewidth=0.5)
        axes.set(title=task, xlabel="step", ylabel="gain" if task == next(iter(tasks)) else "")
        axes.legend(fontsize="small")


def _drawings(folder: Path) -> list[tuple[str, str]]:
    """The pages of drawings before and after."""
    pages = sorted((folder / DRAWINGS).glob("step_*.png"))
    chosen = dict.fromkeys([*pages[:1], *pages[-1:]])
    return [(f"{DRAWINGS}/{p.name}", f"Drawn at step {int(p.stem.removeprefix('step_'))}, greedy") for p in chosen]


def _draw_policy(figure: Figure, rows: Rows) -> None:
    left, middle, right = figure.subplots(1, 3)
    _plot(left, rows, "kl/reference_nats", "KL", "C0")
    left.set(title="KL to the reference, nats per token", xlabel="step")
    bins = sorted({k for row in rows for k in row if k.startswith("ratio/clipped_fraction_mask_")})
    for i, name in enumerate(bins):
        low, high = name.split("_")[-2:]
        _plot(middle, rows, name, f"mask ratio {low}-{high}", f"C{i}")
    middle.set(title="clipped ratios, share of tokens", xlabel="step")
    if bins:
        middle.legend(fontsize="small")
    _plot(right, rows, "grad_norm", "gradient norm", "C4")
    right.set(title="gradient norm", xlabel="step")


def _draw_time(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots()
    parts = [n for n in ("generate", "reward", "score", "update", "sync") if f"time/{n}_seconds" in rows[-1]]
    values = [[row.get(f"time/{name}_seconds", 0.0) for row in rows] for name in parts]
    axes.stackplot([row["step"] for row in rows], values, labels=parts)
    axes.set(title="seconds of each step", xlabel="step")
    axes.legend(loc="upper right", ncols=len(parts))


def _page(
    name: str, steps: Rows, summary: dict[str, Any], pictures: list[tuple[str, str]], samples: Rows, config: str
) -> str:
    sections = [f"<h1>{html.escape(name)}</h1>", _headline(steps, summary), _before_after(summary)]
    sections += [f"<h2>{title}</h2><img src='{file}' alt='{title}'>" for file, title in pictures]
    sections += [_answers(samples), _samples(samples), f"<h2>Config</h2><pre>{html.escape(config)}</pre>"]
    head = f"<!doctype html><meta charset='utf-8'><title>{html.escape(name)}</title><style>{STYLE}</style>"
    return head + "\n".join(sections) + "\n"


def _headline(steps: Rows, summary: dict[str, Any]) -> str:
    if not summary:
        return f"<p>Not finished: {len(steps)} steps so far.</p>"
    seconds = summary["wall_seconds"]
    return f"<p>{summary['steps']} steps in {seconds:.0f} s, {seconds / max(summary['steps'], 1):.2f} s per step.</p>"


def _before_after(summary: dict[str, Any]) -> str:
    after = summary.get("eval", {}).get("after", {})
    if not after:
        return ""
    before = summary["eval"]["before"]
    rows = [
        f"<tr><td>{html.escape(name)}</td><td class='n'>{before[name]:.3f}</td><td class='n'>{value:.3f}</td>"
        f"<td class='n {'good' if value >= before[name] else 'bad'}'>{value - before[name]:+.3f}</td></tr>"
        for name, value in after.items()
    ]
    head = "<tr><th>held out</th><th>before</th><th>after</th><th>gain</th></tr>"
    return f"<h2>Before and after</h2><table>{head}{''.join(rows)}</table>"


def _answers(samples: Rows) -> str:
    """The same held-out prompts at the first and at the last evaluation, greedy."""
    texts = [row for row in samples if row.get("kind") == "eval" and row.get("completion")]
    steps = sorted({row["step"] for row in texts})
    if len(steps) < 2:
        return ""
    before, after = ({r["prompt_id"]: r for r in texts if r["step"] == step} for step in (steps[0], steps[-1]))
    rows = [
        "<tr>"
        + "".join(f"<td><code>{html.escape(str(cell))}</code></td>" for cell in (
            row["prompt"], row["label"], before[prompt_id]["completion"], row["completion"],
        ))
        + "</tr>"
        for prompt_id, row in after.items()
        if prompt_id in before
    ][:MAX_SAMPLES]  # fmt: skip
    head = f"<tr><th>prompt</th><th>gold</th><th>at step {steps[0]}</th><th>at step {steps[-1]}</th></tr>"
    return f"<h2>Answers before and after, greedy</h2><table>{head}{''.join(rows)}</table>"


def _samples(samples: Rows) -> str:
    """Samples spread over the run; the model's text is escaped."""
    if not samples:
        return ""
    stride = max(1, -(-len(samples) // MAX_SAMPLES))
    rows = [
        f"<tr><td class='n'>{row['step']}</td><td>{html.escape(str(row.get('kind', '')))}</td>"
        f"<td><code>{html.escape(str(row.get('prompt', '')))}</code></td>"
        f"<td><code>{html.escape(str(row.get('completion', '')))}</code></td>"
        f"<td>{html.escape(str(row.get('label', '')))}</td><td class='n'>{_number(row.get('reward'))}</td></tr>"
        for row in [*samples[::stride][:-1], samples[-1]]
    ]
    head = "<tr><th>step</th><th></th><th>prompt</th><th>response</th><th>gold</th><th>reward</th></tr>"
    return f"<h2>Samples</h2><table>{head}{''.join(rows)}</table>"


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, (int, float)) else ""
