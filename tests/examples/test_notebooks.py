"""Tests that the notebooks run and have the outputs of such a run."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from builders import load_script
from PIL import Image

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "notebooks"


EXECUTE = load_script(FOLDER / "execute.py")


def outputs(notebook: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    """Returns the kind of each output of each code cell."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [[(one["output_type"], *sorted(one.get("data", ()))) for one in cell["outputs"]] for cell in cells]


@pytest.mark.parametrize("name", ["sample", "one_step"])
def test_a_notebook_runs_and_has_the_outputs_of_a_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)  # the folder in which Jupyter starts it
    stored = json.loads((FOLDER / f"{name}.ipynb").read_text())
    counts = [cell["execution_count"] for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run python examples/notebooks/execute.py"
    executed = EXECUTE.execute(stored)
    assert outputs(executed) == outputs(stored)
    assert all(outputs(stored)), "a cell has no output"
    if name == "sample":
        shown = [
            one["data"]["image/png"] for cell in executed["cells"] for one in cell.get("outputs", ()) if "data" in one
        ]
        sizes = [Image.open(io.BytesIO(base64.b64decode(png))).size for png in shown]
        assert sizes == [(9 * 128, 128), (6 * 64, 2 * 64)]
    else:
        text = "".join(executed["cells"][-2]["outputs"][0]["text"])
        above, below = map(float, re.findall(r": ([+-]\d\.\d+) nats", text))
        assert above > below, "an update makes better responses more likely than worse ones"


def test_a_cell_shows_what_it_prints_and_its_last_value() -> None:
    variables: dict[str, Any] = {}
    assert EXECUTE.run_cell("x = 2", variables, 1) == []
    printed, value = EXECUTE.run_cell("print('a')\nprint('b')\n[x, x + 1]", variables, 2)
    assert printed == {"name": "stdout", "output_type": "stream", "text": ["a\n", "b\n"]}
    assert value["data"] == {"text/plain": ["[2, 3]"]}
    assert EXECUTE.run_cell("print(x)", variables, 3)[1:] == [], "the value None is not shown"
    with pytest.raises(ZeroDivisionError):
        EXECUTE.run_cell("1 / 0", variables, 4)
