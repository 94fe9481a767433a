"""Trains a masked-diffusion policy with UniGRPO on the Ray cluster at hand."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unigrpo.checks.unigrpo import Inputs, check_checkpoint, check_inputs
from unigrpo.cli.arguments import config_from_args, main, parse, run_parser
from unigrpo.cli.paths import with_absolute_paths
from unigrpo.cli.plan import add_plan_arguments, assumptions, is_local_checkpoint, unigrpo_plan
from unigrpo.config import RunConfig
from unigrpo.distributed import cluster
from unigrpo.distributed.ray_group import WorkerError
from unigrpo.runs.checkpoints import CheckpointStore
from unigrpo.runs.directory import RunDirectory, check_unused
from unigrpo.runs.report import write_report
from unigrpo.trainers.rollout_source import StalenessError
from unigrpo.trainers.unigrpo import LogprobMismatchError, UniGRPOTrainer
from unigrpo.training.reward_aggregation import RewardError

logger = logging.getLogger(__name__)


def run(arguments: Sequence[str]) -> int:
    """The command. Returns its exit status."""
    parser = run_parser("unigrpo.cli.train_unigrpo", __doc__ or "")
    add_plan_arguments(parser)
    parsed = parse(parser, arguments)
    config = with_absolute_paths(config_from_args(parsed, RunConfig))
    check_unused(config)
    assumed = assumptions(parsed.gpu, parsed.mfu)
    if parsed.dry_run and not is_local_checkpoint(config.actor.model_name_or_path):
        sys.stdout.write(unigrpo_plan(config, None, assumed))
        return 0
    inputs = check_inputs(config)
    checkpoints = CheckpointStore(checkpoint_path(config), config.ckpt.max_num)
    check_checkpoint(config, checkpoints)
    cluster.connect(cluster.required(config))
    cluster.check_resources(config)
    try:
        if parsed.dry_run:
            plan = unigrpo_plan(config, inputs, assumed)
            _check_rewards(config)
            sys.stdout.write(plan)
            return 0
        return train(config, inputs, checkpoints)
    except (WorkerError, RewardError, LogprobMismatchError, StalenessError) as error:
        logger.debug("the whole error", exc_info=True)
        sys.stderr.write(f"error: {error}\n")
        return 1


def train(config: RunConfig, inputs: Inputs, checkpoints: CheckpointStore) -> int:
    """Starts the workers, trains, exports the policy and writes the report."""
    from unigrpo.distributed import placement  # noqa: PLC0415  # loads OpenRLHF: seconds that --help need not wait

    folder = Path(config.run_dir).resolve()
    logger.info("starting %s", cluster.required(config))
    with contextlib.closing(placement.start_groups(config)) as groups:
        trainer = UniGRPOTrainer(
            config,
            policy=groups.policy,
            reference=groups.reference,
            rollout=groups.rollout,
            reward=groups.reward,
            prompts=inputs.prompts,
            eval_prompts=inputs.eval_prompts,
            checkpoints=checkpoints,
        )
        first_step = trainer.resume() if config.ckpt.load_enable else 0
        with contextlib.closing(RunDirectory(config, first_step)) as output:
            summary = trainer.fit(output)
            trainer.export(folder / "policy")
            output.summary(summary)
    report = write_report(folder)
    sys.stdout.write(f"\n{summary_table(summary)}\n")
    sys.stdout.write(f"policy:       {folder / 'policy'}\n")
    sys.stdout.write(f"reward curve: {folder / 'reward_curve.png'}\nreport:       {report}\n")
    return 0


def _check_rewards(config: RunConfig) -> None:
    from unigrpo.distributed.reward_pool import check_rewards  # noqa: PLC0415  # as above

    check_rewards(config.reward)


def checkpoint_path(config: RunConfig) -> Path:
    """Where the checkpoints of a run are."""
    return Path(config.ckpt.path or Path(config.run_dir) / "checkpoints").resolve()


def summary_table(summary: dict[str, Any]) -> str:
    """Held-out metrics before and after, side by side."""
    before, after = summary["eval"]["before"], summary["eval"]["after"]
    if not after:
        return "no held-out prompts (eval.dataset), so nothing to compare"
    width = max(len(name) for name in after)
    rows = [(name, before[name], value) for name, value in after.items()]
    return "\n".join(
        [f"{'held out':<{width}}  {'before':>8}  {'after':>8}  {'gain':>8}"]
        + [f"{name:<{width}}  {old:>8.3f}  {new:>8.3f}  {new - old:>+8.3f}" for name, old, new in rows]
    )


if __name__ == "__main__":
    main(run)
