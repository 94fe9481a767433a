"""The report of a run: one page with images and answers before and after, curves, times, work and samples.

The page holds its images and loads nothing, so that it can be sent as one file.
"""

from __future__ import annotations

import base64
import io
import re
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, TypedDict

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from unigrpo import ConfigError
from unigrpo.config.typed_files import WrongContent, checked, read_json
from unigrpo.data.images import read_image
from unigrpo.runs.config_file import CONFIG_FILE, read_settings
from unigrpo.runs.image_grid import IMAGES, RECONSTRUCTIONS, stack_vertically
from unigrpo.runs.metrics import METRICS_FILE, read_metrics, read_rollouts, read_scores
from unigrpo.runs.report_plots import Rows, mean_seconds, write_plots
from unigrpo.runs.scores import Scores, paired_gain, scores_at

MAX_SAMPLES = 24
MAX_ANSWERS = 8
"""Number of held-out answers before and after, above the table and the curves."""
THUMBNAIL = 96
"""Longer side of a prompt's image, in pixels."""
END = re.compile(r"(<\|[^|<>\s]{1,40}\|>\s*)+$")
"""Special tokens at the end of a response."""


class _Ended(TypedDict):
    """What every ``summary.json`` has."""

    steps: int
    wall_seconds: float


class Summary(_Ended, total=False):
    """The content of ``summary.json``."""

    eval: dict[Literal["before", "after"], dict[str, float]]
    machine: str


class _Actor(TypedDict, total=False):
    model_name_or_path: str
    num_nodes: int
    num_gpus_per_node: int


class _Data(TypedDict, total=False):
    prompt_dataset: str | list[Any]


class _HeldOut(TypedDict, total=False):
    dataset: str | list[Any]


class _Train(TypedDict, total=False):
    seed: Any


class Settings(TypedDict, total=False):
    """The settings of a run that stand in the head of its report."""

    actor: _Actor
    data: _Data
    eval: _HeldOut
    train: _Train


def template(name: str) -> Template:
    """Returns a template of this package."""
    environment = Environment(
        loader=PackageLoader("unigrpo", "runs"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["without_end"] = lambda text: END.sub("", text).strip()
    return environment.get_template(name)


def write_report(folder: Path) -> Path:
    """Plots the metrics of a run and writes its page, also for a run that is still active or was killed.

    Args:
        folder: A run directory.

    Returns:
        The path of the page, ``report.html``.

    Raises:
        ValueError: The folder holds no metrics.
    """
    metrics = read_metrics(folder)
    if not metrics:
        raise ConfigError(f"{folder}: no {METRICS_FILE} with a step in it; name the folder of a run")
    summary, config_file = read_summary(folder), folder / CONFIG_FILE
    rollouts = read_rollouts(folder)
    steps = [row for row in metrics if row["step"] > 0]
    page = template("report.html.jinja").render(
        name=folder.name,
        num_steps=len(steps),
        summary=summary,
        facts=run_facts(folder, summary, metrics),
        held_out=held_out_table(summary.get("eval", {}), read_scores(folder)),
        plots=write_plots(folder, metrics),
        workers=worker_table(steps),
        rates=throughput(steps),
        grids=image_grids(folder),
        answers=answer_table(rollouts),
        samples=spread_samples([row for row in rollouts if row.get("kind") == "train"]),
        config=config_file.read_text() if config_file.exists() else "",
        thumbnail_data=thumbnail_data,
        file_data=lambda name: file_data(folder / name),
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def read_summary(folder: Path) -> dict[str, Any]:
    """Returns the summary that a run wrote at its end; empty if the run has not ended.

    Raises:
        ConfigError: The file holds something else.
    """
    file = folder / "summary.json"
    advice = "restore the file, or delete it; then the report has no comparison with the beginning"
    return read_json(file, Summary, ConfigError, advice) if file.exists() else {}


def run_facts(folder: Path, summary: dict[str, Any], metrics: Rows) -> dict[str, str]:
    """Returns the known facts about a run: model, data, seed, machine and duration.

    Raises:
        ConfigError: The config of the run holds something else.
    """
    config: Any = read_config(folder)
    try:
        checked(config, Settings)
    except WrongContent as error:
        raise ConfigError(f"{folder / CONFIG_FILE}: {error}; restore the file") from error
    data, held_out = config.get("data", {}), config.get("eval", {})
    ranks = config.get("actor", {}).get("num_nodes", 1) * config.get("actor", {}).get("num_gpus_per_node", 1)
    machine = summary.get("machine", "")
    seconds = summary.get("wall_seconds", sum(row.get("time/step_seconds", 0.0) for row in metrics))
    facts = {
        "model": config.get("actor", {}).get("model_name_or_path", ""),
        "data": _file_names(data.get("prompt_dataset", "")),
        "held out": _file_names(held_out.get("dataset", "")),
        "seed": str(config.get("train", {}).get("seed", "")),
        "machine": f"{machine}, {ranks} policy rank{'s' * (ranks != 1)}" if machine else "",
        "duration": f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min",
    }
    return {name: value for name, value in facts.items() if value}


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the settings of a run by their sections; empty if the directory holds none."""
    return read_settings(folder) if (folder / CONFIG_FILE).exists() else {}


def _file_names(dataset: Any) -> str:
    """Returns the names of the data of a run, which are a path or a list of files with settings."""
    files = dataset if isinstance(dataset, list) else [dataset]
    return ", ".join(str(file.get("path", "") if isinstance(file, dict) else file) for file in files)


def held_out_table(evaluations: dict[str, dict[str, float]], scores: Rows) -> dict[str, Any]:
    """Returns a row for each held-out metric, before and after the run, each way of sampling side by side.

    With several tasks, a metric that each task has is not shown for all together, because that mean also depends on
    the mix of prompts. A validation loss is a way of its own.

    Args:
        evaluations: The metrics `before` and `after` the run.
        scores: The rows of ``scores.jsonl``, from which the intervals are computed.
    """
    before, after = evaluations.get("before", {}), evaluations.get("after", {})
    steps = sorted({row["step"] for row in scores})
    pair = (scores_at(scores, steps[0]), scores_at(scores, steps[-1])) if len(steps) > 1 else None
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for name in after:
        loss = re.fullmatch(r"validation/(.+?)_(nats_per_token.*)", name)
        reward = re.fullmatch(r"(.+)_(greedy|sampled)(?:/(.+))?", name)
        if loss:
            rows.setdefault((loss[1], loss[2]), {})["loss"] = name
        elif reward:
            rows.setdefault((reward[3] or "", reward[1]), {})[reward[2]] = name
    tasks = list(dict.fromkeys(task for task, _ in rows))
    by_task = {metric for task, metric in rows if task}
    rows = {(task, metric): names for (task, metric), names in rows.items() if task or metric not in by_task}
    kinds = [kind for kind in ("greedy", "sampled", "loss") if any(kind in names for names in rows.values())]
    table = [
        {
            "task": task or ("all" if len(tasks) > 1 else ""),
            "metric": metric,
            "changes": [_change(names.get(kind, ""), before, after, pair, task) for kind in kinds],
        }
        for (task, metric), names in sorted(rows.items(), key=lambda row: (not row[0][0], tasks.index(row[0][0])))
    ]
    return {"kinds": kinds, "rows": table}


def _change(
    name: str, before: dict[str, float], after: dict[str, float], pair: tuple[Scores, Scores] | None, task: str
) -> dict[str, Any] | None:
    """Returns a metric before and after with the number of prompts and the interval of the gain.

    The verdict is `good` or `bad` only if one direction is better and the interval excludes 0. A validation loss has
    no interval and always a verdict: it is measured on the same masks every time.
    """
    if name not in before or name not in after:
        return None
    gain = after[name] - before[name]
    paired = paired_gain(*pair, name.removesuffix(f"/{task}"), task) if pair else None
    is_loss, has_better_side = name.startswith("validation/"), not name.startswith(("yes_fraction", "yes_share"))
    verdict = ""
    if has_better_side and float(f"{gain:.3f}") != 0 and (is_loss or (paired is not None and paired.is_clear)):
        verdict = "good" if (gain < 0) == is_loss else "bad"
    return {
        "before": before[name], "after": after[name], "gain": gain, "verdict": verdict, "paired": paired,
    }  # fmt: skip


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
    """Returns the number of tokens and images that a generating worker made per second."""
    means = {name: _mean(rows, f"throughput/{name}_per_second_per_gpu") for name in ("tokens", "images")}
    return [{"name": name, "value": value} for name, value in means.items() if value]


def image_grids(folder: Path) -> list[dict[str, Any]]:
    """Returns the grids of a run: the same prompts at the first and the last evaluation, and reconstructions."""
    grids: list[dict[str, Any]] = []
    if pages := _pages(folder / IMAGES):
        shown = list(dict.fromkeys([pages[0], pages[-1]]))
        stacked, num_rows = stack_vertically([read_image(page) for page in shown])
        stacked.save(folder / f"{IMAGES}.png")
        title = "Generated images" + ", before and after" * (len(shown) > 1)
        rows = [int(page.stem.removeprefix("step_")) for page in shown for _ in range(num_rows)]
        grids.append({"title": title, "file": f"{IMAGES}.png", "rows": rows})
    if pages := _pages(folder / RECONSTRUCTIONS):
        title = f"Reconstructions at step {int(pages[-1].stem.removeprefix('step_'))}"
        grids.append({"title": title, "file": f"{RECONSTRUCTIONS}/{pages[-1].name}", "rows": []})
    return grids


def _pages(folder: Path) -> list[Path]:
    """Returns the grids of a folder in the order of their steps. Files with other names are left out."""
    return [page for page in sorted(folder.glob("step_*.png")) if page.stem.removeprefix("step_").isdecimal()]


def answer_table(rollouts: Rows) -> dict[str, Any]:
    """Returns pairs of rows: the same held-out prompt at the first and at the last evaluation, the tasks in turn."""
    texts = [row for row in rollouts if row.get("kind") != "train" and row.get("completion")]
    steps = sorted({row["step"] for row in texts})
    if len(steps) < 2:
        return {"rows": []}
    before, after = ({r["prompt_id"]: r for r in texts if r["step"] == step} for step in (steps[0], steps[-1]))
    pairs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for name, row in after.items():
        if name in before:
            pairs.setdefault(row.get("task", ""), []).append((before[name], row))
    in_turn = [pair for turn in zip_longest(*pairs.values()) for pair in turn if pair is not None]
    return {"first_step": steps[0], "last_step": steps[-1], "rows": in_turn[:MAX_ANSWERS]}


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


def file_data(path: Path) -> str:
    """Returns a PNG file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _mean(rows: Rows, name: str) -> float | None:
    values = [row[name] for row in rows if name in row]
    return sum(values) / len(values) if values else None
