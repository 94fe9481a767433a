"""The steps that the training commands share: check, plan or connect, train, and print where the results are."""

from __future__ import annotations

import contextlib
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from unigrpo import ConfigError
from unigrpo.checks.denoising import StageInputs, check_stage
from unigrpo.checks.resuming import check_checkpoint
from unigrpo.checks.unigrpo import Inputs, check_inputs
from unigrpo.cli.plan import Assumptions, assumptions, is_local_checkpoint, stage_plan, trial_lines, unigrpo_plan
from unigrpo.cli.plan_run import check_disk
from unigrpo.config import RunConfig
from unigrpo.config.denoising import StageConfig
from unigrpo.cost.disk import disk_plan
from unigrpo.cost.memory import ModelSize
from unigrpo.distributed import cluster
from unigrpo.distributed.ray_group import WorkerError
from unigrpo.models.checkpoint_io import load_config
from unigrpo.runs.checkpoints import CheckpointStore, checkpoint_path
from unigrpo.runs.config_file import check_no_secret_is_missing
from unigrpo.runs.directory import check_unused
from unigrpo.runs.errors import OutputError
from unigrpo.runs.image_grid import IMAGES
from unigrpo.runs.lock import locked
from unigrpo.runs.report import write_report
from unigrpo.runs.secrets import without_secrets
from unigrpo.runs.stopping import RunStopped, StopRequest
from unigrpo.trainers.denoising import StageTrainer
from unigrpo.trainers.logprob_check import LogprobMismatchError
from unigrpo.trainers.rollout_source import StalenessError
from unigrpo.trainers.unigrpo import UniGRPOTrainer
from unigrpo.training.reward_failures import RewardError
from unigrpo.workers.reward_pool import RewardNotReady

logger = logging.getLogger(__name__)

RUN_ERRORS = (WorkerError, RewardNotReady, RewardError, LogprobMismatchError, StalenessError, OutputError)
"""Errors of a run that are reported in one line."""
Config = TypeVar("Config", RunConfig, StageConfig)
Checked = TypeVar("Checked")
Trainer = UniGRPOTrainer | StageTrainer


class TrainingJob(ABC, Generic[Config, Checked]):
    """One training run. The methods are the parts in which UniGRPO and the stages before it differ."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def check(self) -> Checked:
        """Checks all inputs. Raises ValueError."""

    @abstractmethod
    def plan(self, checked: Checked | None, assumed: Assumptions) -> str:
        """Returns the text of a dry run. If `checked` is None, the plan follows from the config alone."""

    @abstractmethod
    def connect(self) -> None:
        """Connects to the Ray cluster and checks that it is large enough. Raises ValueError."""

    def check_rewards(self, checked: Checked) -> str:
        """Loads and calls every reward once, for a dry run, and returns the results as text. Raises RewardNotReady."""
        return ""

    @abstractmethod
    def trainer(self, checked: Checked, checkpoints: CheckpointStore) -> contextlib.AbstractContextManager[Trainer]:
        """Starts the workers, which end with the context, and returns the trainer."""

    @abstractmethod
    def results(self, folder: Path) -> dict[str, Path]:
        """Writes the report of a finished run, and returns the paths of its results by their names."""


class UniGRPOJob(TrainingJob[RunConfig, Inputs]):
    """A UniGRPO run."""

    def check(self) -> Inputs:
        return check_inputs(self.config)

    def plan(self, checked: Inputs | None, assumed: Assumptions) -> str:
        return unigrpo_plan(self.config, checked, assumed)

    def connect(self) -> None:
        cluster.connect(cluster.required(self.config))
        cluster.check_resources(self.config)

    def check_rewards(self, checked: Inputs) -> str:
        from unigrpo.distributed.reward_pool import check_rewards  # noqa: PLC0415  # loads OpenRLHF

        return trial_lines(check_rewards(self.config.reward, checked.prompts, self.config.num_generated_per_step))

    @contextlib.contextmanager
    def trainer(self, checked: Inputs, checkpoints: CheckpointStore) -> Iterator[UniGRPOTrainer]:
        from unigrpo.distributed import placement  # noqa: PLC0415  # loads OpenRLHF

        needs = cluster.required(self.config)
        logger.info("starting the processes of the run, which take %d GPUs and %g CPUs of Ray", needs.gpus, needs.cpus)
        with contextlib.closing(placement.start_groups(self.config, checked.prompts)) as groups:
            yield UniGRPOTrainer(
                self.config,
                policy=groups.policy,
                reference=groups.reference,
                rollout=groups.rollout,
                reward=groups.reward,
                prompts=checked.prompts,
                eval_prompts=checked.eval_prompts,
                checkpoints=checkpoints,
            )

    def results(self, folder: Path) -> dict[str, Path]:
        report = write_report(folder)
        return {"policy": folder / "policy", "reward curve": folder / "reward_curve.png", "report": report}


class DenoisingJob(TrainingJob[StageConfig, StageInputs]):
    """A pretraining or Mix-CoT stage."""

    def check(self) -> StageInputs:
        return check_stage(self.config)

    def plan(self, checked: StageInputs | None, assumed: Assumptions) -> str:
        return stage_plan(self.config, checked, assumed)

    def connect(self) -> None:
        request = cluster.stage_needs(self.config)
        cluster.connect(request)
        cluster.check_cluster(self.config, request, f"{request.gpus} for the model")

    @contextlib.contextmanager
    def trainer(self, checked: StageInputs, checkpoints: CheckpointStore) -> Iterator[StageTrainer]:
        from unigrpo.distributed import placement  # noqa: PLC0415  # loads OpenRLHF

        with contextlib.closing(placement.start_stage(self.config)) as groups:
            yield StageTrainer(
                self.config,
                workers=groups.workers,
                validation_prompts=checked.validation_prompts,
                checkpoints=checkpoints,
            )

    def results(self, folder: Path) -> dict[str, Path]:
        return {"model": folder / "policy", "images": folder / IMAGES, "report": write_report(folder)}


def run_training(job: TrainingJob[Any, Any], *, is_dry_run: bool, gpu: str, mfu: float) -> int:
    """Checks a run and then plans or trains it.

    Args:
        job: The run.
        is_dry_run: Whether to print the plan and not train.
        gpu: The GPU for which a dry run plans.
        mfu: The fraction of the GPU's peak arithmetic that a dry run assumes.

    Returns:
        The exit status.

    Raises:
        ValueError: Something is wrong with the config, the inputs or the cluster.
    """
    if is_dry_run:
        return _plan(job, assumptions(gpu, mfu))
    config = job.config
    with locked(Path(config.run_dir), "--run_dir"), locked(checkpoint_path(config), "--ckpt.path"):
        try:
            checked, checkpoints = _checked(job)
            job.connect()
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(
                "it was checking the run and had not begun to train; the same command starts it again"
            ) from error
        return _status(lambda stop: train(job, checked, checkpoints, stop))


def _plan(job: TrainingJob[Any, Any], assumed: Assumptions) -> int:
    """Checks what can be checked here and prints the plan. Returns the exit status."""
    model = job.config.actor.model_name_or_path
    if not is_local_checkpoint(model):
        check_unused(job.config)
        try:
            plan = job.plan(None, assumed)
        except ConfigError as error:
            raise ConfigError(
                f"{model} is neither a folder on this machine nor a downloaded model, so the plan is that of "
                f"MMaDA-8B: {error}"
            ) from error
        sys.stdout.write(plan)
        return 0
    checked, _ = _checked(job, is_dry_run=True)
    job.connect()
    plan = job.plan(checked, assumed)
    return _status(lambda _: sys.stdout.write(job.check_rewards(checked) + plan))


def _checked(job: TrainingJob[Any, Any], *, is_dry_run: bool = False) -> tuple[Any, CheckpointStore]:
    """Checks directories, inputs and the checkpoint to resume from. Raises ValueError."""
    check_no_secret_is_missing(job.config)
    check_unused(job.config)
    checked = job.check()
    model = ModelSize.of(load_config(job.config.actor.model_name_or_path), job.config.ds.lora)
    disk = disk_plan(job.config, model)
    if not is_dry_run:  # whose plan says it
        warning = check_disk(job.config, disk)
        if warning:
            logger.warning("%s", warning)
    path, number = checkpoint_path(job.config), job.config.ckpt.max_num
    checkpoints = CheckpointStore(path, number, expected_bytes=int(disk.checkpoint_gb * 1e9))
    check_checkpoint(job.config, checkpoints)
    return checked, checkpoints


def _status(work: Callable[[StopRequest], object]) -> int:
    """Does the work, and reports an error of a run, or a signal that ended it, in one line.

    Returns:
        The exit status: 1 after an error, and 128 plus the signal's number after a signal, as shells have it.
    """
    stop = StopRequest()
    try:
        with stop.handled():
            work(stop)
        return 0
    except RunStopped as error:
        message = f"stopped by {stop.ending_signal.name} {error}; the same command resumes from there"
    except KeyboardInterrupt:
        message = (
            f"stopped by {stop.ending_signal.name}; the same command resumes from the last checkpoint, if there is one"
        )
    except RUN_ERRORS as error:
        logger.debug("the whole error", exc_info=True)
        sys.stderr.write(f"error: {without_secrets(str(error))}\n")
        return 1
    sys.stderr.write(f"{message}\n")
    return 128 + stop.ending_signal


def train(job: TrainingJob[Any, Any], checked: Any, checkpoints: CheckpointStore, stop: StopRequest) -> None:
    """Trains, exports the policy, and prints the summary and the paths of the results."""
    folder = Path(job.config.run_dir).resolve()
    with job.trainer(checked, checkpoints) as trainer:
        summary = trainer.run(stop)
    results = job.results(folder)
    width = max(map(len, results)) + 1
    sys.stdout.write(f"\n{summary_table(summary)}\n")
    sys.stdout.write("".join(f"{name + ':':<{width}} {path}\n" for name, path in results.items()))


def summary_table(summary: dict[str, Any]) -> str:
    """Returns a table of the held-out metrics before and after training.

    If a metric exists for each task, its mean over all tasks is not shown, because it also depends on the mix of
    prompts.
    """
    before, after = summary["eval"]["before"], summary["eval"]["after"]
    if not after:
        return "no held-out prompts (eval.dataset), so nothing to compare"
    by_task = {name.rpartition("/")[0] for name in after if not name.startswith("validation/")}
    together = by_task | ({"reward_total"} if "reward_total_sampled" in after else set())  # which is the same number
    names = [name for name in after if name not in together]
    width = max(map(len, names))
    rows = [(name, before[name], after[name]) for name in names]
    return "\n".join(
        [f"{'held out':<{width}}  {'before':>8}  {'after':>8}  {'gain':>8}"]
        + [f"{name:<{width}}  {old:>8.3f}  {new:>8.3f}  {new - old:>+8.3f}" for name, old, new in rows]
    )
