"""The report of a run: one page with curves, before and after, KL and clipping, times, work and samples."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from unigrpo import ConfigError
from unigrpo.data.images import read_image
from unigrpo.runs.image_grid import DRAWINGS, RECONSTRUCTIONS, stack_vertically
from unigrpo.runs.metrics import METRICS_FILE, ROLLOUTS_FILE, read_lines
from unigrpo.runs.report_plots import Rows, mean_seconds, write_plots

MAX_SAMPLES = 24
THUMBNAIL = 96
"""Longer side of a prompt's image, in pixels."""
END = re.compile(r"(<\|[^|<>\s]{1,40}\|>\s*)+$")
"""Special tokens at the end of a response."""


def write_report(folder: Path) -> Path:
    """Draws the plots of a run and writes its page, also of a run that is still going or died.

    Args:
        folder: A run directory.

    Returns:
        The path of the page, ``report.html``.

    Raises:
        ValueError: The folder holds no metrics.
    """
    metrics = read_lines(folder / METRICS_FILE)
    if not metrics:
        raise ConfigError(f"{folder}: no {METRICS_FILE} with a step in it; name the folder of a run")
    summary_file, config_file = folder / "summary.json", folder / "config.yaml"
    summary = json.loads(summary_file.read_text()) if summary_file.exists() else {}
    rollouts = read_lines(folder / ROLLOUTS_FILE)
    steps = [row for row in metrics if row["step"] > 0]
    environment = Environment(
        loader=PackageLoader("unigrpo", "runs"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["without_end"] = lambda text: END.sub("", text).strip()
    page = environment.get_template("report.html.jinja").render(
        name=folder.name,
        num_steps=len(steps),
        summary=summary,
        held_out=held_out_table(summary.get("eval", {})),
        plots=write_plots(folder, metrics),
        workers=worker_table(steps),
        rates=throughput(steps),
        grids=image_grids(folder),
        answers=answer_table(rollouts),
        samples=spread_samples([row for row in rollouts if row.get("kind") == "train"]),
        config=config_file.read_text() if config_file.exists() else "",
        thumbnail_data=thumbnail_data,
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def held_out_table(evaluations: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Returns a row for each held-out metric, before and after the run, each way of sampling side by side.

    The rows of each task come first, then those of all tasks together. A validation loss is a way of its own.
    """
    before, after = evaluations.get("before", {}), evaluations.get("after", {})
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for name in after:
        loss = re.fullmatch(r"validation/(.+?)_(nats_per_token.*)", name)
        reward = re.fullmatch(r"(.+)_(greedy|sampled)(?:/(.+))?", name)
        if loss:
            rows.setdefault((loss[1], loss[2]), {})["loss"] = name
        elif reward:
            rows.setdefault((reward[3] or "", reward[1]), {})[reward[2]] = name
    tasks = list(dict.fromkeys(task for task, _ in rows))
    kinds = [kind for kind in ("greedy", "sampled", "loss") if any(kind in names for names in rows.values())]
    table = [
        {
            "task": task or ("all" if len(tasks) > 1 else ""),
            "metric": metric,
            "changes": [_change(names.get(kind, ""), before, after) for kind in kinds],
        }
        for (task, metric), names in sorted(rows.items(), key=lambda row: (not row[0][0], tasks.index(row[0][0])))
    ]
    return {"kinds": kinds, "rows": table}


def _change(name: str, before: dict[str, float], after: dict[str, float]) -> dict[str, Any] | None:
    """Returns a metric before and after; the verdict is `good` or `bad` if a direction is better."""
    if name not in before or name not in after:
        return None
    gain = after[name] - before[name]
    verdict = ""
    if float(f"{gain:.3f}") != 0 and not name.startswith("yes_share"):
        is_better = gain < 0 if name.startswith("validation/") else gain > 0
        verdict = "good" if is_better else "bad"
    return {"before": before[name], "after": after[name], "gain": gain, "verdict": verdict}


def worker_table(rows: Rows) -> list[dict[str, Any]]:
    """Returns for each role the idle fraction, TFLOP/s, MFU and highest memory of a worker; None is not known."""
    step = _mean(rows, "time/step_seconds")
    idle = {role: _mean(rows, f"perf/{role}_idle_seconds") for role in mean_seconds(rows)}
    return [
        {
            "role": role,
            "idle": seconds / step if step and seconds is not None else None,
            "tflops": _mean(rows, f"perf/{role}_tflops"),
            "mfu": _mean(rows, f"perf/{role}_mfu"),
            "peak_gb": _mean(rows, f"memory/{role}_peak_gb"),
        }
        for role, seconds in idle.items()
    ]


def throughput(rows: Rows) -> list[dict[str, Any]]:
    """Returns what a generating worker made a second, tokens and images."""
    means = {name: _mean(rows, f"throughput/{name}_per_second_per_gpu") for name in ("tokens", "images")}
    return [{"name": name, "value": value} for name, value in means.items() if value]


def image_grids(folder: Path) -> list[dict[str, Any]]:
    """Returns the grids of a run: the same prompts at the first and the last evaluation, and reconstructions."""
    grids: list[dict[str, Any]] = []
    if pages := sorted((folder / DRAWINGS).glob("step_*.png")):
        shown = list(dict.fromkeys([pages[0], pages[-1]]))
        stacked, num_rows = stack_vertically([Image.open(page) for page in shown])
        stacked.save(folder / f"{DRAWINGS}.png")
        title = "Generated images" + ", before and after" * (len(shown) > 1)
        rows = [int(page.stem.removeprefix("step_")) for page in shown for _ in range(num_rows)]
        grids.append({"title": title, "file": f"{DRAWINGS}.png", "rows": rows})
    if pages := sorted((folder / RECONSTRUCTIONS).glob("step_*.png")):
        title = f"Reconstructions at step {int(pages[-1].stem.removeprefix('step_'))}"
        grids.append({"title": title, "file": f"{RECONSTRUCTIONS}/{pages[-1].name}", "rows": []})
    return grids


def answer_table(rollouts: Rows) -> dict[str, Any]:
    """Returns pairs of rows: the same held-out prompt at the first and at the last evaluation."""
    texts = [row for row in rollouts if row.get("kind") != "train" and row.get("completion")]
    steps = sorted({row["step"] for row in texts})
    if len(steps) < 2:
        return {"rows": []}
    before, after = ({r["prompt_id"]: r for r in texts if r["step"] == step} for step in (steps[0], steps[-1]))
    pairs = [(before[name], row) for name, row in after.items() if name in before]
    return {"first_step": steps[0], "last_step": steps[-1], "rows": pairs[:MAX_SAMPLES]}


def spread_samples(samples: Rows) -> Rows:
    """Returns at most :data:`MAX_SAMPLES` samples, spread over the run."""
    number = min(len(samples), MAX_SAMPLES)
    # Not every n-th: tasks take turns, and n may be their number.
    return [{"reward": None, **samples[i * (len(samples) - 1) // max(number - 1, 1)]} for i in range(number)]


def thumbnail_data(path: str) -> str:
    """Returns a small copy of an image as a data URL, so that the page can be moved; empty if the file is lost."""
    try:
        small = read_image(path)
    except ValueError:
        return ""
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    small.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _mean(rows: Rows, name: str) -> float | None:
    values = [row[name] for row in rows if name in row]
    return sum(values) / len(values) if values else None
