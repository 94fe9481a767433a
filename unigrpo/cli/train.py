"""Train a masked-diffusion policy with UniGRPO on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence

from unigrpo.cli.paths import with_absolute_paths
from unigrpo.cli.training_flags import add_plan_arguments, require_config_file
from unigrpo.config import RunConfig
from unigrpo.config.parsing import config_from_args, parse, run_parser
from unigrpo.runs.tracking import check_tracking


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo train``. Returns the exit status."""
    parser = run_parser("unigrpo train", __doc__ or "", RunConfig)
    add_plan_arguments(parser)
    parsed = parse(parser, arguments, RunConfig)
    require_config_file(parsed)
    config = with_absolute_paths(config_from_args(parsed, RunConfig))
    check_tracking(config.logger.wandb_project)
    if parsed.check_settings:
        return 0
    from unigrpo.cli.training import UniGRPOJob, run_training  # noqa: PLC0415  # loads torch and Ray, which --help need not

    return run_training(UniGRPOJob(config), is_dry_run=parsed.dry_run, gpu=parsed.gpu, mfu=parsed.mfu)
