"""Train a masked-diffusion policy with UniGRPO on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence

from unigrpo.cli.training_flags import parse_run
from unigrpo.config import RunConfig
from unigrpo.config.parsing import run_parser


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo train``. Returns the exit status."""
    parser = run_parser("unigrpo train", __doc__ or "", RunConfig)
    parsed, config = parse_run(parser, arguments, RunConfig)
    if parsed.check_settings:
        return 0
    from unigrpo.cli.training import UniGRPOJob, run_training  # noqa: PLC0415  # loads torch and Ray, which --help need not

    return run_training(UniGRPOJob(config), is_dry_run=parsed.dry_run, gpu=parsed.gpu, mfu=parsed.mfu)
