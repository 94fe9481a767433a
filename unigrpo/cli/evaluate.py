"""Measures checkpoints on held-out prompts of all tasks, with the rewards and the code of the evaluation in training.

The command needs no Ray and uses all GPUs of this machine. It writes results.json, a table to results.md, and every
sample with its rewards to samples.jsonl. If it is interrupted, the same command continues. The config file may contain
settings of training that are not listed here; they have no effect. Example:
  unigrpo evaluate --models stage1/policy mixcot/policy unigrpo/policy --config my.yaml --output out
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from unigrpo.cli.main import run_old_name
from unigrpo.cli.paths import UserPaths, with_absolute_paths
from unigrpo.config import RunConfig
from unigrpo.config.parsing import config_from_args, hide_flags, parse, run_parser

UNUSED = (
    "run_dir", "algo", "ckpt", "logger", "ref", "train", "actor", "ds.zero_stage", "ds.adam_offload", "ds.lora",
    "data.prompt_dataset", "data.prompt_split", "data.max_samples", "rollout.batch_size", "rollout.num_workers",
    "rollout.n_samples_per_prompt", "rollout.max_staleness", "eval.steps", "reward.max_",
)  # fmt: skip
"""Beginnings of the names of settings that an evaluation does not read."""


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo evaluate``. Returns the exit status."""
    parser = run_parser("unigrpo evaluate", __doc__ or "", RunConfig)
    hide_flags(parser, UNUSED, but=("train.seed", "actor.model_name_or_path"))
    parser.add_argument(
        "--models", nargs="+", default=(), help="checkpoints to compare, in the order of the columns of the table"
    )
    parser.add_argument("--output", required=True, help="folder to write to; it must not contain results.json yet")
    parser.add_argument("--device", default="auto", help="auto (all GPUs), cpu, cuda, cuda:1 ...")
    parser.add_argument(
        "--num_processes",
        type=int,
        default=0,
        help="number of processes, each with a copy of the model; 0 is one per GPU",
    )
    parsed = parse(parser, arguments, RunConfig)
    user = UserPaths()
    config, output = with_absolute_paths(config_from_args(parsed, RunConfig)), Path(user.resolve_output(parsed.output))
    models = [user.resolve_input(model) for model in parsed.models] or [config.actor.model_name_or_path]
    from unigrpo.cli.evaluation import RESULTS, evaluate  # noqa: PLC0415  # loads torch, which --help need not
    from unigrpo.evaluation.samples import FILE as SAMPLES  # noqa: PLC0415

    try:
        table = evaluate(config, models, output, parsed.device, parsed.num_processes)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"the same command generates the samples that are missing in {output / SAMPLES}"
        ) from error
    sys.stdout.write(f"{table}\n\nresults: {output / RESULTS}\nsamples: {output / SAMPLES}\n")
    return 0


if __name__ == "__main__":
    run_old_name("unigrpo.cli.evaluate", "evaluate")
