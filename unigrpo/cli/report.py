"""Draws the report of a run folder: python -m unigrpo.cli.report RUN."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from unigrpo.cli.arguments import main
from unigrpo.runs.report import write_report


def run(arguments: Sequence[str]) -> int:
    """The command. Returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m unigrpo.cli.report", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run, finished or not")
    folder = parser.parse_args(list(arguments)).run
    sys.stdout.write(f"{write_report(folder)}\n")
    return 0


if __name__ == "__main__":
    main(run)
