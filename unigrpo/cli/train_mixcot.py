"""Fine-tunes a pretrained model on chains of thought of all tasks (stages 2.1 and 2.2) on the Ray cluster at hand."""

from __future__ import annotations

from collections.abc import Sequence

from unigrpo.cli.arguments import main
from unigrpo.cli.train_stage import run_stage


def run(arguments: Sequence[str]) -> int:
    """The command. Returns its exit status."""
    return run_stage("unigrpo.cli.train_mixcot", __doc__ or "", arguments)


if __name__ == "__main__":
    main(run)
