"""Compares RL methods on the tiny data, in one process and without Ray.

    python examples/tiny/compare_methods.py --output runs/comparison                           # everything: many hours
    python examples/tiny/compare_methods.py --output runs/two --methods unigrpo=2.4e-4 ESPO=6e-5  # known rates

Every method trains on the same prompts with the same number of samples; only the settings of METHODS differ. The
learning rate of a method is the one with the largest mean gain in a run with --tune_seed, which is not reported, or
the one that follows its name. Every finished run is a JSON file in the output folder, and a second call does not
repeat it. The time of a step is measured separately, with the methods in turn, so that other programs slow all methods
equally. The results are results.json, table.md (gains with equal samples, and at the time of the fastest
method) and curves.png (mean of the seeds, with a band from the lowest to the highest, and the first method in grey).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from multi_seed import SHOWN

from unigrpo import LocalTrainer
from unigrpo.config import RunConfig
from unigrpo.config.parsing import config_from_args, parse, run_parser
from unigrpo.data.prompts import load_prompts
from unigrpo.trainers.base import NoOutput

matplotlib.use("Agg")
CONFIG = "launch/configs/tiny/unigrpo.yaml"
SAMPLED = {title: name.format("sampled") for title, name in SHOWN.items()} | {
    "think, text to image": "shape_match_sampled/r2i"
}
METHODS: dict[str, list[str]] = {
    "unigrpo": [],
    "unigrpo of the paper": ["--algo.mask_ratio.minimum", "0.0"],
    "diffu-GRPO": ["--algo.likelihood.name", "all_masked"],
    "coupled-GRPO": ["--algo.likelihood.name", "coupled", "--algo.mask_ratio.minimum", "0.0"],
    "trace": ["--algo.likelihood.name", "trace"],
    "trace, 2 views": ["--algo.likelihood.name", "trace", "--algo.likelihood.options", "{num_views: 2}"],
    "ESPO": ["--algo.likelihood.name", "elbo_pair", "--algo.objective.level", "sequence"],
    "SPG": [
        *("--algo.likelihood.name", "block_masks", "--algo.likelihood.options", "{block_length: 10}"),
        *("--algo.objective.name", "sandwich", "--actor.loss_agg_mode", "token_mean", "--algo.kl.init_coef", "0.0"),
    ],
    "wd1": [
        *("--algo.likelihood.name", "all_masked", "--algo.objective.name", "weighted"),
        *("--algo.advantage.name", "wd1", "--algo.kl.init_coef", "0.0"),
    ],
    "StableDRL": ["--algo.likelihood.name", "elbo_pair", "--algo.objective.name", "unconditional_clip"],
}
"""Settings of each method on top of the config: estimator, objective, advantage, and KL if its paper has none."""
R2I_TERMS = [
    {
        "name": "clip_score",
        "weight": 0.1,
        "options": {"model": "examples/tiny/clip"},
        "span": "image",
        "tasks": ["r2i"],
    },
    {
        "name": "image_reward",
        "weight": 0.1,
        "options": {"model": "examples/tiny/image_reward"},
        "span": "image",
        "tasks": ["r2i"],
    },
    {"name": "examples/tiny/shapes.py:shape_match", "weight": 0.0, "tasks": ["r2i"]},
]
"""Rewards that score only the image and not the thoughts before it."""
ABLATIONS: dict[str, list[str]] = {
    "masks from 0": ["--algo.mask_ratio.minimum", "0.0"],
    "masks from 0.3": ["--algo.mask_ratio.minimum", "0.3"],
    "masks from 0.9": ["--algo.mask_ratio.minimum", "0.9"],
    "1 update": ["--train.num_inner_updates", "1"],
    "4 updates": ["--train.num_inner_updates", "4"],
    "8 updates": ["--train.num_inner_updates", "8"],
    "groups of 8": ["--rollout.n_samples_per_prompt", "8", "--rollout.batch_size", "48"],
    "groups of 32": ["--rollout.n_samples_per_prompt", "32", "--rollout.batch_size", "12"],
    "KL 0.01": ["--algo.kl.init_coef", "0.01"],
    "guided, not scored": ["--rollout.image.guidance_scale", "2.0"],
    "guided, scored": ["--rollout.image.guidance_scale", "2.0", "--rollout.image.score_guided", "true"],
    "thinking, joint reward": ["--data.tasks", "[r2i]", "--rollout.batch_size", "8"],
    "thinking, image alone rewarded": [
        *("--data.tasks", "[r2i]", "--rollout.batch_size", "8", "--reward.terms", json.dumps(R2I_TERMS)),
    ],
    "dual cache, threshold": ["--rollout.text.cache", "dual", "--rollout.text.threshold", "0.9"],
}
"""Variants of UniGRPO for --methods, each of which differs from the config in one point."""


def main() -> None:
    """Makes missing runs and writes table, figure and results."""
    arguments = parse_arguments()
    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    chosen: dict[str, list[dict[str, Any]]] = {}
    for method, rates in arguments.methods:
        rates = rates or arguments.learning_rates
        rate = rates[0]
        if len(rates) > 1:
            steps = ["--train.num_steps", str(arguments.tune_steps)] if arguments.tune_steps else []
            tuned = [known_run(folder, method, arguments.tune_seed, r, arguments, steps) for r in rates]
            rate = max(tuned, key=mean_gain)["learning_rate"]
        chosen[method] = [known_run(folder, method, seed, rate, arguments) for seed in arguments.seeds]
    seconds = known_step_seconds(folder, list(chosen), arguments)
    record = {
        "config": arguments.config,
        "settings": arguments.settings,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} CPU threads",
        "hours": round(sum(run["seconds"] for file in folder.glob("run_*.json") for run in [read(file)]) / 3600, 2),
        "step_seconds": seconds,
        "runs": chosen,
    }
    (folder / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    text = table(chosen, seconds)
    (folder / "table.md").write_text(text + "\n")
    figure(chosen, folder / "curves.png")
    print(text)


def parse_arguments() -> argparse.Namespace:
    """Returns the arguments of the command line; those that the script does not know are settings of the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the results; finished runs are not repeated"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        type=method_and_rates,
        default=[(name, []) for name in METHODS],
        metavar="METHOD[=RATE[,RATE]]",
        help=f"methods to run, each with its learning rates: {', '.join([*METHODS, *ABLATIONS])} (default: the first "
        f"{len(METHODS)})",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds to report")
    parser.add_argument("--tune_seed", type=int, default=0, help="seed of the runs that choose the learning rate")
    parser.add_argument(
        "--tune_steps",
        type=int,
        default=0,
        help="steps of the runs that choose the learning rate; 0: as many as the others",
    )
    parser.add_argument(
        "--learning_rates",
        type=float,
        nargs="+",
        default=[3e-5, 1e-4, 3e-4],
        help="learning rates to choose from, for methods without rates",
    )
    parser.add_argument("--config", default=CONFIG, help="config of all runs (default: %(default)s)")
    parser.add_argument("--eval_steps", type=int, default=8, help="number of steps between two points of the curves")
    arguments, arguments.settings = parser.parse_known_args()
    return arguments


def method_and_rates(text: str) -> tuple[str, list[float]]:
    """Returns the name of a method and the learning rates that follow it: ``ESPO=6e-5,1.2e-4``."""
    name, _, rates = text.partition("=")
    if name not in METHODS | ABLATIONS:
        raise argparse.ArgumentTypeError(f"no method {name!r}; choose one of {', '.join([*METHODS, *ABLATIONS])}")
    try:
        return name, [float(rate) for rate in rates.split(",") if rate]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: the rates must be numbers, as in {name}=6e-5,1.2e-4") from None


def known_run(
    folder: Path, method: str, seed: int, rate: float, arguments: argparse.Namespace, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the record of a run, which is trained if the folder has none."""
    file = folder / f"run_{method.replace(' ', '_')}_seed{seed}_lr{rate:g}.json"
    if not file.exists():
        print(f"{method}, seed {seed}, learning rate {rate:g}", flush=True)
        settings = ["--train.seed", str(seed), "--actor.adam.lr", str(rate), "--eval.steps", str(arguments.eval_steps)]
        points, seconds = train(run_config(method, arguments, [*settings, *more]))
        values = {"method": method, "seed": seed, "learning_rate": rate, "commit": commit(), "seconds": seconds}
        file.write_text(json.dumps(values | {"points": points}, indent=1) + "\n")
    return read(file)


def commit() -> str:
    """Returns the commit of the working tree; empty if it is not known."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def known_step_seconds(folder: Path, methods: Sequence[str], arguments: argparse.Namespace) -> dict[str, float]:
    """Returns the CPU seconds of a step of each method, which are measured if the folder does not have all of them."""
    file = folder / "step_seconds.json"
    if not file.exists() or not set(methods) <= read(file).keys():
        print("the CPU seconds of a step of each method", flush=True)
        seconds = step_seconds({method: run_config(method, arguments) for method in methods})
        file.write_text(json.dumps(seconds, indent=1) + "\n")
    return read(file)


def run_config(method: str, arguments: argparse.Namespace, settings: Sequence[str] = ()) -> RunConfig:
    """Returns the config of a run."""
    all_settings = ["--config", arguments.config, *(METHODS | ABLATIONS)[method], *arguments.settings, *settings]
    return config_from_args(parse(run_parser("compare_methods", "", RunConfig), all_settings, RunConfig), RunConfig)


def read(file: Path) -> dict[str, Any]:
    """Returns the content of a JSON file."""
    return json.loads(file.read_text())


class Curve(NoOutput):
    """The output of a run that keeps its held-out accuracy."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.points: list[dict[str, float]] = []
        of_tasks = {title: name for title, name in SAMPLED.items() if name.partition("/")[2] in tasks}
        # In a run with one task, the names of metrics have no task.
        self._names = {t: name if len(tasks) > 1 else name.partition("/")[0] for t, name in of_tasks.items()}

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Adds a point to the curve if the step has held-out metrics."""
        accuracy = {title: values[f"eval/{name}"] for title, name in self._names.items() if f"eval/{name}" in values}
        if accuracy:
            self.points.append({"step": step, **accuracy})
            print(self.points[-1], flush=True)


def train(config: RunConfig) -> tuple[list[dict[str, float]], float]:
    """Runs a whole training in this process. Returns the points of its curve, and its seconds with evaluations."""
    started = time.monotonic()
    output = Curve(config.data.tasks)
    with tempfile.TemporaryDirectory() as run_dir, trainer_of(config, run_dir) as trainer:
        trainer.fit(output)
    return output.points, round(time.monotonic() - started, 1)


def trainer_of(config: RunConfig, run_dir: str) -> LocalTrainer:
    """Returns the trainer of a run on the CPU."""
    data, held_out = config.data, config.eval
    return LocalTrainer(
        replace(config, run_dir=run_dir),
        prompts=load_prompts(data.prompt_dataset, tasks=data.tasks, max_samples=data.max_samples),
        eval_prompts=load_prompts(held_out.dataset, tasks=data.tasks, max_samples=held_out.max_samples),
        device="cpu",
    )


def step_seconds(configs: dict[str, RunConfig]) -> dict[str, float]:
    """Returns the CPU seconds of a training step of each method: the mean of three steps, after one that is not
    counted, with the methods in turn."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        trainers = {name: stack.enter_context(trainer_of(config, folder)) for name, config in configs.items()}
        spent = dict.fromkeys(configs, 0.0)
        for step in range(1, 5):
            for name, trainer in trainers.items():
                started = time.process_time()
                trainer.train_step(step, NoOutput())
                spent[name] += (time.process_time() - started) * (step > 1)
    return {name: round(seconds / 3, 3) for name, seconds in spent.items()}


def gains(run: dict[str, Any], part: float = 1.0) -> dict[str, float]:
    """Returns the gain of each task after a part of the steps of a run, by linear interpolation of its curve."""
    first, *_, last = run["points"]
    steps = [point["step"] for point in run["points"]]
    return {
        title: float(np.interp(part * last["step"], steps, [point[title] for point in run["points"]])) - first[title]
        for title in SAMPLED
        if title in first
    }


def mean_gain(run: dict[str, Any]) -> float:
    """Returns the mean gain over the tasks."""
    return statistics.mean(gains(run).values())


def table(chosen: dict[str, list[dict[str, Any]]], seconds: dict[str, float]) -> str:
    """Returns a Markdown table: the mean gain of the seeds and the lowest and highest in brackets, for each task at
    equal samples and, after the comma, at the time in which the fastest method makes all its steps. The last column
    has the time of a step, in that of the first method."""
    fastest = min(seconds[method] for method in chosen)
    titles = [title for title in SAMPLED if title in next(iter(chosen.values()))[0]["points"][0]]
    head = ["method", "learning rate", *titles, "time of a step"]
    rows = [head, ["---"] * len(head)]
    for method, runs in chosen.items():
        cells: list[str] = []
        for title in titles:
            equal_samples = [gains(run)[title] for run in runs]
            equal_time = statistics.mean(gains(run, fastest / seconds[method])[title] for run in runs)
            low, high = min(equal_samples), max(equal_samples)
            cells.append(f"{statistics.mean(equal_samples):+.3f} ({low:+.3f} to {high:+.3f}), {equal_time:+.3f}")
        relative = seconds[method] / seconds[next(iter(chosen))]
        rows.append([method, f"{runs[0]['learning_rate']:g}", *cells, f"{relative:.2f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def figure(chosen: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draws the held-out accuracy of each task by training step, a column for each method: the mean of the seeds, a
    band from the lowest to the highest, and the mean of the first method in grey. With one method, the tasks are the
    columns."""
    titles = [title for title in SAMPLED if title in next(iter(chosen.values()))[0]["points"][0]]
    if len(chosen) == 1:
        chart = Figure(figsize=(2.6 * len(titles) + 0.6, 2.6), layout="constrained")
        axes = chart.subplots(1, len(titles), sharex=True, squeeze=False).T
    else:
        chart = Figure(figsize=(1.6 * len(chosen) + 1, 2.2 * len(titles)), layout="constrained")
        axes = chart.subplots(len(titles), len(chosen), sharex=True, sharey="row", squeeze=False)
        for axis, method in zip(axes[0], chosen, strict=True):
            axis.set_title(method, fontsize="small")
    for axis in axes[:, 0] if len(chosen) == 1 else axes[-1]:
        axis.set_xlabel("step")
    for row, title in zip(axes, titles, strict=True):
        means: list[tuple[list[float], list[float]]] = []
        for axis, runs in zip(row, chosen.values(), strict=True):
            curves = [{point["step"]: point[title] for point in run["points"]} for run in runs]
            steps = [step for step in curves[0] if all(step in curve for curve in curves)]
            seeds = [[curve[step] for curve in curves] for step in steps]
            means.append((steps, [statistics.mean(values) for values in seeds]))
            axis.plot(*means[0], color="0.6")
            axis.fill_between(steps, [min(v) for v in seeds], [max(v) for v in seeds], color="C0", alpha=0.2)
            axis.plot(*means[-1], color="C0")
            axis.grid(color="0.9")
        row[0].set_ylabel(title)
    chart.suptitle("Fraction of held-out answers and images that are right, sampled", fontsize="medium")
    chart.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
