"""Small data sets for the Hub of `hub_server.py`."""

from __future__ import annotations

import io

import datasets
import pyarrow
from PIL import Image
from pyarrow import parquet

CARD = b"""---
license: mit
configs:
- config_name: main
  data_files:
  - {split: train, path: "main/train-*"}
  - {split: test, path: "main/test-*"}
- config_name: socratic
  data_files:
  - {split: train, path: "socratic/train-*"}
---
# Questions
"""


def table(rows: list[dict[str, str]]) -> bytes:
    content = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), content)
    return content.getvalue()


def sums() -> dict[str, bytes]:
    """Returns a data set with the files and columns of GSM8K."""
    rows = [{"question": f"What is {i}+1?", "answer": f"One more than {i}.\n#### {i + 1}"} for i in range(6)]
    names = ("main/train-00000-of-00001", "main/test-00000-of-00001", "socratic/train-00000-of-00001")
    return {"README.md": CARD} | {f"{name}.parquet": table(rows[i:]) for i, name in enumerate(names)}


def shapes() -> dict[str, bytes]:
    """A set with embedded images and without a README."""
    rows = []
    for red in (0, 255):
        content = io.BytesIO()
        Image.new("RGB", (16, 16), (red, 0, 0)).save(content, "PNG")
        rows.append({"images": [{"bytes": content.getvalue(), "path": None}], "problem": "<image>Red?", "answer": "1"})
    features = {"images": datasets.List(datasets.Image()), "problem": datasets.Value("string")}
    features["answer"] = datasets.Value("string")
    content = io.BytesIO()
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).to_parquet(content)
    return {"data/train-00000-of-00001.parquet": content.getvalue()}
