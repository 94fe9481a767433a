"""What each stage is for: one row per checkpoint, one column per task, from the results of unigrpo.cli.evaluate.

python examples/tiny/stage_table.py runs/tiny_world/evaluation/results.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from three_seeds import SHOWN

COLUMNS = {**SHOWN, "thinking, then drawing": "shape_match_{}/r2i"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.json of unigrpo.cli.evaluate")
    print(table(json.loads(parser.parse_args().results.read_text())["models"]))


def table(models: dict[str, dict[str, Any]]) -> str:
    """Markdown: sampled as in training, and the most likely answer in brackets."""
    rows = [["after", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    for folder, metrics in models.items():
        names = {kind: [name.format(kind) for name in COLUMNS.values()] for kind in ("sampled", "greedy")}
        values = zip(*([metrics[name] for name in names[kind]] for kind in names), strict=True)
        path = Path(folder)
        rows.append(
            [(path.parent if path.name == "policy" else path).name, *(f"{s:.2f} ({g:.2f})" for s, g in values)]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    main()
