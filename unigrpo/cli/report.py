"""Write the report of a run directory again, also while the run is going on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from unigrpo.cli.main import run_old_name


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo report``. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="unigrpo report", description=__doc__)
    parser.add_argument("run", type=Path, help="run directory, finished or not")
    folder = parser.parse_args(list(arguments)).run
    from unigrpo.runs.report import write_report  # noqa: PLC0415  # loads torch, which --help need not

    sys.stdout.write(f"{write_report(folder)}\n")
    return 0


if __name__ == "__main__":
    run_old_name("unigrpo.cli.report", "report")
