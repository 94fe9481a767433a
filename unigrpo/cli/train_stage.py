"""Pretrain a masked-diffusion model, or fine-tune it on chains of thought, on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unigrpo import ConfigError
from unigrpo.cli.paths import UserPaths
from unigrpo.cli.training_flags import parse_run
from unigrpo.config.denoising import StageConfig
from unigrpo.config.parsing import run_parser


def pretrain(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo pretrain``. Returns the exit status."""
    return _run("unigrpo pretrain", "Pretrain a model on captions, images and text (stages 1.1 to 1.3).", arguments)


def mixcot(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo mixcot``. Returns the exit status."""
    return _run("unigrpo mixcot", "Fine-tune a model on long chains of thought (stages 2.1 and 2.2).", arguments)


def _run(program: str, description: str, arguments: Sequence[str]) -> int:
    parser = run_parser(program, description, StageConfig)
    parser.add_argument(
        "--init_from", default="", help="run directory of a finished stage, from whose model this stage starts"
    )
    parsed, config = parse_run(parser, arguments, StageConfig)
    if parsed.check_settings:
        return 0
    if parsed.init_from:
        config = initial_checkpoint(config, Path(UserPaths().resolve_input(parsed.init_from)))
    from unigrpo.cli.training import DenoisingJob, run_training  # noqa: PLC0415  # loads torch and Ray, which --help need not

    return run_training(DenoisingJob(config), is_dry_run=parsed.dry_run, gpu=parsed.gpu, mfu=parsed.mfu)


def initial_checkpoint(config: StageConfig, run: Path) -> StageConfig:
    """Returns the config with the policy of a finished run as the checkpoint that the stage starts from.

    Raises:
        ValueError: The run is not finished.
    """
    if not (run / "summary.json").exists():
        raise ConfigError(
            f"--init_from {run}: this is no finished run (it has no summary.json); name the run directory of a stage"
        )
    policy = run / "policy"
    tokenizer = config.image.tokenizer
    if not tokenizer and (policy / "image_tokenizer").is_dir():
        tokenizer = str(policy / "image_tokenizer")
    return replace(
        config,
        actor=replace(config.actor, model_name_or_path=str(policy)),
        image=replace(config.image, tokenizer=tokenizer),
    )
