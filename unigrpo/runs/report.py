"""A run folder -> one page: reward curves, before and after, KL and clipping, where the time went, samples."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from unigrpo.runs.image_grid import DRAWINGS, stack_vertically
from unigrpo.runs.metrics import METRICS_FILE, ROLLOUTS_FILE, read_lines
from unigrpo.runs.report_workers import draw_roles, has_ledger, ledger_table

matplotlib.use("Agg")

WINDOW = 10
"""Steps of the moving average."""
MAX_SAMPLES = 24
MAX_COLUMNS = 4
THUMBNAIL = 96
"""Pixels of the longer side of a picture that is asked about."""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd }
img { max-width: 100% } img.asked { display: block } table { border-collapse: collapse }
td, th { padding: .25rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #eee }
td.n { text-align: right; font-variant-numeric: tabular-nums }
pre, code { white-space: pre-wrap; overflow-wrap: anywhere }
td.gold code { white-space: nowrap } .good { color: #0a7a2f } .bad { color: #b3261e }
"""

END = re.compile(r"(<\|[^|<>\s]{1,40}\|>\s*)+$")
"""Special tokens at the end of a response."""

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
        ("tasks.png", "Held out, by task and reward, sampled as in training", _draw_tasks),
        ("policy.png", "Distance to the reference, and clipping", _draw_policy),
        ("time.png", "Where the time went", _draw_time),
        ("roles.png", "What each role did", draw_roles),
    ):
        shown = metrics if draw in (_draw_rewards, _draw_tasks) else steps
        is_shown = {_draw_tasks: bool(_task_metrics(metrics)), draw_roles: has_ledger(steps)}.get(draw, True)
        if steps and is_shown:
            _picture(folder / name, draw, shown)
            pictures.append((name, title))
    page = folder / "report.html"
    config_file = folder / "config.yaml"
    config = config_file.read_text() if config_file.exists() else ""
    page.write_text(_page(folder, steps, summary, pictures, read_lines(folder / ROLLOUTS_FILE), config))
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
    marker = "." if len(steps) < WINDOW else ""  # a line of one point cannot be seen
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=1)
    axes.plot(steps, moving_average(values), color=color, linewidth=2, label=label, marker=marker)


def _reward_names(rows: Rows) -> list[str]:
    """Rewards of a run, by their name in the config."""
    names = {k for row in rows for k in row if k.startswith("reward/") and k.endswith("_mean")}
    return sorted(k[len("reward/") : -len("_mean")] for k in names - {"reward/total_mean"})


def _draw_rewards(figure: Figure, rows: Rows) -> None:
    """A panel each, since units differ: the total and the rewards, or with several tasks the total of each task."""
    tasks = _task_metrics(rows)
    panels = [(f"{task}: weighted total", f"total_mean/{task}", f"reward_total_sampled/{task}") for task in tasks]
    if not tasks:
        rewards = [(f"{name}, unweighted", f"{name}_mean", f"{name}_sampled") for name in _reward_names(rows)]
        panels = [("weighted total", "total_mean", "reward_total"), *rewards]
    num_columns = min(len(panels), MAX_COLUMNS)
    num_rows = -(-len(panels) // num_columns)
    figure.set_size_inches(9, 1 + 3 * num_rows)
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    for i, axes in enumerate(grid.flat):
        if i >= len(panels):
            axes.axis("off")
            continue
        title, name, held_out = panels[i]
        _plot(axes, rows, f"reward/{name}", "training, mean of the step", f"C{i}")
        steps, values = _series(rows, f"eval/{held_out}")
        if steps:
            axes.plot(steps, values, "o--", color="black", markersize=4, label="held out, sampled")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
    grid[0][0].legend(fontsize="small")


def _task_metrics(rows: Rows) -> dict[str, list[str]]:
    """Held-out rewards of each task, sampled as in training; none if there is one task."""
    names = dict.fromkeys(k for row in rows for k in row if k.startswith("eval/") and k.count("/") == 2)
    tasks: dict[str, list[str]] = {}
    for name in names:
        if "_sampled/" in name and "reward_total" not in name:
            tasks.setdefault(name.rpartition("/")[2], []).append(name)
    return tasks


def _draw_tasks(figure: Figure, rows: Rows) -> None:
    """A panel for each task and reward, since their units differ."""
    tasks = _task_metrics(rows)
    num_columns = max(map(len, tasks.values()))
    figure.set_size_inches(9, 2.2 * len(tasks))
    grid = figure.subplots(len(tasks), num_columns, squeeze=False, sharex=True)
    for row, (task, names) in enumerate(tasks.items()):
        for column, axes in enumerate(grid[row]):
            if column >= len(names):
                axes.axis("off")
                continue
            name = names[column].removeprefix("eval/").partition("_sampled/")[0]
            _plot(axes, rows, f"reward/{name}_mean/{task}", "training", f"C{column}")
            steps, values = _series(rows, names[column])
            axes.plot(steps, values, "o--", color="black", markersize=4, label="held out, sampled")
            axes.set_title(f"{task}: {name}", fontsize=10)
            if row == len(tasks) - 1:
                axes.set_xlabel("step")
    grid[0][0].legend(fontsize="small")


def _drawings(folder: Path) -> str:
    """The same prompts drawn at the first and at the last evaluation, below one another in ``drawings.png``."""
    pages = sorted((folder / DRAWINGS).glob("step_*.png"))
    if not pages:
        return ""
    shown = list(dict.fromkeys([*pages[:1], *pages[-1:]]))
    steps = [int(page.stem.removeprefix("step_")) for page in shown]
    stack_vertically([Image.open(page) for page in shown]).save(folder / f"{DRAWINGS}.png")
    text = "Drawn before and after, greedy" if len(steps) > 1 else "Drawn, greedy"
    rows = "; ".join(f"row {i}: step {step}" for i, step in enumerate(steps, start=1))
    return f"<h2>{text}</h2><p>{rows}</p><img src='{DRAWINGS}.png' alt='drawings'>"


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
    values = [[row.get(f"time/{name}_seconds", 0.0) for row in rows for _ in range(2)] for name in parts]
    total = sum(map(sum, values)) or 1.0
    edges = [row["step"] + side for row in rows for side in (-0.5, 0.5)]
    labels = [f"{name} {sum(one) / total:.0%}" for name, one in zip(parts, values, strict=True)]
    axes.stackplot(edges, values, labels=labels)
    axes.set(title="seconds of each step", xlabel="step")
    figure.legend(loc="outside lower center", ncols=len(parts), frameon=False)


def _page(
    folder: Path, steps: Rows, summary: dict[str, Any], pictures: list[tuple[str, str]], samples: Rows, config: str
) -> str:
    name = folder.name
    sections = [f"<h1>{html.escape(name)}</h1>", _headline(steps, summary), _before_after(summary)]
    sections += [f"<h2>{title}</h2><img src='{file}' alt='{title}'>" for file, title in pictures]
    sections.append(ledger_table(steps) if has_ledger(steps) else "")
    sections += [
        _drawings(folder),
        _answers(samples),
        _samples(samples),
        f"<h2>Config</h2><pre>{html.escape(config)}</pre>",
    ]
    head = f"<!doctype html><meta charset='utf-8'><title>{html.escape(name)}</title><style>{STYLE}</style>"
    return head + "\n".join(sections) + "\n"


def _headline(steps: Rows, summary: dict[str, Any]) -> str:
    if not summary:
        return f"<p>Not finished: {len(steps)} steps so far.</p>"
    seconds = summary["wall_seconds"]
    number = summary["steps"]
    unit = "step" if number == 1 else "steps"
    return f"<p>{number} {unit} in {seconds:.0f} s, {seconds / max(number, 1):.2f} s per step.</p>"


def _before_after(summary: dict[str, Any]) -> str:
    """A row for each held-out metric, greedy and sampled side by side; each task by itself, then all together."""
    before, after = (summary.get("eval", {}).get(when, {}) for when in ("before", "after"))
    if not after:
        return ""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for name in after:
        metric, _, task = name.partition("/")
        kind = next((kind for kind in ("greedy", "sampled") if metric.endswith(f"_{kind}")), "")
        if kind:
            rows.setdefault((task, metric.removesuffix(f"_{kind}")), {})[kind] = name
    if not rows:
        return ""
    tasks = list(dict.fromkeys(task for task, _ in rows))
    order = sorted(rows, key=lambda row: (not row[0], tasks.index(row[0])))
    kinds = [kind for kind in ("greedy", "sampled") if any(kind in row for row in rows.values())]
    head = "".join(f"<th>{kind}: before</th><th>after</th><th>gain</th>" for kind in kinds)
    body = "".join(
        f"<tr><td>{html.escape(task) or ('all' if len(tasks) > 1 else '')}</td><td>{html.escape(metric)}</td>"
        + "".join(
            _change(before.get(name), after.get(name), metric != "yes_share")
            for name in (rows[task, metric].get(k) for k in kinds)
        )
        + "</tr>"
        for task, metric in order
    )
    return f"<h2>Held out, before and after</h2><table><tr><th>task</th><th></th>{head}</tr>{body}</table>"


def _change(before: float | None, after: float | None, has_direction: bool) -> str:
    """Three cells: before, after, gain; coloured where more is better."""
    if before is None or after is None:
        return "<td></td><td></td><td></td>"
    gain = f"{after - before:+.3f}"
    colour = "" if float(gain) == 0 or not has_direction else " good" if after > before else " bad"
    return f"<td class='n'>{before:.3f}</td><td class='n'>{after:.3f}</td><td class='n{colour}'>{gain}</td>"


def _answers(samples: Rows) -> str:
    """The same held-out prompts at the first and at the last evaluation, greedy."""
    texts = [row for row in samples if row.get("kind") == "eval" and row.get("completion")]
    steps = sorted({row["step"] for row in texts})
    if len(steps) < 2:
        return ""
    before, after = ({r["prompt_id"]: r for r in texts if r["step"] == step} for step in (steps[0], steps[-1]))
    rows = [
        f"<tr><td>{_question(row)}</td>"
        f"<td class='gold'><code>{html.escape(str(row['label']))}</code></td>"
        + "".join(f"<td><code>{html.escape(_shown(r['completion']))}</code></td>" for r in (before[prompt_id], row))
        + "</tr>"
        for prompt_id, row in after.items()
        if prompt_id in before
    ][:MAX_SAMPLES]  # fmt: skip
    head = f"<tr><th>prompt</th><th>gold</th><th>at step {steps[0]}</th><th>at step {steps[-1]}</th></tr>"
    return f"<h2>Answers before and after, greedy</h2><table>{head}{''.join(rows)}</table>"


def _question(row: dict[str, Any]) -> str:
    """The pictures of a prompt and its text."""
    return "".join(map(_thumbnail, row.get("images", ()))) + f"<code>{html.escape(str(row.get('prompt', '')))}</code>"


def _thumbnail(path: str) -> str:
    """A picture within the page itself, which can then be moved; the path of one that is lost."""
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
    except OSError:
        return f"<code>{html.escape(path)}</code> "
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    small.save(data, "PNG")
    return (
        f"<img class='asked' src='data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}' alt='picture'> "
    )


def _response(row: dict[str, Any]) -> str:
    text = f"<code>{html.escape(_shown(row.get('completion', '')))}</code>"
    return text + " (picture)" * (row.get("task") in ("t2i", "r2i"))


def _shown(completion: str) -> str:
    """A response without the special tokens at its end."""
    return END.sub("", completion).strip()


def _samples(samples: Rows) -> str:
    """Samples of the training, spread over the run; the model's text is escaped."""
    samples = [row for row in samples if row.get("kind") != "eval"]
    if not samples:
        return ""
    number = min(len(samples), MAX_SAMPLES)
    # Not every n-th: tasks take turns, and n may be their number.
    shown = [samples[i * (len(samples) - 1) // max(number - 1, 1)] for i in range(number)]
    rows = [
        f"<tr><td class='n'>{row['step']}</td><td>{html.escape(str(row.get('task', '')))}</td>"
        f"<td>{_question(row)}</td>"
        f"<td>{_response(row)}</td>"
        f"<td>{html.escape(str(row.get('label', '')))}</td><td class='n'>{_number(row.get('reward'))}</td></tr>"
        for row in shown
    ]
    head = "<tr><th>step</th><th>task</th><th>prompt</th><th>response</th><th>gold</th><th>reward</th></tr>"
    return f"<h2>Samples of the training</h2><table>{head}{''.join(rows)}</table>"


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, (int, float)) else ""
