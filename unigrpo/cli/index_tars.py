"""Store the positions of the samples in webdataset tars with many processes, so that a stage starts faster."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from unigrpo import ConfigError

HELP = """\
Set index_folder of the source to the same folder. A tar that has not changed is not read again. Without these
positions, a stage reads the headers of all tars at its start in one process, while its GPUs wait."""


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo index-tars``. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="unigrpo index-tars", description=__doc__, epilog=HELP)
    parser.add_argument("tars", help="pattern of the tars with braces and stars; commas separate several patterns")
    parser.add_argument(
        "--index_folder", required=True, metavar="FOLDER", help="folder to which the positions are written"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="number of processes (default: %(default)s)"
    )
    given = parser.parse_args(list(arguments))
    if given.workers < 1:
        raise ConfigError(f"--workers is {given.workers}; use at least 1")
    from unigrpo.data.corpora.tars import index_tars  # noqa: PLC0415  # loads torch, which --help need not
    from unigrpo.data.files import expand_paths  # noqa: PLC0415

    paths = expand_paths(given.tars, "webdataset tars")
    number = 0
    for done, size in enumerate(index_tars(paths, given.index_folder, given.workers), start=1):
        number += size
        if done % 100 == 0 or done == len(paths):
            sys.stdout.write(f"{done} of {len(paths)} tars, {number:,} samples\n")
            sys.stdout.flush()
    return 0
