"""Executes the notebooks of this folder again and stores what their cells print and show.

Usage: python examples/notebooks/execute.py [NOTEBOOK ...]

The cells run in this process, as in the tests, so that Jupyter is not needed. A cell's output is its printed text and
the value of its last line, which may be an image of Pillow.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

FOLDER = Path(__file__).resolve().parent
NAME = "notebook"
"""File name of the cells in tracebacks."""


def execute(notebook: dict[str, Any]) -> dict[str, Any]:
    """Runs the cells of a notebook one after the other.

    Args:
        notebook: The notebook in format 4.

    Returns:
        The notebook with the outputs of this run.
    """
    variables: dict[str, Any] = {"__name__": "__main__"}
    cells: list[dict[str, Any]] = []
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            outputs = run_cell("".join(cell["source"]), variables, count)
            cell = {**cell, "execution_count": count, "outputs": outputs}
        cells.append(cell)
    return {**notebook, "cells": cells}


def run_cell(source: str, variables: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Runs a cell.

    Args:
        source: The code.
        variables: Variables of the notebook, which the cell reads and changes.
        count: Number of the cell.

    Returns:
        Its outputs in format 4.
    """
    tree = ast.parse(source, NAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, NAME, "exec"), variables)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), NAME, "eval"), variables)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": text})
    if value is not None:
        shown = {"data": data_of(value), "execution_count": count, "metadata": {}, "output_type": "execute_result"}
        outputs.append(shown)
    return outputs


def data_of(value: Any) -> dict[str, Any]:
    """Returns a value as the output of a notebook: an image as PNG, anything else as text."""
    if not isinstance(value, Image.Image):
        return {"text/plain": repr(value).splitlines(keepends=True)}
    buffer = io.BytesIO()
    value.save(buffer, "PNG")
    # Repr would contain its address.
    text = f"<PIL.Image.Image image mode={value.mode} size={value.width}x{value.height}>"
    return {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": [text]}


def main(arguments: Sequence[str]) -> None:
    """Executes the given notebooks, or all of this folder."""
    files = [Path(name).resolve() for name in arguments] or sorted(FOLDER.glob("*.ipynb"))
    os.chdir(FOLDER)
    for file in files:
        executed = execute(json.loads(file.read_text()))
        file.write_text(json.dumps(executed, indent=1, ensure_ascii=False) + "\n")
        print("executed", file.name)


if __name__ == "__main__":
    main(sys.argv[1:])
