"""Compares the library with every golden case of a folder: python tests/conformance.py FOLDER.

It prints one JSON line per case and a summary, and exits with 1 if any case fails. The longest known prefix of the
name of a case selects its check, so a folder may have the same kinds of cases with other seeds, sizes and settings.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # also works if the package is not installed

from conformance_cases import denoising, images, layouts, reinforcement, rewards, text, transformer
from conformance_cases.case import Case, load_cases

FAMILIES = (transformer, text, images, layouts, denoising, reinforcement, rewards)
CHECKS: dict[str, Callable[[Case], None]] = {
    prefix: check for family in FAMILIES for prefix, check in family.CHECKS.items()
}


def run_case(folder: Path, entry: Mapping[str, Any], cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the result of one case. Any error in the check is a failure of the case."""
    case = Case(folder, entry, cases)
    prefixes = [prefix for prefix in CHECKS if case.name.startswith(prefix)]
    try:
        if not prefixes:
            raise ValueError("no check knows this kind of case")
        CHECKS[max(prefixes, key=len)](case)
        return case.result()
    except Exception as error:
        return case.result(error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with cases.json and the arrays of each case")
    parser.add_argument("--case", default="", help="check only cases whose name starts with this text")
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    try:
        cases = load_cases(arguments.folder)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    counts: Counter[str] = Counter()
    for name, entry in cases.items():
        if name.startswith(arguments.case):
            line = run_case(arguments.folder, entry, cases)
            counts[line["status"]] += 1
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    summary = {status: counts[status] for status in ("pass", "fail", "not_applicable")}
    sys.stdout.write(json.dumps({"summary": {"cases": sum(counts.values()), **summary}}) + "\n")
    return 1 if counts["fail"] or not sum(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
