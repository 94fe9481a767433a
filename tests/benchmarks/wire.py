"""Compares the bytes through the driver and Ray's overhead in a step of this checkout with those of an older commit.

python tests/benchmarks/wire.py [--baseline COMMIT]

The workers compute nothing: they return the same 384 samples with images, and zeros as log-probabilities. The results
are therefore the costs of the driver and of Ray. Both checkouts run ``wire_step.py`` in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from measure import row, write
from trees import BASELINE, ROOT, checked_out, environment

LEAST_BYTES_RATIO = 3.0
LEAST_OVERHEAD_RATIO = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baseline", default=BASELINE, help="Commit to compare with.")
    parser.add_argument("--image_size", type=int, default=256, help="Height and width of the images, in pixels.")
    parser.add_argument("--rounds", type=int, default=3, help="Number of runs of each checkout.")
    flags = parser.parse_args()
    with checked_out(flags.baseline) as old:
        runs: dict[str, list[dict[str, Any]]] = {"baseline": [], "ours": []}
        for _ in range(flags.rounds):
            for name, checkout in (("baseline", old), ("ours", ROOT)):
                runs[name].append(measured(checkout, flags.image_size))
    before, after = ({key: median(of, key) for key in of[0]} for of in runs.values())
    what = f"384 samples with images of {flags.image_size} pixels"
    rows = [
        row(f"through the driver, {what}", before["megabytes"], after["megabytes"], "MB", LEAST_BYTES_RATIO),
        row(
            f"a step whose workers compute nothing, {what}",
            before["seconds"], after["seconds"], "s", LEAST_OVERHEAD_RATIO,
        ),
        row(f"CPU time of the driver in a step, {what}", before["driver_cpu"], after["driver_cpu"], "s"),
    ]  # fmt: skip
    write("wire", rows, baseline_commit=flags.baseline, runs=runs)


def measured(checkout: Path, image_size: int) -> dict[str, Any]:
    """Runs some steps in a checkout. Returns megabytes and seconds of a step."""
    script = Path(__file__).with_name("wire_step.py")
    command = [sys.executable, str(script), str(image_size)]
    done = subprocess.run(
        command, cwd=checkout, env=environment(checkout), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{script.name} failed in {checkout}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


if __name__ == "__main__":
    main()
