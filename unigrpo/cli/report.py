"""Write the report of a run directory again, also during the run, or a page that compares several runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from unigrpo.cli.main import run_old_name


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo report``. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="unigrpo report", description=__doc__)
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="run directory of a run that may still be active"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("comparison.html"), metavar="FILE.html",
        help="page to write for several runs (default: %(default)s)",
    )  # fmt: skip
    given = parser.parse_args(list(arguments))
    from unigrpo.runs.comparison import write_comparison  # noqa: PLC0415  # loads torch, which --help need not
    from unigrpo.runs.report import write_report  # noqa: PLC0415

    page = write_report(given.runs[0]) if len(given.runs) == 1 else write_comparison(given.runs, given.output)
    sys.stdout.write(f"{page}\n")
    return 0


if __name__ == "__main__":
    run_old_name("unigrpo.cli.report", "report")
