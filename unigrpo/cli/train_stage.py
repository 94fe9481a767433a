"""What the commands of pretraining and Mix-CoT share: from flags to a trained stage."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unigrpo.checks.denoising import StageInputs, check_stage
from unigrpo.checks.unigrpo import check_checkpoint
from unigrpo.cli.arguments import config_from_args, parse, run_parser
from unigrpo.cli.paths import UserPaths
from unigrpo.cli.plan import add_plan_arguments, assumptions, is_local_checkpoint, stage_plan
from unigrpo.cli.train_unigrpo import summary_table
from unigrpo.config.corpora import SourceConfig
from unigrpo.config.denoising import MODALITIES, ModalityConfig, StageConfig
from unigrpo.data.files import is_table_name, split_paths
from unigrpo.distributed import cluster
from unigrpo.distributed.ray_group import WorkerError
from unigrpo.runs.checkpoints import CheckpointStore
from unigrpo.runs.directory import check_unused
from unigrpo.trainers.denoising import StageTrainer
from unigrpo.trainers.denoising_output import DenoisingRunDirectory

logger = logging.getLogger(__name__)


def run_stage(program: str, description: str, arguments: Sequence[str]) -> int:
    """The command. Returns its exit status."""
    parser = run_parser(program, description, StageConfig)
    parser.add_argument("--init_from", default="", help="run folder of a finished stage to start from")
    add_plan_arguments(parser)
    parsed = parse(parser, arguments)
    config = with_absolute_paths(config_from_args(parsed, StageConfig))
    if parsed.init_from:
        config = initial_checkpoint(config, Path(UserPaths().resolve_input(parsed.init_from)))
    check_unused(config)
    assumed = assumptions(parsed.gpu, parsed.mfu)
    if parsed.dry_run and not is_local_checkpoint(config.actor.model_name_or_path):
        sys.stdout.write(stage_plan(config, None, assumed))
        return 0
    inputs = check_stage(config)
    checkpoints = CheckpointStore(Path(config.ckpt.path or Path(config.run_dir) / "checkpoints"), config.ckpt.max_num)
    check_checkpoint(config, checkpoints)
    needs = cluster.stage_needs(config)
    cluster.connect(needs)
    cluster.check_cluster(config, needs, f"{needs.gpus} for the model")
    if parsed.dry_run:
        sys.stdout.write(stage_plan(config, inputs, assumed))
        return 0
    try:
        return train(config, inputs, checkpoints)
    except WorkerError as error:
        logger.debug("the whole error", exc_info=True)
        sys.stderr.write(f"error: {error}\n")
        return 1


def initial_checkpoint(config: StageConfig, run: Path) -> StageConfig:
    """The config with the policy of a finished run as its start.

    Raises:
        ValueError: The run is not finished.
    """
    if not (run / "summary.json").exists():
        raise ValueError(f"--init_from {run}: no finished run there (no summary.json); name the run folder of a stage")
    policy = run / "policy"
    tokenizer = config.image.tokenizer
    if not tokenizer and (policy / "image_tokenizer").is_dir():
        tokenizer = str(policy / "image_tokenizer")
    return replace(
        config,
        actor=replace(config.actor, model_name_or_path=str(policy)),
        image=replace(config.image, tokenizer=tokenizer),
    )


def train(config: StageConfig, inputs: StageInputs, checkpoints: CheckpointStore) -> int:
    """Starts the workers, trains, and exports the model."""
    from unigrpo.distributed import placement  # noqa: PLC0415  # loads OpenRLHF: seconds that --help need not wait

    folder = Path(config.run_dir)
    with contextlib.closing(placement.start_stage(config)) as groups:
        trainer = StageTrainer(
            config, workers=groups.workers, validation_prompts=inputs.validation_prompts, checkpoints=checkpoints
        )
        first_step = trainer.resume() if config.ckpt.load_enable else 0
        with contextlib.closing(DenoisingRunDirectory(config, first_step)) as output:
            summary = trainer.fit(output)
            trainer.export(folder / "policy")
            output.summary(summary)
    sys.stdout.write(f"\n{summary_table(summary)}\n")
    sys.stdout.write(f"model:      {folder / 'policy'}\nvalidation: {folder / 'validation'}\n")
    return 0


def with_absolute_paths(config: StageConfig) -> StageConfig:
    """The config with every path below the user's folder made absolute; other names stay as they are."""
    user = UserPaths()

    def source(one: SourceConfig) -> SourceConfig:
        captions = replace(one.captions, questions=user.resolve_input(one.captions.questions))
        if captions.path:
            captions = replace(captions, path=str(user.base / Path(captions.path).expanduser()))
        return replace(
            one,
            path=",".join(_source_path(user, part) for part in split_paths(one.path)),
            image_folder=user.resolve_input(one.image_folder),
            index_folder=user.resolve_output(one.index_folder),
            captions=captions,
        )

    def modality(one: ModalityConfig) -> ModalityConfig:
        return replace(one, sources={name: source(s) for name, s in one.sources.items()})

    modalities: dict[str, Any] = {name: modality(getattr(config, name)) for name in MODALITIES}
    held_out: dict[str, Any] = {name: modality(getattr(config.validation, name)) for name in MODALITIES}
    return replace(
        config,
        run_dir=user.resolve_output(config.run_dir),
        actor=replace(config.actor, model_name_or_path=user.resolve_input(config.actor.model_name_or_path)),
        image=replace(config.image, tokenizer=user.resolve_input(config.image.tokenizer)),
        validation=replace(config.validation, prompts=user.resolve_inputs(config.validation.prompts), **held_out),
        ckpt=replace(config.ckpt, path=user.resolve_output(config.ckpt.path)),
        **modalities,
    )


def _source_path(user: UserPaths, path: str) -> str:
    """A path of a source, or the name of a data set on the Hub, which has no star, brace or known ending."""
    absolute = user.base / Path(path).expanduser()
    is_file = (
        any(letter in path for letter in "*?[{")
        or is_table_name(path)
        or absolute.suffix == ".tar"
        or absolute.exists()
    )
    return str(absolute) if is_file else path
